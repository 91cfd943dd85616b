//! A buffered reader for HTTP/1 messages that hands out exactly the bytes that were on the wire.
//! It knows line ends, lengths and chunks, and judges nothing.

use std::io::{self, Read};

/// More than any test sends in one message.
const MESSAGE_BYTES_MAX: usize = 64 << 20;

/// A stream with the bytes that were read ahead of their use.
pub struct Wire<S> {
    /// The stream itself; what it still holds comes after the buffered bytes.
    pub stream: S,
    buffer: Vec<u8>,
}

/// The decoded body, the trailer fields and the raw bytes of a chunked message.
pub struct Chunked {
    pub body: Vec<u8>,
    pub trailers: Vec<(String, String)>,
    pub raw: Vec<u8>,
}

impl<S: Read> Wire<S> {
    pub fn new(stream: S) -> Self {
        Self { stream, buffer: Vec::new() }
    }

    /// Takes the stream apart: it and what was read but not used.
    pub fn into_parts(self) -> (S, Vec<u8>) {
        (self.stream, self.buffer)
    }

    /// Everything up to and including `mark`; `None` if the stream ends before the first byte.
    pub fn until(&mut self, mark: &[u8]) -> io::Result<Option<Vec<u8>>> {
        let mut from = 0;
        loop {
            if let Some(at) = find(&self.buffer[from..], mark) {
                return Ok(Some(self.buffer.drain(..from + at + mark.len()).collect()));
            }
            from = self.buffer.len().saturating_sub(mark.len() - 1);
            if self.fill()? == 0 {
                if self.buffer.is_empty() {
                    return Ok(None);
                }
                return Err(io::Error::new(
                    io::ErrorKind::UnexpectedEof,
                    format!("ended inside a message after {:?}", lossy(&self.buffer)),
                ));
            }
        }
    }

    /// Exactly `count` bytes.
    pub fn take(&mut self, count: usize) -> io::Result<Vec<u8>> {
        while self.buffer.len() < count {
            if self.fill()? == 0 {
                let have = self.buffer.len();
                let text = format!("ended after {have} of {count} bytes");
                return Err(io::Error::new(io::ErrorKind::UnexpectedEof, text));
            }
        }
        Ok(self.buffer.drain(..count).collect())
    }

    /// Everything to the end of the stream.
    pub fn rest(&mut self) -> io::Result<Vec<u8>> {
        while self.fill()? != 0 {}
        Ok(std::mem::take(&mut self.buffer))
    }

    /// Reads more into the buffer; 0 at the end of the stream.
    pub fn fill(&mut self) -> io::Result<usize> {
        if self.buffer.len() > MESSAGE_BYTES_MAX {
            return Err(io::Error::other("more than a test sends in one message"));
        }
        let mut piece = [0u8; 16 << 10];
        let count = self.stream.read(&mut piece)?;
        self.buffer.extend_from_slice(&piece[..count]);
        Ok(count)
    }

    /// What was read but not used yet.
    pub fn buffered(&self) -> &[u8] {
        &self.buffer
    }

    /// A chunked body with its trailers.
    pub fn chunked(&mut self) -> io::Result<Chunked> {
        let mut out = Chunked { body: Vec::new(), trailers: Vec::new(), raw: Vec::new() };
        loop {
            let line = self.line()?;
            out.raw.extend_from_slice(&line);
            let text = lossy(&line);
            let digits = text.trim().split(';').next().unwrap_or_default().trim().to_owned();
            let size =
                usize::from_str_radix(&digits, 16).map_err(|_| io::Error::other(format!("chunk size {text:?}")))?;
            if size == 0 {
                break;
            }
            let data = self.take(size)?;
            out.raw.extend_from_slice(&data);
            out.body.extend_from_slice(&data);
            let end = self.take(2)?;
            out.raw.extend_from_slice(&end);
            if end != b"\r\n" {
                return Err(io::Error::other(format!("a chunk ends with {:?}", lossy(&end))));
            }
        }
        loop {
            let line = self.line()?;
            out.raw.extend_from_slice(&line);
            if line == b"\r\n" {
                return Ok(out);
            }
            if let Some(field) = field(&lossy(&line)) {
                out.trailers.push(field);
            }
        }
    }

    fn line(&mut self) -> io::Result<Vec<u8>> {
        self.until(b"\r\n")?.ok_or_else(|| io::ErrorKind::UnexpectedEof.into())
    }
}

/// Where `needle` begins in `hay`.
pub fn find(hay: &[u8], needle: &[u8]) -> Option<usize> {
    hay.windows(needle.len()).position(|window| window == needle)
}

/// Bytes as text for messages and loose comparisons.
pub fn lossy(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// The start line and the fields of a message head (the bytes up to the empty line).
pub fn head(bytes: &[u8]) -> (String, Vec<(String, String)>) {
    let text = lossy(bytes);
    let mut lines = text.split("\r\n");
    let start = lines.next().unwrap_or_default().to_owned();
    (start, lines.filter_map(field).collect())
}

fn field(line: &str) -> Option<(String, String)> {
    let (name, value) = line.split_once(':')?;
    Some((name.to_owned(), value.trim().to_owned()))
}

/// The values of all fields called `name`, whatever the case.
pub fn values<'a>(fields: &'a [(String, String)], name: &str) -> Vec<&'a str> {
    fields.iter().filter(|(field, _)| field.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_str()).collect()
}
