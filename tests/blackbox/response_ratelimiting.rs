//! response-ratelimiting: what the upstream says was used, counted here and in Redis, and refused when nothing is left.

use gateway_tests::{Answer, Gateway, Redis, Upstream, eventually, fresh_minute};

fn config(upstream: &Upstream, more: &str) -> String {
    let text = "_format_version: \"3.0\"\nservices:\n- name: up\n  url: @UP@\n  routes:\n  - { name: r, paths: [/] }\n  plugins:\n  \
         - { name: response-ratelimiting, config: { limits: { video: { minute: 4, hour: 9 } }, limit_by: ip@MORE@ } }\n";
    upstream.fill(&text.replace("@MORE@", more))
}

/// An upstream that uses two units with each answer that is not for `/free`.
fn upstream() -> Upstream {
    Upstream::new(|seen| {
        let used = if seen.target.starts_with("/free") { "video=0" } else { "video=2" };
        Answer::reply(200, &[("X-Kong-Limit", used)], b"a film")
    })
}

#[test]
fn the_upstream_says_what_was_used() {
    let upstream = upstream();
    let gateway = Gateway::start(&config(&upstream, ""));
    fresh_minute(15);
    let mut client = gateway.connect();
    for left in [2, 0] {
        let reply = client.get("/").expect(200);
        assert_eq!(reply.number("x-ratelimit-limit-video-minute"), 4);
        assert_eq!(reply.number("x-ratelimit-remaining-video-minute"), left);
        assert_eq!(reply.number("x-ratelimit-remaining-video-hour"), left + 5);
        assert_eq!((reply.header("x-kong-limit"), reply.text().as_str()), (None, "a film"));
    }
    let refused = client.get("/").expect(429);
    assert_eq!((refused.text().as_str(), refused.header("content-length")), ("", Some("0")));
    assert!((1..=60).contains(&refused.number("retry-after")));
    let free = client.get("/free").expect(200);
    assert_eq!(free.number("x-ratelimit-remaining-video-hour"), 5, "what was refused is not counted");
    let told = upstream
        .seen()
        .iter()
        .filter_map(|seen| seen.header("x-ratelimit-remaining-video").map(str::to_owned))
        .collect::<Vec<_>>();
    assert_eq!(told, ["4", "2", "0", "0"]);
}

#[test]
fn a_used_up_limit_refuses_at_once_when_told_to() {
    let upstream = upstream();
    let gateway = Gateway::start(&config(&upstream, ", block_on_first_violation: true, hide_client_headers: true"));
    fresh_minute(15);
    assert_eq!(gateway.get("/").expect(200).header("x-ratelimit-limit-video-minute"), None);
    gateway.get("/").expect(200);
    gateway.get("/free").expect_templated(429, "API rate limit exceeded for 'video'");
    assert_eq!(upstream.count(), 2);
}

#[test]
fn gateways_share_what_was_used_through_redis() {
    let (mut redis, upstream) = (Redis::start(), upstream());
    let text = config(&upstream, &format!(", policy: redis, redis: {{ host: 127.0.0.1, port: {} }}", redis.port()));
    let gateways = [Gateway::start(&text), Gateway::start(&text)];
    fresh_minute(15);
    gateways[0].get("/").expect(200);
    eventually("the other one knows", || gateways[1].get("/free").number("x-ratelimit-remaining-video-minute") == 2);
    gateways[1].get("/").expect(200);
    eventually("nothing is left", || gateways[0].get("/free").number("x-ratelimit-remaining-video-minute") == 0);
    gateways[0].get("/").expect(429);
    let keys = redis.say(&["KEYS", "response-ratelimit:*:127.0.0.1:*:video:minute"]);
    assert_eq!(keys.len(), 1, "{keys:?}");
    redis.kill();
    assert_eq!(gateways[0].get("/").expect(200).header("x-ratelimit-limit-video-minute"), None);
}
