//! Upstreams that are gone, slow, broken or hostile: what the client is told, how soon, and that the
//! next request is clean.

use std::time::{Duration, Instant};

use gateway_tests::absent::{Deaf, Refusing};
use gateway_tests::upstream::response;
use gateway_tests::{Answer, Gateway, Reply, Request, Upstream};

fn config(url: &str, service: &str) -> String {
    format!(
        r#"
_format_version: "3.0"
services:
- name: s
  url: {url}
{service}
  routes: [{{ paths: [/] }}]
"#
    )
}

fn gateway(upstream: &Upstream, service: &str) -> Gateway {
    Gateway::start(&config(&format!("http://{}", upstream.address()), service))
}

/// The answer to a request that takes any type, so that errors of the proxy itself are JSON.
fn asking(gateway: &Gateway) -> Reply {
    gateway.send(&Request::get("/").header("Accept", "*/*"))
}

#[test]
fn nobody_listens() {
    let gone = Refusing::new();
    let gateway = Gateway::start(&config(&format!("http://{}", gone.address()), "  retries: 1"));
    let begun = Instant::now();
    let reply = asking(&gateway);
    assert!(matches!(reply.status, 502 | 503), "{reply:?}");
    assert!(reply.json()["request_id"].is_string());
    assert!(begun.elapsed() < Duration::from_secs(2));
    assert!(reply.header("server").is_some_and(|server| server.starts_with("gateway/")));
}

#[test]
fn a_handshake_that_never_ends() {
    let deaf = Deaf::new();
    let service = "  connect_timeout: 300\n  retries: 0";
    let gateway = Gateway::start(&config(&format!("http://{}", deaf.address()), service));
    let begun = Instant::now();
    asking(&gateway).expect_templated(504, "The upstream server is timing out");
    let took = begun.elapsed();
    assert!(took >= Duration::from_millis(280) && took < Duration::from_secs(3), "{took:?}");
}

#[test]
fn an_answer_that_never_comes() {
    let upstream = Upstream::new(|_| Answer::Hang);
    let gateway = gateway(&upstream, "  read_timeout: 300\n  retries: 0");
    let begun = Instant::now();
    asking(&gateway).expect_templated(504, "The upstream server is timing out");
    let took = begun.elapsed();
    assert!(took >= Duration::from_millis(280) && took < Duration::from_secs(3), "{took:?}");
    // A head that stops in the middle is no better.
    let upstream = Upstream::new(|_| Answer::Stall(b"HTTP/1.1 200 OK\r\nX-Half: ".to_vec()));
    let gateway =
        Gateway::start(&config(&format!("http://{}", upstream.address()), "  read_timeout: 300\n  retries: 0"));
    gateway.get("/").expect(504);
}

#[test]
fn an_answer_that_stops_in_its_body_is_cut() {
    for framing in ["Content-Length: 100\r\n\r\nhalf", "Transfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\n"] {
        let half = format!("HTTP/1.1 200 OK\r\n{framing}").into_bytes();
        let upstream = Upstream::new(move |seen| match &*seen.target {
            "/half" => Answer::Stall(half.clone()),
            _ => Answer::reply(200, &[], b"ok"),
        });
        let gateway = gateway(&upstream, "  read_timeout: 300");
        let mut client = gateway.connect();
        client.patience(Duration::from_secs(5));
        let cut = client.try_send(&Request::get("/half")).expect_err("half an answer is none");
        assert!(!matches!(cut.kind(), std::io::ErrorKind::WouldBlock), "the gateway ended it: {cut}");
        gateway.get("/ok").expect(200);
        assert_eq!(upstream.count(), 2, "it is not asked for again");
    }
}

#[test]
fn a_name_that_nobody_knows() {
    let gateway = Gateway::start(&config("http://no-such-host.invalid", "  retries: 0"));
    gateway.get("/").expect_templated(503, "name resolution failed");
}

