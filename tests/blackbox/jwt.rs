//! jwt: which tokens open the door, what each refusal says, and tokens made to trick the check.

use gateway_tests::deadline::{eventually, unix_seconds};
use gateway_tests::jwt::{Es256, base64url, hmac_token, hmac_token_with, unsigned_token};
use gateway_tests::{Gateway, Reply, Request, Upstream};
use serde_json::{Value, json};

const CONFIG: &str = r#"
_format_version: "3.0"
services:
- name: echo
  url: @UP@
  routes:
  - { name: plain, paths: [/plain], plugins: [{ name: jwt }] }
  - name: checked
    paths: [/checked]
    plugins:
    - { name: jwt, config: { claims_to_verify: [exp, nbf], maximum_expiration: 3600, realm: api } }
  - name: places
    paths: [/places]
    plugins:
    - { name: jwt, config: { uri_param_names: [token], cookie_names: [session], header_names: [X-Token] } }
  - name: claim
    paths: [/claim]
    plugins:
    - { name: jwt, config: { key_claim_name: kid, run_on_preflight: false } }
  - name: anonymous
    paths: [/anonymous]
    plugins:
    - { name: jwt, config: { anonymous: nobody } }
  - name: base64
    paths: [/base64]
    plugins:
    - { name: jwt, config: { secret_is_base64: true } }
consumers:
- username: ann
  jwt_secrets:
  - { key: ann-key, secret: ann-secret }
  - { key: ann-384, secret: ann-secret, algorithm: HS384 }
  - { key: ann-es, algorithm: ES256, rsa_public_key: @PEM@ }
  - { key: ann-b64, secret: c2VjcmV0LWJ5dGVz }
  - { key: ann-text, secret: no base64! }
- username: nobody
"#;

struct Scene {
    upstream: Upstream,
    gateway: Gateway,
    es256: Es256,
}

fn scene() -> Scene {
    let upstream = Upstream::echo();
    let es256 = Es256::new();
    let pem = Value::String(es256.public_pem()).to_string();
    let gateway = Gateway::start(&upstream.fill(CONFIG).replace("@PEM@", &pem));
    Scene { upstream, gateway, es256 }
}

impl Scene {
    fn bearer(&self, path: &str, token: &str) -> Reply {
        self.gateway.send(&Request::get(path).header("Authorization", &format!("Bearer {token}")))
    }
}

fn good() -> String {
    hmac_token("HS256", &json!({ "iss": "ann-key" }), b"ann-secret")
}

#[test]
fn a_good_token_names_the_consumer() {
    let scene = scene();
    let tokens = [
        (good(), "ann-key"),
        (hmac_token("HS384", &json!({ "iss": "ann-384" }), b"ann-secret"), "ann-384"),
        (scene.es256.token(&json!({ "iss": "ann-es" })), "ann-es"),
    ];
    for (token, key) in tokens {
        let reply = scene.bearer("/plain", &token).expect(200);
        assert_eq!(reply.echoed("x-consumer-username").as_deref(), Some("ann"));
        assert_eq!(reply.echoed("x-credential-identifier").as_deref(), Some(key));
        assert_eq!(reply.echoed("authorization"), Some(format!("Bearer {token}")));
    }
    let token = hmac_token("HS256", &json!({ "iss": "ann-b64" }), b"secret-bytes");
    scene.bearer("/base64", &token).expect(200);
}

#[test]
fn tokens_are_found_where_configured() {
    let scene = scene();
    let token = good();
    let ask = |request: Request| scene.gateway.send(&request);
    ask(Request::get(&format!("/plain?jwt={token}"))).expect(200);
    ask(Request::get("/plain").header("Authorization", &format!("bearer {token}"))).expect(200);
    ask(Request::get(&format!("/places?token={token}"))).expect(200);
    ask(Request::get("/places").header("Cookie", &format!("a=b; session={token}"))).expect(200);
    ask(Request::get("/places").header("X-Token", &format!("Bearer {token}"))).expect(200);
    ask(Request::get("/places").header("Authorization", &format!("Bearer {token}"))).expect(401);
    // The same token twice is one token.
    let twice = Request::get(&format!("/plain?jwt={token}"));
    ask(twice.header("Authorization", &format!("Bearer {token}"))).expect(200);
    // The key may be in a claim or in the header of the token.
    let claim = hmac_token("HS256", &json!({ "kid": "ann-key" }), b"ann-secret");
    ask(Request::get(&format!("/claim?jwt={claim}"))).expect(200);
    let header = json!({ "alg": "HS256", "typ": "JWT", "kid": "ann-key" });
    let header = hmac_token_with(&header, &json!({}), b"ann-secret");
    ask(Request::get(&format!("/claim?jwt={header}"))).expect(200);
    ask(Request::new("OPTIONS", "/claim")).expect(200);
    ask(Request::new("OPTIONS", "/plain")).expect(401);
}

