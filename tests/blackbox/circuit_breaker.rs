//! circuit-breaker: closed, open with a fallback, half-open with probes, closed again.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use gateway_tests::absent::Refusing;
use gateway_tests::{Answer, Gateway, Upstream, eventually};

const CONFIG: &str = r#"
_format_version: "3.0"
services:
- name: shaky
  url: @UP@
  routes: [{ name: shaky, paths: [/shaky] }]
  plugins:
  - name: circuit-breaker
    config: { window: 10, minimum_requests: 4, failure_ratio: 0.5, open_for: 1, half_open_probes: 2 }
- name: worded
  url: @UP@
  routes: [{ name: worded, paths: [/worded] }]
  plugins:
  - name: circuit-breaker
    config:
      minimum_requests: 2
      open_for: 30
      failure_statuses: [418]
      fallback: { status: 200, headers: ["X-Fallback: yes"], body: '{"items":[]}', content_type: application/json }
- name: steady
  url: @UP@
  routes: [{ name: steady, paths: [/steady] }]
"#;

struct Scene {
    upstream: Upstream,
    gateway: Gateway,
    broken: Arc<AtomicBool>,
}

fn scene() -> Scene {
    let broken = Arc::new(AtomicBool::new(true));
    let state = Arc::clone(&broken);
    let upstream = Upstream::new(move |seen| {
        let status = match (&*seen.target, state.load(Ordering::SeqCst)) {
            ("/tea", _) => 418,
            (_, true) => 500,
            (_, false) => 200,
        };
        Answer::reply(status, &[], b"answer")
    });
    let gateway = Gateway::start(&upstream.fill(CONFIG));
    Scene { upstream, gateway, broken }
}

#[test]
fn it_opens_serves_the_fallback_and_closes_after_good_probes() {
    let scene = scene();
    let mut client = scene.gateway.connect();
    for _ in 0..4 {
        assert_eq!(client.get("/shaky").expect(500).header("x-circuit-breaker"), None);
    }
    let asked = scene.upstream.count();
    let opened = Instant::now();
    let reply = client.get("/shaky");
    let message = "The upstream server is currently unavailable";
    let reply = reply.expect_templated(503, message);
    assert_eq!(reply.header("x-circuit-breaker"), Some("open"));
    assert_eq!(reply.number("retry-after"), 1);
    assert_eq!(scene.upstream.count(), asked, "the upstream is left in peace");
    // Other services do not share its fate.
    client.get("/steady").expect(500);

    // A failing probe opens it anew.
    let asked = scene.upstream.count();
    eventually("half-open", || client.get("/shaky").status == 500);
    assert!(opened.elapsed() >= Duration::from_millis(900), "open for a second");
    client.get("/shaky").expect(503);
    assert_eq!(scene.upstream.count(), asked + 1, "one probe was enough");

    // Two good probes close it.
    scene.broken.store(false, Ordering::SeqCst);
    eventually("a good probe", || client.get("/shaky").status == 200);
    for _ in 0..10 {
        assert_eq!(client.get("/shaky").expect(200).header("x-circuit-breaker"), None);
    }
}

#[test]
fn the_fallback_and_the_failures_are_as_configured() {
    let scene = scene();
    for _ in 0..3 {
        scene.gateway.get("/worded").expect(500);
    }
    for _ in 0..3 {
        scene.gateway.get("/worded/tea").expect(418);
    }
    let reply = scene.gateway.get("/worded").expect(200);
    assert_eq!(reply.text(), r#"{"items":[]}"#);
    assert_eq!(reply.header("content-type"), Some("application/json"));
    assert_eq!(reply.header("x-fallback"), Some("yes"));
    assert_eq!(reply.header("x-circuit-breaker"), Some("open"));
    assert!((1..=30).contains(&reply.number("retry-after")));
}

#[test]
fn an_upstream_that_is_gone_opens_it() {
    let gone = Refusing::new();
    let text = CONFIG.replace("@UP@", &format!("http://{}", gone.address()));
    let gateway = Gateway::start(&text.replace("minimum_requests: 4", "minimum_requests: 3"));
    let mut client = gateway.connect();
    for _ in 0..3 {
        let reply = client.get("/shaky");
        assert!(matches!(reply.status, 502 | 503), "{reply:?}");
        assert_eq!(reply.header("x-circuit-breaker"), None);
    }
    assert_eq!(client.get("/shaky").expect(503).header("x-circuit-breaker"), Some("open"));
}

#[test]
fn an_upstream_that_never_answers_opens_it() {
    let upstream = Upstream::new(|_| Answer::Hang);
    let text = upstream
        .fill(CONFIG)
        .replace("- name: shaky\n", "- name: shaky\n  read_timeout: 200\n  write_timeout: 200\n  retries: 0\n");
    let gateway = Gateway::start(&text.replace("minimum_requests: 4", "minimum_requests: 2"));
    let mut client = gateway.connect();
    for _ in 0..2 {
        assert_eq!(client.get("/shaky").expect(504).header("x-circuit-breaker"), None);
    }
    assert_eq!(client.get("/shaky").expect(503).header("x-circuit-breaker"), Some("open"));
}

#[test]
fn few_failures_among_many_successes_change_nothing() {
    let scene = scene();
    scene.broken.store(false, Ordering::SeqCst);
    let mut client = scene.gateway.connect();
    for _ in 0..8 {
        client.get("/shaky").expect(200);
    }
    scene.broken.store(true, Ordering::SeqCst);
    for _ in 0..4 {
        client.get("/shaky").expect(500);
    }
    scene.broken.store(false, Ordering::SeqCst);
    client.get("/shaky").expect(200);
}
