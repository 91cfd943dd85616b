//! `cargo xtask bench plugins`: what a plugin adds to the CPU time of a request. One gateway on one core has a route for
//! each; the load generator and the upstream share the other core. Rounds are interleaved, and each plugin's is compared
//! with the bare route's of the same round.

use anyhow::{Result, bail};
use serde_json::{Value, json};

use super::load::{Clients, Load};
use super::report::Raw;
use super::server::{Place, Server};
use super::{median, peers, tokens};
use crate::{build, dist, setup, shell};

const PROXY_CORE: usize = 0;
const LOAD_CORE: usize = 1;

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
    header: Option<String>,
    /// Whether every request but the first is refused.
    refused: bool,
    /// What it may add, microseconds; of a refusal, what it may cost as a part of a proxied request.
    bar: f64,
    cpu_us: Vec<f64>,
}

impl Case {
    fn new(name: &'static str, header: Option<String>, bar: f64) -> Self {
        Case { name, header, refused: name == "refused", bar, cpu_us: Vec::new() }
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
    let binary = if options.release { build::gateway(build::Profile::Release)? } else { dist::gateway()? };
    let folder = tempfile::tempdir()?;
    // nginx's workers give up root, and have to reach their files.
    shell::run(std::process::Command::new("chmod").arg("755").arg(folder.path()))?;
    let place = |core| Place { folder: folder.path(), core };
    let upstream = peers::upstream(&place(LOAD_CORE))?;
    let (rs256, public) = tokens::rs256("rsa", folder.path())?;
    let server = peers::gateway_with(&place(PROXY_CORE), &binary, entities(upstream.address, &public))?;
    let bearer = |token: String| Some(format!("Authorization: Bearer {token}"));
    let mut cases = [
        Case::new("bare", None, f64::INFINITY),
        Case::new("key-auth", Some("apikey: some-key".to_owned()), 0.5),
        Case::new("jwt-hs256", bearer(tokens::hs256("hmac", "a secret of more than thirty-two bytes")?), 3.0),
        Case::new("jwt-rs256", bearer(rs256), 1.0),
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
    let mut raw = Raw::create("plugins")?;
    for case in &cases {
        raw.line("", json!({"route": case.name, "cpu_us_a_request": case.cpu_us}))?;
    }
    println!("raw rounds: {}", raw.name);
    Ok(())
}

fn entities(upstream: std::net::SocketAddr, public_pem: &str) -> Value {
    let route = |name: &str, plugins: Value| json!({"name": name, "paths": [format!("/{name}/")], "plugins": plugins});
    let limit =
        |period: &str, most: u32| json!([{"name": "rate-limiting", "config": {period: most, "limit_by": "ip"}}]);
    json!({
        "services": [{"name": "up", "url": format!("http://{upstream}/"), "routes": [
            route("bare", json!([])),
            route("key-auth", json!([{"name": "key-auth"}])),
            route("jwt-hs256", json!([{"name": "jwt"}])),
            route("jwt-rs256", json!([{"name": "jwt"}])),
            route("rate-limiting", limit("hour", 1_000_000_000)),
            route("refused", limit("year", 1)),
        ]}],
        "consumers": [{
            "username": "ann",
            "keyauth_credentials": [{"key": "some-key"}],
            "jwt_secrets": [
                {"key": "hmac", "algorithm": "HS256", "secret": "a secret of more than thirty-two bytes"},
                {"key": "rsa", "algorithm": "RS256", "rsa_public_key": public_pem},
            ],
        }],
    })
}

fn measure(server: &Server, case: &Case, seconds: u64) -> Result<f64> {
    let (path, header) = (format!("/{}/x", case.name), case.header.as_deref());
    let load = Load { clients: Clients::Kept, tls: false, path: &path, header, core: LOAD_CORE };
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
