//! Headers at the border: what an upstream gets to know of the client and its request, and what is never passed on, in both
//! directions (Kong's header rules; RFC 9110 §7.6.1 for hop-by-hop fields).

use std::borrow::Cow;

use http::header::{CONNECTION, HOST, HeaderMap, HeaderName, HeaderValue, TE, VIA};
use smallvec::SmallVec;

use super::exchange::{Exchange, Response, is_identity};
use crate::config::marks::Marks;

/// `Via` and `Server` of this gateway.
pub const PRODUCT: &str = concat!("gateway/", env!("CARGO_PKG_VERSION"));
const VIA_11: &str = concat!("1.1 gateway/", env!("CARGO_PKG_VERSION"));

static X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
static X_FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
static X_FORWARDED_PATH: HeaderName = HeaderName::from_static("x-forwarded-path");
static X_FORWARDED_PORT: HeaderName = HeaderName::from_static("x-forwarded-port");
static X_FORWARDED_PREFIX: HeaderName = HeaderName::from_static("x-forwarded-prefix");
static X_FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
static X_REAL_IP: HeaderName = HeaderName::from_static("x-real-ip");
static X_REQUEST_ID: HeaderName = HeaderName::from_static("x-kong-request-id");
static X_UPSTREAM_LATENCY: HeaderName = HeaderName::from_static("x-kong-upstream-latency");
static X_PROXY_LATENCY: HeaderName = HeaderName::from_static("x-kong-proxy-latency");
static X_UPSTREAM_STATUS: HeaderName = HeaderName::from_static("x-kong-upstream-status");
static X_RESPONSE_LATENCY: HeaderName = HeaderName::from_static("x-kong-response-latency");

/// Fields of a request that end here: hop by hop, or spoken by the gateway itself.
fn ends_here(name: &HeaderName) -> bool {
    matches!(
        name.as_str(),
        "connection"
            | "keep-alive"
            | "proxy-connection"
            | "proxy-authenticate"
            | "proxy"
            | "te"
            | "trailer"
            | "transfer-encoding"
            | "upgrade"
            | "expect"
            | "http2-settings"
            | "via"
            | "x-real-ip"
            | "x-kong-request-id"
            | "x-forwarded-for"
            | "x-forwarded-host"
            | "x-forwarded-path"
            | "x-forwarded-port"
            | "x-forwarded-prefix"
            | "x-forwarded-proto"
    )
}

/// Fields that one hop says to the next (RFC 9110 §7.6.1).
fn is_hop_by_hop(name: &HeaderName) -> bool {
    matches!(
        name.as_str(),
        "connection" | "keep-alive" | "proxy-connection" | "transfer-encoding" | "upgrade" | "trailer"
    )
}

type Names = SmallVec<[HeaderName; 4]>;

/// The fields that `Connection` names. Those that frame or carry identity are not nominable (RFC 9110 §7.6.1 warns of it).
fn nominated(headers: &HeaderMap) -> Names {
    let values = headers.get_all(CONNECTION).iter().filter_map(|v| v.to_str().ok());
    let tokens = values.flat_map(|v| v.split(',')).map(str::trim);
    // The two that nearly every message has name nothing.
    let names = tokens.filter(|t| !t.eq_ignore_ascii_case("keep-alive") && !t.eq_ignore_ascii_case("close"));
    names.filter_map(|t| HeaderName::from_bytes(t.as_bytes()).ok()).filter(nominable).collect()
}

fn nominable(name: &HeaderName) -> bool {
    let text = name.as_str();
    const IDENTITY: &[&str] = &[
        "x-anonymous-consumer",
        "x-authenticated-",
        "x-consumer-",
        "x-credential-",
        "x-forwarded-",
        "x-kong-",
        "x-real-ip",
    ];
    !(*name == HOST
        || matches!(text, "content-length" | "transfer-encoding" | "authorization" | "cookie" | "content-type" | "via")
        || IDENTITY.iter().any(|prefix| text.starts_with(prefix)))
}

/// Removes what a client's `Connection` names, before any plugin adds fields of its own.
pub fn strip_nominated(headers: &mut HeaderMap) {
    if headers.contains_key(CONNECTION) {
        for name in nominated(headers) {
            headers.remove(name);
        }
    }
}

/// Removes what a client says of who it is. An authentication plugin does so as well, but not every route has one.
pub fn strip_identity(headers: &mut HeaderMap) {
    let names: Names = headers.keys().filter(|name| is_identity(name)).cloned().collect();
    for name in names {
        headers.remove(name);
    }
}

/// Removes hop-by-hop fields and those that `Connection` names.
pub fn strip_hop_by_hop(headers: &mut HeaderMap) {
    let mut names: Names = headers.keys().filter(|n| is_hop_by_hop(n)).cloned().collect();
    if names.is_empty() {
        return;
    }
    names.extend(nominated(headers));
    for name in names {
        headers.remove(name);
    }
}

/// What stands between the client's fields and the upstream's.
pub struct Border<'a> {
    exchange: &'a Exchange,
    chain: Cow<'a, str>,
    via: Cow<'a, str>,
    stripped: &'a str,
    marks: Marks,
}

/// A field that the gateway adds.
pub type Added<'a> = SmallVec<[(&'a HeaderName, &'a [u8]); 12]>;

impl<'a> Border<'a> {
    /// The border for one request. `stripped` is the part of the path that `strip_path` took away.
    #[must_use]
    pub fn new(exchange: &'a Exchange, stripped: &'a str, marks: Marks) -> Self {
        let headers = &exchange.request.headers;
        // Without a chain the client is its whole; what a proxy has begun ends with the proxy (Kong).
        let is_begun = headers.contains_key(&X_FORWARDED_FOR);
        let last = exchange.client_text.as_deref().filter(|_| !is_begun).unwrap_or(&exchange.channel.peer);
        Border {
            exchange,
            chain: joined(headers, &X_FORWARDED_FOR, last),
            via: joined(headers, &VIA, VIA_11),
            stripped,
            marks,
        }
    }

