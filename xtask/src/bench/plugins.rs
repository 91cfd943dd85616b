//! `cargo xtask bench plugins`: what a plugin adds to the CPU time of a request. One gateway on one core has a route for
//! each; the load generator and the upstream share the other core. Rounds are interleaved, and each plugin's is compared
//! with the bare route's of the same round.

use std::io::Write;
use std::net::SocketAddr;
use std::path::Path;

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};

use super::duty::{self, Keys};
use super::load::{Clients, Load};
use super::server::{Place, Server, free, write};
use super::{median, peers};
use crate::{build, setup, shell};

const PROXY_CORE: usize = 0;
const LOAD_CORE: usize = 1;
const SECRET: &str = "a-secret-of-more-than-thirty-two-bytes";

#[derive(clap::Args)]
pub struct Options {
    /// Rounds of each route
    #[arg(long, default_value_t = 7, value_parser = clap::value_parser!(u32).range(1..=50))]
    rounds: u32,
    /// Length of a round
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u64).range(1..=60))]
    seconds: u64,
    /// Measure the quicker build of the release profile
    #[arg(long)]
    release: bool,
}

/// A route under measurement.
struct Case {
    name: &'static str,
    path: String,
    token: Option<String>,
    /// Whether every request but the first is refused.
    refused: bool,
    /// What it may add, microseconds; of a refusal, what it may cost as a part of a proxied request.
    bar: f64,
    cpu_us: Vec<f64>,
}

impl Case {
    fn new(name: &'static str, token: Option<String>, bar: f64) -> Self {
        // Only key-auth looks at the key.
        let path = format!("/{name}/x?apikey=some-key");
        Case { name, path, token, refused: name == "refused", bar, cpu_us: Vec::new() }
    }
}

/// Measures, prints the medians and writes the raw rounds.
///
/// # Errors
/// Something is missing or did not start, or answered otherwise than it should.
pub fn run(options: &Options) -> Result<()> {
    if std::thread::available_parallelism()?.get() < 2 {
        bail!("two cores are needed: one for the gateway, one for the load and the upstream");
    }
    setup::run(&setup::Options { bench: true, ..setup::Options::default() })?;
    let binary = build::gateway(if options.release { build::Profile::Release } else { build::Profile::Dist })?;
    let folder = tempfile::tempdir()?;
    // nginx's workers give up root, and have to reach their files.
    shell::run(std::process::Command::new("chmod").arg("755").arg(folder.path()))?;
    let place = |core| Place { folder: folder.path(), core };
    let upstream = peers::upstream(&place(LOAD_CORE))?;
    let keys = Keys::make(folder.path())?;
    let hs256 = duty::hs256(folder.path(), "hmac", SECRET)?;
    let public = std::fs::read_to_string(&keys.public)?;
    let server = gateway(&place(PROXY_CORE), &binary, upstream.address, &public)?;
    let mut cases = [
        Case::new("bare", None, f64::INFINITY),
        Case::new("key-auth", None, 0.5),
        Case::new("jwt-hs256", Some(hs256), 3.0),
        Case::new("jwt-rs256", Some(keys.token), 1.0),
        Case::new("rate-limiting", None, 0.5),
        Case::new("refused", None, 0.6),
    ];
    for round in 0..=options.rounds {
        for case in &mut cases {
            // The first round warms up.
            let cpu_us = measure(&server, case, if round == 0 { 1 } else { options.seconds })?;
            if round > 0 {
                case.cpu_us.push(cpu_us);
            }
        }
    }
    report(&cases);
    println!("raw rounds: {}", keep(&cases)?);
    Ok(())
}

