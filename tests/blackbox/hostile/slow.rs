//! Clients that take their time: each way ends within its stated limit, costs little, and others are served meanwhile.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use gateway_tests::deadline::{holds_within, say};
use gateway_tests::h2frames::{CONTINUATION, DATA, END_STREAM, Frames, HEADERS, Outcome, SETTINGS, block};
use gateway_tests::process::resident_kib;
use gateway_tests::tls::Pair;
use gateway_tests::upstream::response;
use gateway_tests::{Answer, Client, Gateway, Request, Upstream, eventually};

use super::statuses;

const CONFIG: &str = r#"
_format_version: "3.0"
services:
- url: @UP@
  read_timeout: 1500
  write_timeout: 10000
  routes:
  - { paths: [/pub], strip_path: false }
gateway:
  timeouts: { header: 1s, idle: 2s, body: 1s, request: 3s, write: 2s }
"#;

/// What a busy machine may add to a limit.
const SLACK: Duration = Duration::from_secs(4);

fn scene() -> (Upstream, Gateway) {
    let large = vec![b'x'; 8 << 20];
    let upstream = Upstream::new(move |seen| match &*seen.target {
        "/pub/large" => Answer::Bytes(response(200, &[], &large)),
        "/pub/tunnel" => Answer::Tunnel(
            b"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n".to_vec(),
        ),
        _ => Answer::Bytes(response(200, &[], b"ok")),
    });
    let gateway = Gateway::start(&upstream.fill(CONFIG));
    (upstream, gateway)
}

/// Waits for the end of `client`; it must come between `limit` (or not at all too early) and a little later.
fn ends(what: &str, client: &mut Client, limit: Duration, mut drip: impl FnMut(&mut Client)) -> Vec<u8> {
    let begun = Instant::now();
    client.patience(Duration::from_millis(100));
    let mut read = Vec::new();
    loop {
        let (bytes, closed) = client.drain(Duration::from_millis(100));
        read = if bytes.is_empty() { read } else { bytes };
        if closed {
            break;
        }
        assert!(begun.elapsed() < limit + SLACK, "{what}: still open after {:?}", begun.elapsed());
        drip(client);
    }
    assert!(begun.elapsed() + Duration::from_millis(300) >= limit, "{what}: ended after {:?}", begun.elapsed());
    read
}

const S: Duration = Duration::from_secs(1);

#[test]
fn slow_heads_and_idle_connections() {
    let (_upstream, gateway) = scene();
    let mut silent = gateway.connect();
    assert!(ends("silent", &mut silent, S, |_| {}).is_empty());
    let mut drip = gateway.connect();
    drip.write(b"GET /pub/x HTTP/1.1\r\nHost: a\r\nX: ").unwrap();
    ends("a dripping head", &mut drip, S, |client| drop(client.write(b"a")));
    let mut line = gateway.connect();
    ends("a dripping line", &mut line, S, |client| drop(client.write(b"G")));
    let mut empty = gateway.connect();
    ends("empty lines", &mut empty, Duration::ZERO, |client| drop(client.write(b"\r\n")));
    let mut idle = gateway.connect();
    idle.get("/pub/x").expect(200);
    ends("idle", &mut idle, 2 * S, |_| {});
    let mut second = gateway.connect();
    second.get("/pub/x").expect(200);
    second.write(b"GET /pub/y HTTP/1.1\r\nHo").unwrap();
    ends("a second head", &mut second, S, |client| drop(client.write(b"s")));
    say("CASES slow heads: 6");
}

#[test]
fn slow_bodies() {
    let (upstream, gateway) = scene();
    let head = b"POST /pub/x HTTP/1.1\r\nHost: a\r\nContent-Length: 1000\r\n\r\n";
    let chunked = b"POST /pub/x HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n";
    let mut never = gateway.connect();
    never.write(head).unwrap();
    assert_eq!(statuses(&ends("a body that never comes", &mut never, S, |_| {})), [408]);
    let mut drip = gateway.connect();
    drip.write(head).unwrap();
    assert_eq!(statuses(&ends("a dripping body", &mut drip, 3 * S, |client| drop(client.write(b"a")))), [408]);
    let mut half = gateway.connect();
    half.write(&[chunked.as_slice(), b"5\r\nhel"].concat()).unwrap();
    assert_eq!(statuses(&ends("half a chunk", &mut half, S, |_| {})), [408]);
    let mut chunks = gateway.connect();
    chunks.write(chunked).unwrap();
    ends("dripping chunks", &mut chunks, 3 * S, |client| drop(client.write(b"1\r\na\r\n")));
    let mut expects = gateway.connect();
    expects.write(b"POST /pub/x HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 9\r\n\r\n").unwrap();
    assert_eq!(statuses(&ends("Expect and no body", &mut expects, S, |_| {})), [408]);
    assert!(upstream.seen().iter().all(|seen| !seen.complete), "no half body passes for a whole one");
    gateway.get("/pub/x").expect(200);
    let metrics = gateway.admin_get("/metrics").expect(200).text();
    assert!(metrics.contains("gateway_own_answers_total{reason=\"request_timeout\"}"), "{metrics}");
    say("CASES slow bodies: 5");
}

