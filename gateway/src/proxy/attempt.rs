//! Asking an upstream: choose a target, get a connection, send, wait; and again elsewhere while that is harmless and the
//! service allows it.

mod multiplexed;

use std::borrow::Cow;
use std::cell::Cell;
use std::collections::VecDeque;
use std::future::Future;
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::Poll;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderValue, Method};
use http_body::Body;
use http_body_util::BodyExt;

use super::answer::{FromUpstream, Lent, Source};
use super::body::{BodyError, Turn};
use super::exchange::{Exchange, Outcome, Response};
use super::flight::Flight;
use super::forward::Border;
use super::h1::{self, Failure, RequestHead, Side};
use super::path::Answered;
use super::placement::Placement;
use super::reply::{Refusal, Reply};
use super::transport::{self, Berth, Endpoint, Transport};
use super::worker::Worker;
use crate::clock;
use crate::config::snapshot::{Service, Target};
use crate::telemetry::record::Try;
use crate::upstreams::health::Sign;

/// Why an attempt gave nothing.
struct Missed {
    refusal: Refusal,
    /// Whether another attempt cannot do harm.
    again: bool,
}

/// Sends the request to a target of the service at `service`. `stripped` is the length of the path's part that was taken away.
pub async fn send(flight: &mut Flight, service: usize, stripped: usize, upgrade: bool) -> Result<Answered, Box<Reply>> {
    let local = Rc::clone(&flight.local);
    let service_index = service;
    let service = &local.snapshot.services[service];
    let already = flight.taken_bytes;
    let turn = flight.exchange.body.turn();
    let body = Lent::new(std::mem::take(&mut flight.exchange.body));
    let mut now_ns = clock::monotonic_ns();
    flight.asked_ns = Some(now_ns);
    let mut missed = Missed { refusal: Refusal::NoTarget, again: false };
    let mut placement = Placement::new(&mut flight.exchange, service, &local.snapshot.identities);
    for _ in 0..=service.retries {
        let Some(target) = placement.next(flight, service_index, service, now_ns) else {
            missed.refusal = Refusal::NoTarget;
            break;
        };
        let asked = Asked { service, stripped, upgrade, now_ns, turn: turn.as_deref() };
        match try_target(flight, &asked, target, body.clone()).await {
            Ok(answered) => {
                if service.group.is_some() {
                    let answered_ns = clock::monotonic_ns();
                    placement.witness(answered.sign(), Some(answered_ns.saturating_sub(now_ns)), answered_ns);
                }
                flight.taken_bytes = already + body.taken();
                return Ok(answered);
            }
            Err(miss) => {
                if let Some(attempt) = flight.tries.last_mut() {
                    attempt.failed = true;
                }
                missed = miss;
                if let Some(sign) = sign(missed.refusal) {
                    placement.witness(sign, None, now_ns);
                }
                now_ns = clock::monotonic_ns();
            }
        }
        if !missed.again || body.taken() > 0 {
            break;
        }
    }
    flight.taken_bytes = already + body.taken();
    let outcome = match missed.refusal {
        Refusal::UpstreamTimeout | Refusal::UpstreamConnectTimeout => Outcome::TimedOut,
        Refusal::BodyTooLarge | Refusal::BadRequest | Refusal::RequestTimeout => Outcome::Abandoned,
        _ => Outcome::Broken,
    };
    flight.tell_outcome(outcome, now_ns);
    Err(Box::new(missed.refusal.reply()))
}

/// What a failure says of the target, if anything.
fn sign(refusal: Refusal) -> Option<Sign> {
    match refusal {
        Refusal::UpstreamTimeout | Refusal::UpstreamConnectTimeout => Some(Sign::Timeout),
        Refusal::UpstreamConnect | Refusal::UpstreamClosed | Refusal::UpstreamInvalid | Refusal::NameResolution => {
            Some(Sign::TcpFailure)
        }
        _ => None,
    }
}

/// What stays the same whichever target is tried.
struct Asked<'a> {
    service: &'a Service,
    stripped: usize,
    upgrade: bool,
    now_ns: u64,
    /// Whose turn it is with a streamed body.
    turn: Option<&'a Cell<Turn>>,
}

impl Asked<'_> {
    fn turn(&self) -> Turn {
        self.turn.map_or(Turn::Ended, Cell::get)
    }

    /// How long nothing may happen while it is somebody's turn.
    fn limit(&self, turn: Turn, client: Duration) -> Duration {
        match turn {
            Turn::Client => client,
            Turn::Taker => self.service.write_timeout,
            Turn::Ended => self.service.read_timeout,
        }
    }
}

