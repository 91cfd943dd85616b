//! Faults around the gateway, as figures: the tests in `hostile::faults` show that nothing is lost, this shows how fast.

use std::net::SocketAddr;
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use gateway_tests::bar;
use gateway_tests::deadline::holds_within;
use gateway_tests::load::Load;
use gateway_tests::process::{descriptors, ticks};
use gateway_tests::{Client, Gateway, Request, Upstream, eventually, skip};
use nix::sys::signal::Signal;
use serde_json::json;

use super::scene::raw;

const CONFIG: &str = r#"
_format_version: "3.0"
services:
- name: s
  url: @UP@
  read_timeout: 5000
  routes: [{ name: r, paths: [/] }]
"#;

const RELOADS: u32 = 20;
const IN_FLIGHT: usize = 20;
const STALE: u32 = 200;

/// All of them, each with a gateway of its own.
pub fn run() {
    reloads();
    stop();
    upstream_gone();
    stale_connections();
    no_descriptors();
    standstill();
}

fn gateway(upstream: &Upstream) -> Gateway {
    Gateway::start(&format!("{}gateway:\n  access_log: off\n", upstream.fill(CONFIG)))
}

/// The same file with one more route, which shows that it is in force.
fn reload(gateway: &Gateway, upstream: &Upstream, at: u32) {
    let extra = format!(
        "- {{ name: e{at}, url: \"http://127.0.0.1:1\", routes: [{{ paths: [/e{at}], plugins: [{{ name: request-termination, \
         config: {{ status_code: 200 }} }}] }}] }}\n"
    );
    let text = format!("{}{extra}gateway:\n  access_log: off\n", upstream.fill(CONFIG));
    gateway.reload(&text, || gateway.get(&format!("/e{at}")).status == 200);
}

fn reloads() {
    let upstream = Upstream::echo();
    let gateway = gateway(&upstream);
    let mut idle: Vec<Client> = (0..100).map(|_| gateway.connect()).collect();
    idle.iter_mut().for_each(|client| drop(client.get("/x").expect(200)));
    let load = Load::start(gateway.proxy(), "/x", 4);
    let calm = Instant::now();
    thread::sleep(Duration::from_secs(3));
    let begun = Instant::now();
    (0..RELOADS).for_each(|at| reload(&gateway, &upstream, at));
    let end = Instant::now();
    let went = load.finish();
    let closed = idle.iter_mut().filter_map(|client| client.try_send(&Request::get("/x")).err()).count();
    let (before, during) = (went.p99_ms(calm, begun), went.p99_ms(begun, end));
    let what = format!("{RELOADS} reloads under load");
    bar::at_most("S5", &format!("{what}: failed, of {}", went.served), went.wrong.len() as f64, 0.0, "");
    bar::at_most("S5", &format!("{what}: idle connections closed, of {}", idle.len()), closed as f64, 0.0, "");
    bar::at_most("S5", &format!("{what}: p99 {before:.1} ms before, more by"), during - before, 5.0, " ms");
    raw(&json!({"fault": "reloads", "served": went.served, "failed": went.wrong.len(), "idle_closed": closed,
        "p99_ms": [before, during]}));
}

fn stop() {
    let upstream = Upstream::echo();
    let mut gateway = gateway(&upstream);
    let flying: Vec<_> = (0..IN_FLIGHT)
        .map(|_| {
            let mut client = gateway.connect();
            thread::spawn(move || client.try_send(&Request::get("/delay/1")).map(|reply| reply.status))
        })
        .collect();
    eventually("all are in flight", || upstream.count() == IN_FLIGHT);
    let begun = Instant::now();
    gateway.sigterm();
    let answers = flying.into_iter().map(|thread| thread.join().expect("a client does not panic"));
    let good = answers.filter(|answer| matches!(answer, Ok(200))).count();
    let ended = gateway.wait(Duration::from_secs(10)).is_some_and(|status| status.code() == Some(0));
    let took = begun.elapsed().as_secs_f64();
    let what = format!("SIGTERM with {IN_FLIGHT} in flight for 1 s");
    bar::holds("S6", &what, &format!("{IN_FLIGHT} answered"), format!("{good}"), good == IN_FLIGHT && ended);
    bar::at_most("S6", &format!("{what}: ended after"), took, 1.5, " s");
    raw(&json!({"fault": "stop", "answered": good, "ended_s": took}));
}

