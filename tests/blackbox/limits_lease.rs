//! Large limits by slices leased from Redis: few calls, none for who is denied, and the limit kept by four gateways under
//! a load that is spread unevenly, with Redis and without. `cargo xtask bench limits` measures the same for a minute.

use std::thread;
use std::time::{Duration, Instant};

use gateway_tests::deadline::{holds_within, say, unix_seconds};
use gateway_tests::fleet::{SKEW, calls, config, gateways, load};
use gateway_tests::{Gateway, Redis, Request, eventually, fresh_minute};

#[test]
fn four_gateways_keep_one_limit_with_few_calls() {
    let redis = Redis::start();
    let fleet = gateways(&redis, "minute: 8000, lease: {}", 4);
    fresh_minute(30);
    let minute = unix_seconds() / 60;
    let tallies = load(&fleet, &SKEW, 8, || {});
    if unix_seconds() / 60 != minute {
        gateway_tests::skip("limits_lease::four_gateways_keep_one_limit_with_few_calls", "the minute ended");
        return;
    }
    let granted: u64 = tallies.iter().map(|tally| tally.all()).sum();
    say(&format!("four gateways: {granted} of 8000 granted, {tallies:?}"));
    assert!(tallies.iter().all(|tally| tally.other == 0), "{tallies:?}");
    let refused: u64 = tallies.iter().map(|tally| tally.refused).sum();
    assert!(granted <= 8000, "{granted} of 8000");
    if granted + refused < 9000 {
        gateway_tests::skip(
            "limits_lease::four_gateways_keep_one_limit_with_few_calls",
            "too slow to use the limit up",
        );
        return;
    }
    assert!(granted >= 7600, "{granted} of 8000, {refused} refused");
    for gateway in &fleet {
        assert!(calls(gateway) <= 8 * 10 + 10, "{} calls in 8 s", calls(gateway));
    }
}

#[test]
fn who_is_denied_costs_no_call() {
    let redis = Redis::start();
    let fleet = gateways(&redis, "hour: 1000, lease: { from: 100 }", 1);
    if 3600 - unix_seconds() % 3600 < 30 {
        gateway_tests::skip("limits_lease::who_is_denied_costs_no_call", "the hour ends");
        return;
    }
    let mut client = fleet[0].connect();
    let granted = (0..1100).filter(|_| client.get("/x").status == 200).count();
    assert_eq!(granted, 1000, "alone, it has all of it");
    let before = calls(&fleet[0]);
    for _ in 0..200 {
        let reply = client.get("/x").expect(429);
        assert_eq!(reply.number("ratelimit-remaining"), 0);
        assert_eq!(reply.number("x-ratelimit-limit-hour"), 1000);
    }
    assert_eq!(calls(&fleet[0]), before);
}

#[test]
fn small_limits_beside_a_large_one_are_exact() {
    let redis = Redis::start();
    let fleet = gateways(&redis, "minute: 6, hour: 5000, lease: {}", 2);
    fresh_minute(15);
    let statuses: Vec<u16> = (0..9).map(|at| fleet[at % 2].get("/x").status).collect();
    assert_eq!(statuses, [200, 200, 200, 200, 200, 200, 429, 429, 429]);
    let reply = fleet[0].get("/x").expect(429);
    assert_eq!(reply.number("x-ratelimit-remaining-minute"), 0);
    let left = reply.number("x-ratelimit-remaining-hour");
    assert!((4900..=4997).contains(&left), "what the refused took was given back: {left}");
}

