//! THE PATH: everything that happens to a request, in order. Each step is a line of `decide`; each "no" is an answer.

use std::convert::Infallible;
use std::future::Future;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use http::header::{CONNECTION, CONTENT_LENGTH, CONTENT_TYPE, HeaderValue, LOCATION};
use http::{HeaderMap, StatusCode};
use http_body::Body;
use hyper::body::Incoming;
use hyper::upgrade::OnUpgrade;

use super::answer::{AnswerBody, Source};
use super::body::{Pace, RequestBody};
use super::exchange::{Channel, Client, Exchange, Outcome, Put, Response};
use super::flight::Flight;
use super::presence::Serving;
use super::registry::Registered;
use super::reply::{self, Refusal, Reply};
use super::worker::{Seat, Worker};
use super::{attempt, cookies, forward, grpc, report, sanitize, tunnel};
use crate::clock;
use crate::config::snapshot::Protocols;
use crate::edge::Standing;
use crate::limits::Level;
use crate::plugins::{Flow, Plugin};
use crate::router::{Facts, View, path};
use crate::upstreams::health::Sign;

/// What a connection knows when a request begins on it.
pub struct Origin {
    /// Where the connection comes from.
    pub client: Client,
    /// What all requests of the connection have in common.
    pub channel: Rc<Channel>,
    /// Monotonic time of the request's first byte, nanoseconds.
    pub started_ns: u64,
    /// Tells the connection how long the request is served.
    pub serving: Serving,
    /// The connection itself.
    pub connection: Rc<Registered>,
}

/// What the upstream, or a tunnel to it, gave.
pub enum Answered {
    /// A response.
    Response(http::response::Parts, Box<super::answer::FromUpstream>),
    /// A WebSocket.
    Upgraded(Box<(http::response::Parts, super::h1::Upgraded<super::transport::Transport>)>),
}

impl Answered {
    /// What the answer says of the target's health.
    #[must_use]
    pub fn sign(&self) -> Sign {
        match self {
            Answered::Response(parts, _) => Sign::Status(parts.status.as_u16()),
            Answered::Upgraded(upgraded) => Sign::Status(upgraded.0.status.as_u16()),
        }
    }
}

/// Serves one request. The flight begins at once and not in the future, which is moved before it is polled: it stays small.
pub fn serve(
    worker: Rc<Worker>,
    origin: Origin,
    mut request: hyper::Request<Incoming>,
) -> impl Future<Output = Result<hyper::Response<AnswerBody>, Infallible>> {
    let on_upgrade = request.headers().contains_key(http::header::UPGRADE).then(|| hyper::upgrade::on(&mut request));
    let (parts, incoming) = request.into_parts();
    let local = worker.local();
    let timeouts = local.snapshot.settings.timeouts;
    let body = RequestBody::of(incoming, parts.version, || Pace::new(timeouts.body, timeouts.request));
    let raw_uri = parts.uri.path_and_query().map_or_else(|| parts.uri.path().to_owned(), |p| p.as_str().to_owned());
    let exchange = Exchange {
        request: parts,
        body,
        raw_uri,
        path: String::new(),
        upstream_path: String::new(),
        query: None,
        host: String::new(),
        host_port: None,
        captures: Vec::new(),
        client: origin.client,
        channel: origin.channel,
        client_text: None,
        request_id: worker.request_id(),
        started_ns: origin.started_ns,
        started_unix_ns: worker.wall_ns(origin.started_ns),
        route: None,
        authenticated: None,
        session: None,
        upstream_method: None,
        upstream_host: None,
        response_headers: Vec::new(),
        correlation_id: None,
        response_quota: None,
        circuit_probe: false,
        slot: None,
    };
    fly(Box::new(Flight::new(worker, local, exchange, origin.serving, origin.connection)), on_upgrade)
}

async fn fly(
    mut flight: Box<Flight>,
    on_upgrade: Option<OnUpgrade>,
) -> Result<hyper::Response<AnswerBody>, Infallible> {
    Ok(match decide(&mut flight).await {
        Ok(Answered::Response(parts, body)) => proxied(flight, parts, body).await,
        Ok(Answered::Upgraded(upgraded)) => tunneled(flight, upgraded.0, upgraded.1, on_upgrade),
        Err(reply) => own(flight, &reply),
    })
}

