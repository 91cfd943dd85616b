//! Stream routes: bytes by address and by name, TLS that ends here and TLS that goes through.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::thread;
use std::time::Duration;

use gateway_tests::tls::Pair;
use gateway_tests::{Client, Gateway, Request, Setup, Upstream, eventually};

/// A server that speaks first, then sends back what comes until the client has ended.
fn greeter() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            thread::spawn(move || {
                let mut writing = stream.try_clone().unwrap();
                let mut reading = stream;
                let _ = writing.write_all(b"hello\n");
                let _ = std::io::copy(&mut reading, &mut writing);
                let _ = writing.shutdown(Shutdown::Write);
            });
        }
    });
    address
}

fn connect(to: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(to).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    stream
}

/// Everything that the other side sends after `text`; nothing when it closes at once.
fn talk(to: SocketAddr, text: &str) -> String {
    let mut stream = connect(to);
    let mut answer = Vec::new();
    let _ = stream.write_all(text.as_bytes());
    let _ = stream.shutdown(Shutdown::Write);
    let _ = stream.read_to_end(&mut answer);
    String::from_utf8(answer).unwrap()
}

fn tcp(to: SocketAddr, route: &str) -> String {
    format!(
        r#"
_format_version: "3.0"
services:
- name: s
  protocol: tcp
  host: 127.0.0.1
  port: {}
  routes:
  - name: r
    protocols: [tcp]
    {route}
gateway:
  stream_listen: ["127.0.0.1:0"]
"#,
        to.port()
    )
}

#[test]
fn bytes_go_both_ways_and_the_server_may_speak_first() {
    let gateway = Gateway::start(&tcp(greeter(), "sources: [{ ip: 127.0.0.0/8 }]"));
    let mut stream = connect(gateway.stream());
    let mut greeting = [0; 6];
    stream.read_exact(&mut greeting).unwrap();
    assert_eq!(&greeting, b"hello\n");
    let long = "x".repeat(300_000);
    assert_eq!(talk(gateway.stream(), &long), format!("hello\n{long}"));
}

#[test]
fn a_connection_without_a_route_is_closed() {
    let gateway = Gateway::start(&tcp(greeter(), "sources: [{ ip: 10.0.0.0/8 }]"));
    assert_eq!(talk(gateway.stream(), "x"), "");
}

#[test]
fn addresses_are_restricted_on_streams_too() {
    let everywhere = "sources: [{ ip: 127.0.0.0/8 }]\n    plugins: [{ name: ip-restriction, config: { @LIST@ } }]";
    let denied = Gateway::start(&tcp(greeter(), &everywhere.replace("@LIST@", "deny: [127.0.0.1]")));
    assert_eq!(talk(denied.stream(), "x"), "");
    let allowed = Gateway::start(&tcp(greeter(), &everywhere.replace("@LIST@", "allow: [127.0.0.1]")));
    assert_eq!(talk(allowed.stream(), "x"), "hello\nx");
}

#[test]
fn targets_are_balanced_and_a_dead_one_is_passed_over() {
    let text = tcp(greeter(), "sources: [{ ip: 127.0.0.0/8 }]");
    let alive = text.split("port: ").nth(1).unwrap().split('\n').next().unwrap().to_owned();
    let text = text.replace("host: 127.0.0.1", "host: pool");
    let text =
        format!("{text}upstreams:\n- name: pool\n  targets:\n  - target: 127.0.0.1:1\n  - target: 127.0.0.1:{alive}\n");
    let gateway = Gateway::start(&text);
    for _ in 0..4 {
        assert_eq!(talk(gateway.stream(), "x"), "hello\nx");
    }
}

#[test]
fn a_silent_stream_ends_after_the_services_time() {
    let text =
        tcp(greeter(), "sources: [{ ip: 127.0.0.0/8 }]").replace("protocol: tcp", "protocol: tcp\n  read_timeout: 300");
    let gateway = Gateway::start(&text);
    let mut stream = connect(gateway.stream());
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).unwrap();
    assert_eq!(answer, b"hello\n");
}

