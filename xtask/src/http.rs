//! A small blocking HTTP/1.1 client and the reading half of a server, for the demo and for `run`. Limits on
//! everything; it must not be used against anything that is not ours.

use std::io::{self, BufRead, BufReader, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

const HEAD_BYTES_MAX: u64 = 64 * 1024;
const BODY_BYTES_MAX: u64 = 4 * 1024 * 1024;

/// One answer, its body read to the end.
pub struct Answer {
    pub status: u16,
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
}

impl Answer {
    /// The first header of a name, given in lower case.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&str> {
        header(&self.headers, name)
    }

    #[must_use]
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }
}

/// A connection to a server.
pub struct Client {
    address: SocketAddr,
    stream: BufReader<TcpStream>,
    open: bool,
}

impl Client {
    /// Connects within `connect`; every later read or write may take `each`.
    ///
    /// # Errors
    /// The connection was refused or not answered in time.
    pub fn connect(address: SocketAddr, connect: Duration, each: Duration) -> io::Result<Self> {
        let stream = TcpStream::connect_timeout(&address, connect)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(each))?;
        stream.set_write_timeout(Some(each))?;
        Ok(Self { address, stream: BufReader::new(stream), open: true })
    }

    /// Whether the server left the connection open after the last answer.
    #[must_use]
    pub const fn is_open(&self) -> bool {
        self.open
    }

    /// Sends a request with a body of `body.len()` bytes (none when empty) and reads the answer.
    ///
    /// # Errors
    /// The connection died, took too long, or did not carry HTTP/1.1.
    pub fn send(&mut self, method: &str, path: &str, headers: &[(&str, &str)], body: &[u8]) -> io::Result<Answer> {
        let result = self.exchange(method, path, headers, body);
        if result.is_err() {
            self.open = false;
        }
        result
    }

    fn exchange(&mut self, method: &str, path: &str, headers: &[(&str, &str)], body: &[u8]) -> io::Result<Answer> {
        let mut head = format!("{method} {path} HTTP/1.1\r\n");
        if !headers.iter().any(|(name, _)| name.eq_ignore_ascii_case("host")) {
            head.push_str(&format!("Host: {}\r\n", self.address));
        }
        for (name, value) in headers {
            head.push_str(&format!("{name}: {value}\r\n"));
        }
        if !body.is_empty() {
            head.push_str(&format!("Content-Length: {}\r\n", body.len()));
        }
        head.push_str("\r\n");
        let mut bytes = head.into_bytes();
        bytes.extend_from_slice(body);
        self.stream.get_mut().write_all(&bytes)?;
        let (first, headers) = read_head(&mut self.stream)?.ok_or_else(|| bad("closed without an answer"))?;
        let status = first
            .strip_prefix("HTTP/1.1 ")
            .and_then(|rest| rest.get(..3))
            .and_then(|digits| digits.parse().ok())
            .ok_or_else(|| bad("not an HTTP/1.1 answer"))?;
        let bodiless = method == "HEAD" || status == 204 || status == 304;
        let framed = header(&headers, "content-length").is_some() || header(&headers, "transfer-encoding").is_some();
        let body = match (bodiless, framed) {
            (true, _) => Vec::new(),
            (false, true) => read_body(&mut self.stream, &headers)?,
            (false, false) => read_exactly_or_to_end(&mut self.stream, None)?,
        };
        let closes = header(&headers, "connection").is_some_and(|value| value.eq_ignore_ascii_case("close"));
        self.open = !closes && (bodiless || framed);
        Ok(Answer { status, headers, body })
    }
}

/// One request on a connection of its own.
///
/// # Errors
/// As of [`Client::connect`] and [`Client::send`].
pub fn once(address: SocketAddr, method: &str, path: &str, headers: &[(&str, &str)]) -> io::Result<Answer> {
    let mut client = Client::connect(address, Duration::from_secs(2), Duration::from_secs(5))?;
    client.send(method, path, headers, &[])
}

/// A first line and the headers, their names in lower case.
pub type Head = (String, Vec<(String, String)>);