async fn decide(flight: &mut Flight) -> Result<Answered, Box<Reply>> {
    let admitted = admit(flight);
    let routed = admitted.and_then(|upgrade| Ok((upgrade, route(flight)?)));
    // Whatever the answer will be, it is logged.
    conceal(flight);
    let (upgrade, stripped) = routed?;
    run_plugins(flight).await?;
    take_turn(flight)?;
    if flight.exchange.body.lacks_end() {
        Box::pin(hold_body(flight, 0)).await?;
    }
    let Some(service) = flight.matched().and_then(|r| r.service) else { return Err(refuse(Refusal::NoService)) };
    attempt::send(flight, service, stripped, upgrade).await
}

/// Behind a degraded source, whoever cannot say who he is waits for his turn: one request at a time. A credential has its
/// own limits, and neighbours of an abuser are not to pay for him.
fn take_turn(flight: &mut Flight) -> Result<(), Box<Reply>> {
    if !flight.suspect || flight.exchange.credential().is_some() {
        return Ok(());
    }
    flight.holds_turn = true;
    if flight.worker.enter_degraded(flight.exchange.client.ip) {
        return Ok(());
    }
    Err(Box::new(Refusal::SourceDegraded.reply().retry_after(1)))
}

fn refuse(refusal: Refusal) -> Box<Reply> {
    Box::new(refusal.reply())
}

/// Room, syntax, real client address, and how its source stands. True when it asks for a WebSocket.
fn admit(flight: &mut Flight) -> Result<bool, Box<Reply>> {
    if flight.worker.shared.pressure.level() >= Level::Shed {
        return Err(refuse(Refusal::Overloaded));
    }
    let ex = &mut flight.exchange;
    let normal = sanitize::sanitize(&ex.request).map_err(refuse)?;
    (ex.path, ex.query, ex.host) = (normal.path, normal.query, normal.host);
    ex.host_port = normal.port;
    let bytes_max = flight.local.snapshot.settings.limits.body_bytes;
    if bytes_max > 0 {
        ex.body.limit(bytes_max);
        if ex.body.size_hint().lower() > bytes_max {
            return Err(refuse(Refusal::BodyTooLarge));
        }
    }
    forward::strip_nominated(&mut ex.request.headers);
    if ex.request.version == http::Version::HTTP_2 {
        cookies::join(&mut ex.request.headers);
    }
    report::resolve_client(ex, &flight.local.snapshot.settings);
    if !ex.client.trusted {
        forward::strip_identity(&mut ex.request.headers);
    }
    let Some(edge) = &flight.worker.edge else { return Ok(normal.upgrade) };
    match edge.standings.of(ex.client.ip, ex.started_ns) {
        Standing::Clear => {}
        Standing::Dropped => return Err(refuse(Refusal::SourceDropped)),
        Standing::Degraded | Standing::Gated => {
            flight.suspect = true;
        }
    }
    Ok(normal.upgrade)
}

