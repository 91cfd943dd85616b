//! `cargo xtask bench load`: a file of the size that large users have. How long it takes to load and to reload, what a
//! request waits meanwhile, what memory it needs, and what a look-up costs beside a small table.

use std::fmt::Write;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde_json::Value;

use super::gateway::{Gateway, Wait};
use crate::upstream::Upstream;
use crate::{build, http, shell};

const ROUTES: usize = 10_000;
const CONSUMERS: usize = 50_000;
const LOAD_MS_MAX: u64 = 3_000;
const COST_RATIO_MAX: f64 = 1.5;

/// Measures and prints; the bars are judged at the end.
///
/// # Errors
/// Something did not start, or a bar was missed.
pub fn run() -> Result<()> {
    let binary = build::gateway(build::Profile::Release)?;
    let cost = shell::output(shell::cargo().args(["run", "--locked", "--release", "--package", "gateway"]).args([
        "--quiet",
        "--example",
        "router_cost",
    ]))
    .context("the example failed")?;
    let cost: Value = serde_json::from_str(cost.trim()).context("the example prints JSON")?;
    let upstream = Upstream::start("127.0.0.1:0")?;
    let routes_only = Gateway::start(&binary, &file(upstream.address, ROUTES, 0, 1), Wait::Long)?;
    let routes_ms = load_ms(&routes_only)?;
    drop(routes_only);
    let text = file(upstream.address, ROUTES, CONSUMERS, 1);
    let begun = Instant::now();
    let gateway = Gateway::start(&binary, &text, Wait::Long)?;
    let started = begun.elapsed();
    let (first_ms, before_kib) = (load_ms(&gateway)?, gateway.resident_kib());
    let changed = file(upstream.address, ROUTES, CONSUMERS, 2);
    let (slowest, asked) = beside(&gateway, 1, || gateway.replace(&changed))?;
    let reload_ms = load_ms(&gateway)?;
    std::thread::sleep(Duration::from_secs(3));
    let after_kib = gateway.resident_kib();
    println!("file: {} KiB, {ROUTES} routes, {CONSUMERS} consumers with a key", text.len() / 1024);
    println!("load: {first_ms} ms (ready after {started:.1?}); of the routes alone {routes_ms} ms");
    println!("reload: {reload_ms} ms, {asked} requests meanwhile, the slowest {slowest:.1?}");
    println!("memory: {before_kib} KiB, after the reload {after_kib} KiB");
    println!(
        "look-up: {} ns at 10 routes, {} ns at 10,000, ratio {}",
        cost["ns_at_10"], cost["ns_at_10000"], cost["ratio"]
    );
    let ratio = cost["ratio"].as_f64().unwrap_or(f64::INFINITY);
    if first_ms > LOAD_MS_MAX || reload_ms > LOAD_MS_MAX || routes_ms > 1_000 || ratio > COST_RATIO_MAX {
        bail!("a bar is missed: load and reload {LOAD_MS_MAX} ms, routes alone 1000 ms, ratio {COST_RATIO_MAX}");
    }
    Ok(())
}

fn file(upstream: SocketAddr, routes: usize, consumers: usize, revision: usize) -> String {
    let mut text = format!("services:\n- name: s\n  url: http://{upstream}\n  routes:\n");
    for n in 0..routes {
        let _ = writeln!(
            text,
            "  - {{ name: r{n}, paths: [/v{revision}/path/{n}/, /common/{n}/], hosts: [h{}.test] }}",
            n % 100
        );
    }
    text.push_str(
        "plugins:\n- { name: key-auth, config: { anonymous: nobody } }\nconsumers:\n- { username: nobody }\n",
    );
    for n in 0..consumers {
        let _ = writeln!(text, "- {{ username: user{n}, keyauth_credentials: [{{ key: key-{n} }}] }}");
    }
    text
}

fn load_ms(gateway: &Gateway) -> Result<u64> {
    gateway.status()?["config"]["load_ms"].as_u64().context("the status has `config.load_ms`")
}

/// Runs `change` while one client asks again and again; returns the slowest answer and how many there were.
fn beside(gateway: &Gateway, n: usize, change: impl FnOnce() -> Result<()>) -> Result<(Duration, usize)> {
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let asking = scope.spawn(|| -> Result<(Duration, usize)> {
            let mut client = http::Client::connect(gateway.proxy, Duration::from_secs(2), Duration::from_secs(10))?;
            let (mut slowest, mut count) = (Duration::ZERO, 0);
            while !done.load(Ordering::Relaxed) {
                let begun = Instant::now();
                let host = format!("h{}.test", n % 100);
                let status = client.send("GET", &format!("/common/{n}/x"), &[("Host", &host)], &[])?.status;
                slowest = slowest.max(begun.elapsed());
                count += 1;
                if status != 200 {
                    bail!("a request beside the reload was answered {status}");
                }
            }
            Ok((slowest, count))
        });
        let changed = change();
        done.store(true, Ordering::Relaxed);
        let asked = asking.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        changed.and(asked)
    })
}
