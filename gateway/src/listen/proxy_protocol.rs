//! The PROXY protocol, versions 1 and 2 (HAProxy's `proxy-protocol.txt`): what a load balancer says before a connection's own
//! bytes. Pure and strict: what two readers could take differently is refused. Who may speak it is not known here.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// The longest line of version 1, CRLF included (§2.1).
const LINE_BYTES_MAX: usize = 107;
/// The longest header of version 2, fields that extend it included; nginx's limit too.
pub const HEADER_BYTES_MAX: usize = 4096;

const SIGNATURE: &[u8; 12] = b"\r\n\r\n\0\r\nQUIT\n";
const WORD: &[u8; 6] = b"PROXY ";
/// Bytes of version 2 before its addresses.
const FIXED: usize = 16;
/// The extension that holds a checksum of the whole header (§2.2.4).
const CRC32C: u8 = 0x03;

/// What a header says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Told {
    /// Where the connection came from.
    Source(SocketAddr),
    /// Nothing: the load balancer's own connection (a health check), or of a kind that it does not name.
    Nothing,
}

/// How far a header is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// All bytes so far may begin a header.
    More,
    /// What the first bytes say, and how many those are; the rest is the connection's.
    Done(Told, usize),
}

/// Bytes that are no header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Malformed;

/// Reads a header from the first bytes of a connection.
///
/// # Errors
/// When they do not begin one, however it went on.
pub fn read(bytes: &[u8]) -> Result<Step, Malformed> {
    let begins = |with: &[u8]| with.starts_with(&bytes[..bytes.len().min(with.len())]);
    if begins(WORD) {
        line(bytes)
    } else if begins(SIGNATURE) {
        binary(bytes)
    } else {
        Err(Malformed)
    }
}

/// Version 1: `PROXY TCP4 SOURCE DESTINATION PORT PORT CRLF`.
fn line(bytes: &[u8]) -> Result<Step, Malformed> {
    let window = &bytes[..bytes.len().min(LINE_BYTES_MAX)];
    let Some(end) = memchr::memchr(b'\n', window) else {
        return if window.len() < LINE_BYTES_MAX { Ok(Step::More) } else { Err(Malformed) };
    };
    let text = window[..end].strip_suffix(b"\r").and_then(|line| str::from_utf8(line).ok()).ok_or(Malformed)?;
    let mut words = text.split(' ').skip(1);
    let mut next = || words.next().ok_or(Malformed);
    let told = match next()? {
        // Whatever follows is to be passed over.
        "UNKNOWN" => Told::Nothing,
        family @ ("TCP4" | "TCP6") => {
            let is_v4 = family == "TCP4";
            let (source, _destination) = (address(next()?, is_v4)?, address(next()?, is_v4)?);
            let (port, _port) = (port(next()?)?, port(next()?)?);
            if words.next().is_some() {
                return Err(Malformed);
            }
            Told::Source(SocketAddr::new(source, port))
        }
        _ => return Err(Malformed),
    };
    Ok(Step::Done(told, end + 1))
}

fn address(text: &str, is_v4: bool) -> Result<IpAddr, Malformed> {
    let parsed = if is_v4 { text.parse().map(IpAddr::V4) } else { text.parse().map(IpAddr::V6) };
    parsed.map_err(|_| Malformed)
}

/// Digits without a sign or leading zeros.
fn port(text: &str) -> Result<u16, Malformed> {
    let plain = text.bytes().all(|byte| byte.is_ascii_digit()) && (text == "0" || !text.starts_with('0'));
    text.parse().ok().filter(|_| plain).ok_or(Malformed)
}

/// Version 2 (§2.2).
fn binary(bytes: &[u8]) -> Result<Step, Malformed> {
    let Some(fixed) = bytes.get(SIGNATURE.len()..FIXED) else { return Ok(Step::More) };
    let (command, family) = (fixed[0], fixed[1]);
    let length = usize::from(u16::from_be_bytes([fixed[2], fixed[3]]));
    // Bytes of addresses: none that count of LOCAL, whatever its family, or where none is named; TCP over IPv4, IPv6 and a
    // Unix socket.
    let addresses = match (command, family) {
        (0x20, _) | (0x21, 0x00) => None,
        (0x21, 0x11) => Some(12),
        (0x21, 0x21) => Some(36),
        (0x21, 0x31) => Some(216),
        _ => return Err(Malformed),
    };
    if FIXED + length > HEADER_BYTES_MAX || addresses.is_some_and(|addresses| length < addresses) {
        return Err(Malformed);
    }
    let Some(header) = bytes.get(..FIXED + length) else { return Ok(Step::More) };
    let body = &header[FIXED..];
    let told = match addresses {
        Some(12) => Told::Source(v4(body)?),
        Some(36) => Told::Source(v6(body)?),
        _ => Told::Nothing,
    };
    if let Some(addresses) = addresses {
        extensions(header, FIXED + addresses)?;
    }
    Ok(Step::Done(told, header.len()))
}

