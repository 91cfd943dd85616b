//! How the gateway shows itself: the headers that it adds, the form of its errors, whose address a client has.

use gateway_tests::{Gateway, Request, Setup, Upstream};
use serde_json::Value;

const CONFIG: &str = r#"
_format_version: "3.0"
services:
- name: echo
  url: @UP@
  routes:
  - { name: echo, paths: [/echo] }
- name: broken
  url: http://127.0.0.1:1
  retries: 0
  routes:
  - { name: broken, paths: [/broken] }
"#;

fn start(upstream: &Upstream, block: &str) -> Gateway {
    Gateway::start(&format!("{}gateway:\n{block}\n", upstream.fill(CONFIG)))
}

#[test]
fn headers_are_kongs_unless_chosen() {
    let upstream = Upstream::echo();
    let usual = Gateway::start(&upstream.fill(CONFIG));
    let reply = usual.get("/echo").expect(200);
    for name in ["via", "x-kong-proxy-latency", "x-kong-upstream-latency", "x-kong-request-id"] {
        assert!(reply.header(name).is_some(), "{name}");
    }
    assert_eq!(reply.header("x-kong-upstream-status"), None);
    assert!(reply.echoed("x-kong-request-id").is_some());

    let none = start(&upstream, "  headers: off\n  headers_upstream: off");
    let reply = none.get("/echo").expect(200);
    for name in ["via", "x-kong-proxy-latency", "x-kong-upstream-latency", "x-kong-request-id"] {
        assert_eq!(reply.header(name), None, "{name}");
    }
    assert_eq!(reply.echoed("x-kong-request-id"), None);
    let own = none.get("/nowhere").expect(404);
    for name in ["server", "x-kong-response-latency", "x-kong-request-id"] {
        assert_eq!(own.header(name), None, "{name}");
    }

    let some = start(&upstream, "  headers: [latency_tokens, X-Kong-Upstream-Status]");
    let reply = some.get("/echo").expect(200);
    assert_eq!(reply.header("x-kong-upstream-status"), Some("200"));
    assert!(reply.header("x-kong-upstream-latency").is_some());
    assert_eq!((reply.header("via"), reply.header("x-kong-request-id")), (None, None));

    let variable =
        Setup::new(&upstream.fill(CONFIG)).env("KONG_HEADERS", "server_tokens, X-Kong-Upstream-Status").start();
    let reply = variable.get("/echo").expect(200);
    assert!(reply.header("via").is_some() && reply.header("x-kong-upstream-status").is_some());
    assert_eq!(reply.header("x-kong-proxy-latency"), None);
}

#[test]
fn failures_of_the_proxy_take_the_default_type() {
    let upstream = Upstream::echo();
    let message = "An invalid response was received from the upstream server";
    let usual = Gateway::start(&upstream.fill(CONFIG));
    let reply = usual.get("/broken").expect(502);
    assert_eq!(reply.header("content-type"), Some("text/plain; charset=utf-8"));
    assert!(reply.text().starts_with(message));
    let accepting = Request::get("/broken").header("Accept", "*/*");
    usual.send(&accepting).expect_templated(502, message);
    // What the router and plugins answer is JSON without `Accept`.
    usual.get("/nowhere").expect_templated(404, "no Route matched with those values");
    let html = start(&upstream, "  error_default_type: text/html");
    assert_eq!(html.get("/broken").expect(502).header("content-type"), Some("text/html; charset=utf-8"));
}

#[test]
fn errors_can_have_a_form_of_their_own() {
    let upstream = Upstream::echo();
    let problem = start(&upstream, "  errors: problem");
    let reply = problem.send(&Request::get("/nowhere").header("Accept", "text/html")).expect(404);
    assert_eq!(reply.header("content-type"), Some("application/problem+json"));
    let body: Value = reply.json();
    assert_eq!(body["status"], 404);
    assert_eq!(body["title"], "Not found");
    assert_eq!(body["detail"], "no Route matched with those values");
    assert_eq!(body["reason"], "no_route");
    assert_eq!(body["request_id"].as_str(), reply.header("x-kong-request-id"));

    let own = start(&upstream, "  error_templates:\n    json: '{\"code\":{{status}},\"why\":\"%s\"}'");
    assert_eq!(own.get("/nowhere").expect(404).text(), r#"{"code":404,"why":"no Route matched with those values"}"#);
}

#[test]
fn faults_in_the_block_have_their_place() {
    let text = format!(
        "{}gateway:\n  headers: [latency_token]\n  errors: rfc\n  error_default_type: text/json\n  error_templates: {{ yaml: x }}\n",
        Upstream::echo().fill(CONFIG)
    );
    let stderr = Setup::new(&text).refuse().stderr;
    for words in
        ["did you mean `latency_tokens`?", "`errors` is `rfc`", "`error_default_type` is", "unknown field `yaml`"]
    {
        assert!(stderr.contains(words), "{words}: {stderr}");
    }
}

#[test]
fn trusted_addresses_are_passed_over_from_the_right() {
    let upstream = Upstream::echo();
    let block = "  trusted_ips: [127.0.0.0/8, 10.0.0.0/8]\n  real_ip_header: X-Forwarded-For";
    let last = start(&upstream, block);
    let recursive = start(&upstream, &format!("{block}\n  real_ip_recursive: true"));
    let ask = |gateway: &Gateway, chain: &str| {
        let reply = gateway.send(&Request::get("/echo").header("X-Forwarded-For", chain));
        reply.expect(200).echoed("x-real-ip").unwrap()
    };
    assert_eq!(ask(&last, "1.1.1.1, 2.2.2.2, 10.0.0.1"), "10.0.0.1");
    assert_eq!(ask(&recursive, "1.1.1.1, 2.2.2.2, 10.0.0.1"), "2.2.2.2");
    assert_eq!(ask(&recursive, "10.0.0.3, 10.0.0.2"), "10.0.0.3");
    // Nobody vouches for what stands before something that is no address.
    assert_eq!(ask(&recursive, "1.1.1.1, nonsense, 10.0.0.2"), "10.0.0.2");
    assert_eq!(ask(&recursive, "nonsense"), "127.0.0.1");
}
