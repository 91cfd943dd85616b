//! Things that go wrong around the gateway: upstreams that vanish, descriptors, disks and memory that run out, a process
//! that stands still, a wall clock that jumps. What clients notice is bounded and said.

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::Ordering;
use std::thread;
use std::time::{Duration, Instant};

use gateway_tests::absent::Deaf;
use gateway_tests::deadline::{holds_within, say, unix_seconds};
use gateway_tests::jwt::hmac_token;
use gateway_tests::load::{Load, Went};
use gateway_tests::process::{descriptors, ticks};
use gateway_tests::{Answer, Client, Gateway, Request, Setup, Upstream, eventually, skip};
use nix::sys::signal::Signal;
use serde_json::json;

const CONFIG: &str = r#"
_format_version: "3.0"
services:
- name: s
  url: @UP@
  read_timeout: 5000
  routes: [{ name: r, paths: [/] }]
"#;

#[test]
fn twenty_reloads_under_load_lose_nothing() {
    let upstream = Upstream::echo();
    let gateway = Gateway::start(&upstream.fill(CONFIG));
    let mut idle: Vec<Client> = (0..10).map(|_| gateway.connect()).collect();
    idle.iter_mut().for_each(|client| drop(client.get("/x").expect(200)));
    let load = Load::start(gateway.proxy(), "/x", 4);
    for at in 0..20 {
        let extra = format!(
            "- {{ name: e{at}, url: \"http://127.0.0.1:1\", routes: [{{ paths: [/e{at}], plugins: [{{ name: request-termination, config: {{ status_code: 200 }} }}] }}] }}\n"
        );
        gateway.reload(&format!("{}{extra}", upstream.fill(CONFIG)), || gateway.get(&format!("/e{at}")).status == 200);
    }
    let Went { served, wrong, .. } = load.finish();
    assert!(wrong.is_empty(), "{} of {served}: {:?}", wrong.len(), &wrong[..wrong.len().min(5)]);
    for client in &mut idle {
        client.get("/x").expect(200);
    }
    say(&format!("FIGURE 20 reloads: {served} served, 0 failed, 0 of 10 idle connections closed"));
}

#[test]
fn a_stop_answers_twenty_in_flight() {
    let upstream = Upstream::echo();
    let mut gateway = Gateway::start(&upstream.fill(CONFIG));
    let flying: Vec<_> = (0..20)
        .map(|_| {
            let mut client = gateway.connect();
            thread::spawn(move || client.try_send(&Request::get("/delay/1")).map(|reply| reply.status))
        })
        .collect();
    eventually("twenty are in flight", || upstream.count() == 20);
    let begun = Instant::now();
    gateway.sigterm();
    let answers: Vec<_> = flying.into_iter().map(|thread| thread.join().unwrap()).collect();
    assert!(answers.iter().all(|answer| matches!(answer, Ok(200))), "{answers:?}");
    let status = gateway.wait(Duration::from_secs(10)).expect("it ends");
    assert_eq!(status.code(), Some(0));
    let took = begun.elapsed();
    assert!(took < Duration::from_secs(3), "{took:?}");
    say(&format!("FIGURE stop with 20 in flight: 20 answered, ended after {:.2} s", took.as_secs_f64()));
}

#[test]
fn an_upstream_that_is_gone_for_a_while() {
    // An address of this test's own, so that nobody else is given the port meanwhile.
    let pid = std::process::id();
    let own: SocketAddr = format!("127.{}.{}.13:18080", 100 + pid / 256 % 100, pid % 256).parse().unwrap();
    let upstream = Upstream::echo_at(own).expect("an address of loopback");
    let gateway = Gateway::start(&upstream.fill(CONFIG));
    gateway.get("/x").expect(200);
    drop(upstream);
    let gone = Instant::now();
    let (mut worst, mut errors) = (Duration::ZERO, 0);
    while gone.elapsed() < Duration::from_millis(1500) {
        let begun = Instant::now();
        let reply = gateway.get("/x");
        if reply.status != 200 {
            assert!(matches!(reply.status, 502 | 503), "{reply:?}");
            worst = worst.max(begun.elapsed());
            errors += 1;
        }
        // Bounds the load; nothing waits for this.
        thread::sleep(Duration::from_millis(5));
    }
    let mut back = None;
    assert!(holds_within(Duration::from_secs(5), || {
        back = Upstream::echo_at(own).ok();
        back.is_some()
    }));
    let returned = Instant::now();
    eventually("it is served again", || gateway.get("/x").status == 200);
    let first = returned.elapsed();
    assert!(errors > 0 && worst < Duration::from_millis(300), "{errors} errors, worst {worst:?}");
    assert!(first < Duration::from_millis(500), "{first:?}");
    say(&format!(
        "FIGURE upstream gone 1.5 s: {errors} x 502/503, worst {} ms, first good answer {} ms after",
        worst.as_millis(),
        first.as_millis()
    ));
}

