//! What a connection may cost while it is not asking for anything: halves of a preface, pings, closed windows, and what is
//! no request at all.

use std::thread;
use std::time::Duration;

use gateway_tests::deadline::holds_within;
use gateway_tests::h2frames::{END_STREAM, Frames, Outcome, PING, SETTINGS};
use gateway_tests::tls::Pair;
use gateway_tests::{Answer, Client, Gateway, Request, Setup, Upstream, eventually};

const OPEN: &str = r#"
_format_version: "3.0"
services:
- url: @UP@
  routes: [{ name: all, paths: [/] }]
"#;
const GET: &[(&[u8], &[u8])] = &[(b":method", b"GET"), (b":scheme", b"http"), (b":path", b"/"), (b":authority", b"a")];

/// A connection that was served once, with one second for a head, and then sent a PING.
fn pinged() -> (Upstream, Gateway, Frames) {
    let upstream = Upstream::echo();
    let gateway = Gateway::start(&format!("{}gateway:\n  timeouts: {{ header: 1s }}\n", upstream.fill(OPEN)));
    let mut frames = Frames::connect(gateway.proxy()).unwrap();
    frames.headers(1, GET, END_STREAM).unwrap();
    assert_eq!(frames.outcome(1), Outcome::Status(200));
    gateway.access_record(|record| record["status"] == 200);
    frames.send(PING, 0, 0, &[0; 8]).unwrap();
    (upstream, gateway, frames)
}

/// Ticks of the processor that the process has used; a second has a hundred.
fn ticks(gateway: &Gateway) -> u64 {
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", gateway.pid())).unwrap();
    let fields = stat.rsplit_once(')').unwrap().1.split_whitespace();
    fields.skip(11).take(2).map(|field| field.parse::<u64>().unwrap()).sum()
}

#[test]
fn half_a_preface_costs_no_work() {
    let upstream = Upstream::echo();
    let gateway = Gateway::start(&upstream.fill(OPEN));
    let held: Vec<_> = (0..400)
        .map(|_| {
            let mut client = gateway.connect();
            client.write(b"P").unwrap();
            client
        })
        .collect();
    eventually("all are accepted", || gateway.status()["server"]["connections_active"] == 400);
    let before = ticks(&gateway);
    thread::sleep(Duration::from_secs(2));
    let used = ticks(&gateway) - before;
    drop(held);
    assert!(used < 12, "{used} of 200 ticks for connections that wait");
}

#[test]
fn pings_between_requests_do_not_age_the_next_request() {
    let (_upstream, gateway, mut frames) = pinged();
    thread::sleep(Duration::from_millis(700));
    frames.headers(3, GET, END_STREAM).unwrap();
    assert_eq!(frames.outcome(3), Outcome::Status(200));
    eventually("both are logged", || gateway.access_log().len() == 2);
    let took = gateway.access_log()[1]["duration_ms"].as_f64().unwrap();
    assert!(took < 500.0, "the request is {took} ms old because of a PING before it");
}

#[test]
fn a_ping_cuts_no_idle_connection() {
    let (_upstream, _gateway, mut frames) = pinged();
    thread::sleep(Duration::from_millis(1800));
    // Refused here, or at the answer.
    let _ = frames.headers(3, GET, END_STREAM);
    assert_eq!(frames.outcome(3), Outcome::Status(200), "idle is 60 s, whatever pings");
}

#[test]
fn a_stream_without_a_window_is_not_held_for_ever() {
    let body = vec![b'x'; 1 << 20];
    let upstream = Upstream::new(move |_| Answer::reply(200, &[], &body));
    let gateway = Gateway::start(&format!("{}gateway:\n  timeouts: {{ idle: 1s }}\n", upstream.fill(OPEN)));
    let mut frames = Frames::connect(gateway.proxy()).unwrap();
    // SETTINGS_INITIAL_WINDOW_SIZE 0.
    frames.send(SETTINGS, 0, 0, &[0, 4, 0, 0, 0, 0]).unwrap();
    frames.headers(1, GET, END_STREAM).unwrap();
    assert_eq!(frames.outcome(1), Outcome::Status(200));
    let record = || gateway.access_log().iter().any(|record| record["aborted"] == true);
    assert!(holds_within(Duration::from_secs(6), record), "the stream and its upstream connection are still held");
}

