//! API keys and tokens that are nearly right: only the exact one opens the door; nothing makes a 5xx.

use gateway_tests::deadline::{say, unix_seconds};
use gateway_tests::jwt::{Es256, base64url, hmac_token, hmac_token_with};
use gateway_tests::{Gateway, Request, Upstream};
use serde_json::{Value, json};

const KEYS: &str = r#"
_format_version: "3.0"
services:
- url: @UP@
  routes:
  - { paths: [/key], plugins: [{ name: key-auth }] }
consumers:
- username: alice
  keyauth_credentials: [{ key: Alice-Key-1 }, { key: second-key }]
"#;

#[test]
fn only_the_exact_key() {
    let upstream = Upstream::echo();
    let mut gateway = Gateway::start(&upstream.fill(KEYS));
    let long = "a".repeat(10_000);
    let values = [
        "",
        " ",
        "Alice-Key",
        "Alice-Key-12",
        "Alice-Key-1x",
        "xAlice-Key-1",
        "alice-key-1",
        "ALICE-KEY-1",
        "Alice-Key-1,",
        "Alice-Key-1, second-key",
        "Alice-Key-1;second-key",
        "\"Alice-Key-1\"",
        "'Alice-Key-1'",
        "Alice Key 1",
        "Alice_Key_1",
        "Alice-Key-1%00",
        "%41lice-Key-1",
        "QWxpY2UtS2V5LTE=",
        "Bearer Alice-Key-1",
        "Basic Alice-Key-1",
        "*",
        "%",
        "null",
        "undefined",
        "true",
        "0",
        "' OR '1'='1",
        "Alice-Key-1\t\tx",
        "${jndi:ldap://x}",
        "../../etc/passwd",
        "{}",
        "[]",
        "alice",
        &long,
    ];
    let mut count = 0;
    let mut no = |request: Request| {
        let reply = gateway.send(&request);
        assert!(
            matches!(reply.status, 400 | 401 | 403 | 431),
            "{:?} {:?}: {}",
            request.target,
            request.headers,
            reply.status
        );
        count += 1;
    };
    for value in values {
        no(Request::get("/key/x").header("apikey", value));
        if !value.contains([' ', '%', '\t', '"', '{', '}', '$', '\'']) {
            no(Request::get(&format!("/key/x?apikey={value}")));
        }
    }
    let good = "Alice-Key-1";
    for name in ["api_key", "api-key", "x-api-key", "apikey2", "authorization", "key", "token", "cookie"] {
        no(Request::get("/key/x").header(name, good));
    }
    for query in [
        "apikey[]=Alice-Key-1",
        "apikey[0]=Alice-Key-1",
        "apikey%00=Alice-Key-1",
        "x;apikey=Alice-Key-1",
        "APIKEY=",
        "apikey=&apikey=",
        "?apikey=Alice-Key-1",
        "x=1#apikey=Alice-Key-1",
    ] {
        no(Request::get(&format!("/key/x?{query}")));
    }
    no(Request::get("/key/x").header("apikey", "bad").header("apikey", good));
    no(Request::get("/key/x").header("apikey", good).header("apikey", "bad"));
    no(Request::get("/key/apikey=Alice-Key-1"));
    no(Request::post("/key/x", "apikey=Alice-Key-1").header("Content-Type", "application/x-www-form-urlencoded"));
    assert_eq!(upstream.count(), 0, "none passed");
    gateway.send(&Request::get("/key/x").header("apikey", good)).expect(200);
    gateway.send(&Request::get("/key/x?apikey=second-key")).expect(200);
    assert!(gateway.runs());
    say(&format!("CASES API keys: {count}"));
}

const TOKENS: &str = r#"
_format_version: "3.0"
services:
- url: @UP@
  routes:
  - { paths: [/jwt], plugins: [{ name: jwt, config: { claims_to_verify: [exp, nbf], cookie_names: [session] } }] }
