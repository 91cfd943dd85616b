//! Chunked transfer coding (RFC 9112 section 7.1), both ways: a decoder over a buffer, and the framing bytes to send.
//! Pure; it must not know sockets.

use bytes::{Buf, Bytes, BytesMut};
use http::HeaderMap;

use super::encode::write_field;
use super::failure::Reason;
use super::parse;

/// Longest chunk size accepted, hexadecimal digits: all that fit into a `u64`.
const SIZE_DIGITS_MAX: usize = 16;
/// Longest chunk extension accepted (and dropped), bytes.
const EXTENSION_BYTES_MAX: usize = 256;

/// Ends a chunk.
pub(super) const CHUNK_END: &[u8] = b"\r\n";
/// Ends a body without trailers.
pub(super) const BODY_END: &[u8] = b"0\r\n\r\n";
/// Both, behind the data of the last chunk.
pub(super) const CHUNK_AND_BODY_END: &[u8] = b"\r\n0\r\n\r\n";

/// Where a body stands after the framing bytes at the front of the buffer were taken.
#[derive(Debug)]
pub(super) enum Progress {
    /// The buffer ends within framing bytes.
    More,
    /// Data of a chunk comes next; the buffer may be empty.
    Data,
    /// The body has ended, perhaps with trailers. Given once.
    Ended(Option<Box<HeaderMap>>),
}

#[derive(Debug)]
enum State {
    Size,
    /// Bytes of the chunk still to come, never 0.
    Data(u64),
    DataEnd,
    Trailers {
        scanned: usize,
    },
}

/// Takes a chunked body apart. After an error it gives the same error again and takes nothing.
#[derive(Debug)]
pub(super) struct Decoder {
    state: State,
    trailer_bytes_max: usize,
}

impl Decoder {
    pub fn new(trailer_bytes_max: usize) -> Self {
        Self { state: State::Size, trailer_bytes_max }
    }

    /// Takes framing bytes from the front of `bytes` until data comes or more bytes are needed.
    pub fn advance(&mut self, bytes: &mut BytesMut) -> Result<Progress, Reason> {
        loop {
            match &mut self.state {
                State::Size => {
                    let Some((size, used)) = parse_size_line(bytes)? else {
                        return Ok(Progress::More);
                    };
                    bytes.advance(used);
                    self.state = if size == 0 { State::Trailers { scanned: 0 } } else { State::Data(size) };
                }
                State::Data(_) => return Ok(Progress::Data),
                State::DataEnd => {
                    if !CHUNK_END.starts_with(&bytes[..bytes.len().min(2)]) {
                        return Err(Reason::ChunkSyntax);
                    }
                    if bytes.len() < 2 {
                        return Ok(Progress::More);
                    }
                    bytes.advance(2);
                    self.state = State::Size;
                }
                State::Trailers { scanned } => {
                    let Some(end) = find_trailers_end(bytes, scanned, self.trailer_bytes_max)? else {
                        return Ok(Progress::More);
                    };
                    if end == CHUNK_END.len() {
                        bytes.advance(end);
                        return Ok(Progress::Ended(None));
                    }
                    // Copied: trailers are rare, and the bytes must stay when they are refused.
                    let map = parse::parse_trailers(&Bytes::copy_from_slice(&bytes[..end]))?;
                    bytes.advance(end);
                    return Ok(Progress::Ended((!map.is_empty()).then(|| Box::new(map))));
                }
            }
        }
    }

    /// Splits data of the current chunk off; empty unless [`advance`](Self::advance) said `Data` and there are bytes.
    pub fn take(&mut self, bytes: &mut BytesMut) -> Bytes {
        let State::Data(left) = &mut self.state else {
            return Bytes::new();
        };
        let n = usize::try_from(*left).map_or(bytes.len(), |left| left.min(bytes.len()));
        *left -= n as u64;
        if *left == 0 {
            self.state = State::DataEnd;
        }
        bytes.split_to(n).freeze()
    }
}

/// Size and length of the line at the front; `None` if it is not complete yet.
fn parse_size_line(bytes: &[u8]) -> Result<Option<(u64, usize)>, Reason> {
    let mut size = 0u64;
    let mut digits = 0;
    while let Some(digit) = bytes.get(digits).and_then(|b| (*b as char).to_digit(16)) {
        if digits == SIZE_DIGITS_MAX {
            return Err(Reason::ChunkSyntax);
        }
        size = size << 4 | u64::from(digit);
        digits += 1;
    }
    let rest = &bytes[digits..];
    if rest.is_empty() {
        return Ok(None);
    }
    if digits == 0 {
        return Err(Reason::ChunkSyntax);
    }
    let extension = extension_len(rest)?;
    match rest[extension..] {
        [] | [b'\r'] => Ok(None),
        [b'\r', b'\n', ..] => Ok(Some((size, digits + extension + 2))),
        _ => Err(Reason::ChunkSyntax),
    }
}

/// Length of a chunk extension, `;` included, up to the CR or as far as there are bytes.
fn extension_len(rest: &[u8]) -> Result<usize, Reason> {
    if rest[0] != b';' {
        return Ok(0);
    }
    let is_text = |b: &u8| (*b >= 0x20 && *b != 0x7f) || *b == b'\t';
    let len = rest.iter().take(EXTENSION_BYTES_MAX + 1).take_while(|b| is_text(b)).count();
    if len > EXTENSION_BYTES_MAX { Err(Reason::ChunkSyntax) } else { Ok(len) }
}

fn find_trailers_end(bytes: &[u8], scanned: &mut usize, bytes_max: usize) -> Result<Option<usize>, Reason> {
    let end = parse::find_end(bytes, scanned).map_err(|()| Reason::TrailerSyntax)?;
    if end.unwrap_or(bytes.len()) > bytes_max.max(CHUNK_END.len()) {
        return Err(Reason::TrailersTooLarge);
    }
    Ok(end)
}

/// Appends the size line of a chunk.
pub(super) fn write_size_line(out: &mut Vec<u8>, size: usize) {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let digits = (usize::BITS - size.leading_zeros()).div_ceil(4).max(1);
    out.extend((0..digits).rev().map(|digit| DIGITS[size >> (digit * 4) & 15]));
    out.extend_from_slice(CHUNK_END);
}

/// Appends the end of a body with trailers; fields that must not trail are left out.
pub(super) fn write_trailers(out: &mut Vec<u8>, trailers: &HeaderMap) {
    out.extend_from_slice(b"0\r\n");
    for (name, value) in trailers {
        if parse::may_trail(name) {
            write_field(out, name.as_str().as_bytes(), value.as_bytes());
        }
    }
    out.extend_from_slice(CHUNK_END);
}
