//! One client connection: TLS if asked, HTTP/1.1 or HTTP/2 as the client offers, and one coarse timer for all its limits.

use std::convert::Infallible;
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use hyper::body::Incoming;
use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsAcceptor;

use super::watched::Watched;
use crate::clock;
use crate::drain::Drained;
use crate::proxy::exchange::Client;
use crate::proxy::path::{self, Origin};
use crate::proxy::presence::{Finding, Presence};
use crate::proxy::worker::Worker;

/// Bytes of a request's head at most; hyper answers 431 beyond it.
const HEAD_MAX: usize = 64 * 1024;
/// Header fields of a request at most.
const FIELDS_MAX: usize = 128;

/// Serves a connection to its end.
pub async fn serve(worker: Rc<Worker>, tcp: TcpStream, peer: SocketAddr, tls: bool, drained: Drained) {
    // Without it small answers wait for acknowledgements.
    let _ = tcp.set_nodelay(true);
    let Ok(local) = tcp.local_addr() else { return };
    let peer = SocketAddr::new(peer.ip().to_canonical(), peer.port());
    let client = Client { peer, ip: peer.ip(), trusted: false, local_port: local.port(), tls };
    let header = worker.local().snapshot.settings.timeouts.header;
    if !tls {
        let Ok(Ok(h2)) = tokio::time::timeout(header, offers_h2(&tcp)).await else { return };
        return http(worker, client, None, tcp, h2, drained).await;
    }
    let Some(config) = worker.local().snapshot.tls.clone() else { return };
    let Ok(Ok(stream)) = tokio::time::timeout(header, TlsAcceptor::from(config).accept(tcp)).await else { return };
    let (_, session) = stream.get_ref();
    let h2 = session.alpn_protocol() == Some(b"h2");
    let sni = session.server_name().map(Rc::from);
    http(worker, client, sni, stream, h2, drained).await;
}

/// Whether a plain connection begins with HTTP/2's preface (RFC 9113 §3.3). No method of HTTP/1 begins with `PRI`.
async fn offers_h2(tcp: &TcpStream) -> io::Result<bool> {
    let mut first = [0; 3];
    loop {
        tcp.readable().await?;
        match tcp.peek(&mut first).await? {
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            n if n == first.len() => return Ok(&first == b"PRI"),
            n if !b"PRI".starts_with(&first[..n]) => return Ok(false),
            // The rest of three bytes is under way, or the client plays: the caller's limit ends it.
            _ => tokio::time::sleep(Duration::from_millis(5)).await,
        }
    }
}

async fn http<S>(worker: Rc<Worker>, client: Client, sni: Option<Rc<str>>, stream: S, h2: bool, drained: Drained)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let presence = Presence::new(clock::monotonic_ns());
    let io = TokioIo::new(Watched::new(stream, Arc::clone(&presence)));
    let service = {
        let (worker, presence) = (Rc::clone(&worker), Arc::clone(&presence));
        service_fn(move |request: hyper::Request<Incoming>| {
            let (started_ns, serving) = presence.enter();
            let origin = Origin { client, sni: sni.clone(), started_ns, serving };
            let worker = Rc::clone(&worker);
            async move { Ok::<_, Infallible>(path::serve(worker, origin, request).await) }
        })
    };
    if h2 {
        let connection = http2::Builder::new(OnThisThread)
            .max_concurrent_streams(100)
            .initial_stream_window_size(64 * 1024)
            .initial_connection_window_size(1024 * 1024)
            .max_header_list_size(HEAD_MAX as u32)
            .max_pending_accept_reset_streams(20)
            .max_local_error_reset_streams(100)
            .max_send_buf_size(64 * 1024)
            .serve_connection(io, service);
        let connection = pin!(connection);
        drive(&worker, connection, http2::Connection::graceful_shutdown, &presence, drained).await;
    } else {
        let connection = http1::Builder::new()
            .max_buf_size(HEAD_MAX)
            .max_headers(FIELDS_MAX)
            .header_read_timeout(None)
            .serve_connection(io, service)
            .with_upgrades();
        let connection = pin!(connection);
        drive(&worker, connection, http1::UpgradeableConnection::graceful_shutdown, &presence, drained).await;
    }
}

/// Polls a connection until it ends, is overdue, or has drained.
async fn drive<C: Future>(
    worker: &Worker,
    mut connection: Pin<&mut C>,
    finish: impl Fn(Pin<&mut C>),
    presence: &Presence,
    mut drained: Drained,
) {
    let timeouts = worker.local().snapshot.settings.timeouts;
    let mut timer = pin!(tokio::time::sleep(timeouts.header.min(timeouts.idle)));
    let mut finishing = false;
    loop {
        tokio::select! {
            biased;
            _ = connection.as_mut() => return,
            () = drained.wait(), if !finishing => {
                finishing = true;
                finish(connection.as_mut());
            }
            () = timer.as_mut() => match presence.judge(clock::monotonic_ns(), timeouts.header, timeouts.idle) {
                Finding::Fine(left) => timer.as_mut().reset(tokio::time::Instant::now() + left),
                Finding::Overdue => return,
            },
        }
    }
}

/// Runs hyper's streams on the worker's own thread.
#[derive(Clone, Copy)]
struct OnThisThread;

impl<F: Future + 'static> hyper::rt::Executor<F> for OnThisThread
where
    F::Output: 'static,
{
    fn execute(&self, future: F) {
        tokio::task::spawn_local(future);
    }
}