fn v4(body: &[u8]) -> Result<SocketAddr, Malformed> {
    let octets: [u8; 4] = taken(body, 0)?;
    Ok(SocketAddr::from((Ipv4Addr::from(octets), u16::from_be_bytes(taken(body, 8)?))))
}

fn v6(body: &[u8]) -> Result<SocketAddr, Malformed> {
    let octets: [u8; 16] = taken(body, 0)?;
    Ok(SocketAddr::from((Ipv6Addr::from(octets), u16::from_be_bytes(taken(body, 32)?))))
}

fn taken<const N: usize>(body: &[u8], at: usize) -> Result<[u8; N], Malformed> {
    body.get(at..at + N).and_then(|bytes| bytes.try_into().ok()).ok_or(Malformed)
}

/// Extensions (type, length, value) fill what is left, and a checksum among them holds.
fn extensions(header: &[u8], mut at: usize) -> Result<(), Malformed> {
    while at < header.len() {
        let [kind, high, low] = taken(header, at)?;
        let length = usize::from(u16::from_be_bytes([high, low]));
        let value = header.get(at + 3..at + 3 + length).ok_or(Malformed)?;
        if kind == CRC32C {
            let told = u32::from_be_bytes(value.try_into().map_err(|_| Malformed)?);
            if crc32c(header, at + 3..at + 7) != told {
                return Err(Malformed);
            }
        }
        at += 3 + length;
    }
    Ok(())
}

