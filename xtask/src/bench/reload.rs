//! `cargo xtask bench reload`: a hundred reloads under load. What may not happen: a failed request, a stream that is cut,
//! memory that stays, answers that become slow.

use std::fmt::Write;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};

use super::gateway::{Gateway, Wait};
use super::load::{Clients, Load, Run};
use super::peers;
use super::server::Place;
use super::streams::{self, Held};
use crate::{build, setup, shell};

const RELOADS: u32 = 100;
const SECONDS: u64 = 15;
const MEMORY_RATIO_MAX: f64 = 1.1;
const P99_RATIO_MAX: f64 = 2.0;
/// The load generator and the upstream have this core; the gateway has all, as it would.
const LOAD_CORE: usize = 1;

#[derive(clap::Args)]
pub struct Options {
    /// Routes of the configuration that is replaced
    #[arg(long, default_value_t = 200)]
    routes: usize,
}

/// Measures, prints and judges.
///
/// # Errors
/// Something did not start, or a bar was missed.
pub fn run(options: &Options) -> Result<()> {
    setup::run(&setup::Options { bench: true, ..setup::Options::default() })?;
    let binary = build::gateway(build::Profile::Release)?;
    let folder = tempfile::tempdir()?;
    // nginx's workers give up root, and have to reach their files.
    shell::run(std::process::Command::new("chmod").arg("755").arg(folder.path()))?;
    let plain = peers::upstream(&Place { folder: folder.path(), core: LOAD_CORE })?;
    let talker = streams::talker()?;
    let text = |revision| file(plain.address, talker, options.routes, revision);
    let gateway = Gateway::start(&binary, &text(0), Wait::Short)?;
    let load = |seconds| {
        let load = Load { clients: Clients::Kept, tls: false, path: "/api/x", header: None, core: LOAD_CORE };
        load.run(gateway.proxy, seconds)
    };
    // Pools, timers and counters are made once.
    load(3)?;
    let held = [Held::websocket(gateway.proxy, "/talk/ws")?, Held::h2(gateway.proxy, "/talk/drip")?];
    let before_kib = gateway.resident_kib();
    let before = load(SECONDS)?;
    let during = std::thread::scope(|scope| -> Result<Run> {
        let loading = scope.spawn(|| load(SECONDS));
        let began = Instant::now();
        for at in 1..=RELOADS {
            gateway.replace(&text(at))?;
            let due = Duration::from_secs(SECONDS) * at / (RELOADS + 5);
            std::thread::sleep(due.saturating_sub(began.elapsed()));
        }
        loading.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })?;
    let failed = |run: &Run| run.refused + run.errors;
    std::thread::sleep(Duration::from_secs(3));
    let (after_kib, reloads) = (gateway.resident_kib(), gateway.status()?["config"]["reloads"].clone());
    let closed = held.iter().filter(|held| !held.is_open()).count();
    let (memory, p99) = (after_kib as f64 / before_kib as f64, during.p99_ms / before.p99_ms);
    println!(
        "configuration: {} routes; reloads: {reloads}, load {} ms each",
        options.routes,
        gateway.status()?["config"]["load_ms"]
    );
    println!(
        "requests: {} before, {} during; failed {} and {}",
        before.requests,
        during.requests,
        failed(&before),
        failed(&during)
    );
    println!("streams (a WebSocket, one of HTTP/2) closed: {closed} of {}", held.len());
    println!("p50: {:.2} ms before, {:.2} ms during", before.p50_ms, during.p50_ms);
    println!("p99: {:.2} ms before, {:.2} ms during, ratio {p99:.2}", before.p99_ms, during.p99_ms);
    println!("memory: {before_kib} KiB before, {after_kib} KiB after, ratio {memory:.2}");
    let failed = failed(&before) + failed(&during) > 0 || closed > 0 || reloads != RELOADS;
    if failed || memory > MEMORY_RATIO_MAX || p99 > P99_RATIO_MAX {
        bail!("a bar is missed: 0 failed, 0 closed, memory {MEMORY_RATIO_MAX}, p99 {P99_RATIO_MAX}");
    }
    Ok(())
}

fn file(plain: SocketAddr, talker: SocketAddr, routes: usize, revision: u32) -> String {
    let mut text = format!(
        "services:\n- name: plain\n  url: http://{plain}/\n  routes:\n  - {{ name: api, paths: [/api/], tags: [v{revision}] }}\n"
    );
    for n in 0..routes {
        let _ = writeln!(text, "  - {{ name: r{n}, paths: [/v{revision}/{n}/], hosts: [h{}.test] }}", n % 10);
    }
    let _ = writeln!(text, "- name: talker\n  url: http://{talker}/\n  routes: [{{ name: talk, paths: [/talk/] }}]");
    text
}
