//! rate-limiting-advanced: windows of any length, fixed and sliding, exact for all workers and for gateways that share them
//! through Redis, and what becomes of counts when Redis or the gateway goes.

use std::collections::BTreeSet;
use std::thread;

use gateway_tests::deadline::unix_seconds;
use gateway_tests::fleet::calls;
use gateway_tests::{Gateway, Redis, Reply, Request, Upstream, eventually, fresh_minute, skip};

/// One route for each `config`, `/0`, `/1` ….
fn routes(configs: &[&str]) -> String {
    let mut text = "_format_version: \"3.0\"\nservices:\n- name: echo\n  url: @UP@\n  routes:\n".to_owned();
    for (at, config) in configs.iter().enumerate() {
        text += &format!(
            "  - name: r{at}\n    id: 00000000-0000-4000-8000-00000000000{at}\n    paths: [/{at}]\n    plugins: \
             [{{ name: rate-limiting-advanced, config: {{ {config} }} }}]\n"
        );
    }
    text
}

fn started(configs: &[&str]) -> (Upstream, Gateway) {
    let upstream = Upstream::echo();
    let gateway = Gateway::start(&upstream.fill(&routes(configs)));
    (upstream, gateway)
}

/// By Redis, which is told of every request, or at an interval.
fn shared(redis: &Redis, more: &str) -> String {
    format!("strategy: redis, redis: {{ host: 127.0.0.1, port: {}, read_timeout: 500 }}, {more}", redis.port())
}

fn statuses(gateway: &Gateway, target: &str, count: usize) -> Vec<u16> {
    let mut client = gateway.connect();
    (0..count).map(|_| client.get(target).status).collect()
}

/// Whether an hour goes on for long enough.
fn fresh_hour(name: &str) -> bool {
    let fresh = 3600 - unix_seconds() % 3600 > 30;
    if !fresh {
        skip(&format!("rate_limiting_advanced::{name}"), "the hour ends");
    }
    fresh
}

#[test]
fn several_windows_hold_at_once_and_are_told() {
    let (upstream, gateway) =
        started(&["limit: [5, 2], window_size: [86400, 7200], window_type: fixed, identifier: ip"]);
    if 7200 - unix_seconds() % 7200 < 30 {
        skip("rate_limiting_advanced::several_windows_hold_at_once_and_are_told", "the window ends");
        return;
    }
    let mut client = gateway.connect();
    for left in [1, 0] {
        let reply = client.get("/0").expect(200);
        assert_eq!((reply.number("x-ratelimit-limit-7200"), reply.number("x-ratelimit-remaining-7200")), (2, left));
        assert_eq!((reply.number("x-ratelimit-limit-day"), reply.number("x-ratelimit-remaining-day")), (5, left + 3));
        assert_eq!((reply.number("ratelimit-limit"), reply.number("ratelimit-remaining")), (2, left));
        let rest = 7200 - i64::try_from(unix_seconds() % 7200).unwrap();
        assert!((reply.number("ratelimit-reset") - rest).abs() <= 1);
        assert_eq!(reply.header("retry-after"), None);
    }
    let reply = client.get("/0").expect_templated(429, "API rate limit exceeded");
    assert_eq!(reply.number("retry-after"), reply.number("ratelimit-reset"));
    assert_eq!(reply.number("x-ratelimit-remaining-day"), 3, "refused, it is counted in no window");
    assert_eq!(upstream.count(), 2);
}

#[test]
fn a_sliding_window_says_when_there_is_room_again() {
    if !fresh_hour("a_sliding_window_says_when_there_is_room_again") {
        return;
    }
    let of = |more: &str| format!("limit: [3], window_size: [3600], identifier: ip{more}");
    let (_upstream, gateway) = started(&[&of(", disable_penalty: true"), &of("")]);
    let refused = |target: &str| {
        let mut client = gateway.connect();
        let replies: Vec<Reply> = (0..6).map(|_| client.get(target)).collect();
        assert_eq!(replies.iter().map(|reply| reply.status).collect::<Vec<_>>(), [200, 200, 200, 429, 429, 429]);
        let rest = 3600 - i64::try_from(unix_seconds() % 3600).unwrap();
        replies[5].number("retry-after") - rest
    };
    // Of the three, two thirds may still be in view in the hour that follows; of six, a third.
    assert!((refused("/0") - 1200).abs() <= 2);
    assert!((refused("/1") - 2400).abs() <= 2, "those who were refused count");
}

