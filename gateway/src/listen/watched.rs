//! A client's stream that tells the connection's `Presence` what happens on it.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::proxy::presence::Presence;

/// Slices of no more than this in sum are written as one: the kernel takes a buffer with less work than a list, bytes.
const GATHERED_BYTES_MAX: usize = 1024;

/// A watched stream.
pub struct Watched<S> {
    /// Bytes that were read before HTTP began.
    early: Bytes,
    stream: S,
    presence: Arc<Presence>,
}

impl<S> Watched<S> {
    /// Watches `stream`; `early` was read from it already and comes first.
    pub fn new(early: Bytes, stream: S, presence: Arc<Presence>) -> Self {
        Watched { early, stream, presence }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Watched<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if !self.early.is_empty() {
            let length = self.early.len().min(buf.remaining());
            buf.put_slice(&self.early.split_to(length));
            self.presence.received();
            return Poll::Ready(Ok(()));
        }
        let before = buf.filled().len();
        let read = Pin::new(&mut self.stream).poll_read(cx, buf);
        if buf.filled().len() > before {
            self.presence.received();
        }
        read
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Watched<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(cx, buf);
        self.presence.stalled(written.is_pending());
        written
    }
    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        if bufs.iter().map(|slice| slice.len()).sum::<usize>() <= GATHERED_BYTES_MAX {
            let mut gathered = [0; GATHERED_BYTES_MAX];
            let mut length = 0;
            for slice in bufs {
                gathered[length..length + slice.len()].copy_from_slice(slice);
                length += slice.len();
            }
            return self.poll_write(cx, &gathered[..length]);
        }
        let written = Pin::new(&mut self.stream).poll_write_vectored(cx, bufs);
        self.presence.stalled(written.is_pending());
        written
    }
    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }
    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
