//! Headers at the border: what an upstream gets to know of the client and its request, and what is never passed on, in both
//! directions (Kong's header rules; RFC 9110 §7.6.1 for hop-by-hop fields).

use std::fmt::Write;

use http::header::{
    CONNECTION, EXPECT, FORWARDED, HOST, HeaderMap, HeaderName, HeaderValue, PROXY_AUTHENTICATE, TE, TRAILER,
    TRANSFER_ENCODING, UPGRADE, VIA,
};
use smallvec::SmallVec;

use super::exchange::Exchange;

/// `Via` and `Server` of this gateway.
pub const PRODUCT: &str = concat!("gateway/", env!("CARGO_PKG_VERSION"));
const VIA_11: &str = concat!("1.1 gateway/", env!("CARGO_PKG_VERSION"));

const KEEP_ALIVE: HeaderName = HeaderName::from_static("keep-alive");
const PROXY: HeaderName = HeaderName::from_static("proxy");
const PROXY_CONNECTION: HeaderName = HeaderName::from_static("proxy-connection");
const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const X_FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
const X_FORWARDED_PATH: HeaderName = HeaderName::from_static("x-forwarded-path");
const X_FORWARDED_PORT: HeaderName = HeaderName::from_static("x-forwarded-port");
const X_FORWARDED_PREFIX: HeaderName = HeaderName::from_static("x-forwarded-prefix");
const X_FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
const X_REAL_IP: HeaderName = HeaderName::from_static("x-real-ip");
/// The request's id, to the upstream and to the client.
pub const X_REQUEST_ID: HeaderName = HeaderName::from_static("x-kong-request-id");
/// Milliseconds that the upstream took.
pub const X_UPSTREAM_LATENCY: HeaderName = HeaderName::from_static("x-kong-upstream-latency");
/// Milliseconds that the gateway took for a proxied request.
pub const X_PROXY_LATENCY: HeaderName = HeaderName::from_static("x-kong-proxy-latency");
/// Milliseconds that the gateway took for an answer of its own.
pub const X_RESPONSE_LATENCY: HeaderName = HeaderName::from_static("x-kong-response-latency");

/// Fields that a client may not speak for the gateway about; set anew, or kept only from a trusted peer.
const OURS: [HeaderName; 8] = [
    X_FORWARDED_FOR,
    X_FORWARDED_HOST,
    X_FORWARDED_PATH,
    X_FORWARDED_PORT,
    X_FORWARDED_PREFIX,
    X_FORWARDED_PROTO,
    X_REAL_IP,
    X_REQUEST_ID,
];

/// Removes hop-by-hop fields and those that `Connection` names. Fields that frame or carry identity are not nominable.
pub fn strip_hop_by_hop(headers: &mut HeaderMap) {
    if headers.contains_key(CONNECTION) {
        let named: SmallVec<[HeaderName; 4]> = headers
            .get_all(CONNECTION)
            .iter()
            .filter_map(|v| v.to_str().ok())
            .flat_map(|v| v.split(','))
            .filter_map(|t| HeaderName::from_bytes(t.trim().as_bytes()).ok())
            .filter(nominable)
            .collect();
        for name in named {
            headers.remove(name);
        }
        headers.remove(CONNECTION);
    }
    for name in [&KEEP_ALIVE, &PROXY_CONNECTION, &TRANSFER_ENCODING, &UPGRADE, &TRAILER] {
        headers.remove(name);
    }
}

fn nominable(name: &HeaderName) -> bool {
    let text = name.as_str();
    !(*name == HOST
        || matches!(text, "content-length" | "transfer-encoding" | "authorization" | "cookie" | "content-type" | "via")
        || text.starts_with("x-"))
}

/// What the gateway adds for the upstream, formatted once.
pub struct Added {
    values: SmallVec<[(HeaderName, SmallVec<[u8; 48]>); 10]>,
}

impl Added {
    /// The fields in the form that the upstream client writes.
    #[must_use]
    pub fn fields(&self) -> SmallVec<[(&HeaderName, &[u8]); 10]> {
        self.values.iter().map(|(name, value)| (name, value.as_slice())).collect()
    }

    fn put(&mut self, name: HeaderName, value: &[u8]) {
        self.values.push((name, SmallVec::from_slice(value)));
    }
}

