//! Asking an upstream: choose a target, get a connection, send, wait; and again elsewhere while that is harmless and the
//! service allows it.

use std::cell::Cell;
use std::collections::VecDeque;
use std::future::Future;
use std::net::SocketAddr;
use std::pin::Pin;
use std::rc::Rc;
use std::task::Poll;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderValue, Method};
use http_body::Body;
use http_body_util::BodyExt;

use super::answer::{Lent, Source};
use super::body::BodyError;
use super::exchange::{Outcome, Response};
use super::flight::Flight;
use super::forward::Border;
use super::h1::{self, Failure, RequestHead, Side};
use super::path::Answered;
use super::reply::{Refusal, Reply};
use super::transport::{self, Endpoint};
use super::worker::Worker;
use crate::clock;
use crate::config::snapshot::{Service, Target};
use crate::telemetry::record::Try;

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
    let taken = Rc::new(Cell::new(flight.taken_bytes));
    let already = taken.get();
    taken.set(0);
    let body = Lent::new(std::mem::take(&mut flight.exchange.body), &taken);
    let mut now_ns = clock::monotonic_ns();
    flight.asked_ns = Some(now_ns);
    let mut missed = Missed { refusal: Refusal::NoTarget, again: false };
    for _ in 0..=service.retries {
        let Some(target) = next_target(flight, service_index, service) else {
            missed.refusal = Refusal::NoTarget;
            break;
        };
        let asked = Asked { service, stripped, upgrade, now_ns };
        match try_target(flight, &asked, &target, body.clone()).await {
            Ok(answered) => {
                flight.taken_bytes = already + taken.get();
                return Ok(answered);
            }
            Err(miss) => {
                if let Some(attempt) = flight.tries.last_mut() {
                    attempt.failed = true;
                }
                missed = miss;
                now_ns = clock::monotonic_ns();
            }
        }
        if !missed.again || !body.untouched() {
            break;
        }
    }
    flight.taken_bytes = already + taken.get();
    let outcome = match missed.refusal {
        Refusal::UpstreamTimeout | Refusal::UpstreamConnectTimeout => Outcome::TimedOut,
        Refusal::BodyTooLarge | Refusal::BadRequest | Refusal::RequestTimeout => Outcome::Abandoned,
        _ => Outcome::Broken,
    };
    flight.tell_outcome(outcome, now_ns);
    Err(Box::new(missed.refusal.reply()))
}

fn next_target(flight: &Flight, id: usize, service: &Service) -> Option<Target> {
    let chosen = match service.targets.as_slice() {
        [only] if only.weight > 0 => only,
        targets => &targets[flight.worker.turns.next(id, targets.iter().map(|t| t.weight))?],
    };
    Some(chosen.clone())
}

/// What stays the same whichever target is tried.
struct Asked<'a> {
    service: &'a Service,
    stripped: usize,
    upgrade: bool,
    now_ns: u64,
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
    let berth = flight.worker.pool.berth(&endpoint, now_ns);
    let connection = match berth.take() {
        Some(connection) => connection,
        // Boxed, as what follows only now and then: it would make every request's future larger.
        None => Box::pin(connect(flight, service, &endpoint)).await?,
    };
    let ex = &flight.exchange;
    let path = match &ex.query {
        Some(query) => &[ex.upstream_path.as_str(), "?", query].concat(),
        None => &ex.upstream_path,
    };
    let preserved;
    let host = if let Some(host) = &ex.upstream_host {
        host.as_bytes()
    } else if flight.matched().is_some_and(|r| r.preserve_host) && !ex.host.is_empty() {
        preserved = ex.request.headers.get(http::header::HOST).map_or_else(
            || ex.request.uri.authority().map(|a| a.as_str().to_owned()).unwrap_or_default(),
            |h| String::from_utf8_lossy(h.as_bytes()).into_owned(),
        );
        preserved.as_bytes()
    } else {
        target.host_header.as_bytes()
    };
    let method = ex.upstream_method.as_ref().unwrap_or(&ex.request.method);
    let websocket = HeaderValue::from_static("websocket");
    let border = Border::new(ex, ex.path.get(..asked.stripped).unwrap_or_default());
    let head = RequestHead {
        method,
        target: path,
        host,
        headers: &ex.request.headers,
        withhold: &|name| border.withholds(name),
        extra: &border.added(),
        trailers: border.takes_trailers(),
        upgrade: asked.upgrade.then_some(&websocket),
    };
    let idempotent = is_idempotent(method);
    let taken = Rc::clone(&body.taken);
    // What is waited for is the upstream's answer once the client's body is with it.
    let limit = if body.is_end_stream() { service.read_timeout } else { service.write_timeout };
    let exchange = connection.exchange(&head, body, berth);
    match within(&flight.worker, limit, now_ns, &taken, exchange).await {
        Some(Ok(h1::Reply::Response(parts, body))) => Ok(Answered::Response(parts, Box::new(body))),
        Some(Ok(h1::Reply::Upgraded(parts, upgraded))) => Ok(Answered::Upgraded(Box::new((parts, upgraded)))),
        Some(Err(failure)) => Err(missed(&failure, idempotent)),
        None => Err(Missed { refusal: Refusal::UpstreamTimeout, again: idempotent }),
    }
}

