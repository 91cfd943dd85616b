//! What an attacker or an unlucky neighbour tried once and must not succeed with again.

use gateway_tests::{Gateway, Request, Upstream};

#[test]
fn the_host_that_chose_the_route_is_the_one_that_is_preserved() {
    let upstream = Upstream::echo();
    let gateway = Gateway::start(&upstream.fill(
        r#"
_format_version: "3.0"
services:
- url: @UP@
  routes:
  - { name: open, hosts: [open.test], preserve_host: true }
  - name: closed
    hosts: [closed.test]
    preserve_host: true
    plugins: [{ name: key-auth }]
"#,
    ));
    gateway.send(&Request::get("/").host("closed.test")).expect(401);
    let reply = gateway.send(&Request::get("http://open.test/x").host("closed.test")).expect(200);
    assert_eq!(reply.echoed("host").as_deref(), Some("open.test"));
}
