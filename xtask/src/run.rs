//! `cargo xtask run`: the gateway with the quick start's file and the upstream which that file names, or with whatever
//! arguments are given.

use std::process::ExitCode;

use anyhow::Result;

use crate::upstream::Upstream;
use crate::{build, shell};

const EXAMPLE: &str = "examples/quickstart.kong.yml";
const EXAMPLE_UPSTREAM: &str = "127.0.0.1:3000";

#[derive(clap::Args)]
pub struct Options {
    /// Build for development
    #[arg(long)]
    debug: bool,
    /// The gateway's own arguments (default: run -c examples/quickstart.kong.yml)
    #[arg(last = true)]
    arguments: Vec<String>,
}

/// Builds and runs the gateway.
///
/// # Errors
/// The build failed.
pub fn run(options: &Options) -> Result<ExitCode> {
    let gateway = build::gateway(if options.debug { build::Profile::Debug } else { build::Profile::Release })?;
    let mut command = shell::program(gateway);
    if options.arguments.is_empty() {
        match Upstream::start(EXAMPLE_UPSTREAM) {
            Ok(upstream) => eprintln!("an echo upstream listens on {}", upstream.address),
            Err(error) => eprintln!("using what listens on {EXAMPLE_UPSTREAM} as the upstream ({error})"),
        }
        command.args(["run", "-c", EXAMPLE]);
    } else {
        command.args(&options.arguments);
    }
    let status = shell::status(&mut command)?;
    Ok(status.code().and_then(|code| u8::try_from(code).ok()).map_or(ExitCode::FAILURE, ExitCode::from))
}
