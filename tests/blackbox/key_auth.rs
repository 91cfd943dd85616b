//! key-auth: where the key is looked for, what a refusal says, what the upstream is told.

use std::net::Ipv4Addr;

use gateway_tests::{Client, Gateway, Request, Upstream, eventually};

const CONFIG: &str = r#"
_format_version: "3.0"
services:
- name: echo
  url: @UP@
  routes:
  - name: plain
    paths: [/plain]
    plugins:
    - name: key-auth
  - name: hidden
    paths: [/hidden]
    plugins:
    - { name: key-auth, config: { key_names: [apikey, x-token], hide_credentials: true, key_in_body: true } }
  - name: header-only
    paths: [/header-only]
    plugins:
    - { name: key-auth, config: { key_in_query: false, realm: vault } }
  - name: preflight
    paths: [/preflight]
    plugins:
    - { name: key-auth, config: { run_on_preflight: false } }
  - name: anonymous
    paths: [/anonymous]
    plugins:
    - { name: key-auth, config: { anonymous: nobody } }
  - name: lost
    paths: [/lost]
    plugins:
    - { name: key-auth, config: { anonymous: 0b5ff0a9-6c3c-4b6a-9d6f-7f3a7b8a9c01 } }
consumers:
- username: alice
  custom_id: a-1
  keyauth_credentials:
  - { key: alice-key, id: 7c2a4a5e-3b0e-4d0c-9c8b-0a1b2c3d4e5f }
- username: nobody
"#;

fn setup() -> (Upstream, Gateway) {
    let upstream = Upstream::echo();
    let gateway = Gateway::start(&upstream.fill(CONFIG));
    (upstream, gateway)
}

#[test]
fn a_key_in_header_or_query_names_the_consumer() {
    let (_upstream, gateway) = setup();
    let with_header = gateway.send(&Request::get("/plain").header("apikey", "alice-key"));
    let with_query = gateway.get("/plain?apikey=alice-key");
    for reply in [with_header, with_query] {
        let reply = reply.expect(200);
        assert_eq!(reply.echoed("x-consumer-username").as_deref(), Some("alice"));
        assert_eq!(reply.echoed("x-consumer-custom-id").as_deref(), Some("a-1"));
        assert!(reply.echoed("x-consumer-id").is_some_and(|id| id.len() == 36));
        let credential = reply.echoed("x-credential-identifier");
        assert_eq!(credential.as_deref(), Some("7c2a4a5e-3b0e-4d0c-9c8b-0a1b2c3d4e5f"));
        assert_eq!(reply.echoed("x-anonymous-consumer"), None);
    }
}

#[test]
fn a_missing_wrong_or_doubled_key_is_refused_before_the_upstream() {
    let (upstream, gateway) = setup();
    let none = gateway.get("/plain").expect_templated(401, "No API key found in request");
    assert_eq!(none.header("www-authenticate"), Some("Key"));
    let wrong = gateway.send(&Request::get("/plain").header("apikey", "alice-ke"));
    wrong.expect_templated(401, "Unauthorized");
    for near in ["alice-key2", "ALICE-KEY", " ", "alice-key,alice-key"] {
        gateway.send(&Request::get("/plain").header("apikey", near)).expect(401);
    }
    let twice = Request::get("/plain").header("apikey", "alice-key").header("apikey", "alice-key");
    gateway.send(&twice).expect_templated(401, "Duplicate API key found");
    let twice = gateway.get("/plain?apikey=alice-key&apikey=other");
    twice.expect_templated(401, "Duplicate API key found");
    assert_eq!(upstream.count(), 0);
}

#[test]
fn a_realm_is_named_and_the_query_can_be_switched_off() {
    let (_upstream, gateway) = setup();
    let reply = gateway.get("/header-only?apikey=alice-key").expect(401);
    assert_eq!(reply.header("www-authenticate"), Some("Key realm=\"vault\""));
    gateway.send(&Request::get("/header-only").header("apikey", "alice-key")).expect(200);
}

#[test]
fn a_hidden_key_does_not_reach_the_upstream() {
    let (_upstream, gateway) = setup();
    let reply = gateway.send(&Request::get("/hidden?a=1").header("x-token", "alice-key"));
    assert_eq!(reply.expect(200).echoed("x-token"), None);
    let reply = gateway.get("/hidden?a=1&apikey=alice-key&b=2").expect(200);
    assert_eq!(reply.json()["uri_args"], serde_json::json!({ "a": "1", "b": "2" }));
    let form =
        Request::post("/hidden", "a=1&apikey=alice-key").header("Content-Type", "application/x-www-form-urlencoded");
    let reply = gateway.send(&form).expect(200);
    assert_eq!(reply.json()["post_data"]["params"], serde_json::json!({ "a": "1" }));
    // Without `hide_credentials` it goes through, which is Kong's default.
    let reply = gateway.send(&Request::get("/plain").header("apikey", "alice-key")).expect(200);
    assert_eq!(reply.echoed("apikey").as_deref(), Some("alice-key"));
}

#[test]
fn a_client_cannot_name_a_consumer_itself() {
    let (_upstream, gateway) = setup();
    let forged = |path: &str| {
        Request::get(path)
            .header("X-Consumer-Username", "root")
            .header("X-Consumer-Id", "1")
            .header("X-Consumer-Custom-Id", "1")
            .header("X-Credential-Identifier", "1")
            .header("X-Anonymous-Consumer", "true")
    };
    let reply = gateway.send(&forged("/plain").header("apikey", "alice-key")).expect(200);
    assert_eq!(reply.echoed("x-consumer-username").as_deref(), Some("alice"));
    assert_eq!(reply.echoed("x-consumer-custom-id").as_deref(), Some("a-1"));
    assert_eq!(reply.echoed("x-anonymous-consumer"), None);
    let reply = gateway.send(&forged("/anonymous")).expect(200);
    assert_eq!(reply.echoed("x-consumer-username").as_deref(), Some("nobody"));
    assert_eq!(reply.echoed("x-consumer-custom-id"), None);
    assert_eq!(reply.echoed("x-credential-identifier"), None);
    assert_eq!(reply.echoed("x-anonymous-consumer").as_deref(), Some("true"));
}

#[test]
fn preflight_and_anonymous() {
    let (_upstream, gateway) = setup();
    gateway.send(&Request::new("OPTIONS", "/preflight")).expect(200);
    gateway.get("/preflight").expect(401);
    gateway.send(&Request::new("OPTIONS", "/plain")).expect(401);
    let id = "0b5ff0a9-6c3c-4b6a-9d6f-7f3a7b8a9c01";
    let message = format!("anonymous consumer {id} is configured but doesn't exist");
    assert_eq!(gateway.get("/lost").expect(500).error_message(), message);
}

#[test]
fn a_removed_key_is_refused_after_a_reload() {
    let (upstream, gateway) = setup();
    let ask = |gateway: &Gateway| gateway.send(&Request::get("/plain").header("apikey", "alice-key")).status;
    assert_eq!(ask(&gateway), 200);
    let text = upstream.fill(CONFIG).replace("key: alice-key", "key: another-key");
    gateway.replace_file(&text);
    // A request that is being served when its key goes is cut off.
    let refused = || {
        let client = Client::try_connect_from(gateway.proxy(), Ipv4Addr::LOCALHOST);
        let reply =
            client.and_then(|mut client| client.try_send(&Request::get("/plain").header("apikey", "alice-key")));
        reply.is_ok_and(|reply| reply.status == 401)
    };
    eventually("the old key is refused", refused);
    gateway.send(&Request::get("/plain").header("apikey", "another-key")).expect(200);
}
