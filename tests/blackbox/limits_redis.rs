//! Limits that several gateways share through Redis: Kong's keys and answers, one counter for all, and what becomes of
//! requests when Redis is slow, gone, or says no.

use std::thread;
use std::time::{Duration, Instant};

use gateway_tests::deadline::unix_seconds;
use gateway_tests::tls::Pair;
use gateway_tests::{Gateway, Redis, Request, Setup, Upstream, eventually, fresh_minute};

/// One route for each `config`, `/0`, `/1` ….
fn routes(redis: &str, configs: &[&str]) -> String {
    let mut text = "_format_version: \"3.0\"\nservices:\n- name: echo\n  url: @UP@\n  routes:\n".to_owned();
    for (at, config) in configs.iter().enumerate() {
        text += &format!(
            "  - name: r{at}\n    id: 00000000-0000-4000-8000-00000000000{at}\n    paths: [/{at}]\n    plugins: [{{ name: rate-limiting, \
             config: {{ policy: redis, redis: {{ {redis} }}, limit_by: ip, {config} }} }}]\n"
        );
    }
    text
}

fn at(redis: &Redis) -> String {
    format!("host: 127.0.0.1, port: {}", redis.port())
}

fn statuses(gateway: &Gateway, target: &str, count: usize) -> Vec<u16> {
    let mut client = gateway.connect();
    (0..count).map(|_| client.get(target).status).collect()
}

#[test]
fn two_gateways_share_one_counter_under_kongs_key() {
    let (redis, upstream) = (Redis::start(), Upstream::echo());
    let text = upstream.fill(&routes(&at(&redis), &["minute: 4, hour: 9"]));
    let gateways = [Gateway::start(&text), Gateway::start(&text)];
    fresh_minute(15);
    for left in [3, 2, 1, 0] {
        let reply = gateways[left % 2].get("/0").expect(200);
        assert_eq!(reply.number("x-ratelimit-remaining-minute"), left as i64);
        assert_eq!(reply.number("x-ratelimit-remaining-hour"), left as i64 + 5);
        assert_eq!(reply.number("ratelimit-limit"), 4);
    }
    for gateway in &gateways {
        let reply = gateway.get("/0").expect_templated(429, "API rate limit exceeded");
        assert_eq!(reply.number("x-ratelimit-remaining-minute"), 0);
        assert_eq!(reply.number("x-ratelimit-remaining-hour"), 5, "a refused request counts nowhere");
        assert_eq!(reply.number("retry-after"), reply.number("ratelimit-reset"));
    }
    let minute = unix_seconds() / 60 * 60_000;
    let keys = redis.say(&["KEYS", "*:minute"]);
    assert_eq!(keys.len(), 1, "{keys:?}");
    assert!(keys[0].starts_with("ratelimit:00000000-0000-4000-8000-000000000000:"), "{keys:?}");
    assert!(keys[0].ends_with(&format!(":127.0.0.1:{minute}:minute")), "{keys:?}");
    assert_eq!(redis.say(&["GET", &keys[0]]), ["4"]);
    let life: i64 = redis.say(&["TTL", &keys[0]])[0].parse().unwrap();
    assert!((1..=65).contains(&life), "{life}");
    let rest = 60 - unix_seconds() as i64 % 60;
    assert!(life >= rest, "it outlives its window: {life} of {rest}");
}

#[test]
fn a_denied_request_asks_nobody() {
    let (redis, upstream) = (Redis::start(), Upstream::echo());
    let gateway = Gateway::start(&upstream.fill(&routes(&at(&redis), &["minute: 2"])));
    fresh_minute(15);
    assert_eq!(statuses(&gateway, "/0", 3), [200, 200, 429]);
    let before = redis.calls("evalsha");
    assert_eq!(statuses(&gateway, "/0", 50), [429; 50]);
    assert_eq!(redis.calls("evalsha"), before);
}

