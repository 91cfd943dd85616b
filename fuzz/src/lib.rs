//! What must hold for any bytes, one function a parser. The fuzz targets call them under a sanitizer; a plain test of the
//! gateway (`gateway/tests/corpora.rs`) replays the corpora through the same functions.

#![allow(missing_docs, reason = "the functions are named as their targets")]

mod requests;

use std::sync::{Arc, OnceLock};

pub use requests::{expression, requests, template};

use bytes::Bytes;
use gateway::ber;
use gateway::config::{Bundle, Load, compile};
use gateway::identity::JwtAlgorithm;
use gateway::identity::certificate::Names;
use gateway::identity::dn;
use gateway::identity::jwk::KeySet;
use gateway::identity::remote::ldap::verdict_of;
use gateway::listen::proxy_protocol::{HEADER_BYTES_MAX, Step, read};
use gateway::plugins::Shared;
use gateway::plugins::auth::jwt_token;
use gateway::proxy::h1::{Connection, Limits, Reply, RequestHead};
use gateway::proxy::sanitize::{Normal, sanitize};
use gateway::router::path::normalize;
use gateway_common::packet::{self, Frame};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Uri, Version};
use http_body_util::{BodyExt, Empty};
use tokio::io::AsyncWriteExt;

/// A target: its name, which its corpus' folder has too, and what must hold.
pub type Target = (&'static str, fn(&[u8]));

/// All of them.
pub const TARGETS: [Target; 14] = [
    ("certificate", certificate),
    ("config", config),
    ("expression", expression),
    ("host", host),
    ("jwks", jwks),
    ("jwt", jwt),
    ("ldap", ldap),
    ("packet", packet_parser),
    ("path", path),
    ("proxy_protocol", proxy_protocol),
    ("request", requests),
    ("response", response),
    ("sanitize", sanitized),
    ("template", template),
];

fn shared() -> &'static Arc<Shared> {
    static SHARED: OnceLock<Arc<Shared>> = OnceLock::new();
    SHARED.get_or_init(|| {
        gateway::crypto::install();
        gateway::app::shared().expect("a thread can be started").0
    })
}

/// A configuration is compiled or refused with words, and an accepted one is accepted again.
pub fn config(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let compiled = compile(&Bundle::of("kong.yml", text), &Arc::new(Load::default()), shared());
    assert_eq!(compiled.snapshot.is_none(), compiled.report.fatal() || compiled.snapshot.is_none());
    if compiled.snapshot.is_none() {
        assert!(!compiled.report.problems().is_empty(), "refused without a word");
    }
}

/// A request as the HTTP/1.1 parser hands it over, if it does.
fn parsed(data: &[u8]) -> Option<Request<()>> {
    let mut fields = [httparse::EMPTY_HEADER; 128];
    let mut request = httparse::Request::new(&mut fields);
    if !request.parse(data).ok()?.is_complete() {
        return None;
    }
    let mut out = Request::new(());
    *out.method_mut() = Method::from_bytes(request.method?.as_bytes()).ok()?;
    *out.uri_mut() = request.path?.parse::<Uri>().ok()?;
    *out.version_mut() = if request.version? == 0 { Version::HTTP_10 } else { Version::HTTP_11 };
    for field in request.headers.iter() {
        let name = HeaderName::from_bytes(field.name.as_bytes()).ok()?;
        out.headers_mut().append(name, HeaderValue::from_bytes(field.value).ok()?);
    }
    Some(out)
}

/// What passes the gate reads only one way.
pub fn sanitized(data: &[u8]) {
    let Some(request) = parsed(data) else { return };
    for version in [request.version(), Version::HTTP_2] {
        let mut request = request.clone();
        *request.version_mut() = version;
        let (parts, ()) = request.into_parts();
        let Ok(normal) = sanitize(&parts) else { continue };
        is_normal(&normal);
        let lengths = parts.headers.get_all("content-length").iter().count();
        let codings: Vec<_> = parts.headers.get_all("transfer-encoding").iter().collect();
        assert!(lengths <= 1 && codings.len() <= 1 && lengths + codings.len() <= 1, "ambiguous framing");
        assert!(codings.iter().all(|coding| coding.as_bytes().eq_ignore_ascii_case(b"chunked")), "{codings:?}");
        assert!(codings.is_empty() || version == Version::HTTP_11, "chunks in {version:?}");
        assert!(parts.headers.get_all("host").iter().count() <= 1, "two hosts");
        assert!(parts.method != Method::CONNECT && parts.method != Method::TRACE);
    }
}

