//! The access log: one JSON line for every request, however it ended, and no secret in it.

use std::fs;

use gateway_tests::{Answer, Gateway, Request, Upstream, eventually};
use serde_json::Value;

const CONFIG: &str = r#"
_format_version: "3.0"
services:
- name: echo
  url: @UP@
  routes:
  - { name: open, paths: [/open] }
  - { name: closed, paths: [/closed], plugins: [{ name: key-auth }] }
consumers:
- { username: ann, keyauth_credentials: [{ key: ann-key }] }
"#;

fn uri(record: &Value) -> &str {
    record["uri"].as_str().unwrap_or_default()
}

#[test]
fn every_request_has_its_record() {
    let upstream = Upstream::echo();
    let gateway = Gateway::start(&upstream.fill(CONFIG));
    let reply = gateway.send(&Request::get("/open?a=1").header("Authorization", "Bearer very-secret"));
    gateway.send(&Request::get("/closed").header("apikey", "ann-key")).expect(200);
    gateway.get("/closed").expect(401);
    gateway.get("/nowhere").expect(404);

    let open = gateway.access_record(|record| uri(record).starts_with("/open"));
    assert_eq!(open["status"], 200);
    assert_eq!(open["method"], "GET");
    assert_eq!(open["request_id"].as_str(), reply.header("x-kong-request-id"));
    assert_eq!(open["route"], "open");
    assert_eq!(open["service"], "echo");
    assert_eq!(open["upstream"], upstream.address().to_string());
    assert_eq!(open["bytes_out"], reply.body.len());
    assert!(open["duration_ms"].as_f64() >= open["upstream_ms"].as_f64());
    assert_eq!(open["client_ip"], "127.0.0.1");
    let consumer = gateway.access_record(|record| record["consumer"] == "ann");
    assert_eq!(consumer["status"], 200);
    let refused = gateway.access_record(|record| record["status"] == 401);
    assert_eq!(refused["reason"], "key-auth", "who refused it");
    assert!(refused.get("upstream").is_none(), "{refused}");
    gateway.access_record(|record| record["status"] == 404);
    assert!(!gateway.stdout().contains("very-secret"));
    assert!(!gateway.stderr().contains("very-secret"));
}

#[test]
fn a_request_that_failed_has_one_too() {
    let upstream = Upstream::new(|_| Answer::Last(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhalf".to_vec()));
    let gateway = Gateway::start(&upstream.fill(CONFIG));
    // The answer is cut, which the client sees as an error.
    let _ = gateway.connect().try_send(&Request::get("/open/cut"));
    gateway.access_record(|record| uri(record) == "/open/cut");
    let hanging = Upstream::new(|_| Answer::Hang);
    let gateway = Gateway::start(&hanging.fill(CONFIG));
    let mut client = gateway.connect();
    client.write(&Request::get("/open/gone").head_bytes()).unwrap();
    eventually("it is in flight", || hanging.count() == 1);
    drop(client);
    gateway.access_record(|record| uri(record) == "/open/gone");
}

#[test]
fn lines_cannot_be_forged() {
    let upstream = Upstream::echo();
    let gateway = Gateway::start(&upstream.fill(CONFIG));
    let request = Request::get("/open/%0a{%22response%22:1}?x=%0d%0a\"").header("User-Agent", "a\"}\\");
    let status = gateway.send(&request).status;
    assert!(matches!(status, 200 | 400), "{status}");
    gateway.get("/open/end").expect(200);
    gateway.access_record(|record| uri(record) == "/open/end");
    for line in gateway.stdout().lines() {
        serde_json::from_str::<Value>(line).unwrap_or_else(|error| panic!("{error}: {line:?}"));
    }
}

#[test]
fn it_goes_where_it_is_told() {
    let upstream = Upstream::echo();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("access.log");
    let text = format!("{}gateway:\n  access_log: {path:?}\n", upstream.fill(CONFIG));
    let gateway = Gateway::start(&text);
    gateway.get("/open").expect(200);
    eventually("the file has the line", || fs::read_to_string(&path).is_ok_and(|text| text.lines().count() == 1));
    assert_eq!(gateway.stdout(), "");

    let off = Gateway::start(&format!("{}gateway:\n  access_log: off\n", upstream.fill(CONFIG)));
    off.get("/open").expect(200);
    assert_eq!(off.stdout(), "");
    let both = Gateway::start(&format!("{}gateway:\n  access_log: stderr\n", upstream.fill(CONFIG)));
    both.get("/open").expect(200);
    eventually("the line is on stderr", || both.stderr().contains("\"/open\""));
    assert_eq!(both.stdout(), "");
}