#[test]
fn words_status_headers_and_jitter_can_be_set() {
    let one = "limit: [1], window_size: [3600], identifier: ip";
    let hidden = format!("{one}, hide_client_headers: true, error_code: 503, error_message: later");
    let (_upstream, gateway) = started(&[&hidden, &format!("{one}, retry_after_jitter_max: 1000")]);
    if !fresh_hour("words_status_headers_and_jitter_can_be_set") {
        return;
    }
    let names = ["x-ratelimit-limit-hour", "ratelimit-limit", "ratelimit-reset", "retry-after"];
    let silent = |reply: &Reply| names.iter().all(|name| reply.header(name).is_none());
    assert!(silent(&gateway.get("/0").expect(200)));
    assert!(silent(&gateway.get("/0").expect_templated(503, "later")));
    gateway.get("/1").expect(200);
    let waits: BTreeSet<i64> = (0..8)
        .map(|_| {
            let reply = gateway.get("/1").expect(429);
            reply.number("retry-after") - reply.number("ratelimit-reset")
        })
        .collect();
    assert!(waits.len() > 1 && waits.iter().all(|more| (0..=1000).contains(more)), "{waits:?}");
}

#[test]
fn all_workers_share_one_limit_exactly() {
    if !fresh_hour("all_workers_share_one_limit_exactly") {
        return;
    }
    let upstream = Upstream::echo();
    let config = "limit: [150, 1000], window_size: [3600, 86400], identifier: ip, disable_penalty: true";
    let gateway = Gateway::start(&format!("{}gateway:\n  workers: 4\n", upstream.fill(&routes(&[config]))));
    let passed: usize = thread::scope(|scope| {
        let each = || statuses(&gateway, "/0", 50).iter().filter(|status| **status == 200).count();
        let threads: Vec<_> = (0..8).map(|_| scope.spawn(each)).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).sum()
    });
    assert_eq!(passed, 150);
    assert_eq!(gateway.get("/0").expect(429).number("x-ratelimit-remaining-day"), 850);
}

#[test]
fn identities_alone_and_taken_together() {
    let one = "limit: [1], window_size: [3600]";
    let (_upstream, gateway) = started(&[
        &format!("{one}, identifier: header, header_name: X-Tenant"),
        &format!("{one}, compound_identifier: [ip, header], header_name: X-Tenant"),
        &format!("{one}, identifier: route, namespace: r"),
    ]);
    if !fresh_hour("identities_alone_and_taken_together") {
        return;
    }
    let send = |last: u8, target: &str, tenant: &str| {
        gateway.connect_from([127, 0, 0, last]).send(&Request::get(target).header("X-Tenant", tenant)).status
    };
    assert_eq!([send(1, "/0", "red"), send(2, "/0", "red"), send(1, "/0", "blue")], [200, 429, 200]);
    let both = [send(1, "/1", "red"), send(1, "/1", "red"), send(2, "/1", "red"), send(1, "/1", "blue")];
    assert_eq!(both, [200, 429, 200, 200]);
    assert_eq!([send(1, "/2", "red"), send(2, "/2", "blue")], [200, 429], "a route is one");
}

const TIERS: &str = r#"
_format_version: "3.0"
services:
- name: echo
  url: @UP@
  plugins: [{ name: key-auth }]
  routes: [{ name: all, paths: [/] }]
plugins:
- { name: rate-limiting-advanced, config: { limit: [1], window_size: [3600] } }
consumer_groups:
- name: gold
  plugins: [{ name: rate-limiting-advanced, config: { limit: [3], window_size: [3600] } }]
