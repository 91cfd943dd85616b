//! Bars that are times of the real gateway, from decision to packet: how soon a verdict holds and ends, how soon everything
//! passes when the proxy is dead, how soon an address is explained.

use std::time::{Duration, Instant};

use aya::maps::{Array, Map, MapData};
use gateway_common::map::PULSE_KILL;
use gateway_tests::{Client, Request, bar, deadline::holds_within, eventually};

use super::{
    scene::{Scene, cause_of},
    stage::Stage,
};

/// Sources that climb one after another: what the bar asks, and what a test needs.
const TRIPS: [u8; 2] = [50, 5];
/// More than a few strikes, by what a busy machine lets through before it decides.
const SPARES: usize = 40;
/// A drop shows as silence.
const SILENCE: Duration = Duration::from_millis(500);
/// A SYN that is not answered in this time is sent anew.
const AGAIN: Duration = Duration::from_millis(1);
const VERDICT_MAX: Duration = Duration::from_secs(5);

fn milliseconds(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e3
}

/// Two rows: the middle and the 99th percentile.
fn rows(what: &str, mut values: Vec<f64>, limits: [f64; 2]) {
    values.sort_by(f64::total_cmp);
    for (percent, limit) in [50, 99].into_iter().zip(limits) {
        let words = format!("{what}, p{percent} of {}", values.len());
        bar::at_most("R6", &words, bar::percentile(&values, percent), limit, " ms");
    }
}

#[test]
fn a_verdict_holds_and_ends_within_milliseconds() {
    let Some(scene) = Scene::new("kernel::measured::a_verdict_holds_and_ends_within_milliseconds") else { return };
    let ladder = "degrade_after: 3, failures_run: 3, drop_after: 3, gate_for: 1s, gate_max: 1s, memory: 1s";
    let gateway = scene.start(&scene.config("enforce", ladder));
    let door = scene.door(&gateway);
    let (mut gated, mut dropped, mut ended) = (Vec::new(), Vec::new(), Vec::new());
    for trip in 0..TRIPS[usize::from(!bar::in_full())] {
        let from = scene.address(10 + trip);
        let climb = scene.climb_with(&gateway, from, &Request::get("/api"), SPARES, SILENCE);
        let asked = Instant::now();
        let why = scene.admin(&gateway, &format!("/edge/why?ip={from}"));
        let told = asked + asked.elapsed() / 2;
        for (rung, latencies) in [(4, &mut gated), (5, &mut dropped)] {
            let cause = climb.find(&cause_of(&why, rung));
            latencies.push(milliseconds(climb.silence_after(cause).0 - cause.sent));
        }
        let Some(left) = why["verdict"]["expires_in_ms"].as_u64() else {
            // So slow a machine that it is over already.
            continue;
        };
        let end = told + Duration::from_millis(left);
        let connects = || scene.yard.run(|| Client::try_connect_within(door, from, AGAIN)).is_ok();
        let begun = Instant::now();
        while !connects() {
            assert!(begun.elapsed() < VERDICT_MAX, "the verdict does not end: {why:#}");
        }
        ended.push(milliseconds(Instant::now().saturating_duration_since(end)));
    }
    assert!(gated.iter().chain(&dropped).all(|one| *one < 1_000.0), "{gated:?} {dropped:?}");
    rows("no new connections (rung 4), from the tripping request to the first lost packet", gated, [1.0, 10.0]);
    rows("everything dropped (rung 5), the same", dropped, [1.0, 10.0]);
    rows("from a verdict's end to the first connection", ended, [1.0, 10.0]);
}

#[test]
fn a_dead_proxy_holds_nobody_up() {
    let Some(stage) = Stage::new("kernel::measured::a_dead_proxy_holds_nobody_up") else { return };
    let pins = |more: &str| format!("pin: {}\nkeep: true\n{more}", stage.bpffs.pins().display());
    let gateway = stage.start(&pins(""));
    let sender = stage.send_from(3);
    eventually("a denied source sends", || sender.sent() > 200);
    assert_eq!(stage.came_through(3), 0);
    // Dropping it kills it.
    drop(gateway);
    let killed = Instant::now();
    let limit = Duration::from_secs(6);
    assert!(holds_within(limit + SILENCE, || stage.came_through(3) > 0), "the heartbeat is stale");
    bar::at_most("R8", "kill -9: a denied source is served again", killed.elapsed().as_secs_f64(), 6.0, " s");

    let gateway = stage.start(&pins("hold: true"));
    let sent = sender.sent();
    eventually("it is denied again", || sender.sent() > sent + 200);
    drop(gateway);
    let before = stage.came_through(3);
    let held = !holds_within(limit, || stage.came_through(3) > before);
    bar::holds("R8", "with `hold`: denied for longer than a heartbeat lasts", "6 s", "6 s", held);
    assert!(held);
    let pulse = MapData::from_pin(stage.bpffs.pins().join("maps/PULSE")).expect("the pulse is pinned");
    let mut pulse: Array<_, u64> = Map::from_map_data(pulse).and_then(Array::try_from).expect("an array of words");
    let thrown = Instant::now();
    pulse.set(PULSE_KILL, 1, 0).expect("the word exists");
    while stage.came_through(3) == before && thrown.elapsed() < limit {
        std::thread::sleep(Duration::from_micros(100));
    }
    let took = thrown.elapsed();
    assert!(took < limit, "everything passes by order");
    bar::at_most("R8", "kill switch, with the proxy dead", milliseconds(took), 10.0, " ms");

    let mut last = stage.start(&format!("pin: {}", stage.bpffs.pins().display()));
    last.sigterm();
    assert!(last.wait(Duration::from_secs(10)).is_some_and(|status| status.success()));
    let clean = !stage.has_xdp() && !stage.bpffs.pins().exists();
    bar::holds(
        "R8",
        "left after a clean stop: programs, pins",
        "nothing",
        if clean { "nothing" } else { "some" },
        clean,
    );
    assert!(clean);
}

#[test]
fn an_address_is_explained_at_once() {
    let Some(stage) = Stage::new("kernel::measured::an_address_is_explained_at_once") else { return };
    let gateway = stage.start("ladder: { degrade_after: 1, degrade_window: 60s, gate_for: 10m }");
    let abuser = stage.address(4);
    eventually("the abuser is gated", || {
        stage.ask(abuser);
        stage.why(&gateway, abuser)["in_kernel"] == true
    });
    let arguments = ["why", &abuser.to_string(), "--admin", &gateway.admin_url()];
    let mut took: Vec<f64> = (0..50)
        .map(|_| {
            let begun = Instant::now();
            let exit = stage.server.run(|| gateway_tests::gateway::command(&arguments));
            let took = milliseconds(begun.elapsed());
            let why: serde_json::Value = serde_json::from_str(&exit.stdout).expect("JSON");
            let named = ["/verdict/rung", "/cause/plugin", "/cause/request_id", "/verdict/expires"];
            assert!(named.iter().all(|path| why.pointer(path).is_some_and(|word| !word.is_null())), "{why:#}");
            took
        })
        .collect();
    took.sort_by(f64::total_cmp);
    let words = "`gateway why IP` names rung, cause, request id, expiry; p99 of 50";
    bar::at_most("R11", words, bar::percentile(&took, 99), 50.0, " ms");
    assert!(bar::percentile(&took, 50) < 1_000.0, "{took:?}");
}
