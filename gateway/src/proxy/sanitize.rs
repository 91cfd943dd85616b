//! The one gate before routing: a request that two servers could read differently is refused here, for HTTP/1 and HTTP/2
//! alike, and what passes is in one normal form.

use std::borrow::Cow;

use http::header::{CONTENT_LENGTH, EXPECT, HOST, HeaderName, TE, TRANSFER_ENCODING, UPGRADE};
use http::{HeaderMap, Method, Uri, Version, request};

use super::reply::Refusal;
use crate::router::path;

/// What passed.
#[derive(Debug)]
pub struct Normal {
    /// Normalised path.
    pub path: String,
    /// Query without `?`.
    pub query: Option<String>,
    /// Host in lower case, without a port; empty for an HTTP/1.0 request without one.
    pub host: String,
    /// The port that stands beside the host.
    pub port: Option<u16>,
    /// Whether it asks for a WebSocket.
    pub upgrade: bool,
}

/// Bytes of a method at most.
const METHOD_MAX: usize = 32;
/// Bytes of all fields at most, names and values.
const FIELDS_BYTES_MAX: usize = 64 * 1024;
/// Bytes of a target at most.
const TARGET_MAX: usize = 16 * 1024;

/// Judges a request's head.
///
/// # Errors
/// The refusal to answer with.
pub fn sanitize(request: &request::Parts) -> Result<Normal, Refusal> {
    let h2 = request.version == Version::HTTP_2;
    method(&request.method)?;
    framing(request, h2)?;
    let mut bytes = 0;
    for (name, value) in &request.headers {
        lookalike(name)?;
        bytes += name.as_str().len() + value.len();
    }
    // The parser bounds what it buffers, which may be more than one head.
    if bytes > FIELDS_BYTES_MAX {
        return Err(Refusal::HeadersTooLarge);
    }
    let (host, port) = host(request, h2)?;
    let (path, query) = target(&request.uri, h2)?;
    let upgrade = upgrade(request, h2)?;
    Ok(Normal { path, query, host, port, upgrade })
}

fn method(method: &Method) -> Result<(), Refusal> {
    // TRACE echoes credentials, CONNECT makes tunnels: neither is a gateway's (RFC 9110 §9.3.6, §9.3.8).
    if *method == Method::TRACE || *method == Method::CONNECT || method.as_str().len() > METHOD_MAX {
        return Err(Refusal::BadMethod);
    }
    Ok(())
}

/// RFC 9112 §6: one reading of where the body ends, or none at all.
fn framing(request: &request::Parts, h2: bool) -> Result<(), Refusal> {
    let headers = &request.headers;
    let mut lengths = headers.get_all(CONTENT_LENGTH).iter();
    if let Some(first) = lengths.next() {
        let digits = first.as_bytes();
        if lengths.next().is_some() || digits.is_empty() || !digits.iter().all(u8::is_ascii_digit) {
            return Err(Refusal::BadFraming);
        }
    }
    let mut encodings = headers.get_all(TRANSFER_ENCODING).iter();
    if let Some(first) = encodings.next() {
        let chunked = first.as_bytes().eq_ignore_ascii_case(b"chunked");
        let one = encodings.next().is_none();
        if h2 || !chunked || !one || request.version != Version::HTTP_11 || headers.contains_key(CONTENT_LENGTH) {
            return Err(Refusal::BadFraming);
        }
    }
    if h2 && headers.get(TE).is_some_and(|te| te != "trailers") {
        return Err(Refusal::BadFraming);
    }
    match headers.get(EXPECT) {
        Some(expect) if !expect.as_bytes().eq_ignore_ascii_case(b"100-continue") => Err(Refusal::BadRequest),
        _ => Ok(()),
    }
}

/// Names that an upstream which maps `_` and `-` together would take for a field that the gateway sets, checks or strips.
fn lookalike(name: &HeaderName) -> Result<(), Refusal> {
    if !name.as_str().contains('_') {
        return Ok(());
    }
    const EXACT: &[&str] = &[
        "content-length",
        "transfer-encoding",
        "host",
        "connection",
        "upgrade",
        "authorization",
        "proxy-authorization",
        "x-real-ip",
        "keep-alive",
        "te",
        "trailer",
        "expect",
    ];
    const PREFIXES: &[&str] =
        &["x-consumer-", "x-credential-", "x-forwarded-", "x-authenticated-", "x-anonymous-", "x-kong-"];
    let dashed = name.as_str().replace('_', "-");
    if EXACT.contains(&dashed.as_str()) || PREFIXES.iter().any(|p| dashed.starts_with(p)) {
        return Err(Refusal::BadHeaderName);
    }
    Ok(())
}

