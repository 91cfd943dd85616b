//! Stream routes of protocol `udp`: a session for each client, which silence ends.

use std::net::{SocketAddr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use gateway_tests::{Gateway, Setup, eventually};

/// A server that answers each datagram with its name and what it got, and counts the addresses it was asked from.
struct Echo {
    address: SocketAddr,
    seen: Arc<AtomicUsize>,
}

fn echo(name: &'static str) -> Echo {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    let (address, seen) = (socket.local_addr().unwrap(), Arc::<AtomicUsize>::default());
    let count = Arc::clone(&seen);
    thread::spawn(move || {
        let (mut buffer, mut peers) = (vec![0; 65_535], Vec::new());
        while let Ok((bytes, peer)) = socket.recv_from(&mut buffer) {
            if !peers.contains(&peer) {
                peers.push(peer);
                count.fetch_add(1, Ordering::SeqCst);
            }
            let _ = socket.send_to(&[name.as_bytes(), b":", &buffer[..bytes]].concat(), peer);
        }
    });
    Echo { address, seen }
}

fn client(to: SocketAddr) -> UdpSocket {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    socket.connect(to).unwrap();
    socket.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    socket
}

/// The answer to `text`.
fn ask(client: &UdpSocket, text: &str) -> String {
    client.send(text.as_bytes()).unwrap();
    let mut buffer = vec![0; 65_535];
    let count = client.recv(&mut buffer).unwrap();
    String::from_utf8(buffer[..count].to_vec()).unwrap()
}

/// Whether nothing comes to `text` in a while.
fn is_silent(client: &UdpSocket, text: &str) -> bool {
    client.set_read_timeout(Some(Duration::from_millis(300))).unwrap();
    client.send(text.as_bytes()).unwrap();
    client.recv(&mut [0; 16]).is_err()
}

fn udp(to: SocketAddr, more: &str, route: &str) -> String {
    format!(
        r#"
_format_version: "3.0"
services:
- name: s
  protocol: udp
  host: 127.0.0.1
  port: {}
  {more}
  routes:
  - {{ name: r, protocols: [udp], {route} }}
gateway:
  stream_listen: ["127.0.0.1:0 udp"]
  workers: 2
"#,
        to.port()
    )
}

const ANYBODY: &str = "sources: [{ ip: 127.0.0.0/8 }]";

#[test]
fn each_client_has_a_session_and_gets_its_own_answers() {
    let server = echo("a");
    let gateway = Gateway::start(&udp(server.address, "retries: 0", ANYBODY));
    let clients: Vec<UdpSocket> = (0..8).map(|_| client(gateway.stream_udp())).collect();
    for round in 0..5 {
        for (at, client) in clients.iter().enumerate() {
            assert_eq!(ask(client, &format!("{at}-{round}")), format!("a:{at}-{round}"));
        }
    }
    assert_eq!(server.seen.load(Ordering::SeqCst), clients.len());
    let long = "x".repeat(60_000);
    assert_eq!(ask(&clients[0], &long), format!("a:{long}"));
    // A datagram may be empty.
    assert_eq!(ask(&clients[0], ""), "a:");
}

#[test]
fn silence_ends_a_session_and_the_next_datagram_begins_another() {
    let server = echo("a");
    let gateway = Gateway::start(&udp(server.address, "read_timeout: 200", ANYBODY));
    let client = client(gateway.stream_udp());
    assert_eq!(ask(&client, "1"), "a:1");
    eventually("the session to end", || {
        let metrics = gateway.admin_get("/metrics").text();
        metrics.lines().any(|line| line == "gateway_connections 0")
    });
    assert_eq!(ask(&client, "2"), "a:2");
    assert_eq!(server.seen.load(Ordering::SeqCst), 2);
}

#[test]
fn what_has_no_route_or_is_denied_is_dropped() {
    let server = echo("a");
    let elsewhere = Gateway::start(&udp(server.address, "retries: 0", "sources: [{ ip: 10.0.0.0/8 }]"));
    assert!(is_silent(&client(elsewhere.stream_udp()), "x"));
    let denied = "plugins: [{ name: ip-restriction, config: { deny: [127.0.0.1] } }]";
    let denied = Gateway::start(&udp(server.address, "retries: 0", &format!("{ANYBODY}, {denied}")));
    assert!(is_silent(&client(denied.stream_udp()), "x"));
    assert_eq!(server.seen.load(Ordering::SeqCst), 0);
}

#[test]
fn targets_are_balanced_and_one_that_refuses_is_left() {
    let (a, b) = (echo("a"), echo("b"));
    let gone = UdpSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let text = udp(a.address, "retries: 1", ANYBODY).replace("host: 127.0.0.1", "host: pool");
    let targets = |all: &[SocketAddr]| all.iter().map(|t| format!("  - target: {t}\n")).collect::<String>();
    let passive = "healthchecks: { passive: { unhealthy: { tcp_failures: 1 } } }";
    let pool = |all: &[SocketAddr]| format!("upstreams:\n- name: pool\n  {passive}\n  targets:\n{}", targets(all));
    let gateway = Gateway::start(&format!("{text}{}", pool(&[a.address, b.address])));
    let answers: Vec<String> = (0..8).map(|_| ask(&client(gateway.stream_udp()), "x")).collect();
    assert!(answers.contains(&"a:x".to_owned()) && answers.contains(&"b:x".to_owned()), "{answers:?}");
    let gateway = Gateway::start(&format!("{text}{}", pool(&[gone, a.address])));
    // What goes to the dead one is lost, as datagrams are; then it is known to be dead.
    let asking = client(gateway.stream_udp());
    asking.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
    eventually("an answer of the other", || {
        asking.send(b"x").unwrap();
        asking.recv(&mut [0; 16]).is_ok()
    });
    for _ in 0..6 {
        assert_eq!(ask(&client(gateway.stream_udp()), "x"), "a:x");
    }
}

#[test]
fn a_wildcard_listener_answers_from_the_address_that_was_asked_and_routes_by_it() {
    let server = echo("a");
    let text = udp(server.address, "retries: 0", "destinations: [{ ip: 127.0.0.2 }]");
    for (listener, asked, other) in
        [("0.0.0.0:0", [127, 0, 0, 2], [127, 0, 0, 3]), ("[::]:0", [127, 0, 0, 2], [127, 0, 0, 3])]
    {
        let gateway = Gateway::start(&text.replace("127.0.0.1:0 udp", &format!("{listener} udp")));
        let port = gateway.stream_udp().port();
        // A connected socket takes answers from nowhere else.
        assert_eq!(ask(&client((asked, port).into()), "x"), "a:x", "{listener}");
        assert!(is_silent(&client((other, port).into()), "x"), "{listener}");
    }
}

#[test]
fn the_sessions_are_bounded() {
    let server = echo("a");
    let text =
        udp(server.address, "retries: 0", ANYBODY).replace("workers: 2", "workers: 1\n  limits: { connections: 16 }");
    let gateway = Gateway::start(&text);
    let clients: Vec<UdpSocket> = (0..4).map(|_| client(gateway.stream_udp())).collect();
    for client in &clients {
        assert_eq!(ask(client, "x"), "a:x");
    }
    assert!(is_silent(&client(gateway.stream_udp()), "x"));
    assert_eq!(ask(&clients[0], "y"), "a:y");
    let metrics = gateway.admin_get("/metrics").text();
    assert!(metrics.contains("gateway_connections_refused_total{reason=\"sessions\"} 1"), "{metrics}");
}

#[test]
fn sessions_outlive_a_reload_and_a_drain_ends_when_they_are_silent() {
    let server = echo("a");
    let text = udp(server.address, "retries: 0", ANYBODY);
    let mut gateway = Gateway::start(&text);
    let client = client(gateway.stream_udp());
    assert_eq!(ask(&client, "1"), "a:1");
    gateway.reload(&text.replace("name: r,", "name: other,"), || gateway.status()["config"]["reloads"] == 1);
    assert_eq!(ask(&client, "2"), "a:2");
    assert_eq!(server.seen.load(Ordering::SeqCst), 1, "the same session");
    gateway.sigterm();
    assert!(gateway.wait(Duration::from_secs(20)).expect("ends long before the drain's limit").success());
}

#[test]
fn an_address_that_is_taken_is_refused() {
    let taken = UdpSocket::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap();
    let text = udp(address, "retries: 0", ANYBODY).replace("127.0.0.1:0 udp", &format!("{address} udp"));
    let stderr = Setup::new(&text).refuse().stderr;
    assert!(stderr.contains("cannot listen"), "{stderr}");
}