#[test]
fn what_the_parser_refuses_is_counted_too() {
    let upstream = Upstream::echo();
    let gateway = Gateway::start(&upstream.fill(OPEN));
    let mut client = gateway.connect();
    client.write(b"GET / HTTP/1.1\r\nHost: a\r\nbroken header\r\n\r\n").unwrap();
    client.read_head().unwrap();
    let metrics = gateway.admin_get("/metrics").text();
    assert!(metrics.contains("gateway_requests_total{class=\"4xx\"} 1"), "{metrics}");
}

#[test]
fn a_second_process_on_the_same_address_is_refused() {
    let upstream = Upstream::echo();
    let first = Gateway::start(&upstream.fill(OPEN));
    let text = format!("{}gateway:\n  listen: [\"{}\"]\n", upstream.fill(OPEN), first.proxy());
    assert!(Setup::new(&text).launch().is_err(), "two processes share the traffic of one address");
}

/// After a second of quiet a connection gives up its buffers; nobody can tell.
#[test]
fn a_connection_that_rested_goes_on() {
    let upstream = Upstream::echo();
    let gateway = Gateway::start(&upstream.fill(OPEN));
    let mut client = gateway.connect();
    client.get("/a").expect(200);
    for _ in 0..2 {
        thread::sleep(Duration::from_millis(1500));
        client.get("/b").expect(200);
    }
    // What came of the next head with the last request is not lost.
    client.write(b"GET /c HTTP/1.1\r\nHost: a\r\n\r\nGET /d HT").unwrap();
    client.read_reply("GET").unwrap().expect(200);
    thread::sleep(Duration::from_millis(1500));
    client.write(b"TP/1.1\r\nHost: a\r\n\r\n").unwrap();
    client.read_reply("GET").unwrap().expect(200);
    let targets: Vec<String> = upstream.seen().iter().map(|seen| seen.target.clone()).collect();
    assert_eq!(targets, ["/a", "/b", "/b", "/c", "/d"]);
    // Nor is its end.
    thread::sleep(Duration::from_millis(1500));
    drop(client);
    eventually("it is gone", || gateway.admin_get("/metrics").text().contains("gateway_connections 0"));
}

/// What TLS holds back of an answer is not yet with the client: its connection does not rest.
#[test]
fn a_slow_reader_by_tls_keeps_its_connection() {
    let upstream = Upstream::new(|seen| {
        let size = seen.target.trim_start_matches('/').parse().unwrap();
        Answer::reply(200, &[], &vec![b'x'; size])
    });
    let pair = Pair::new(&["a.test"]);
    let gateway = Gateway::start(&format!("{}certificates:\n- {}\n", upstream.fill(OPEN), pair.entity(&["a.test"])));
    // With one of these sizes all but some KiB fit into the sockets' buffers.
    let mut waiting: Vec<Client> = (60..120)
        .map(|at| {
            let mut client = Client::connect_tls(gateway.proxy_tls(), "a.test");
            client.write(&Request::get(&format!("/{}", at * 40_000)).head_bytes()).unwrap();
            client
        })
        .collect();
    thread::sleep(Duration::from_secs(3));
    for (at, client) in waiting.iter_mut().enumerate() {
        assert_eq!(client.read_reply("GET").unwrap().expect(200).body.len(), (at + 60) * 40_000);
        client.get("/1").expect(200);
    }
}

/// Some end a body by an empty line more (RFC 9112 §2.2).
#[test]
fn an_empty_line_behind_a_body_is_no_head() {
    let upstream = Upstream::echo();
    let gateway = Gateway::start(&format!("{}gateway:\n  timeouts: {{ header: 1s }}\n", upstream.fill(OPEN)));
    let mut client = gateway.connect();
    client.write(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\nab\r\n").unwrap();
    client.read_reply("POST").unwrap().expect(200);
    thread::sleep(Duration::from_millis(3500));
    client.write(b"\r\n").unwrap();
    thread::sleep(Duration::from_millis(1500));
    client.get("/").expect(200);
}