#[test]
fn each_refusal_says_why() {
    let scene = scene();
    let says = |reply: Reply, message: &str| {
        let body = json!({ "message": message }).to_string();
        let reply = reply.expect_compact(401, &body);
        reply.header("www-authenticate").unwrap_or_default().to_owned()
    };
    let invalid = "Bearer error=\"invalid_token\"";
    assert_eq!(says(scene.gateway.get("/plain"), "Unauthorized"), "Bearer");
    let realm = says(scene.gateway.get("/checked"), "Unauthorized");
    assert_eq!(realm, "Bearer realm=\"api\"");
    let sign = |claims: Value| hmac_token("HS256", &claims, b"ann-secret");
    let cases = [
        (sign(json!({ "iss": "stranger" })), "No credentials found for given 'iss'"),
        (sign(json!({ "sub": "ann-key" })), "No mandatory 'iss' in claims"),
        (sign(json!({ "iss": "" })), "Invalid 'iss' in claims"),
        (hmac_token("HS256", &json!({ "iss": "ann-key" }), b"other"), "Invalid signature"),
        (hmac_token("HS512", &json!({ "iss": "ann-key" }), b"ann-secret"), "Invalid algorithm"),
        ("x.y.z".to_owned(), "Bad token; invalid JSON"),
        (unsigned_token(&json!({ "iss": "ann-key" })), "Bad token; invalid alg"),
        (format!("{}.{}.eA", base64url(r#"{"alg":"HS256"}"#), base64url("[]")), "Bad token; invalid claims"),
        (good().rsplit_once('.').map(|(parts, _)| format!("{parts}.")).unwrap(), "Bad token; invalid signature"),
    ];
    for (token, message) in cases {
        assert_eq!(says(scene.bearer("/plain", &token), message), invalid);
    }
    let text = hmac_token("HS256", &json!({ "iss": "ann-text" }), b"no base64!");
    assert_eq!(says(scene.bearer("/base64", &text), "Invalid key/secret"), invalid);
    let two = Request::get(&format!("/plain?jwt={}", good()));
    let two = two.header("Authorization", &format!("Bearer {}", sign(json!({ "iss": "x" }))));
    assert_eq!(says(scene.gateway.send(&two), "Multiple tokens provided"), invalid);
    assert_eq!(scene.upstream.count(), 0);
}

#[test]
fn claims_of_time_are_checked() {
    let scene = scene();
    let now = unix_seconds();
    let ask = |claims: Value| {
        let token = hmac_token("HS256", &claims, b"ann-secret");
        scene.bearer("/checked", &token)
    };
    let iss = "ann-key";
    ask(json!({ "iss": iss, "exp": now + 60, "nbf": now - 60 })).expect(200);
    let cases = [
        (json!({ "iss": iss, "exp": now - 60, "nbf": now - 90 }), r#"{"exp":"token expired"}"#),
        (json!({ "iss": iss, "exp": now + 60, "nbf": now + 60 }), r#"{"nbf":"token not valid yet"}"#),
        (json!({ "iss": iss, "exp": now + 7200, "nbf": now - 60 }), r#"{"exp":"exceeds maximum allowed expiration"}"#),
        (json!({ "iss": iss, "exp": "soon", "nbf": now - 60 }), r#"{"exp":"must be a number"}"#),
    ];
    for (claims, body) in cases {
        let reply = ask(claims).expect_compact(401, body);
        let challenge = "Bearer realm=\"api\", error=\"invalid_token\"";
        assert_eq!(reply.header("www-authenticate"), Some(challenge));
    }
    // A claim that must be verified must be there.
    let missing = ask(json!({ "iss": iss, "nbf": now - 60 })).expect(401);
    assert_eq!(missing.json()["exp"], "must be a number");
    // Nobody asked for the check here.
    let token = hmac_token("HS256", &json!({ "iss": iss, "exp": 1 }), b"ann-secret");
    scene.bearer("/plain", &token).expect(200);
}

#[test]
fn forged_tokens_are_refused_and_never_forwarded() {
    let scene = scene();
    let claims = json!({ "iss": "ann-key" });
    let es_claims = json!({ "iss": "ann-es" });
    let parts = good();
    let [header, payload, signature]: [&str; 3] = parts.split('.').collect::<Vec<_>>().try_into().unwrap();
    let with = |header: Value| hmac_token_with(&header, &claims, b"ann-secret");
    let forged = [
        ("no signature needed", unsigned_token(&claims)),
        ("none in other letters", {
            let header = base64url(r#"{"alg":"nOnE","typ":"JWT"}"#);
            format!("{header}.{payload}.")
        }),
        ("the public key as a secret", { hmac_token("HS256", &es_claims, scene.es256.public_pem().as_bytes()) }),
        ("an empty signature", format!("{header}.{payload}.")),
        ("no third part", format!("{header}.{payload}")),
        ("a fourth part", format!("{parts}.x")),
        ("an empty payload", format!("{header}..{signature}")),
        ("a payload that is no object", { format!("{header}.{}.{signature}", base64url("[1]")) }),
        ("padding", format!("{header}.{payload}.{signature}=")),
        ("another last letter", {
            // Only the unused bits of the last letter differ.
            let last = signature.chars().last().unwrap();
            let twin = char::from_u32(last as u32 + 1).filter(char::is_ascii_alphanumeric);
            format!("{header}.{payload}.{}{}", &signature[..signature.len() - 1], twin.unwrap_or('-'))
        }),
        ("a critical extension", with(json!({ "alg": "HS256", "crit": ["exp"], "exp": 1 }))),
        ("an unencoded payload", with(json!({ "alg": "HS256", "b64": false, "crit": ["b64"] }))),
        ("a key of its own", with(json!({ "alg": "HS256", "jwk": { "kty": "oct", "k": "YQ" } }))),
        ("two algorithms", {
            let header = base64url(r#"{"alg":"none","alg":"HS256"}"#);
            format!("{header}.{payload}.{signature}")
        }),
        ("not a token", "x.y.z".to_owned()),
        ("nothing", String::new()),
    ];
    for (what, token) in forged {
        let reply = scene.bearer("/plain", &token);
        assert_eq!(reply.status, 401, "{what}: {}", reply.text());
    }
    let long = "a".repeat(100_000);
    let status = scene.bearer("/plain", &format!("{header}.{long}.{signature}")).status;
    assert!(matches!(status, 400 | 401 | 431), "{status} for a token of 100 kB");
    assert_eq!(scene.upstream.count(), 0);
    scene.bearer("/plain", &good()).expect(200);
}

/// A signature by a public key is checked once; what is remembered of it goes with the token's end and with its key.
#[test]
fn a_token_that_is_known_ends_all_the_same() {
    let upstream = Upstream::echo();
    let (first, second) = (Es256::new(), Es256::new());
    let text = |key: &Es256| upstream.fill(CONFIG).replace("@PEM@", &Value::String(key.public_pem()).to_string());
    let gateway = Gateway::start(&text(&first));
    let ask = |path: &str, token: &str| {
        gateway.send(&Request::get(path).header("Authorization", &format!("Bearer {token}"))).status
    };
    let short = first.token(&json!({ "iss": "ann-es", "exp": unix_seconds() + 2, "nbf": 1 }));
    let long = first.token(&json!({ "iss": "ann-es" }));
    let mut good = 0;
    eventually("the short one ends", || match ask("/checked", &short) {
        200 => {
            good += 1;
            false
        }
        status => status == 401,
    });
    assert!(good > 0, "it was good before");
    assert_eq!(ask("/plain", &long), 200);
    let (parts, signature) = long.rsplit_once('.').unwrap();
    let other = format!("{parts}.A{}", &signature[1..]);
    assert!(other == long || ask("/plain", &other) == 401);
    gateway.reload(&text(&second), || ask("/plain", &second.token(&json!({ "iss": "ann-es" }))) == 200);
    assert_eq!(ask("/plain", &long), 401, "its key is gone");
}

#[test]
fn anonymous_is_somebody_by_name() {
    let scene = scene();
    let reply = scene.gateway.get("/anonymous").expect(200);
    assert_eq!(reply.echoed("x-consumer-username").as_deref(), Some("nobody"));
    assert_eq!(reply.echoed("x-anonymous-consumer").as_deref(), Some("true"));
    let reply = scene.bearer("/anonymous", &good()).expect(200);
    assert_eq!(reply.echoed("x-consumer-username").as_deref(), Some("ann"));
    assert_eq!(reply.echoed("x-anonymous-consumer"), None);
}
