//! Reads response heads and trailers out of buffered bytes, strictly: what two readers could understand differently is
//! refused (RFC 9112 sections 2.2, 4, 5, 6). Pure; it must not know sockets.

use std::mem::MaybeUninit;

use bytes::Bytes;
use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use http::{StatusCode, Version, response::Parts};

use super::failure::Reason;

/// Most fields in a head or in trailers.
const FIELDS_MAX: usize = 128;
/// How every acceptable response begins; the minor version and a space follow.
const PREFIX: &[u8] = b"HTTP/1.";

/// How the body of a response is delimited.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Delimiter {
    Nothing,
    Length(u64),
    Chunked,
    Close,
}

/// A response head that was understood.
#[derive(Debug)]
pub(super) struct ResponseHead {
    pub parts: Parts,
    pub delimiter: Delimiter,
    /// Whether the connection may serve again when the body has ended.
    pub reusable: bool,
}

/// Finds the end of a field section (the byte after its empty line). `scanned` remembers how far earlier calls looked,
/// so that the whole search is linear; it must be 0 at the start of a section and the bytes before it unchanged.
/// `Err` is a LF without CR.
pub(super) fn find_end(bytes: &[u8], scanned: &mut usize) -> Result<Option<usize>, ()> {
    let from = *scanned;
    for at in memchr::memchr_iter(b'\n', &bytes[from..]) {
        let lf = from + at;
        if lf == 0 || bytes[lf - 1] != b'\r' {
            return Err(());
        }
        if lf == 1 || bytes[lf - 2] == b'\n' {
            return Ok(Some(lf + 1));
        }
    }
    *scanned = bytes.len();
    Ok(None)
}

/// Whether `bytes`, perhaps the first few of a head, can begin a response.
pub(super) fn may_begin(bytes: &[u8]) -> bool {
    // The common case compares a constant length.
    bytes.starts_with(PREFIX) || (bytes.len() < PREFIX.len() && PREFIX.starts_with(bytes))
}

/// Understands a complete head that [`may_begin`] a response, empty line included. `to_head`: the request was HEAD.
pub(super) fn parse_head(head: &Bytes, to_head: bool) -> Result<ResponseHead, Reason> {
    let mut storage = [const { MaybeUninit::uninit() }; FIELDS_MAX];
    let mut response = httparse::Response::new(&mut []);
    let parsed =
        httparse::ParserConfig::default().parse_response_with_uninit_headers(&mut response, head, &mut storage);
    match parsed {
        Ok(httparse::Status::Complete(used)) if used == head.len() => {}
        Err(httparse::Error::TooManyHeaders) => return Err(Reason::TooManyFields),
        _ => return Err(Reason::HeadSyntax),
    }
    let (Some(minor), Some(code)) = (response.version, response.code) else {
        return Err(Reason::HeadSyntax);
    };
    let status = StatusCode::from_u16(code).map_err(|_| Reason::HeadSyntax)?;
    let mut fields = Fields::default();
    // Room for what a proxy adds, so that the map does not grow.
    fields.map.reserve(response.headers.len() + 5);
    for field in &*response.headers {
        fields.add(head, field)?;
    }
    fields.conclude(status, minor, to_head)
}

/// Understands complete trailers, empty line included, and drops what trailers must not carry.
pub(super) fn parse_trailers(block: &Bytes) -> Result<HeaderMap, Reason> {
    let mut storage = [httparse::EMPTY_HEADER; FIELDS_MAX];
    let parsed = httparse::parse_headers(block, &mut storage);
    let fields = match parsed {
        Ok(httparse::Status::Complete((used, fields))) if used == block.len() => fields,
        Err(httparse::Error::TooManyHeaders) => return Err(Reason::TooManyFields),
        _ => return Err(Reason::TrailerSyntax),
    };
    let mut map = HeaderMap::new();
    for field in fields {
        let Some((name, value)) = shared(block, field) else {
            return Err(Reason::TrailerSyntax);
        };
        if may_trail(&name) {
            map.append(name, value);
        }
    }
    Ok(map)
}

/// Whether a field may stand in trailers: not framing, routing, authentication, request control or content format (RFC
/// 9110 section 6.5.1), not hop-by-hop, and none that tells an upstream who the client is. A name is judged as a server
/// would read it that takes `_` for `-`.
pub(super) fn may_trail(name: &HeaderName) -> bool {
    let name = name.as_str();
    if name.contains('_') { is_trailing(&name.replace('_', "-")) } else { is_trailing(name) }
}

