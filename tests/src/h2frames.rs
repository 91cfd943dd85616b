//! HTTP/2 by hand (RFC 9113): frames and header blocks that no library would send, and as much of
//! the answer as tells refusal from acceptance.

use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use crate::client::connect_bound;

/// An answer, or the end, comes within this.
const ANSWER_WITHIN: Duration = Duration::from_secs(10);

pub const DATA: u8 = 0;
pub const HEADERS: u8 = 1;
pub const PRIORITY: u8 = 2;
pub const RST_STREAM: u8 = 3;
pub const SETTINGS: u8 = 4;
pub const PING: u8 = 6;
pub const GOAWAY: u8 = 7;
pub const WINDOW_UPDATE: u8 = 8;
pub const CONTINUATION: u8 = 9;

pub const END_STREAM: u8 = 1;
pub const END_HEADERS: u8 = 4;
const ACK: u8 = 1;

/// How the other side answered a stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// A response with this status.
    Status(u16),
    /// `RST_STREAM` with this code.
    Reset(u32),
    /// `GOAWAY` with this code.
    GoAway(u32),
    Closed,
    /// None of it in time.
    Silent,
}

impl Outcome {
    /// True for everything that says no.
    pub fn is_refusal(&self) -> bool {
        match self {
            Self::Status(status) => (400..500).contains(status),
            Self::Reset(_) | Self::Closed => true,
            // A GOAWAY without an error is an ordinary end.
            Self::GoAway(code) => *code != 0,
            Self::Silent => false,
        }
    }
}

/// A connection on which any frame can be sent.
pub struct Frames {
    socket: TcpStream,
    /// Whether the other side reset it.
    was_reset: bool,
}

impl Frames {
    /// Connects with prior knowledge and sends the preface and empty settings.
    pub fn connect(to: SocketAddr) -> io::Result<Self> {
        Self::begin(TcpStream::connect(to)?)
    }

    /// As [`Frames::connect`], from this address.
    pub fn connect_from(to: SocketAddr, from: Ipv4Addr) -> io::Result<Self> {
        Self::begin(connect_bound(to, from, ANSWER_WITHIN)?)
    }

    /// As [`Frames::connect`], with bytes before it.
    pub fn connect_behind(to: SocketAddr, first: &[u8]) -> io::Result<Self> {
        let mut socket = TcpStream::connect(to)?;
        socket.write_all(first)?;
        Self::begin(socket)
    }

    fn begin(mut socket: TcpStream) -> io::Result<Self> {
        socket.set_read_timeout(Some(ANSWER_WITHIN))?;
        socket.set_write_timeout(Some(ANSWER_WITHIN))?;
        socket.set_nodelay(true)?;
        socket.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")?;
        let mut out = Self { socket, was_reset: false };
        out.send(SETTINGS, 0, 0, &[])?;
        Ok(out)
    }

    /// Sends one frame.
    pub fn send(&mut self, kind: u8, flags: u8, stream: u32, payload: &[u8]) -> io::Result<()> {
        let length = u32::try_from(payload.len()).map_err(io::Error::other)?;
        let mut frame = length.to_be_bytes()[1..].to_vec();
        frame.extend_from_slice(&[kind, flags]);
        frame.extend_from_slice(&stream.to_be_bytes());
        frame.extend_from_slice(payload);
        self.socket.write_all(&frame).inspect_err(|error| self.was_reset |= is_reset(error))
    }

    /// Sends a request's headers on `stream`.
    pub fn headers(&mut self, stream: u32, fields: &[(&[u8], &[u8])], flags: u8) -> io::Result<()> {
        self.send(HEADERS, END_HEADERS | flags, stream, &block(fields))
    }

    /// What becomes of `stream`.
    pub fn outcome(&mut self, stream: u32) -> Outcome {
        let end = Instant::now() + ANSWER_WITHIN;
        while Instant::now() < end {
            let (kind, flags, on, payload) = match self.read() {
                Ok(frame) => frame,
                Err(error) if is_timeout(&error) => return Outcome::Silent,
                Err(_) => return Outcome::Closed,
            };
            let word = |at: usize| {
                let bytes = payload.get(at..at + 4).unwrap_or(&[0; 4]);
                u32::from_be_bytes(bytes.try_into().expect("four bytes were taken"))
            };
            match kind {
                SETTINGS if flags & ACK == 0 => {
                    // A closed connection shows at the next read.
                    let _ = self.send(SETTINGS, ACK, 0, &[]);
                }
                HEADERS if on == stream => match status(&payload) {
                    Some(100..200) => {}
                    other => return Outcome::Status(other.unwrap_or(0)),
                },
                RST_STREAM if on == stream => return Outcome::Reset(word(0)),
                GOAWAY => return Outcome::GoAway(word(4)),
                _ => {}
            }
        }
        Outcome::Silent
    }

