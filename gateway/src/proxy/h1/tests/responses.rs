//! Responses that must be understood, split at every byte boundary: framing, reuse, interim heads.

use bytes::Bytes;
use http::{HeaderMap, Method};
use http_body_util::Empty;

use super::script::{Nest, Step, Whole, connect, finish, head, whole};

/// How the peer goes on behind the bytes.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Then {
    Idle,
    Eof,
    Reset,
}

/// What came of one response: the response, or the reason's word; and whether the connection can serve again.
pub fn play(method: &Method, segments: &[&[u8]], then: Then) -> (Result<Whole, &'static str>, bool) {
    let mut steps = vec![Step::Written(1)];
    steps.extend(segments.iter().filter(|s| !s.is_empty()).map(|s| Step::Data(s.to_vec())));
    steps.extend(match then {
        Then::Idle => None,
        Then::Eof => Some(Step::Eof),
        Then::Reset => Some(Step::Reset),
    });
    let (connection, peer) = connect(steps);
    let nest = Nest::new();
    let headers = HeaderMap::new();
    let exchange = connection.exchange(&head(method, &headers), Empty::<Bytes>::new(), nest.clone());
    let result = finish(exchange).and_then(whole).map_err(|failure| failure.reason.word());
    let mut returned = nest.take();
    let reusable = returned.as_mut().is_some_and(|connection| {
        assert!(result.is_ok(), "a failed exchange gave its connection back");
        !(0..4).any(|_| connection.is_stale())
    });
    if returned.is_none() {
        assert!(peer.borrow().closed, "a connection that is not reusable is closed");
    }
    (result, reusable)
}

/// Plays a response whole, byte by byte, and split at every place; all must agree.
pub fn play_split(method: &Method, response: &[u8], then: Then) -> (Result<Whole, &'static str>, bool) {
    let reference = play(method, &[response], then);
    let bytes: Vec<&[u8]> = response.chunks(1).collect();
    assert_eq!(play(method, &bytes, then), reference, "byte by byte");
    for at in 0..response.len() {
        let (front, back) = response.split_at(at);
        assert_eq!(play(method, &[front, back], then), reference, "split at {at}");
    }
    reference
}

struct Case {
    name: &'static str,
    method: Method,
    response: &'static str,
    then: Then,
    status: u16,
    body: &'static str,
    reuse: bool,
}

fn case(name: &'static str, response: &'static str, status: u16, body: &'static str, reuse: bool) -> Case {
    Case { name, method: Method::GET, response, then: Then::Idle, status, body, reuse }
}

fn to_head(name: &'static str, response: &'static str, reuse: bool) -> Case {
    Case { method: Method::HEAD, ..case(name, response, 200, "", reuse) }
}

fn until_eof(name: &'static str, response: &'static str, body: &'static str) -> Case {
    Case { then: Then::Eof, ..case(name, response, 200, body, false) }
}

fn cases() -> Vec<Case> {
    let mut cases = lengths();
    cases.extend(chunks());
    cases.extend(bodiless());
    cases.extend(interim());
    cases
}

fn lengths() -> Vec<Case> {
    vec![
        case("length", "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello", 200, "hello", true),
        case("no reason phrase", "HTTP/1.1 200\r\ncontent-length: 2\r\n\r\nhi", 200, "hi", true),
        case("empty reason phrase", "HTTP/1.1 200 \r\ncontent-length: 2\r\n\r\nhi", 200, "hi", true),
        case("length zero", "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", 200, "", true),
        case("equal lengths", "HTTP/1.1 200 OK\r\nContent-Length: 2\r\ncontent-length: 2\r\n\r\nhi", 200, "hi", true),
        case("length with space around", "HTTP/1.1 200 OK\r\nContent-Length: \t 2 \t\r\n\r\nhi", 200, "hi", true),
        case("error with body", "HTTP/1.1 503 No\r\nContent-Length: 2\r\n\r\nhi", 503, "hi", true),
        case("odd status", "HTTP/1.1 799 Odd\r\nContent-Length: 0\r\n\r\n", 799, "", true),
        case("close", "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nhi", 200, "hi", false),
        case("close in a list", "HTTP/1.1 200 OK\r\nConnection: x, Close\r\nContent-Length: 0\r\n\r\n", 200, "", false),
        case("keep-alive", "HTTP/1.1 200 OK\r\nConnection: keep-alive\r\nContent-Length: 0\r\n\r\n", 200, "", true),
        case("1.0 with length", "HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nhi", 200, "hi", false),
        case(
            "1.0 keep-alive",
            "HTTP/1.0 200 OK\r\nConnection: keep-alive\r\nContent-Length: 2\r\n\r\nhi",
            200,
            "hi",
            false,
        ),
        case("bytes behind the body", "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhiX", 200, "hi", false),
        case(
            "a second response",
            "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
            200,
            "",
            false,
        ),
        until_eof("until close", "HTTP/1.1 200 OK\r\n\r\nhello", "hello"),
        until_eof("until close, empty", "HTTP/1.1 200 OK\r\n\r\n", ""),
        until_eof("1.0 until close", "HTTP/1.0 200 OK\r\nServer: x\r\n\r\nhello", "hello"),
        until_eof("closed behind the body", "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi", "hi"),
    ]
}

