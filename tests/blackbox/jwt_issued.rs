//! jwt with the keys of an issuer: found by `kid`, fetched again when one is unknown, kept when the issuer fails.

use gateway_tests::deadline::{eventually, unix_seconds};
use gateway_tests::issuer::Issuer;
use gateway_tests::jwt::{hmac_token, unsigned_token};
use gateway_tests::signer::Signer;
use gateway_tests::tls::Pair;
use gateway_tests::{Gateway, Reply, Request, Setup, Upstream};
use serde_json::{Value, json};

const CONFIG: &str = r#"
_format_version: "3.0"
services:
- name: echo
  url: @UP@
  routes:
  - name: open
    paths: [/open]
    plugins: [{ name: jwt, config: { jwks_uri: @KEYS@, jwks_refetch: @REFETCH@ } }]
  - name: strict
    paths: [/strict]
    plugins:
    - name: jwt
      config:
        jwks_uri: @KEYS@
        jwks_refetch: @REFETCH@
        issuer: https://issuer.test
        audience: [api, other]
        scopes: [read, write]
        consumer_claim: [sub]
  - name: anonymous
    paths: [/anonymous]
    plugins: [{ name: jwt, config: { jwks_uri: @KEYS@, jwks_refetch: @REFETCH@, anonymous: nobody } }]
consumers:
- username: ann
  custom_id: ann-7
  jwt_secrets: [{ key: ann-key, secret: ann-secret }]
- username: nobody
"#;

fn gateway(upstream: &Upstream, issuer: &Issuer, refetch: &str) -> Gateway {
    Gateway::start(&upstream.fill(CONFIG).replace("@KEYS@", &issuer.keys_at()).replace("@REFETCH@", refetch))
}

fn bearer(gateway: &Gateway, path: &str, token: &str) -> Reply {
    gateway.send(&Request::get(path).header("Authorization", &format!("Bearer {token}")))
}

fn later() -> u64 {
    unix_seconds() + 600
}

fn claims() -> Value {
    json!({ "iss": "https://issuer.test", "sub": "ann", "aud": "api", "scope": "read write", "exp": later() })
}

#[test]
fn published_keys_of_every_family_sign() {
    let upstream = Upstream::echo();
    let rsa = Signer::new("RS256");
    let signers = [
        ("rsa", rsa.as_if("RS256")),
        ("rsa", rsa.as_if("PS512")),
        ("p256", Signer::new("ES256")),
        ("p384", Signer::new("ES384")),
        ("p521", Signer::new("ES512")),
        ("ed", Signer::new("EdDSA")),
    ];
    let published: Vec<(&str, &Signer)> = signers.iter().map(|(kid, signer)| (*kid, signer)).collect();
    let issuer = Issuer::new(&published);
    let gateway = gateway(&upstream, &issuer, "1h");
    for (kid, signer) in &signers {
        let reply = bearer(&gateway, "/strict", &signer.token(kid, &claims())).expect(200);
        assert_eq!(reply.echoed("x-consumer-username").as_deref(), Some("ann"), "{}", signer.algorithm());
        assert_eq!(reply.echoed("x-credential-identifier").as_deref(), Some("ann"));
        let reply = bearer(&gateway, "/open", &signer.token("", &claims())).expect(200);
        assert_eq!(reply.echoed("x-consumer-username"), None, "nobody asked for a consumer");
    }
    // The file's credentials are what they were.
    let own = hmac_token("HS256", &json!({ "iss": "ann-key" }), b"ann-secret");
    let reply = bearer(&gateway, "/open", &own).expect(200);
    assert_eq!(reply.echoed("x-credential-identifier").as_deref(), Some("ann-key"));
    let reply = gateway.get("/anonymous").expect(200);
    assert_eq!(reply.echoed("x-consumer-username").as_deref(), Some("nobody"));
    assert_eq!(issuer.asked(), 1, "once for all routes and requests");
}