#[test]
fn without_redis_everybody_lives_on_his_share_and_comes_back() {
    let mut redis = Redis::start();
    let fleet = gateways(&redis, "second: 1000, lease: {}", 4);
    let mut marks = Vec::new();
    let tallies = load(&fleet, &SKEW, 14, || {
        thread::sleep(Duration::from_secs(4));
        redis.kill();
        marks.push(unix_seconds());
        thread::sleep(Duration::from_secs(5));
        redis.restart();
        marks.push(unix_seconds());
        thread::sleep(Duration::from_secs(5));
    });
    let ends = unix_seconds();
    let each = |from: u64, to: u64| -> Vec<u64> {
        (from..to).map(|second| tallies.iter().map(|tally| tally.granted_in(second..second + 1)).sum()).collect()
    };
    let (away, back) = (each(marks[0] + 1, marks[1]), each(marks[1] + 2, ends - 1));
    say(&format!("without Redis {away:?}, after its return {back:?} of 1000 a second"));
    assert!(tallies.iter().all(|tally| tally.other == 0), "{tallies:?}");
    if tallies.iter().map(|tally| tally.refused).sum::<u64>() < 14 * 300 {
        let name = "limits_lease::without_redis_everybody_lives_on_his_share_and_comes_back";
        gateway_tests::skip(name, "too slow to use the limit up");
        return;
    }
    let mean = |counts: &[u64]| counts.iter().sum::<u64>() as f64 / counts.len().max(1) as f64;
    assert!((500.0..=1250.0).contains(&mean(&away)), "{away:?}");
    // The clock of a request's second is the client's here: neighbours may lend each other some.
    assert!((800.0..=1100.0).contains(&mean(&back)), "{back:?}");
}

#[test]
fn without_redis_from_the_beginning_the_configured_nodes_count() {
    let mut redis = Redis::start();
    redis.kill();
    let fleet = gateways(&redis, "minute: 2000, lease: { nodes: 4 }", 1);
    let closed = gateways(&redis, "minute: 2000, lease: { on_loss: closed }", 1);
    let open = gateways(&redis, "minute: 2000, lease: { on_loss: open }", 1);
    fresh_minute(20);
    let mut client = fleet[0].connect();
    let granted = (0..600).filter(|_| client.get("/x").status == 200).count();
    assert_eq!(granted, 500, "a quarter of 2000");
    closed[0].get("/x").expect(500);
    assert_eq!(open[0].get("/x").expect(200).header("ratelimit-limit"), None);
    redis.restart();
    eventually("it is leased again", || closed[0].get("/x").status == 200);
    eventually("it is told again", || open[0].get("/x").header("ratelimit-limit").is_some());
}

#[test]
fn counts_are_brought_together_at_kongs_sync_rate() {
    let redis = Redis::start();
    let fleet = gateways(&redis, "hour: 100, sync_rate: 0.2", 2);
    if 3600 - unix_seconds() % 3600 < 30 {
        gateway_tests::skip("limits_lease::counts_are_brought_together_at_kongs_sync_rate", "the hour ends");
        return;
    }
    let begun = Instant::now();
    let mut client = fleet[0].connect();
    for left in (40..100).rev() {
        assert_eq!(client.get("/x").expect(200).number("ratelimit-remaining"), left);
    }
    assert!(calls(&fleet[0]) <= 2 + begun.elapsed().as_millis() as u64 / 200, "{}", calls(&fleet[0]));
    // Whoever asks tells what he counted.
    let told = |at: usize| fleet[at].get("/x").number("ratelimit-remaining");
    assert!(holds_within(Duration::from_secs(10), || {
        thread::sleep(Duration::from_millis(250));
        told(0) < told(1) + 5 && told(1) < 60
    }));
    let keys = redis.say(&["KEYS", "ratelimit:*:hour"]);
    assert_eq!(keys.len(), 1, "{keys:?}");
}

#[test]
fn what_is_counted_is_told_although_nobody_comes_any_more() {
    let redis = Redis::start();
    let fleet = gateways(&redis, "hour: 100, sync_rate: 0.3", 1);
    if 3600 - unix_seconds() % 3600 < 30 {
        gateway_tests::skip("limits_lease::what_is_counted_is_told_although_nobody_comes_any_more", "the hour ends");
        return;
    }
    let mut client = fleet[0].connect();
    for _ in 0..10 {
        client.get("/x").expect(200);
    }
    eventually("Redis knows all ten", || {
        let keys = redis.say(&["KEYS", "ratelimit:*:hour"]);
        keys.len() == 1 && redis.say(&["GET", &keys[0]]) == ["10"]
    });
    let before = calls(&fleet[0]);
    thread::sleep(Duration::from_secs(1));
    assert_eq!(calls(&fleet[0]), before, "there is nothing more to tell");
}

