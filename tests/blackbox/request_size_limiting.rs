//! request-size-limiting: by the announced length, and by what really comes.

use gateway_tests::{Gateway, Request, Upstream};

const CONFIG: &str = r#"
_format_version: "3.0"
services:
- name: echo
  url: @UP@
  routes:
  - name: bytes
    paths: [/bytes]
    plugins:
    - { name: request-size-limiting, config: { allowed_payload_size: 100, size_unit: bytes } }
  - name: kilobytes
    paths: [/kilobytes]
    plugins:
    - { name: request-size-limiting, config: { allowed_payload_size: 2, size_unit: kilobytes } }
  - name: strict
    paths: [/strict]
    plugins:
    - { name: request-size-limiting, config: { allowed_payload_size: 1, require_content_length: true } }
"#;

const MESSAGE: &str = "Request size limit exceeded";

#[test]
fn a_length_over_the_limit_is_refused_unread() {
    let upstream = Upstream::echo();
    let gateway = Gateway::start(&upstream.fill(CONFIG));
    gateway.send(&Request::post("/bytes", vec![b'x'; 100])).expect(200);
    gateway.send(&Request::post("/bytes", vec![b'x'; 101])).expect_templated(413, MESSAGE);
    gateway.send(&Request::post("/kilobytes", vec![b'x'; 2048])).expect(200);
    gateway.send(&Request::post("/kilobytes", vec![b'x'; 2049])).expect(413);
    gateway.get("/bytes").expect(200);
    assert_eq!(upstream.count(), 3);
    let mut client = gateway.connect();
    client.write(b"POST /bytes HTTP/1.1\r\nHost: a\r\nContent-Length: 1000000\r\n\r\n").unwrap();
    client.read_reply("POST").unwrap().expect(413);
    let mut client = gateway.connect();
    let head = b"POST /bytes HTTP/1.1\r\nHost: a\r\nContent-Length: 1000000\r\nExpect: 100-continue\r\n\r\n";
    client.write(head).unwrap();
    let reply = client.read_reply("POST").unwrap().expect(417);
    assert!(reply.interim.is_empty(), "nobody is told to go on");
}

#[test]
fn a_chunked_body_over_the_limit_never_arrives_whole() {
    let upstream = Upstream::echo();
    let gateway = Gateway::start(&upstream.fill(CONFIG));
    gateway.send(&Request::post("/bytes", vec![b'x'; 100]).chunked(10)).expect(200);
    gateway.send(&Request::post("/bytes", vec![b'x'; 101]).chunked(10)).expect(413);
    let whole = upstream.seen().into_iter().filter(|seen| seen.complete).count();
    assert_eq!(whole, 1, "only the one within the limit");
}

#[test]
fn a_length_can_be_required() {
    let upstream = Upstream::echo();
    let gateway = Gateway::start(&upstream.fill(CONFIG));
    let message = "A valid Content-Length header is required";
    gateway.get("/strict").expect_templated(411, message);
    gateway.send(&Request::post("/strict", "x")).expect(200);
    // Chunked says how long the body is in its own way.
    gateway.send(&Request::post("/strict", "x").chunked(1)).expect(200);
}
