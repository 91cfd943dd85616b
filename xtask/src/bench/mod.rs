//! `cargo xtask bench`: what is measured, each with its own command. Figures are medians of interleaved rounds, and
//! every raw round is kept under bench/results/.

use anyhow::Result;

use crate::{build, shell};

mod gateway;
mod load;
mod peers;
mod proxy;
mod reload;
mod streams;
mod wrk;

#[derive(clap::Subcommand)]
pub enum What {
    /// CPU a request, throughput and latency beside nginx and haproxy
    Proxy(proxy::Options),
    /// A hundred reloads under load: failed requests, streams that were cut, memory, latency
    Reload(reload::Options),
    /// A file of 10,000 routes and 50,000 consumers: time to load and reload, memory, cost of a look-up
    Load,
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
        What::Proxy(options) => proxy::run(options),
        What::Reload(options) => reload::run(options),
        What::Load => load::run(),
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