#[test]
fn what_was_not_told_yet_is_told_at_the_end() {
    let redis = Redis::start();
    let mut fleet = gateways(&redis, "day: 100, sync_rate: 600", 2);
    if 86_400 - unix_seconds() % 86_400 < 60 {
        gateway_tests::skip("limits_lease::what_was_not_told_yet_is_told_at_the_end", "the day ends");
        return;
    }
    let counted =
        || redis.say(&["KEYS", "*:day"]).first().map_or_else(String::new, |key| redis.say(&["GET", key]).concat());
    let mut clients: Vec<_> = (0..6).map(|_| fleet[0].connect()).collect();
    for client in clients.iter_mut() {
        for _ in 0..5 {
            client.get("/x").expect(200);
        }
    }
    eventually("the first is told", || !counted().is_empty());
    assert_ne!(counted(), "30", "the others would be told ten minutes later");
    fleet[0].sigterm();
    assert!(fleet[0].wait(Duration::from_secs(20)).is_some_and(|status| status.success()));
    assert_eq!(counted(), "30");
    // One that cannot tell ends as well.
    fleet[1].get("/x").expect(200);
    eventually("the first is told", || counted() == "31");
    fleet[1].get("/x").expect(200);
    redis.pause();
    fleet[1].sigterm();
    let ended = fleet[1].wait(Duration::from_secs(20)).is_some_and(|status| status.success());
    redis.resume();
    assert!(ended);
}

#[test]
fn a_reload_that_changes_a_limit_grants_the_difference() {
    let redis = Redis::start();
    let fleet = gateways(&redis, "day: 1000, lease: {}", 1);
    if 86_400 - unix_seconds() % 86_400 < 30 {
        gateway_tests::skip("limits_lease::a_reload_that_changes_a_limit_grants_the_difference", "the day ends");
        return;
    }
    let mut client = fleet[0].connect();
    assert_eq!((0..1050).filter(|_| client.get("/x").status == 200).count(), 1000);
    let mut more = 0;
    fleet[0].reload(&config(&redis, "day: 1003, lease: {}"), || {
        let reply = client.get("/x");
        more += usize::from(reply.status == 200);
        reply.number("x-ratelimit-limit-day") == 1003
    });
    more += (0..100).filter(|_| client.get("/x").status == 200).count();
    assert_eq!(more, 3);
}

#[test]
fn who_finds_no_room_for_a_slice_shares_the_limit_with_those_who_lease() {
    const SLICES: usize = 1 << 16;
    let redis = Redis::start();
    if 3600 - unix_seconds() % 3600 < 90 {
        gateway_tests::skip(
            "limits_lease::who_finds_no_room_for_a_slice_shares_the_limit_with_those_who_lease",
            "the hour ends",
        );
        return;
    }
    let periods = ["hour", "day", "month", "year"];
    let limits = periods.map(|period| format!("{period}: 1000")).join(", ");
    let text = config(&redis, &format!("{limits}, lease: {{ refresh: 10 }}"))
        .replace("limit_by: path, path: /x", "limit_by: header, header_name: X-Who");
    let fleet = [Gateway::start(&text), Gateway::start(&text)];
    thread::scope(|scope| {
        for part in 0..16 {
            let gateway = &fleet[0];
            scope.spawn(move || {
                let mut client = gateway.connect();
                for who in (part..SLICES / 4 + 1500).step_by(16) {
                    client.send(&Request::get("/x").header("X-Who", &who.to_string()));
                }
            });
        }
    });
    let metrics = fleet[0].admin_get("/metrics").expect(200).text();
    let slices = metrics.lines().find_map(|line| line.strip_prefix("gateway_limit_slices ")?.parse::<usize>().ok());
    assert!(slices >= Some(SLICES), "{slices:?}");
    let granted = |gateway: &Gateway| {
        let (mut client, request) = (gateway.connect(), Request::get("/x").header("X-Who", "last"));
        (0..1100).filter(|_| client.send(&request).status == 200).count()
    };
    assert_eq!([granted(&fleet[0]), granted(&fleet[1])], [1000, 0]);
}
