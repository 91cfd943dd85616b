//! oauth2-introspection: what is asked, how often, what becomes of each answer.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use gateway_tests::deadline::{eventually, unix_seconds};
use gateway_tests::upstream::Seen;
use gateway_tests::{Answer, Gateway, Reply, Request, Upstream};
use serde_json::json;

const CONFIG: &str = r#"
_format_version: "3.0"
services:
- name: echo
  url: @UP@
  routes:
  - name: plain
    paths: [/plain]
    plugins:
    - name: oauth2-introspection
      config: { introspection_url: @SERVER@/introspect, authorization_value: Basic c2VjcmV0, ttl: 60 }
  - name: more
    paths: [/more]
    plugins:
    - name: oauth2-introspection
      config:
        introspection_url: @SERVER@/introspect
        authorization_value: Basic c2VjcmV0
        token_type_hint: access_token
        introspect_request: true
        consumer_by: client_id
        custom_claims_forward: [level]
        custom_introspection_headers: { X-Tenant: a }
        hide_credentials: true
        timeout: 500
  - name: open
    paths: [/open]
    plugins:
    - name: oauth2-introspection
      config:
        introspection_url: @SERVER@/introspect
        authorization_value: x
        anonymous: nobody
        timeout: 500
        run_on_preflight: false
        custom_claims_forward: [level]
  - name: late
    paths: [/late]
    plugins:
    - name: oauth2-introspection
      config: { introspection_url: @SERVER@/introspect, authorization_value: x, timeout: 2000 }
consumers:
- { username: ann, custom_id: app-1 }
- username: nobody
"#;

/// An authorization server: what a token is worth stands in its name.
fn server() -> Upstream {
    Upstream::new(|seen: &Seen| {
        let form = String::from_utf8_lossy(&seen.body).into_owned();
        let token = form.split('&').find_map(|pair| pair.strip_prefix("token=")).unwrap_or_default();
        let reply = |value: serde_json::Value| Answer::reply(200, &[], value.to_string().as_bytes());
        match token {
            "good" | "slow" => {
                if token == "slow" {
                    thread::sleep(Duration::from_millis(200));
                }
                reply(json!({
                    "active": true, "username": "ann", "client_id": "app-1", "scope": "read", "level": 3,
                    "exp": unix_seconds() + 600,
                }))
            }
            "stranger" => reply(json!({ "active": true, "username": "eve", "sub": "s" })),
            "expired" => reply(json!({ "active": true, "username": "ann", "exp": 1 })),
            "words" => reply(json!({ "active": "true", "username": "ann" })),
            "list" => reply(json!([{ "active": true }])),
            "broken" => Answer::reply(200, &[], b"{\"active\":true"),
            "failure" => Answer::reply(500, &[], b"{\"active\":true}"),
            "huge" => {
                Answer::reply(200, &[], format!("{{\"active\":true,\"x\":\"{}\"}}", "x".repeat(1 << 20)).as_bytes())
            }
            "hang" => Answer::Hang,
            _ => reply(json!({ "active": false })),
        }
    })
}

fn scene() -> (Upstream, Upstream, Gateway) {
    let (upstream, server) = (Upstream::echo(), server());
    let gateway = Gateway::start(&upstream.fill(CONFIG).replace("@SERVER@", &format!("http://{}", server.address())));
    (upstream, server, gateway)
}

fn ask(gateway: &Gateway, path: &str, token: &str) -> Reply {
    gateway.send(&Request::get(path).header("Authorization", &format!("Bearer {token}")))
}

#[test]
fn a_good_token_is_asked_about_once() {
    let (_upstream, server, gateway) = scene();
    for _ in 0..5 {
        let request =
            Request::get("/plain").header("Authorization", "Bearer good").header("X-Credential-Sub", "forged");
        let reply = gateway.send(&request).expect(200);
        assert_eq!(reply.echoed("x-consumer-username").as_deref(), Some("ann"));
        assert_eq!(reply.echoed("x-credential-identifier").as_deref(), Some("ann"));
        assert_eq!(reply.echoed("x-credential-scope").as_deref(), Some("read"));
        assert_eq!(reply.echoed("x-credential-client-id").as_deref(), Some("app-1"));
        assert_eq!(reply.echoed("x-credential-sub"), None);
    }
    gateway.get("/plain?access_token=good").expect(200);
    let seen = server.seen();
    assert_eq!(seen.len(), 1);
    assert_eq!((seen[0].method.as_str(), seen[0].target.as_str()), ("POST", "/introspect"));
    assert_eq!(seen[0].header("authorization"), Some("Basic c2VjcmV0"));
    assert_eq!(seen[0].header("content-type"), Some("application/x-www-form-urlencoded"));
    assert_eq!(seen[0].body, b"token=good");
    assert!(seen[0].faults.is_empty(), "{:?}", seen[0].faults);
}

/// What the server says of a token is not for the client to say, also where nobody is asked.
#[test]
fn a_clients_own_copies_never_pass() {
    let (_upstream, _server, gateway) = scene();
    for method in ["GET", "OPTIONS"] {
        let mut request = Request::get("/open").header("X-Credential-Sub", "forged").header("X-Credential-Level", "9");
        request.method = method.to_owned();
        let reply = gateway.send(&request).expect(200);
        let told = ["x-credential-sub", "x-credential-level"].map(|name| reply.echoed(name));
        assert_eq!(told, [None, None], "{method}");
    }
}

