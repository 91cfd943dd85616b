//! Upstream connections that carry many streams (RFC 9113), for services of protocol `grpc` and `grpcs`: a worker's own,
//! opened when the ones that are there are full. hyper speaks the protocol. It must not know routes or plugins.

use std::cell::{Cell, RefCell};
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::time::Duration;

use http_body::Body;
use hyper::body::Incoming;
use hyper::client::conn::http2::{Builder, Connection, SendRequest};
use hyper_util::rt::TokioIo;
use rustc_hash::FxHashMap;
use tokio::time::Instant;

use super::h1::BoxError;
use super::transport::{self, Endpoint, TlsClients, Transport};

/// Streams of one connection at most; an upstream that allows fewer gets fewer.
const STREAMS_MAX: usize = 100;
/// Connections of one endpoint at most.
const CONNECTIONS_MAX: usize = 64;
/// Streams on a connection whose peer has not said yet how many it allows (RFC 9113 §3.4: it does so first of all), and how
/// long that is waited for.
const STREAMS_UNTOLD: usize = 1;
const SETTINGS_WITHIN: Duration = Duration::from_millis(100);
/// Requests on one connection at most (Kong `upstream_keepalive_max_requests`).
const SERVED_MAX: u64 = 10_000;
/// How long a connection may carry nothing (Kong `upstream_keepalive_idle_timeout`).
const IDLE_NS: u64 = 60_000_000_000;
/// Bytes that an upstream may send ahead on a stream.
const STREAM_WINDOW: u32 = 64 * 1024;
/// The same for all streams of a connection: clients that read nothing must not stop the others.
const CONNECTION_WINDOW: u32 = STREAM_WINDOW * STREAMS_MAX as u32;
/// Bytes of a response's head or trailers at most.
const HEAD_MAX: u32 = 64 * 1024;

struct Link<B> {
    sender: SendRequest<B>,
    /// Streams that the upstream allows now; the connection's task keeps it.
    allowed: Rc<Cell<usize>>,
    streams: Cell<usize>,
    served: Cell<u64>,
    since_ns: Cell<u64>,
    /// Something went unanswered on it: the peer may be gone without a word.
    doubtful: Cell<bool>,
}

impl<B> Link<B> {
    fn is_spent(&self) -> bool {
        self.doubtful.get() || self.served.get() >= SERVED_MAX || self.sender.is_closed()
    }

    fn has_room(&self) -> bool {
        !self.is_spent() && self.streams.get() < self.allowed.get().clamp(1, STREAMS_MAX)
    }
}

struct Lane<B> {
    links: RefCell<Vec<Rc<Link<B>>>>,
    /// Whoever needs a new connection waits for the one that is being opened: it may have room.
    opening: tokio::sync::Mutex<()>,
}

impl<B> Lane<B> {
    fn stream(&self, now_ns: u64) -> Option<Stream<B>> {
        let mut links = self.links.borrow_mut();
        // A spent one lives on with the streams that it carries.
        links.retain(|link| !link.is_spent());
        links.iter().find(|link| link.has_room()).map(|link| Stream::begin(link, now_ns))
    }

    fn is_full(&self) -> bool {
        self.links.borrow().len() >= CONNECTIONS_MAX
    }
}

/// A worker's connections.
pub struct Pool<B>(RefCell<FxHashMap<Endpoint, Rc<Lane<B>>>>);

impl<B> Default for Pool<B> {
    fn default() -> Self {
        Pool(RefCell::default())
    }
}

impl<B> Pool<B>
where
    B: Body + Unpin + 'static,
    B::Data: Send,
    B::Error: Into<BoxError>,
{
    /// A place on a connection to `endpoint`, which is opened if there is none with room. Has no time limit of its own.
    ///
    /// # Errors
    /// The system's or the handshake's.
    pub async fn stream(&self, endpoint: &Endpoint, clients: &TlsClients, now_ns: u64) -> io::Result<Stream<B>> {
        let lane = self.lane(endpoint);
        if let Some(stream) = lane.stream(now_ns) {
            return Ok(stream);
        }
        let _turn = lane.opening.lock().await;
        if let Some(stream) = lane.stream(now_ns) {
            return Ok(stream);
        }
        if lane.is_full() {
            return Err(io::Error::other("as many connections as one worker may have are full"));
        }
        let link = open(endpoint, clients, now_ns).await?;
        lane.links.borrow_mut().push(Rc::clone(&link));
        Ok(Stream::begin(&link, now_ns))
    }

    /// Closes what has carried nothing for too long.
    pub fn sweep(&self, now_ns: u64) {
        self.0.borrow_mut().retain(|_, lane| {
            let mut links = lane.links.borrow_mut();
            let idle =
                |link: &Link<B>| link.streams.get() == 0 && now_ns.saturating_sub(link.since_ns.get()) >= IDLE_NS;
            links.retain(|link| !link.is_spent() && !idle(link));
            !links.is_empty() || Rc::strong_count(lane) > 1
        });
    }

    /// Number of connections that carry nothing.
    #[must_use]
    pub fn idle(&self) -> usize {
        let lanes = self.0.borrow();
        lanes.values().map(|lane| lane.links.borrow().iter().filter(|link| link.streams.get() == 0).count()).sum()
    }

    fn lane(&self, endpoint: &Endpoint) -> Rc<Lane<B>> {
        let mut lanes = self.0.borrow_mut();
        if let Some(lane) = lanes.get(endpoint) {
            return Rc::clone(lane);
        }
        let lane = Lane { links: RefCell::default(), opening: tokio::sync::Mutex::new(()) };
        Rc::clone(lanes.entry(endpoint.clone()).or_insert_with(|| Rc::new(lane)))
    }
}