/// Reads a head; `None` when the peer closed before its first byte.
///
/// # Errors
/// The connection died or the head is too large or not a head.
pub fn read_head(stream: &mut impl BufRead) -> io::Result<Option<Head>> {
    let mut limited = stream.take(HEAD_BYTES_MAX);
    let Some(first) = read_line(&mut limited)? else { return Ok(None) };
    let mut headers = Vec::new();
    loop {
        let line = read_line(&mut limited)?.ok_or_else(|| bad("a head without an end"))?;
        if line.is_empty() {
            return Ok(Some((first, headers)));
        }
        let (name, value) = line.split_once(':').ok_or_else(|| bad("a header without a colon"))?;
        headers.push((name.to_ascii_lowercase(), value.trim().to_owned()));
    }
}

/// Reads the body that the headers frame; none when they frame none.
///
/// # Errors
/// The connection died or the body is too large.
pub fn read_body(stream: &mut impl BufRead, headers: &[(String, String)]) -> io::Result<Vec<u8>> {
    if header(headers, "transfer-encoding").is_some_and(|value| value.eq_ignore_ascii_case("chunked")) {
        return read_chunks(stream);
    }
    match header(headers, "content-length") {
        None => Ok(Vec::new()),
        Some(length) => {
            let length = length.parse().map_err(|_| bad("a length that is no number"))?;
            read_exactly_or_to_end(stream, Some(length))
        }
    }
}

/// The first header of a name, given in lower case.
#[must_use]
pub fn header<'a>(headers: &'a [(String, String)], name: &str) -> Option<&'a str> {
    headers.iter().find(|(have, _)| have == name).map(|(_, value)| value.as_str())
}

fn read_exactly_or_to_end(stream: &mut impl BufRead, length: Option<u64>) -> io::Result<Vec<u8>> {
    if length.is_some_and(|length| length > BODY_BYTES_MAX) {
        return Err(bad("a body over the limit"));
    }
    let mut body = Vec::new();
    stream.take(length.unwrap_or(BODY_BYTES_MAX)).read_to_end(&mut body)?;
    if length.is_some_and(|length| length != body.len() as u64) {
        return Err(ErrorKind::UnexpectedEof.into());
    }
    Ok(body)
}

fn read_chunks(stream: &mut impl BufRead) -> io::Result<Vec<u8>> {
    let mut body = Vec::new();
    loop {
        let line = read_line(&mut stream.take(1024))?.ok_or_else(|| bad("a chunk without a size"))?;
        let size = line.split(';').next().unwrap_or_default().trim();
        let size = u64::from_str_radix(size, 16).map_err(|_| bad("a chunk's size that is no number"))?;
        if size == 0 {
            while read_line(&mut stream.take(HEAD_BYTES_MAX))?.is_some_and(|line| !line.is_empty()) {}
            return Ok(body);
        }
        if body.len() as u64 + size > BODY_BYTES_MAX {
            return Err(bad("a body over the limit"));
        }
        body.extend(read_exactly_or_to_end(stream, Some(size))?);
        read_line(&mut stream.take(2))?;
    }
}

/// A line without its end; `None` at the end of the stream.
fn read_line(stream: &mut impl BufRead) -> io::Result<Option<String>> {
    let mut line = String::new();
    if stream.read_line(&mut line)? == 0 {
        return Ok(None);
    }
    if !line.ends_with('\n') {
        return Err(bad("a line without an end"));
    }
    line.truncate(line.trim_end_matches(['\r', '\n']).len());
    Ok(Some(line))
}

fn bad(what: &'static str) -> io::Error {
    io::Error::new(ErrorKind::InvalidData, what)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bodies_are_read_by_length_and_by_chunks() {
        let length = vec![("content-length".to_owned(), "3".to_owned())];
        assert_eq!(read_body(&mut &b"abcdef"[..], &length).unwrap(), b"abc");
        let chunked = vec![("transfer-encoding".to_owned(), "chunked".to_owned())];
        assert_eq!(read_body(&mut &b"3\r\nabc\r\n2;x=y\r\nde\r\n0\r\n\r\nrest"[..], &chunked).unwrap(), b"abcde");
    }

    #[test]
    fn what_is_cut_short_or_too_large_is_an_error() {
        let length = |text: &str| vec![("content-length".to_owned(), text.to_owned())];
        assert!(read_body(&mut &b"ab"[..], &length("3")).is_err());
        assert!(read_body(&mut &b"ab"[..], &length("99999999999")).is_err());
        assert!(read_head(&mut &b"GET / HTTP/1.1\r\nHost: a"[..]).is_err());
        assert!(read_head(&mut &b""[..]).unwrap().is_none());
    }
}
