//! cors: preflights answered here, headers on real answers, and nothing for strangers.

use gateway_tests::{Gateway, Reply, Request, Upstream};

const CONFIG: &str = r#"
_format_version: "3.0"
services:
- name: echo
  url: @UP@
  routes:
  - { name: any, paths: [/any], plugins: [{ name: cors }] }
  - name: listed
    paths: [/listed]
    plugins:
    - name: cors
      config:
        origins: ["https://a.test", "https://.*\\.b\\.test"]
        methods: [GET, DELETE]
        headers: [X-Token, Date]
        exposed_headers: [X-Total]
        credentials: true
        max_age: 3600
        private_network: true
    - name: key-auth
  - name: single
    paths: [/single]
    plugins:
    - { name: cors, config: { origins: ["https://only.test"] } }
  - name: continue
    paths: [/continue]
    plugins:
    - { name: cors, config: { preflight_continue: true } }
  - name: reflect
    paths: [/reflect]
    plugins:
    - { name: cors, config: { credentials: true } }
"#;

const ALLOW: &str = "access-control-allow-origin";

fn preflight(gateway: &Gateway, path: &str, origin: &str) -> Reply {
    let request = Request::new("OPTIONS", path).header("Origin", origin).header("Access-Control-Request-Method", "GET");
    gateway.send(&request.header("Access-Control-Request-Headers", "X-Asked"))
}

#[test]
fn preflights_are_answered_here_and_before_authentication() {
    let upstream = Upstream::echo();
    let gateway = Gateway::start(&upstream.fill(CONFIG));
    let reply = preflight(&gateway, "/any", "https://x.test").expect(200);
    assert_eq!(reply.header(ALLOW), Some("*"));
    assert_eq!(reply.header("access-control-allow-headers"), Some("X-Asked"));
    let methods = "GET,HEAD,PUT,PATCH,POST,DELETE,OPTIONS,TRACE,CONNECT";
    assert_eq!(reply.header("access-control-allow-methods"), Some(methods));
    assert_eq!(reply.header("access-control-max-age"), None);
    assert_eq!(reply.header("access-control-allow-credentials"), None);
    assert!(reply.body.is_empty());

    let reply = preflight(&gateway, "/listed", "https://c.b.test").expect(200);
    assert_eq!(reply.header(ALLOW), Some("https://c.b.test"));
    assert_eq!(reply.header("access-control-allow-methods"), Some("GET,DELETE"));
    assert_eq!(reply.header("access-control-allow-headers"), Some("X-Token,Date"));
    assert_eq!(reply.header("access-control-allow-credentials"), Some("true"));
    assert_eq!(reply.header("access-control-max-age"), Some("3600"));
    assert!(reply.header("vary").is_some_and(|value| value.contains("Origin")));
    assert_eq!(upstream.count(), 0);
}

#[test]
fn strangers_get_no_permission() {
    let upstream = Upstream::echo();
    let gateway = Gateway::start(&upstream.fill(CONFIG));
    for origin in ["https://evil.test", "https://b.test", "https://a.test.evil.test", "null"] {
        let reply = preflight(&gateway, "/listed", origin);
        assert_eq!(reply.header(ALLOW), None, "{origin}");
    }
    // One plain origin is always named, whoever asks.
    let reply = preflight(&gateway, "/single", "https://evil.test").expect(200);
    assert_eq!(reply.header(ALLOW), Some("https://only.test"));
}

#[test]
fn real_answers_carry_the_headers() {
    let upstream = Upstream::echo();
    let gateway = Gateway::start(&upstream.fill(CONFIG));
    let ask = |path: &str| gateway.send(&Request::get(path).header("Origin", "https://a.test"));
    assert_eq!(ask("/any").expect(200).header(ALLOW), Some("*"));
    assert_eq!(ask("/single").expect(200).header(ALLOW), Some("https://only.test"));
    // The browser must be able to read a refusal as well.
    let refused = ask("/listed").expect(401);
    assert_eq!(refused.header(ALLOW), Some("https://a.test"));
    assert_eq!(refused.header("access-control-expose-headers"), Some("X-Total"));
    assert_eq!(refused.header("access-control-allow-credentials"), Some("true"));
    // With credentials, any origin is answered by its name, for the star is not allowed there.
    let reply = ask("/reflect").expect(200);
    assert_eq!(reply.header(ALLOW), Some("https://a.test"));
    assert!(reply.header("vary").is_some_and(|value| value.contains("Origin")));
}

#[test]
fn a_preflight_can_be_left_to_the_upstream() {
    let upstream = Upstream::echo();
    let gateway = Gateway::start(&upstream.fill(CONFIG));
    let reply = preflight(&gateway, "/continue", "https://x.test").expect(200);
    assert_eq!(reply.json()["vars"]["request_method"], "OPTIONS");
    assert_eq!(upstream.count(), 1);
    // OPTIONS that asks for no method is no preflight.
    let plain = Request::new("OPTIONS", "/any").header("Origin", "https://x.test");
    assert_eq!(gateway.send(&plain).expect(200).json()["vars"]["request_method"], "OPTIONS");
}

#[test]
fn private_networks_are_named_on_request() {
    let upstream = Upstream::echo();
    let gateway = Gateway::start(&upstream.fill(CONFIG));
    let request = Request::new("OPTIONS", "/listed")
        .header("Origin", "https://a.test")
        .header("Access-Control-Request-Method", "GET")
        .header("Access-Control-Request-Private-Network", "true");
    let reply = gateway.send(&request).expect(200);
    assert_eq!(reply.header("access-control-allow-private-network"), Some("true"));
}