fn connections(gateway: &Gateway) -> u64 {
    gateway.status()["server"]["connections_active"].as_u64().unwrap()
}

#[test]
fn readers_that_do_not_read() {
    let (_upstream, gateway) = scene();
    let mut clients: Vec<Client> = (0..40)
        .map(|_| {
            let mut client = gateway.connect();
            client.write(b"GET /pub/large HTTP/1.1\r\nHost: a\r\n\r\n").unwrap();
            client
        })
        .collect();
    let begun = Instant::now();
    gateway.get("/pub/x").expect(200);
    assert!(begun.elapsed() < S, "others are served: {:?}", begun.elapsed());
    eventually("they are let go", || connections(&gateway) == 0);
    // What they have not taken must not wait in the kernel for them.
    assert!(clients.iter_mut().all(|client| client.is_reset_within(SLACK)), "closed with a reset");
    let metrics = gateway.admin_get("/metrics").expect(200).text();
    assert!(metrics.contains("gateway_connections_ended_total{reason=\"write\"} 40"), "{metrics}");
    say("CASES slow readers: 1");
}

const FIELDS: [(&[u8], &[u8]); 4] =
    [(b":method", b"GET"), (b":scheme", b"http"), (b":path", b"/pub/x"), (b":authority", b"a")];
const LARGE: [(&[u8], &[u8]); 4] =
    [(b":method", b"GET"), (b":scheme", b"http"), (b":path", b"/pub/large"), (b":authority", b"a")];
const PING: u8 = 6;

#[test]
fn slow_http2() {
    let (_upstream, gateway) = scene();
    let frames = || Frames::connect(gateway.proxy()).unwrap();
    let mut silent = frames();
    assert_eq!(silent.outcome(1), Outcome::Closed, "settings and nothing more");
    let mut half = frames();
    half.send(HEADERS, END_STREAM, 1, &block(&FIELDS)[..4]).unwrap();
    let outcome = half.outcome(1);
    assert!(matches!(outcome, Outcome::Closed | Outcome::GoAway(_)), "half a header block: {outcome:?}");
    let mut drip = frames();
    drip.send(HEADERS, END_STREAM, 1, &block(&FIELDS)).unwrap();
    let ended = holds_within(Duration::from_secs(6), || drip.send(CONTINUATION, 0, 1, &[0, 1, b'x', 1, b'y']).is_err());
    assert!(ended, "dripping continuations");
    let mut pings = frames();
    pings.headers(1, &FIELDS, END_STREAM).unwrap();
    assert_eq!(pings.outcome(1), Outcome::Status(200));
    let begun = Instant::now();
    let ended = holds_within(Duration::from_secs(8), || pings.send(PING, 0, 0, &[0; 8]).is_err());
    assert!(ended && begun.elapsed() > Duration::from_millis(1500), "pings are no requests: {:?}", begun.elapsed());
    let mut body = frames();
    body.headers(1, &[(b":method", b"POST"), FIELDS[1], FIELDS[2], FIELDS[3]], 0).unwrap();
    let outcome = body.outcome(1);
    assert!(matches!(outcome, Outcome::Status(408) | Outcome::Reset(_)), "a body that never comes: {outcome:?}");
    say("CASES slow HTTP/2: 5");
}