fn gateway(place: &Place<'_>, program: &Path, upstream: SocketAddr, public_pem: &str) -> Result<Server> {
    let route =
        |name: &str, plugins: Value| json!({ "name": name, "paths": [format!("/{name}/")], "plugins": plugins });
    let limit =
        |period: &str, most: u32| json!([{ "name": "rate-limiting", "config": { period: most, "limit_by": "ip" } }]);
    let address = free()?;
    let config = json!({
        "_format_version": "3.0",
        "gateway": { "listen": [address.to_string()], "admin": "127.0.0.1:0", "workers": 1, "access_log": "off" },
        "services": [{ "name": "up", "url": format!("http://{upstream}/"), "routes": [
            route("bare", json!([])),
            route("key-auth", json!([{ "name": "key-auth" }])),
            route("jwt-hs256", json!([{ "name": "jwt" }])),
            route("jwt-rs256", json!([{ "name": "jwt" }])),
            route("rate-limiting", limit("hour", 1_000_000_000)),
            route("refused", limit("year", 1)),
        ] }],
        "consumers": [{
            "username": "ann",
            "keyauth_credentials": [{ "key": "some-key" }],
            "jwt_secrets": [
                { "key": "hmac", "algorithm": "HS256", "secret": SECRET },
                { "key": "bench", "algorithm": "RS256", "rsa_public_key": public_pem },
            ],
        }],
    });
    let folder = place.folder_of("gateway")?;
    let file = write(&folder, "kong.json", &config.to_string())?;
    let mut command = place.pinned(program)?;
    command.arg("run").arg("-c").arg(file);
    Server::start(address, &mut command, &folder)
}

fn measure(server: &Server, case: &Case, seconds: u64) -> Result<f64> {
    let token = case.token.as_deref();
    let load = Load { clients: Clients::Kept, tls: false, path: &case.path, token, core: LOAD_CORE };
    let before = server.cpu_time()?;
    let run = load.run(server.address, seconds)?;
    let spent = server.cpu_time()?.saturating_sub(before);
    let passed = run.requests.saturating_sub(run.refused);
    if (case.refused && passed > 1) || (!case.refused && run.refused > 0) || run.requests == 0 || run.errors > 0 {
        bail!("{}: {} requests, {} refused, {} errors", case.name, run.requests, run.refused, run.errors);
    }
    let cpu_us = spent.as_secs_f64() * 1e6 / run.requests as f64;
    eprintln!("{:<14} {cpu_us:6.2} CPU-us a request, {:.0} requests/s", case.name, run.per_second);
    Ok(cpu_us)
}

fn report(cases: &[Case]) {
    let bare = &cases[0];
    println!("\n{:<14} {:>18} {:>10} {:>8}", "route", "CPU-us a request", "compared", "bar");
    println!("{:<14} {:>18.2}", bare.name, median(bare.cpu_us.clone()));
    for case in &cases[1..] {
        let pairs = case.cpu_us.iter().zip(&bare.cpu_us);
        let (compared, unit) = if case.refused {
            (median(pairs.map(|(own, bare)| own / bare).collect()), "x")
        } else {
            (median(pairs.map(|(own, bare)| own - bare).collect()), "us")
        };
        let verdict = if compared <= case.bar { "" } else { "  MISSED" };
        let own = median(case.cpu_us.clone());
        println!("{:<14} {own:>18.2} {compared:>8.2}{unit:<2} {:>7.1}{verdict}", case.name, case.bar);
    }
}

/// Writes every round as a line of JSON.
fn keep(cases: &[Case]) -> Result<String> {
    let date =
        shell::output(std::process::Command::new("date").args(["-u", "+%Y-%m-%dT%H:%M:%SZ"])).unwrap_or_default();
    let name = format!("bench/results/plugins-{}.jsonl", date.trim().replace([':', '-'], ""));
    let path = shell::root().join(&name);
    std::fs::create_dir_all(path.parent().context("a file stands in a folder")?)?;
    let mut file = std::fs::File::create(path)?;
    for case in cases {
        let line = json!({
            "date": date.trim(),
            "route": case.name,
            "cpu_us_a_request": case.cpu_us,
        });
        writeln!(file, "{line}")?;
    }
    Ok(name)
}
