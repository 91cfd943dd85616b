//! The ladder without a kernel side: who ignores a 429 is slowed, then kept out, and whoever shares
//! the address with an abuser is not.

use std::time::{Duration, Instant};

use gateway_tests::deadline::holds_within;
use gateway_tests::gateway::command;
use gateway_tests::visitor::is_last;
use gateway_tests::{Client, Gateway, Request, Upstream, Visitor, eventually, fresh_minute};

const CONFIG: &str = r#"
_format_version: "3.0"
services:
- name: echo
  url: @UP@
  routes:
  - name: limited
    paths: [/limited]
    plugins:
    - { name: key-auth, config: { anonymous: nobody } }
    - { name: rate-limiting, config: { minute: 5 } }
  - name: closed
    paths: [/closed]
    plugins: [{ name: key-auth }]
consumers:
- { username: good, keyauth_credentials: [{ key: good-key }] }
- { username: greedy, keyauth_credentials: [{ key: greedy-key }] }
- { username: nobody }
plugins:
- { name: rate-limiting, route: limited, consumer: good, config: { minute: 100000 } }
"#;

/// No interface is named: the decisions are carried out in user space.
const EDGE: &str = "gateway:\n  edge:\n    mode: enforce\n";

fn scene(more: &str) -> (Upstream, Gateway) {
    let upstream = Upstream::echo();
    let text = format!("{CONFIG}{more}");
    let gateway = Gateway::start(&upstream.fill(&text));
    (upstream, gateway)
}

fn visitor(gateway: &Gateway, from: [u8; 4], key: Option<&str>) -> Visitor {
    let request = Request::get("/limited");
    let request = match key {
        Some(key) => request.header("apikey", key),
        None => request,
    };
    Visitor::new(gateway.proxy(), from.into(), request)
}

fn rung(gateway: &Gateway, ip: &str) -> String {
    gateway.admin_get(&format!("/edge/why?ip={ip}")).expect(200).json()["standing"].to_string()
}

#[test]
fn who_ignores_a_429_is_slowed_and_then_kept_out() {
    let (_upstream, gateway) = scene(EDGE);
    fresh_minute(30);
    let mut abuser = visitor(&gateway, [127, 0, 0, 9], None);
    let mut ids = Vec::new();
    let mut degraded = false;
    let out = holds_within(Duration::from_secs(20), || match abuser.ask() {
        Some(reply) => {
            degraded |= is_last(&reply);
            ids.push(reply.header("x-kong-request-id").unwrap_or_default().to_owned());
            false
        }
        None => true,
    });
    let why = gateway.admin_get("/edge/why?ip=127.0.0.9").expect(200).text();
    assert!(out, "after {} requests it is still served: {why}", ids.len());
    assert!(degraded, "before that its connections are closed");
    assert!(ids.len() >= 25, "not before 20 strikes: {}", ids.len());
    // The answer names the request that tipped it, and so does the command.
    let named = |text: &str| ids.iter().any(|id| text.contains(id.as_str()));
    assert!(named(&why), "{why}");
    let exit = command(&["why", "127.0.0.9", "--admin", &gateway.admin_url()]);
    assert_eq!(exit.code, Some(0), "{exit:?}");
    assert!(named(&exit.stdout), "{}", exit.stdout);
    assert!(exit.stdout.contains("rate-limiting"), "the cause: {}", exit.stdout);
    // Others are served as before, and the status says how the decision is carried out.
    let mut other = visitor(&gateway, [127, 0, 0, 1], Some("good-key"));
    assert_eq!(other.ask().map(|reply| reply.status), Some(200));
    let status = gateway.admin_get("/edge").expect(200).text();
    assert!(status.contains("userspace"), "{status}");
}

#[test]
fn a_verdict_ends() {
    let more = format!("{EDGE}    ladder: {{ gate_for: 1s, degrade_for: 1s }}\n");
    let (_upstream, gateway) = scene(&more);
    let mut abuser = visitor(&gateway, [127, 0, 0, 9], None);
    assert!(holds_within(Duration::from_secs(20), || abuser.ask().is_none()), "it is kept out");
    let begun = Instant::now();
    let mut again = visitor(&gateway, [127, 0, 0, 9], Some("good-key"));
    eventually("it is let in again", || again.ask().is_some_and(|reply| reply.status == 200));
    assert!(begun.elapsed() < Duration::from_secs(10));
}

