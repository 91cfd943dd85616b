//! One client connection: TLS if asked, then HTTP/1.1 or HTTP/2 as the client offers.

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::Poll;

use bytes::{BufMut, Bytes, BytesMut};
use hyper::body::Incoming;
use hyper::server::conn::http2;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use rustls::ServerConnection;
use rustls::server::Acceptor;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::server::TlsStream;
use tokio_rustls::{LazyConfigAcceptor, TlsAcceptor};

use super::messages;
use super::watched::Watched;
use super::wire::Wire;
use crate::clock;
use crate::config::handshake::{Choice, Handshake};
use crate::identity::certificate::Chain;
use crate::proxy::exchange::{Channel, Client};
use crate::proxy::line::{Lines, Severable};
use crate::proxy::path::{self, Origin};
use crate::proxy::presence::Presence;
use crate::proxy::registry::{Entry, Order, Registered};
use crate::proxy::reply::Refusal;
use crate::proxy::report;
use crate::proxy::worker::Worker;

/// The first bytes of HTTP/2's preface.
const PREFACE: &[u8] = b"PRI";
/// Bytes read at first: a request as most are, so that a connection of one request is read once.
const FIRST_BYTES_MAX: usize = 1024;
/// Bytes of a request's head at most; hyper answers 431 beyond it, and beyond its own 100 fields.
pub(super) const HEAD_MAX: usize = 64 * 1024;

/// Whose connection it is.
#[derive(Clone, Copy)]
pub struct Party {
    /// The TCP peer, or the client for which it speaks.
    pub peer: SocketAddr,
    /// The address that it connected to.
    pub local: SocketAddr,
    /// Whether another peer has told so, by the PROXY protocol.
    pub told: bool,
}

/// Serves a connection to its end.
pub async fn serve(worker: Rc<Worker>, tcp: TcpStream, Party { peer, local, told }: Party, tls: bool) {
    let peer = SocketAddr::new(peer.ip().to_canonical(), peer.port());
    let local = SocketAddr::new(local.ip().to_canonical(), local.port());
    let client = Client { peer, ip: peer.ip(), trusted: false, told, local_port: local.port(), tls };
    let presence = Presence::new(clock::monotonic_ns());
    let registered = worker.registry.add(&presence, peer, local);
    let wire = Wire::new(tcp, &presence);
    if !tls {
        let mut wire = wire;
        // There is nothing in flight to finish before HTTP begins.
        let Some(Ok(early)) = registered.entry.until(Order::Finish, first_bytes(&mut wire)).await else { return };
        let h2 = early.starts_with(PREFACE);
        return http(worker, client, channel(client), (early, wire), h2, &registered).await;
    }
    let Some(tls) = worker.local().snapshot.tls.clone() else { return };
    let handshake = Box::pin(accept(&tls, wire, local.port()));
    let Some(Ok(stream)) = registered.entry.until(Order::Finish, handshake).await else { return };
    let (_, session) = stream.get_ref();
    let h2 = session.alpn_protocol() == Some(b"h2");
    let channel = Channel { sni: session.server_name().map(Box::from), certificate: shown(session), ..channel(client) };
    http(worker, client, channel, (Bytes::new(), Box::new(stream)), h2, &registered).await;
}

fn channel(client: Client) -> Channel {
    let (peer, port) = (client.peer.ip().to_string().into(), client.local_port.to_string().into());
    Channel { peer, port, ..Channel::default() }
}

/// The certificate that the client has shown; the handshake has proven that it has the key.
fn shown(session: &ServerConnection) -> Option<Rc<Chain>> {
    let certificates = session.peer_certificates()?;
    let owned = certificates.iter().map(|certificate| certificate.clone().into_owned()).collect();
    Chain::of(owned).map(Rc::new)
}

/// The handshake; the client's name may decide whether it is asked for a certificate.
async fn accept(tls: &Handshake, wire: Wire, port: u16) -> io::Result<TlsStream<Wire>> {
    match tls.choice() {
        Choice::Always(config) => TlsAcceptor::from(Arc::clone(config)).accept(wire).await,
        Choice::ByName => {
            let start = LazyConfigAcceptor::new(Acceptor::default(), wire).await?;
            let config = Arc::clone(tls.of(start.client_hello().server_name(), port));
            start.into_stream(config).await
        }
    }
}