    /// Reads all that comes on a thread of its own, so that the other side never waits for its reader. The
    /// thread ends with the connection and says how: a GOAWAY, or a mere close.
    pub fn listen_aside(&self) -> io::Result<thread::JoinHandle<Outcome>> {
        let socket = self.socket.try_clone()?;
        socket.set_read_timeout(None)?;
        let mut ear = Self { socket, was_reset: false };
        Ok(thread::spawn(move || {
            let mut goaway = None;
            loop {
                match ear.read() {
                    Ok((GOAWAY, _, _, payload)) => {
                        let code = payload.get(4..8).and_then(|bytes| bytes.try_into().ok());
                        goaway = Some(Outcome::GoAway(code.map_or(0, u32::from_be_bytes)));
                    }
                    Ok(_) => {}
                    Err(_) => return goaway.unwrap_or(Outcome::Closed),
                }
            }
        }))
    }

    /// Ends the connection on this side, in both directions.
    pub fn hang_up(&self) {
        // Already closed by the other side is as good.
        let _ = self.socket.shutdown(Shutdown::Both);
    }

    /// True if the other side resets the connection, whatever it sends before.
    pub fn is_reset(&mut self) -> bool {
        while self.read().is_ok() {}
        self.was_reset
    }

    fn read(&mut self) -> io::Result<(u8, u8, u32, Vec<u8>)> {
        self.try_read().inspect_err(|error| self.was_reset |= is_reset(error))
    }

    fn try_read(&mut self) -> io::Result<(u8, u8, u32, Vec<u8>)> {
        let mut head = [0u8; 9];
        self.socket.read_exact(&mut head)?;
        let length = usize::from(head[0]) << 16 | usize::from(head[1]) << 8 | usize::from(head[2]);
        let stream = u32::from_be_bytes([head[5] & 0x7f, head[6], head[7], head[8]]);
        let mut payload = vec![0; length];
        self.socket.read_exact(&mut payload)?;
        Ok((head[3], head[4], stream, payload))
    }
}

/// A header block of literal fields that are not indexed (RFC 7541 §6.2.2), byte for byte.
pub fn block(fields: &[(&[u8], &[u8])]) -> Vec<u8> {
    let mut out = Vec::new();
    for (name, value) in fields {
        out.push(0);
        string(&mut out, name);
        string(&mut out, value);
    }
    out
}

fn string(out: &mut Vec<u8>, bytes: &[u8]) {
    let mut length = bytes.len();
    if length < 127 {
        out.push(u8::try_from(length).expect("below 127"));
    } else {
        out.push(127);
        length -= 127;
        while length >= 128 {
            out.push(u8::try_from(length % 128).expect("below 128") | 128);
            length /= 128;
        }
        out.push(u8::try_from(length).expect("below 128"));
    }
    out.extend_from_slice(bytes);
}

/// The status at the start of a response's header block, which every encoder puts first.
fn status(block: &[u8]) -> Option<u16> {
    let mut block = block;
    // Updates of the dynamic table's size may come first.
    while block.first()? & 0xe0 == 0x20 {
        block = &block[1..];
    }
    const INDEXED: [u16; 7] = [200, 204, 206, 304, 400, 404, 500];
    let first = *block.first()?;
    if (0x88..=0x8e).contains(&first) {
        return Some(INDEXED[usize::from(first - 0x88)]);
    }
    // A literal whose name is entry 8..=14 of the static table, `:status`.
    if !matches!(first & 0x3f, 8..=14) {
        return None;
    }
    let length = *block.get(1)?;
    let bytes = block.get(2..2 + usize::from(length & 0x7f))?;
    if length & 0x80 == 0 {
        return std::str::from_utf8(bytes).ok()?.parse().ok();
    }
    huffman_digits(bytes)
}

/// Three digits in HPACK's Huffman code: 0, 1 and 2 have five bits, the others six.
fn huffman_digits(bytes: &[u8]) -> Option<u16> {
    let bits: Vec<u8> = bytes.iter().flat_map(|byte| (0..8).rev().map(move |at| byte >> at & 1)).collect();
    let number = |slice: &[u8]| slice.iter().fold(0u16, |sum, bit| sum << 1 | u16::from(*bit));
    let mut at = 0;
    let mut out = 0;
    for _ in 0..3 {
        let short = number(bits.get(at..at + 5)?);
        let digit = if short <= 2 {
            at += 5;
            short
        } else {
            let long = number(bits.get(at..at + 6)?);
            at += 6;
            long.checked_sub(0x19)? + 3
        };
        out = out * 10 + digit;
    }
    Some(out)
}

fn is_reset(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::ConnectionReset
}

fn is_timeout(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut)
}