#[test]
fn stale_pooled_connections_cost_nobody_an_answer() {
    let upstream = Upstream::echo();
    let gateway = Gateway::start(&upstream.fill(CONFIG));
    let mut client = gateway.connect();
    let mut lost = 0;
    for _ in 0..200 {
        upstream.cut_connections();
        lost += u32::from(client.get("/x").status != 200);
    }
    assert_eq!(lost, 0, "of 200");
    let from = upstream.count();
    for at in 0..100 {
        upstream.cut_connections();
        let reply = client.send(&Request::post("/x", format!("pay-{at}")));
        assert!(matches!(reply.status, 200 | 502), "{reply:?}");
    }
    let seen = upstream.seen().split_off(from);
    for at in 0..100 {
        let body = format!("pay-{at}").into_bytes();
        assert!(seen.iter().filter(|seen| seen.body == body).count() <= 1, "a POST was sent twice");
    }
    say("FIGURE stale pooled connections: 0 of 200 GETs lost, 0 of 100 POSTs sent twice");
}

#[test]
fn a_target_that_answers_no_handshake_costs_nobody_an_answer() {
    let (upstream, deaf) = (Upstream::echo(), Deaf::new());
    let text = format!(
        r#"
_format_version: "3.0"
services:
- {{ host: pool, connect_timeout: 300, retries: 3, routes: [{{ paths: [/] }}] }}
upstreams:
- {{ name: pool, targets: [{{ target: "{}" }}, {{ target: "{}" }}] }}
"#,
        deaf.address(),
        upstream.address()
    );
    let gateway = Gateway::start(&text);
    for _ in 0..10 {
        let begun = Instant::now();
        gateway.get("/x").expect(200);
        assert!(begun.elapsed() < Duration::from_secs(2), "{:?}", begun.elapsed());
    }
}

/// Whether a new connection gets an answer.
fn serves(gateway: &Gateway) -> bool {
    let client = Client::try_connect_from(gateway.proxy(), std::net::Ipv4Addr::LOCALHOST);
    client.and_then(|mut client| client.try_send(&Request::get("/x"))).is_ok_and(|reply| reply.status == 200)
}

#[test]
fn descriptors_run_out() {
    let upstream = Upstream::echo();
    let mut gateway = Gateway::start(&upstream.fill(CONFIG));
    gateway.get("/x").expect(200);
    let pid = gateway.pid();
    let limit = format!("--nofile={}", descriptors(pid) + 40);
    let set = Command::new("prlimit").args(["--pid", &pid.to_string(), &limit]).status();
    if !set.is_ok_and(|status| status.success()) {
        return skip("descriptors_run_out", "the command `prlimit` (util-linux) does not set limits here");
    }
    // The backlog takes more than the process can.
    let many: Vec<_> = (0..300).filter_map(|_| std::net::TcpStream::connect(gateway.proxy()).ok()).collect();
    assert!(many.len() > 100, "{}", many.len());
    let (from, begun) = (ticks(pid), Instant::now());
    // What is measured is the time itself.
    thread::sleep(Duration::from_secs(2));
    let share = (ticks(pid) - from) as f64 / 100.0 / begun.elapsed().as_secs_f64();
    assert!(share < 0.1, "{share} of a core");
    drop(many);
    let freed = Instant::now();
    eventually("it serves again", || serves(&gateway));
    let back = freed.elapsed();
    assert!(back < Duration::from_secs(3), "{back:?}");
    assert!(gateway.runs() && gateway.pid() == pid);
    let metrics = gateway.admin_get("/metrics").expect(200).text();
    assert!(metrics.contains("gateway_connections_refused_total{reason=\"accept_error\"}"), "{metrics}");
    say(&format!("FIGURE descriptors run out: {share:.3} of a core, back in {} ms", back.as_millis()));
}