/// CRC-32C (RFC 9260 appendix A) of `bytes` with those at `zero` taken as 0.
fn crc32c(bytes: &[u8], zero: std::ops::Range<usize>) -> u32 {
    let sum = bytes.iter().enumerate().fold(u32::MAX, |sum, (at, byte)| {
        let byte = if zero.contains(&at) { 0 } else { *byte };
        (0..8).fold(sum ^ u32::from(byte), |sum, _| (sum >> 1) ^ (0x82f6_3b78 & (sum & 1).wrapping_neg()))
    });
    !sum
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(address: &str) -> Told {
        Told::Source(address.parse().expect("an address"))
    }

    fn v2(command: u8, family: u8, body: &[u8]) -> Vec<u8> {
        let length = u16::try_from(body.len()).expect("short").to_be_bytes();
        [&SIGNATURE[..], &[command, family], &length, body].concat()
    }

    const BODY: [u8; 12] = [192, 0, 2, 7, 10, 0, 0, 1, 0x30, 0x39, 0x1f, 0x40];

    #[test]
    fn lines_are_read_and_the_rest_is_left() {
        for (line, expected) in [
            ("PROXY TCP4 192.0.2.7 10.0.0.1 12345 8000\r\n", told("192.0.2.7:12345")),
            ("PROXY TCP6 2001:db8::7 ::1 0 65535\r\n", told("[2001:db8::7]:0")),
            ("PROXY UNKNOWN\r\n", Told::Nothing),
            ("PROXY UNKNOWN ffff::1 whatever\r\n", Told::Nothing),
        ] {
            let bytes = [line.as_bytes(), b"GET / HTTP/1.1\r\n"].concat();
            assert_eq!(read(&bytes), Ok(Step::Done(expected, line.len())), "{line:?}");
            assert!((0..line.len()).all(|end| read(&bytes[..end]) == Ok(Step::More)), "{line:?}");
        }
    }

    #[test]
    fn what_is_no_line_is_refused() {
        let long = format!("PROXY UNKNOWN {}\r\n", "x".repeat(92));
        for line in [
            "GET / HTTP/1.1\r\n",
            "proxy TCP4 1.2.3.4 1.2.3.4 1 2\r\n",
            "PROXY  TCP4 1.2.3.4 1.2.3.4 1 2\r\n",
            "PROXY TCP4 1.2.3.4 1.2.3.4 1 2\n",
            "PROXY TCP4 1.2.3.4 1.2.3.4 1 2 \r\n",
            "PROXY TCP4 1.2.3.4  1.2.3.4 1 2\r\n",
            "PROXY TCP4 1.2.3.4 1.2.3.4 1\r\n",
            "PROXY TCP4 1.2.3.4 1.2.3.4 01 2\r\n",
            "PROXY TCP4 1.2.3.4 1.2.3.4 +1 2\r\n",
            "PROXY TCP4 1.2.3.4 1.2.3.4 65536 2\r\n",
            "PROXY TCP4 1.2.3.04 1.2.3.4 1 2\r\n",
            "PROXY TCP4 ::1 ::1 1 2\r\n",
            "PROXY TCP6 1.2.3.4 1.2.3.4 1 2\r\n",
            "PROXY UDP4 1.2.3.4 1.2.3.4 1 2\r\n",
            "PROXY TCP4 1.2.3.4\r1.2.3.4 1 2\r\n",
            &long,
        ] {
            assert_eq!(read(line.as_bytes()), Err(Malformed), "{line:?}");
        }
        assert_eq!(read(&[b'P'; 200]), Err(Malformed));
        assert_eq!(read(b""), Ok(Step::More));
    }

    #[test]
    fn binary_headers_are_read_and_the_rest_is_left() {
        let v6 = [&[0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 7][..], &[0; 16], &[1, 2, 3, 4]].concat();
        let extended = [&BODY[..], &[0x01, 0, 2, b'h', b'2', 0x04, 0, 0]].concat();
        for (header, expected) in [
            (v2(0x21, 0x11, &BODY), told("192.0.2.7:12345")),
            (v2(0x21, 0x11, &extended), told("192.0.2.7:12345")),
            (v2(0x21, 0x21, &v6), told("[2001:db8::7]:258")),
            (v2(0x21, 0x00, b"anything"), Told::Nothing),
            (v2(0x20, 0x00, &[]), Told::Nothing),
            (v2(0x20, 0x11, b"short"), Told::Nothing),
            (v2(0x20, 0x99, b""), Told::Nothing),
            (v2(0x21, 0x31, &[0; 216]), Told::Nothing),
        ] {
            let bytes = [&header[..], b"rest"].concat();
            assert_eq!(read(&bytes), Ok(Step::Done(expected, header.len())), "{header:?}");
            assert!((0..header.len()).all(|end| read(&bytes[..end]) == Ok(Step::More)), "{header:?}");
        }
    }

    #[test]
    fn what_is_no_binary_header_is_refused() {
        let overrun = [&BODY[..], &[0x01, 0, 9, b'h']].concat();
        let cut = [&BODY[..], &[0x01, 0]].concat();
        for header in [
            v2(0x11, 0x11, &BODY),
            v2(0x22, 0x11, &BODY),
            v2(0x21, 0x12, &BODY),
            v2(0x21, 0x41, &BODY),
            v2(0x21, 0x11, &BODY[..11]),
            v2(0x21, 0x21, &BODY),
            v2(0x21, 0x11, &overrun),
            v2(0x21, 0x11, &cut),
            v2(0x21, 0x00, &[0; HEADER_BYTES_MAX]),
            [&b"\r\n\r\n\0\r\nQUIX\n"[..], &[0x21, 0x11, 0, 0]].concat(),
        ] {
            assert_eq!(read(&header), Err(Malformed), "{header:?}");
        }
    }

    #[test]
    fn a_checksum_must_hold() {
        assert_eq!(crc32c(b"123456789", 0..0), 0xe306_9283, "the check value of CRC-32C");
        let mut header = v2(0x21, 0x11, &[&BODY[..], &[CRC32C, 0, 4, 0, 0, 0, 0]].concat());
        let sum = crc32c(&header, 0..0);
        let at = header.len() - 4;
        header[at..].copy_from_slice(&sum.to_be_bytes());
        assert_eq!(read(&header), Ok(Step::Done(told("192.0.2.7:12345"), header.len())));
        header[20] ^= 1;
        assert_eq!(read(&header), Err(Malformed));
        let short = v2(0x21, 0x11, &[&BODY[..], &[CRC32C, 0, 3, 0, 0, 0]].concat());
        assert_eq!(read(&short), Err(Malformed));
    }
}
