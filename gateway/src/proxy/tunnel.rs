//! A WebSocket after its handshake: bytes both ways until one side ends or both are silent for too long. It must not know
//! frames.

use std::cell::Cell;
use std::io;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Duration;

use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf, copy_bidirectional};

use super::h1::Upgraded;
use super::registry::{Order, Registered};
use super::transport::Transport;
use super::worker::Seat;

/// Joins the two sides once hyper has sent the 101. `seat` counts the tunnel as the connection that it is, so that a drain
/// waits for it; it ends when its connection is cut, or after a silence of `idle_max` to twice that.
pub fn spawn(
    seat: Seat,
    connection: Rc<Registered>,
    client: OnUpgrade,
    upstream: Upgraded<Transport>,
    idle_max: Duration,
) {
    tokio::task::spawn_local(async move {
        let _seat = seat;
        if let Ok(client) = client.await {
            connection.entry.presence.carry();
            let joined = join(TokioIo::new(client), upstream, idle_max);
            connection.entry.until(Order::Cut, joined).await;
        }
    });
}

async fn join<A, B>(client: A, upstream: B, idle_max: Duration)
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