#[test]
fn what_does_not_hold_is_refused() {
    let upstream = Upstream::echo();
    let (key, other) = (Signer::new("ES256"), Signer::new("ES256"));
    let issuer = Issuer::new(&[("k", &key)]);
    let gateway = gateway(&upstream, &issuer, "1h");
    bearer(&gateway, "/strict", &key.token("k", &claims())).expect(200);
    let with = |name: &str, value: Value| {
        let mut changed = claims();
        changed[name] = value;
        key.token("k", &changed)
    };
    let own = key.token("k", &claims());
    let (head, tail) = own.rsplit_once('.').unwrap();
    let secret = key.jwk().to_string();
    for (what, token, status) in [
        ("another key", other.token("k", &claims()), 401),
        ("an unknown kid", other.token("x", &claims()), 401),
        ("another algorithm", Signer::new("EdDSA").token("k", &claims()), 401),
        ("a shared secret", hmac_token("HS256", &claims(), secret.as_bytes()), 401),
        ("the PEM as a secret", hmac_token("HS256", &claims(), key.public_pem().as_bytes()), 401),
        ("no signature", unsigned_token(&claims()), 401),
        ("a cut signature", format!("{head}.{}", &tail[4..]), 401),
        ("another issuer", with("iss", json!("https://issuer.test.evil")), 401),
        ("a list of issuers", with("iss", json!(["https://issuer.test"])), 401),
        ("another audience", with("aud", json!("apis")), 401),
        ("other audiences", with("aud", json!(["a", "api,other"])), 401),
        ("no audience", with("aud", Value::Null), 401),
        ("expired", with("exp", json!(1)), 401),
        ("for ever", with("exp", Value::Null), 401),
        ("a text for exp", with("exp", json!("9999999999")), 401),
        ("not yet", with("nbf", json!(later())), 401),
        ("too few scopes", with("scope", json!("read")), 403),
        ("scopes as one word", with("scope", json!("read,write")), 403),
        ("no scopes", with("scope", Value::Null), 403),
        ("a stranger", with("sub", json!("eve")), 403),
        ("nobody", with("sub", Value::Null), 403),
    ] {
        let reply = bearer(&gateway, "/strict", &token);
        assert_eq!(reply.status, status, "{what}: {}", reply.text());
        let challenge = reply.header("www-authenticate").unwrap_or_default();
        assert!(status == 403 || challenge.contains("invalid_token"), "{what}: {challenge}");
    }
    for (name, value) in [("aud", json!(["x", "other"])), ("sub", json!("ann-7")), ("scope", json!(["write", "read"]))]
    {
        bearer(&gateway, "/strict", &with(name, value)).expect(200);
    }
    let reply =
        bearer(&gateway, "/strict", &with("scope", json!("read"))).expect_compact(403, r#"{"message":"Forbidden"}"#);
    assert_eq!(reply.header("www-authenticate"), Some("Bearer error=\"insufficient_scope\""));
    assert_eq!(upstream.count(), 4);
}

#[test]
fn a_new_key_is_fetched_when_it_is_needed_and_not_for_every_liar() {
    let upstream = Upstream::echo();
    let (old, new) = (Signer::new("ES256"), Signer::new("ES256"));
    let issuer = Issuer::new(&[("old", &old)]);
    let quick = gateway(&upstream, &issuer, "50ms");
    let known = old.token("old", &claims());
    for _ in 0..3 {
        bearer(&quick, "/open", &known).expect(200);
    }
    issuer.publish(&[("new", &new)]);
    eventually("the new key opens", || bearer(&quick, "/open", &new.token("new", &claims())).status == 200);
    assert_eq!(bearer(&quick, "/open", &old.token("old", &claims())).status, 401, "the old key was withdrawn");
    assert_eq!(bearer(&quick, "/open", &known).status, 401, "and with it what it had verified");
    drop(quick);
    let before = issuer.asked();
    let slow = gateway(&upstream, &issuer, "1h");
    bearer(&slow, "/open", &new.token("new", &claims())).expect(200);
    for liar in 0..50 {
        bearer(&slow, "/open", &old.token(&format!("kid-{liar}"), &claims())).expect(401);
    }
    assert_eq!(issuer.asked() - before, 1, "unknown keys do not make calls");
}

#[test]
fn the_last_good_keys_stay_when_the_issuer_fails() {
    let upstream = Upstream::echo();
    let (key, other) = (Signer::new("ES256"), Signer::new("ES256"));
    let issuer = Issuer::new(&[("k", &key)]);
    let gateway = gateway(&upstream, &issuer, "20ms");
    bearer(&gateway, "/open", &key.token("k", &claims())).expect(200);
    let huge = vec![b' '; 3 << 20];
    for say in [None, Some(&b"no JSON"[..]), Some(b"{\"keys\":[]}"), Some(&huge)] {
        match say {
            Some(body) => issuer.say(body),
            None => issuer.fail(),
        }
        let before = issuer.asked();
        eventually("the gateway asks again", || {
            bearer(&gateway, "/open", &other.token("unknown", &claims())).expect(401);
            issuer.asked() > before
        });
        bearer(&gateway, "/open", &key.token("k", &claims())).expect(200);
    }
    issuer.hang();
    bearer(&gateway, "/open", &key.token("k", &claims())).expect(200);
}

#[test]
fn without_any_key_it_is_nobodys_fault() {
    let upstream = Upstream::echo();
    let key = Signer::new("ES256");
    let issuer = Issuer::new(&[("k", &key)]);
    issuer.fail();
    let gateway = gateway(&upstream, &issuer, "10ms");
    let reply = bearer(&gateway, "/open", &key.token("k", &claims())).expect(503);
    assert_eq!(reply.header("retry-after"), Some("1"));
    gateway.get("/open").expect(401);
    issuer.publish(&[("k", &key)]);
    eventually("the keys come", || bearer(&gateway, "/open", &key.token("k", &claims())).status == 200);
}

#[test]
fn an_issuer_must_prove_its_name() {
    let upstream = Upstream::echo();
    let key = Signer::new("ES256");
    let pair = Pair::new(&["localhost"]);
    let issuer = Issuer::new_tls(&[("k", &key)], &pair);
    let folder = tempfile::tempdir().unwrap();
    let roots = folder.path().join("roots.pem");
    std::fs::write(&roots, &pair.certificate_pem).unwrap();
    let text = upstream.fill(CONFIG).replace("@KEYS@", &issuer.keys_at()).replace("@REFETCH@", "10ms");
    let stranger = Gateway::start(&text);
    bearer(&stranger, "/open", &key.token("k", &claims())).expect(503);
    assert_eq!(issuer.asked(), 0);
    let known = Setup::new(&text).env("SSL_CERT_FILE", &roots.display().to_string()).start();
    bearer(&known, "/open", &key.token("k", &claims())).expect(200);
    let careless = text.replace("jwks_refetch", "jwks_ssl_verify: false, jwks_refetch");
    let careless = careless.replacen("jwks_ssl_verify: false, jwks_refetch: 10ms\n", "jwks_refetch: 10ms\n", 1);
    bearer(&Gateway::start(&careless), "/open", &key.token("k", &claims())).expect(200);
}