/// RFC 9112 §3.2, RFC 9113 §8.3.1: one host, well formed; the target's authority wins and must not be contradicted.
fn host(request: &request::Parts, h2: bool) -> Result<(String, Option<u16>), Refusal> {
    let mut given = request.headers.get_all(HOST).iter();
    let header = given.next();
    if given.next().is_some() {
        return Err(Refusal::BadHost);
    }
    let header = header.map(|h| h.to_str().map_err(|_| Refusal::BadHost)).transpose()?;
    let authority = request.uri.authority().map(http::uri::Authority::as_str);
    let text = match (authority, header) {
        (Some(authority), Some(header)) if h2 && !authority.eq_ignore_ascii_case(header) => {
            return Err(Refusal::BadHost);
        }
        (Some(_), None) if !h2 && request.version == Version::HTTP_11 => return Err(Refusal::BadHost),
        (Some(authority), _) => authority,
        (None, Some(header)) => header,
        (None, None) if request.version == Version::HTTP_10 => return Ok((String::new(), None)),
        (None, None) => return Err(Refusal::BadHost),
    };
    host_name(text).ok_or(Refusal::BadHost)
}

/// Name in lower case and port of `host[:port]`, if the whole is well formed (RFC 3986 §3.2.2).
fn host_name(text: &str) -> Option<(String, Option<u16>)> {
    let (name, port) = match text.strip_prefix('[') {
        Some(rest) => {
            let (address, after) = rest.split_once(']')?;
            address.parse::<std::net::Ipv6Addr>().ok()?;
            let port = if after.is_empty() { None } else { Some(after.strip_prefix(':')?) };
            (&text[..address.len() + 2], port)
        }
        None => text.split_once(':').map_or((text, None), |(name, port)| (name, Some(port))),
    };
    let digits = |port: &str| port.len() <= 5 && port.bytes().all(|b| b.is_ascii_digit());
    let port = match port {
        Some(port) => Some(port.parse().ok().filter(|_| digits(port))?),
        None => None,
    };
    let label = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b'_' | b'~');
    let fits = name.starts_with('[') || (!name.is_empty() && name.len() <= 255 && name.bytes().all(label));
    fits.then(|| (name.to_ascii_lowercase(), port))
}

fn target(uri: &Uri, h2: bool) -> Result<(String, Option<String>), Refusal> {
    match uri.scheme_str() {
        None | Some("http" | "https") => {}
        Some(_) => return Err(Refusal::BadPath),
    }
    // An authority without a scheme is CONNECT's form; h2 always has both.
    if uri.authority().is_some() && uri.scheme().is_none() && !h2 {
        return Err(Refusal::BadPath);
    }
    if uri.authority().is_some_and(|a| a.as_str().contains('@')) {
        return Err(Refusal::BadHost);
    }
    let raw = uri.path();
    if !raw.starts_with('/') {
        return Err(Refusal::BadPath);
    }
    let query = uri.query();
    if raw.len() + query.map_or(0, str::len) > TARGET_MAX {
        return Err(Refusal::UriTooLong);
    }
    if query.is_some_and(|q| !q.bytes().all(|b| b.is_ascii_graphic())) {
        return Err(Refusal::BadPath);
    }
    let path = path::normalize(raw).map(Cow::into_owned).map_err(|_| Refusal::BadPath)?;
    Ok((path, query.map(str::to_owned)))
}