/// Takes out of the request's headers what must not reach the upstream, and says what to add. `stripped` is the part of the
/// path that `strip_path` took away.
pub fn prepare(exchange: &mut Exchange, stripped: &str) -> Added {
    let mut added = Added { values: SmallVec::new() };
    let client = exchange.client;
    let mut number = itoa::Buffer::new();
    let headers = &mut exchange.request.headers;
    let trailers = headers.get(TE).is_some_and(|te| te.as_bytes().eq_ignore_ascii_case(b"trailers"));
    strip_hop_by_hop(headers);
    for name in [&TE, &PROXY, &EXPECT, &FORWARDED] {
        // A client's Forwarded would stand beside ours and say something else.
        if !(client.trusted && *name == FORWARDED) {
            headers.remove(name);
        }
    }
    headers.remove(PROXY_AUTHENTICATE);
    if trailers {
        added.put(TE, b"trailers");
    }

    let mut chain: SmallVec<[u8; 96]> = SmallVec::new();
    for value in headers.get_all(X_FORWARDED_FOR) {
        chain.extend_from_slice(value.as_bytes());
        chain.extend_from_slice(b", ");
    }
    let mut peer = AddressText::default();
    peer.write(client.peer.ip());
    chain.extend_from_slice(peer.as_bytes());
    added.put(X_FORWARDED_FOR, &chain);

    let mut tell = |name: HeaderName, value: &[u8]| {
        let kept = client.trusted.then(|| headers.get(&name)).flatten();
        added.put(name, kept.map_or(value, HeaderValue::as_bytes));
    };
    tell(X_FORWARDED_PROTO, if client.tls { b"https" } else { b"http" });
    tell(X_FORWARDED_HOST, exchange.host.as_bytes());
    tell(X_FORWARDED_PORT, number.format(client.local_port).as_bytes());
    tell(X_FORWARDED_PATH, exchange.raw_uri.split('?').next().unwrap_or_default().as_bytes());
    if stripped.len() > 1 {
        tell(X_FORWARDED_PREFIX, stripped.as_bytes());
    }
    let mut real = AddressText::default();
    real.write(client.ip);
    added.put(X_REAL_IP, real.as_bytes());
    added.put(X_REQUEST_ID, exchange.request_id.as_str().as_bytes());
    for name in &OURS {
        headers.remove(name);
    }
    headers.append(VIA, HeaderValue::from_static(VIA_11));
    added
}

/// Marks a proxied answer on its way to the client.
pub fn mark_proxied(headers: &mut HeaderMap, exchange: &Exchange, upstream_ms: u64, gateway_ms: u64) {
    headers.append(VIA, HeaderValue::from_static(VIA_11));
    headers.insert(X_UPSTREAM_LATENCY, HeaderValue::from(upstream_ms));
    headers.insert(X_PROXY_LATENCY, HeaderValue::from(gateway_ms));
    headers.insert(X_REQUEST_ID, id_value(exchange));
}

/// Marks an answer of the gateway itself.
pub fn mark_own(headers: &mut HeaderMap, exchange: &Exchange, gateway_ms: u64) {
    headers.insert(http::header::SERVER, HeaderValue::from_static(PRODUCT));
    headers.insert(X_RESPONSE_LATENCY, HeaderValue::from(gateway_ms));
    headers.insert(X_REQUEST_ID, id_value(exchange));
}

fn id_value(exchange: &Exchange) -> HeaderValue {
    HeaderValue::from_str(exchange.request_id.as_str()).unwrap_or(HeaderValue::from_static("-"))
}

/// An address's text without an allocation.
#[derive(Default)]
struct AddressText(SmallVec<[u8; 48]>);

impl AddressText {
    fn write(&mut self, ip: std::net::IpAddr) {
        let _ = write!(self, "{ip}");
    }

    fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

impl Write for AddressText {
    fn write_str(&mut self, text: &str) -> std::fmt::Result {
        self.0.extend_from_slice(text.as_bytes());
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nominated_fields_go_and_framing_stays() {
        let mut headers = HeaderMap::new();
        for (name, value) in [
            ("connection", "close, X-Secret, foo, Content-Length"),
            ("foo", "1"),
            ("x-secret", "2"),
            ("content-length", "3"),
            ("keep-alive", "x"),
        ] {
            headers.append(name, value.parse().expect("value"));
        }
        strip_hop_by_hop(&mut headers);
        assert!(
            !headers.contains_key("foo") && !headers.contains_key("keep-alive") && !headers.contains_key("connection")
        );
        assert!(headers.contains_key("content-length") && headers.contains_key("x-secret"));
    }
}
