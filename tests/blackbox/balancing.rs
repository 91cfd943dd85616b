//! Upstreams: which target a request goes to, and which targets are left out because they are unhealthy.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, Ordering};
use std::thread;

use gateway_tests::absent::Refusing;
use gateway_tests::tls::Pair;
use gateway_tests::{Answer, Client, Gateway, Reply, Request, Setup, Upstream, eventually};

/// An upstream entity with `fields`, two targets, and a service on it.
fn config(fields: &str, targets: &[String]) -> String {
    let targets: String = targets.iter().map(|target| format!("  - {{ target: '{target}' }}\n")).collect();
    format!(
        r#"
_format_version: "3.0"
upstreams:
- name: pool
{fields}
  targets:
{targets}
services:
- name: s
  host: pool
  retries: 0
  routes:
  - {{ name: r, paths: ["/", "~/user/(?<id>[a-z]+)"] }}
"#
    )
}

/// Upstreams that answer with their number, and their addresses.
fn numbered(count: u8) -> (Vec<Upstream>, Vec<String>) {
    let upstreams: Vec<Upstream> =
        (0..count).map(|i| Upstream::new(move |_| Answer::reply(200, &[], &[b'0' + i]))).collect();
    let targets = upstreams.iter().map(|upstream| upstream.address().to_string()).collect();
    (upstreams, targets)
}

fn texts(replies: impl IntoIterator<Item = Reply>) -> BTreeSet<String> {
    replies.into_iter().map(|reply| reply.expect(200).text()).collect()
}

#[test]
fn the_same_key_goes_to_the_same_target() {
    let (_upstreams, targets) = numbered(4);
    for (fields, with) in [
        (
            "hash_on: header\n  hash_on_header: X-User",
            (|key| Request::get("/").header("X-User", key)) as fn(&str) -> Request,
        ),
        ("hash_on: query_arg\n  hash_on_query_arg: user", |key| Request::get(&format!("/?user={key}"))),
        ("hash_on: path", |key| Request::get(&format!("/{key}"))),
        ("hash_on: uri_capture\n  hash_on_uri_capture: id", |key| Request::get(&format!("/user/{key}"))),
        ("hash_on: cookie\n  hash_on_cookie: u", |key| Request::get("/").header("Cookie", &format!("a=b; u={key}"))),
        ("hash_on: consumer\n  hash_fallback: header\n  hash_fallback_header: X-User", |key| {
            Request::get("/").header("X-User", key)
        }),
    ] {
        let gateway = Gateway::start(&config(&format!("  {fields}"), &targets));
        let mut used = BTreeSet::new();
        for key in ["ann", "bob", "cid", "dan", "eve", "fay", "gus", "hal"] {
            let met = texts((0..3).map(|_| gateway.send(&with(key))));
            assert_eq!(met.len(), 1, "{fields} {key}: {met:?}");
            used.extend(met);
        }
        assert!(used.len() > 1, "{fields}: {used:?}");
    }
}

#[test]
fn a_client_without_the_cookie_gets_one() {
    let (_upstreams, targets) = numbered(4);
    let gateway =
        Gateway::start(&config("  hash_on: cookie\n  hash_on_cookie: user\n  hash_on_cookie_path: /x", &targets));
    let first = gateway.get("/").expect(200);
    let set = first.header("set-cookie").unwrap().to_owned();
    assert!(set.contains("; Path=/x; HttpOnly; SameSite=Lax"), "{set}");
    let cookie = set.split(';').next().unwrap();
    for _ in 0..3 {
        let reply = gateway.send(&Request::get("/").header("Cookie", cookie)).expect(200);
        assert_eq!(reply.text(), first.text());
        assert_eq!(reply.header("set-cookie"), None);
    }
    assert_ne!(gateway.get("/").header("set-cookie"), Some(set.as_str()));
}

#[test]
fn a_busy_target_is_left_to_itself() {
    let stuck = Upstream::new(|_| Answer::Hang);
    let (_upstreams, mut targets) = numbered(1);
    targets.insert(0, stuck.address().to_string());
    let gateway = Gateway::start(&config("  algorithm: least-connections", &targets));
    let proxy = gateway.proxy();
    let waiting = thread::spawn(move || {
        let mut client = Client::connect(proxy);
        let _ = client.write(b"GET /stuck HTTP/1.1\r\nHost: a\r\n\r\n");
        client
    });
    let _held = waiting.join().unwrap();
    eventually("a request hangs", || stuck.count() == 1);
    assert_eq!(texts((0..10).map(|_| gateway.get("/"))), BTreeSet::from(["0".to_owned()]));
    assert_eq!(stuck.count(), 1);
}

