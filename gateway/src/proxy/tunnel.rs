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
use super::transport::Transport;
use super::worker::Worker;

/// Joins the two sides once hyper has sent the 101. The tunnel counts as a connection of `worker`, so that a drain waits for
/// it, and ends after a silence of `idle_max` to twice that.
pub fn spawn(worker: Rc<Worker>, client: OnUpgrade, upstream: Upgraded<Transport>, idle_max: Duration) {
    let open = Open::new(worker);
    tokio::task::spawn_local(async move {
        let _open = open;
        if let Ok(client) = client.await {
            join(TokioIo::new(client), upstream, idle_max).await;
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

/// An open tunnel, counted.
struct Open(Rc<Worker>);

impl Open {
    fn new(worker: Rc<Worker>) -> Self {
        worker.connections.set(worker.connections.get() + 1);
        Open(worker)
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.0.connections.set(self.0.connections.get() - 1);
    }
}
