//! file-log: one JSON object a line, Kong's fields, no secrets.

use std::fs;

use gateway_tests::{Gateway, Request, Upstream, eventually};
use serde_json::Value;

fn records(path: &std::path::Path) -> Vec<Value> {
    let text = fs::read_to_string(path).unwrap_or_default();
    text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
}

#[test]
fn each_request_is_one_line() {
    let upstream = Upstream::echo();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("requests.log");
    let text = format!(
        r#"
_format_version: "3.0"
services:
- name: echo
  url: @UP@
  routes:
  - {{ name: open, paths: [/open] }}
  - {{ name: closed, paths: [/closed], plugins: [{{ name: key-auth }}] }}
consumers:
- {{ username: ann, keyauth_credentials: [{{ key: ann-key }}] }}
plugins:
- {{ name: file-log, config: {{ path: {path:?} }} }}
"#
    );
    let gateway = Gateway::start(&upstream.fill(&text));
    let secret = Request::get("/open?a=1").header("Authorization", "Bearer very-secret");
    gateway.send(&secret).expect(200);
    gateway.send(&Request::get("/closed").header("apikey", "ann-key")).expect(200);
    gateway.get("/closed").expect(401);
    gateway.get("/nowhere").expect(404);
    eventually("four lines", || records(&path).len() == 4);
    let all = records(&path);
    let by = |path: &str, status: u64| {
        let found = all.iter().find(|record| {
            record["request"]["uri"].as_str().is_some_and(|uri| uri.starts_with(path))
                && record["response"]["status"] == status
        });
        found.unwrap_or_else(|| panic!("{path} {status} in {all:#?}")).clone()
    };

    let open = by("/open", 200);
    assert_eq!(open["request"]["method"], "GET");
    assert_eq!(open["request"]["querystring"]["a"], "1");
    assert_eq!(open["request"]["headers"]["authorization"], "REDACTED");
    assert_eq!(open["client_ip"], "127.0.0.1");
    assert_eq!(open["route"]["name"], "open");
    assert_eq!(open["service"]["name"], "echo");
    assert_eq!(open["tries"][0]["port"], upstream.port());
    assert!(open["latencies"]["request"].as_i64() >= open["latencies"]["proxy"].as_i64());
    assert_eq!(open["source"], "upstream");
    assert_eq!(by("/closed", 200)["consumer"]["username"], "ann");
    let refused = by("/closed", 401);
    assert_eq!(refused["source"], "kong");
    assert_eq!(refused["latencies"]["proxy"], -1);
    assert!(refused["tries"].as_array().is_none_or(Vec::is_empty));
    assert!(by("/nowhere", 404).get("route").is_none_or(Value::is_null));
    let text = fs::read_to_string(&path).unwrap();
    assert!(!text.contains("very-secret"));
}

#[test]
fn a_log_that_cannot_be_written_costs_no_request() {
    let upstream = Upstream::echo();
    let text = r#"
_format_version: "3.0"
services:
- url: @UP@
  routes: [{ paths: [/] }]
plugins:
- { name: file-log, config: { path: /dev/full } }
"#;
    let gateway = Gateway::start(&upstream.fill(text));
    let mut client = gateway.connect();
    for _ in 0..50 {
        client.get("/").expect(200);
    }
}