#[test]
fn a_user_a_password_and_a_database_are_used() {
    let user = ["--user", "gate", "on", ">gates-own", "~ratelimit:*", "+@all"];
    let (redis, upstream) = (Redis::with(&[&["--requirepass", "s3cret"], &user[..]].concat()), Upstream::echo());
    let own = format!("{}, database: 3", at(&redis));
    let configs = [
        format!("{own}, password: s3cret"),
        format!("{own}, username: gate, password: gates-own"),
        format!("{own}, username: gate, password: not-gates"),
        own,
    ];
    for (number, redis) in configs.iter().enumerate() {
        let text = upstream.fill(&routes(redis, &["minute: 100", "minute: 100, fault_tolerant: false"]));
        let gateway = Gateway::start(&text);
        let known = gateway.get("/0").expect(200).header("ratelimit-limit").is_some();
        assert_eq!(known, number < 2, "{redis}");
        gateway.get("/1").expect(if number < 2 { 200 } else { 500 });
        let told = if number < 2 { "Redis is reached" } else { "Redis cannot be reached" };
        eventually("it is told", || gateway.stderr().contains(told));
        for password in ["s3cret", "gates-own", "not-gates"] {
            assert!(!gateway.stderr().contains(password), "{}", gateway.stderr());
        }
    }
    assert!(redis.say(&["INFO", "keyspace"])[0].contains("db3:"));
}

#[test]
fn tls_is_spoken_and_verified_when_asked_for() {
    let upstream = Upstream::echo();
    let pair = Pair::new(&["redis.test"]);
    let redis = Redis::tls(&pair);
    let folder = tempfile::tempdir().unwrap();
    let roots = folder.path().join("roots.pem");
    std::fs::write(&roots, &pair.certificate_pem).unwrap();
    for (more, reached) in [
        ("ssl: true", true),
        ("ssl: true, ssl_verify: true, server_name: redis.test", true),
        ("ssl: true, ssl_verify: true, server_name: other.test", false),
        ("ssl: false", false),
    ] {
        let text = routes(&format!("{}, {more}", at(&redis)), &["minute: 100, fault_tolerant: false"]);
        let gateway = Setup::new(&upstream.fill(&text)).env("SSL_CERT_FILE", roots.to_str().unwrap()).start();
        gateway.get("/0").expect(if reached { 200 } else { 500 });
    }
}

#[test]
fn without_redis_requests_pass_or_fail_as_configured_and_none_waits_long() {
    let (mut redis, upstream) = (Redis::start(), Upstream::echo());
    let text =
        routes(&format!("{}, timeout: 500", at(&redis)), &["minute: 1000", "minute: 1000, fault_tolerant: false"]);
    let gateway = Gateway::start(&upstream.fill(&text));
    gateway.get("/0").expect(200);
    redis.kill();
    for _ in 0..20 {
        let reply = gateway.get("/0").expect(200);
        assert_eq!(reply.header("ratelimit-limit"), None);
        gateway.get("/1").expect_templated(500, "An unexpected error occurred");
    }
    redis.restart();
    eventually("it is asked again", || gateway.get("/0").header("ratelimit-limit").is_some());
    gateway.get("/1").expect(200);

    // It hangs: the first call waits its time, those after it do not.
    redis.pause();
    let begun = Instant::now();
    let passed = statuses(&gateway, "/0", 50);
    redis.resume();
    assert_eq!(passed, [200; 50]);
    assert!(begun.elapsed() < Duration::from_secs(10), "50 requests, 500 ms each would be 25 s");
    eventually("it is asked again", || gateway.get("/0").header("ratelimit-limit").is_some());
    let metrics = String::from_utf8(gateway.admin_get("/metrics").expect(200).body).unwrap();
    for end in ["answered", "down"] {
        assert!(
            metrics.lines().any(|line| line.starts_with(&format!("gateway_limit_store_calls_total{{end=\"{end}\"}} "))
                && !line.ends_with(" 0")),
            "{end}: {metrics}"
        );
    }
}

#[test]
fn a_server_that_was_never_there_costs_little() {
    let upstream = Upstream::echo();
    let refusing = gateway_tests::absent::Refusing::new();
    let deaf = gateway_tests::absent::Deaf::new();
    for address in [refusing.address(), deaf.address()] {
        let redis = format!("host: 127.0.0.1, port: {}, timeout: 300", address.port());
        let gateway = Gateway::start(&upstream.fill(&routes(&redis, &["minute: 1"])));
        let begun = Instant::now();
        assert_eq!(statuses(&gateway, "/0", 30), [200; 30]);
        assert!(begun.elapsed() < Duration::from_secs(6), "only the first waits");
    }
}

