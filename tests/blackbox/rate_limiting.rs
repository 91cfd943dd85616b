//! rate-limiting, policy local: exact counts within a calendar window, Kong's headers, one budget
//! for each identity and for all workers together.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

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

#[test]
fn every_window_grants_its_limit_across_workers_and_reloads() {
    const LIMIT: u64 = 40;
    let upstream = Upstream::echo();
    let text = format!("{}\ngateway:\n  workers: 2\n", upstream.fill(CONFIG))
        .replace("config: { minute: 100 }", &format!("config: {{ second: {LIMIT} }}"));
    let gateway = Gateway::start(&text);
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                let mut client = gateway.connect();
                while !done.load(Ordering::Relaxed) {
                    client.get("/many");
                }
            });
        }
        for at in 0..20 {
            let (old, new) = (format!("/hidden{at}"), format!("/hidden{}", at + 1));
            gateway.reload(&text.replace("paths: [/hidden]", &format!("paths: [{new}]")), || {
                gateway.get(&new).status != 404 && gateway.get(&old).status == 404
            });
            // Several of them in each window.
            thread::sleep(Duration::from_millis(250));
        }
        done.store(true, Ordering::Relaxed);
    });
    // The log's time is the one that is counted by.
    let mut windows: BTreeMap<u64, [u64; 2]> = BTreeMap::new();
    for record in gateway.access_log().iter().filter(|record| record["uri"] == "/many") {
        let counts = windows.entry(record["time_ms"].as_u64().unwrap() / 1000).or_default();
        counts[usize::from(record["status"] != 200)] += 1;
    }
    let whole: Vec<[u64; 2]> = windows.into_values().collect();
    let whole = &whole[1..whole.len() - 1];
    assert!(whole.len() >= 4, "{whole:?}");
    let granted: u64 = whole.iter().map(|[granted, _]| granted).sum();
    assert!(whole.iter().all(|[_, refused]| *refused > 0), "every window was asked for more: {whole:?}");
    // A request that meets the next window already begun counts there, though it came before.
    assert!(whole.iter().all(|[granted, _]| granted.abs_diff(LIMIT) <= 2), "{whole:?}");
    assert!(granted.abs_diff(LIMIT * whole.len() as u64) <= 2, "{granted} in {} windows: {whole:?}", whole.len());
}

#[test]
fn an_ipv6_prefix_makes_neighbours_one_client() {
    let upstream = Upstream::echo();
    let text = upstream.fill(CONFIG).replace("config: { minute: 3 }", "config: { minute: 3, ipv6_prefix: 64 }");
    let gateway = Gateway::start(&format!("{text}\ngateway:\n  trusted_ips: [127.0.0.1]\n"));
    fresh_minute(15);
    let from = |target: &str, ip: &str| gateway.send(&Request::get(target).header("X-Real-IP", ip)).status;
    let statuses: Vec<u16> = (1..=4).map(|host| from("/minute", &format!("2001:db8::{host}"))).collect();
    assert_eq!(statuses, [200, 200, 200, 429]);
    assert_eq!(from("/minute", "2001:db8:0:1::1"), 200, "another network");
    // Without the key whole addresses count, as with Kong.
    assert_eq!(
        [from("/two", "2001:db8::1"), from("/two", "2001:db8::1"), from("/two", "2001:db8::1")],
        [200, 200, 429]
    );
    assert_eq!(from("/two", "2001:db8::2"), 200);
}

#[test]
fn the_drafts_fields_are_told_when_asked_for() {
    let upstream = Upstream::echo();
    let text = upstream
        .fill(CONFIG)
        .replace("config: { minute: 2, hour: 5 }", "config: { minute: 2, hour: 5, ietf_headers: true }");
    let gateway = Gateway::start(&text);
    fresh_minute(15);
    let reply = gateway.get("/two").expect(200);
    assert_eq!(reply.header("ratelimit-policy"), Some("\"minute\";q=2;w=60, \"hour\";q=5;w=3600"));
    let state = reply.header("ratelimit").unwrap();
    assert!(state.starts_with("\"minute\";r=1;t=") && state.contains(", \"hour\";r=4;t="), "{state}");
    assert!(reply.header("ratelimit-limit").is_none() && reply.header("x-ratelimit-limit-minute").is_none());
    gateway.get("/two").expect(200);
    assert!(gateway.get("/two").expect(429).number("retry-after") <= 60);
}
