//! redirect: every request is sent elsewhere.

use gateway_tests::{Gateway, Upstream};

const CONFIG: &str = r#"
_format_version: "3.0"
services:
- name: echo
  url: @UP@
  routes:
  - name: fixed
    paths: [/fixed]
    plugins:
    - { name: redirect, config: { location: "https://example.com/path?foo=bar" } }
  - name: kept
    paths: [/kept]
    plugins:
    - { name: redirect, config: { location: "https://example.com/x?y", keep_incoming_path: true, status_code: 307 } }
"#;

#[test]
fn the_location_is_fixed_or_follows_the_request() {
    let upstream = Upstream::echo();
    let gateway = Gateway::start(&upstream.fill(CONFIG));
    let fixed = gateway.get("/fixed/a?b=c").expect(301);
    assert_eq!(fixed.header("location"), Some("https://example.com/path?foo=bar"));
    assert_eq!(fixed.text(), "redirecting");
    let kept = gateway.get("/kept/a?b=c").expect(307);
    assert_eq!(kept.header("location"), Some("https://example.com/kept/a?b=c"));
    assert_eq!(upstream.count(), 0);
}
