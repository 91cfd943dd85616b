//! acl: groups of the consumer against one list.

use gateway_tests::{Gateway, Request, Upstream};

const CONFIG: &str = r#"
_format_version: "3.0"
services:
- name: echo
  url: @UP@
  routes:
  - name: allow
    paths: [/allow]
    plugins:
    - name: key-auth
    - { name: acl, config: { allow: [staff, admin] } }
  - name: deny
    paths: [/deny]
    plugins:
    - name: key-auth
    - { name: acl, config: { deny: [banned], hide_groups_header: true } }
  - name: open
    paths: [/open]
    plugins:
    - { name: acl, config: { allow: [staff] } }
  - name: optional
    paths: [/optional]
    plugins:
    - { name: key-auth, config: { anonymous: guest } }
    - { name: acl, config: { allow: [guests] } }
consumers:
- username: ann
  keyauth_credentials: [{ key: ann }]
  acls: [{ group: staff }, { group: readers }]
- username: bob
  keyauth_credentials: [{ key: bob }]
  acls: [{ group: banned }]
- username: guest
acls:
- { consumer: guest, group: guests }
"#;

#[test]
fn groups_decide() {
    let upstream = Upstream::echo();
    let gateway = Gateway::start(&upstream.fill(CONFIG));
    let ask = |path: &str, key: &str| gateway.send(&Request::get(path).header("apikey", key));

    let reply = ask("/allow", "ann").expect(200);
    assert_eq!(reply.echoed("x-consumer-groups").as_deref(), Some("staff, readers"));
    ask("/allow", "bob").expect_templated(403, "You cannot consume this service");
    let reply = ask("/deny", "ann").expect(200);
    assert_eq!(reply.echoed("x-consumer-groups"), None);
    ask("/deny", "bob").expect_templated(403, "You cannot consume this service");

    // Nobody was authenticated at all: that is 401, not 403.
    gateway.get("/open").expect_templated(401, "Unauthorized");
    let reply = gateway.get("/optional").expect(200);
    assert_eq!(reply.echoed("x-consumer-groups").as_deref(), Some("guests"));
    ask("/optional", "ann").expect(403);
    assert_eq!(upstream.count(), 3);
}

#[test]
fn a_client_cannot_name_its_groups() {
    let upstream = Upstream::echo();
    let gateway = Gateway::start(&upstream.fill(CONFIG));
    let forged = |key: &str| {
        Request::get("/allow")
            .header("apikey", key)
            .header("X-Consumer-Groups", "admin")
            .header("X-Authenticated-Groups", "admin")
    };
    gateway.send(&forged("bob")).expect(403);
    let reply = gateway.send(&forged("ann")).expect(200);
    assert_eq!(reply.echoed("x-consumer-groups").as_deref(), Some("staff, readers"));
    let hidden = Request::get("/deny").header("apikey", "ann").header("X-Consumer-Groups", "admin");
    assert_eq!(gateway.send(&hidden).expect(200).echoed("x-consumer-groups"), None);
}
