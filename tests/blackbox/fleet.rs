//! Verdicts of a fleet: what one gateway decides about an abuser holds at the others, unless an innocent was seen there or
//! the address is theirs to spare; a lifting holds everywhere; a lost Redis loses nothing.

use std::net::Ipv4Addr;
use std::time::Duration;

use gateway_tests::deadline::holds_within;
use gateway_tests::gateway::command;
use gateway_tests::{Client, Gateway, Redis, Request, Setup, Upstream, Visitor, eventually, fresh_minute};
use serde_json::Value;

const CONFIG: &str = r#"
_format_version: "3.0"
services:
- name: echo
  url: @UP@
  routes:
  - name: limited
    paths: [/limited]
    plugins: [{ name: rate-limiting, config: { minute: 5, limit_by: ip } }]
  - name: known
    paths: [/known]
    plugins: [{ name: key-auth }]
consumers:
- { username: ann, keyauth_credentials: [{ key: ann }] }
gateway:
  workers: 2
  edge:
    mode: enforce
    ladder: { gate_for: 600s }
"#;

const ABUSER: [u8; 4] = [127, 0, 0, 9];

fn config(upstream: &Upstream, redis: &Redis, name: &str, more: &str) -> String {
    let fleet = format!(
        "    fleet: {{ name: {name}, redis: {{ host: 127.0.0.1, port: {}, read_timeout: 500 }} }}\n",
        redis.port()
    );
    upstream.fill(CONFIG) + &fleet + more
}

fn gateway(upstream: &Upstream, redis: &Redis, name: &str, more: &str) -> Gateway {
    let gateway = Gateway::start(&config(upstream, redis, name, more));
    linked(&gateway, true);
    gateway
}

#[track_caller]
fn linked(gateway: &Gateway, linked: bool) {
    eventually("the fleet is reached, or not", || fleet(gateway)["linked"] == linked);
}

fn fleet(gateway: &Gateway) -> Value {
    gateway.admin_get("/edge").expect(200).json()["fleet"].clone()
}

fn heard(gateway: &Gateway, what: &str) -> u64 {
    fleet(gateway)["heard"][what].as_u64().unwrap()
}

fn why(gateway: &Gateway, ip: &str) -> Value {
    gateway.admin_get(&format!("/edge/why?ip={ip}")).expect(200).json()
}

fn rung(gateway: &Gateway, ip: &str) -> u64 {
    why(gateway, ip)["verdict"]["rung"].as_u64().unwrap_or(0)
}

/// Asks again and again until it is let in no more.
#[track_caller]
fn abuse(gateway: &Gateway, from: [u8; 4]) {
    fresh_minute(30);
    let mut abuser = Visitor::new(gateway.proxy(), from.into(), Request::get("/limited"));
    let ip = Ipv4Addr::from(from).to_string();
    assert!(holds_within(Duration::from_secs(20), || {
        abuser.ask();
        rung(gateway, &ip) >= 4
    }));
}

/// Whether each of some connections is refused: of those that are gated one in 64 is let in.
fn is_refused(gateway: &Gateway, from: [u8; 4]) -> bool {
    let served = (0..8).filter(|_| {
        let Ok(mut client) = Client::try_connect_from(gateway.proxy(), from.into()) else { return false };
        client.try_send(&Request::get("/none")).is_ok()
    });
    served.count() <= 2
}

