//! One HTTP/1.1 connection to an upstream: what it keeps between exchanges, and one exchange's hold on it. It must not
//! know who pools it.

use std::pin::Pin;
use std::task::{Context, Poll, Waker, ready};

use bytes::Bytes;
use http::Method;
use http_body::Body;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::buffer::ReadBuffer;
use super::encode::RequestHead;
use super::exchange::Exchange;
use super::failure::{BoxError, Failure, Reason};
use super::send::Sender;

/// Bounds on what an upstream may send beside bodies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Response head, interim heads before it included, bytes.
    pub head_bytes_max: usize,
    /// Trailers of a chunked response, bytes.
    pub trailer_bytes_max: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self { head_bytes_max: 64 * 1024, trailer_bytes_max: 16 * 1024 }
    }
}

/// Where a connection goes when its response ended cleanly and it may serve again. Dropped unused when the connection
/// is closed instead. Every `FnOnce(Connection<S>)` is one.
pub trait Home<S> {
    /// Takes the idle connection back.
    fn take_back(self, connection: Connection<S>);
}

impl<S, F: FnOnce(Connection<S>)> Home<S> for F {
    fn take_back(self, connection: Connection<S>) {
        self(connection);
    }
}

/// An idle connection. It holds no buffer. Large transports (TLS) are better boxed: the value is moved a few times.
#[derive(Debug)]
pub struct Connection<S> {
    pub(super) io: S,
    pub(super) read: ReadBuffer,
    pub(super) limits: Limits,
    /// Bytes of the current request that the transport took.
    pub(super) sent: u64,
    served: u64,
}

impl<S> Connection<S> {
    /// A fresh connection over a connected transport.
    pub fn new(io: S, limits: Limits) -> Self {
        Self { io, read: ReadBuffer::default(), limits, sent: 0, served: 0 }
    }

    /// Responses that this connection has delivered.
    pub fn served(&self) -> u64 {
        self.served
    }

    /// The transport, for addresses and socket options.
    pub fn transport(&self) -> &S {
        &self.io
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> Connection<S> {
    /// Whether an idle connection can no longer be used: the peer closed it, it failed, or bytes came that no request
    /// asked for. Polls once without waiting; costs no system call unless the reactor saw an event. A close that the
    /// reactor has not seen yet shows up as a [`Failure`] with [`Failure::may_retry`].
    pub fn is_stale(&mut self) -> bool {
        let mut byte = [0u8; 1];
        let mut cx = Context::from_waker(Waker::noop());
        !self.read.is_empty() || Pin::new(&mut self.io).poll_read(&mut cx, &mut ReadBuf::new(&mut byte)).is_ready()
    }

    /// Sends `head` and `body` and resolves to the response's head. The head is encoded at once, so it is not borrowed
    /// by the future. The body is framed by its `size_hint` (exact: Content-Length; else chunked).
    ///
    /// While the body is being sent an early response is noticed: with status 400 or above sending stops; below,
    /// sending goes on while the response body is polled. Interim responses (at most 16) are skipped.
    ///
    /// # Errors
    /// The future resolves to a [`Failure`]; the connection is closed then, as it is when the future is dropped.
    pub fn exchange<B, H>(mut self, head: &RequestHead<'_>, body: B, home: H) -> Exchange<S, B, H>
    where
        B: Body<Data = Bytes> + Unpin,
        B::Error: Into<BoxError>,
        H: Home<S> + Unpin,
    {
        self.sent = 0;
        let live = Live { connection: self, home, is_sent: false };
        let sender = Sender::new(head, body);
        Exchange::new(live, sender, *head.method == Method::HEAD, head.upgrade.cloned())
    }
}

/// A connection with an exchange under way.
#[derive(Debug)]
pub(super) struct Live<S, H> {
    pub connection: Connection<S>,
    home: H,
    /// The whole request was sent.
    pub is_sent: bool,
}

impl<S, H> Live<S, H> {
    pub fn failure(&self, reason: Reason, answered: bool) -> Failure {
        Failure::new(reason, self.connection.sent, self.connection.served > 0, answered)
    }

    pub fn into_transport(self) -> (S, Bytes) {
        let Connection { io, mut read, .. } = self.connection;
        let early = read.split(u64::MAX);
        read.rest();
        (io, early)
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin, H: Home<S>> Live<S, H> {
    /// One step of sending, as [`Sender::poll_step`]; waits if there is no sender.
    pub fn poll_send<B>(&mut self, sender: Option<&mut Sender<B>>, cx: &mut Context<'_>) -> Poll<Result<bool, Reason>>
    where
        B: Body<Data = Bytes> + Unpin,
        B::Error: Into<BoxError>,
    {
        let Some(sender) = sender else {
            return Poll::Pending;
        };
        let step = ready!(sender.poll_step(&mut self.connection.io, &mut self.connection.sent, cx));
        self.is_sent = matches!(step, Ok(true));
        Poll::Ready(step)
    }

    pub fn poll_fill(&mut self, cx: &mut Context<'_>) -> Poll<std::io::Result<usize>> {
        self.connection.read.poll_fill(&mut self.connection.io, cx)
    }

    /// The response has ended: home if nothing speaks against it, else closed. Bytes behind the response would be
    /// taken for the next one.
    pub fn release(mut self, reusable: bool) {
        if reusable && self.is_sent && self.connection.read.is_empty() {
            self.connection.read.rest();
            self.connection.read = ReadBuffer::default();
            self.connection.served += 1;
            self.home.take_back(self.connection);
        }
    }
}
