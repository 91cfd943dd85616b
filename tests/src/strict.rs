//! A strict reader of request heads: it names everything that two servers could read differently.

use crate::wire::{find, values};

/// What a strict reader finds ambiguous in a request head (RFC 9112 §2.2, §3.2, §5.1, §6.3).
pub fn faults(bytes: &[u8], headers: &[(String, String)]) -> Vec<String> {
    let mut out = Vec::new();
    let mut fault = |condition: bool, what: &str| {
        if condition {
            out.push(what.to_owned());
        }
    };
    let lengths = values(headers, "content-length");
    let codings = values(headers, "transfer-encoding");
    let digits = |text: &&str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    fault(lengths.len() > 1, "several Content-Length");
    fault(!lengths.iter().all(digits), "a Content-Length that is not a number");
    fault(codings.len() > 1, "several Transfer-Encoding");
    fault(!codings.iter().all(|value| *value == "chunked"), "a Transfer-Encoding but chunked");
    fault(!codings.is_empty() && !lengths.is_empty(), "Transfer-Encoding and Content-Length");
    fault(values(headers, "host").len() != 1, "not exactly one Host");
    let text = &bytes[..bytes.len() - 4];
    fault(text.iter().any(|&byte| byte == 0 || byte == 0x7f), "a control character");
    let lines: Vec<&[u8]> = split_lines(text);
    // Values may have such bytes (obs-text, RFC 9110 section 5.5).
    fault(lines[0].iter().any(|&byte| byte >= 0x80), "a byte beyond ASCII");
    fault(lines.iter().any(|line| line.contains(&b'\n') || line.contains(&b'\r')), "a bare CR or LF");
    fault(lines[0].iter().filter(|&&byte| byte == b' ').count() != 2, "a request line of not 3 words");
    fault(!lines[0].ends_with(b" HTTP/1.1"), "another version than HTTP/1.1");
    for line in &lines[1..] {
        let name = line.split(|&byte| byte == b':').next().unwrap_or_default();
        let token = |byte: &u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(byte);
        fault(name.is_empty() || !name.iter().all(token), "a field name that is not a token");
        fault(is_lookalike(name), "an underscore in a name that frames or tells who somebody is");
        fault(!line.contains(&b':'), "a field without a colon");
    }
    out
}

/// Whether a server that reads `_` as `-` would take the name for one that frames a message or carries an identity.
fn is_lookalike(name: &[u8]) -> bool {
    const KNOWN: [&str; 9] = [
        "content-length",
        "transfer-encoding",
        "host",
        "connection",
        "authorization",
        "proxy-authorization",
        "upgrade",
        "expect",
        "x-real-ip",
    ];
    const PREFIXES: [&str; 5] = ["x-forwarded-", "x-consumer-", "x-credential-", "x-authenticated-", "x-anonymous-"];
    let dashed = String::from_utf8_lossy(name).to_ascii_lowercase().replace('_', "-");
    name.contains(&b'_') && (KNOWN.contains(&&*dashed) || PREFIXES.iter().any(|prefix| dashed.starts_with(prefix)))
}

fn split_lines(text: &[u8]) -> Vec<&[u8]> {
    let mut lines = Vec::new();
    let mut rest = text;
    while let Some(at) = find(rest, b"\r\n") {
        lines.push(&rest[..at]);
        rest = &rest[at + 2..];
    }
    lines.push(rest);
    lines
}
