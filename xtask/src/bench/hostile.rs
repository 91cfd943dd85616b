//! `cargo xtask bench hostile`: runs the program that attacks a gateway of its own (`tests/src/bin/hostile_bench`), gathers its
//! rows into one table and keeps the raw ones.

use std::io::{BufRead, BufReader};
use std::process::Stdio;

use anyhow::{Context, Result, bail};

use super::report::Raw;
use crate::{bars, build, setup, shell};

#[derive(clap::Args)]
pub struct Options {
    /// A soak instead: all attacks in a loop for so many minutes, with reloads
    #[arg(long, conflicts_with = "only", value_parser = clap::value_parser!(u64).range(1..))]
    minutes: Option<u64>,
    /// Only the attacks whose name has this in it, or `faults`
    #[arg(long)]
    only: Option<String>,
}

/// Measures, prints and judges.
///
/// # Errors
/// Something did not start, or a bar was missed.
pub fn run(options: &Options) -> Result<()> {
    setup::run(&setup::Options { bench: true, ..setup::Options::default() })?;
    let gateway = build::gateway(build::Profile::Release)?;
    let version = shell::output(std::process::Command::new(&gateway).arg("--version")).unwrap_or_default();
    let mut command = shell::cargo();
    command.args(["run", "--locked", "--release", "--package", "gateway-tests", "--bin", "hostile_bench", "--"]);
    if let Some(minutes) = options.minutes {
        command.args(["--minutes", &minutes.to_string()]);
    }
    if let Some(word) = &options.only {
        command.args(["--only", word]);
    }
    let mut raw = Raw::create("hostile")?;
    eprintln!("$ {}", shell::typed(&command));
    let mut child = command.env("GATEWAY_BIN", gateway).stdout(Stdio::piped()).spawn().context("cannot start cargo")?;
    let mut rows = Vec::new();
    for line in BufReader::new(child.stdout.take().context("stdout is piped")?).lines() {
        let line = line?;
        if let Some(row) = bars::row(&line) {
            rows.push(row);
        } else if let Some(fields) = line.strip_prefix("RAW\t") {
            raw.line(version.trim(), serde_json::from_str(fields)?)?;
        } else {
            println!("{line}");
        }
    }
    let status = child.wait()?;
    println!("\n{}", bars::table(bars::HOSTILE, &rows, "other options measure those"));
    println!("raw rows: {}", raw.name);
    if !status.success() {
        bail!("the measuring program failed: {status}");
    }
    match bars::missed(&rows) {
        0 if rows.is_empty() => bail!("nothing was measured"),
        0 => Ok(()),
        missed => bail!("{missed} of {} bars are missed", rows.len()),
    }
}
