//! hmac-auth: signed requests over real sockets, with a date of now, and what a refusal says.

use std::time::SystemTime;

use aws_lc_rs::{digest, hmac};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use gateway_tests::{Gateway, Request, Upstream};

const CONFIG: &str = r#"
_format_version: "3.0"
services:
- name: echo
  url: @UP@
  routes:
  - { name: plain, paths: [/plain], plugins: [{ name: hmac-auth }] }
  - name: strict
    paths: [/strict]
    plugins:
    - name: hmac-auth
      config:
        enforce_headers: [date, request-line, digest]
        algorithms: [hmac-sha256]
        validate_request_body: true
        hide_credentials: true
        realm: vault
  - { name: open, paths: [/open], plugins: [{ name: hmac-auth, config: { anonymous: nobody } }] }
consumers:
- username: alice
  hmacauth_credentials:
  - { username: al, secret: open sesame }
- username: nobody
"#;

fn now() -> String {
    httpdate::fmt_http_date(SystemTime::now())
}

fn credentials(headers: &str, text: &str, secret: &str) -> String {
    let tag = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, secret.as_bytes()), text.as_bytes());
    let tag = STANDARD.encode(tag);
    format!("hmac username=\"al\", algorithm=\"hmac-sha256\", headers=\"{headers}\", signature=\"{tag}\"")
}

#[test]
fn a_signature_names_the_consumer() {
    let upstream = Upstream::echo();
    let gateway = Gateway::start(&upstream.fill(CONFIG));
    let date = now();
    let value = credentials("date request-line", &format!("date: {date}\nGET /plain?a=%41 HTTP/1.1"), "open sesame");
    for (field, dated) in [("Authorization", "Date"), ("Proxy-Authorization", "Date")] {
        let request = Request::get("/plain?a=%41").header(dated, &date).header(field, &value);
        let reply = gateway.send(&request).expect(200);
        assert_eq!(reply.echoed("x-consumer-username").as_deref(), Some("alice"));
        assert_eq!(reply.echoed("x-credential-identifier").as_deref(), Some("al"));
    }
    let value = credentials("x-date", &format!("x-date: {date}"), "open sesame");
    let request = Request::get("/plain").header("X-Date", &date).header("Date", "yesterday");
    gateway.send(&request.header("Authorization", &value)).expect(200);
    assert_eq!(gateway.get("/open").expect(200).echoed("x-consumer-username").as_deref(), Some("nobody"));
}

#[test]
fn a_body_is_signed_by_its_digest() {
    let upstream = Upstream::echo();
    let gateway = Gateway::start(&upstream.fill(CONFIG));
    let date = now();
    let ask = |body: &str, signed_body: &str| {
        let digest = format!("SHA-256={}", STANDARD.encode(digest::digest(&digest::SHA256, signed_body.as_bytes())));
        let text = format!("date: {date}\nPOST /strict HTTP/1.1\ndigest: {digest}");
        let value = credentials("date request-line digest", &text, "open sesame");
        let request = Request::post("/strict", body).header("Date", &date).header("Digest", &digest);
        gateway.send(&request.header("Authorization", &value))
    };
    let reply = ask("{\"a\":1}", "{\"a\":1}").expect(200);
    assert_eq!(reply.echoed("authorization"), None, "hidden");
    let reply = ask("{\"a\":2}", "{\"a\":1}").expect_templated(401, "HMAC signature does not match");
    assert_eq!(reply.header("www-authenticate"), Some("hmac realm=\"vault\""));
    assert_eq!(upstream.count(), 1);
}

#[test]
fn each_refusal_says_why() {
    let upstream = Upstream::echo();
    let gateway = Gateway::start(&upstream.fill(CONFIG));
    let date = now();
    let reply = gateway.get("/plain").expect_templated(401, "Unauthorized");
    assert_eq!(reply.header("www-authenticate"), Some("hmac"));
    let good = credentials("date", &format!("date: {date}"), "open sesame");
    let unverified = "HMAC signature cannot be verified";
    let old = "Sun, 06 Nov 1994 08:49:37 GMT";
    let no_date = format!("{unverified}, a valid date or x-date header is required for HMAC Authentication");
    let wrong = credentials("date", &format!("date: {date}"), "open barley");
    for (path, date, value, message) in [
        ("/plain", &*date, "hmac x", unverified),
        ("/plain", &*date, &good.replace("\"al\"", "\"bo\""), unverified),
        ("/plain", &*date, &wrong, "HMAC signature does not match"),
        ("/plain", old, &good, &no_date),
        ("/plain", "", &good, &no_date),
        // `request-line` and `digest` must be signed here.
        ("/strict", &*date, &good, unverified),
    ] {
        let request = Request::get(path).header("Date", date).header("Authorization", value);
        gateway.send(&request).expect_templated(401, message);
    }
    assert_eq!(upstream.count(), 0);
}
