//! Consumer groups: who is in them, which plugins hold for them, what the upstream and acl know of them.

use gateway_tests::{Gateway, Request, Setup, Upstream};
use serde_json::json;

const CONFIG: &str = r#"
_format_version: "3.0"
services:
- name: echo
  url: @UP@
  plugins:
  - { name: key-auth }
  - { name: request-transformer, config: { add: { headers: ["X-By:service"] } } }
  routes:
  - name: plain
    paths: [/plain]
  - name: own
    paths: [/own]
    plugins:
    - { name: request-transformer, config: { add: { headers: ["X-By:route"] } } }
    - { name: request-transformer, consumer_group: gold, config: { add: { headers: ["X-By:route and gold"] } } }
  - name: open
    paths: [/open]
    plugins: [{ name: acl, config: { allow: [gold, staff], include_consumer_groups: true } }]
  - name: closed
    paths: [/closed]
    plugins: [{ name: acl, config: { allow: [gold] } }]
consumer_groups:
- name: gold
  consumers: [{ username: ann }]
  plugins:
  - { name: request-transformer, config: { add: { headers: ["X-By:gold"] } } }
- name: silver
  plugins:
  - { name: request-transformer, config: { add: { headers: ["X-By:silver"] } } }
- name: bare
consumer_group_consumers:
- { consumer: dan, consumer_group: bare }
consumers:
- username: ann
  id: 6d3a0a1e-7a3f-4a57-9f0e-2f5f3f0d7c11
  keyauth_credentials: [{ key: ann-key }]
  acls: [{ group: staff }]
- username: ben
  groups: [{ name: silver }]
  keyauth_credentials: [{ key: ben-key }]
- username: cyd
  groups: [silver, gold]
  keyauth_credentials: [{ key: cyd-key }]
  plugins: [{ name: request-transformer, config: { add: { headers: ["X-By:cyd"] } } }]
- username: dan
  keyauth_credentials: [{ key: dan-key }]
- username: eve
  keyauth_credentials: [{ key: eve-key }]
"#;

fn started() -> (Upstream, Gateway) {
    let upstream = Upstream::echo();
    let gateway = Gateway::start(&upstream.fill(CONFIG));
    (upstream, gateway)
}

#[test]
fn the_most_specific_plugin_runs() {
    let (_upstream, gateway) = started();
    // A group comes after its consumer on the same place, and before every place without one: route and service, with the
    // group, come before the consumer alone.
    for (path, key, by, groups) in [
        ("/plain", "eve-key", "service", None),
        ("/plain", "dan-key", "service", Some("bare")),
        ("/plain", "ann-key", "gold", Some("gold")),
        ("/plain", "ben-key", "silver", Some("silver")),
        ("/plain", "cyd-key", "cyd", Some("gold, silver")),
        ("/own", "eve-key", "route", None),
        ("/own", "ann-key", "route and gold", Some("gold")),
        ("/own", "ben-key", "silver", Some("silver")),
        ("/own", "cyd-key", "route and gold", Some("gold, silver")),
    ] {
        let request = Request::get(path).header("apikey", key).header("X-Consumer-Groups", "root");
        let reply = gateway.send(&request).expect(200);
        assert_eq!(reply.echoed("x-by").as_deref(), Some(by), "{path} {key}");
        assert_eq!(reply.echoed("x-consumer-groups").as_deref(), groups, "{path} {key}");
    }
}

#[test]
fn acl_counts_them_when_told_so() {
    let (_upstream, gateway) = started();
    let ask = |path: &str, key: &str| gateway.send(&Request::get(path).header("apikey", key));
    let reply = ask("/open", "ann-key").expect(200);
    assert_eq!(reply.echoed("x-consumer-groups").as_deref(), Some("staff, gold"));
    assert_eq!(ask("/open", "cyd-key").expect(200).echoed("x-consumer-groups").as_deref(), Some("gold, silver"));
    for key in ["ben-key", "dan-key", "eve-key"] {
        ask("/open", key).expect(403);
    }
    ask("/closed", "ann-key").expect(403);
}

#[test]
fn the_admin_api_shows_them() {
    let (_upstream, gateway) = started();
    let groups = gateway.admin_get("/consumer_groups").expect(200).json();
    assert_eq!(groups["data"].as_array().map(Vec::len), Some(3));
    let plugins = gateway.admin_get("/consumer_groups/gold/plugins").expect(200).json();
    assert_eq!(plugins["data"][0]["name"], "request-transformer");
    let gold = gateway.admin_get("/consumer_groups/gold").expect(200).json();
    assert_eq!(plugins["data"][0]["consumer_group"], json!({ "id": gold["id"] }));
    let ids: std::collections::HashSet<String> = gateway.admin_get("/plugins").json()["data"]
        .as_array()
        .unwrap()
        .iter()
        .map(|plugin| plugin["id"].to_string())
        .collect();
    assert_eq!(ids.len(), 9, "no two have one id");
}

#[test]
fn references_that_lead_nowhere_are_told() {
    let upstream = Upstream::echo();
    for (from, to, words) in [
        ("consumer_group: gold,", "consumer_group: golden,", "invalid reference 'consumer_group: golden'"),
        ("username: ann }", "username: nobody }", "invalid reference 'consumer: nobody'"),
        ("{ name: silver }", "{ name: copper }", "invalid reference 'consumer_group: copper'"),
        ("consumer: dan,", "consumer: dane,", "invalid reference 'consumer: dane'"),
        ("- name: bare", "- name: gold", "'consumer_groups' entity with name set to 'gold' already declared"),
        ("- { name: key-auth }", "- { name: key-auth, consumer_group: gold }", "or a consumer group"),
    ] {
        let text = upstream.fill(CONFIG).replacen(from, to, 1);
        let exit = Setup::new(&text).refuse();
        assert!(exit.stderr.contains(words), "{words}: {}", exit.stderr);
    }
}
