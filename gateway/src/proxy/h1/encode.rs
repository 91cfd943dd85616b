//! Writes a request head, and decides its framing: no field of the caller can frame, keep alive or upgrade. It must not
//! know what the fields mean.

use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use http::method::Method;
use http_body::Body;

use super::failure::Reason;

/// What the head of a request is written from.
#[derive(Clone, Copy, Debug)]
pub struct RequestHead<'a> {
    /// Any method but CONNECT.
    pub method: &'a Method,
    /// Path and query, normalised: bytes from 0x21 to 0x7e only, not empty.
    pub target: &'a str,
    /// Value of the one Host field. A `host` in `headers` is ignored.
    pub host: &'a [u8],
    /// End-to-end fields. Connection, Content-Length, Transfer-Encoding, TE, Upgrade and Host are ignored here. `Expect`
    /// is written if present, but the body does not wait for 100: remove it unless the upstream should see it.
    pub headers: &'a HeaderMap,
    /// Fields written after `headers`; the caller has removed the ones that they replace. Values as in
    /// [`HeaderValue`]: no control characters except tab. The ignored names must not be used.
    pub extra: &'a [(&'a HeaderName, &'a [u8])],
    /// Protocol to ask for: writes `Connection: upgrade` and `Upgrade`; only then is 101 accepted.
    pub upgrade: Option<&'a HeaderValue>,
}

/// How the body of a message is delimited when sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Framing {
    Nothing,
    Length(u64),
    Chunked,
}

/// Framing by what the body knows of its size (RFC 9110 section 8.6: methods that expect content say 0).
pub(super) fn framing_of<B: Body>(method: &Method, body: &B) -> Framing {
    let size = if body.is_end_stream() { Some(0) } else { body.size_hint().exact() };
    match size {
        Some(0) if matches!(*method, Method::POST | Method::PUT | Method::PATCH) => Framing::Length(0),
        Some(0) => Framing::Nothing,
        Some(n) => Framing::Length(n),
        None => Framing::Chunked,
    }
}

/// Appends the head to `out`.
///
/// # Errors
/// [`Reason::RequestUnfit`]; `out` then holds part of a head and must not be sent.
pub(super) fn write_head(out: &mut Vec<u8>, head: &RequestHead<'_>, framing: Framing) -> Result<(), Reason> {
    if *head.method == Method::CONNECT || !is_target(head.target.as_bytes()) || !is_host(head.host) {
        return Err(Reason::RequestUnfit);
    }
    out.extend_from_slice(head.method.as_str().as_bytes());
    out.push(b' ');
    out.extend_from_slice(head.target.as_bytes());
    out.extend_from_slice(b" HTTP/1.1\r\n");
    write_field(out, b"host", head.host);
    for (name, value) in head.headers {
        if !is_ours(name) {
            write_field(out, name.as_str().as_bytes(), value.as_bytes());
        }
    }
    for (name, value) in head.extra {
        if is_ours(name) || !is_value(value) {
            return Err(Reason::RequestUnfit);
        }
        write_field(out, name.as_str().as_bytes(), value);
    }
    match framing {
        Framing::Nothing => {}
        Framing::Length(n) => {
            write_field(out, b"content-length", itoa::Buffer::new().format(n).as_bytes());
        }
        Framing::Chunked => out.extend_from_slice(b"transfer-encoding: chunked\r\n"),
    }
    if let Some(protocol) = head.upgrade {
        out.extend_from_slice(b"connection: upgrade\r\n");
        write_field(out, b"upgrade", protocol.as_bytes());
    }
    out.extend_from_slice(b"\r\n");
    Ok(())
}

/// Appends one field line.
pub(super) fn write_field(out: &mut Vec<u8>, name: &[u8], value: &[u8]) {
    out.reserve(name.len() + value.len() + 4);
    out.extend_from_slice(name);
    out.extend_from_slice(b": ");
    out.extend_from_slice(value);
    out.extend_from_slice(b"\r\n");
}

/// Fields that only this room writes.
fn is_ours(name: &HeaderName) -> bool {
    *name == header::HOST
        || *name == header::CONNECTION
        || *name == header::CONTENT_LENGTH
        || *name == header::TRANSFER_ENCODING
        || *name == header::TE
        || *name == header::UPGRADE
}

fn is_target(bytes: &[u8]) -> bool {
    !bytes.is_empty() && bytes.iter().fold(true, |fit, b| fit & (0x21..0x7f).contains(b))
}

fn is_host(bytes: &[u8]) -> bool {
    bytes.iter().fold(true, |fit, b| fit & (0x21..0x7f).contains(b))
}

fn is_value(bytes: &[u8]) -> bool {
    bytes.iter().fold(true, |fit, &b| fit & ((b >= 0x20 && b != 0x7f) || b == b'\t'))
}