#[test]
fn who_abuses_one_gateway_is_refused_by_all_until_an_operator_lifts_it() {
    let (upstream, redis) = (Upstream::echo(), Redis::start());
    let (a, b) = (gateway(&upstream, &redis, "alpha", ""), gateway(&upstream, &redis, "beta", ""));
    assert!(!is_refused(&b, ABUSER));
    abuse(&a, ABUSER);
    eventually("the other obeys", || rung(&b, "127.0.0.9") >= 4);
    assert!(is_refused(&b, ABUSER));
    assert!(!is_refused(&b, [127, 0, 0, 8]), "others are served");
    let exit = command(&["why", "127.0.0.9", "--admin", &b.admin_url()]);
    let told: Value = serde_json::from_str(&exit.stdout).unwrap();
    assert_eq!(told["cause"]["origin"], "alpha", "{told:#}");
    assert_eq!(told["cause"]["plugin"], "rate-limiting");
    let own = why(&a, "127.0.0.9");
    assert_eq!(told["cause"]["request_id"], own["cause"]["request_id"]);
    assert_eq!(own["cause"]["origin"], Value::Null);
    let left = |of: &Value| of["verdict"]["expires_in_seconds"].as_i64().unwrap();
    assert!((left(&told) - left(&own)).abs() <= 5, "{told:#} {own:#}");
    let metrics = b.admin_get("/metrics").text();
    for line in ["gateway_edge_fleet_linked{} 1", "gateway_edge_fleet_verdicts{} 1"] {
        assert!(metrics.lines().any(|known| known == line), "{line}: {metrics}");
    }
    // One who comes later is told too.
    let c = gateway(&upstream, &redis, "gamma", "");
    eventually("the newcomer obeys", || rung(&c, "127.0.0.9") >= 4);

    let exit = command(&["edge", "unban", "127.0.0.9", "--admin", &a.admin_url()]);
    assert_eq!(exit.code, Some(0), "{exit:?}");
    assert!(exit.stdout.contains("\"stood\": true"), "{}", exit.stdout);
    for gateway in [&a, &b, &c] {
        eventually("it is lifted", || rung(gateway, "127.0.0.9") == 0);
        assert!(!is_refused(gateway, ABUSER));
    }
    // It stays so for those who come later, and who tell again what they knew.
    let d = gateway(&upstream, &redis, "delta", "");
    eventually("it is told what holds", || heard(&d, "known") > 0);
    for gateway in [&a, &b, &c, &d] {
        assert_eq!(rung(gateway, "127.0.0.9"), 0);
    }
}

#[test]
fn a_gateway_spares_what_it_was_told_to_and_whom_it_knows() {
    let (upstream, redis) = (Upstream::echo(), Redis::start());
    let a = gateway(&upstream, &redis, "alpha", "");
    let b = gateway(&upstream, &redis, "beta", "    never_drop: [127.0.0.9]\n");
    let c = gateway(&upstream, &redis, "gamma", "");
    let mut ann = c.connect_from(ABUSER);
    for _ in 0..10 {
        ann.send(&Request::get("/known").header("apikey", "ann")).expect(200);
    }
    abuse(&a, ABUSER);
    eventually("they have heard", || heard(&b, "spared") > 0 && heard(&c, "innocent") > 0);
    for gateway in [&b, &c] {
        assert_eq!(rung(gateway, "127.0.0.9"), 0);
        assert!(!is_refused(gateway, ABUSER));
    }
    let told = why(&c, "127.0.0.9")["decisions"].to_string();
    assert!(told.contains("alpha") && told.contains("neighbour"), "{told}");
}

#[test]
fn without_redis_what_holds_goes_on_and_is_told_later() {
    let (upstream, mut redis) = (Upstream::echo(), Redis::start());
    let (a, b) = (gateway(&upstream, &redis, "alpha", ""), gateway(&upstream, &redis, "beta", ""));
    abuse(&a, ABUSER);
    eventually("the other obeys", || rung(&b, "127.0.0.9") >= 4);
    redis.kill();
    linked(&a, false);
    linked(&b, false);
    assert!(rung(&a, "127.0.0.9") >= 4 && rung(&b, "127.0.0.9") >= 4, "nothing is lost");
    assert!(b.admin_get("/metrics").text().contains("gateway_edge_fleet_linked{} 0"));
    abuse(&a, [127, 0, 0, 7]);
    a.admin_post("/edge/unban?ip=127.0.0.9", "application/json", "").expect(200);
    assert_eq!(rung(&b, "127.0.0.7"), 0);
    redis.restart();
    linked(&a, true);
    linked(&b, true);
    eventually("what was missed is told", || rung(&b, "127.0.0.7") >= 4 && rung(&b, "127.0.0.9") == 0);
    assert!(rung(&a, "127.0.0.7") >= 4 && rung(&a, "127.0.0.9") == 0);
}

