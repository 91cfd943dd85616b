//! Sizes and numbers: what is too large or too many is refused with the status that says so, counted by reason, and the
//! rest goes on.

use std::io::Read;
use std::net::Ipv4Addr;
use std::time::Duration;

use gateway_tests::deadline::say;
use gateway_tests::{Client, Gateway, Request, Upstream, eventually};

fn start(limits: &str) -> (Upstream, Gateway) {
    let upstream = Upstream::echo();
    let text = format!("{}  limits: {{ {limits} }}\n", upstream.fill(super::CONFIG));
    let gateway = Gateway::start(&text);
    (upstream, gateway)
}

fn metric(gateway: &Gateway, line: &str) -> u64 {
    let text = gateway.admin_get("/metrics").expect(200).text();
    let found = text.lines().find_map(|known| known.strip_prefix(line)?.trim().parse().ok());
    found.unwrap_or(0)
}

/// Whether a new connection is served. One that is refused may be reset before `connect` has returned.
fn served(gateway: &Gateway, from: Ipv4Addr) -> bool {
    let client = Client::try_connect_from(gateway.proxy(), from);
    client.and_then(|mut client| client.try_send(&Request::get("/pub/x"))).is_ok()
}

#[test]
fn connections_have_a_number() {
    let (_upstream, gateway) = start("connections: 20");
    let mut open: Vec<Client> = (0..20).map(|_| gateway.connect()).collect();
    for client in &mut open {
        client.get("/pub/x").expect(200);
    }
    assert!(!served(&gateway, Ipv4Addr::LOCALHOST), "the 21st is closed");
    assert!(metric(&gateway, "gateway_connections_refused_total{reason=\"connections\"}") >= 1);
    gateway.status();
    open.pop();
    eventually("a place is free again", || served(&gateway, Ipv4Addr::LOCALHOST));
}

#[test]
fn connections_of_one_source_have_a_number() {
    let (_upstream, gateway) = start("connections_per_source: 5");
    let mut open: Vec<Client> = (0..5).map(|_| gateway.connect_from([127, 0, 0, 9])).collect();
    for client in &mut open {
        client.get("/pub/x").expect(200);
    }
    assert!(!served(&gateway, Ipv4Addr::new(127, 0, 0, 9)), "the sixth is closed");
    gateway.connect_from([127, 0, 0, 10]).get("/pub/x").expect(200);
    assert!(metric(&gateway, "gateway_connections_refused_total{reason=\"connections_per_source\"}") >= 1);
    drop(open);
    eventually("its places are free again", || served(&gateway, Ipv4Addr::new(127, 0, 0, 9)));
}

#[test]
fn bodies_have_a_size() {
    let (upstream, gateway) = start("body_bytes: 1000");
    gateway.send(&Request::post("/pub/x", vec![b'a'; 1000])).expect(200);
    gateway.send(&Request::post("/pub/x", vec![b'a'; 1000]).chunked(100)).expect(200);
    let before = upstream.seen().iter().filter(|seen| seen.complete).count();
    gateway.send(&Request::post("/pub/x", vec![b'a'; 1001])).expect(413);
    for size in [7, 64, 1000] {
        let reply = gateway.connect().try_send(&Request::post("/pub/x", vec![b'a'; 50_000]).chunked(size));
        assert!(reply.as_ref().is_err() || reply.as_ref().is_ok_and(|reply| reply.status == 413), "{size}: {reply:?}");
    }
    assert_eq!(upstream.seen().iter().filter(|seen| seen.complete).count(), before);
    assert!(metric(&gateway, "gateway_own_answers_total{reason=\"body_too_large\"}") >= 1);
    say("CASES body sizes: 6");
}

#[test]
fn heads_have_a_size_and_each_refusal_a_reason() {
    let (upstream, gateway) = start("connections: 1000");
    let fields = |count: usize, size: usize| {
        let one = format!("X: {}\r\n", "a".repeat(size));
        format!("GET /pub/x HTTP/1.1\r\nHost: a\r\n{}\r\n", one.repeat(count))
    };
    let cases: [(&str, String, &[u16]); 8] = [
        ("a target of 20 KB", format!("GET /pub/{} HTTP/1.1\r\nHost: a\r\n\r\n", "a".repeat(20_000)), &[414]),
        ("a target of 100 KB", format!("GET /pub/{} HTTP/1.1\r\nHost: a\r\n\r\n", "a".repeat(100_000)), &[414, 431]),
        ("a query of 20 KB", format!("GET /pub/x?{} HTTP/1.1\r\nHost: a\r\n\r\n", "a".repeat(20_000)), &[414]),
        ("200 fields", fields(200, 1), &[431]),
        ("10 000 fields", fields(10_000, 1), &[431]),
        ("a field of 100 KB", fields(1, 100_000), &[431]),
        ("a field of 1 MB", fields(1, 1 << 20), &[431]),
        ("a head of 64 MB", fields(64, 1 << 20), &[431]),
    ];
    for (what, bytes, wanted) in &cases {
        let mut client = gateway.connect();
        // The refusal comes before all is written.
        let _ = client.write(bytes.as_bytes());
        let (read, _) = client.drain(Duration::from_millis(700));
        let answers = super::statuses(&read);
        // A reset may overtake the answer when more bytes are under way.
        assert!(answers.is_empty() || wanted.contains(&answers[0]), "{what}: {answers:?}");
    }
    assert_eq!(upstream.count(), 0);
    let metrics = gateway.admin_get("/metrics").expect(200).text();
    for reason in [
        "gateway_own_answers_total{reason=\"uri_too_long\"}",
        "gateway_connections_ended_total{reason=\"head_too_large\"}",
    ] {
        assert!(metrics.contains(reason), "{reason} in {metrics}");
    }
    gateway.connect().write(b"G@T / HTTP/1.1\r\n\r\n").unwrap();
    eventually("syntax is counted", || metric(&gateway, "gateway_connections_ended_total{reason=\"syntax\"}") >= 1);
    gateway.get("/pub/x").expect(200);
    say(&format!("CASES head sizes: {}", cases.len()));
}

#[test]
fn memory_has_a_limit() {
    // A limit below what the process has from its start: everything is shed, and the admin API still answers.
    let (upstream, gateway) = start("memory_bytes: 1000000");
    eventually("connections are refused", || {
        let mut socket = std::net::TcpStream::connect(gateway.proxy()).unwrap();
        socket.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        // Closed at once, or what was accepted before the first look is let go soon.
        let _ = socket.read(&mut [0; 1]);
        metric(&gateway, "gateway_connections_refused_total{reason=\"memory\"}") >= 1
    });
    assert_eq!(metric(&gateway, "gateway_memory_pressure"), 2);
    assert_eq!(upstream.count(), 0);
}