fn chunks() -> Vec<Case> {
    vec![
        case("chunked", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n", 200, "abc", true),
        case(
            "several chunks",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: Chunked \r\n\r\n1\r\na\r\nA\r\n0123456789\r\n0\r\n\r\n",
            200,
            "a0123456789",
            true,
        ),
        case("chunked, empty", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 200, "", true),
        case(
            "extensions",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1;a=\"b c\"\r\na\r\n0;last\r\n\r\n",
            200,
            "a",
            true,
        ),
        case(
            "zeros before the size",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0000000000000001\r\na\r\n000\r\n\r\n",
            200,
            "a",
            true,
        ),
        case(
            "bytes behind the last chunk",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n0\r\n\r\nX",
            200,
            "a",
            false,
        ),
        case(
            "chunked and close",
            "HTTP/1.1 200 OK\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n0\r\n\r\n",
            200,
            "a",
            false,
        ),
    ]
}

fn bodiless() -> Vec<Case> {
    vec![
        case("204", "HTTP/1.1 204 No Content\r\n\r\n", 204, "", true),
        case("204 with length zero", "HTTP/1.1 204 No Content\r\nContent-Length: 0\r\n\r\n", 204, "", true),
        case("204 with length", "HTTP/1.1 204 No Content\r\nContent-Length: 2\r\n\r\n", 204, "", false),
        case("204 with body", "HTTP/1.1 204 No Content\r\nContent-Length: 2\r\n\r\nhi", 204, "", false),
        case("204 chunked", "HTTP/1.1 204 No Content\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 204, "", false),
        case("304", "HTTP/1.1 304 Not Modified\r\nContent-Length: 9\r\n\r\n", 304, "", true),
        case("304 with body", "HTTP/1.1 304 Not Modified\r\nContent-Length: 2\r\n\r\nhi", 304, "", false),
        to_head("HEAD", "HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n", true),
        to_head("HEAD without framing", "HTTP/1.1 200 OK\r\n\r\n", true),
        to_head("HEAD chunked", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", true),
        to_head("HEAD with body", "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi", false),
        to_head("HEAD 1.0", "HTTP/1.0 200 OK\r\n\r\n", false),
    ]
}

fn interim() -> Vec<Case> {
    vec![
        case("100", "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\na", 200, "a", true),
        case(
            "102, 103 and 199",
            "HTTP/1.1 102 P\r\n\r\nHTTP/1.1 103 E\r\nLink: </a>\r\n\r\nHTTP/1.1 199 ?\r\n\r\nHTTP/1.1 204 N\r\n\r\n",
            204,
            "",
            true,
        ),
        case(
            "100 with close does not count",
            "HTTP/1.1 100 Continue\r\nConnection: close\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
            200,
            "",
            true,
        ),
    ]
}

#[test]
fn responses_are_understood_however_they_are_split() {
    for case in cases() {
        let (result, reuse) = play_split(&case.method, case.response.as_bytes(), case.then);
        let name = case.name;
        let whole = result.unwrap_or_else(|reason| panic!("{name}: {reason}"));
        assert_eq!((whole.status, whole.body.as_slice()), (case.status, case.body.as_bytes()), "{name}");
        assert!(whole.trailers.is_empty(), "{name}");
        // A peer that has closed makes its connection stale.
        assert_eq!(reuse, case.reuse, "{name}: reuse");
    }
}

#[test]
fn fields_are_kept_and_framing_fields_are_normal() {
    let response = b"HTTP/1.1 200 OK\r\nX-A: 1\r\nx-a:2\r\nEmpty:\r\nBlank:  \t\r\nCaf\xc3\xa9: no\r\n\r\n";
    assert_eq!(play(&Method::GET, &[response], Then::Eof).0, Err("head_syntax"), "names are tokens");
    let response = b"HTTP/1.1 200 OK\r\nX-A: 1\r\nx-a:2\r\nEmpty:\r\nBlank:  \t\r\nObs: caf\xe9\ttab\r\n\
        Content-Length: 1\r\nContent-Length: 1\r\nConnection: x-a\r\n\r\na";
    let headers = play_split(&Method::GET, response, Then::Idle).0.unwrap().headers;
    let values: Vec<_> = headers.get_all("x-a").iter().map(|v| v.as_bytes()).collect();
    assert_eq!(values, [b"1", b"2"]);
    assert_eq!(headers["empty"], "");
    assert_eq!(headers["blank"], "");
    assert_eq!(headers["obs"].as_bytes(), b"caf\xe9\ttab");
    assert_eq!(headers.get_all("content-length").iter().count(), 1);
    assert_eq!(headers["connection"], "x-a", "the caller needs the nominations");

    let chunked = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n";
    assert!(play_split(&Method::GET, chunked, Then::Idle).0.unwrap().headers.is_empty());
    let length = play(&Method::HEAD, &[b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n"], Then::Idle).0.unwrap();
    assert_eq!(length.headers["content-length"], "9", "HEAD tells the length");
    let none = play(&Method::GET, &[b"HTTP/1.1 204 N\r\nContent-Length: 0\r\n\r\n"], Then::Idle).0.unwrap();
    assert!(none.headers.is_empty(), "204 must not carry a length");
}

#[test]
fn trailers_pass_without_framing_and_hop_by_hop_fields() {
    let response = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\nGrpc-Status: 0\r\n\
        Content-Length: 5\r\nTransfer-Encoding: chunked\r\nConnection: x\r\nHost: evil\r\nSet-Cookie: a\r\n\
        Keep-Alive: 1\r\nTE: x\r\nX-A: 1\r\nX-A: 2\r\n\r\n";
    let (whole, reuse) = play_split(&Method::GET, response, Then::Idle);
    let trailers = whole.unwrap().trailers;
    assert_eq!(trailers.len(), 3);
    assert_eq!(trailers["grpc-status"], "0");
    assert_eq!(trailers.get_all("x-a").iter().count(), 2);
    assert!(reuse);
    let only_dropped = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\nHost: evil\r\n\r\n";
    let (whole, reuse) = play_split(&Method::GET, only_dropped, Then::Idle);
    assert!(whole.unwrap().trailers.is_empty() && reuse);
}
