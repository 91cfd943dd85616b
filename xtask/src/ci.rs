//! `cargo xtask ci`: `.ci/run` is the only description of what continuous integration does; this runs it.

use std::process::ExitCode;

use anyhow::Result;

use crate::shell;

/// Runs `.ci/run`.
///
/// # Errors
/// bash could not be started.
pub fn run() -> Result<ExitCode> {
    let status = shell::status(shell::program("bash").arg(".ci/run"))?;
    Ok(if status.success() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