#[test]
fn a_server_that_says_no_is_like_none() {
    let (redis, upstream) = (Redis::start(), Upstream::echo());
    let gateway =
        Gateway::start(&upstream.fill(&routes(&at(&redis), &["minute: 5", "minute: 5, fault_tolerant: false"])));
    fresh_minute(15);
    gateway.get("/0").expect(200);
    gateway.get("/1").expect(200);
    for key in redis.say(&["KEYS", "*"]) {
        redis.say(&["SET", &key, "no number"]);
    }
    assert_eq!(gateway.get("/0").expect(200).header("ratelimit-limit"), None);
    gateway.get("/1").expect(500);
    // Scripts that it forgot are told again.
    redis.say(&["FLUSHALL"]);
    redis.say(&["SCRIPT", "FLUSH"]);
    assert_eq!(gateway.get("/0").expect(200).number("ratelimit-remaining"), 4);
}

#[test]
fn hundreds_at_once_are_counted_exactly() {
    let (redis, upstream) = (Redis::start(), Upstream::echo());
    let text = format!("{}gateway:\n  workers: 2\n", upstream.fill(&routes(&at(&redis), &["hour: 150"])));
    let gateways = [Gateway::start(&text), Gateway::start(&text)];
    if 3600 - unix_seconds() % 3600 < 20 {
        gateway_tests::skip("limits_redis::hundreds_at_once_are_counted_exactly", "the hour ends");
        return;
    }
    let passed: usize = std::thread::scope(|scope| {
        let each = |gateway: &Gateway| statuses(gateway, "/0", 50).iter().filter(|status| **status == 200).count();
        let threads: Vec<_> = gateways.iter().cycle().take(8).map(|g| scope.spawn(move || each(g))).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).sum()
    });
    assert_eq!(passed, 150);
}

#[test]
fn identities_have_counters_of_their_own() {
    let (redis, upstream) = (Redis::start(), Upstream::echo());
    let text = routes(&at(&redis), &["minute: 1"]).replace("limit_by: ip", "limit_by: header, header_name: X-Tenant");
    let gateway = Gateway::start(&upstream.fill(&text));
    fresh_minute(15);
    let tenant = |name: &str| gateway.send(&Request::get("/0").header("X-Tenant", name)).status;
    assert_eq!([tenant("red"), tenant("red"), tenant("blue")], [200, 429, 200]);
    assert_eq!([gateway.get("/0").status, gateway.get("/0").status], [200, 429], "without the header, the address");
}

#[test]
fn a_request_that_took_its_time_counts_in_the_window_that_runs() {
    let (redis, upstream) = (Redis::start(), Upstream::echo());
    let gateway = Gateway::start(&upstream.fill(&routes(&at(&redis), &["second: 2"])));
    let slow = || {
        let mut client = gateway.connect();
        client.write(b"GET /0 HTTP/1.1\r\n").unwrap();
        client
    };
    let mut clients = Vec::new();
    for _ in 0..5 {
        clients.extend([slow(), slow()]);
        thread::sleep(Duration::from_millis(1100));
    }
    let begun = unix_seconds();
    for client in &mut clients {
        client.write(b"Host: a\r\n\r\n").unwrap();
    }
    let granted = clients.iter_mut().filter_map(|client| client.read_reply("GET").ok()).filter(|r| r.status == 200);
    let granted = granted.count() as u64;
    let seconds = unix_seconds() - begun + 1;
    assert!((2..=2 * seconds).contains(&granted), "{granted} in {seconds} s");
}

#[test]
fn a_connection_that_redis_closes_is_opened_again_before_anybody_asks() {
    let (redis, upstream) = (Redis::start(), Upstream::echo());
    let gateway = Gateway::start(&upstream.fill(&routes(&at(&redis), &["minute: 100, fault_tolerant: false"])));
    gateway.get("/0").expect(200);
    redis.say(&["CLIENT", "KILL", "TYPE", "normal"]);
    eventually("it is connected again", || gateway.stderr().matches("Redis is reached").count() == 2);
    gateway.get("/0").expect(200);
}