    /// Whether a field of the request stays on this side.
    #[must_use]
    pub fn withholds(&self, name: &HeaderName) -> bool {
        ends_here(name) || (*name == http::header::FORWARDED && !self.exchange.client.trusted)
    }

    /// What the upstream is told of the client and its request.
    #[must_use]
    pub fn added(&'a self) -> Added<'a> {
        let ex = self.exchange;
        let mut added = Added::new();
        let tell = |name: &'a HeaderName, own: &'a str| {
            // A trusted peer's word about its client is kept.
            let given = if ex.client.trusted { ex.request.headers.get(name) } else { None };
            (name, given.map_or(own.as_bytes(), HeaderValue::as_bytes))
        };
        added.push((&X_FORWARDED_FOR, self.chain.as_bytes()));
        added.push(tell(&X_FORWARDED_PROTO, if ex.client.tls { "https" } else { "http" }));
        added.push(tell(&X_FORWARDED_HOST, &ex.host));
        added.push(tell(&X_FORWARDED_PORT, &ex.channel.port));
        added.push(tell(&X_FORWARDED_PATH, ex.request.uri.path()));
        if self.stripped.len() > 1 || (ex.client.trusted && ex.request.headers.contains_key(&X_FORWARDED_PREFIX)) {
            added.push(tell(&X_FORWARDED_PREFIX, self.stripped));
        }
        added.push((&X_REAL_IP, ex.client_text.as_deref().unwrap_or(&ex.channel.peer).as_bytes()));
        if self.marks.has(Marks::REQUEST_ID_UPSTREAM) {
            added.push((&X_REQUEST_ID, ex.request_id.as_str().as_bytes()));
        }
        added.push((&VIA, self.via.as_bytes()));
        added
    }

    /// Whether the client takes trailers, which `TE` says to the next hop.
    #[must_use]
    pub fn takes_trailers(&self) -> bool {
        self.exchange.request.headers.get(TE).is_some_and(|te| te.as_bytes().eq_ignore_ascii_case(b"trailers"))
    }
}

/// The values that a list field has already, and ours behind them.
fn joined<'a>(headers: &HeaderMap, name: &HeaderName, own: &'a str) -> Cow<'a, str> {
    if !headers.contains_key(name) {
        return Cow::Borrowed(own);
    }
    let mut text = String::new();
    for value in headers.get_all(name) {
        // Bytes beyond ASCII have no meaning in these fields; what is left of them cannot forge an element.
        text.extend(value.as_bytes().iter().filter(|b| b.is_ascii() && !b.is_ascii_control()).map(|b| char::from(*b)));
        text.push_str(", ");
    }
    text.push_str(own);
    Cow::Owned(text)
}

/// Marks a proxied answer on its way to the client.
pub fn mark_proxied(response: &mut Response, exchange: &Exchange, marks: Marks, upstream_ms: u64, gateway_ms: u64) {
    let headers = &mut response.headers;
    if marks.has(Marks::VIA) {
        headers.append(VIA, HeaderValue::from_static(VIA_11));
    }
    if marks.has(Marks::UPSTREAM_LATENCY) {
        headers.insert(&X_UPSTREAM_LATENCY, number(upstream_ms));
    }
    if marks.has(Marks::PROXY_LATENCY) {
        headers.insert(&X_PROXY_LATENCY, number(gateway_ms));
    }
    if marks.has(Marks::UPSTREAM_STATUS) {
        headers.insert(&X_UPSTREAM_STATUS, number(u64::from(response.status.as_u16())));
    }
    if marks.has(Marks::REQUEST_ID) {
        headers.insert(&X_REQUEST_ID, id_value(exchange));
    }
}

/// Marks an answer of the gateway itself.
pub fn mark_own(headers: &mut HeaderMap, exchange: &Exchange, marks: Marks, gateway_ms: u64) {
    if marks.has(Marks::SERVER) {
        headers.insert(http::header::SERVER, HeaderValue::from_static(PRODUCT));
    }
    if marks.has(Marks::RESPONSE_LATENCY) {
        headers.insert(&X_RESPONSE_LATENCY, number(gateway_ms));
    }
    if marks.has(Marks::REQUEST_ID) {
        headers.insert(&X_REQUEST_ID, id_value(exchange));
    }
}

/// A number as a value; the small ones that nearly all latencies are cost no allocation.
fn number(n: u64) -> HeaderValue {
    const SMALL: [&str; 10] = ["0", "1", "2", "3", "4", "5", "6", "7", "8", "9"];
    SMALL.get(n as usize).map_or_else(|| HeaderValue::from(n), |text| HeaderValue::from_static(text))
}

fn id_value(exchange: &Exchange) -> HeaderValue {
    HeaderValue::from_str(exchange.request_id.as_str()).unwrap_or(HeaderValue::from_static("-"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nominated_fields_go_and_framing_stays() {
        let mut headers = HeaderMap::new();
        for (name, value) in [
            ("connection", "close, X-Consumer-ID, foo, Content-Length"),
            ("foo", "1"),
            ("x-consumer-id", "2"),
            ("content-length", "3"),
            ("keep-alive", "x"),
        ] {
            headers.append(name, value.parse().expect("value"));
        }
        strip_hop_by_hop(&mut headers);
        assert!(
            !headers.contains_key("foo") && !headers.contains_key("keep-alive") && !headers.contains_key("connection")
        );
        assert!(headers.contains_key("content-length") && headers.contains_key("x-consumer-id"));
    }
}
