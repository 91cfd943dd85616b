//! ip-restriction: the peer's address, or the client's behind a trusted proxy, against two lists.

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
    - { name: ip-restriction, config: { allow: [127.0.0.0/30, "::1"] } }
  - name: deny
    paths: [/deny]
    plugins:
    - { name: ip-restriction, config: { deny: [127.0.0.2] } }
  - name: both
    paths: [/both]
    plugins:
    - { name: ip-restriction, config: { allow: [127.0.0.0/8], deny: [127.0.0.2] } }
  - name: worded
    paths: [/worded]
    plugins:
    - { name: ip-restriction, config: { deny: [0.0.0.0/0], status: 451, message: not here } }
"#;

#[test]
fn addresses_decide() {
    let upstream = Upstream::echo();
    let gateway = Gateway::start(&upstream.fill(CONFIG));
    let ask = |path: &str, last: u8| gateway.connect_from([127, 0, 0, last]).get(path);
    ask("/allow", 1).expect(200);
    ask("/allow", 9).expect_templated(403, "IP address not allowed: 127.0.0.9");
    ask("/deny", 1).expect(200);
    ask("/deny", 2).expect_templated(403, "IP address not allowed: 127.0.0.2");
    ask("/both", 3).expect(200);
    ask("/both", 2).expect(403);
    ask("/worded", 1).expect_templated(451, "not here");
    assert_eq!(upstream.count(), 3);
}

#[test]
fn a_forwarded_address_counts_only_from_a_trusted_peer() {
    let upstream = Upstream::echo();
    let plain = Gateway::start(&upstream.fill(CONFIG));
    let trusting = Gateway::start(&format!("{}\ngateway:\n  trusted_ips: [127.0.0.1]\n", upstream.fill(CONFIG)));
    let behind = |path: &str, client: &str| Request::get(path).header("X-Real-IP", client);
    // A stranger's word is worth nothing, neither to get in nor to be kept out.
    plain.send(&behind("/deny", "127.0.0.2")).expect(200);
    plain.send(&behind("/allow", "127.0.0.9")).expect(200);
    trusting.send(&behind("/deny", "127.0.0.2")).expect(403);
    trusting.send(&behind("/allow", "127.0.0.9")).expect(403);
    trusting.send(&behind("/allow", "127.0.0.2")).expect(200);
    trusting.connect_from([127, 0, 0, 9]).send(&behind("/allow", "127.0.0.1")).expect(403);
}
