//! openid-connect for bearers: discovery, keys, audience, scopes, groups, consumers, what the upstream is told.

use std::time::{Duration, Instant};

use gateway_tests::deadline::{eventually, unix_seconds};
use gateway_tests::issuer::Issuer;
use gateway_tests::signer::Signer;
use gateway_tests::{Gateway, Reply, Request, Setup, Upstream};
use serde_json::{Value, json};

const CONFIG: &str = r#"
_format_version: "3.0"
services:
- name: echo
  url: @UP@
  routes:
  - name: plain
    paths: [/plain]
    plugins: [{ name: openid-connect, config: { issuer: @ISSUER@, auth_methods: [bearer] } }]
  - name: strict
    paths: [/strict]
    plugins:
    - name: openid-connect
      config:
        issuer: @ISSUER@/.well-known/openid-configuration
        auth_methods: [bearer]
        audience_required: [api]
        scopes_required: ["read write", admin]
        groups_required: [staff]
        groups_claim: [realm, groups]
        authenticated_groups_claim: [realm, groups]
        upstream_headers_claims: [email, level]
        upstream_headers_names: [X-Email, X-Level]
        hide_credentials: true
        bearer_token_param_type: [header, query]
        rediscovery_lifetime: 0.05
  - name: people
    paths: [/people]
    plugins:
    - name: openid-connect
      config: { issuer: @ISSUER@, auth_methods: [bearer], consumer_claim: [user], consumer_by: [custom_id], leeway: 60 }
  - name: either
    paths: [/either]
    plugins:
    - name: openid-connect
      config:
        issuer: @ISSUER@
        auth_methods: [bearer]
        anonymous: nobody
        run_on_preflight: false
        upstream_headers_claims: [email, user]
        upstream_headers_names: [X-Email, X-Consumer-Custom-ID]
    - { name: key-auth, config: { anonymous: nobody } }
consumers:
- { username: ann, custom_id: u-7, keyauth_credentials: [{ key: ann-key }] }
- username: nobody
"#;

struct Scene {
    upstream: Upstream,
    issuer: Issuer,
    key: Signer,
    gateway: Gateway,
}

fn scene() -> Scene {
    let upstream = Upstream::echo();
    let key = Signer::new("ES256");
    let issuer = Issuer::new(&[("k", &key)]);
    let gateway = Gateway::start(&upstream.fill(CONFIG).replace("@ISSUER@", &issuer.name()));
    Scene { upstream, issuer, key, gateway }
}

impl Scene {
    fn claims(&self) -> Value {
        json!({
            "iss": self.issuer.name(), "sub": "s-1", "aud": ["x", "api"], "scope": "openid read write", "user": "u-7",
            "exp": unix_seconds() + 600, "email": "ann@issuer.test", "level": 3, "realm": { "groups": ["staff", "all"] },
        })
    }

    fn with(&self, name: &str, value: Value) -> String {
        let mut claims = self.claims();
        claims[name] = value;
        self.key.token("k", &claims)
    }

    fn ask(&self, path: &str, token: &str) -> Reply {
        self.gateway.send(&Request::get(path).header("Authorization", &format!("Bearer {token}")))
    }
}

#[test]
fn a_bearer_is_known_by_the_issuers_keys() {
    let scene = scene();
    let token = scene.key.token("k", &scene.claims());
    let reply = scene.ask("/plain", &token).expect(200);
    assert_eq!(reply.echoed("x-credential-identifier").as_deref(), Some("s-1"));
    assert_eq!(reply.echoed("authorization"), Some(format!("Bearer {token}")));
    let spoofed = Request::get("/strict").header("Authorization", &format!("Bearer {token}"));
    let reply = scene.gateway.send(&spoofed.header("X-Email", "forged").header("X-Authenticated-Groups", "root"));
    let reply = reply.expect(200);
    assert_eq!(reply.echoed("authorization"), None, "hidden");
    assert_eq!(reply.echoed("x-email").as_deref(), Some("ann@issuer.test"));
    assert_eq!(reply.echoed("x-level").as_deref(), Some("3"));
    assert_eq!(reply.echoed("x-authenticated-groups").as_deref(), Some("staff, all"));
    let reply = scene.gateway.get(&format!("/strict?a=1&access_token={token}")).expect(200);
    assert_eq!(reply.echoed_uri(), "/?a=1", "hidden");
    let reply = scene.ask("/people", &scene.with("exp", json!(unix_seconds() - 30))).expect(200);
    assert_eq!(reply.echoed("x-consumer-username").as_deref(), Some("ann"), "within the leeway");
}

