//! `cargo xtask bench`: what is measured, each with its own command. Figures are medians of interleaved rounds, and
//! every raw round is kept under bench/results/.

use anyhow::Result;

use crate::{bars, build, shell, test};

mod config_load;
pub mod duty;
mod gateway;
mod hostile;
mod idle;
pub mod instructions;
mod load;
mod peers;
mod plugins;
mod proxy;
mod race;
mod reload;
mod report;
mod scenario;
mod server;
mod streams;
mod tokens;

#[derive(clap::Subcommand)]
pub enum What {
    /// The first scenario of `peers` beside nginx and haproxy alone: CPU a request, throughput and latency
    Proxy(proxy::Length),
    /// CPU a request in every scenario beside nginx, haproxy, Envoy, Caddy and Pingora, and memory of idle connections
    Peers(proxy::Options),
    /// CPU that plugins add to a request of the bare proxy, and the cost of a 429
    Plugins(plugins::Options),
    /// Instructions a request in ten ways through the gateway, held to those that are recorded (valgrind)
    Instructions(instructions::Options),
    /// Accuracy of limits that four gateways share through Redis, and their calls to it; three minutes
    Limits,
    /// A hundred reloads under load: failed requests, streams that were cut, memory, latency
    Reload(reload::Options),
    /// The gateway under attack and among faults: memory, what other clients get, how the attack ends; with `--minutes` a
    /// soak of all attacks in a loop
    Hostile(hostile::Options),
    /// A file of 10,000 routes and 50,000 consumers: time to load and reload, memory, cost of a look-up
    Load,
    /// The kernel edge's bars that are figures, as one table; `-- --cost`, `-- --tax`, `-- --flood` measure a part
    /// (root)
    Edge {
        /// Passed on to the measuring program
        #[arg(last = true)]
        rest: Vec<String>,
    },
}

/// Runs a measurement.
///
/// # Errors
/// Something that it needs is missing or failed.
pub fn run(what: &What) -> Result<()> {
    match what {
        What::Proxy(length) => proxy::run(&proxy::Options::first(length)),
        What::Peers(options) => proxy::run(options),
        What::Plugins(options) => plugins::run(options),
        What::Instructions(options) => instructions::run(options),
        What::Reload(options) => reload::run(options),
        What::Hostile(options) => hostile::run(options),
        What::Load => config_load::run(),
        What::Limits => {
            let mut command = shell::cargo();
            command.args(["run", "--locked", "--release", "--package", "gateway-tests", "--bin", "limits_bench"]);
            shell::run(command.env("GATEWAY_BIN", build::gateway(build::Profile::Release)?))
        }
        What::Edge { rest } => edge(rest),
    }
}

/// The measuring program, and of the tests those that measure, against the gateway as it is released.
fn edge(rest: &[String]) -> Result<()> {
    let gateway = build::gateway(build::Profile::Release)?;
    let mut command = shell::cargo();
    command.args(["run", "--locked", "--release", "--package", "gateway-tests", "--bin", "edge_bench", "--"]);
    let mut tally = test::counted("edge_bench", command.env("GATEWAY_BIN", &gateway).args(rest), false)?;
    if rest.is_empty() {
        let mut command = shell::cargo();
        command.env("GATEWAY_BIN", &gateway).env(test::IN_FULL, "full");
        command.args(["test", "--locked", "--release", "--package", "gateway-tests", "--test", "blackbox", "--"]);
        command.args(["--show-output", "--test-threads", "1", "kernel::measured::"]);
        tally.add(test::counted("measuring tests", &mut command, false)?);
    }
    println!("\n{}", bars::table(bars::EDGE, &tally.bars, "`cargo xtask test edge` shows those"));
    anyhow::ensure!(tally.failed == 0, "failed: {}", tally.failures.join(", "));
    Ok(())
}

/// The middle value; of an even number, the lower of the two.
#[must_use]
pub fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len().saturating_sub(1) / 2).copied().unwrap_or(f64::NAN)
}
