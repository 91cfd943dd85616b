//! `cargo xtask build`: the gateway's binary in one of the workspace's profiles.

use std::path::PathBuf;

use anyhow::Result;

use crate::shell;

#[derive(clap::Args)]
pub struct Options {
    /// Build for development: quick to build, slow to run
    #[arg(long, conflicts_with = "dist")]
    debug: bool,
    /// Build as it is published and as benchmarks measure it: slow to build
    #[arg(long)]
    dist: bool,
}

/// A cargo profile and the folder that it builds into.
#[derive(Clone, Copy)]
pub enum Profile {
    Debug,
    Release,
    Dist,
}

impl Profile {
    const fn names(self) -> (&'static str, &'static str) {
        match self {
            Self::Debug => ("dev", "debug"),
            Self::Release => ("release", "release"),
            Self::Dist => ("dist", "dist"),
        }
    }
}

/// Builds the gateway and prints where the binary is.
///
/// # Errors
/// The build failed.
pub fn run(options: &Options) -> Result<()> {
    let profile = match (options.debug, options.dist) {
        (true, _) => Profile::Debug,
        (_, true) => Profile::Dist,
        _ => Profile::Release,
    };
    println!("{}", gateway(profile)?.display());
    Ok(())
}

/// Builds the gateway and returns the binary's path.
///
/// # Errors
/// The build failed.
pub fn gateway(profile: Profile) -> Result<PathBuf> {
    let (name, folder) = profile.names();
    shell::run(shell::cargo().args(["build", "--locked", "--package", "gateway", "--profile", name]))?;
    Ok(shell::target().join(folder).join("gateway"))
}
