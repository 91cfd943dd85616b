//! A client's TCP stream, which closes with a reset when its connection was cut off: wherever it ended up by then (TLS, HTTP,
//! a tunnel), nothing lingers in retransmissions. What its peer does not take is noticed here, below what TLS holds back.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

use crate::proxy::presence::Presence;

/// A client's TCP stream.
pub struct Wire {
    tcp: TcpStream,
    presence: Arc<Presence>,
}

impl Wire {
    /// The stream of the connection of `presence`.
    pub fn new(tcp: TcpStream, presence: &Arc<Presence>) -> Self {
        Wire { tcp, presence: Arc::clone(presence) }
    }

    /// The stream itself.
    pub fn tcp(&self) -> &TcpStream {
        &self.tcp
    }
}

impl Drop for Wire {
    fn drop(&mut self) {
        if self.presence.resets() {
            reset_on_close(&self.tcp);
        }
    }
}

/// Makes the close of `tcp` a reset: nothing of it is kept, in TIME_WAIT or in retransmissions.
pub fn reset_on_close(tcp: &TcpStream) {
    // A socket that refuses is closed all the same.
    let _ = socket2::SockRef::from(tcp).set_linger(Some(Duration::ZERO));
}

impl AsyncRead for Wire {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.tcp).poll_read(cx, buf)
    }
}

impl AsyncWrite for Wire {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.tcp).poll_write(cx, buf);
        self.presence.stalled(written.is_pending());
        written
    }
    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.tcp).poll_write_vectored(cx, bufs);
        self.presence.stalled(written.is_pending());
        written
    }
    fn is_write_vectored(&self) -> bool {
        self.tcp.is_write_vectored()
    }
    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.tcp).poll_flush(cx)
    }
    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.presence.is_parting() {
            return Poll::Ready(Ok(()));
        }
        Pin::new(&mut self.tcp).poll_shutdown(cx)
    }
}
