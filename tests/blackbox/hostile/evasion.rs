//! Rate limits by address: no header, spelling or query makes a client another one.

use gateway_tests::deadline::say;
use gateway_tests::{Gateway, Request, Upstream, fresh_minute, h2};

const CONFIG: &str = r#"
_format_version: "3.0"
services:
- url: @UP@
  routes:
  - { paths: [/pub], strip_path: false }
plugins:
- { name: rate-limiting, config: { minute: 15, policy: local, limit_by: ip } }
"#;

type Vary = fn(usize) -> Request;

#[test]
fn a_client_stays_who_it_is() {
    let ways: [(&str, Vary); 12] = [
        ("X-Forwarded-For", |n| Request::get("/pub/x").header("X-Forwarded-For", &format!("10.0.0.{n}"))),
        ("X-Real-IP", |n| Request::get("/pub/x").header("X-Real-IP", &format!("10.0.0.{n}"))),
        ("Forwarded", |n| Request::get("/pub/x").header("Forwarded", &format!("for=10.0.0.{n}"))),
        ("User-Agent", |n| Request::get("/pub/x").header("User-Agent", &format!("agent-{n}"))),
        ("True-Client-IP", |n| Request::get("/pub/x").header("True-Client-IP", &format!("10.0.0.{n}"))),
        ("Via", |n| Request::get("/pub/x").header("Via", &format!("1.1 proxy-{n}"))),
        ("a query", |n| Request::get(&format!("/pub/x?n={n}"))),
        ("a path", |n| Request::get(&format!("/pub/{n}"))),
        ("dot segments", |n| Request::get(&format!("/pub/{}x", "./".repeat(n)))),
        ("slashes", |n| Request::get(&format!("/pub/{}x", "/".repeat(n)))),
        ("a Host", |n| Request::get("/pub/x").host(&format!("h{n}.test"))),
        ("a method", |n| Request::new(["GET", "HEAD", "OPTIONS", "DELETE"][n % 4], "/pub/x")),
    ];
    for (what, vary) in ways {
        fresh_minute(10);
        let upstream = Upstream::echo();
        let gateway = Gateway::start(&upstream.fill(CONFIG));
        let statuses: Vec<u16> = (0..30).map(|n| gateway.send(&vary(n)).status).collect();
        let passed = statuses.iter().filter(|status| **status == 200).count();
        assert!(passed <= 15 && upstream.count() <= 15, "{what}: {passed} of 30 passed");
        assert!(statuses.contains(&429), "{what}: {statuses:?}");
    }
    fresh_minute(10);
    let upstream = Upstream::echo();
    let gateway = Gateway::start(&upstream.fill(CONFIG));
    let many: Vec<Request> = (0..30).map(|n| Request::get(&format!("/pub/{n}"))).collect();
    let replies = h2::send_clear(gateway.proxy(), &many);
    assert!(replies.iter().filter(|reply| reply.status == 200).count() <= 15, "streams of HTTP/2");
    let told = gateway.get("/pub/x").expect(429);
    assert!(told.header("retry-after").is_some(), "{told:?}");
    say(&format!("CASES rate-limit evasion: {}", ways.len() + 2));
}