fn is_normal(normal: &Normal) {
    is_straight(&normal.path);
    assert!(normal.query.as_ref().is_none_or(|query| query.bytes().all(|byte| byte.is_ascii_graphic())));
    let fine = |byte: u8| byte.is_ascii_graphic() && !b"/\\?#@,\"<>{}|^`".contains(&byte);
    assert!(normal.host.bytes().all(fine) && normal.host == normal.host.to_ascii_lowercase(), "{:?}", normal.host);
}

/// The normal form is one, and no second reading leads out of it.
fn is_straight(path: &str) {
    assert!(path.starts_with('/') && path.bytes().all(|byte| byte.is_ascii_graphic()), "{path:?}");
    assert_eq!(normalize(path).as_deref(), Ok(path), "not a fixed point");
    assert!(!path.contains("//") && !path.contains(['\\', '#', '?']), "{path:?}");
    let mut reading = path.to_owned();
    for _ in 0..3 {
        let plain = reading.replace('\\', "/");
        let crooked = |segment: &str| matches!(segment.split(';').next(), Some("." | ".."));
        assert!(!plain.split('/').any(crooked), "{path:?} reads as {reading:?}");
        assert!(!reading.contains('\0'), "{path:?} has a NUL");
        match decode(&reading) {
            Some(next) if next != reading => reading = next,
            _ => break,
        }
        if reading.matches('%').count() == 0 {
            continue;
        }
    }
}

fn decode(text: &str) -> Option<String> {
    let bytes = text.as_bytes();
    let (mut out, mut at) = (Vec::new(), 0);
    while at < bytes.len() {
        let pair = bytes.get(at + 1..at + 3).filter(|pair| bytes[at] == b'%' && pair.iter().all(u8::is_ascii_hexdigit));
        match pair.and_then(|pair| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok()) {
            Some(byte) => {
                out.push(byte);
                at += 3;
            }
            None => {
                out.push(bytes[at]);
                at += 1;
            }
        }
    }
    String::from_utf8(out).ok()
}

/// Any path is refused or made straight.
pub fn path(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    if let Ok(path) = normalize(text) {
        is_straight(&path);
    }
}

/// Any Host is refused or of the grammar.
pub fn host(data: &[u8]) {
    let Ok(value) = HeaderValue::from_bytes(data) else { return };
    let request = Request::builder().uri("/").header("host", value).body(()).expect("the parts are valid");
    if let Ok(normal) = sanitize(&request.into_parts().0) {
        is_normal(&normal);
        assert!(!normal.host.is_empty() && normal.host.len() <= 257);
    }
}

/// A token's front is strict: three parts, and another spelling of the same token is no token.
pub fn jwt(data: &[u8]) {
    let Ok(token) = jwt_token::parse(data) else { return };
    assert!(data.len() <= jwt_token::TOKEN_BYTES_MAX && !token.signature.is_empty());
    assert_eq!(data.iter().filter(|byte| **byte == b'.').count(), 2);
    assert!(data.iter().all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(byte)), "not canonical");
    for refused in ["crit", "jwk", "jku", "x5u", "x5c", "zip"] {
        assert!(!token.header.contains_key(refused), "{refused}");
    }
    assert!(jwt_token::parse(&[data, b"="].concat()).is_err() && jwt_token::parse(&[data, b"."].concat()).is_err());
}

/// A certificate is read whole or not at all, and what it says stays within its parts.
pub fn certificate(data: &[u8]) {
    let Some(names) = Names::of(data) else { return };
    let size = ber::size(data).ok().flatten().expect("an element");
    assert!(size <= data.len() && Names::of(&data[..size]).is_some_and(|again| again == names));
    assert!(Names::of(&data[..size - 1]).is_none(), "cut short");
    assert!(names.all().all(|name| !name.is_empty() && name.len() <= 2 * data.len()));
    // No value of a name begins another part of it.
    let value = names.common_name.as_deref().unwrap_or_default();
    let escaped = dn::escaped(value);
    assert!(!escaped.replace("\\\\", "").replace("\\,", "").contains(','), "{escaped}");
    assert!(!escaped.chars().any(char::is_control), "{escaped:?}");
}

