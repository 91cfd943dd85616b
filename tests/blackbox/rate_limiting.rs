//! rate-limiting, policy local: exact counts within a calendar window, Kong's headers, one budget
//! for each identity and for all workers together.

use std::thread;

use gateway_tests::deadline::unix_seconds;
use gateway_tests::{Gateway, Reply, Request, Upstream, fresh_minute, skip};

const CONFIG: &str = r#"
_format_version: "3.0"
services:
- name: echo
  url: @UP@
  routes:
  - name: minute
    paths: [/minute]
    plugins: [{ name: rate-limiting, config: { minute: 3 } }]
  - name: two
    paths: [/two]
    plugins: [{ name: rate-limiting, config: { minute: 2, hour: 5 } }]
  - name: hidden
    paths: [/hidden]
    plugins: [{ name: rate-limiting, config: { minute: 1, hide_client_headers: true } }]
  - name: worded
    paths: [/worded]
    plugins: [{ name: rate-limiting, config: { minute: 1, error_code: 503, error_message: later } }]
  - name: by-header
    paths: [/by-header]
    plugins: [{ name: rate-limiting, config: { minute: 1, limit_by: header, header_name: X-Tenant } }]
  - name: by-path
    paths: [/by-path]
    plugins: [{ name: rate-limiting, config: { minute: 1, limit_by: path, path: /by-path/counted } }]
  - name: by-consumer
    paths: [/by-consumer]
    plugins:
    - name: key-auth
    - { name: rate-limiting, config: { minute: 2 } }
  - name: many
    paths: [/many]
    plugins: [{ name: rate-limiting, config: { minute: 100 } }]
consumers:
- { username: ann, keyauth_credentials: [{ key: ann }, { key: ann-too }] }
- { username: bob, keyauth_credentials: [{ key: bob }] }
"#;

fn scene() -> (Upstream, Gateway) {
    let upstream = Upstream::echo();
    let gateway = Gateway::start(&upstream.fill(CONFIG));
    fresh_minute(15);
    (upstream, gateway)
}

#[test]
fn the_limit_is_exact_and_told() {
    let (upstream, gateway) = scene();
    let mut client = gateway.connect();
    for left in [2, 1, 0] {
        let reply = client.get("/minute").expect(200);
        assert_eq!(reply.number("x-ratelimit-limit-minute"), 3);
        assert_eq!(reply.number("x-ratelimit-remaining-minute"), left);
        assert_eq!(reply.number("ratelimit-limit"), 3);
        assert_eq!(reply.number("ratelimit-remaining"), left);
        let reset = reply.number("ratelimit-reset");
        let until_next = 60 - i64::try_from(unix_seconds() % 60).unwrap();
        assert!((reset - until_next).abs() <= 1, "reset {reset}, the minute ends in {until_next}");
        assert_eq!(reply.header("retry-after"), None);
    }
    let reply = client.get("/minute").expect_templated(429, "API rate limit exceeded");
    assert_eq!(reply.number("x-ratelimit-remaining-minute"), 0);
    assert_eq!(reply.number("ratelimit-remaining"), 0);
    assert_eq!(reply.number("retry-after"), reply.number("ratelimit-reset"));
    assert_eq!(upstream.count(), 3);
}

#[test]
fn the_tightest_window_is_the_one_told() {
    let (_upstream, gateway) = scene();
    let mut client = gateway.connect();
    let reply = client.get("/two").expect(200);
    assert_eq!(reply.number("ratelimit-limit"), 2);
    assert_eq!(reply.number("x-ratelimit-remaining-hour"), 4);
    client.get("/two").expect(200);
    let refused = client.get("/two").expect(429);
    // A request refused by the minute does not use up the hour.
    assert_eq!(refused.number("x-ratelimit-remaining-hour"), 3);
    assert!(refused.number("retry-after") <= 60);
}

#[test]
fn headers_status_and_words_can_be_changed() {
    let (_upstream, gateway) = scene();
    let names = ["x-ratelimit-limit-minute", "ratelimit-limit", "ratelimit-reset", "retry-after"];
    let silent = |reply: &Reply| names.iter().all(|name| reply.header(name).is_none());
    assert!(silent(&gateway.get("/hidden").expect(200)));
    assert!(silent(&gateway.get("/hidden").expect(429)));
    gateway.get("/worded").expect(200);
    gateway.get("/worded").expect_templated(503, "later");
}

#[test]
fn every_identity_has_its_own_budget() {
    let (_upstream, gateway) = scene();
    // Addresses.
    for last in [1, 2, 3] {
        let mut client = gateway.connect_from([127, 0, 0, last]);
        let statuses: Vec<u16> = (0..4).map(|_| client.get("/minute").status).collect();
        assert_eq!(statuses, [200, 200, 200, 429], "127.0.0.{last}");
    }
    // A header's value; without the header, the address.
    let tenant = |name: &str| gateway.send(&Request::get("/by-header").header("X-Tenant", name));
    tenant("red").expect(200);
    tenant("red").expect(429);
    tenant("blue").expect(200);
    gateway.get("/by-header").expect(200);
    gateway.get("/by-header").expect(429);
    // One path.
    gateway.get("/by-path/counted").expect(200);
    gateway.get("/by-path/counted").expect(429);
    // A consumer with all its keys.
    let key = |key: &str| gateway.send(&Request::get("/by-consumer").header("apikey", key));
    key("ann").expect(200);
    key("ann-too").expect(200);
    key("ann").expect(429);
    key("bob").expect(200);
    // A refused key uses up nothing, and is refused for what it is.
    key("nobody").expect(401);
}

#[test]
fn tricks_do_not_buy_a_new_budget() {
    let (_upstream, gateway) = scene();
    let mut client = gateway.connect();
    let mut passed = 0;
    for at in 0..12u32 {
        let address = format!("10.1.1.{at}");
        let request = Request::get(&format!("/minute/../minute?x={at}"))
            .header("X-Forwarded-For", &address)
            .header("X-Real-IP", &address)
            .header("Forwarded", &format!("for={address}"))
            .header("User-Agent", &address);
        passed += u32::from(client.send(&request).status == 200);
    }
    assert_eq!(passed, 3);
}

#[test]
fn workers_share_one_limit_exactly() {
    let upstream = Upstream::echo();
    let gateway = Gateway::start(&format!("{}\ngateway:\n  workers: 2\n", upstream.fill(CONFIG)));
    fresh_minute(20);
    let minute = unix_seconds() / 60;
    let threads: Vec<_> = (0..8)
        .map(|_| {
            let mut client = gateway.connect();
            thread::spawn(move || (0..25).filter(|_| client.get("/many").status == 200).count())
        })
        .collect();
    let passed: usize = threads.into_iter().map(|thread| thread.join().unwrap()).sum();
    if unix_seconds() / 60 != minute {
        skip("rate_limiting::workers_share_one_limit_exactly", "the minute ended during the test");
        return;
    }
    assert_eq!(passed, 100, "200 requests at once, 100 allowed");
}

#[test]
fn counters_survive_a_reload() {
    let (upstream, gateway) = scene();
    gateway.get("/minute").expect(200);
    gateway.get("/minute").expect(200);
    let text = upstream.fill(CONFIG).replace("paths: [/hidden]", "paths: [/renamed]");
    gateway.reload(&text, || gateway.get("/hidden").status == 404);
    gateway.get("/minute").expect(200);
    gateway.get("/minute").expect(429);
}