/// Finds the route; returns how many bytes of the path `strip_path` takes away.
fn route(flight: &mut Flight) -> Result<usize, Box<Reply>> {
    let local = Rc::clone(&flight.local);
    let ex = &mut flight.exchange;
    let facts = Facts {
        method: &ex.request.method,
        host: &ex.host,
        port: ex.host_port.unwrap_or(ex.client.local_port),
        path: &ex.path,
        headers: &ex.request.headers,
        sni: ex.channel.sni.as_deref(),
    };
    let protocol = if ex.client.tls { "https" } else { "http" };
    let view = View {
        facts: &facts,
        protocol,
        query: ex.query.as_deref(),
        source: ex.client.peer,
        destination: flight.connection.entry.local.ip(),
    };
    let found = local.snapshot.router.find(&view).ok_or_else(|| refuse(Refusal::NoRoute))?;
    let route = &local.snapshot.routes[found.route];
    ex.route = Some(Rc::clone(&local.routes[found.route]));
    ex.captures = found.captures;
    if !ex.captures.is_empty() {
        // Kong's capture 0, the whole match.
        ex.captures.push(("0".to_owned(), ex.path.get(..found.matched).unwrap_or_default().to_owned()));
    }
    // A route without paths strips the leading slash alone (Kong).
    let matched = found.matched.max(1);
    flight.route = Some(found.route);
    if route.protocols.has(Protocols::HTTPS) && !route.protocols.has(Protocols::HTTP) && !ex.is_https() {
        return Err(https_required(ex, route.https_redirect));
    }
    if route.strip_path && climbs(&ex.path, matched) {
        return Err(refuse(Refusal::BadPath));
    }
    if let Some(reply) = grpc::misfit(ex, route.protocols) {
        return Err(reply);
    }
    if let Some(service) = route.service.map(|s| &local.snapshot.services[s]) {
        ex.upstream_path = path::upstream_path(&service.path, &ex.path, matched, route.strip_path, route.joint);
    }
    Ok(if route.strip_path { matched } else { 0 })
}

/// Whether `strip_path` cuts `path` within a segment so that what is left begins with what some servers read as `..`:
/// `/api..%2fadmin` is harmless as a whole, and is not without `/api`.
fn climbs(path: &str, matched: usize) -> bool {
    let rest = path.get(matched..).unwrap_or_default();
    rest.starts_with(['.', '%']) && path::normalize(&["/", rest].concat()).is_err()
}

/// Kong's answers to plain HTTP on an HTTPS route.
fn https_required(ex: &Exchange, status: u16) -> Box<Reply> {
    let reply = Refusal::HttpsRequired.reply();
    if status == 426 {
        let upgrade = HeaderValue::from_static("TLS/1.2, HTTP/1.1");
        return Box::new(
            reply.with(CONNECTION, HeaderValue::from_static("Upgrade")).with(http::header::UPGRADE, upgrade),
        );
    }
    let status = StatusCode::from_u16(status).unwrap_or(StatusCode::MOVED_PERMANENTLY);
    let said = if ex.client.trusted { ex.request.headers.get("x-forwarded-host") } else { None };
    let host = said.and_then(|host| host.to_str().ok()).unwrap_or(&ex.host);
    let location = HeaderValue::from_str(&format!("https://{host}{}", ex.raw_uri));
    let reply = Reply::empty("https_required", status);
    Box::new(match location {
        Ok(location) => reply.with(LOCATION, location),
        Err(_) => reply,
    })
}

/// Hides the secrets that the plugins of the route, or those that hold everywhere, look for.
fn conceal(flight: &mut Flight) {
    let local = Rc::clone(&flight.local);
    let chain = flight.route.map_or(&local.snapshot.unmatched, |r| &local.snapshot.routes[r].chain);
    for base in chain.slots.iter().filter_map(|slot| slot.base.as_ref()) {
        base.plugin.conceal(&mut flight.exchange);
    }
}

async fn run_plugins(flight: &mut Flight) -> Result<(), Box<Reply>> {
    let local = Rc::clone(&flight.local);
    let Some(route) = flight.route.map(|r| &local.snapshot.routes[r]) else { return Ok(()) };
    for (i, slot) in route.chain.slots.iter().enumerate() {
        let instance = slot.instance(flight.exchange.consumer(), &local.snapshot.identities);
        let Some(plugin) = instance.and_then(|i| i.for_protocol(flight.protocol())) else { continue };
        if let Some(bytes_max) = plugin.body_limit(&flight.exchange) {
            Box::pin(hold_body(flight, bytes_max)).await?;
        }
        let known = flight.exchange.credential().map(Arc::as_ptr);
        let mut flow = plugin.on_request(&mut flight.exchange);
        while let Flow::Wait(wait) = flow {
            flow = wait.await(&mut flight.exchange);
        }
        if let Flow::Reply(reply) = flow {
            return Err(reply);
        }
        flight.note_ran(i, slot);
        if flight.exchange.credential().map(Arc::as_ptr) != known && !flight.show_credential() {
            return Err(refuse(Refusal::Revoked));
        }
    }
    Ok(())
}

