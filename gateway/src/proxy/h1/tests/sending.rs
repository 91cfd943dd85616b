//! What is written: heads, framing, single writes, early responses, failures and whether they may be retried.

use bytes::Bytes;
use http::header::{HeaderMap, HeaderName, HeaderValue};
use http::{Method, header};
use http_body::Frame;
use http_body_util::{Empty, Full};

use super::super::{Reply, RequestHead, Side};
use super::script::{Frames, Nest, Step, assert_waits, connect, drain, finish, head, try_finish, whole};

const OK: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n";
const ALL: usize = usize::MAX;

fn data(bytes: &[u8]) -> Step {
    Step::Data(bytes.to_vec())
}

/// Sends to a peer that never answers and returns what it got.
fn sent<B>(head: &RequestHead<'_>, body: B, write_max: Option<usize>) -> (String, Vec<usize>)
where
    B: http_body::Body<Data = Bytes> + Unpin,
    B::Error: Into<super::super::BoxError>,
{
    let (connection, peer) = connect([Step::Written(ALL)]);
    peer.borrow_mut().write_max = write_max;
    let exchange = connection.exchange(head, body, Nest::new());
    assert!(try_finish(exchange).is_none(), "there is no answer");
    let peer = peer.borrow();
    assert!(!peer.unflushed);
    (String::from_utf8(peer.written.clone()).unwrap(), peer.writes.clone())
}

#[test]
fn a_head_is_written_once_and_framed_here_alone() {
    let mut headers = HeaderMap::new();
    for (name, value) in [
        ("host", "evil"),
        ("connection", "x-a, close"),
        ("content-length", "99"),
        ("transfer-encoding", "chunked"),
        ("te", "trailers"),
        ("upgrade", "h2c"),
        ("x-a", "1"),
        ("x-a", "2"),
    ] {
        headers.append(HeaderName::from_static(name), HeaderValue::from_static(value));
    }
    let forwarded = HeaderName::from_static("x-forwarded-for");
    let extra: [(&HeaderName, &[u8]); 1] = [(&forwarded, b"192.0.2.1")];
    let head = RequestHead { extra: &extra, ..head(&Method::GET, &headers) };
    let expected = "GET /x?y HTTP/1.1\r\nhost: up.test\r\nx-a: 1\r\nx-a: 2\r\nx-forwarded-for: 192.0.2.1\r\n\r\n";
    assert_eq!(sent(&head, Empty::new(), None), (expected.to_owned(), vec![expected.len()]));
    assert_eq!(sent(&head, Empty::new(), Some(1)).0, expected, "byte by byte");
}

#[test]
fn framing_follows_the_size_of_the_body() {
    let headers = HeaderMap::new();
    let end = |method: &Method, body: Frames| {
        let (written, _) = sent(&head(method, &headers), body, None);
        written.split_once("up.test\r\n").unwrap().1.to_owned()
    };
    let exact = |chunk: &[u8]| Frames { exact: Some(chunk.len() as u64), ..Frames::of([chunk]) };
    let none = || Frames { exact: Some(0), ..Frames::default() };
    for method in [Method::GET, Method::HEAD, Method::DELETE, Method::OPTIONS] {
        assert_eq!(end(&method, none()), "\r\n", "{method}");
    }
    for method in [Method::POST, Method::PUT, Method::PATCH] {
        assert_eq!(end(&method, none()), "content-length: 0\r\n\r\n", "{method}");
    }
    for method in [Method::GET, Method::POST] {
        assert_eq!(end(&method, exact(b"hello")), "content-length: 5\r\n\r\nhello");
        let chunked = "transfer-encoding: chunked\r\n\r\n5\r\nhello\r\n1\r\n!\r\n0\r\n\r\n";
        assert_eq!(end(&method, Frames::of([&b"hello"[..], b"", b"!"])), chunked);
    }
    assert_eq!(end(&Method::POST, Frames::default()), "transfer-encoding: chunked\r\n\r\n0\r\n\r\n");
}

#[test]
fn small_bodies_go_out_with_the_head() {
    let headers = HeaderMap::new();
    let head = head(&Method::POST, &headers);
    assert_eq!(sent(&head, Full::new(Bytes::from_static(b"hello")), None).1.len(), 1);
    assert_eq!(sent(&head, Frames::of([&b"a"[..], b"b"]), None).1.len(), 1);
    let large = vec![b'z'; 100_000];
    let body = Full::new(Bytes::from(large.clone()));
    let (written, writes) = sent(&head, body, None);
    assert_eq!(writes.len(), 1, "a vectored write");
    assert!(written.ends_with(std::str::from_utf8(&large).unwrap()));
}

#[test]
fn large_chunks_keep_their_framing_under_any_write_size() {
    let headers = HeaderMap::new();
    let large = "z".repeat(5000);
    let chunk = format!("1388\r\n{large}\r\n");
    let body = || {
        let mut body = Frames::of([large.as_bytes(), b"a", large.as_bytes()]);
        body.frames.insert(1, None);
        body
    };
    for write_max in [None, Some(1), Some(7), Some(4999), Some(5001)] {
        let (written, _) = sent(&head(&Method::POST, &headers), body(), write_max);
        let sent_body = written.split_once("\r\n\r\n").unwrap().1;
        assert_eq!(sent_body, format!("{chunk}1\r\na\r\n{chunk}0\r\n\r\n"), "{write_max:?}");
    }
}

#[test]
fn request_trailers_are_sent_without_framing_fields() {
    let headers = HeaderMap::new();
    let mut trailers = HeaderMap::new();
    trailers.insert("x-sum", HeaderValue::from_static("1"));
    trailers.insert(header::CONTENT_LENGTH, HeaderValue::from_static("5"));
    trailers.insert(header::AUTHORIZATION, HeaderValue::from_static("x"));
    let mut body = Frames::of([&b"a"[..]]);
    body.frames.push_back(Some(Ok(Frame::trailers(trailers))));
    let (written, _) = sent(&head(&Method::POST, &headers), body, None);
    assert!(written.ends_with("\r\n\r\n1\r\na\r\n0\r\nx-sum: 1\r\n\r\n"), "{written}");
}

#[test]
fn heads_that_would_split_are_refused_before_a_byte() {
    let headers = HeaderMap::new();
    let name = HeaderName::from_static("x-a");
    let base = head(&Method::GET, &headers);
    let bad: [(&HeaderName, &[u8]); 1] = [(&name, b"a\r\nb: c")];
    let ours: [(&HeaderName, &[u8]); 1] = [(&header::CONTENT_LENGTH, b"5")];
    for head in [
        RequestHead { method: &Method::CONNECT, ..base },
        RequestHead { target: "", ..base },
        RequestHead { target: "/a b", ..base },
        RequestHead { target: "/a\r\nx: y", ..base },
        RequestHead { target: "/\u{e9}", ..base },
        RequestHead { host: b"a\r\nb", ..base },
        RequestHead { host: b"a b", ..base },
        RequestHead { extra: &bad, ..base },
        RequestHead { extra: &ours, ..base },
    ] {
        let (connection, peer) = connect([]);
        let failure = finish(connection.exchange(&head, Empty::<Bytes>::new(), Nest::new())).unwrap_err();
        assert_eq!(
            (failure.reason.word(), failure.side()),
            ("request_unfit", Side::Request),
            "{} {}",
            head.method,
            head.target
        );
        assert!(!failure.may_retry());
        assert!(peer.borrow().written.is_empty() && peer.borrow().closed);
    }
}

#[test]
fn a_body_of_another_length_than_announced_is_an_error() {
    let headers = HeaderMap::new();
    for (exact, chunk) in [(4, "hello"), (6, "hello")] {
        let (connection, peer) = connect([Step::Written(ALL)]);
        let body = Frames { exact: Some(exact), ..Frames::of([chunk.as_bytes()]) };
        let failure = finish(connection.exchange(&head(&Method::POST, &headers), body, Nest::new())).unwrap_err();
        assert_eq!((failure.reason.word(), failure.side()), ("request_length", Side::Request));
        assert!(peer.borrow().closed);
    }
}

#[test]
fn a_failing_request_body_closes_and_keeps_its_error() {
    let headers = HeaderMap::new();
    let (connection, peer) = connect([Step::Written(ALL)]);
    let mut body = Frames::of([&b"a"[..]]);
    body.frames.extend([None, Some(Err("client gone"))]);
    let failure = finish(connection.exchange(&head(&Method::POST, &headers), body, Nest::new())).unwrap_err();
    assert_eq!((failure.reason.word(), failure.side()), ("request_body", Side::Request));
    assert!(failure.to_string().contains("client gone"), "{failure}");
    assert!(!failure.may_retry() && peer.borrow().closed);
    assert!(!peer.borrow().written.ends_with(b"0\r\n\r\n"), "never a clean end");
}

#[test]
fn an_early_refusal_stops_sending() {
    let headers = HeaderMap::new();
    let response = b"HTTP/1.1 413 Too Large\r\nContent-Length: 2\r\n\r\nno";
    // The body is not ready, and the transport takes no more: both ways of waiting.
    for window in [None, Some(200)] {
        let (connection, peer) = connect([Step::Written(1), data(response)]);
        peer.borrow_mut().window = window;
        let chunk = vec![b'a'; 10_000];
        let body = Frames { endless: true, ..Frames::of([&chunk[..]]) };
        let nest = Nest::new();
        let reply = finish(connection.exchange(&head(&Method::POST, &headers), body, nest.clone())).unwrap();
        let before = peer.borrow().written.len();
        let whole = whole(reply).unwrap();
        assert_eq!((whole.status, &whole.body[..]), (413, &b"no"[..]));
        assert_eq!(peer.borrow().written.len(), before);
        assert!(nest.take().is_none() && peer.borrow().closed);
    }
}

#[test]
fn a_response_that_explains_a_broken_pipe_is_used() {
    let headers = HeaderMap::new();
    let response = b"HTTP/1.1 401 Who\r\nConnection: close\r\nContent-Length: 2\r\n\r\nno";
    let (connection, peer) = connect([Step::Written(1), data(response), Step::Eof]);
    peer.borrow_mut().write_fails_at = Some(100);
    let body = Full::new(Bytes::from(vec![b'a'; 50_000]));
    peer.borrow_mut().write_max = Some(100);
    let reply = finish(connection.exchange(&head(&Method::POST, &headers), body, Nest::new())).unwrap();
    assert_eq!(whole(reply).unwrap().status, 401);

    let (connection, peer) = connect([Step::Written(1), Step::Reset]);
    peer.borrow_mut().write_fails_at = Some(100);
    peer.borrow_mut().write_max = Some(100);
    let body = Full::new(Bytes::from(vec![b'a'; 50_000]));
    let failure = finish(connection.exchange(&head(&Method::POST, &headers), body, Nest::new())).unwrap_err();
    assert_eq!((failure.reason.word(), failure.side(), failure.bytes_sent()), ("write", Side::Send, 100));
}

#[test]
fn sending_goes_on_while_an_early_success_streams() {
    let headers = HeaderMap::new();
    let head_len = "POST /x?y HTTP/1.1\r\nhost: up.test\r\ntransfer-encoding: chunked\r\n\r\n".len();
    let (connection, peer) = connect([
        Step::Written(head_len),
        data(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"),
        Step::Written(head_len + 6),
        data(b"1\r\na\r\n"),
        Step::Written(head_len + 6 + 6 + 5),
        data(b"1\r\nb\r\n0\r\n\r\n"),
    ]);
    let mut body = Frames::of([&b"a"[..], b"b"]);
    for _ in 0..40 {
        body.frames.push_front(None);
        body.frames.insert(body.frames.len() - 1, None);
    }
    let nest = Nest::new();
    let reply = finish(connection.exchange(&head(&Method::POST, &headers), body, nest.clone())).unwrap();
    assert_eq!(peer.borrow().written.len(), head_len, "the response was early");
    let whole = whole(reply).unwrap();
    assert_eq!(whole.body, b"ab");
    assert!(peer.borrow().written.ends_with(b"1\r\na\r\n1\r\nb\r\n0\r\n\r\n"));
    assert!(nest.take().is_some_and(|mut connection| !connection.is_stale()), "all was sent");
}

#[test]
fn a_response_that_ends_before_the_request_closes() {
    let headers = HeaderMap::new();
    let (connection, peer) = connect([Step::Written(1), data(OK)]);
    let body = Frames { endless: true, ..Frames::of([&b"a"[..]]) };
    let nest = Nest::new();
    let reply = finish(connection.exchange(&head(&Method::POST, &headers), body, nest.clone())).unwrap();
    assert_eq!(whole(reply).unwrap().status, 200);
    assert!(nest.take().is_none() && peer.borrow().closed);
}

#[test]
fn an_interim_response_does_not_stop_sending() {
    let headers = HeaderMap::new();
    let (connection, peer) =
        connect([Step::Written(1), data(b"HTTP/1.1 100 Continue\r\n\r\n"), Step::Written(85), data(OK)]);
    let mut body = Frames { exact: Some(30), ..Frames::of([&b"0123456789"[..], b"0123456789", b"0123456789"]) };
    body.frames.insert(1, None);
    body.frames.insert(2, None);
    let nest = Nest::new();
    let reply = finish(connection.exchange(&head(&Method::PUT, &headers), body, nest.clone())).unwrap();
    assert_eq!(whole(reply).unwrap().status, 200);
    assert!(peer.borrow().written.ends_with(b"0123456789") && nest.take().is_some());
}

#[test]
fn bytes_before_the_request_are_not_its_response() {
    let headers = HeaderMap::new();
    let (connection, peer) = connect([data(OK)]);
    peer.borrow_mut().window = Some(0);
    let failure =
        finish(connection.exchange(&head(&Method::GET, &headers), Empty::<Bytes>::new(), Nest::new())).unwrap_err();
    assert_eq!((failure.reason.word(), failure.bytes_sent()), ("unasked", 0));
    assert!(failure.may_retry(), "nothing was sent");
}

#[test]
fn only_harmless_failures_may_be_retried() {
    let headers = HeaderMap::new();
    let get = |connection: super::super::Connection<_>, nest: &Nest<_>| {
        finish(connection.exchange(&head(&Method::GET, &headers), Empty::<Bytes>::new(), nest.clone()))
    };
    for (steps, fresh, reused) in [
        (vec![Step::Eof], false, true),
        (vec![Step::Reset], false, true),
        (vec![data(b"H"), Step::Eof], false, false),
        (vec![data(b"H"), Step::Reset], false, false),
        (vec![data(b"HTTP/1.1 100 C\r\n\r\n"), Step::Reset], false, false),
        (vec![data(b"garbage")], false, false),
    ] {
        let (connection, _) = connect([Step::Written(1)].into_iter().chain(steps.clone()));
        let failure = get(connection, &Nest::new()).unwrap_err();
        assert_eq!(failure.may_retry(), fresh, "fresh {steps:?}: {failure:?}");
        assert!(failure.bytes_sent() > 0);

        let (connection, peer) = connect([Step::Written(1), data(OK)]);
        let nest = Nest::new();
        whole(get(connection, &nest).unwrap()).unwrap();
        let written = peer.borrow().written.len();
        peer.borrow_mut().steps = [Step::Written(written + 1)].into_iter().chain(steps.clone()).collect();
        let mut connection = nest.take().expect("reusable");
        assert!(!connection.is_stale());
        let failure = get(connection, &nest).unwrap_err();
        assert_eq!(failure.may_retry(), reused, "reused {steps:?}: {failure:?}");
    }
    let (connection, peer) = connect([Step::Eof]);
    peer.borrow_mut().write_fails_at = Some(0);
    let failure = get(connection, &Nest::new()).unwrap_err();
    assert_eq!((failure.reason.word(), failure.bytes_sent(), failure.may_retry()), ("write", 0, true));
}

#[test]
fn an_upgrade_that_was_asked_for_gives_the_transport() {
    let headers = HeaderMap::new();
    let websocket = HeaderValue::from_static("websocket");
    let head = RequestHead { upgrade: Some(&websocket), ..head(&Method::GET, &headers) };
    let response = b"HTTP/1.1 101 Switching\r\nUpgrade: websocket\r\nConnection: upgrade\r\n\r\nearly";
    for at in 0..response.len() {
        let (front, back) = response.split_at(at);
        let (connection, peer) = connect(
            [Step::Written(1), data(front), data(back)]
                .into_iter()
                .filter(|step| !matches!(step, Step::Data(d) if d.is_empty())),
        );
        let nest = Nest::new();
        let reply = finish(connection.exchange(&head, Empty::<Bytes>::new(), nest.clone())).unwrap();
        assert!(peer.borrow().written.ends_with(b"connection: upgrade\r\nupgrade: websocket\r\n\r\n"));
        let Reply::Upgraded(parts, mut upgraded) = reply else { panic!("no upgrade") };
        assert_eq!(parts.headers["upgrade"], "websocket");
        let mut early = [0; 5];
        finish(tokio::io::AsyncReadExt::read_exact(&mut upgraded, &mut early)).unwrap();
        assert_eq!(&early, b"early");
        let (pipe, rest) = upgraded.into_parts();
        assert!(rest.is_empty() && nest.take().is_none());
        drop(pipe);
    }
    for other in ["", "Upgrade: evil\r\n", "Upgrade: websocket\r\nUpgrade: evil\r\n", "Upgrade: websocket, evil\r\n"] {
        let response = format!("HTTP/1.1 101 Switching\r\n{other}Connection: upgrade\r\n\r\n");
        let (connection, _) = connect([Step::Written(1), data(response.as_bytes())]);
        let failure = finish(connection.exchange(&head, Empty::<Bytes>::new(), Nest::new())).unwrap_err();
        assert_eq!(failure.reason.word(), "unasked_upgrade", "{other:?}");
    }
    let (connection, _) = connect([Step::Written(1), data(OK)]);
    let nest = Nest::new();
    let reply = finish(connection.exchange(&head, Empty::<Bytes>::new(), nest.clone())).unwrap();
    assert_eq!(whole(reply).unwrap().status, 200, "a declined upgrade is a response");
    assert!(nest.take().is_some());
}

#[test]
fn dropping_at_any_time_closes() {
    let headers = HeaderMap::new();
    let (connection, peer) = connect([Step::Written(ALL)]);
    let mut exchange = connection.exchange(&head(&Method::GET, &headers), Empty::<Bytes>::new(), Nest::new());
    assert_waits(&mut exchange);
    drop(exchange);
    assert!(peer.borrow().closed);

    let (connection, peer) = connect([Step::Written(1), data(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhe")]);
    let nest = Nest::new();
    let reply =
        finish(connection.exchange(&head(&Method::GET, &headers), Empty::<Bytes>::new(), nest.clone())).unwrap();
    drop(reply);
    assert!(peer.borrow().closed && nest.take().is_none());

    // The end was read, though nobody took the data.
    let (connection, _) = connect([Step::Written(1), data(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi")]);
    let reply =
        finish(connection.exchange(&head(&Method::GET, &headers), Empty::<Bytes>::new(), nest.clone())).unwrap();
    assert!(nest.take().is_some(), "home before the last frame is taken");
    let Reply::Response(_, body) = reply else { panic!("no response") };
    assert_eq!(drain(body).unwrap().0, b"hi");
}