fn is_trailing(name: &str) -> bool {
    const IDENTITY: [&str; 7] =
        ["x-anonymous-", "x-authenticated-", "x-consumer-", "x-credential-", "x-forwarded-", "x-kong-", "x-real-ip"];
    let listed = matches!(
        name,
        "age"
            | "authorization"
            | "cache-control"
            | "connection"
            | "content-encoding"
            | "content-length"
            | "content-range"
            | "content-type"
            | "cookie"
            | "expect"
            | "expires"
            | "forwarded"
            | "host"
            | "keep-alive"
            | "location"
            | "max-forwards"
            | "pragma"
            | "proxy"
            | "proxy-authenticate"
            | "proxy-authorization"
            | "proxy-connection"
            | "range"
            | "retry-after"
            | "set-cookie"
            | "te"
            | "trailer"
            | "transfer-encoding"
            | "upgrade"
            | "vary"
            | "via"
            | "www-authenticate"
    );
    !(listed || name.starts_with("if-") || IDENTITY.iter().any(|prefix| name.starts_with(prefix)))
}

/// A field whose value shares the memory of `block`.
fn shared(block: &Bytes, field: &httparse::Header<'_>) -> Option<(HeaderName, HeaderValue)> {
    let name = HeaderName::from_bytes(field.name.as_bytes()).ok()?;
    let value = HeaderValue::from_maybe_shared(block.slice_ref(field.value)).ok()?;
    Some((name, value))
}

/// The fields of a head, and what those about framing say.
#[derive(Default)]
struct Fields {
    map: HeaderMap,
    length: Option<u64>,
    chunked: bool,
    close: bool,
}

impl Fields {
    fn add(&mut self, head: &Bytes, field: &httparse::Header<'_>) -> Result<(), Reason> {
        let Some((name, value)) = shared(head, field) else {
            return Err(Reason::HeadSyntax);
        };
        if name == header::CONTENT_LENGTH {
            let length = parse_length(value.as_bytes()).ok_or(Reason::Framing)?;
            match self.length.replace(length) {
                None => {}
                Some(before) if before == length => return Ok(()),
                Some(_) => return Err(Reason::Framing),
            }
        } else if name == header::TRANSFER_ENCODING {
            // Framing is of this hop: whoever passes the response on frames it anew.
            if self.chunked || !value.as_bytes().eq_ignore_ascii_case(b"chunked") {
                return Err(Reason::Framing);
            }
            self.chunked = true;
            return Ok(());
        } else if name == header::CONNECTION {
            self.close |= has_close(value.as_bytes());
            // These two nominate nothing: whoever passes the response on has nothing to take from them.
            if matches!(value.as_bytes(), b"close" | b"keep-alive" | b"Keep-Alive") {
                return Ok(());
            }
        }
        self.map.append(name, value);
        Ok(())
    }

    fn conclude(mut self, status: StatusCode, minor: u8, to_head: bool) -> Result<ResponseHead, Reason> {
        if self.chunked && (self.length.is_some() || minor == 0) {
            return Err(Reason::Framing);
        }
        let never = status.is_informational() || status == StatusCode::NO_CONTENT;
        let delimiter = if never || to_head || status == StatusCode::NOT_MODIFIED {
            Delimiter::Nothing
        } else if self.chunked {
            Delimiter::Chunked
        } else {
            self.length.map_or(Delimiter::Close, Delimiter::Length)
        };
        // Such a response must not announce a body (RFC 9110 section 8.6, RFC 9112 section 6.1); one that does may be
        // followed by it.
        let announced = never && (self.chunked || self.length.is_some_and(|n| n > 0));
        if never {
            self.map.remove(header::CONTENT_LENGTH);
        }
        let reusable = minor == 1 && !self.close && !announced && delimiter != Delimiter::Close;
        let mut parts = http::Response::new(()).into_parts().0;
        parts.status = status;
        parts.version = if minor == 0 { Version::HTTP_10 } else { Version::HTTP_11 };
        parts.headers = self.map;
        Ok(ResponseHead { parts, delimiter, reusable })
    }
}

/// Content-Length: digits only, at most `u64::MAX`.
fn parse_length(value: &[u8]) -> Option<u64> {
    if value.is_empty() || value.len() > 20 {
        return None;
    }
    value.iter().try_fold(0u64, |n, b| {
        if !b.is_ascii_digit() {
            return None;
        }
        n.checked_mul(10)?.checked_add(u64::from(b - b'0'))
    })
}

fn has_close(value: &[u8]) -> bool {
    value.split(|b| *b == b',').any(|token| token.trim_ascii().eq_ignore_ascii_case(b"close"))
}