- name: pool
  plugins: [{ name: rate-limiting-advanced, config: { limit: [2], window_size: [3600], identifier: consumer-group } }]
consumers:
- { username: ann, groups: [gold], keyauth_credentials: [{ key: ann }] }
- { username: ben, groups: [pool], keyauth_credentials: [{ key: ben }] }
- { username: cyd, groups: [pool], keyauth_credentials: [{ key: cyd }] }
- { username: dan, keyauth_credentials: [{ key: dan }] }
"#;

#[test]
fn consumer_groups_are_tiers_or_share_one_limit() {
    let upstream = Upstream::echo();
    let gateway = Gateway::start(&upstream.fill(TIERS));
    if !fresh_hour("consumer_groups_are_tiers_or_share_one_limit") {
        return;
    }
    let send = |key: &str| gateway.send(&Request::get("/").header("apikey", key)).status;
    assert_eq!(["ann", "ann", "ann", "ann"].map(send), [200, 200, 200, 429]);
    assert_eq!(["ben", "cyd", "ben", "cyd"].map(send), [200, 200, 429, 429]);
    assert_eq!(["dan", "dan"].map(send), [200, 429]);
}

#[test]
fn counters_outlive_a_reload() {
    let upstream = Upstream::echo();
    let text =
        |limit: u32| upstream.fill(&routes(&[&format!("limit: [{limit}], window_size: [3600], namespace: shop")]));
    let gateway = Gateway::start(&text(2));
    if !fresh_hour("counters_outlive_a_reload") {
        return;
    }
    assert_eq!(statuses(&gateway, "/0", 2), [200, 200]);
    gateway.reload(&text(3), || gateway.get("/0").header("ratelimit-limit") == Some("3"));
    gateway.get("/0").expect(429);
}

#[test]
fn gateways_share_exact_windows_through_redis() {
    let (redis, upstream) = (Redis::start(), Upstream::echo());
    let config = shared(
        &redis,
        "limit: [40, 60], window_size: [3600, 86400], identifier: ip, namespace: shop, \
                                 disable_penalty: true",
    );
    let text = upstream.fill(&routes(&[&config]));
    let gateways = [Gateway::start(&text), Gateway::start(&text)];
    if !fresh_hour("gateways_share_exact_windows_through_redis") {
        return;
    }
    let passed: usize = thread::scope(|scope| {
        let each = |gateway: &Gateway| statuses(gateway, "/0", 20).iter().filter(|status| **status == 200).count();
        let threads: Vec<_> = gateways.iter().cycle().take(6).map(|g| scope.spawn(move || each(g))).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).sum()
    });
    assert_eq!(passed, 40);
    for gateway in &gateways {
        let reply = gateway.get("/0").expect(429);
        assert_eq!(reply.number("x-ratelimit-remaining-day"), 20, "refused, it counts nowhere");
    }
    let key = format!("ratelimit-advanced:shop:127.0.0.1:{}:3600", unix_seconds() / 3600 * 3600);
    assert_eq!(redis.say(&["GET", &key]), ["40"]);
    let life: u64 = redis.say(&["TTL", &key])[0].parse().unwrap();
    assert!((3600..=7210).contains(&life), "it is in view for an hour more: {life}");
    // Who is denied for long asks nobody.
    let before = redis.calls("evalsha");
    assert_eq!(statuses(&gateways[0], "/0", 20), [429; 20]);
    assert_eq!(redis.calls("evalsha"), before);
}

#[test]
fn what_others_used_before_counts_where_windows_slide() {
    let (redis, upstream) = (Redis::start(), Upstream::echo());
    let of = |kind: &str| {
        shared(
            &redis,
            &format!("limit: [10], window_size: [3600], identifier: ip, namespace: {kind}, window_type: {kind}"),
        )
    };
    let gateway = Gateway::start(&upstream.fill(&routes(&[&of("sliding"), &of("fixed")])));
    if !fresh_hour("what_others_used_before_counts_where_windows_slide") {
        return;
    }
    let before = unix_seconds() / 3600 * 3600 - 3600;
    for kind in ["sliding", "fixed"] {
        redis.say(&["SET", &format!("ratelimit-advanced:{kind}:127.0.0.1:{before}:3600"), "1000000"]);
    }
    gateway.get("/0").expect(429);
    gateway.get("/1").expect(200);
}