#[test]
fn the_question_says_what_it_is_told_to() {
    let (_upstream, server, gateway) = scene();
    let reply = ask(&gateway, "/more/a?b=c", "good").expect(200);
    assert_eq!(reply.echoed("x-consumer-username").as_deref(), Some("ann"), "by its custom id");
    assert_eq!(reply.echoed("x-credential-level").as_deref(), Some("3"));
    assert_eq!(reply.echoed("authorization"), None);
    let seen = server.last();
    assert_eq!(seen.body, b"token=good&token_type_hint=access_token");
    assert_eq!(seen.header("x-request-path"), Some("/more/a"));
    assert_eq!(seen.header("x-request-http-method"), Some("GET"));
    assert_eq!(seen.header("x-tenant"), Some("a"));
    ask(&gateway, "/more/b", "good").expect(200);
    ask(&gateway, "/more/b", "good").expect(200);
    assert_eq!(server.count(), 2, "once for each path");
}

#[test]
fn what_is_not_active_is_refused_and_remembered() {
    let (upstream, server, gateway) = scene();
    let invalid = r#"{"error":"invalid_token","error_description":"The access token is invalid or has expired"}"#;
    for token in ["bad", "words", "expired", "good2"] {
        for _ in 0..3 {
            let reply = ask(&gateway, "/plain", token).expect_compact(401, invalid);
            let challenge = "Bearer realm=\"service\", error=\"invalid_token\"";
            assert_eq!(reply.header("www-authenticate"), Some(challenge));
        }
    }
    // What is over is not remembered for longer.
    assert!((4..=6).contains(&server.count()), "{}", server.count());
    let missing = r#"{"error":"invalid_request","error_description":"The access token is missing"}"#;
    let reply = gateway.get("/plain").expect_compact(401, missing);
    assert_eq!(reply.header("www-authenticate"), Some("Bearer realm=\"service\""));
    gateway.get("/plain?access_token=").expect(401);
    ask(&gateway, "/plain?access_token=good", "stranger").expect(401);
    ask(&gateway, "/plain", &"x".repeat(9000)).expect(401);
    assert_eq!(upstream.count(), 0);
    let reply = ask(&gateway, "/plain", "stranger").expect(200);
    assert_eq!(reply.echoed("x-consumer-username"), None);
    assert_eq!(reply.echoed("x-credential-sub").as_deref(), Some("s"));
}

#[test]
fn a_server_that_fails_lets_nobody_in() {
    let (upstream, server, gateway) = scene();
    for token in ["list", "broken", "failure", "huge", "hang"] {
        let reply = ask(&gateway, "/more", token).expect(503);
        assert_eq!(reply.header("retry-after"), Some("1"), "{token}");
    }
    let reply = ask(&gateway, "/open", "failure").expect(200);
    assert_eq!(reply.echoed("x-consumer-username").as_deref(), Some("nobody"));
    assert_eq!(upstream.count(), 1);
    drop(server);
    ask(&gateway, "/more", "good").expect(503);
}

/// Some servers want their client's secret in the query.
#[test]
fn what_the_url_asks_is_not_logged() {
    let (upstream, server) = (Upstream::echo(), server());
    let text = upstream.fill(CONFIG).replace("@SERVER@/introspect", "@SERVER@/introspect?client_secret=hush");
    let keys =
        "- { name: keys, paths: [/keys], plugins: [{ name: jwt, config: { jwks_uri: '@SERVER@/keys?a=hush' } }] }";
    let text = text.replace("consumers:", &format!("  {keys}\nconsumers:"));
    let gateway = Gateway::start(&text.replace("@SERVER@", &format!("http://{}", server.address())));
    ask(&gateway, "/plain", "good").expect(200);
    ask(&gateway, "/plain", "failure").expect(503);
    gateway.access_record(|record| record["status"] == 503);
    eventually("both failures are told", || {
        let said = gateway.stdout() + &gateway.stderr();
        ["/introspect", "/keys"].iter().all(|path| said.contains(&format!("{}{path}", server.address())))
    });
    let said = gateway.stdout() + &gateway.stderr();
    assert!(!said.contains("hush"), "{said}");
    assert!(server.seen().iter().any(|seen| seen.target == "/introspect?client_secret=hush"), "it is asked");
}

#[test]
fn many_with_one_token_ask_once() {
    let (_upstream, server, gateway) = scene();
    let good = Arc::new(AtomicUsize::new(0));
    thread::scope(|scope| {
        for _ in 0..20 {
            let (good, gateway) = (Arc::clone(&good), &gateway);
            scope.spawn(move || {
                if ask(gateway, "/plain", "slow").status == 200 {
                    good.fetch_add(1, Ordering::SeqCst);
                }
            });
        }
    });
    assert_eq!(good.load(Ordering::SeqCst), 20);
    assert_eq!(server.count(), 1);
}

#[test]
fn whoever_goes_away_leaves_the_question_to_the_next() {
    let (_upstream, server, gateway) = scene();
    let mut first = gateway.connect();
    first.write(b"GET /plain HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer slow\r\n\r\n").unwrap();
    eventually("it is asked", || server.connections() > 0);
    drop(first);
    ask(&gateway, "/plain", "slow").expect(200);
}

/// Who waited for another's answer has no more time than he had when that one goes away.
#[test]
fn nobody_waits_for_longer_than_the_timeout() {
    let (_upstream, server, gateway) = scene();
    let mut first = gateway.connect();
    first.write(b"GET /late HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer hang\r\n\r\n").unwrap();
    eventually("it is asked", || server.connections() > 0);
    thread::scope(|scope| {
        let second = scope.spawn(|| {
            let began = Instant::now();
            ask(&gateway, "/late", "hang").expect(503);
            began.elapsed()
        });
        first.patience(Duration::from_millis(1500));
        assert!(first.read_head().is_err(), "it hangs");
        drop(first);
        let waited = second.join().unwrap();
        assert!(waited < Duration::from_millis(2900), "{waited:?}");
    });
}
