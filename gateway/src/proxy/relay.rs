//! Bytes between two streams, both ways. It must not know what they mean.

use std::cell::Cell;
use std::io;
use std::pin::{Pin, pin};
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf, copy_bidirectional};

/// Copies both ways until both sides have ended, one breaks, or nothing has moved for `idle_max` to twice that.
pub async fn join<A, B>(client: A, upstream: B, idle_max: Duration)
where
    A: AsyncRead + AsyncWrite + Unpin,
    B: AsyncRead + AsyncWrite + Unpin,
{
    let moved = Cell::new(false);
    let mut client = Noted { stream: client, moved: &moved };
    let mut upstream = Noted { stream: upstream, moved: &moved };
    let mut copy = pin!(copy_bidirectional(&mut client, &mut upstream));
    loop {
        match tokio::time::timeout(idle_max, copy.as_mut()).await {
            Err(_) if moved.replace(false) => {}
            // Either side may end it at any time; there is nobody to tell.
            Ok(_) | Err(_) => return,
        }
    }
}

/// A stream that notes when bytes moved.
struct Noted<'a, S> {
    stream: S,
    moved: &'a Cell<bool>,
}

impl<S: AsyncRead + Unpin> AsyncRead for Noted<'_, S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let read = Pin::new(&mut self.stream).poll_read(cx, buf);
        if buf.filled().len() > before {
            self.moved.set(true);
        }
        read
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Noted<'_, S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(cx, buf);
        if written.is_ready() {
            self.moved.set(true);
        }
        written
    }
    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }
    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