#[test]
fn counts_are_brought_together_at_an_interval_and_when_the_gateway_ends() {
    let (redis, upstream) = (Redis::start(), Upstream::echo());
    let of = |every: &str| {
        let config = format!("limit: [50], window_size: [3600], identifier: ip, namespace: shop, sync_rate: {every}");
        upstream.fill(&routes(&[&shared(&redis, &config)]))
    };
    let gateway = Gateway::start(&of("0.1"));
    let mut slow = Gateway::start(&of("3600"));
    if !fresh_hour("counts_are_brought_together_at_an_interval_and_when_the_gateway_ends") {
        return;
    }
    assert_eq!(statuses(&gateway, "/0", 10), [200; 10]);
    let key = format!("ratelimit-advanced:shop:127.0.0.1:{}:3600", unix_seconds() / 3600 * 3600);
    eventually("Redis knows", || redis.say(&["GET", &key]) == ["10"]);
    let made = calls(&gateway);
    assert!(made < 8, "{made} calls for ten requests");
    // The first request of the slow one is told at once, the others an hour later.
    assert_eq!(statuses(&slow, "/0", 20), [200; 20]);
    slow.sigterm();
    assert!(slow.wait(std::time::Duration::from_secs(20)).is_some_and(|status| status.success()));
    assert_eq!(redis.say(&["GET", &key]), ["30"]);
    eventually("the other learns of it", || gateway.get("/0").expect(200).number("ratelimit-remaining") < 20);
}

#[test]
fn without_redis_a_gateway_counts_alone_and_tells_it_later() {
    let (mut redis, upstream) = (Redis::start(), Upstream::echo());
    for more in ["sync_rate: 0", "sync_rate: 0.1"] {
        redis.restart();
        let config =
            format!("limit: [6], window_size: [3600], identifier: ip, namespace: shop, disable_penalty: true, {more}");
        let gateway = Gateway::start(&upstream.fill(&routes(&[&shared(&redis, &config)])));
        if !fresh_hour("without_redis_a_gateway_counts_alone_and_tells_it_later") {
            return;
        }
        let key = format!("ratelimit-advanced:shop:127.0.0.1:{}:3600", unix_seconds() / 3600 * 3600);
        assert_eq!(statuses(&gateway, "/0", 2), [200; 2]);
        eventually("Redis knows", || redis.say(&["GET", &key]) == ["2"]);
        redis.kill();
        eventually("it is missed", || gateway.stderr().contains("Redis is lost"));
        assert_eq!(statuses(&gateway, "/0", 6), [200, 200, 200, 200, 429, 429], "{more}: it goes on from what it knew");
        redis.restart();
        eventually("it is there again", || gateway.stderr().matches("Redis is reached").count() >= 2);
        let told = || {
            gateway.get("/0");
            redis.say(&["GET", &key])[0].parse().is_ok_and(|known: u64| (4..=6).contains(&known))
        };
        eventually("what it missed is told", told);
    }
}

#[test]
fn a_second_is_a_window_too() {
    let (_upstream, gateway) = started(&["limit: [5], window_size: [1], identifier: ip, disable_penalty: true"]);
    fresh_minute(15);
    let mut client = gateway.connect();
    let mut granted = 0;
    let begun = unix_seconds();
    while granted < 12 {
        let reply = client.get("/0");
        granted += u64::from(reply.status == 200);
        assert_eq!(reply.number("x-ratelimit-limit-second"), 5);
    }
    // A sliding window grants little more than its limit in any second: what is counted wholly and what slides out.
    let seconds = unix_seconds() - begun + 1;
    assert!(granted <= 5 * (seconds + 1), "{granted} in {seconds} s");
}