consumers:
- username: ann
  jwt_secrets:
  - { key: ann-key, secret: ann-secret-of-more-than-32-bytes-abcdef }
  - { key: ann-es, algorithm: ES256, rsa_public_key: @PEM@ }
"#;

const SECRET: &[u8] = b"ann-secret-of-more-than-32-bytes-abcdef";

fn claims() -> Value {
    json!({ "iss": "ann-key", "exp": unix_seconds() + 600, "nbf": 1 })
}

/// A token of header and claims as they stand, signed well.
fn signed(header: &str, claims: &str) -> String {
    let good = hmac_token("HS256", &json!({}), SECRET);
    assert!(good.contains('.'));
    let text = format!("{}.{}", base64url(header), base64url(claims));
    let tag = aws_lc_rs::hmac::sign(&aws_lc_rs::hmac::Key::new(aws_lc_rs::hmac::HMAC_SHA256, SECRET), text.as_bytes());
    format!("{text}.{}", base64url(tag))
}

fn headers() -> Vec<(String, String)> {
    let body = claims().to_string();
    let mut out = Vec::new();
    for alg in [
        "none",
        "None",
        "NONE",
        "nOnE",
        "",
        "hs256",
        "Hs256",
        "HS256 ",
        "HS1",
        "HS257",
        "RS256",
        "ES256",
        "PS256",
        "EdDSA",
        "HS256,none",
        "ES256K",
        "null",
    ] {
        out.push((format!("alg {alg:?}"), signed(&format!("{{\"typ\":\"JWT\",\"alg\":\"{alg}\"}}"), &body)));
    }
    for header in [
        "{}",
        "[]",
        "null",
        "1",
        "\"x\"",
        "{",
        "",
        " ",
        "{\"alg\":null}",
        "{\"alg\":[\"HS256\"]}",
        "{\"alg\":{\"a\":1}}",
        "{\"alg\":256}",
        "{\"alg\":\"none\",\"alg\":\"HS256\"}",
        "{\"alg\":\"HS256\",\"alg\":\"none\"}",
        "{\"alg\":\"HS256\",\"alg\":\"HS256\"}",
        "{\"alg\":\"HS256\",\"crit\":[\"x\"],\"x\":1}",
        "{\"alg\":\"HS256\",\"crit\":[]}",
        "{\"alg\":\"HS256\",\"crit\":[\"exp\"],\"exp\":1}",
        "{\"alg\":\"HS256\",\"crit\":[\"b64\"],\"b64\":false}",
        "{\"alg\":\"HS256\",\"b64\":false}",
        "{\"alg\":\"HS256\",\"b64\":\"false\"}",
        "{\"alg\":\"HS256\",\"jwk\":{\"kty\":\"oct\",\"k\":\"AA\"}}",
        "{\"alg\":\"HS256\",\"jku\":\"http://127.0.0.1:1/\"}",
        "{\"alg\":\"HS256\",\"x5u\":\"http://127.0.0.1:1/\"}",
        "{\"alg\":\"HS256\",\"x5c\":[\"AA\"]}",
        "{\"alg\":\"HS256\",\"zip\":\"DEF\"}",
        "{\"alg\":\"HS256\",\"kid\":{\"a\":1}}",
        "{\"alg\":\"HS256\",\"kid\":1}",
        "{\"alg\":\"HS256\",\"typ\":1}",
        "{\"alg\":\"HS256\"}x",
        "{\"alg\":\"HS256\"}{}",
        "{\"alg\":\"HS256\",}",
        "{'alg':'HS256'}",
        "{\"alg\":\"HS256\"/**/}",
        "{\"\\u0061lg\":\"HS256\",\"alg\":\"none\"}",
    ] {
        out.push((format!("header {header}"), signed(header, &body)));
    }
    let deep = format!("{{\"alg\":\"HS256\",\"x\":{}{}}}", "[".repeat(5000), "]".repeat(5000));
    out.push(("a header of 5 000 levels".into(), signed(&deep, &body)));
    out
}

