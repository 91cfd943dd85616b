//! One request and what was decided about it, from the parsed head to the access-log record. Plugins read and change this
//! and nothing else; it must not know routers, pools or sockets.

use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;
use std::sync::Arc;

use bytes::Bytes;
use http::header::{HeaderName, HeaderValue};
use http::{HeaderMap, StatusCode, request};

use super::body::RequestBody;
use crate::identity::ConsumerIndex;
use crate::identity::certificate::Chain;
use crate::identity::session::Held;
use crate::limits::slots::Slot;

/// What is known of a service by those who log, count and echo.
#[derive(Debug)]
pub struct ServiceInfo {
    /// UUID.
    pub id: String,
    /// Name, or empty.
    pub name: String,
    /// The entity as JSON, defaults filled in.
    pub entity: serde_json::Value,
}

/// What is known of a route by those who log, count and echo.
#[derive(Debug)]
pub struct RouteInfo {
    /// Place in the snapshot's routes.
    pub index: u32,
    /// UUID.
    pub id: String,
    /// Name, or empty.
    pub name: String,
    /// The route's service.
    pub service: Option<Arc<ServiceInfo>>,
    /// The entity as JSON, defaults filled in.
    pub entity: serde_json::Value,
}

/// A route as a worker holds it: counted without atomics.
pub type RouteRef = Rc<Arc<RouteInfo>>;

/// Where a request came from.
#[derive(Clone, Copy, Debug)]
pub struct Client {
    /// The TCP peer, or the client that a load balancer names before the connection's own bytes (PROXY protocol).
    pub peer: SocketAddr,
    /// The client: the peer, or what a trusted peer says of it (Kong `trusted_ips`, `real_ip_header`).
    pub ip: IpAddr,
    /// Whether the peer is trusted, so that its forwarding headers count.
    pub trusted: bool,
    /// Whether a load balancer has named the peer: the connection's packets are not the peer's.
    pub told: bool,
    /// The port that the client connected to.
    pub local_port: u16,
    /// Whether the connection is TLS.
    pub tls: bool,
}

/// What the requests of a connection have in common, made once.
#[derive(Debug, Default)]
pub struct Channel {
    /// The TCP peer's address, as text.
    pub peer: Box<str>,
    /// The port that the client connected to, as text.
    pub port: Box<str>,
    /// The name that the client asked for (SNI).
    pub sni: Option<Box<str>>,
    /// The certificate that the client has shown in the handshake, and whose key it has.
    pub certificate: Option<Rc<Chain>>,
}

/// 32 hexadecimal digits that name a request in headers, errors, logs and verdicts.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct RequestId([u8; 32]);

impl RequestId {
    /// The id of 128 random bits.
    #[must_use]
    pub fn new(bits: u128) -> Self {
        const HEX: &[u8; 16] = b"0123456789abcdef";
        let mut text = [0; 32];
        for (pair, byte) in text.chunks_exact_mut(2).zip(bits.to_be_bytes()) {
            pair[0] = HEX[usize::from(byte >> 4)];
            pair[1] = HEX[usize::from(byte & 15)];
        }
        RequestId(text)
    }

    /// The id's text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        str::from_utf8(&self.0).unwrap_or_default()
    }
}

/// Whether only the gateway may tell the upstream this: who the caller is.
#[must_use]
pub fn is_identity(name: &HeaderName) -> bool {
    const PREFIXES: [&str; 4] = ["consumer-", "credential-", "authenticated-", "anonymous-"];
    name.as_str().strip_prefix("x-").is_some_and(|rest| PREFIXES.iter().any(|p| rest.starts_with(p)))
}

/// Who was recognised.
#[derive(Clone, Debug)]
pub struct Authenticated {
    /// The consumer, if the credential belongs to one.
    pub consumer: Option<ConsumerIndex>,
    /// The credential's id; absent for an anonymous consumer.
    pub credential: Option<Arc<str>>,
    /// Groups that the credential itself brings, beside the consumer's.
    pub groups: Option<Arc<Vec<String>>>,
}

/// Whether an added response header replaces or joins those of the same name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Put {
    /// Replace all of the same name.
    Set,
    /// Stand beside those of the same name.
    Append,
}

/// How an upstream call ended, as a circuit breaker sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The upstream answered.
    Status(StatusCode),
    /// No connection, or it broke before an answer.
    Broken,
    /// No answer in time.
    TimedOut,
    /// The client went away, or the gateway answered without asking the upstream.
    Abandoned,
}

