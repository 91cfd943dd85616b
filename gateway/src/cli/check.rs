//! `gateway check FILE`.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;

use crate::config::{Environment, compile, running::read_text};
use crate::{app, crypto};

/// Checks a configuration file.
#[derive(Debug, Args)]
pub struct Check {
    /// The file.
    file: PathBuf,
    /// Take what is understood but not built as a warning.
    #[arg(long)]
    allow_unsupported: bool,
}

impl Check {
    /// Prints what is wrong; exit code 2 if the file cannot run.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn run(&self) -> anyhow::Result<ExitCode> {
        crypto::install();
        let text = match read_text(&self.file) {
            Ok(text) => text,
            Err(error) => {
                eprintln!("error: {error:#}");
                return Ok(ExitCode::from(2));
            }
        };
        let (shared, _) = app::shared()?;
        let compiled =
            compile(&text, &self.file.display().to_string(), self.allow_unsupported, &Environment::read(), &shared);
        eprint!("{}", compiled.report);
        let Some(snapshot) = compiled.snapshot else {
            let fatal =
                compiled.report.problems().iter().filter(|p| p.severity != crate::document::Severity::Warning).count();
            eprintln!("{}: {fatal} error{}", self.file.display(), if fatal == 1 { "" } else { "s" });
            return Ok(ExitCode::from(2));
        };
        let interfaces = snapshot.settings.edge.iter().flat_map(|policy| &policy.interfaces);
        for name in interfaces.filter(|name| nix::net::if_::if_nametoindex(name.as_str()).is_err()) {
            // Only a warning: the file may be checked elsewhere than it runs, and interfaces may come later.
            eprintln!("{}: warning: `interfaces`: this host has no {name} now", self.file.display());
        }
        let c = snapshot.counts;
        eprintln!(
            "{}: ok ({} services, {} routes, {} consumers, {} plugins)",
            self.file.display(),
            c.services,
            c.routes,
            c.consumers,
            c.plugins
        );
        Ok(ExitCode::SUCCESS)
    }
}