async fn try_target(flight: &mut Flight, asked: &Asked<'_>, target: &Target, body: Lent) -> Result<Answered, Missed> {
    let Asked { service, now_ns, .. } = *asked;
    let ip = match target.ip {
        Some(ip) => Some(ip),
        None => Box::pin(flight.worker.resolver.address(&target.host, now_ns)).await,
    };
    let Some(ip) = ip else { return Err(Missed { refusal: Refusal::NameResolution, again: true }) };
    let tls = service.tls.then(|| (Rc::from(target.host.as_str()), service.tls_verify));
    let endpoint = Endpoint { address: SocketAddr::new(ip, target.port), tls };
    let started_unix_ns = flight.worker.wall_ns(now_ns);
    flight.tries.push(Try { address: endpoint.address, started_unix_ns, failed: false });
    if service.grpc {
        return Box::pin(multiplexed::try_target(flight, asked, target, &endpoint, body)).await;
    }
    let berth = flight.worker.pool.berth(&endpoint, now_ns);
    let connection = match berth.take() {
        Some(connection) => connection,
        // Boxed, as what follows only now and then: it would make every request's future larger.
        None => Box::pin(connect(flight, service, &endpoint)).await?,
    };
    let method = flight.exchange.upstream_method.as_ref().unwrap_or(&flight.exchange.request.method);
    let idempotent = is_idempotent(method);
    let exchange = pin!(begin(flight, asked, target, connection, body.clone(), berth));
    // The body itself keeps the time between two pieces.
    let client_max = flight.local.snapshot.settings.timeouts.request;
    match within(&flight.worker, asked, client_max, &body, exchange).await {
        Some(Ok(h1::Reply::Response(parts, body))) => {
            Ok(Answered::Response(parts, Box::new(FromUpstream::Connection(body))))
        }
        Some(Ok(h1::Reply::Upgraded(parts, upgraded))) => Ok(Answered::Upgraded(Box::new((parts, upgraded)))),
        Some(Err(failure)) => Err(missed(&failure, idempotent)),
        // A client that stalls says nothing about the upstream.
        None if asked.turn() == Turn::Client => Err(Missed { refusal: Refusal::RequestTimeout, again: false }),
        None => Err(Missed { refusal: Refusal::UpstreamTimeout, again: idempotent }),
    }
}

/// Writes the request's head. Not part of the future above: what it needs on the way would make that larger.
fn begin(
    flight: &Flight,
    asked: &Asked<'_>,
    target: &Target,
    connection: h1::Connection<Transport>,
    body: Lent,
    berth: Berth,
) -> h1::Exchange<Transport, Lent, Berth> {
    let ex = &flight.exchange;
    let method = ex.upstream_method.as_ref().unwrap_or(&ex.request.method);
    let websocket = HeaderValue::from_static("websocket");
    let marks = flight.local.snapshot.settings.marks;
    let border = Border::new(ex, ex.path.get(..asked.stripped).unwrap_or_default(), marks);
    let head = RequestHead {
        method,
        target: &path_and_query(ex),
        host: authority(flight, target),
        headers: &ex.request.headers,
        withhold: &|name| border.withholds(name),
        extra: &border.added(),
        trailers: border.takes_trailers(),
        upgrade: asked.upgrade.then_some(&websocket),
    };
    connection.exchange(&head, body, berth)
}

fn path_and_query(exchange: &Exchange) -> Cow<'_, str> {
    match &exchange.query {
        Some(query) => Cow::Owned([exchange.upstream_path.as_str(), "?", query].concat()),
        None => Cow::Borrowed(&exchange.upstream_path),
    }
}

/// What the upstream is asked as: a plugin's choice, the client's, or the target's own.
fn authority<'a>(flight: &'a Flight, target: &'a Target) -> &'a [u8] {
    let ex = &flight.exchange;
    if let Some(host) = &ex.upstream_host {
        host.as_bytes()
    } else if flight.matched().is_some_and(|r| r.preserve_host) && !ex.host.is_empty() {
        given_host(ex)
    } else {
        target.host_header.as_bytes()
    }
}

/// The host that routed the request, as the client spelt it: the target's authority goes before the field (RFC 9112 §3.2.2).
fn given_host(exchange: &Exchange) -> &[u8] {
    let field = || exchange.request.headers.get(http::header::HOST).map(HeaderValue::as_bytes);
    exchange.request.uri.authority().map(|a| a.as_str().as_bytes()).or_else(field).unwrap_or_default()
}

