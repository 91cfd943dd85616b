//! `cargo xtask bench proxy`: the gateway beside nginx and haproxy. Each proxy has one core and one worker, the load
//! generator and the upstream share the other core; rounds are interleaved, so that a noisy minute hits all of them.

use std::io::Write;
use std::process::Command;

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};

use super::{median, peers, wrk};
use crate::{build, dist, setup, shell};

const PROXY_CORE: usize = 0;
const LOAD_CORE: usize = 1;
const CONNECTIONS: u32 = 64;

#[derive(clap::Args)]
pub struct Options {
    /// Rounds of each proxy
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=50))]
    rounds: u32,
    /// Length of a round
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u64).range(1..=60))]
    seconds: u64,
    /// Measure the plain `dist` profile instead of the trained binary that is published
    #[arg(long)]
    plain: bool,
}

/// One round of one proxy.
struct Row {
    name: &'static str,
    cpu_us: f64,
    run: wrk::Run,
    resident_kib: u64,
}

/// Measures, prints the medians and writes the raw rounds.
///
/// # Errors
/// Something is missing or did not start, or a proxy answered with errors.
pub fn run(options: &Options) -> Result<()> {
    if std::thread::available_parallelism()?.get() < 2 {
        bail!("two cores are needed: one for the proxy, one for the load and the upstream");
    }
    setup::run(&setup::Options { bench: true, ..setup::Options::default() })?;
    let binary = if options.plain { build::gateway(build::Profile::Dist)? } else { dist::gateway()? };
    let folder = tempfile::tempdir()?;
    // nginx's workers give up root, and have to reach their files.
    shell::run(Command::new("chmod").arg("755").arg(folder.path()))?;
    let (proxies, load) = (
        peers::Place { folder: folder.path(), core: PROXY_CORE },
        peers::Place { folder: folder.path(), core: LOAD_CORE },
    );
    let upstream = peers::upstream(&load)?;
    let servers = [
        peers::gateway(&proxies, &binary, upstream.address)?,
        peers::nginx_proxy(&proxies, upstream.address)?,
        peers::haproxy(&proxies, upstream.address)?,
    ];
    for server in &servers {
        wrk::run(LOAD_CORE, CONNECTIONS, 1, server.address, "/api/x")?;
    }
    let mut rows = Vec::new();
    for round in 1..=options.rounds {
        for server in &servers {
            rows.push(measure(server, round, options.seconds)?);
        }
    }
    report(&servers, &rows);
    println!("raw rounds: {}", keep(&servers, &rows)?);
    Ok(())
}

fn measure(server: &peers::Server, round: u32, seconds: u64) -> Result<Row> {
    let before = server.cpu_time()?;
    let run = wrk::run(LOAD_CORE, CONNECTIONS, seconds, server.address, "/api/x")?;
    let spent = server.cpu_time()?.saturating_sub(before);
    if run.errors > 0 || run.requests == 0 {
        bail!("{}: {} requests, {} errors", server.name, run.requests, run.errors);
    }
    let cpu_us = spent.as_secs_f64() * 1e6 / run.requests as f64;
    eprintln!("round {round}: {:<8} {cpu_us:6.2} CPU-us a request, {:.0} requests/s", server.name, run.per_second);
    Ok(Row { name: server.name, cpu_us, run, resident_kib: server.resident_kib() })
}

fn report(servers: &[peers::Server], rows: &[Row]) {
    let middle = |name: &str, value: &dyn Fn(&Row) -> f64| {
        median(rows.iter().filter(|row| row.name == name).map(value).collect())
    };
    let cpu = |name: &str| middle(name, &|row| row.cpu_us);
    let best = servers.iter().map(|server| cpu(server.name)).fold(f64::INFINITY, f64::min);
    println!(
        "\n{:<9} {:>18} {:>8} {:>8} {:>11} {:>7} {:>7} {:>8}",
        "proxy", "CPU-us a request", "/ nginx", "/ best", "requests/s", "p50 ms", "p99 ms", "RSS MiB"
    );
    for server in servers {
        let own = cpu(server.name);
        println!(
            "{:<9} {own:>18.2} {:>8.2} {:>8.2} {:>11.0} {:>7.2} {:>7.2} {:>8.1}",
            server.name,
            own / cpu("nginx"),
            own / best,
            middle(server.name, &|row| row.run.per_second),
            middle(server.name, &|row| row.run.p50_ms),
            middle(server.name, &|row| row.run.p99_ms),
            middle(server.name, &|row| row.resident_kib as f64 / 1024.0),
        );
    }
}

/// Writes every round as a line of JSON with what a reader needs to judge it.
fn keep(servers: &[peers::Server], rows: &[Row]) -> Result<String> {
    let date = shell::output(Command::new("date").args(["-u", "+%Y-%m-%dT%H:%M:%SZ"])).unwrap_or_default();
    let kernel = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let processor = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let processor = processor.lines().find_map(|line| line.strip_prefix("model name")).unwrap_or_default();
    let revision = shell::output(shell::program("git").args(["rev-parse", "--short", "HEAD"])).unwrap_or_default();
    let name = format!("bench/results/proxy-{}.jsonl", date.trim().replace([':', '-'], ""));
    let path = shell::root().join(&name);
    std::fs::create_dir_all(path.parent().context("a file stands in a folder")?)?;
    let mut file = std::fs::File::create(path)?;
    for row in rows {
        let version =
            servers.iter().find(|server| server.name == row.name).map_or("", |server| server.version.as_str());
        let line: Value = json!({
            "date": date.trim(),
            "revision": revision.trim(),
            "kernel": kernel.trim(),
            "processor": processor.trim_start_matches([' ', '\t', ':']),
            "proxy": row.name,
            "version": version,
            "connections": CONNECTIONS,
            "requests": row.run.requests,
            "seconds": row.run.seconds,
            "cpu_us_a_request": row.cpu_us,
            "requests_per_second": row.run.per_second,
            "p50_ms": row.run.p50_ms,
            "p99_ms": row.run.p99_ms,
            "rss_kib": row.resident_kib,
        });
        writeln!(file, "{line}")?;
    }
    Ok(name)
}