#[test]
fn the_log_s_disk_is_full() {
    let upstream = Upstream::echo();
    let text = format!("{}gateway:\n  access_log: /dev/full\n", upstream.fill(CONFIG));
    let mut gateway = Gateway::start(&text);
    let mut client = gateway.connect();
    for _ in 0..500 {
        client.get("/x").expect(200);
    }
    eventually("the loss is told", || gateway.status()["log_lines_dropped"].as_u64().unwrap() > 0);
    client.get("/x").expect(200);
    assert!(gateway.runs());
}

#[test]
fn the_process_stands_still() {
    let upstream = Upstream::echo();
    let gateway = Gateway::start(&upstream.fill(CONFIG));
    let load = Load::start(gateway.proxy(), "/x", 4);
    eventually("there is load", || load.served.load(Ordering::SeqCst) > 50);
    gateway.signal(Signal::SIGSTOP);
    let stopped = Instant::now();
    assert!(!holds_within(Duration::from_secs(2), || stopped.elapsed() > Duration::from_secs(60)));
    gateway.signal(Signal::SIGCONT);
    let before = load.served.load(Ordering::SeqCst);
    eventually("it goes on", || load.served.load(Ordering::SeqCst) > before + 50);
    let Went { served, wrong, .. } = load.finish();
    assert!(wrong.is_empty(), "{wrong:?}");
    say(&format!("FIGURE 2 s standstill: {served} served, 0 failed"));
}

const FAKETIME: &str = "/usr/lib/x86_64-linux-gnu/faketime/libfaketime.so.1";

#[test]
fn the_wall_clock_jumps() {
    if !Path::new(FAKETIME).exists() {
        return skip("the_wall_clock_jumps", "the library libfaketime (package faketime) is missing");
    }
    let upstream = Upstream::echo();
    let text = r#"
_format_version: "3.0"
services:
- url: @UP@
  read_timeout: 5000
  routes:
  - { paths: [/x] }
  - { paths: [/jwt], plugins: [{ name: jwt, config: { claims_to_verify: [exp] } }] }
consumers:
- { username: ann, jwt_secrets: [{ key: ann, secret: a-secret-of-more-than-thirty-two-bytes }] }
"#;
    let folder = tempfile::tempdir().unwrap();
    let control = folder.path().join("offset");
    let jump = |offset: &str| {
        let draft = folder.path().join("draft");
        fs::write(&draft, offset).unwrap();
        fs::rename(&draft, &control).unwrap();
    };
    jump("+0");
    let gateway = Setup::new(&upstream.fill(text))
        .env("LD_PRELOAD", FAKETIME)
        .env("FAKETIME_TIMESTAMP_FILE", &control.display().to_string())
        .env("FAKETIME_NO_CACHE", "1")
        .env("FAKETIME_DONT_FAKE_MONOTONIC", "1")
        .env("DONT_FAKE_MONOTONIC", "1")
        .start();
    let token = hmac_token(
        "HS256",
        &json!({ "iss": "ann", "exp": unix_seconds() + 600 }),
        b"a-secret-of-more-than-thirty-two-bytes",
    );
    let bearer = Request::get("/jwt").header("Authorization", &format!("Bearer {token}"));
    gateway.send(&bearer).expect(200);
    let mut kept = gateway.connect();
    kept.get("/x").expect(200);
    let load = Load::start(gateway.proxy(), "/x", 4);
    jump("+3600");
    eventually("the token is over", || gateway.send(&bearer).status == 401);
    kept.get("/x").expect(200);
    jump("-3600");
    eventually("the token is good", || gateway.send(&bearer).status == 200);
    kept.get("/x").expect(200);
    let Went { served, wrong, .. } = load.finish();
    assert!(served > 20 && wrong.is_empty(), "{served} {wrong:?}");
    say(&format!("FIGURE wall clock +1 h, -1 h: {served} served, 0 failed"));
}

