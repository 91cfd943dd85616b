//! The harness against itself, without a gateway: a check that is blind would let everything pass.

use std::net::TcpStream;
use std::time::Duration;

use gateway_tests::absent::{Deaf, Refusing};
use gateway_tests::strict::faults;
use gateway_tests::tls::Pair;
use gateway_tests::wire::head;
use gateway_tests::{Client, Request, Upstream};

#[test]
fn client_and_upstream_understand_each_other() {
    let upstream = Upstream::echo();
    let mut client = Client::connect(upstream.address());
    let reply = client.get("/a%20b?x=1&x=2&y").expect(200).json();
    assert_eq!(reply["uri_args"], serde_json::json!({ "x": ["1", "2"], "y": true }));
    assert_eq!(reply["vars"]["uri"], "/a b");
    let form = Request::post("/", "a=1&b=%2B").header("Content-Type", "application/x-www-form-urlencoded");
    let reply = client.send(&form).expect(200).json();
    assert_eq!(reply["post_data"]["params"], serde_json::json!({ "a": "1", "b": "+" }));
    let chunked = client.send(&Request::post("/", "hello").chunked(2)).expect(200).json();
    assert_eq!(chunked["post_data"]["text"], "hello");
    client.get("/status/418").expect(418);
    assert_eq!(client.get("/response-headers?X-A=b").expect(200).header("x-a"), Some("b"));
    assert_eq!(upstream.connections(), 1);
    assert!(upstream.seen().iter().all(|seen| seen.faults.is_empty() && seen.complete));
}

#[test]
fn the_client_can_come_from_another_address() {
    let upstream = Upstream::echo();
    let reply = Client::connect_from(upstream.address(), [127, 0, 0, 77].into()).get("/").json();
    assert_eq!(reply["vars"]["peer"], "127.0.0.77");
}

#[test]
fn tls_shows_the_certificate() {
    let pair = Pair::new(&["a.test"]);
    let upstream = Upstream::echo_tls(&pair);
    let mut client = Client::connect_tls(upstream.address(), "a.test");
    client.get("/").expect(200);
    assert_eq!(client.certificate, Some(pair.der));
}

#[test]
fn the_strict_reader_sees_what_is_ambiguous() {
    let clean = "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\n\r\n";
    let judge = |text: &str| faults(text.as_bytes(), &head(text.as_bytes()).1);
    assert_eq!(judge(clean), Vec::<String>::new());
    for (from, to) in [
        ("Content-Length: 1", "Content-Length: 1\r\nContent-Length: 1"),
        ("Content-Length: 1", "Content-Length: +1"),
        ("Content-Length: 1", "Content-Length: 1\r\nTransfer-Encoding: chunked"),
        ("Content-Length: 1", "Transfer-Encoding: gzip, chunked"),
        ("Content-Length: 1", "Transfer-Encoding : chunked"),
        ("Content-Length: 1", "Content_Length: 1"),
        ("Content-Length: 1", "X: a\rb"),
        ("Content-Length: 1", "X: a\nb"),
        ("Content-Length: 1", "X: a\0b"),
        ("Content-Length: 1", "no colon"),
        ("Host: a", "X: a"),
        ("Host: a", "Host: a\r\nHost: a"),
        ("POST /", "POST /\u{e9}"),
        ("POST / ", "POST /  "),
        ("HTTP/1.1", "HTTP/1.0"),
    ] {
        assert!(!judge(&clean.replace(from, to)).is_empty(), "{to:?}");
    }
}

#[test]
fn absent_upstreams_are_absent() {
    assert!(TcpStream::connect(Refusing::new().address()).is_err());
    let deaf = Deaf::new();
    let connected = TcpStream::connect_timeout(&deaf.address(), Duration::from_millis(200));
    assert!(connected.is_err(), "{connected:?}");
}

#[test]
fn a_stopped_upstream_is_gone() {
    let upstream = Upstream::echo();
    let mut client = Client::connect(upstream.address());
    client.get("/").expect(200);
    drop(upstream);
    assert!(client.try_send(&Request::get("/")).is_err());
}