/// Only the answer to our question opens, and only when it is there as a whole.
pub fn ldap(data: &[u8]) {
    let Ok(verdict) = verdict_of(data) else { return };
    let size = ber::size(data).ok().flatten().expect("an element");
    assert!(size <= data.len() && data.first() == Some(&0x30));
    assert_eq!(verdict_of(&data[..size]).ok(), Some(verdict));
    assert!(verdict_of(&data[..size - 1]).is_err(), "cut short");
}

/// A frame cut short says no more than the whole one, and never something else.
pub fn packet_parser(data: &[u8]) {
    let whole = packet::parse(Frame(data));
    for end in (0..data.len().min(128)).rev() {
        if let Ok(cut) = packet::parse(Frame(&data[..end])) {
            assert_eq!(Ok(cut), whole, "cut at {end}");
        }
    }
}

/// The keys that a server publishes are read or refused, and none of them verifies what nobody signed.
pub fn jwks(data: &[u8]) {
    gateway::crypto::install();
    let Ok(keys) = KeySet::read(data) else { return };
    assert!(keys.has(None), "no key is left");
    for algorithm in [JwtAlgorithm::HS256, JwtAlgorithm::RS256, JwtAlgorithm::ES256, JwtAlgorithm::EdDSA] {
        assert_ne!(keys.verify(None, algorithm, b"message", b"signature"), Some(true));
    }
}

/// A header of the PROXY protocol ends where it ends, however many bytes have come, and is never longer than its bound.
pub fn proxy_protocol(data: &[u8]) {
    let whole = read(data);
    match whole {
        Ok(Step::Done(_, length)) => {
            assert!((15..=data.len().min(HEADER_BYTES_MAX)).contains(&length), "{length}");
            assert_eq!(read(&data[..length]), whole);
            assert_eq!(read(&data[..length - 1]), Ok(Step::More));
        }
        Ok(Step::More) => assert!(data.len() < HEADER_BYTES_MAX),
        Err(_) => {}
    }
    // Once it is clear that the bytes are none, more of them change nothing.
    for end in 0..data.len().min(256) {
        match read(&data[..end]) {
            Ok(Step::More) => {}
            said => assert_eq!(said, whole, "after {end} bytes"),
        }
    }
}

/// Any bytes as an upstream's answer: refused, or a message whose body is made of them.
pub fn response(data: &[u8]) {
    let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime can be built");
    for method in [Method::GET, Method::HEAD] {
        runtime.block_on(exchange(&method, data));
    }
}

async fn exchange(method: &Method, data: &[u8]) {
    let (near, mut far) = tokio::io::duplex(data.len() + 4096);
    let headers = HeaderMap::new();
    let head = RequestHead {
        method,
        target: "/",
        host: b"a",
        headers: &headers,
        withhold: &|_| false,
        extra: &[],
        trailers: true,
        upgrade: None,
    };
    let connection = Connection::new(near, Limits::default());
    let reply = connection.exchange(&head, Empty::<Bytes>::new(), |_: Connection<tokio::io::DuplexStream>| {});
    let peer = async {
        let mut asked = [0; 4096];
        // The request comes before its answer; what it says is known.
        let _ = tokio::io::AsyncReadExt::read(&mut far, &mut asked).await;
        let _ = far.write_all(data).await;
        let _ = far.shutdown().await;
        far
    };
    let (reply, _far) = tokio::join!(reply, peer);
    let Ok(Reply::Response(parts, body)) = reply else { return };
    assert!(!parts.headers.contains_key("transfer-encoding"));
    assert!(parts.headers.get_all("content-length").iter().count() <= 1);
    if let Ok(body) = body.collect().await {
        let bytes = body.to_bytes();
        assert!(bytes.len() <= data.len(), "more than was sent");
        assert!(*method != Method::HEAD || bytes.is_empty(), "a body to HEAD");
    }
}
