//! basic-auth: who is let through, what a refusal says, what the upstream is told.

use gateway_tests::{Gateway, Reply, Request, Setup, Upstream};

const CONFIG: &str = r#"
_format_version: "3.0"
services:
- name: echo
  url: @UP@
  routes:
  - name: plain
    paths: [/plain]
    plugins:
    - name: basic-auth
  - name: hidden
    paths: [/hidden]
    plugins:
    - { name: basic-auth, config: { hide_credentials: true, realm: vault } }
  - name: either
    paths: [/either]
    plugins:
    - { name: basic-auth, config: { anonymous: nobody } }
    - { name: key-auth, config: { anonymous: nobody } }
consumers:
- username: alice
  id: 6d3a0a1e-7a3f-4a57-9f0e-2f5f3f0d7c11
  basicauth_credentials:
  - { username: al, password: "open:sesame" }
  keyauth_credentials:
  - { key: alice-key }
- username: nobody
"#;

/// `al:open:sesame` in base64.
const GOOD: &str = "Basic YWw6b3BlbjpzZXNhbWU=";

fn ask(gateway: &Gateway, path: &str, credentials: &str) -> Reply {
    gateway.send(&Request::get(path).header("Authorization", credentials))
}

#[test]
fn a_password_names_the_consumer() {
    let upstream = Upstream::echo();
    let gateway = Gateway::start(&upstream.fill(CONFIG));
    let reply = ask(&gateway, "/plain", GOOD).expect(200);
    assert_eq!(reply.echoed("x-consumer-username").as_deref(), Some("alice"));
    assert_eq!(reply.echoed("x-credential-identifier").as_deref(), Some("al"));
    assert_eq!(reply.echoed("authorization").as_deref(), Some(GOOD));
    let reply = ask(&gateway, "/hidden", GOOD).expect(200);
    assert_eq!(reply.echoed("authorization"), None);
}

#[test]
fn everything_else_is_refused_in_the_same_words() {
    let upstream = Upstream::echo();
    let gateway = Gateway::start(&upstream.fill(CONFIG));
    // `al`, `al:`, `al:open`, `Al:open:sesame`, another scheme, no base64.
    for bad in ["Basic YWw=", "Basic YWw6", "Basic YWw6b3Blbg==", "Basic QWw6b3BlbjpzZXNhbWU=", "Bearer x", "Basic !"] {
        let reply = ask(&gateway, "/plain", bad).expect_templated(401, "Unauthorized");
        assert_eq!(reply.header("www-authenticate"), Some("Basic realm=\"service\""));
    }
    let reply = gateway.get("/hidden").expect_templated(401, "Unauthorized");
    assert_eq!(reply.header("www-authenticate"), Some("Basic realm=\"vault\""));
    assert_eq!(upstream.count(), 0);
}

#[test]
fn anonymous_makes_a_password_and_a_key_alternatives() {
    let upstream = Upstream::echo();
    let gateway = Gateway::start(&upstream.fill(CONFIG));
    let who = |reply: Reply| reply.expect(200).echoed("x-consumer-username");
    assert_eq!(who(ask(&gateway, "/either", GOOD)).as_deref(), Some("alice"));
    assert_eq!(who(gateway.get("/either?apikey=alice-key")).as_deref(), Some("alice"));
    assert_eq!(who(gateway.get("/either")).as_deref(), Some("nobody"));
}

#[test]
fn a_stored_digest_is_taken_as_it_is_when_nothing_is_transformed() {
    let upstream = Upstream::echo();
    // SHA-1 of `open:sesame` and the consumer's id.
    let digest = "da307e7fdd54a3e9f7a70467135322794572c037";
    let text =
        upstream.fill(CONFIG).replace("\"open:sesame\"", digest).replace("services:", "_transform: false\nservices:");
    let gateway = Gateway::start(&text);
    ask(&gateway, "/plain", GOOD).expect(200);
    let exit = Setup::new(&text.replace(digest, "open-sesame")).refuse().stderr;
    assert!(exit.contains("40 hexadecimal digits"), "{exit}");
}