#[test]
fn names_choose_between_tls_that_ends_here_and_tls_that_goes_through() {
    let (ours, theirs) = (Pair::new(&["ends.test"]), Pair::new(&["through.test"]));
    let (plain, secure) = (Upstream::echo(), Upstream::echo_tls(&theirs));
    let text = format!(
        r#"
_format_version: "3.0"
services:
- name: ends
  protocol: tcp
  host: 127.0.0.1
  port: {}
  routes:
  - {{ name: ends, protocols: [tls], snis: [ends.test] }}
- name: through
  protocol: tls_passthrough
  host: 127.0.0.1
  port: {}
  routes:
  - {{ name: through, protocols: [tls_passthrough], snis: ["*.test"] }}
  - {{ name: never, protocols: [tls_passthrough], snis: [other.example] }}
certificates:
- {}
gateway:
  stream_listen: ["127.0.0.1:0 ssl", "127.0.0.1:0"]
"#,
        plain.port(),
        secure.port(),
        ours.entity(&["ends.test"])
    );
    // The name of the first stands before the pattern of the second only where TLS ends.
    let text = text.replace("\"*.test\"", "through.test");
    let gateway = Gateway::start(&text);
    let mut ended = Client::connect_tls(gateway.stream_tls(), "ends.test");
    ended.send(&Request::get("/a")).expect(200);
    assert_eq!(plain.last().header("x-forwarded-for"), None);
    let ours = ended.certificate.unwrap();
    for listener in [gateway.stream_tls(), gateway.stream()] {
        let mut through = Client::connect_tls(listener, "through.test");
        through.send(&Request::get("/b")).expect(200);
        assert_ne!(through.certificate.unwrap(), ours);
    }
    assert_eq!(secure.count(), 2);
    // No TLS, no name that is known: closed.
    assert_eq!(talk(gateway.stream_tls(), "GET / HTTP/1.1\r\n\r\n"), "");
    assert_eq!(talk(gateway.stream(), "GET / HTTP/1.1\r\n\r\n"), "");
}

#[test]
fn a_reload_leaves_open_streams_alone() {
    let text = tcp(greeter(), "sources: [{ ip: 127.0.0.0/8 }]");
    let gateway = Gateway::start(&text);
    let mut stream = connect(gateway.stream());
    let mut greeting = [0; 6];
    stream.read_exact(&mut greeting).unwrap();
    gateway.replace_file(&text.replace("127.0.0.0/8", "10.0.0.0/8"));
    eventually("new connections are closed", || talk(gateway.stream(), "x").is_empty());
    stream.write_all(b"still").unwrap();
    let mut answer = [0; 5];
    stream.read_exact(&mut answer).unwrap();
    assert_eq!(&answer, b"still");
}

#[test]
fn faults_have_their_place() {
    let to = SocketAddr::from(([127, 0, 0, 1], 9));
    for (route, words) in [
        ("name: x", "must set one of 'sources', 'destinations', 'snis'"),
        ("sources: [{ ip: nowhere }]", "an `ip` (address or CIDR)"),
        ("sources: [{}]", "an `ip` (address or CIDR)"),
        ("sources: [{ ip: 127.0.0.1 }]\n    paths: [/]", "unknown field `paths`"),
        ("sources: [{ ip: 127.0.0.1 }]\n    plugins: [{ name: key-auth }]", "plugin `key-auth` on a stream route"),
        ("snis: [a.test]", "'snis' can only be set"),
    ] {
        let route = route.strip_prefix("name: x").map_or(route, |_| "tags: [x]");
        let stderr = Setup::new(&tcp(to, route)).refuse().stderr;
        assert!(stderr.contains(words), "{route}: {stderr}");
    }
    let good = tcp(to, "sources: [{ ip: 127.0.0.1 }]");
    for (from, to, words) in [
        ("protocols: [tcp]", "protocols: [tcp, http]", "protocols of one family"),
        ("protocol: tcp", "protocol: http", "different families"),
        ("protocol: tcp", "protocol: tcp\n  path: /x", "`path` must be null"),
        ("127.0.0.1:0\"", "127.0.0.1:0 ssl udp\"", "DTLS"),
        ("stream_listen: [", "listen: [\"127.0.0.1:0 udp\"]\n  stream_listen: [", "`udp` is for `stream_listen`"),
    ] {
        let stderr = Setup::new(&good.replace(from, to)).refuse().stderr;
        assert!(stderr.contains(words), "{to}: {stderr}");
    }
}