fn upstream_gone() {
    // An address of its own, so that nobody else is given the port meanwhile.
    let own = SocketAddr::from(([127, 88, 0, 13], 18_080));
    let upstream = Upstream::echo_at(own).expect("an address of loopback");
    let gateway = gateway(&upstream);
    gateway.get("/x").expect(200);
    drop(upstream);
    let gone = Instant::now();
    let (mut worst, mut errors, mut odd) = (Duration::ZERO, 0, 0);
    while gone.elapsed() < Duration::from_millis(1500) {
        let begun = Instant::now();
        let reply = gateway.get("/x");
        if reply.status != 200 {
            worst = worst.max(begun.elapsed());
            errors += 1;
            odd += u32::from(!matches!(reply.status, 502 | 503));
        }
        thread::sleep(Duration::from_millis(5));
    }
    let mut back = None;
    holds_within(Duration::from_secs(5), || {
        back = Upstream::echo_at(own).ok();
        back.is_some()
    });
    let returned = Instant::now();
    while gateway.get("/x").status != 200 && returned.elapsed() < Duration::from_secs(10) {}
    let first = returned.elapsed().as_secs_f64();
    let what = format!("upstream gone for 1.5 s, {errors} errors");
    bar::at_most("S7", &format!("{what}: other than 502 and 503"), f64::from(odd), 0.0, "");
    bar::at_most("S7", &format!("{what}: slowest"), worst.as_secs_f64() * 1e3, 50.0, " ms");
    bar::at_most("S7", &format!("{what}: first good answer after its return"), first, 0.1, " s");
    raw(&json!({"fault": "upstream gone", "errors": errors, "slowest_ms": worst.as_secs_f64() * 1e3, "back_s": first}));
}

fn stale_connections() {
    let upstream = Upstream::echo();
    let gateway = gateway(&upstream);
    let mut client = gateway.connect();
    let mut lost = 0;
    for _ in 0..STALE {
        upstream.cut_connections();
        lost += u32::from(!client.try_send(&Request::get("/x")).is_ok_and(|reply| reply.status == 200));
    }
    let from = upstream.count();
    for at in 0..STALE {
        upstream.cut_connections();
        // Not answered is allowed; sent twice is not.
        let _ = client.try_send(&Request::post("/x", format!("pay-{at}")));
    }
    let seen = upstream.seen().split_off(from);
    let times = |at: u32| seen.iter().filter(|seen| seen.body == format!("pay-{at}").into_bytes()).count();
    let twice = (0..STALE).filter(|at| times(*at) > 1).count();
    bar::at_most("S8", &format!("{STALE} GETs on stale pooled connections: lost"), f64::from(lost), 0.0, "");
    bar::at_most("S8", &format!("{STALE} POSTs on stale pooled connections: sent twice"), twice as f64, 0.0, "");
    raw(&json!({"fault": "stale", "lost": lost, "twice": twice}));
}

fn no_descriptors() {
    let upstream = Upstream::echo();
    let mut gateway = gateway(&upstream);
    gateway.get("/x").expect(200);
    let pid = gateway.pid();
    let limit = format!("--nofile={}", descriptors(pid) + 40);
    let set = Command::new("prlimit").args(["--pid", &pid.to_string(), &limit]).status();
    if !set.is_ok_and(|status| status.success()) {
        return skip("descriptors run out", "the command `prlimit` (util-linux) does not set limits here");
    }
    // The backlog takes more than the process can.
    let many: Vec<_> = (0..300).filter_map(|_| std::net::TcpStream::connect(gateway.proxy()).ok()).collect();
    let (from, begun) = (ticks(pid), Instant::now());
    thread::sleep(Duration::from_secs(3));
    let share = ticks(pid).saturating_sub(from) as f64 / 100.0 / begun.elapsed().as_secs_f64();
    drop(many);
    let freed = Instant::now();
    let serves = || {
        Client::try_connect_from(gateway.proxy(), std::net::Ipv4Addr::LOCALHOST)
            .and_then(|mut client| client.try_send(&Request::get("/x")))
            .is_ok_and(|reply| reply.status == 200)
    };
    while !serves() && freed.elapsed() < Duration::from_secs(10) {}
    let back = freed.elapsed().as_secs_f64();
    let same = gateway.runs() && gateway.pid() == pid;
    bar::at_most("S9", "40 descriptors for 300 clients: share of a core", share, 0.05, "");
    bar::at_most("S9", "40 descriptors for 300 clients: served again after", back, 0.5, " s");
    bar::holds(
        "S9",
        "40 descriptors for 300 clients: process",
        "the same",
        if same { "the same" } else { "another" },
        same,
    );
    raw(&json!({"fault": "descriptors", "core": share, "back_s": back}));
}

fn standstill() {
    let upstream = Upstream::echo();
    let gateway = gateway(&upstream);
    let load = Load::start(gateway.proxy(), "/x", 4);
    thread::sleep(Duration::from_secs(1));
    gateway.signal(Signal::SIGSTOP);
    thread::sleep(Duration::from_secs(2));
    gateway.signal(Signal::SIGCONT);
    let goes_on = Instant::now();
    thread::sleep(Duration::from_secs(1));
    let went = load.finish();
    // The answers that waited come at once; the next ones must be as fast as ever.
    let after = went.p99_ms(goes_on + Duration::from_millis(100), Instant::now());
    bar::at_most("S10", &format!("standstill of 2 s: failed, of {}", went.served), went.wrong.len() as f64, 0.0, "");
    bar::at_most("S10", "standstill of 2 s: p99 from 0.1 s after it", after, 100.0, " ms");
    raw(&json!({"fault": "standstill", "served": went.served, "failed": went.wrong.len(), "p99_after_ms": after}));
}