fn bodies() -> Vec<(String, String)> {
    let header = "{\"typ\":\"JWT\",\"alg\":\"HS256\"}";
    let now = unix_seconds();
    let mut out = Vec::new();
    let exp = now + 600;
    for exp in [
        "0",
        "-1",
        "1",
        "\"never\"",
        "true",
        "null",
        "[]",
        "{}",
        "1e-9",
        "-0",
        "\"9999999999\"",
        "[9999999999]",
        "NaN",
        "Infinity",
        "1e999",
    ] {
        out.push((format!("exp {exp}"), signed(header, &format!("{{\"nbf\":1,\"iss\":\"ann-key\",\"exp\":{exp}}}"))));
    }
    for (what, body) in [
        ("no exp", "{\"iss\":\"ann-key\",\"nbf\":1}".to_owned()),
        ("an exp of yesterday", format!("{{\"nbf\":1,\"iss\":\"ann-key\",\"exp\":{}}}", now - 86_400)),
        ("exp twice", format!("{{\"nbf\":1,\"iss\":\"ann-key\",\"exp\":1,\"exp\":{exp}}}")),
        ("exp twice, reversed", format!("{{\"nbf\":1,\"iss\":\"ann-key\",\"exp\":{exp},\"exp\":1}}")),
        ("nbf of tomorrow", format!("{{\"iss\":\"ann-key\",\"exp\":{exp},\"nbf\":{}}}", now + 86_400)),
        ("nbf of text", format!("{{\"iss\":\"ann-key\",\"exp\":{exp},\"nbf\":\"x\"}}")),
        ("no iss", format!("{{\"nbf\":1,\"exp\":{exp}}}")),
        ("an empty iss", format!("{{\"nbf\":1,\"iss\":\"\",\"exp\":{exp}}}")),
        ("another iss", format!("{{\"nbf\":1,\"iss\":\"eve\",\"exp\":{exp}}}")),
        ("a list for iss", format!("{{\"nbf\":1,\"iss\":[\"ann-key\"],\"exp\":{exp}}}")),
        ("an object for iss", format!("{{\"nbf\":1,\"iss\":{{\"a\":\"ann-key\"}},\"exp\":{exp}}}")),
        ("a number for iss", format!("{{\"nbf\":1,\"iss\":1,\"exp\":{exp}}}")),
        ("iss with a NUL", format!("{{\"nbf\":1,\"iss\":\"ann-key\\u0000\",\"exp\":{exp}}}")),
        ("iss in capitals", format!("{{\"nbf\":1,\"iss\":\"ANN-KEY\",\"exp\":{exp}}}")),
        ("iss twice", format!("{{\"nbf\":1,\"iss\":\"eve\",\"iss\":\"ann-key\",\"exp\":{exp}}}")),
        ("no object", "[]".into()),
        ("no JSON", "exp".into()),
        ("nothing", String::new()),
        (
            "5 000 levels",
            format!("{{\"nbf\":1,\"iss\":\"ann-key\",\"exp\":{exp},\"x\":{}{}}}", "[".repeat(2500), "]".repeat(2500)),
        ),
        ("200 KB", format!("{{\"nbf\":1,\"iss\":\"ann-key\",\"exp\":{exp},\"x\":\"{}\"}}", "a".repeat(150_000))),
    ] {
        out.push((what.to_owned(), signed(header, &body)));
    }
    out
}