#[test]
fn the_other_consumer_behind_the_same_address_is_served() {
    let (_upstream, gateway) = scene(EDGE);
    let from = [127, 0, 0, 8];
    let mut good = visitor(&gateway, from, Some("good-key"));
    // It is known as a good one before the abuse begins.
    let begun = Instant::now();
    while begun.elapsed() < Duration::from_secs(2) {
        assert_eq!(good.ask().map(|reply| reply.status), Some(200));
        // A client's pace, not a wait for anything.
        std::thread::sleep(Duration::from_millis(20));
    }
    let mut greedy = visitor(&gateway, from, Some("greedy-key"));
    let (mut served, mut refused) = (0, 0);
    for _ in 0..300 {
        greedy.ask();
        match good.ask() {
            Some(reply) if reply.status == 200 => served += 1,
            _ => refused += 1,
        }
    }
    let why = gateway.admin_get("/edge/why?ip=127.0.0.8").expect(200).text();
    assert!(refused * 100 <= served, "{served} served, {refused} refused: {why}");
    // The consumer is explained by the addresses that it came from, and who does not exist is not.
    let exit = command(&["why", "greedy", "--admin", &gateway.admin_url()]);
    let why: serde_json::Value = serde_json::from_str(&exit.stdout).unwrap();
    assert_eq!((&why["sources"], &why["credentials"]), (&1.into(), &1.into()), "{why:#}");
    assert_eq!(why["shown"][0]["address"], "127.0.0.8");
    let standing = why["shown"][0]["standing"]["name"].as_str();
    assert!(matches!(standing, Some("degraded" | "cut")), "{why:#}");
    let exit = command(&["why", "no body", "--admin", &gateway.admin_url()]);
    assert!(exit.code != Some(0) && exit.stderr.contains("no such consumer"), "{exit:?}");
}

#[test]
fn a_run_of_wrong_keys_is_slowed_too() {
    let (_upstream, gateway) = scene(EDGE);
    eventually("the guesser is slowed", || {
        let request = Request::get("/closed").header("apikey", "guess");
        let reply = gateway.connect_from([127, 0, 0, 7]).try_send(&request);
        reply.map_or(true, |reply| is_last(&reply))
    });
}

#[test]
fn without_an_edge_block_there_is_no_ladder() {
    let (_upstream, gateway) = scene("");
    fresh_minute(20);
    let mut client = gateway.connect_from([127, 0, 0, 9]);
    for at in 0..150 {
        let reply = client.get("/limited");
        assert_eq!(reply.status, if at < 5 { 200 } else { 429 });
        assert_eq!(reply.header("connection"), None, "request {at}");
    }
}

#[test]
fn never_dropped_addresses_are_not_kept_out() {
    let more = format!("{EDGE}    never_drop: [127.0.0.9]\n");
    let (_upstream, gateway) = scene(&more);
    let mut abuser = visitor(&gateway, [127, 0, 0, 9], None);
    for at in 0..200 {
        assert!(abuser.ask().is_some(), "request {at} is answered: {}", rung(&gateway, "127.0.0.9"));
    }
}

#[test]
fn a_shadow_refuses_nobody_and_counts() {
    let (_upstream, gateway) = scene(&EDGE.replace("enforce", "shadow"));
    let mut abuser = visitor(&gateway, [127, 0, 0, 9], None);
    for at in 0..200 {
        assert!(abuser.ask().is_some(), "request {at} is answered: {}", rung(&gateway, "127.0.0.9"));
    }
    let edge = gateway.admin_get("/edge").expect(200).text();
    assert!(edge.contains("127.0.0.9"), "what would have been done is shown: {edge}");
}

#[test]
fn a_denied_address_is_not_let_in() {
    let more = format!("{EDGE}    deny: [127.0.0.66]\n");
    let (upstream, gateway) = scene(&more);
    let denied = Client::try_connect_from(gateway.proxy(), [127, 0, 0, 66].into())
        .and_then(|mut client| client.try_send(&Request::get("/limited")));
    assert!(denied.is_err(), "{denied:?}");
    gateway.get("/limited").expect(200);
    assert_eq!(upstream.count(), 1);
}