/// The first bytes of a plain connection, enough to tell whether it begins with HTTP/2's preface (RFC 9113 §3.3): no method
/// of HTTP/1 begins with `PRI`.
async fn first_bytes(wire: &mut Wire) -> io::Result<Bytes> {
    let mut first = BytesMut::with_capacity(FIRST_BYTES_MAX);
    while first.len() < PREFACE.len() && PREFACE.starts_with(&first) {
        if wire.read_buf(&mut (&mut first).limit(FIRST_BYTES_MAX)).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    }
    Ok(first.freeze())
}

async fn http<S>(
    worker: Rc<Worker>,
    client: Client,
    channel: Channel,
    (early, stream): (Bytes, S),
    h2: bool,
    registered: &Rc<Registered>,
) where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let presence = &registered.entry.presence;
    if h2 {
        presence.multiplex();
    }
    let channel = Rc::new(channel);
    let service = {
        let (worker, connection) = (Rc::clone(&worker), Rc::clone(registered));
        move |request: hyper::Request<Incoming>| {
            let (started_ns, serving) = connection.entry.presence.enter();
            let (connection, channel) = (Rc::clone(&connection), Rc::clone(&channel));
            let origin = Origin { client, channel, started_ns, serving, connection };
            path::serve(Rc::clone(&worker), origin, request)
        }
    };
    let end = if h2 {
        let io = TokioIo::new(Watched::new(early, stream, Arc::clone(presence)));
        let connection = http2::Builder::new(OnThisThread(Rc::clone(&registered.lines)))
            .max_concurrent_streams(100)
            .initial_stream_window_size(64 * 1024)
            .initial_connection_window_size(1024 * 1024)
            .max_header_list_size(HEAD_MAX as u32)
            .max_pending_accept_reset_streams(20)
            .max_local_error_reset_streams(100)
            .max_send_buf_size(64 * 1024)
            .serve_connection(io, service_fn(service));
        drive(Box::pin(connection).as_mut(), http2::Connection::graceful_shutdown, &registered.entry).await
    } else {
        messages::serve(early, stream, service, &registered.entry).await
    };
    ended(&worker, client, end);
}

/// Counts what ended a connection before its time. What hyper's parser refused never became a request: it is told to the
/// edge here.
fn ended(worker: &Worker, client: Client, end: Option<hyper::Result<()>>) {
    let Some(Err(error)) = end else { return };
    worker.count_ended(fault(&error));
    if error.is_parse_too_large() {
        report::unparsed(worker, client, Refusal::HeadersTooLarge);
    } else if error.is_parse() {
        report::unparsed(worker, client, Refusal::BadRequest);
    }
}

/// The word for what ended a connection before its time.
fn fault(error: &hyper::Error) -> &'static str {
    if error.is_parse_too_large() {
        "head_too_large"
    } else if error.is_parse() {
        "syntax"
    } else if error.is_incomplete_message() {
        "incomplete"
    } else {
        "broken"
    }
}

/// Polls a connection until it ends, or the registry cuts it; then there is nothing to return.
pub(super) async fn drive<C: Future>(
    mut connection: Pin<&mut C>,
    finish: impl Fn(Pin<&mut C>),
    entry: &Entry,
) -> Option<C::Output> {
    let mut finishing = false;
    std::future::poll_fn(|cx| {
        match entry.order(cx.waker()) {
            Order::Go | Order::Rest => {}
            Order::Finish if finishing => {}
            Order::Finish => {
                finishing = true;
                finish(connection.as_mut());
            }
            Order::Cut => return Poll::Ready(None),
        }
        connection.as_mut().poll(cx).map(Some)
    })
    .await
}

/// Runs hyper's streams on the worker's own thread, each as one that can be cut alone.
#[derive(Clone)]
struct OnThisThread(Rc<Lines>);

impl<F: Future + 'static> hyper::rt::Executor<F> for OnThisThread
where
    F::Output: 'static,
{
    fn execute(&self, future: F) {
        tokio::task::spawn_local(Severable::new(future, &self.0));
    }
}
