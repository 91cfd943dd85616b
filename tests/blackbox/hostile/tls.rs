//! TLS as attackers speak it: old versions, rubbish, foreign protocols, plain HTTP on a TLS port. Refused, and the next
//! handshake works.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use gateway_tests::deadline::say;
use gateway_tests::tls::{Pair, client};
use gateway_tests::{Client, Gateway, Upstream};

/// A ClientHello of `version` that offers `suites`.
fn hello(version: [u8; 2], suites: &[u8]) -> Vec<u8> {
    let mut body = version.to_vec();
    body.extend([7; 32]);
    body.push(0);
    body.extend(u16::try_from(suites.len()).unwrap().to_be_bytes());
    body.extend(suites);
    body.extend([1, 0]);
    let mut handshake = vec![1, 0];
    handshake.extend(u16::try_from(body.len()).unwrap().to_be_bytes());
    handshake.extend(body);
    let mut record = vec![22, 3, 1];
    record.extend(u16::try_from(handshake.len()).unwrap().to_be_bytes());
    record.extend(handshake);
    record
}

fn cases() -> Vec<(&'static str, Vec<u8>)> {
    let good = hello([3, 3], &[0xc0, 0x2b, 0xc0, 0x2f]);
    let mut long = good.clone();
    (long[3], long[4]) = (0xff, 0xff);
    vec![
        ("TLS 1.0", hello([3, 1], &[0xc0, 0x09, 0xc0, 0x13])),
        ("TLS 1.1", hello([3, 2], &[0xc0, 0x09, 0xc0, 0x13])),
        ("SSL 3", hello([3, 0], &[0x00, 0x0a])),
        ("no suites", hello([3, 3], &[])),
        ("RC4", hello([3, 3], &[0x00, 0x05])),
        ("3DES", hello([3, 3], &[0x00, 0x0a])),
        ("no encryption", hello([3, 3], &[0x00, 0x02])),
        ("export suites", hello([3, 3], &[0x00, 0x03])),
        ("CBC alone", hello([3, 3], &[0xc0, 0x13])),
        ("static RSA", hello([3, 3], &[0x00, 0x9c])),
        ("anonymous", hello([3, 3], &[0xc0, 0x18])),
        ("a record too long", long),
        ("an empty record", vec![22, 3, 1, 0, 0]),
        ("an alert", vec![21, 3, 3, 0, 2, 2, 40]),
        ("application data first", vec![23, 3, 3, 0, 5, 1, 2, 3, 4, 5]),
        ("an unknown type", vec![99, 3, 3, 0, 5, 1, 2, 3, 4, 5]),
        ("SSL 2", vec![0x80, 0x2e, 1, 0, 2, 0, 21, 0, 0, 0, 16]),
        ("plain HTTP", b"GET /pub/x HTTP/1.1\r\nHost: a\r\n\r\n".to_vec()),
        ("rubbish", vec![0xff; 1000]),
        ("a heartbeat", vec![24, 3, 2, 0, 3, 1, 0x40, 0]),
    ]
}

fn scene() -> (Upstream, Gateway) {
    let upstream = Upstream::echo();
    let pair = Pair::new(&["gw.test"]);
    let text = format!("{}certificates:\n- {}\n", upstream.fill(super::CONFIG), pair.entity(&["gw.test"]));
    let gateway = Gateway::start(&text);
    (upstream, gateway)
}

#[test]
fn handshakes_that_are_none() {
    let (upstream, mut gateway) = scene();
    let cases = cases();
    for (what, bytes) in &cases {
        let mut socket = TcpStream::connect(gateway.proxy_tls()).unwrap();
        socket.set_read_timeout(Some(Duration::from_secs(8))).unwrap();
        socket.write_all(bytes).unwrap();
        let mut read = Vec::new();
        // An alert, a reset or silence until the handshake's time is over; never a ServerHello.
        let _ = socket.read_to_end(&mut read);
        assert_ne!(read.first(), Some(&22), "{what}: a handshake");
        assert!(!read.starts_with(b"HTTP"), "{what}: an answer in the clear");
    }
    assert_eq!(upstream.count(), 0);
    assert!(gateway.runs());
    Client::connect_tls(gateway.proxy_tls(), "gw.test").get("/pub/x").expect(200);
    say(&format!("CASES TLS: {}", cases.len()));
}

#[test]
fn foreign_protocols_are_not_chosen() {
    let (_upstream, gateway) = scene();
    for foreign in [b"spdy/3".as_slice(), b"h3", b"http/1.0", b"smtp"] {
        let socket = TcpStream::connect(gateway.proxy_tls()).unwrap();
        match client(socket, "gw.test", &[foreign]) {
            Ok(stream) => assert_eq!(stream.conn.alpn_protocol(), None, "{foreign:?}"),
            Err(error) => assert!(error.to_string().contains("NoApplicationProtocol"), "{error}"),
        }
    }
}
