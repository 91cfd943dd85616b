//! `gateway check FILE`.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;

use super::{Reading, look, shown};
use crate::config::Bundle;
use crate::document::tree;

/// Checks configuration files.
#[derive(Debug, Args)]
pub struct Check {
    /// The files and folders, read together.
    #[arg(required_unless_present = "config")]
    files: Vec<PathBuf>,
    /// The same, as the other commands name them.
    #[arg(short, long)]
    config: Vec<PathBuf>,
    #[command(flatten)]
    reading: Reading,
}

impl Check {
    /// Prints what is wrong; exit code 2 if the files cannot run.
    ///
    /// # Errors
    /// When nothing can be compiled at all.
    pub fn run(&self) -> anyhow::Result<ExitCode> {
        let files = [self.files.as_slice(), &self.config].concat();
        let Some(snapshot) = look(&files, &self.reading)? else { return Ok(ExitCode::from(2)) };
        let interfaces = snapshot.settings.edge.iter().flat_map(|policy| &policy.interfaces);
        for name in interfaces.filter(|name| nix::net::if_::if_nametoindex(name.as_str()).is_err()) {
            // Only a warning: the file may be checked elsewhere than it runs, and interfaces may come later.
            let place = place_of(&snapshot.bundle, name).unwrap_or_else(|| shown(&files));
            eprintln!("{place}: warning: `interfaces`: this host has no {name} now");
        }
        let c = snapshot.counts;
        eprintln!(
            "{}: ok ({} services, {} routes, {} consumers, {} plugins)",
            shown(&files),
            c.services,
            c.routes,
            c.consumers,
            c.plugins
        );
        Ok(ExitCode::SUCCESS)
    }
}

/// `FILE:LINE:COLUMN` where an interface is named; nothing where the name is made, as of a variable.
fn place_of(bundle: &Bundle, interface: &str) -> Option<String> {
    bundle.0.iter().find_map(|file| {
        let tree = tree::parse(&file.text).ok()?;
        let list = tree.member("gateway")?.member("edge")?.member("interfaces")?;
        let one = std::iter::once(list).chain(list.items()).find(|node| node.text() == Some(interface))?;
        Some(format!("{}:{}:{}", file.name, one.place.line, one.place.column))
    })
}
