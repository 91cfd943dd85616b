//! `gateway schema`.

use std::io::Write;
use std::process::ExitCode;

use clap::Args;

/// Prints the JSON Schema of configuration files.
#[derive(Debug, Args)]
pub struct Schema {}

impl Schema {
    /// Prints it.
    ///
    /// # Errors
    /// When standard output takes nothing.
    pub fn run(&self) -> anyhow::Result<ExitCode> {
        crate::crypto::install();
        writeln!(std::io::stdout(), "{:#}", crate::config::schema::document())?;
        Ok(ExitCode::SUCCESS)
    }
}
