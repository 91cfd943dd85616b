//! A WebSocket after its handshake: bytes both ways until one side ends, or neither says anything for too long. It must
//! not know frames.

use std::cell::Cell;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Duration;

use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::h1::Upgraded;
use super::transport::Transport;
use super::worker::Seat;

/// Joins the two sides once hyper has sent the 101. `seat` counts the tunnel as the connection that it is.
pub fn spawn(client: OnUpgrade, upstream: Upgraded<Transport>, idle_max: Duration, seat: Seat) {
    tokio::task::spawn_local(async move {
        if let Ok(client) = client.await {
            let moved = Rc::new(Cell::new(0));
            let mut client = Metered { stream: TokioIo::new(client), moved: Rc::clone(&moved) };
            let mut upstream = Metered { stream: upstream, moved: Rc::clone(&moved) };
            // Either side may end it at any time; there is nobody to tell.
            tokio::select! {
                _ = tokio::io::copy_bidirectional(&mut client, &mut upstream) => {}
                () = silence(&moved, idle_max) => {}
            }
        }
        drop(seat);
    });
}

/// Ends when nothing was moved between two looks.
async fn silence(moved: &Cell<u64>, idle_max: Duration) {
    loop {
        let before = moved.get();
        tokio::time::sleep(idle_max).await;
        if moved.get() == before {
            return;
        }
    }
}

/// Counts the bytes that come.
struct Metered<S> {
    stream: S,
    moved: Rc<Cell<u64>>,
}

impl<S: AsyncRead + Unpin> AsyncRead for Metered<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let read = Pin::new(&mut self.stream).poll_read(cx, buf);
        self.moved.set(self.moved.get() + (buf.filled().len() - before) as u64);
        read
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Metered<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }
    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }
    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