#[test]
fn failures_of_requests_take_a_target_out_over_a_reload_too() {
    let broken = Upstream::new(|_| Answer::reply(500, &[], b"broken"));
    let (_upstreams, mut targets) = numbered(1);
    targets.push(broken.address().to_string());
    let fields = "  healthchecks: { passive: { unhealthy: { http_failures: 2 } } }";
    let text = config(fields, &targets);
    let text = format!("{text}plugins:\n- {{ name: prometheus, config: {{ upstream_health_metrics: true }} }}\n");
    let gateway = Gateway::start(&text);
    for _ in 0..8 {
        gateway.get("/");
    }
    assert_eq!(broken.count(), 2);
    let metrics = gateway.admin_get("/metrics").expect(200).text();
    for (target, state) in [(&targets[0], "healthy"), (&targets[1], "unhealthy")] {
        let line = format!("target=\"{target}\",address=\"{target}\",state=\"{state}\",subsystem=\"http\"}} 1");
        assert!(metrics.contains(&line), "{line}: {metrics}");
    }
    let text = text.replace("name: r,", "name: other,");
    gateway.reload(&text, || gateway.status()["config"]["reloads"] == 1);
    assert_eq!(texts((0..8).map(|_| gateway.get("/"))), BTreeSet::from(["0".to_owned()]));
    assert_eq!(broken.count(), 2);
}

#[test]
fn without_a_healthy_target_nobody_is_asked() {
    let gone = Refusing::new();
    let fields = "  healthchecks: { passive: { unhealthy: { tcp_failures: 1 } } }";
    let gateway = Gateway::start(&config(fields, &[gone.address().to_string()]));
    gateway.get("/").expect(502);
    gateway.get("/").expect_templated(503, "failure to get a peer from the ring-balancer");
    let weightless = config("", &["127.0.0.1:9".to_owned()]).replace("127.0.0.1:9'", "127.0.0.1:9', weight: 0");
    Gateway::start(&weightless).get("/").expect_templated(503, "failure to get a peer from the ring-balancer");
}

#[test]
fn probes_take_a_target_out_and_bring_it_back() {
    let status = Arc::new(AtomicU16::new(200));
    let told = Arc::clone(&status);
    let moody = Upstream::new(move |seen| match seen.target.as_str() {
        "/health?deep" => Answer::reply(told.load(Ordering::SeqCst), &[], b""),
        _ => Answer::reply(200, &[], b"moody"),
    });
    let (_upstreams, mut targets) = numbered(1);
    targets.push(moody.address().to_string());
    let fields = "  host_header: pool.test
  healthchecks:
    active:
      http_path: /health?deep
      headers: { X-Probe: [yes-please] }
      healthy: { interval: 0.1, successes: 1 }
      unhealthy: { interval: 0.1, http_failures: 2 }";
    let gateway = Gateway::start(&config(fields, &targets));
    let met = || texts((0..4).map(|_| gateway.get("/")));
    eventually("a probe came", || moody.seen().iter().any(|seen| seen.header("x-probe") == Some("yes-please")));
    let probe = moody.seen().into_iter().find(|seen| seen.target == "/health?deep").unwrap();
    assert_eq!(probe.header("host"), Some("pool.test"));
    assert_eq!(met().len(), 2);
    status.store(503, Ordering::SeqCst);
    eventually("the target is left out", || met() == BTreeSet::from(["0".to_owned()]));
    status.store(200, Ordering::SeqCst);
    eventually("the target is back", || met().len() == 2);
}

#[test]
fn a_probe_can_be_a_connection_or_tls() {
    let gone = Refusing::new();
    let tcp = "  healthchecks: { active: { type: tcp, healthy: { interval: 0.1 }, unhealthy: { tcp_failures: 2 } } }";
    let gateway = Gateway::start(&config(tcp, &[gone.address().to_string()]));
    eventually("nobody is left", || gateway.get("/").status == 503);
    let secure = Upstream::echo_tls(&Pair::new(&["secure.test"]));
    let tls = "  healthchecks:
    active: { type: https, https_sni: secure.test, https_verify_certificate: @VERIFY@, http_path: /probe,
              healthy: { interval: 0.1, successes: 1 }, unhealthy: { interval: 0.1, tcp_failures: 1 } }";
    let start = |verify: &str| {
        let text = config(&tls.replace("@VERIFY@", verify), &[secure.address().to_string()]);
        Gateway::start(&text.replace("  host: pool", "  host: pool\n  protocol: https"))
    };
    let strict = start("true");
    eventually("an unknown issuer is not trusted", || strict.get("/").status == 503);
    let lenient = start("false");
    eventually("a probe came", || secure.seen().iter().filter(|seen| seen.target == "/probe").count() > 2);
    lenient.get("/").expect(200);
}

#[test]
fn faults_have_their_place() {
    let targets = ["127.0.0.1:9".to_owned()];
    for (fields, words) in [
        ("  hash_on: header", "`hash_on` needs `hash_on_header`"),
        ("  hash_on: ip\n  hash_fallback: ip", "`hash_on` and `hash_fallback` must differ"),
        ("  hash_fallback: ip", "must be `none`"),
        ("  algorithm: fastest", "`algorithm` is `fastest`"),
        ("  healthchecks: { threshold: 101 }", "a number from 0 to 100"),
        ("  healthchecks: { passive: { unhealthy: { tcp_failure: 1 } } }", "did you mean `tcp_failures`?"),
        (
            "  healthchecks: { active: { type: grpc, healthy: { interval: 1 } } }",
            "not yet supported: active health checks by gRPC",
        ),
    ] {
        let stderr = Setup::new(&config(fields, &targets)).refuse().stderr;
        assert!(stderr.contains(words), "{fields}: {stderr}");
    }
}
