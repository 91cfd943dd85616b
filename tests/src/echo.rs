//! The answers of the echo upstream, in the form of Kong's mock upstream: JSON with the request's
//! headers, query arguments, body and the variables that a server has of it.
//!
//! `/status/N` answers with N, `/delay/SECONDS` answers late, `/response-headers?NAME=VALUE…` sets
//! headers, a WebSocket handshake is accepted and its bytes sent back; any other path echoes.

use std::thread;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Map, Value, json};

use crate::upstream::{Answer, Seen};
use crate::wire::{find, lossy};

/// Longest that `/delay/` waits, in seconds.
const DELAY_S_MAX: f64 = 30.0;

/// Answers one request.
pub fn answer(seen: &Seen) -> Answer {
    if seen.header("upgrade").is_some_and(|value| value.eq_ignore_ascii_case("websocket")) {
        return Answer::Tunnel(handshake(seen));
    }
    let (path, query) = seen.target.split_once('?').unwrap_or((&seen.target, ""));
    if let Some(status) = path.strip_prefix("/status/").and_then(|text| text.parse::<u16>().ok()) {
        let mut body = describe(seen);
        body["code"] = status.into();
        let body = body.to_string();
        let body = if status == 204 || status == 304 { "" } else { &body };
        return reply(seen, status, &[("Content-Type", "application/json")], body.as_bytes());
    }
    if let Some(seconds) = path.strip_prefix("/delay/").and_then(|text| text.parse::<f64>().ok()) {
        thread::sleep(Duration::from_secs_f64(seconds.clamp(0.0, DELAY_S_MAX)));
    }
    let mut headers = vec![("Content-Type".to_owned(), "application/json".to_owned())];
    headers.push(("Server".to_owned(), "mock-upstream/1.0.0".to_owned()));
    if path == "/response-headers" {
        for (name, value) in arguments(query) {
            headers.push((name, value.as_str().unwrap_or_default().to_owned()));
        }
    }
    let headers: Vec<(&str, &str)> = headers.iter().map(|(n, v)| (&**n, &**v)).collect();
    reply(seen, 200, &headers, describe(seen).to_string().as_bytes())
}

fn reply(seen: &Seen, status: u16, headers: &[(&str, &str)], body: &[u8]) -> Answer {
    let Answer::Bytes(mut bytes) = Answer::reply(status, headers, body) else { unreachable!("a reply is bytes") };
    if seen.method == "HEAD" {
        bytes.truncate(bytes.len() - body.len());
    }
    Answer::Bytes(bytes)
}

/// The request as JSON.
pub fn describe(seen: &Seen) -> Value {
    let (path, query) = seen.target.split_once('?').unwrap_or((&seen.target, ""));
    let host = seen.header("host").unwrap_or_default();
    let peer = seen.peer.map(|peer| peer.ip().to_string()).unwrap_or_default();
    // Kong's mock upstream trusts its peer for the client's address.
    let remote = seen.header("x-real-ip").unwrap_or(&peer);
    json!({
        "headers": repeated(seen.headers.iter().map(|(name, value)| {
            (name.to_ascii_lowercase(), Value::String(value.clone()))
        })),
        "uri_args": repeated(arguments(query)),
        "url": format!("http://{host}{}", seen.target),
        "post_data": post_data(seen),
        "vars": {
            "request_method": seen.method,
            "request_uri": seen.target,
            "uri": decode(path, false),
            "args": query,
            "host": host.rsplit_once(':').map_or(host, |(name, _)| name),
            "remote_addr": remote,
            "peer": peer,
            "scheme": "http",
            "server_protocol": seen.version,
        },
    })
}

fn post_data(seen: &Seen) -> Value {
    let text = lossy(&seen.body);
    let kind = seen.header("content-type").unwrap_or_default().to_ascii_lowercase();
    let kind = kind.split(';').next().unwrap_or_default().trim();
    let mut out = Map::new();
    out.insert("text".into(), text.clone().into());
    let (kind, params) = match kind {
        "application/json" => match serde_json::from_slice(&seen.body) {
            Ok(value) => ("json", value),
            Err(error) => {
                out.insert("error".into(), error.to_string().into());
                ("json (error)", Value::Null)
            }
        },
        "application/x-www-form-urlencoded" => ("form", repeated(arguments(&text))),
        "multipart/form-data" => ("multipart-form", repeated(parts(seen))),
        _ => ("unknown", Value::Null),
    };
    out.insert("kind".into(), kind.into());
    out.insert("params".into(), params);
    Value::Object(out)
}

/// The plain fields of a multipart form.
fn parts(seen: &Seen) -> Vec<(String, Value)> {
    let kind = seen.header("content-type").unwrap_or_default();
    let Some((_, boundary)) = kind.split_once("boundary=") else {
        return Vec::new();
    };
    let boundary = format!("--{}", boundary.split(';').next().unwrap_or_default().trim_matches('"'));
    let text = lossy(&seen.body);
    let mut out = Vec::new();
    for part in text.split(&boundary) {
        let Some(at) = find(part.as_bytes(), b"\r\n\r\n") else {
            continue;
        };
        let (head, body) = part.split_at(at);
        let Some((_, name)) = head.split_once("name=\"") else {
            continue;
        };
        let name = name.split('"').next().unwrap_or_default().to_owned();
        let body = body[4..].strip_suffix("\r\n").unwrap_or(&body[4..]);
        out.push((name, Value::String(body.to_owned())));
    }
    out
}

/// Query or form arguments; one without `=` is true.
pub fn arguments(text: &str) -> Vec<(String, Value)> {
    text.split('&')
        .filter(|pair| !pair.is_empty())
        .map(|pair| match pair.split_once('=') {
            Some((name, value)) => (decode(name, true), Value::String(decode(value, true))),
            None => (decode(pair, true), Value::Bool(true)),
        })
        .collect()
}

/// An object in which a repeated name has all its values.
fn repeated(pairs: impl IntoIterator<Item = (String, Value)>) -> Value {
    let mut out = Map::new();
    for (name, value) in pairs {
        match out.get_mut(&name) {
            None => {
                out.insert(name, value);
            }
            Some(Value::Array(values)) => values.push(value),
            Some(first) => *first = Value::Array(vec![first.take(), value]),
        }
    }
    Value::Object(out)
}

/// Undoes percent-encoding.
pub fn decode(text: &str, plus_is_space: bool) -> String {
    let bytes = text.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        let hex = bytes.get(at + 1..at + 3).and_then(|hex| std::str::from_utf8(hex).ok());
        let byte = hex.and_then(|hex| u8::from_str_radix(hex, 16).ok());
        match (bytes[at], byte) {
            (b'%', Some(byte)) => {
                out.push(byte);
                at += 2;
            }
            (b'+', _) if plus_is_space => out.push(b' '),
            (other, _) => out.push(other),
        }
        at += 1;
    }
    lossy(&out)
}

/// The answer to a WebSocket handshake (RFC 6455 §4.2.2).
fn handshake(seen: &Seen) -> Vec<u8> {
    let key = seen.header("sec-websocket-key").unwrap_or_default();
    format!(
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Accept: {}\r\n\r\n",
        websocket_accept(key)
    )
    .into_bytes()
}

/// The value of `Sec-WebSocket-Accept` for a key.
pub fn websocket_accept(key: &str) -> String {
    let text = format!("{key}258EAFA5-E914-47DA-95CA-C5AB0DC85B11");
    let digest = &aws_lc_rs::digest::SHA1_FOR_LEGACY_USE_ONLY;
    STANDARD.encode(aws_lc_rs::digest::digest(digest, text.as_bytes()))
}