/// Only a WebSocket may leave HTTP. `h2c` and other protocols are not forwarded: the field is dropped and HTTP goes on
/// (RFC 9110 §7.8 lets a server ignore Upgrade).
fn upgrade(request: &request::Parts, h2: bool) -> Result<bool, Refusal> {
    let Some(protocol) = request.headers.get(UPGRADE) else { return Ok(false) };
    if h2 {
        return Err(Refusal::BadUpgrade);
    }
    let asked = nominates(&request.headers, "upgrade") && protocol.as_bytes().eq_ignore_ascii_case(b"websocket");
    if asked && (request.method != Method::GET || request.version != Version::HTTP_11) {
        return Err(Refusal::BadUpgrade);
    }
    Ok(asked && request.headers.contains_key(http::header::SEC_WEBSOCKET_KEY))
}

/// Whether `Connection` names `token`.
#[must_use]
pub fn nominates(headers: &HeaderMap, token: &str) -> bool {
    headers
        .get_all(http::header::CONNECTION)
        .iter()
        .filter_map(|v| v.to_str().ok())
        .any(|v| v.split(',').any(|t| t.trim().eq_ignore_ascii_case(token)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn judge(build: impl FnOnce(http::request::Builder) -> http::request::Builder) -> Result<Normal, Refusal> {
        let request = build(http::Request::builder()).body(()).expect("request");
        sanitize(&request.into_parts().0)
    }

    #[test]
    fn a_plain_request_passes() {
        let normal = judge(|r| r.uri("/a/../b?x=1").header("host", "Example.com:8080")).expect("passes");
        assert_eq!(
            (normal.path.as_str(), normal.query.as_deref(), normal.host.as_str()),
            ("/b", Some("x=1"), "example.com")
        );
    }

    #[test]
    fn ambiguous_framing_is_refused() {
        let te = |value: &str| {
            let value = value.to_owned();
            judge(move |r| r.method("POST").uri("/").header("host", "a").header("transfer-encoding", value))
        };
        assert!(te("chunked").is_ok() && te("Chunked").is_ok());
        for bad in ["cow", "chunked, chunked", "gzip, chunked", ",chunked", "\"chunked\"", "xchunked", "identity"] {
            assert_eq!(te(bad).err(), Some(Refusal::BadFraming), "{bad}");
        }
        for bad in ["+5", "-0", "0x5", "5 5", "5;x", "5,5", ""] {
            let judged = judge(|r| r.uri("/").header("host", "a").header("content-length", bad));
            assert_eq!(judged.err(), Some(Refusal::BadFraming), "{bad}");
        }
        let both = judge(|r| {
            r.uri("/").header("host", "a").header("content-length", "5").header("transfer-encoding", "chunked")
        });
        assert_eq!(both.err(), Some(Refusal::BadFraming));
    }

    #[test]
    fn hosts_are_judged() {
        for good in ["a", "a.b:80", "127.0.0.1", "[::1]:443", "A-b_c.d"] {
            assert!(host_name(good).is_some(), "{good}");
        }
        for bad in ["", "a b", "a:", "a:99999", "a:8x", "a/b", "a@b", "[::1", "a?b", "a\\b", "a:1:2"] {
            assert!(host_name(bad).is_none(), "{bad}");
        }
        assert_eq!(judge(|r| r.uri("/").header("host", "a").header("host", "b")).err(), Some(Refusal::BadHost));
        assert_eq!(judge(|r| r.uri("/")).err(), Some(Refusal::BadHost));
    }

    #[test]
    fn lookalikes_and_odd_methods_are_refused() {
        let with = |name: &'static str| judge(move |r| r.uri("/").header("host", "a").header(name, "1"));
        assert_eq!(with("content_length").err(), Some(Refusal::BadHeaderName));
        assert_eq!(with("x_consumer_username").err(), Some(Refusal::BadHeaderName));
        assert!(with("api_key").is_ok());
        for method in ["TRACE", "CONNECT", "AVERYLONGMETHODNAMETHATNOBODYEVERUSES"] {
            assert_eq!(
                judge(|r| r.method(method).uri("/").header("host", "a")).err(),
                Some(Refusal::BadMethod),
                "{method}"
            );
        }
    }

    #[test]
    fn only_websockets_upgrade() {
        let up = |protocol: &'static str| {
            judge(move |r| {
                let r = r.uri("/").header("host", "a").header("connection", "Upgrade").header("upgrade", protocol);
                r.header("sec-websocket-key", "x")
            })
        };
        assert!(up("websocket").expect("passes").upgrade);
        assert!(!up("h2c").expect("passes").upgrade);
    }
}