async fn hold_body(flight: &mut Flight, bytes_max: usize) -> Result<(), Box<Reply>> {
    let Flight { exchange, worker, held_bytes, .. } = &mut *flight;
    let pressure = &worker.shared.pressure;
    let reserve = |bytes| {
        let room = pressure.reserve(bytes);
        held_bytes.set(held_bytes.get() + if room { bytes } else { 0 });
        room
    };
    match exchange.body.hold(bytes_max, reserve).await {
        Ok(()) => {
            flight.taken_bytes = flight.exchange.body.whole().map_or(0, |b| b.len() as u64);
            Ok(())
        }
        Err(error) => Err(refuse(error.refusal())),
    }
}

/// An answer of the gateway itself.
fn own(mut flight: Box<Flight>, reply: &Reply) -> hyper::Response<AnswerBody> {
    let now_ns = clock::monotonic_ns();
    flight.tell_outcome(Outcome::Abandoned, now_ns);
    flight.reason = Some(reply.reason);
    report::tell(&flight, Some(reply), now_ns);
    let ex = &flight.exchange;
    let settings = &flight.local.snapshot.settings;
    let (headers, body) = reply::render(reply, &ex.request.headers, ex.request_id.as_str(), &settings.style);
    let mut response =
        Response { status: reply.status, headers, body: Some(body), from_upstream: false, without_body: false };
    forward::mark_own(&mut response.headers, ex, settings.marks, (now_ns - ex.started_ns) / 1_000_000);
    finish_head(&mut flight, &mut response);
    // What is not known to have been read may still come: no second request is read behind it.
    let unread = matches!(flight.exchange.body, RequestBody::Stream { .. });
    // A client that goes elsewhere frees memory.
    if unread || reply.reason == Refusal::Overloaded.word() {
        response.headers.insert(CONNECTION, HeaderValue::from_static("close"));
    }
    let source = response.body.take().map_or(Source::Empty, Source::Whole);
    answer(flight, response, source)
}

/// An upstream's answer.
async fn proxied(
    mut flight: Box<Flight>,
    parts: http::response::Parts,
    body: Box<super::answer::FromUpstream>,
) -> hyper::Response<AnswerBody> {
    let now_ns = clock::monotonic_ns();
    flight.answered_ns = Some(now_ns);
    flight.upstream_status = Some(parts.status);
    flight.tell_outcome(Outcome::Status(parts.status), now_ns);
    let mut response =
        Response { status: parts.status, headers: parts.headers, body: None, from_upstream: true, without_body: false };
    forward::strip_hop_by_hop(&mut response.headers);
    let upstream_ns = flight.asked_ns.map_or(0, |asked| now_ns.saturating_sub(asked));
    let gateway_ns = now_ns.saturating_sub(flight.exchange.started_ns).saturating_sub(upstream_ns);
    let marks = flight.local.snapshot.settings.marks;
    forward::mark_proxied(&mut response, &flight.exchange, marks, upstream_ns / 1_000_000, gateway_ns / 1_000_000);
    report::tell(&flight, None, now_ns);
    let mut source = Source::Upstream(body);
    if let Some(bytes_max) = response_limit(&flight, &response) {
        let held = Box::pin(attempt::hold_response(source, bytes_max, idle_max(&flight), &mut response)).await;
        source = match held {
            Ok(source) => source,
            Err(refusal) => return own(flight, &refusal.reply()),
        };
    }
    let held = response.body.is_some();
    finish_head(&mut flight, &mut response);
    if response.without_body {
        response.headers.insert(CONTENT_LENGTH, HeaderValue::from_static("0"));
        source = Source::Empty;
    } else if held {
        // A plugin may have changed the body: its length is told anew.
        response.headers.remove(CONTENT_LENGTH);
        source = response.body.take().map_or(Source::Empty, Source::Whole);
    }
    answer(flight, response, source)
}