#[test]
fn what_is_not_meant_or_too_much_is_not_obeyed() {
    let (upstream, redis) = (Upstream::echo(), Redis::with(&["--requirepass", "s3cret"]));
    let text = config(&upstream, &redis, "alpha", "")
        .replace("read_timeout: 500 }", "read_timeout: 500, password: s3cret }, verdicts_max: 3, per_second: 20");
    let gateway = Gateway::start(&text);
    linked(&gateway, true);
    let publish = |text: &str| redis.say(&["PUBLISH", "gateway:edge", text]);
    let verdict = |last: u32, lasts_ms: u64| {
        format!(
            "{{\"v\":1,\"node\":\"x\",\"name\":\"x\",\"op\":\"verdict\",\"source\":\"198.51.100.{last}\",\"rung\":5,\"age_ms\":0,\
             \"lasts_ms\":{lasts_ms},\"plugin\":\"p\",\"route\":\"r\",\"request_id\":\"q\",\"kind\":\"bad_request\",\
             \"strikes\":1,\"repeats\":0}}"
        )
    };
    publish("no notice");
    publish(&verdict(1, 60_000).replace("198.51.100.1", "0.0.0.0/0"));
    eventually("both are malformed", || heard(&gateway, "malformed") == 2);
    publish(&verdict(1, 86_400_000));
    let obeyed = holds_within(Duration::from_secs(10), || rung(&gateway, "198.51.100.1") == 5);
    assert!(obeyed, "{:#} {:#}", fleet(&gateway), why(&gateway, "198.51.100.1"));
    let lasts = why(&gateway, "198.51.100.1")["verdict"]["expires_in_seconds"].as_u64().unwrap();
    assert!(lasts <= 3600, "an hour at most: {lasts}");
    for last in 2..=5 {
        publish(&verdict(last, 60_000));
    }
    eventually("no more than three", || heard(&gateway, "full") == 2);
    assert_eq!(fleet(&gateway)["verdicts_of_others"], 3);
    for _ in 0..200 {
        publish(&verdict(1, 60_000));
    }
    eventually("most is not heard", || heard(&gateway, "too_many") > 0);
    assert!(!gateway.stderr().contains("s3cret"), "{}", gateway.stderr());
}

#[test]
fn tls_is_spoken_and_verified() {
    let pair = gateway_tests::tls::Pair::new(&["redis.test"]);
    let (upstream, redis) = (Upstream::echo(), Redis::tls(&pair));
    let folder = tempfile::tempdir().unwrap();
    let roots = folder.path().join("roots.pem");
    std::fs::write(&roots, &pair.certificate_pem).unwrap();
    let secured = |name: &str, server_name: &str| {
        let more = format!("read_timeout: 500, ssl: true, ssl_verify: true, server_name: {server_name} }}");
        let text = config(&upstream, &redis, name, "").replace("read_timeout: 500 }", &more);
        Setup::new(&text).env("SSL_CERT_FILE", roots.to_str().unwrap()).start()
    };
    let (a, b) = (secured("alpha", "redis.test"), secured("beta", "redis.test"));
    linked(&a, true);
    linked(&b, true);
    abuse(&a, ABUSER);
    eventually("the other obeys", || rung(&b, "127.0.0.9") >= 4);
    let c = secured("gamma", "other.test");
    eventually("it is told", || c.stderr().contains("the fleet cannot be reached"));
    linked(&c, false);
}

#[test]
fn a_wrong_password_is_told_and_leaves_the_gateway_running() {
    let (upstream, redis) = (Upstream::echo(), Redis::with(&["--requirepass", "s3cret"]));
    let text = config(&upstream, &redis, "alpha", "").replace("read_timeout: 500 }", "password: not-s3cret }");
    let gateway = Gateway::start(&text);
    eventually("it is told", || gateway.stderr().contains("the fleet cannot be reached"));
    assert!(!gateway.stderr().contains("s3cret"), "{}", gateway.stderr());
    gateway.get("/limited").expect(200);
}

#[test]
fn a_faulty_block_is_told_where() {
    let (upstream, redis) = (Upstream::echo(), Redis::start());
    let good = config(&upstream, &redis, "alpha", "");
    for (from, to, words) in [
        ("name: alpha", "nam: alpha", "did you mean `name`?"),
        ("redis: { host: 127.0.0.1", "verdicts_max: 0, redis: { host: 127.0.0.1", "an integer from 1 to 1048576"),
        ("read_timeout: 500", "sentinel_master: m", "`redis.sentinel_master`"),
        ("port: ", "port: 1", "an integer from 1 to 65535"),
    ] {
        let exit = Setup::new(&good.replace(from, to)).refuse();
        assert!(exit.stderr.contains(words) && exit.stderr.contains("kong.yml:2"), "{from}: {}", exit.stderr);
    }
    let without = good.split("    fleet:").next().unwrap().to_owned() + "    fleet: { name: x }\n";
    assert!(Setup::new(&without).refuse().stderr.contains("lacks the required field `redis`"));
}