fn signatures(es256: &Es256) -> Vec<(String, String)> {
    let good = hmac_token("HS256", &claims(), SECRET);
    let (text, tag) = good.rsplit_once('.').unwrap();
    let mut out = Vec::new();
    for (what, token) in [
        ("no signature", text.to_owned()),
        ("an empty signature", format!("{text}.")),
        ("a short signature", format!("{text}.{}", &tag[..tag.len() - 4])),
        ("a long signature", format!("{good}AAAA")),
        ("padding", format!("{good}=")),
        ("a dot behind", format!("{good}.")),
        ("a dot before", format!(".{good}")),
        ("four parts", format!("{good}.x")),
        ("five parts", format!("{good}.x.y")),
        ("blanks inside", format!("{text}. {tag}")),
        ("standard base64", format!("{text}.+{}", &tag[1..])),
        ("a percent sign", format!("{text}.%41{}", &tag[1..])),
        ("another secret", hmac_token("HS256", &claims(), b"other")),
        ("an empty secret", hmac_token("HS256", &claims(), b"\0")),
        ("HS512 for HS256", hmac_token("HS512", &claims(), SECRET)),
        ("the public key as a secret", {
            let claims = json!({ "iss": "ann-es", "exp": unix_seconds() + 600, "nbf": 1 });
            hmac_token("HS256", &claims, es256.public_pem().as_bytes())
        }),
        ("a signature of zeros", {
            let text = format!(
                "{}.{}",
                base64url(json!({ "alg": "ES256" }).to_string()),
                base64url(json!({ "iss": "ann-es", "exp": unix_seconds() + 600, "nbf": 1 }).to_string())
            );
            format!("{text}.{}", base64url([0u8; 64]))
        }),
        ("another's token", { Es256::new().token(&json!({ "iss": "ann-es", "exp": unix_seconds() + 600, "nbf": 1 })) }),
        ("a header changed", {
            let other = hmac_token_with(&json!({ "alg": "HS256", "x": 1 }), &claims(), b"other");
            format!("{}.{}", other.rsplit_once('.').unwrap().0, tag)
        }),
        ("JSON serialization", "{\"payload\":\"e30\",\"signatures\":[]}".to_owned()),
        ("rubbish", "x".to_owned()),
        ("dots", "..".to_owned()),
    ] {
        out.push((what.to_owned(), token));
    }
    // 32 bytes are 43 digits whose last two bits mean nothing: no other spelling of them is the signature.
    let digits = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let last = digits.iter().position(|digit| Some(digit) == tag.as_bytes().last()).unwrap();
    for bits in 1..4 {
        let other = char::from(digits[last ^ bits]);
        out.push((format!("loose bits {bits}"), format!("{text}.{}{other}", &tag[..tag.len() - 1])));
    }
    out
}

#[test]
fn only_a_good_token() {
    let upstream = Upstream::echo();
    let es256 = Es256::new();
    let pem = Value::String(es256.public_pem()).to_string();
    let mut gateway = Gateway::start(&upstream.fill(TOKENS).replace("@PEM@", &pem));
    let good = hmac_token("HS256", &claims(), SECRET);
    let bearer = |token: &str| Request::get("/jwt/x").header("Authorization", &format!("Bearer {token}"));
    gateway.send(&bearer(&good)).expect(200);
    gateway.send(&bearer(&es256.token(&json!({ "iss": "ann-es", "exp": unix_seconds() + 600, "nbf": 1 })))).expect(200);
    let before = upstream.count();
    let mut cases: Vec<(String, Request)> = Vec::new();
    for (what, token) in [headers(), bodies(), signatures(&es256)].concat() {
        cases.push((what, bearer(&token)));
    }
    let two = bearer(&good).header("Authorization", "Bearer x");
    cases.push(("two Authorization fields".into(), two));
    for scheme in ["Basic", "", "JWT", "Bearer,", "Token"] {
        let request = Request::get("/jwt/x").header("Authorization", &format!("{scheme} {good}"));
        cases.push((format!("scheme {scheme:?}"), request));
    }
    let mut wrong = Vec::new();
    for (what, request) in &cases {
        match gateway.connect().try_send(request) {
            Ok(reply) if matches!(reply.status, 400 | 401 | 403 | 431) => {}
            other => wrong.push(format!("{what}: {:?}", other.map(|reply| reply.status))),
        }
    }
    assert!(wrong.is_empty(), "{} of {}:\n{}", wrong.len(), cases.len(), wrong.join("\n"));
    assert_eq!(upstream.count(), before, "none passed");
    assert!(gateway.runs());
    say(&format!("CASES jwt tokens: {} accepted: 0", cases.len()));
}
