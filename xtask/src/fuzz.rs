//! `cargo xtask fuzz`: the parsers under libFuzzer and a sanitizer, each for some minutes from its committed corpus; or
//! mutants of requests over the wire against the real binary.

use std::process::ExitCode;

use anyhow::{Result, bail};

use crate::{build, shell};

/// Targets of `fuzz/`, and the one over the wire.
const TARGETS: [&str; 14] = [
    "certificate",
    "config",
    "expression",
    "host",
    "jwks",
    "jwt",
    "ldap",
    "packet",
    "path",
    "proxy_protocol",
    "request",
    "response",
    "sanitize",
    "template",
];
const WIRE: &str = "wire";

#[derive(clap::Args)]
pub struct Options {
    /// One target only: certificate, config, expression, host, jwks, jwt, ldap, packet, path, proxy_protocol, request,
    /// response, sanitize, template, or wire (default: all)
    target: Option<String>,
    /// Minutes for each target of libFuzzer
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..))]
    minutes: u64,
    /// Mutants over the wire
    #[arg(long, default_value_t = 30_000)]
    mutants: u64,
    /// Seed of the mutants over the wire
    #[arg(long, default_value_t = 7)]
    seed: u64,
}

/// Fuzzes.
///
/// # Errors
/// A tool is missing, or there is a finding; libFuzzer says where its input lies (`fuzz/artifacts`).
pub fn run(options: &Options) -> Result<ExitCode> {
    let wanted = |name: &str| options.target.as_deref().is_none_or(|target| target == name);
    if let Some(target) = &options.target
        && target != WIRE
        && !TARGETS.contains(&target.as_str())
    {
        bail!("no target `{target}`: {} or {WIRE}", TARGETS.join(", "));
    }
    for target in TARGETS.into_iter().filter(|target| wanted(target)) {
        parser(target, options.minutes)?;
    }
    if wanted(WIRE) {
        wire(options)?;
    }
    Ok(ExitCode::SUCCESS)
}

fn parser(target: &str, minutes: u64) -> Result<()> {
    if shell::output(nightly().args(["fuzz", "--version"])).is_none() {
        bail!(
            "cargo-fuzz or the nightly compiler is missing: rustup toolchain install nightly; cargo install cargo-fuzz"
        );
    }
    // What is found besides goes to a folder that is not committed; the committed corpus is read.
    let found = shell::root().join("fuzz/target/found").join(target);
    std::fs::create_dir_all(&found)?;
    let mut command = nightly();
    command.current_dir(shell::root().join("fuzz"));
    command.args(["fuzz", "run", target]).arg(&found).arg(format!("corpus/{target}"));
    let time = format!("-max_total_time={}", minutes * 60);
    command.args(["--", &time, "-rss_limit_mb=4096", "-timeout=20", "-verbosity=0"]);
    shell::run(&mut command)
}

/// Another cargo than the one that runs this command, which is named in the environment.
fn nightly() -> std::process::Command {
    let mut command = shell::program("cargo");
    command.arg("+nightly").env_remove("RUSTUP_TOOLCHAIN").env_remove("CARGO");
    command
}

fn wire(options: &Options) -> Result<()> {
    let gateway = build::gateway(build::Profile::Debug)?;
    let mut command = shell::cargo();
    command.env("GATEWAY_BIN", gateway);
    command.env("GATEWAY_MUTANTS", options.mutants.to_string()).env("GATEWAY_SEED", options.seed.to_string());
    command.args(["test", "--locked", "--package", "gateway-tests", "--test", "blackbox", "--"]);
    command.args(["hostile::mutants", "--nocapture"]);
    shell::run(&mut command)
}