/// One request on its way through.
pub struct Exchange {
    /// Method, URI, version and headers; plugins change the headers as the upstream shall see them.
    pub request: request::Parts,
    /// The request's body.
    pub body: RequestBody,
    /// The URI as the client sent it, for logs.
    pub raw_uri: String,
    /// Normalised path: what routes, plugins and the upstream see.
    pub path: String,
    /// The path that the upstream gets; set by the router, changed by plugins.
    pub upstream_path: String,
    /// The query that the upstream gets, without `?`.
    pub query: Option<String>,
    /// Host in lower case, without a port.
    pub host: String,
    /// The port that the client named beside the host.
    pub host_port: Option<u16>,
    /// Named and numbered captures of the matched regex path.
    pub captures: Vec<(String, String)>,
    /// Where it came from.
    pub client: Client,
    /// What it has in common with the other requests of its connection.
    pub channel: Rc<Channel>,
    /// The client's address as text, when it is not the peer's.
    pub client_text: Option<Box<str>>,
    /// The request's name.
    pub request_id: RequestId,
    /// Monotonic time of arrival, nanoseconds.
    pub started_ns: u64,
    /// Wall-clock time of arrival, nanoseconds since 1970.
    pub started_unix_ns: u64,
    /// The matched route.
    pub route: Option<RouteRef>,
    /// Who calls, once known.
    pub authenticated: Option<Authenticated>,
    /// The session by which it was recognised.
    pub session: Option<Box<Held>>,
    /// Method for the upstream when a plugin changes it.
    pub upstream_method: Option<http::Method>,
    /// `Host` for the upstream when a plugin changes it.
    pub upstream_host: Option<HeaderValue>,
    /// Headers to put on whatever answer is sent, the gateway's own included.
    pub response_headers: Vec<(HeaderName, HeaderValue, Put)>,
    /// The id that correlation-id chose, for the log.
    pub correlation_id: Option<Box<str>>,
    /// When response-ratelimiting looked, seconds since 1970, and what it found left of each of its limits.
    pub response_quota: Option<Box<(u64, Box<[u64]>)>>,
    /// Whether a half-open circuit let this request through as one of its probes.
    pub circuit_probe: bool,
    /// What concurrency-limiting gave it, until the answer is over.
    pub slot: Option<Slot>,
}

impl Exchange {
    /// The consumer's index, once authenticated.
    #[must_use]
    pub fn consumer(&self) -> Option<ConsumerIndex> {
        self.authenticated.as_ref().and_then(|a| a.consumer)
    }

    /// The credential's id, once authenticated with one.
    #[must_use]
    pub fn credential(&self) -> Option<&Arc<str>> {
        self.authenticated.as_ref().and_then(|a| a.credential.as_ref())
    }

    /// The groups that the credential itself brings.
    #[must_use]
    pub fn groups(&self) -> Option<&Arc<Vec<String>>> {
        self.authenticated.as_ref().and_then(|a| a.groups.as_ref())
    }

    /// Whether the client speaks HTTPS, to this gateway or to a trusted peer that says so (Kong `X-Forwarded-Proto`).
    #[must_use]
    pub fn is_https(&self) -> bool {
        let said = if self.client.trusted { self.request.headers.get("x-forwarded-proto") } else { None };
        said.map_or(self.client.tls, |proto| proto.as_bytes() == b"https")
    }

    /// Puts a header on the answer, replacing those of the same name.
    pub fn set_response_header(&mut self, name: HeaderName, value: HeaderValue) {
        self.response_headers.push((name, value, Put::Set));
    }

    /// The argument `name` of the query, percent-decoded; the first when it stands several times.
    #[must_use]
    pub fn query_argument(&self, name: &str) -> Option<String> {
        let query = self.query.as_deref()?;
        form_urlencoded::parse(query.as_bytes()).find(|(k, _)| k == name).map(|(_, v)| v.into_owned())
    }
}

#[cfg(test)]
impl Exchange {
    /// A request as a plugin meets it: plain HTTP from 127.0.0.1, no route, no body. `target` is a path with an optional query;
    /// a header may stand several times.
    pub fn for_test(method: &str, target: &str, headers: &[(&str, &str)]) -> Self {
        let mut builder = http::Request::builder().method(method).uri(target);
        for (name, value) in headers {
            builder = builder.header(*name, *value);
        }
        let (request, ()) = builder.body(()).expect("a valid request").into_parts();
        let path = request.uri.path().to_owned();
        let query = request.uri.query().map(str::to_owned);
        let ip = IpAddr::from([127, 0, 0, 1]);
        Exchange {
            body: RequestBody::Empty,
            raw_uri: target.to_owned(),
            upstream_path: path.clone(),
            path,
            query,
            host: "gateway.test".to_owned(),
            host_port: None,
            captures: Vec::new(),
            client: Client {
                peer: SocketAddr::new(ip, 40_000),
                ip,
                trusted: false,
                told: false,
                local_port: 8000,
                tls: false,
            },
            channel: Rc::new(Channel { peer: "127.0.0.1".into(), port: "8000".into(), ..Channel::default() }),
            client_text: None,
            request_id: RequestId::new(7),
            started_ns: 1_000_000_000,
            started_unix_ns: 1_700_000_000_000_000_000,
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
            request,
        }
    }
}

/// A response on its way to the client, as plugins see it.
pub struct Response {
    /// The status.
    pub status: StatusCode,
    /// Headers of the response; framing and hop-by-hop fields are not among them.
    pub headers: HeaderMap,
    /// The whole body, when a plugin asked for it (`Plugin::response_body_limit`).
    pub body: Option<Bytes>,
    /// False for an answer of the gateway itself.
    pub from_upstream: bool,
    /// The upstream's body is not to be sent: a plugin gave the answer another meaning.
    pub without_body: bool,
}
