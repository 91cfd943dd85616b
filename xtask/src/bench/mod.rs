//! `cargo xtask bench`: what is measured, each with its own command. Figures are medians of interleaved rounds, and
//! every raw round is kept under bench/results/.

use anyhow::Result;

use crate::{build, shell};

mod duty;
mod idle;
mod load;
mod peers;
mod plugins;
mod proxy;
mod race;
mod report;
mod scenario;
mod server;

#[derive(clap::Subcommand)]
pub enum What {
    /// The first scenario of `peers` beside nginx and haproxy alone: CPU a request, throughput and latency
    Proxy(proxy::Length),
    /// CPU a request in every scenario beside nginx, haproxy, Envoy, Caddy and Pingora, and memory of idle connections
    Peers(proxy::Options),
    /// CPU that plugins add to a request of the bare proxy, and the cost of a 429
    Plugins(plugins::Options),
    /// Accuracy of limits that four gateways share through Redis, and their calls to it; three minutes
    Limits,
    /// Nanoseconds a packet of the kernel program's exits, exactness and memory; `-- --flood`: good traffic under
    /// floods, in namespaces (root)
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
        What::Limits => {
            let mut command = shell::cargo();
            command.args(["run", "--locked", "--release", "--package", "gateway-tests", "--bin", "limits_bench"]);
            shell::run(command.env("GATEWAY_BIN", build::gateway(build::Profile::Release)?))
        }
        What::Edge { rest } => {
            let mut command = shell::cargo();
            command.args(["run", "--locked", "--release", "--package", "gateway-tests", "--bin", "edge_bench", "--"]);
            if rest.iter().any(|argument| argument == "--flood") {
                command.env("GATEWAY_BIN", build::gateway(build::Profile::Release)?);
            }
            shell::run(command.args(rest))
        }
    }
}

/// The middle value; of an even number, the lower of the two.
#[must_use]
pub fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len().saturating_sub(1) / 2).copied().unwrap_or(f64::NAN)
}
