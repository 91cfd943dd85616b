//! `gateway check FILE`.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;

use super::{Reading, look, shown};

/// Checks configuration files.
#[derive(Debug, Args)]
pub struct Check {
    /// The files and folders, read together.
    #[arg(required = true)]
    files: Vec<PathBuf>,
    #[command(flatten)]
    reading: Reading,
}

impl Check {
    /// Prints what is wrong; exit code 2 if the files cannot run.
    ///
    /// # Errors
    /// When nothing can be compiled at all.
    pub fn run(&self) -> anyhow::Result<ExitCode> {
        let Some(snapshot) = look(&self.files, &self.reading)? else { return Ok(ExitCode::from(2)) };
        let c = snapshot.counts;
        eprintln!(
            "{}: ok ({} services, {} routes, {} consumers, {} plugins)",
            shown(&self.files),
            c.services,
            c.routes,
            c.consumers,
            c.plugins
        );
        Ok(ExitCode::SUCCESS)
    }
}
