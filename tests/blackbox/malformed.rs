//! Requests that two servers could read differently, and requests that nobody should read at all:
//! refused or made safe, and the gateway goes on. The classes are those of RFC 9112 §11 and of the
//! published request-smuggling attacks.

use std::time::Duration;

use gateway_tests::wire::find;
use gateway_tests::{Client, Gateway, Request, Upstream};

const CONFIG: &str = r#"
_format_version: "3.0"
services:
- url: @UP@
  read_timeout: 3000
  routes:
  - { paths: [/] }
  - { paths: [/admin], plugins: [{ name: key-auth }] }
"#;

/// What may happen to a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fate {
    /// Refused; the upstream sees nothing of it.
    Refused,
    /// Refused, or its head was forwarded and the body never completed.
    Cut,
    /// Refused, or forwarded as one request that reads only one way.
    Safe,
}
use Fate::{Cut, Refused, Safe};

/// Bytes, and what may become of them.
type Case = (&'static str, Fate, Vec<u8>);

fn case(what: &'static str, fate: Fate, bytes: impl AsRef<[u8]>) -> Case {
    (what, fate, bytes.as_ref().to_vec())
}

const SMUGGLED: &str = "GET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n";

fn post(fields: &str, body: &str) -> String {
    format!("POST /x HTTP/1.1\r\nHost: a\r\n{fields}\r\n{body}")
}

fn get(fields: &str) -> String {
    format!("GET /x HTTP/1.1\r\nHost: a\r\n{fields}\r\n")
}

fn line(line: &str) -> String {
    format!("{line}\r\nHost: a\r\n\r\n")
}

fn smuggling() -> Vec<Case> {
    let hidden = format!("0\r\n\r\n{SMUGGLED}");
    let length = hidden.len();
    let both = format!("Content-Length: {length}\r\nTransfer-Encoding: chunked\r\n");
    let reversed = format!("Transfer-Encoding: chunked\r\nContent-Length: {length}\r\n");
    let mut out = vec![
        case("length and chunks", Safe, post(&both, &hidden)),
        case("chunks and length", Safe, post(&reversed, &hidden)),
        case("a short length and chunks", Safe, {
            let chunk = format!("{:x}\r\n{SMUGGLED}\r\n0\r\n\r\n", SMUGGLED.len());
            post("Content-Length: 4\r\nTransfer-Encoding: chunked\r\n", &chunk)
        }),
        case("chunks in HTTP/1.0", Refused, {
            let head = "POST /x HTTP/1.0\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n";
            format!("{head}{hidden}")
        }),
    ];
    for (what, field) in [
        ("a coding but chunked", "Transfer-Encoding: xchunked"),
        ("identity", "Transfer-Encoding: identity"),
        ("chunked, then identity", "Transfer-Encoding: chunked, identity"),
        ("chunked twice", "Transfer-Encoding: chunked, chunked"),
        ("gzip, then chunked", "Transfer-Encoding: gzip, chunked"),
        ("an empty coding", "Transfer-Encoding:"),
        ("a leading comma", "Transfer-Encoding: ,chunked"),
        ("a trailing comma", "Transfer-Encoding: chunked,"),
        ("a parameter", "Transfer-Encoding: chunked;q=1"),
        ("quotes", "Transfer-Encoding: \"chunked\""),
        ("a vertical tab", "Transfer-Encoding: \x0bchunked"),
        ("two fields", "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked"),
        ("two different fields", "Transfer-Encoding: chunked\r\nTransfer-Encoding: cow"),
        ("a space before the colon", "Transfer-Encoding : chunked"),
        ("a folded field", "X: y\r\n Transfer-Encoding: chunked"),
        ("a field behind a bare CR", "X: y\rTransfer-Encoding: chunked"),
    ] {
        out.push((what, Refused, post(&format!("{field}\r\n"), &hidden).into_bytes()));
        let with = format!("Content-Length: {length}\r\n{field}\r\n");
        out.push((what, Refused, post(&with, &hidden).into_bytes()));
    }
    let lookalike = format!("Content-Length: {length}\r\nTransfer_Encoding: chunked\r\n");
    out.push(case("an underscore", Safe, post(&lookalike, &hidden)));
    out
}

fn lengths() -> Vec<Case> {
    let mut out = Vec::new();
    for value in
        ["+5", "-0", "-5", "0x5", "5 5", "5;x", "5.0", "five", "", "18446744073709551621", "99999999999999999999"]
    {
        let fields = format!("Content-Length: {value}\r\n");
        out.push(("a length that is no number", Refused, post(&fields, "hello").into_bytes()));
    }
    out.extend([
        case("two lengths", Refused, post("Content-Length: 5\r\nContent-Length: 6\r\n", "hello!")),
        case("a list of lengths", Refused, post("Content-Length: 5, 6\r\n", "hello!")),
        case("the same length twice", Safe, post("Content-Length: 5\r\nContent-Length: 5\r\n", "hello")),
        case("a length with a lookalike", Safe, post("Content-Length: 5\r\nContent_Length: 0\r\n", "hello")),
    ]);
    out
}

fn chunks() -> Vec<Case> {
    let chunked = |body: &str| post("Transfer-Encoding: chunked\r\n", body);
    let extension = format!("5;{}\r\nhello\r\n0\r\n\r\n", "a".repeat(65_536));
    let extensions = format!("{}0\r\n\r\n", format!("1;{}\r\na\r\n", "b".repeat(200)).repeat(2000));
    vec![
        case("a signed size", Cut, chunked("+5\r\nhello\r\n0\r\n\r\n")),
        case("a negative size", Cut, chunked("-1\r\nhello\r\n0\r\n\r\n")),
        case("a size with a prefix", Cut, chunked("0x5\r\nhello\r\n0\r\n\r\n")),
        case("a size that is no number", Cut, chunked("g\r\nhello\r\n0\r\n\r\n")),
        case("no size", Cut, chunked("\r\nhello\r\n0\r\n\r\n")),
        case("a size beyond all memory", Cut, chunked("FFFFFFFFFFFFFFFFF\r\nhello\r\n0\r\n\r\n")),
        case("a size that wraps", Cut, chunked("10000000000000005\r\nhello\r\n0\r\n\r\n")),
        case("a chunk longer than its size", Cut, chunked("3\r\nhello\r\n0\r\n\r\n")),
        case("a chunk without its end", Cut, chunked("5\r\nhelloXX0\r\n\r\n")),
        case("a line ended by LF alone", Cut, chunked("5\nhello\r\n0\r\n\r\n")),
        case("data ended by LF alone", Cut, chunked("5\r\nhello\n0\r\n\r\n")),
        case("an extension with a bare LF", Cut, chunked("5;a\nhello\r\n0\r\n\r\n")),
        case("an extension with a bare CR", Cut, chunked("5\r;a\r\nhello\r\n0\r\n\r\n")),
        case("an extension with a NUL", Safe, chunked("5;a\0b\r\nhello\r\n0\r\n\r\n")),
        case("an endless extension", Cut, chunked(&extension)),
        case("thousands of extensions", Cut, chunked(&extensions)),
    ]
}

fn hosts() -> Vec<Case> {
    let mut out = vec![
        case("no host", Refused, "GET /x HTTP/1.1\r\n\r\n"),
        case("two hosts", Refused, "GET /x HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n"),
        case("the same host twice", Refused, "GET /x HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n"),
        case("a host behind a space", Refused, "GET /x HTTP/1.1\r\nHost : a\r\n\r\n"),
    ];
    for host in ["a b", "a/b", "a?b", "a\\b", "u@a", "a,b", "a:99999", "a:b", "a:-1", "[::1", "::1", "a\0b", "a#b"] {
        let bytes = format!("GET /x HTTP/1.1\r\nHost: {host}\r\n\r\n").into_bytes();
        out.push(("a host that is none", Refused, bytes));
    }
    out
}

fn lines() -> Vec<Case> {
    let long = format!("GET /{} HTTP/1.1", "a".repeat(100_000));
    let method = format!("{} /x HTTP/1.1", "A".repeat(20_000));
    vec![
        case("two spaces", Refused, line("GET  /x HTTP/1.1")),
        case("a space in the target", Refused, line("GET /x y HTTP/1.1")),
        case("a word too many", Refused, line("GET /x HTTP/1.1 x")),
        case("a tab", Refused, line("GET\t/x HTTP/1.1")),
        case("a leading space", Refused, line(" GET /x HTTP/1.1")),
        case("no target", Refused, line("GET HTTP/1.1")),
        case("a version in small letters", Refused, line("GET /x http/1.1")),
        case("a version of the future", Refused, line("GET /x HTTP/2.0")),
        case("a version of the past", Refused, "GET /x\r\n\r\n"),
        case("a version of two digits", Refused, line("GET /x HTTP/1.10")),
        case("a method that is no token", Refused, line("G@T /x HTTP/1.1")),
        case("a method without end", Refused, line(&method)),
        case("CONNECT", Refused, line("CONNECT a:443 HTTP/1.1")),
        case("TRACE", Refused, line("TRACE /x HTTP/1.1")),
        case("an asterisk with GET", Refused, line("GET * HTTP/1.1")),
        case("another scheme", Refused, line("GET ftp://a/x HTTP/1.1")),
        case("user information", Refused, line("GET http://u:p@a/x HTTP/1.1")),
        case("no slash", Refused, line("GET x HTTP/1.1")),
        case("a NUL in the target", Refused, line("GET /x\0y HTTP/1.1")),
        case("a DEL in the target", Refused, line("GET /x\x7fy HTTP/1.1")),
        case("a byte beyond ASCII", Refused, line("GET /é HTTP/1.1")),
        case("a bad escape", Safe, line("GET /x%zz HTTP/1.1")),
        case("an escaped NUL", Safe, line("GET /x%00y HTTP/1.1")),
        case("a fragment", Safe, line("GET /x#y HTTP/1.1")),
        case("a target without end", Refused, line(&long)),
        case("nonsense", Refused, "\x16\x03\x01\x02\x00\x01\x00\x01\r\n\r\n"),
        case("half a preface of HTTP/2", Refused, "PRI * HTTP/2.0\r\n\r\nXX\r\n\r\n"),
    ]
}

fn fields() -> Vec<Case> {
    let large = format!("X: {}\r\n", "a".repeat(1 << 20));
    vec![
        case("a NUL in a value", Refused, get("X: a\0b\r\n")),
        case("a bare CR in a value", Refused, get("X: a\rb\r\n")),
        case("a control character in a value", Refused, get("X: a\x01b\r\n")),
        case("a folded value", Refused, get("X: a\r\n b\r\n")),
        case("a name with a space", Refused, get("X Y: a\r\n")),
        case("a name that is no token", Refused, get("X(Y): a\r\n")),
        case("a name beyond ASCII", Refused, get("Xé: a\r\n")),
        case("no name", Refused, get(": a\r\n")),
        case("no colon", Refused, get("X\r\n")),
        case("a space before the colon", Refused, get("X : a\r\n")),
        case("a space at the start", Refused, "GET /x HTTP/1.1\r\n X: a\r\nHost: a\r\n\r\n"),
        case("lines ended by LF alone", Safe, "GET /x HTTP/1.1\nHost: a\n\n"),
        case("a large field", Refused, get(&large)),
        case("a thousand fields", Refused, get(&"X: a\r\n".repeat(10_000))),
        case("a consumer with underscores", Safe, get("X_Consumer_Username: root\r\n")),
        case(
            "a switch to HTTP/2",
            Safe,
            get("Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAARAAAAAAAIAAAAA\r\n"),
        ),
    ]
}

/// The statuses of the answers in `bytes`, bodies skipped by looking for status lines.
fn statuses(bytes: &[u8]) -> Vec<u16> {
    let text = String::from_utf8_lossy(bytes);
    text.match_indices("HTTP/1.").filter_map(|(at, _)| text.get(at + 9..at + 12)?.parse().ok()).collect()
}

/// The bytes with the target `/x` of the first line replaced.
fn marked(bytes: &[u8], mark: &str) -> Vec<u8> {
    match find(bytes, b"/x") {
        Some(at) => [&bytes[..at], mark.as_bytes(), &bytes[at + 2..]].concat(),
        None => bytes.to_vec(),
    }
}

fn run(cases: Vec<Case>) {
    let upstream = Upstream::echo();
    let mut gateway = Gateway::start(&upstream.fill(CONFIG));
    let pid = gateway.pid();
    let mut wrong = Vec::new();
    let count = cases.len();
    for (at, (what, fate, bytes)) in cases.into_iter().enumerate() {
        // Each case has a target of its own, so that a late request is not taken for another case's.
        let mark = format!("/x{at}.");
        let bytes = marked(&bytes, &mark);
        let before = upstream.count();
        let mut client = gateway.connect();
        // A refusal may come before all is written.
        let _ = client.write(&bytes);
        let (answer, closed) = client.drain(Duration::from_millis(700));
        let answers = statuses(&answer);
        let mut seen = upstream.seen().split_off(before);
        seen.retain(|seen| !seen.target.starts_with("/x") || seen.target.starts_with(&mark));
        let refusal = |status: &u16| (400..500).contains(status) || matches!(status, 501 | 505);
        let refused = answers.first().map_or(closed, refusal);
        let complete = seen.iter().filter(|seen| seen.complete).count();
        let faults: Vec<&String> = seen.iter().flat_map(|seen| &seen.faults).collect();
        let ambiguous = seen.iter().any(|seen| seen.complete && !seen.faults.is_empty());
        let good = match fate {
            Refused => refused && seen.is_empty(),
            Cut => complete == 0 && answers.first().is_none_or(|status| refusal(status) || *status == 502),
            Safe => (refused && complete == 0) || (complete == 1 && !ambiguous && answers == [200]),
        };
        let smuggled = seen.iter().any(|seen| seen.target.contains("smuggled"))
            || seen.iter().any(|seen| seen.header("x_consumer_username").is_some());
        if !good || smuggled || answers.len() > 1 {
            let head = String::from_utf8_lossy(&bytes[..bytes.len().min(160)]).into_owned();
            let targets: Vec<&str> = seen.iter().map(|seen| seen.target.as_str()).collect();
            wrong.push(format!(
                "{what} ({fate:?}): answers {answers:?}, closed {closed}, upstream {targets:?} \
                 {complete} complete {faults:?}: {head:?}"
            ));
        }
    }
    gateway.send(&Request::get("/after")).expect(200);
    assert!(gateway.runs(), "the gateway is still there");
    assert_eq!(gateway.pid(), pid);
    assert!(wrong.is_empty(), "{} of {count}:\n{}", wrong.len(), wrong.join("\n"));
}

#[test]
fn smuggling_by_transfer_encoding() {
    run(smuggling());
}

#[test]
fn lengths_that_are_none() {
    run(lengths());
}

#[test]
fn chunks_that_are_none() {
    run(chunks());
}

#[test]
fn hosts_that_are_none() {
    run(hosts());
}

#[test]
fn request_lines_that_are_none() {
    run(lines());
}

#[test]
fn fields_that_are_none() {
    run(fields());
}

#[test]
fn a_body_of_a_refused_request_is_not_the_next_request() {
    let upstream = Upstream::echo();
    let gateway = Gateway::start(&upstream.fill(CONFIG));
    let hidden = "GET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n";
    for fields in [
        format!("Content-Length: {}\r\n", hidden.len()),
        format!("Content-Length: {}\r\nExpect: 100-continue\r\n", hidden.len()),
        format!("Content-Length: {}\r\nExpect: y 100-continue\r\n", hidden.len()),
    ] {
        let mut client = gateway.connect();
        let bytes = format!("POST /admin HTTP/1.1\r\nHost: a\r\n{fields}\r\n{hidden}");
        client.write(bytes.as_bytes()).unwrap();
        let (answer, _) = client.drain(Duration::from_millis(500));
        let answers: Vec<u16> = statuses(&answer).into_iter().filter(|status| *status >= 200).collect();
        assert_eq!(answers.len(), 1, "{fields}: {}", String::from_utf8_lossy(&answer));
        assert!(matches!(answers[0], 400 | 401 | 417), "{answers:?}");
    }
    assert_eq!(upstream.count(), 0);
}

#[test]
fn half_a_request_does_not_hold_the_gateway() {
    let upstream = Upstream::echo();
    let text = format!("{}gateway:\n  timeouts: {{ header: 1s, idle: 2s }}\n", upstream.fill(CONFIG));
    let gateway = Gateway::start(&text);
    let mut silent = gateway.connect();
    let mut half: Vec<Client> = (0..20)
        .map(|_| {
            let mut client = gateway.connect();
            client.write(b"GET /x HTTP/1.1\r\nHost: a\r\nX: ").unwrap();
            client
        })
        .collect();
    gateway.get("/others").expect(200);
    for client in &mut half {
        let (answer, closed) = client.drain(Duration::from_secs(5));
        assert!(closed, "hung up");
        assert!(statuses(&answer).iter().all(|status| *status == 408), "{answer:?}");
    }
    assert!(silent.drain(Duration::from_secs(5)).1, "who says nothing is let go");
    assert_eq!(upstream.count(), 1);
}