async fn connect(flight: &Flight, service: &Service, endpoint: &Endpoint) -> Result<h1::Connection<Transport>, Missed> {
    let opening = transport::connect(endpoint, &flight.worker.tls);
    match tokio::time::timeout(service.connect_timeout, opening).await {
        Ok(Ok(connection)) => Ok(connection),
        Ok(Err(_)) => Err(Missed { refusal: Refusal::UpstreamConnect, again: true }),
        Err(_) => Err(Missed { refusal: Refusal::UpstreamConnectTimeout, again: true }),
    }
}

/// Waits for `future` as long as the client's body makes progress, else as long as whoever is to move next may take.
async fn within<T>(
    worker: &Worker,
    asked: &Asked<'_>,
    client_max: Duration,
    body: &Lent,
    mut future: Pin<&mut impl Future<Output = T>>,
) -> Option<T> {
    let mut turn = asked.turn();
    let mut limit = asked.limit(turn, client_max);
    let mut timer = worker.timers.set(asked.now_ns, limit);
    let mut before = body.taken();
    std::future::poll_fn(|cx| {
        if let Poll::Ready(value) = future.as_mut().poll(cx) {
            return Poll::Ready(Some(value));
        }
        if turn != asked.turn() {
            turn = asked.turn();
            limit = asked.limit(turn, client_max);
            timer.reset(clock::monotonic_ns(), limit);
        }
        while Pin::new(&mut timer).poll(cx).is_ready() {
            if body.taken() == before {
                return Poll::Ready(None);
            }
            before = body.taken();
            timer.reset(clock::monotonic_ns(), limit);
        }
        Poll::Pending
    })
    .await
}

fn missed(failure: &Failure, idempotent: bool) -> Missed {
    let again = failure.may_retry() && (failure.bytes_sent() == 0 || idempotent);
    let refusal = match &failure.reason {
        h1::Reason::RequestBody(source) => {
            source.downcast_ref::<BodyError>().map_or(Refusal::BadRequest, BodyError::refusal)
        }
        h1::Reason::RequestUnfit | h1::Reason::RequestLength => Refusal::BadRequest,
        h1::Reason::Write(_) | h1::Reason::Read(_) | h1::Reason::Closed | h1::Reason::Truncated => {
            Refusal::UpstreamClosed
        }
        _ => Refusal::UpstreamInvalid,
    };
    let again = again || (idempotent && failure.side() != Side::Request && !failure.answered());
    Missed { refusal, again }
}

/// RFC 9110 §9.2.2.
fn is_idempotent(method: &Method) -> bool {
    matches!(*method, Method::GET | Method::HEAD | Method::PUT | Method::DELETE | Method::OPTIONS)
}

/// Reads the body of a response for the plugins that want it whole; one that is longer goes on as it is. A silence of
/// `idle_max` ends the wait.
///
/// # Errors
/// The refusal to answer with, when the upstream breaks off or stops: nothing of the response was sent yet.
pub async fn hold_response(
    source: Source,
    bytes_max: usize,
    idle_max: Duration,
    response: &mut Response,
) -> Result<Source, Refusal> {
    let Source::Upstream(mut body) = source else { return Ok(source) };
    // What belongs to a stream ends with trailers, which whoever holds a body does not keep.
    if matches!(*body, FromUpstream::Stream(_)) {
        return Ok(Source::Upstream(body));
    }
    if body.size_hint().lower() > bytes_max as u64 {
        return Ok(Source::Upstream(body));
    }
    let mut held: VecDeque<Bytes> = VecDeque::new();
    let mut length = 0;
    loop {
        let frame = match tokio::time::timeout(idle_max, body.frame()).await {
            Ok(Some(Ok(frame))) => frame,
            Ok(Some(Err(_))) => return Err(Refusal::UpstreamClosed),
            Ok(None) => break,
            Err(_) => return Err(Refusal::UpstreamTimeout),
        };
        let Ok(data) = frame.into_data() else { continue };
        length += data.len();
        held.push_back(data);
        if length > bytes_max {
            return Ok(Source::Resumed(held, body));
        }
    }
    let mut whole = Vec::with_capacity(length);
    for data in held {
        whole.extend_from_slice(&data);
    }
    response.body = Some(whole.into());
    Ok(Source::Empty)
}
