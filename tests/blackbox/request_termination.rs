//! request-termination: an answer of the gateway's own, for maintenance and for dead ends.

use gateway_tests::{Gateway, Request, Upstream};

const CONFIG: &str = r#"
_format_version: "3.0"
services:
- name: echo
  url: @UP@
  routes:
  - { name: plain, paths: [/plain], plugins: [{ name: request-termination }] }
  - { name: missing, paths: [/missing], plugins: [{ name: request-termination, config: { status_code: 404 } }] }
  - { name: empty, paths: [/empty], plugins: [{ name: request-termination, config: { status_code: 204 } }] }
  - { name: teapot, paths: [/teapot], plugins: [{ name: request-termination, config: { status_code: 418, message: tea } }] }
  - name: page
    paths: [/page]
    plugins:
    - { name: request-termination, config: { status_code: 200, body: "<p>closed</p>", content_type: text/html } }
  - name: trigger
    paths: [/trigger]
    plugins:
    - { name: request-termination, config: { trigger: stop-here, status_code: 410, message: gone } }
  - name: echo
    paths: ["~/echo/(?<thing>[a-z]+)"]
    plugins:
    - { name: request-termination, config: { echo: true, status_code: 202 } }
- name: nowhere
  host: 127.0.0.1
  port: 1
routes:
- name: serviceless
  paths: [/serviceless]
  plugins: [{ name: request-termination, config: { status_code: 403 } }]
"#;

#[test]
fn the_answer_is_as_configured() {
    let upstream = Upstream::echo();
    let gateway = Gateway::start(&upstream.fill(CONFIG));
    let reply = gateway.get("/plain").expect_compact(503, r#"{"message":"Service unavailable"}"#);
    assert!(reply.header("server").is_some_and(|value| value.starts_with("gateway/")));
    assert!(reply.header("x-kong-response-latency").is_some());
    assert_eq!(reply.header("x-kong-upstream-latency"), None);
    gateway.get("/missing").expect_compact(404, r#"{"message":"Not found"}"#);
    let empty = gateway.get("/empty").expect(204);
    assert_eq!(empty.header("content-length"), None);
    gateway.get("/teapot").expect_compact(418, r#"{"message":"tea"}"#);
    let page = gateway.get("/page").expect(200);
    assert_eq!(page.header("content-type"), Some("text/html"));
    assert_eq!(page.text(), "<p>closed</p>");
    gateway.get("/serviceless").expect(403);
    assert_eq!(upstream.count(), 0);
}

#[test]
fn a_trigger_in_header_or_query_is_needed_if_named() {
    let upstream = Upstream::echo();
    let gateway = Gateway::start(&upstream.fill(CONFIG));
    gateway.get("/trigger").expect(200);
    gateway.get("/trigger?stop-here").expect_compact(410, r#"{"message":"gone"}"#);
    gateway.send(&Request::get("/trigger").header("Stop-Here", "now")).expect(410);
}

#[test]
fn echo_shows_what_was_matched() {
    let upstream = Upstream::echo();
    let gateway = Gateway::start(&upstream.fill(CONFIG));
    let reply = gateway.get("/echo/cat?hello=there").expect(202).json();
    assert_eq!(reply["matched_route"]["name"], "echo");
    assert_eq!(reply["request"]["method"], "GET");
    assert_eq!(reply["request"]["path"], "/echo/cat");
    assert_eq!(reply["request"]["query"]["hello"], "there");
    assert_eq!(reply["request"]["uri_captures"]["named"]["thing"], "cat");
}

#[test]
fn a_body_that_nobody_reads_is_not_taken_for_a_request() {
    let upstream = Upstream::echo();
    let gateway = Gateway::start(&upstream.fill(CONFIG));
    let mut client = gateway.connect();
    let hidden = "GET /trigger HTTP/1.1\r\nHost: gateway.test\r\n\r\n";
    client.send(&Request::post("/plain", hidden)).expect(503);
    // Either the connection ends, or the next answer belongs to the next request.
    if let Ok(reply) = client.try_send(&Request::get("/missing")) {
        reply.expect(404);
    }
    assert_eq!(upstream.count(), 0);
}
