//! What an attacker or an unlucky neighbour tried once and must not succeed with again.

use std::thread;
use std::time::{Duration, Instant};

use gateway_tests::deadline::{holds_within, unix_seconds};
use gateway_tests::h2frames::{END_STREAM, Frames, Outcome, SETTINGS};
use gateway_tests::upstream::response;
use gateway_tests::{Answer, Gateway, Request, Setup, Upstream, eventually};

const OPEN: &str = r#"
_format_version: "3.0"
services:
- url: @UP@
  routes: [{ name: all, paths: [/] }]
"#;

#[test]
fn the_host_that_chose_the_route_is_the_one_that_is_preserved() {
    let upstream = Upstream::echo();
    let gateway = Gateway::start(&upstream.fill(
        r#"
_format_version: "3.0"
services:
- url: @UP@
  routes:
  - { name: open, hosts: [open.test], preserve_host: true }
  - name: closed
    hosts: [closed.test]
    preserve_host: true
    plugins: [{ name: key-auth }]
"#,
    ));
    gateway.send(&Request::get("/").host("closed.test")).expect(401);
    let reply = gateway.send(&Request::get("http://open.test/x").host("closed.test")).expect(200);
    assert_eq!(reply.echoed("host").as_deref(), Some("open.test"));
}

#[test]
fn clients_that_stall_do_not_open_a_circuit() {
    let upstream = Upstream::echo();
    let gateway = Gateway::start(&upstream.fill(
        r#"
_format_version: "3.0"
services:
- url: @UP@
  write_timeout: 300
  routes: [{ name: all, paths: [/] }]
  plugins: [{ name: circuit-breaker, config: { minimum_requests: 4, open_for: 60 } }]
gateway:
  timeouts: { idle: 1s }
"#,
    ));
    let stalled: Vec<_> = (0..6)
        .map(|_| {
            let mut client = gateway.connect();
            client.write(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 100\r\n\r\nx").unwrap();
            client
        })
        .collect();
    for mut client in stalled {
        client.read_reply("POST").unwrap().expect(408);
    }
    gateway.get("/").expect(200);
}

#[test]
fn the_read_timeout_holds_for_requests_with_bodies() {
    let upstream = Upstream::new(|_| Answer::Hang);
    let gateway = Gateway::start(&upstream.fill(
        r#"
_format_version: "3.0"
services:
- url: @UP@
  read_timeout: 300
  retries: 0
  routes: [{ name: all, paths: [/] }]
"#,
    ));
    for request in [Request::post("/", "hello"), Request::post("/", "hello").chunked(2)] {
        let begun = Instant::now();
        gateway.send(&request).expect(504);
        assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
    }
}

const TRANSFORMED: &str = r#"
_format_version: "3.0"
services:
- url: @UP@
  read_timeout: 500
  retries: 0
  routes: [{ name: all, paths: [/] }]
  plugins: [{ name: response-transformer, config: { add: { json: ["seen:yes"] } } }]
"#;

#[test]
fn a_truncated_answer_is_never_whole_because_a_plugin_held_it() {
    let upstream =
        Upstream::raw(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 100\r\n\r\n{\"a\":1}");
    let gateway = Gateway::start(&upstream.fill(TRANSFORMED));
    let reply = gateway.connect().try_send(&Request::get("/"));
    assert!(!reply.as_ref().is_ok_and(|reply| reply.status == 200), "{reply:?}");
}

#[test]
fn an_answer_that_stops_is_not_held_for_ever() {
    let upstream = Upstream::new(|_| {
        Answer::Stall(
            b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 100\r\n\r\n{\"a\"".to_vec(),
        )
    });
    let gateway = Gateway::start(&upstream.fill(TRANSFORMED));
    let begun = Instant::now();
    let reply = gateway.connect().try_send(&Request::get("/"));
    assert!(!reply.as_ref().is_ok_and(|reply| reply.status == 200), "{reply:?}");
    assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
}

#[test]
fn a_request_that_began_in_the_window_before_resets_no_counter() {
    let upstream = Upstream::echo();
    let gateway = Gateway::start(&upstream.fill(
        r#"
_format_version: "3.0"
services:
- url: @UP@
  routes: [{ name: all, paths: [/] }]
  plugins: [{ name: rate-limiting, config: { second: 2, limit_by: ip, policy: local } }]
"#,
    ));
    let begun = unix_seconds();
    let slow: Vec<_> = (0..20)
        .map(|_| {
            let mut client = gateway.connect();
            client.write(b"GET / HTTP/1.1\r\nHost: a\r\n").unwrap();
            client
        })
        .collect();
    eventually("that second is over", || unix_seconds() > begun + 1);
    let mut quick = gateway.connect();
    let started = Instant::now();
    let mut passed = 0;
    for mut client in slow {
        client.write(b"\r\n").unwrap();
        passed += usize::from(client.read_reply("GET").unwrap().status == 200);
        passed += usize::from(quick.get("/").status == 200);
    }
    let windows = 1 + started.elapsed().as_secs() as usize + 1;
    assert!(passed <= 2 * windows, "{passed} of 40 passed within {windows} windows of 2");
}

#[test]
fn what_is_left_of_a_stripped_path_cannot_climb() {
    let upstream = Upstream::echo();
    let gateway = Gateway::start(&upstream.fill(
        r#"
_format_version: "3.0"
services:
- url: @UP@/public
  routes: [{ name: api, paths: [/api] }]
"#,
    ));
    for target in
        ["/api..%2fadmin", "/api..;/admin", "/api..%5cadmin", "/api..;x=1/admin", "/api.;/x", "/api%252e%252e/admin"]
    {
        let reply = gateway.get(target);
        assert_eq!(reply.status, 400, "{target} became {:?}", upstream.seen().last().map(|seen| seen.target.clone()));
    }
    assert_eq!(gateway.get("/api...x/y").expect(200).echoed_uri(), "/public/...x/y");
}

#[test]
fn no_change_of_the_file_is_missed() {
    let upstream = Upstream::echo();
    let gateway = Gateway::start(&upstream.fill(OPEN));
    for turn in 0..25 {
        let text = format!("{}# {turn}\n", upstream.fill(OPEN));
        // Spread over the second, so that each lies differently to whatever ticks.
        thread::sleep(Duration::from_millis(37));
        gateway.replace_file(&text);
        let reloads = |count: u64| gateway.status()["config"]["reloads"].as_u64() >= Some(count);
        assert!(holds_within(Duration::from_secs(5), || reloads(turn + 1)), "change {turn} was missed");
    }
}

#[test]
fn a_busy_folder_keeps_no_change_waiting() {
    let upstream = Upstream::echo();
    let gateway = Gateway::start(&upstream.fill(OPEN));
    let noisy = gateway.folder().join("noise");
    let stop = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
    let stopped = std::sync::Arc::clone(&stop);
    let noise = thread::spawn(move || {
        while !stopped.load(std::sync::atomic::Ordering::Relaxed) {
            std::fs::write(&noisy, "x").unwrap();
            thread::sleep(Duration::from_millis(5));
        }
    });
    gateway.replace_file(&format!("{}# changed\n", upstream.fill(OPEN)));
    let taken = holds_within(Duration::from_secs(5), || gateway.status()["config"]["reloads"] == 1);
    stop.store(true, std::sync::atomic::Ordering::Relaxed);
    noise.join().unwrap();
    assert!(taken, "the change waits for the folder to be quiet");
}

#[test]
fn a_posted_configuration_is_not_undone_by_another_file() {
    let upstream = Upstream::echo();
    let gateway = Gateway::start(&upstream.fill(OPEN));
    let current = gateway.admin_get("/config").text();
    gateway.admin_post("/config", "application/yaml", &format!("{current}# posted\n")).expect(201);
    std::fs::write(gateway.folder().join("neighbour"), "x").unwrap();
    let undone = holds_within(Duration::from_secs(2), || gateway.status()["config"]["reloads"] != 1);
    assert!(!undone, "a write to a neighbouring file brought the old configuration back");
}

const UPGRADE: &[u8] = b"GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
    Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n";

fn tunnel() -> Upstream {
    Upstream::new(|_| {
        Answer::Tunnel(
            b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n".to_vec(),
        )
    })
}

#[test]
fn a_silent_tunnel_is_ended() {
    let upstream = tunnel();
    let gateway = Gateway::start(&upstream.fill(
        r#"
_format_version: "3.0"
services:
- url: @UP@
  read_timeout: 700
  routes: [{ name: all, paths: [/] }]
"#,
    ));
    let mut client = gateway.connect();
    client.write(UPGRADE).unwrap();
    assert_eq!(client.read_head().unwrap().status, 101);
    for _ in 0..4 {
        thread::sleep(Duration::from_millis(300));
        client.write(b"ping").unwrap();
        assert_eq!(client.read_exact(4).unwrap(), b"ping", "a busy tunnel stays");
    }
    assert!(client.closes_within(Duration::from_secs(5)), "a silent one goes");
}

#[test]
fn a_drain_lets_tunnels_finish() {
    let upstream = tunnel();
    let mut gateway = Gateway::start(&format!("{}gateway:\n  timeouts: {{ drain: 5s }}\n", upstream.fill(OPEN)));
    let mut client = gateway.connect();
    client.write(UPGRADE).unwrap();
    assert_eq!(client.read_head().unwrap().status, 101);
    eventually("a tunnel is a connection", || gateway.status()["server"]["connections_active"] == 1);
    gateway.sigterm();
    assert!(gateway.wait(Duration::from_millis(1500)).is_none(), "it waits for the tunnel");
    client.write(b"ping").unwrap();
    assert_eq!(client.read_exact(4).unwrap(), b"ping");
    drop(client);
    assert!(gateway.wait(Duration::from_secs(4)).is_some(), "and no longer");
}

#[test]
fn keys_reach_no_log_whichever_plugin_refuses_first() {
    let upstream = Upstream::echo();
    let gateway = Gateway::start(&upstream.fill(
        r#"
_format_version: "3.0"
services:
- url: @UP@
  routes: [{ name: all, paths: [/] }]
plugins:
- { name: jwt, config: { cookie_names: [session] } }
- { name: key-auth, config: { key_names: [apikey] } }
- { name: file-log, config: { path: /dev/stdout } }
"#,
    ));
    let request = Request::get("/a?apikey=TOPSECRET1&x=1").header("apikey", "TOPSECRET2");
    gateway.send(&request.header("Cookie", "session=TOPSECRET3")).expect(401);
    eventually("both logs have it", || gateway.stdout().lines().filter(|line| line.contains("/a?")).count() == 2);
    let text = gateway.stdout();
    assert!(!text.contains("TOPSECRET"), "{text}");
}

#[test]
fn identity_headers_of_a_client_reach_no_upstream() {
    let upstream = Upstream::echo();
    let gateway = Gateway::start(&upstream.fill(OPEN));
    let names = [
        "X-Consumer-ID",
        "X-Consumer-Username",
        "X-Consumer-Custom-ID",
        "X-Consumer-Groups",
        "X-Authenticated-Groups",
        "X-Credential-Identifier",
        "X-Anonymous-Consumer",
    ];
    let mut request = Request::get("/");
    for name in names {
        request = request.header(name, "admin");
    }
    let reply = gateway.send(&request).expect(200);
    for name in names {
        assert_eq!(reply.echoed(name), None, "{name}");
    }
}

#[test]
fn identity_trailers_of_a_client_reach_no_upstream() {
    let upstream = Upstream::echo();
    let gateway = Gateway::start(&upstream.fill(OPEN));
    let mut client = gateway.connect();
    let fields = "X-Consumer-Username: admin\r\nX-Forwarded-For: 1.2.3.4\r\nX_Consumer_Groups: a\r\nX-Real-IP: 9.9.9.9\r\n\
                  X-Checksum: 7\r\n";
    let text = format!(
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nTrailer: X-Checksum\r\n\r\n1\r\nx\r\n0\r\n{fields}\r\n"
    );
    client.write(text.as_bytes()).unwrap();
    client.read_reply("POST").unwrap().expect(200);
    let trailers = upstream.last().trailers;
    assert!(trailers.iter().all(|(name, _)| name.eq_ignore_ascii_case("x-checksum")), "{trailers:?}");
}

#[test]
fn a_get_that_is_sent_on_as_head_promises_no_body() {
    let upstream = Upstream::new(|_| Answer::Bytes(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n".to_vec()));
    let gateway = Gateway::start(&upstream.fill(
        r#"
_format_version: "3.0"
services:
- url: @UP@
  routes: [{ name: all, paths: [/] }]
  plugins: [{ name: request-transformer, config: { http_method: HEAD } }]
"#,
    ));
    let reply = gateway.get("/").expect(200);
    assert_eq!(reply.body, b"");
}

#[test]
fn a_not_modified_answer_keeps_the_connection_in_step() {
    let upstream = Upstream::new(|seen| match &*seen.target {
        "/304" => Answer::Bytes(b"HTTP/1.1 304 Not Modified\r\nContent-Length: 10\r\n\r\n".to_vec()),
        "/204" => Answer::Bytes(b"HTTP/1.1 204 No Content\r\n\r\n".to_vec()),
        _ => Answer::Bytes(response(200, &[], b"whole")),
    });
    let gateway = Gateway::start(&upstream.fill(OPEN));
    let mut client = gateway.connect();
    for target in ["/304", "/204"] {
        client.get(target);
        assert_eq!(client.get("/").expect(200).body, b"whole", "after {target}");
    }
}

#[test]
fn a_busy_worker_takes_every_configuration() {
    let body = format!("{{\"a\":[{}0]}}", "0,".repeat(500_000)).into_bytes();
    let upstream = Upstream::new(move |_| Answer::reply(200, &[("Content-Type", "application/json")], &body));
    let gateway = std::sync::Arc::new(Gateway::start(&upstream.fill(&TRANSFORMED.replace("500", "20000"))));
    let current = gateway.admin_get("/config").text();
    let busy: Vec<_> = (0..4)
        .map(|_| {
            let gateway = std::sync::Arc::clone(&gateway);
            thread::spawn(move || (0..6).for_each(|_| drop(gateway.get("/").expect(200))))
        })
        .collect();
    let asking: Vec<_> = (0..40)
        .map(|_| {
            let gateway = std::sync::Arc::clone(&gateway);
            thread::spawn(move || (0..6).for_each(|_| drop(gateway.status())))
        })
        .collect();
    for turn in 0..20 {
        gateway.admin_post("/config", "application/yaml", &format!("{current}# {turn}\n")).expect(201);
    }
    let new = current.replace("seen:yes", "seen:new");
    gateway.admin_post("/config", "application/yaml", &new).expect(201);
    busy.into_iter().chain(asking).for_each(|thread| thread.join().unwrap());
    eventually("the last one is in force", || gateway.get("/").text().ends_with("\"new\"}"));
}

/// Ticks of the processor that the process has used; a second has a hundred.
fn ticks(gateway: &Gateway) -> u64 {
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", gateway.pid())).unwrap();
    let fields = stat.rsplit_once(')').unwrap().1.split_whitespace();
    fields.skip(11).take(2).map(|field| field.parse::<u64>().unwrap()).sum()
}

#[test]
fn half_a_preface_costs_no_work() {
    let upstream = Upstream::echo();
    let gateway = Gateway::start(&upstream.fill(OPEN));
    let held: Vec<_> = (0..400)
        .map(|_| {
            let mut client = gateway.connect();
            client.write(b"P").unwrap();
            client
        })
        .collect();
    eventually("all are accepted", || gateway.status()["server"]["connections_active"] == 400);
    let before = ticks(&gateway);
    thread::sleep(Duration::from_secs(2));
    let used = ticks(&gateway) - before;
    drop(held);
    assert!(used < 12, "{used} of 200 ticks for connections that wait");
}

#[test]
fn pings_between_requests_do_not_age_the_next_request() {
    let upstream = Upstream::echo();
    let gateway = Gateway::start(&format!("{}gateway:\n  timeouts: {{ header: 1s }}\n", upstream.fill(OPEN)));
    let mut frames = Frames::connect(gateway.proxy()).unwrap();
    let head: &[(&[u8], &[u8])] =
        &[(b":method", b"GET"), (b":scheme", b"http"), (b":path", b"/"), (b":authority", b"a")];
    frames.headers(1, head, END_STREAM).unwrap();
    assert_eq!(frames.outcome(1), Outcome::Status(200));
    gateway.access_record(|record| record["status"] == 200);
    frames.send(6, 0, 0, &[0; 8]).unwrap();
    thread::sleep(Duration::from_millis(700));
    frames.headers(3, head, END_STREAM).unwrap();
    assert_eq!(frames.outcome(3), Outcome::Status(200));
    eventually("both are logged", || gateway.access_log().len() == 2);
    let took = gateway.access_log()[1]["duration_ms"].as_f64().unwrap();
    assert!(took < 500.0, "the request is {took} ms old because of a PING before it");
}

#[test]
fn a_ping_cuts_no_idle_connection() {
    let upstream = Upstream::echo();
    let gateway = Gateway::start(&format!("{}gateway:\n  timeouts: {{ header: 1s }}\n", upstream.fill(OPEN)));
    let mut frames = Frames::connect(gateway.proxy()).unwrap();
    let head: &[(&[u8], &[u8])] =
        &[(b":method", b"GET"), (b":scheme", b"http"), (b":path", b"/"), (b":authority", b"a")];
    frames.headers(1, head, END_STREAM).unwrap();
    assert_eq!(frames.outcome(1), Outcome::Status(200));
    gateway.access_record(|record| record["status"] == 200);
    frames.send(6, 0, 0, &[0; 8]).unwrap();
    thread::sleep(Duration::from_millis(1800));
    // Refused here, or at the answer.
    let _ = frames.headers(3, head, END_STREAM);
    assert_eq!(frames.outcome(3), Outcome::Status(200), "idle is 60 s, whatever pings");
}

#[test]
fn a_stream_without_a_window_is_not_held_for_ever() {
    let body = vec![b'x'; 1 << 20];
    let upstream = Upstream::new(move |_| Answer::reply(200, &[], &body));
    let gateway = Gateway::start(&format!("{}gateway:\n  timeouts: {{ idle: 1s }}\n", upstream.fill(OPEN)));
    let mut frames = Frames::connect(gateway.proxy()).unwrap();
    // SETTINGS_INITIAL_WINDOW_SIZE 0.
    frames.send(SETTINGS, 0, 0, &[0, 4, 0, 0, 0, 0]).unwrap();
    let head: &[(&[u8], &[u8])] =
        &[(b":method", b"GET"), (b":scheme", b"http"), (b":path", b"/"), (b":authority", b"a")];
    frames.headers(1, head, END_STREAM).unwrap();
    assert_eq!(frames.outcome(1), Outcome::Status(200));
    let record = || gateway.access_log().iter().any(|record| record["aborted"] == true);
    assert!(holds_within(Duration::from_secs(6), record), "the stream and its upstream connection are still held");
}

#[test]
fn what_the_parser_refuses_is_counted_too() {
    let upstream = Upstream::echo();
    let gateway = Gateway::start(&upstream.fill(OPEN));
    let mut client = gateway.connect();
    client.write(b"GET / HTTP/1.1\r\nHost: a\r\nbroken header\r\n\r\n").unwrap();
    client.read_head().unwrap();
    let metrics = gateway.admin_get("/metrics").text();
    assert!(metrics.contains("gateway_requests_total{class=\"4xx\"} 1"), "{metrics}");
}

#[test]
fn a_second_process_on_the_same_address_is_refused() {
    let upstream = Upstream::echo();
    let first = Gateway::start(&upstream.fill(OPEN));
    let text = format!("{}gateway:\n  listen: [\"{}\"]\n", upstream.fill(OPEN), first.proxy());
    assert!(Setup::new(&text).launch().is_err(), "two processes share the traffic of one address");
}
