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

/// Bytes that a connection reads before others have their turn. As small frames they cost the parser some milliseconds;
/// without a bound a flood of them is worked off in one go, while everybody else on the worker waits.
const TURN_BYTES: usize = 64 * 1024;

/// A watched stream.
pub struct Watched<S> {
    /// Bytes that were read before HTTP began.
    early: Bytes,
    stream: S,
    presence: Arc<Presence>,
    /// Bytes left of this turn.
    left: usize,
}

impl<S> Watched<S> {
    /// Watches `stream`; `early` was read from it already and comes first.
    pub fn new(early: Bytes, stream: S, presence: Arc<Presence>) -> Self {
        Watched { early, stream, presence, left: TURN_BYTES }
    }

    /// The stream itself. Nothing may be left of the bytes that came early.
    pub fn into_inner(self) -> S {
        self.stream
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
        if self.left == 0 {
            self.left = TURN_BYTES;
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        let before = buf.filled().len();
        let read = Pin::new(&mut self.stream).poll_read(cx, buf);
        let count = buf.filled().len() - before;
        if count > 0 {
            self.left = self.left.saturating_sub(count);
            self.presence.received();
        }
        read
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Watched<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
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
        Pin::new(&mut self.stream).poll_write_vectored(cx, bufs)
    }
    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }
    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.presence.is_lent() {
            return Poll::Ready(Ok(()));
        }
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
    use std::task::{Wake, Waker};

    use super::*;

    struct Woken(AtomicU32);

    impl Wake for Woken {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Relaxed);
        }
    }

    #[test]
    fn a_flood_gives_others_their_turn() {
        let source = vec![0; 3 * TURN_BYTES];
        let mut stream = Watched::new(Bytes::new(), source.as_slice(), Presence::new(0));
        let woken = Arc::new(Woken(AtomicU32::new(0)));
        let waker = Waker::from(Arc::clone(&woken));
        let mut cx = Context::from_waker(&waker);
        let (mut read, mut pauses) = (0, 0);
        let mut space = [0; 8192];
        while read < source.len() {
            let mut buf = ReadBuf::new(&mut space);
            match Pin::new(&mut stream).poll_read(&mut cx, &mut buf) {
                Poll::Ready(read_now) => read_now.expect("memory does not fail"),
                Poll::Pending => pauses += 1,
            }
            read += buf.filled().len();
        }
        assert_eq!((pauses, woken.0.load(Relaxed)), (2, 2), "each pause wakes its task again");
    }
}
