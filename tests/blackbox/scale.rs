//! A configuration of the size that large users have: it loads, it reloads beside the traffic, and it says what it takes.
//! Full size only on demand (`GATEWAY_SCALE=full`, with a binary built for release in `GATEWAY_BIN`): the rest is smaller.

use std::fmt::Write;
use std::time::{Duration, Instant};

use gateway_tests::deadline::{holds_within, say};
use gateway_tests::{Setup, Upstream};

fn config(routes: usize, consumers: usize, revision: usize) -> String {
    let mut text = String::from("_format_version: \"3.0\"\nservices:\n- name: s\n  url: @UP@\n  routes:\n");
    for n in 0..routes {
        let _ = writeln!(text, "  - {{ name: r{n}, paths: [/{revision}/path/{n}/], hosts: [h{}.test] }}", n % 100);
    }
    text.push_str("plugins:\n- { name: key-auth }\nconsumers:\n");
    for n in 0..consumers {
        let _ = writeln!(text, "- {{ username: user{n}, keyauth_credentials: [{{ key: key-{n} }}] }}");
    }
    text
}

#[test]
fn many_routes_and_consumers() {
    let full = std::env::var_os("GATEWAY_SCALE").is_some_and(|v| v == "full");
    let (routes, consumers) = if full { (10_000, 50_000) } else { (500, 2_000) };
    let upstream = Upstream::echo();
    let begun = Instant::now();
    let gateway = Setup::new(&upstream.fill(&config(routes, consumers, 1))).start();
    let started = begun.elapsed();
    let ask = |revision: usize, n: usize, key: usize| {
        let request = gateway_tests::Request::get(&format!("/{revision}/path/{n}/x"));
        gateway.send(&request.host(&format!("h{}.test", n % 100)).header("apikey", &format!("key-{key}"))).status
    };
    assert_eq!(ask(1, routes - 1, consumers - 1), 200);
    let before = gateway.status();
    gateway.replace_file(&upstream.fill(&config(routes, consumers, 2)));
    let mut slowest = Duration::ZERO;
    let taken = holds_within(Duration::from_secs(60), || {
        let asked = Instant::now();
        let done = ask(2, 7, 7) == 200;
        slowest = slowest.max(asked.elapsed());
        done
    });
    assert!(taken, "the new configuration is taken");
    let after = gateway.status();
    say(&format!(
        "scale: {routes} routes, {consumers} consumers: started in {started:?}, load {} ms, reload {} ms, slowest request \
         beside it {slowest:?}, {} KiB, then {} KiB",
        before["config"]["load_ms"],
        after["config"]["load_ms"],
        before["memory"]["rss_kib"],
        after["memory"]["rss_kib"],
    ));
    assert_eq!(gateway.admin_get("/consumers?size=1000").expect(200).json()["data"].as_array().unwrap().len(), 1000);
}