#[test]
fn a_closed_window_costs_its_stream_alone() {
    let (_upstream, gateway) = scene();
    let mut frames = Frames::connect(gateway.proxy()).unwrap();
    // INITIAL_WINDOW_SIZE 0: nothing of a body may be sent.
    frames.send(SETTINGS, 0, 0, &[0, 4, 0, 0, 0, 0]).unwrap();
    frames.headers(1, &LARGE, END_STREAM).unwrap();
    assert_eq!(frames.outcome(1), Outcome::Status(200), "the head needs no window");
    // A small body waits for the window as well.
    frames.headers(3, &FIELDS, END_STREAM).unwrap();
    assert_eq!(frames.outcome(3), Outcome::Status(200));
    let begun = Instant::now();
    let outcome = frames.outcome(1);
    assert!(matches!(outcome, Outcome::Reset(_)), "{outcome:?}");
    assert!(begun.elapsed() < 2 * S + SLACK && begun.elapsed() > S, "{:?}", begun.elapsed());
    frames.headers(5, &FIELDS, END_STREAM).unwrap();
    assert_eq!(frames.outcome(5), Outcome::Status(200), "the connection lives");
    say("CASES closed windows: 2");
}

#[test]
fn a_window_that_opens_by_single_bytes_moves() {
    // What is slow but moves is served: 2 bytes in two steps.
    let (_upstream, gateway) = scene();
    let mut frames = Frames::connect(gateway.proxy()).unwrap();
    frames.send(SETTINGS, 0, 0, &[0, 4, 0, 0, 0, 1]).unwrap();
    frames.headers(1, &FIELDS, END_STREAM).unwrap();
    assert_eq!(frames.outcome(1), Outcome::Status(200));
    frames.send(8, 0, 1, &1u32.to_be_bytes()).unwrap();
    frames.headers(3, &FIELDS, END_STREAM).unwrap();
    assert_eq!(frames.outcome(3), Outcome::Status(200));
    frames.send(DATA, END_STREAM, 9, b"x").unwrap();
    let outcome = frames.outcome(1);
    assert!(matches!(outcome, Outcome::GoAway(_) | Outcome::Closed), "data on an idle stream: {outcome:?}");
}

#[test]
fn half_a_handshake() {
    let upstream = Upstream::echo();
    let pair = Pair::new(&["gw.test"]);
    let text = format!("{}certificates:\n- {}\n", upstream.fill(CONFIG), pair.entity(&["gw.test"]));
    let gateway = Gateway::start(&text);
    for bytes in [&b""[..], b"\x16", b"\x16\x03\x01\x02\x00\x01\x00"] {
        let mut socket = TcpStream::connect(gateway.proxy_tls()).unwrap();
        socket.set_read_timeout(Some(S + SLACK)).unwrap();
        socket.write_all(bytes).unwrap();
        let begun = Instant::now();
        let mut read = Vec::new();
        let ended = socket.read_to_end(&mut read);
        assert!(ended.is_ok() || begun.elapsed() < S + SLACK, "{bytes:?}: still open");
    }
    Client::connect_tls(gateway.proxy_tls(), "gw.test").get("/pub/x").expect(200);
    say("CASES half handshakes: 3");
}

#[test]
fn five_hundred_half_open_cost_little() {
    let (_upstream, gateway) = scene();
    gateway.get("/pub/x").expect(200);
    let before = resident_kib(gateway.pid());
    let halves: Vec<Client> = (0..500)
        .map(|_| {
            let mut client = gateway.connect();
            let _ = client.write(b"GET /pub/x HTTP/1.1\r\nHost: a\r\nX: ");
            client
        })
        .collect();
    for _ in 0..10 {
        let begun = Instant::now();
        gateway.get("/pub/x").expect(200);
        assert!(begun.elapsed() < S, "{:?}", begun.elapsed());
    }
    let more = resident_kib(gateway.pid()).saturating_sub(before);
    assert!(more < 64 << 10, "{more} KiB");
    eventually("they are let go", || connections(&gateway) == 0);
    drop(halves);
    say(&format!("FIGURE 500 half-open heads: {more} KiB more"));
}

#[test]
fn a_tunnel_that_says_nothing() {
    let (_upstream, gateway) = scene();
    let mut client = gateway.connect();
    client
        .write(b"GET /pub/tunnel HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Key: a\r\n\r\n")
        .unwrap();
    assert_eq!(client.read_head().unwrap().status, 101);
    client.write(b"hello").unwrap();
    assert_eq!(client.read_exact(5).unwrap(), b"hello");
    eventually("the tunnel counts as a connection", || connections(&gateway) == 1);
    // The larger of the service's two timeouts, looked at twice.
    assert!(client.closes_within(Duration::from_secs(25)), "a silent tunnel ends");
    gateway.send(&Request::get("/pub/x")).expect(200);
}
