//! `cargo xtask bench proxy` and `bench peers`: the gateway beside others. Each proxy has one core and one worker, the
//! load generator and the upstream share the other core.

use std::path::PathBuf;
use std::process::Command;

use anyhow::{Result, bail, ensure};

use super::peers::{Peer, Stage};
use super::race::{self, Row};
use super::report::{self, Raw};
use super::scenario::{Scenario, all_scenarios};
use super::server::Place;
use super::{duty::Keys, idle, peers};
use crate::{build, dist, setup, shell};

const PROXY_CORE: usize = 0;
const LOAD_CORE: usize = 1;
/// The scenario that counts memory, not time.
const IDLE: &str = "S9";

#[derive(clap::Args, Clone)]
pub struct Length {
    /// Rounds of each proxy
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=50))]
    rounds: u32,
    /// Length of a round
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u64).range(1..=60))]
    seconds: u64,
    /// Measure the plain `dist` profile instead of the trained binary that is published
    #[arg(long)]
    plain: bool,
    /// Measure this binary of the gateway
    #[arg(long, conflicts_with = "plain")]
    binary: Option<PathBuf>,
}

#[derive(clap::Args)]
pub struct Options {
    #[command(flatten)]
    length: Length,
    /// Only these scenarios: S1 to S10, S4 and S5 with a or b
    #[arg(long = "scenario")]
    scenarios: Vec<String>,
    /// Only these beside the gateway
    #[arg(long = "peer")]
    peers: Vec<Peer>,
    /// Do without a peer that is not there, instead of failing
    #[arg(long)]
    absent_ok: bool,
}

impl Options {
    /// The first scenario with the peers that every Debian has.
    pub fn first(length: &Length) -> Self {
        let peers = vec![Peer::Nginx, Peer::Haproxy];
        Self { length: length.clone(), scenarios: vec!["S1".to_owned()], peers, absent_ok: false }
    }

    fn wants(&self, scenario: &str) -> bool {
        self.scenarios.is_empty() || self.scenarios.iter().any(|name| name.eq_ignore_ascii_case(scenario))
    }
}

/// Measures, prints the medians and the bars, and writes the raw rounds.
///
/// # Errors
/// Something is missing or did not start, or a proxy answered with errors.
pub fn run(options: &Options) -> Result<()> {
    if std::thread::available_parallelism()?.get() < 2 {
        bail!("two cores are needed: one for the proxy, one for the load and the upstream");
    }
    let scenarios: Vec<Scenario> = all_scenarios().into_iter().filter(|it| options.wants(it.name)).collect();
    ensure!(!scenarios.is_empty() || options.wants(IDLE), "no such scenario");
    setup::run(&setup::Options { bench: true, ..setup::Options::default() })?;
    let binary = match &options.length {
        Length { binary: Some(binary), .. } => binary.canonicalize()?,
        Length { plain: true, .. } => build::gateway(build::Profile::Dist)?,
        Length { .. } => dist::gateway()?,
    };
    let programs = gather(options, &binary)?;
    let folder = tempfile::tempdir()?;
    // nginx's workers give up root, and have to reach their files.
    shell::run(Command::new("chmod").arg("755").arg(folder.path()))?;
    let keys = Keys::make(folder.path())?;
    let upstream = peers::upstream(&Place { folder: folder.path(), core: LOAD_CORE })?;
    let place = Place { folder: folder.path(), core: PROXY_CORE };
    let stage = Stage { place, keys: &keys, upstream: upstream.address, programs };
    let mut raw = Raw::create(if options.scenarios.len() == 1 { "proxy" } else { "peers" })?;
    let mut verdicts = Vec::new();
    for scenario in &scenarios {
        let length = race::Length { rounds: options.length.rounds, seconds: options.length.seconds };
        let rows: Vec<Row> = race::run(&stage, scenario, length, LOAD_CORE)?;
        report::table(scenario, &rows);
        raw.add(&stage, scenario, &rows)?;
        verdicts.extend(scenario.bars.iter().filter_map(|bar| report::verdict(scenario, bar, &rows)));
    }
    if options.wants(IDLE) {
        println!(
            "\n{IDLE}: KiB of an idle connection, {} of them (bar: {} or less)",
            idle::CONNECTIONS,
            idle::KIB_MOST
        );
        for (peer, ..) in &stage.programs {
            let cost = idle::run(&stage, *peer)?;
            println!("{:<22} {:>6.2}", peer.name(), cost.kib);
            raw.add_idle(&stage, &cost)?;
        }
    }
    report::verdicts(&verdicts);
    println!("raw rounds: {}", raw.name);
    Ok(())
}

/// The programs that are there; who is not is named.
fn gather(options: &Options, gateway: &std::path::Path) -> Result<Vec<(Peer, PathBuf, String)>> {
    let mut programs = Vec::new();
    for peer in Peer::ALL {
        if peer != Peer::Gateway && !options.peers.is_empty() && !options.peers.contains(&peer) {
            continue;
        }
        match peers::find(peer, gateway) {
            Ok((program, version)) => programs.push((peer, program, version)),
            Err(error) if options.absent_ok => println!("{} is not measured: {error:#}", peer.name()),
            Err(error) => return Err(error.context(format!("{} (--absent-ok does without it)", peer.name()))),
        }
    }
    Ok(programs)
}