async fn connect(
    flight: &Flight,
    service: &Service,
    endpoint: &Endpoint,
) -> Result<h1::Connection<transport::Transport>, Missed> {
    let opening = transport::connect(endpoint, &flight.worker.tls);
    match tokio::time::timeout(service.connect_timeout, opening).await {
        Ok(Ok(connection)) => Ok(connection),
        Ok(Err(_)) => Err(Missed { refusal: Refusal::UpstreamConnect, again: true }),
        Err(_) => Err(Missed { refusal: Refusal::UpstreamConnectTimeout, again: true }),
    }
}

/// Waits for `future` as long as the client's body makes progress, else at most `limit`.
async fn within<T>(
    worker: &Worker,
    limit: Duration,
    now_ns: u64,
    taken: &Cell<u64>,
    future: impl Future<Output = T>,
) -> Option<T> {
    let mut future = std::pin::pin!(future);
    let mut timer = worker.timers.set(now_ns, limit);
    let mut before = taken.get();
    std::future::poll_fn(|cx| {
        if let Poll::Ready(value) = future.as_mut().poll(cx) {
            return Poll::Ready(Some(value));
        }
        while Pin::new(&mut timer).poll(cx).is_ready() {
            if taken.get() == before {
                return Poll::Ready(None);
            }
            before = taken.get();
            timer.reset(clock::monotonic_ns(), limit);
        }
        Poll::Pending
    })
    .await
}

fn missed(failure: &Failure, idempotent: bool) -> Missed {
    let again = failure.may_retry() && (failure.bytes_sent() == 0 || idempotent);
    let refusal = match &failure.reason {
        h1::Reason::RequestBody(source) => match source.downcast_ref::<BodyError>() {
            Some(BodyError::TooLarge) => Refusal::BodyTooLarge,
            Some(BodyError::Slow) => Refusal::RequestTimeout,
            _ => Refusal::BadRequest,
        },
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

/// Reads the body of a response for the plugins that want it whole; one that is longer goes on as it is.
pub async fn hold_response(source: Source, bytes_max: usize, response: &mut Response) -> Source {
    let Source::Upstream(mut body) = source else { return source };
    if body.size_hint().lower() > bytes_max as u64 {
        return Source::Upstream(body);
    }
    let mut held: VecDeque<Bytes> = VecDeque::new();
    let mut length = 0;
    while let Some(Ok(frame)) = body.frame().await {
        let Ok(data) = frame.into_data() else { continue };
        length += data.len();
        held.push_back(data);
        if length > bytes_max {
            return Source::Resumed(held, body);
        }
    }
    if !body.is_end_stream() {
        // The upstream broke off: what there is goes out, and the break after it.
        return Source::Resumed(held, body);
    }
    let mut whole = Vec::with_capacity(length);
    for data in held {
        whole.extend_from_slice(&data);
    }
    response.body = Some(whole.into());
    Source::Empty
}