async fn open<B>(endpoint: &Endpoint, clients: &TlsClients, now_ns: u64) -> io::Result<Rc<Link<B>>>
where
    B: Body + Unpin + 'static,
    B::Data: Send,
    B::Error: Into<BoxError>,
{
    let stream = transport::open_h2(endpoint, clients).await?;
    let handshake = Builder::new(OnThisThread)
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_header_list_size(HEAD_MAX)
        .initial_max_send_streams(STREAMS_UNTOLD)
        .handshake(TokioIo::new(stream));
    let (sender, connection) = handshake.await.map_err(io::Error::other)?;
    // More streams than the peer allows would be refused, with bodies that cannot be sent again. hyper says nothing when the
    // answer is there. A peer that stays silent gets one stream after the other.
    let due = Instant::now() + SETTINGS_WITHIN;
    while connection.current_max_send_streams() == STREAMS_UNTOLD && Instant::now() < due {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    let allowed = Rc::new(Cell::new(connection.current_max_send_streams()));
    tokio::task::spawn_local(Driver { connection, allowed: Rc::clone(&allowed) });
    let (streams, served, since_ns) = (Cell::new(0), Cell::new(0), Cell::new(now_ns));
    Ok(Rc::new(Link { sender, allowed, streams, served, since_ns, doubtful: Cell::new(false) }))
}

/// The task of a connection: it ends when the connection does, or with the last sender.
struct Driver<B>
where
    B: Body + Unpin + 'static,
    B::Data: Send,
    B::Error: Into<BoxError>,
{
    connection: Connection<TokioIo<Transport>, B, OnThisThread>,
    allowed: Rc<Cell<usize>>,
}

impl<B> Future for Driver<B>
where
    B: Body + Unpin + 'static,
    B::Data: Send,
    B::Error: Into<BoxError>,
{
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut std::task::Context<'_>) -> std::task::Poll<()> {
        let end = Pin::new(&mut self.connection).poll(cx);
        self.allowed.set(self.connection.current_max_send_streams());
        // What broke the connection is told to each of its streams.
        end.map(drop)
    }
}

/// Runs hyper's tasks on the worker's own thread.
#[derive(Clone)]
struct OnThisThread;

impl<F: Future + 'static> hyper::rt::Executor<F> for OnThisThread
where
    F::Output: 'static,
{
    fn execute(&self, future: F) {
        tokio::task::spawn_local(future);
    }
}

/// A place on a connection, taken until this is dropped.
pub struct Stream<B>(Rc<Link<B>>);

impl<B> Stream<B> {
    fn begin(link: &Rc<Link<B>>, now_ns: u64) -> Self {
        link.streams.set(link.streams.get() + 1);
        link.served.set(link.served.get() + 1);
        link.since_ns.set(now_ns);
        Stream(Rc::clone(link))
    }

    /// Says that an answer did not come in time: the connection gets no more requests.
    pub fn doubt(&self) {
        self.0.doubtful.set(true);
    }
}

impl<B: Body + 'static> Stream<B> {
    /// Sends a request and waits for the head of its answer.
    ///
    /// # Errors
    /// Whether the request was never sent, so that another connection may have it.
    pub async fn send(&self, request: http::Request<B>) -> Result<http::Response<Incoming>, Unsent> {
        // Cloned, as hyper wants it exclusively; it is a counted handle.
        let mut sender = self.0.sender.clone();
        let sent = sender.try_send_request(request).await;
        sent.map_err(|mut error| Unsent(error.take_message().is_some()))
    }
}

impl<B> Drop for Stream<B> {
    fn drop(&mut self) {
        self.0.streams.set(self.0.streams.get() - 1);
    }
}

/// A request that was not answered: true when it was not sent at all.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Unsent(pub bool);