#[test]
fn refusals_say_little() {
    let scene = scene();
    let reply = scene.gateway.get("/plain").expect_compact(401, r#"{"message":"Unauthorized"}"#);
    assert_eq!(reply.header("www-authenticate"), Some("Bearer realm=\"localhost\""));
    let reply = scene.ask("/plain", "x.y.z").expect_compact(401, r#"{"message":"Unauthorized"}"#);
    assert_eq!(reply.header("www-authenticate"), Some("Bearer realm=\"localhost\", error=\"invalid_token\""));
    for (path, token, status) in [
        ("/plain", scene.with("iss", json!("http://localhost")), 401),
        ("/plain", scene.with("exp", json!(unix_seconds() - 30)), 401),
        ("/plain", scene.with("exp", Value::Null), 401),
        ("/plain", Signer::new("ES256").token("k", &scene.claims()), 401),
        ("/strict", scene.with("aud", json!("y")), 403),
        ("/strict", scene.with("scope", json!("read")), 403),
        ("/strict", scene.with("realm", json!({ "groups": ["all"] })), 403),
        ("/people", scene.with("user", json!("ann")), 403),
        ("/people", scene.with("user", json!(7)), 403),
    ] {
        let reply = scene.ask(path, &token);
        assert_eq!(reply.status, status, "{path}: {}", reply.text());
    }
    scene.ask("/strict", &scene.with("scope", json!("admin"))).expect(200);
    let two = Request::get("/plain").header("Authorization", &format!("Bearer {}", scene.with("sub", json!("a"))));
    scene.gateway.send(&two.header("Authorization", "Bearer x")).expect(401);
    assert_eq!(scene.upstream.count(), 1);
}

#[test]
fn a_key_is_enough_where_both_are_open() {
    let scene = scene();
    let who = |reply: Reply| reply.expect(200).echoed("x-consumer-username");
    assert_eq!(who(scene.gateway.get("/either")).as_deref(), Some("nobody"));
    assert_eq!(who(scene.gateway.get("/either?apikey=ann-key")).as_deref(), Some("ann"));
    assert_eq!(who(scene.ask("/either", &scene.with("sub", json!("s")))), None);
}

/// What the issuer says of somebody is not for the client to say, whoever lets the request through.
#[test]
fn a_clients_own_copies_never_pass() {
    let scene = scene();
    let bearer = format!("Bearer {}", scene.with("email", Value::Null));
    let mut preflight = Request::get("/either");
    preflight.method = "OPTIONS".to_owned();
    for (what, request, custom_id) in [
        ("a key", Request::get("/either").header("apikey", "ann-key"), Some("u-7")),
        ("nobody", Request::get("/either"), None),
        ("a bad token", Request::get("/either").header("Authorization", "Bearer x"), None),
        ("a preflight", preflight, None),
        ("a token without the claim", Request::get("/either").header("Authorization", &bearer), Some("u-7")),
    ] {
        let forged = ["X-Email", "X_Email", "x-EMAIL", "X-Consumer-Custom-ID"];
        let request = forged.iter().fold(request, |request, name| request.header(name, "forged"));
        let reply = scene.gateway.send(&request).expect(200);
        assert_eq!((reply.echoed("x-email"), reply.echoed("x_email")), (None, None), "{what}");
        assert_eq!(reply.echoed("x-consumer-custom-id").as_deref(), custom_id, "{what}");
    }
}

#[test]
fn keys_are_found_anew_and_a_false_issuer_is_not_believed() {
    let scene = scene();
    scene.ask("/strict", &scene.with("sub", json!("s"))).expect(200);
    let new = Signer::new("EdDSA");
    scene.issuer.publish(&[("new", &new)]);
    eventually("the new key opens", || scene.ask("/strict", &new.token("new", &scene.claims())).status == 200);
    let forged = Signer::new("ES256");
    scene.issuer.pretend("https://somebody.test");
    scene.issuer.publish(&[("forged", &forged)]);
    let (before, discovered) = (scene.upstream.count(), scene.issuer.discovered());
    eventually("the document is asked for again", || {
        scene.ask("/strict", &forged.token("forged", &scene.claims())).expect(401);
        scene.issuer.discovered() > discovered
    });
    for _ in 0..10 {
        scene.ask("/strict", &forged.token("forged", &scene.claims())).expect(401);
    }
    assert_eq!(scene.upstream.count(), before);
    scene.ask("/strict", &new.token("new", &scene.claims())).expect(200);
}

/// The first token of a new key waits for every set that it may be in.
#[test]
fn each_of_several_key_sets_is_asked_for_a_new_key() {
    let (upstream, old, new) = (Upstream::echo(), Signer::new("ES256"), Signer::new("ES256"));
    let (issuer, other) = (Issuer::new(&[("k", &old)]), Issuer::new(&[("other", &old)]));
    let text = upstream.fill(CONFIG).replace("@ISSUER@", &issuer.name());
    let more = format!("extra_jwks_uris: [{}], rediscovery_lifetime: 0", other.keys_at());
    let text = text.replacen("auth_methods: [bearer]", &format!("auth_methods: [bearer], {more}"), 1);
    let scene = Scene { gateway: Gateway::start(&text), upstream, issuer, key: old };
    scene.ask("/plain", &scene.with("sub", json!("s"))).expect(200);
    scene.ask("/plain", &scene.key.token("other", &scene.claims())).expect(200);
    other.publish(&[("new", &new)]);
    scene.ask("/plain", &new.token("new", &scene.claims())).expect(200);
    // A set that hangs holds nobody up whose key another one has.
    let newest = Signer::new("ES256");
    other.hang();
    scene.issuer.publish(&[("newest", &newest)]);
    let before = Instant::now();
    scene.ask("/plain", &newest.token("newest", &scene.claims())).expect(200);
    assert!(before.elapsed() < Duration::from_secs(5), "{:?}", before.elapsed());
}

#[test]
fn logins_are_refused_by_name() {
    let upstream = Upstream::echo();
    let text = upstream.fill(CONFIG).replace("@ISSUER@", "https://issuer.test");
    for methods in ["auth_methods: [session]", "auth_methods: [bearer, session]", "auth_methods: []", "timeout: 1"] {
        let exit = Setup::new(&text.replacen("auth_methods: [bearer]", methods, 1)).refuse();
        let words = "openid-connect with another `auth_methods` than [bearer]";
        assert!(exit.stderr.contains(words), "{methods}: {}", exit.stderr);
    }
    let exit = Setup::new(&text.replacen("https://issuer.test,", "ftp://issuer.test,", 1)).refuse();
    assert!(exit.stderr.contains("`issuer`: its scheme is neither http nor https"), "{}", exit.stderr);
}
