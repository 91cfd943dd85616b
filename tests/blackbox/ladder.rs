//! The ladder without a kernel side: who ignores a 429 is slowed, then kept out, and whoever shares
//! the address with an abuser is not.

use std::time::{Duration, Instant};

use gateway_tests::deadline::holds_within;
use gateway_tests::gateway::command;
use gateway_tests::h2frames::{END_STREAM, Frames, Outcome};
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

/// Requests over one connection of HTTP/2 until it ends; how many were answered.
fn insist(frames: &mut Frames) -> u32 {
    let fields: [(&[u8], &[u8]); 4] =
        [(b":method", b"GET"), (b":scheme", b"http"), (b":path", b"/closed"), (b":authority", b"a")];
    for turn in 0..5_000 {
        let stream = 2 * turn + 1;
        // An end shows at the next read.
        let _ = frames.headers(stream, &fields, END_STREAM);
        match frames.outcome(stream) {
            Outcome::Status(_) => {}
            end => {
                assert_eq!(end, Outcome::Closed, "after {turn} answers");
                return turn;
            }
        }
    }
    panic!("still answered");
}

#[test]
fn who_is_cut_is_reset_and_who_is_dropped_loses_whatever_is_open() {
    let upstream = Upstream::echo();
    let stream = format!(
        "- name: bytes\n  protocol: tcp\n  host: 127.0.0.1\n  port: {}\n  routes: [{{ name: bytes, protocols: [tcp], \
         sources: [{{ ip: 127.0.0.0/8 }}] }}]\nconsumers:",
        upstream.port()
    );
    let text = format!("{}{EDGE}  stream_listen: [\"127.0.0.1:0\"]\n", CONFIG.replace("consumers:", &stream));
    let gateway = Gateway::start(&upstream.fill(&text));
    let from = [127, 0, 0, 9];
    let mut kept = gateway.connect_from(from);
    kept.send(&Request::get("/limited").header("apikey", "good-key")).expect(200);
    let mut tunnel = gateway.connect_from(from);
    let fields = [
        ("apikey", "good-key"),
        ("Connection", "Upgrade"),
        ("Upgrade", "websocket"),
        ("Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ=="),
        ("Sec-WebSocket-Version", "13"),
    ];
    let handshake = fields.iter().fold(Request::get("/limited"), |request, (name, value)| request.header(name, value));
    tunnel.send(&handshake).expect(101);
    let mut carried = Client::try_connect_from(gateway.stream(), from.into()).unwrap();
    carried.send(&Request::get("/")).expect(200);
    let mut abusive: Vec<Frames> =
        (0..12).map(|_| Frames::connect_from(gateway.proxy(), from.into()).unwrap()).collect();
    let mut other = visitor(&gateway, [127, 0, 0, 1], Some("good-key"));
    assert_eq!(other.ask().map(|reply| reply.status), Some(200));

    for (at, frames) in abusive.iter_mut().enumerate() {
        insist(frames);
        assert!(frames.is_reset(), "not an orderly end");
        if at == 0 {
            // The connection over which the offences came, and no other of its source.
            kept.send(&Request::get("/limited").header("apikey", "good-key")).expect(200);
        }
    }
    for (what, client) in [("kept", &mut kept), ("tunnel", &mut tunnel), ("stream", &mut carried)] {
        assert!(client.is_reset_within(Duration::from_secs(10)), "{what}: {}", rung(&gateway, "127.0.0.9"));
    }
    assert_eq!(other.ask().map(|reply| reply.status), Some(200));
    eventually("the workers hold the other one's alone", || gateway.status()["server"]["connections_active"] == 1);
    let metrics = gateway.admin_get("/metrics").text();
    assert!(metrics.contains("gateway_connections_ended_total{reason=\"cut\"} 15"), "{metrics}");
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
fn a_plan_raises_the_ceiling_of_connections() {
    let ceilings = "    ceilings: { connections: { per_second: 1, burst: 10 } }\n    authenticated_factor: 1\n";
    let (_upstream, gateway) = scene(&format!("{EDGE}{ceilings}"));
    let mut good = visitor(&gateway, [127, 0, 0, 8], Some("good-key"));
    assert_eq!(good.ask().map(|reply| reply.status), Some(200));
    let raised = || gateway.admin_get("/edge/why?ip=127.0.0.8").expect(200).json()["ceilings_raised_times"].clone();
    eventually("the plan is known", || raised().as_u64() > Some(1_000));
    let served = |from: [u8; 4]| {
        // One that is refused may be reset before `connect` has returned.
        let once = |_: &u32| {
            let client = Client::try_connect_from(gateway.proxy(), from.into());
            client.and_then(|mut client| client.try_send(&Request::get("/closed"))).is_ok()
        };
        (0..40).filter(once).count()
    };
    assert_eq!(served([127, 0, 0, 8]), 40);
    let of_stranger = served([127, 0, 0, 7]);
    assert!((10..40).contains(&of_stranger), "{of_stranger}");
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