#[test]
fn a_cut_answer_is_never_passed_off_as_complete() {
    let upstream = Upstream::new(|seen| match &*seen.target {
        "/length" => Answer::Last(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf".to_vec()),
        _ => Answer::Last(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\n".to_vec()),
    });
    let gateway = gateway(&upstream, "");
    for path in ["/length", "/chunked"] {
        let reply = gateway.connect().try_send(&Request::get(path));
        assert!(reply.as_ref().is_err() || reply.as_ref().is_ok_and(|reply| reply.status == 502), "{path}: {reply:?}");
    }
}

#[test]
fn hostile_answers_are_refused_and_the_next_request_is_clean() {
    let clean = "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nclean";
    let hostile: &[(&str, String)] = &[
        ("nothing at all", String::new()),
        ("not HTTP", "SSH-2.0-OpenSSH_9.9\r\n\r\n".into()),
        ("a status of two digits", "HTTP/1.1 20 OK\r\nContent-Length: 0\r\n\r\n".into()),
        ("two lengths", "HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab".into()),
        ("a signed length", "HTTP/1.1 200 OK\r\nContent-Length: +2\r\n\r\nab".into()),
        (
            "length and chunks",
            "HTTP/1.1 200 OK\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n".into(),
        ),
        ("an unknown coding", "HTTP/1.1 200 OK\r\nTransfer-Encoding: cow\r\n\r\n0\r\n\r\n".into()),
        ("a bad chunk", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n+2\r\nab\r\n0\r\n\r\n".into()),
        ("a NUL in a value", "HTTP/1.1 200 OK\r\nX: a\0b\r\nContent-Length: 0\r\n\r\n".into()),
        ("a CR in a value", "HTTP/1.1 200 OK\r\nX: a\rSet-Cookie: b\r\nContent-Length: 0\r\n\r\n".into()),
        ("a folded field", "HTTP/1.1 200 OK\r\nX: a\r\n b\r\nContent-Length: 0\r\n\r\n".into()),
        ("a space before the colon", "HTTP/1.1 200 OK\r\nX : a\r\nContent-Length: 0\r\n\r\n".into()),
        ("a head without end", format!("HTTP/1.1 200 OK\r\nX: {}\r\n\r\n", "a".repeat(1 << 20))),
        ("a thousand fields", format!("HTTP/1.1 200 OK\r\n{}\r\n", "X: a\r\n".repeat(1000))),
        ("interim answers without end", "HTTP/1.1 103 Early Hints\r\n\r\n".repeat(2000)),
        ("a second answer", format!("{clean}HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\npoison")),
        ("a body after 204", format!("HTTP/1.1 204 No Content\r\n\r\n{clean}")),
    ];
    for (what, bytes) in hostile {
        let bytes = bytes.clone().into_bytes();
        let upstream = Upstream::new(move |seen| match &*seen.target {
            "/hostile" => Answer::Bytes(bytes.clone()),
            _ => Answer::Bytes(response(200, &[], b"next")),
        });
        let gateway = gateway(&upstream, "  read_timeout: 1000\n  retries: 0");
        let mut client = gateway.connect();
        let first = client.try_send(&Request::get("/hostile"));
        let good = match &first {
            Err(_) => true,
            // Before a later fault shows, the head may have been passed on.
            Ok(reply) if reply.status == 200 => reply.text() == "clean" && what == &"a second answer",
            Ok(reply) => matches!(reply.status, 204 | 502 | 504),
        };
        assert!(good, "{what}: {first:?}");
        for _ in 0..3 {
            let next = gateway.get("/next").expect(200);
            assert_eq!(next.text(), "next", "after {what}");
        }
    }
}

#[test]
fn a_reset_answer_costs_an_error_and_no_more() {
    let upstream = Upstream::new(|seen| match &*seen.target {
        "/cut" => Answer::Last(Vec::new()),
        _ => Answer::reply(200, &[], b"ok"),
    });
    let gateway = gateway(&upstream, "  retries: 0");
    let mut client = gateway.connect();
    client.get("/cut").expect(502);
    client.get("/ok").expect(200);
}

#[test]
fn retries_find_the_target_that_is_there() {
    let upstream = Upstream::echo();
    let gone = Refusing::new();
    let text = format!(
        r#"
_format_version: "3.0"
services:
- host: pool
  retries: 5
  routes: [{{ paths: [/] }}]
upstreams:
- name: pool
  targets:
  - {{ target: "{}" }}
  - {{ target: "{}" }}
"#,
        gone.address(),
        upstream.address()
    );
    let gateway = Gateway::start(&text);
    let mut client = gateway.connect();
    for _ in 0..20 {
        client.get("/").expect(200);
        client.send(&Request::post("/", "body")).expect(200);
    }
    assert_eq!(upstream.count(), 40);
}

#[test]
fn what_may_have_been_done_is_not_done_again() {
    let upstream = Upstream::new(|_| Answer::Last(Vec::new()));
    let gateway = gateway(&upstream, "  retries: 5");
    gateway.send(&Request::post("/", "pay")).expect(502);
    assert_eq!(upstream.count(), 1, "a POST that was sent is not sent twice");
    gateway.get("/").expect(502);
    assert!((2..=7).contains(&upstream.count()), "a GET at most 1 + retries times");
}

#[test]
fn load_is_shared_by_weight() {
    let light = Upstream::echo();
    let heavy = Upstream::echo();
    let out = Upstream::echo();
    let text = format!(
        r#"
_format_version: "3.0"
services:
- host: pool
  routes: [{{ paths: [/] }}]
upstreams:
- name: pool
  targets:
  - {{ target: "{}", weight: 100 }}
  - {{ target: "{}", weight: 300 }}
  - {{ target: "{}", weight: 0 }}
"#,
        light.address(),
        heavy.address(),
        out.address()
    );
    let gateway = Gateway::start(&text);
    let mut client = gateway.connect();
    for _ in 0..80 {
        client.get("/").expect(200);
    }
    assert_eq!(out.count(), 0);
    assert!((18..=22).contains(&light.count()), "{} of 80 with a weight of 1 in 4", light.count());
}

#[test]
fn an_https_upstream() {
    let pair = gateway_tests::tls::Pair::new(&["localhost"]);
    let upstream = Upstream::echo_tls(&pair);
    let text = upstream.fill("_format_version: \"3.0\"\nservices:\n- url: @UP@/base\n  routes: [{ paths: [/] }]\n");
    let gateway = Gateway::start(&text);
    let mut client = gateway.connect();
    assert_eq!(client.get("/a").expect(200).echoed_uri(), "/base/a");
    client.get("/b").expect(200);
    assert_eq!(upstream.connections(), 1);
    // Whoever asks for verification gets it.
    let strict = text.replace("/base\n", "/base\n  tls_verify: true\n");
    let gateway = Gateway::start(&strict);
    let reply = gateway.get("/a");
    assert!(matches!(reply.status, 502 | 503), "an unknown issuer is refused: {reply:?}");
}
