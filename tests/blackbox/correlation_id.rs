//! correlation-id: made here unless the client brings one, and shown to whom it is meant for.

use gateway_tests::{Gateway, Request, Upstream};
use regex::Regex;

const CONFIG: &str = r#"
_format_version: "3.0"
services:
- name: echo
  url: @UP@
  routes:
  - { name: plain, paths: [/plain], plugins: [{ name: correlation-id }] }
  - name: uuid
    paths: [/uuid]
    plugins:
    - { name: correlation-id, config: { generator: uuid, header_name: X-Trace, echo_downstream: true } }
  - name: tracker
    paths: [/tracker]
    plugins:
    - { name: correlation-id, config: { generator: tracker } }
  - name: refused
    paths: [/refused]
    plugins:
    - { name: correlation-id, config: { echo_downstream: true } }
    - { name: request-termination, config: { status_code: 403 } }
"#;

#[test]
fn ids_are_made_kept_and_shown() {
    let upstream = Upstream::echo();
    let gateway = Gateway::start(&upstream.fill(CONFIG));
    let uuid = "[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}";
    let counted = Regex::new(&format!("^{uuid}#[0-9]+$")).unwrap();

    let first = gateway.get("/plain").expect(200);
    let second = gateway.get("/plain").expect(200);
    let id = |reply: &gateway_tests::Reply| reply.echoed("kong-request-id").unwrap_or_default();
    assert!(counted.is_match(&id(&first)), "{}", id(&first));
    assert!(counted.is_match(&id(&second)));
    assert_ne!(id(&first), id(&second));
    assert_eq!(first.header("kong-request-id"), None, "not shown unless asked for");

    let reply = gateway.get("/uuid").expect(200);
    let made = reply.echoed("x-trace").unwrap_or_default();
    assert!(Regex::new(&format!("^{uuid}$")).unwrap().is_match(&made), "{made}");
    assert_eq!(reply.header("x-trace"), Some(made.as_str()));

    let reply = gateway.send(&Request::get("/uuid").header("X-Trace", "mine")).expect(200);
    assert_eq!(reply.echoed("x-trace").as_deref(), Some("mine"));
    assert_eq!(reply.header("x-trace"), Some("mine"));
    let reply = gateway.send(&Request::get("/uuid").header("X-Trace", "")).expect(200);
    assert_ne!(reply.echoed("x-trace").as_deref(), Some(""), "an empty one is none");

    let reply = gateway.get("/tracker").expect(200);
    let tracker = Regex::new(r"^[0-9a-f.:]+-[0-9]+-[0-9]+-[0-9]+-[0-9]+-[0-9]+\.[0-9]{3}$").unwrap();
    assert!(tracker.is_match(&id(&reply)), "{}", id(&reply));
    assert!(gateway.get("/refused").expect(403).header("kong-request-id").is_some());
}