/// A control group of version 1 for memory, gone with the value.
struct Group(PathBuf);

impl Group {
    fn new(limit: u64) -> Option<Self> {
        let root = Path::new("/sys/fs/cgroup/memory");
        let group = Self(root.join(format!("gateway-tests-{}", std::process::id())));
        fs::create_dir(&group.0).ok()?;
        fs::write(group.0.join("memory.limit_in_bytes"), limit.to_string()).ok()?;
        Some(group)
    }

    /// What `start` starts belongs to the group; the calling thread goes back to where it was.
    fn within<T>(&self, start: impl FnOnce() -> T) -> Option<T> {
        let table = fs::read_to_string("/proc/thread-self/cgroup").ok()?;
        let own = table.lines().find_map(|line| line.split_once(":memory:"))?.1.trim_start_matches('/').to_owned();
        fs::write(self.0.join("tasks"), "0").ok()?;
        let started = start();
        fs::write(Path::new("/sys/fs/cgroup/memory").join(own).join("tasks"), "0").expect("back where it was");
        Some(started)
    }
}

impl Group {
    /// What counts against the limit, without what the kernel takes back by itself.
    fn used_kib(&self) -> u64 {
        let text = fs::read_to_string(self.0.join("memory.usage_in_bytes")).unwrap();
        let stat = fs::read_to_string(self.0.join("memory.stat")).unwrap();
        let cached = stat
            .lines()
            .filter_map(|line| line.split_once("active_file "))
            .filter(|(before, _)| before.starts_with("total_"));
        let cached: u64 = cached.map(|(_, bytes)| bytes.parse::<u64>().unwrap()).sum();
        text.trim().parse::<u64>().unwrap().saturating_sub(cached) >> 10
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        // Its process has ended just now.
        let _ = holds_within(Duration::from_secs(2), || fs::remove_dir(&self.0).is_ok());
    }
}

#[test]
fn memory_runs_out() {
    const LIMIT: u64 = 128 << 20;
    let name = "memory_runs_out";
    let Some(group) = Group::new(LIMIT) else {
        return skip(name, "no control group of version 1 can be made here");
    };
    let upstream =
        Upstream::new(|seen| if seen.method == "POST" { Answer::Hang } else { Answer::reply(200, &[], b"ok") });
    let text = format!(
        "{}gateway:\n  timeouts: {{ body: 20s, idle: 20s }}\n",
        upstream
            .fill(CONFIG)
            .replace("[/] }", "[/], plugins: [{ name: request-transformer, config: { add: { body: [\"a:b\"] } } }] }")
    );
    let Some(mut gateway) = group.within(|| Gateway::start(&text)) else {
        return skip(name, "a thread cannot be moved into the group");
    };
    gateway.get("/x").expect(200);
    let head = b"POST /x HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\nContent-Length: 1000000\r\n\r\n";
    let piece = vec![b' '; 200_000];
    let mut slow = Vec::new();
    let mut peak = 0;
    for at in 0..2_000 {
        let Ok(mut client) = Client::try_connect_from(gateway.proxy(), std::net::Ipv4Addr::LOCALHOST) else { continue };
        if client.write(head).and_then(|()| client.write(&piece)).is_ok() {
            slow.push(client);
        }
        if at % 20 == 0 {
            assert!(gateway.runs(), "killed after {at}");
            peak = peak.max(group.used_kib());
        }
    }
    // What was sent waits in the kernel until the gateway gets to it.
    eventually("it sheds", || {
        peak = peak.max(group.used_kib());
        let metrics = gateway.admin_get("/metrics").expect(200).text();
        let by_request = metrics.contains("gateway_own_answers_total{reason=\"overloaded\"}");
        by_request || metrics.contains("gateway_connections_refused_total{reason=\"memory\"}")
    });
    assert!(!holds_within(Duration::from_secs(1), || {
        peak = peak.max(group.used_kib());
        !gateway.runs()
    }));
    drop(slow);
    eventually("it serves again", || serves(&gateway));
    say(&format!("FIGURE memory limit 128 MiB, 2 000 slow bodies: at most {peak} KiB, not killed"));
}