fn tunneled(
    mut flight: Box<Flight>,
    parts: http::response::Parts,
    upstream: super::h1::Upgraded<super::transport::Transport>,
    client: Option<OnUpgrade>,
) -> hyper::Response<AnswerBody> {
    let now_ns = clock::monotonic_ns();
    flight.answered_ns = Some(now_ns);
    flight.upstream_status = Some(parts.status);
    flight.tell_outcome(Outcome::Status(parts.status), now_ns);
    let mut response =
        Response { status: parts.status, headers: parts.headers, body: None, from_upstream: true, without_body: false };
    forward::strip_hop_by_hop(&mut response.headers);
    response.headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
    response.headers.insert(http::header::UPGRADE, HeaderValue::from_static("websocket"));
    forward::mark_proxied(&mut response, &flight.exchange, flight.local.snapshot.settings.marks, 0, 0);
    finish_head(&mut flight, &mut response);
    if let Some(client) = client {
        let seat = Seat::new(&flight.worker, flight.exchange.client.peer.ip());
        let connection = Rc::clone(&flight.connection);
        let held = (seat, flight.exchange.slot.take());
        tunnel::spawn(held, connection, client, upstream, idle_max(&flight));
    }
    answer(flight, response, Source::Empty)
}

/// Runs the plugins on the head, then puts on it what they asked for.
fn finish_head(flight: &mut Flight, response: &mut Response) {
    let local = Rc::clone(&flight.local);
    let chain = flight.route.map_or(&local.snapshot.unmatched, |r| &local.snapshot.routes[r].chain);
    for (i, slot) in chain.slots.iter().enumerate() {
        if let Some(plugin) = flight.instance(i, slot) {
            plugin.on_response(&mut flight.exchange, response);
        }
    }
    for (name, value, put) in std::mem::take(&mut flight.exchange.response_headers) {
        match put {
            Put::Set => {
                response.headers.insert(name, value);
            }
            Put::Append => {
                response.headers.append(name, value);
            }
        }
    }
    // The connection of somebody who is served on his credential stays.
    if flight.suspect && (flight.reason.is_some() || flight.exchange.credential().is_none()) {
        response.headers.insert(CONNECTION, HeaderValue::from_static("close"));
    }
}

/// How long an upstream may be silent within its answer, and both sides within a tunnel.
fn idle_max(flight: &Flight) -> Duration {
    let service = flight.matched().and_then(|r| r.service);
    service.map_or(Duration::from_secs(60), |s| flight.local.snapshot.services[s].read_timeout)
}

/// The largest body that any plugin of the chain wants to see whole.
fn response_limit(flight: &Flight, response: &Response) -> Option<usize> {
    let chain = flight.chain();
    let wanted = |(i, slot)| {
        flight.instance(i, slot).and_then(|p: &dyn Plugin| p.response_body_limit(&flight.exchange, response))
    };
    chain.slots.iter().enumerate().filter_map(wanted).max()
}

fn answer(mut flight: Box<Flight>, response: Response, source: Source) -> hyper::Response<AnswerBody> {
    flight.status = Some(response.status);
    let idle_max = idle_max(&flight);
    if flight.chain().logs {
        flight.sent_headers = Some(Box::new(response.headers.clone()));
    }
    let mut out = hyper::Response::new(AnswerBody::new(source, idle_max, flight));
    *out.status_mut() = response.status;
    *out.headers_mut() = response.headers;
    out
}

/// Whether a message's content is JSON by its type.
#[must_use]
pub fn is_json(headers: &HeaderMap) -> bool {
    headers.get(CONTENT_TYPE).is_some_and(|v| v.as_bytes().starts_with(b"application/json"))
}

#[cfg(test)]
mod tests {
    use std::mem::size_of;

    use super::*;

    /// Both are made and moved for every request; above 1 KiB the allocator takes its slow path.
    #[test]
    fn what_a_request_allocates_stays_small() {
        fn output_of<F>(_: fn(Rc<Worker>, Origin, hyper::Request<Incoming>) -> F) -> usize {
            size_of::<F>()
        }
        let future = output_of(serve);
        assert!(future <= 1536, "a request's future has {future} bytes");
        assert!(size_of::<Flight>() <= 1024, "a flight has {} bytes", size_of::<Flight>());
    }
}
