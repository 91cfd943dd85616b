//! A minimal proxy on Pingora, a crate of its own in `bench/pingora`.

use std::path::{Path, PathBuf};

use anyhow::Result;

use super::Stage;
use crate::bench::server::{Server, free};
use crate::shell;

/// Builds it.
///
/// # Errors
/// It does not build.
pub fn build() -> Result<PathBuf> {
    let target = shell::target().join("peers/pingora");
    let mut cargo = shell::cargo();
    cargo.current_dir(shell::root().join("bench/pingora"));
    shell::run(cargo.args(["build", "--locked", "--release", "--target-dir"]).arg(&target))?;
    Ok(target.join("release/pingora-peer"))
}

pub fn start(stage: &Stage<'_>, program: &Path) -> Result<Server> {
    let address = free()?;
    let folder = stage.place.folder_of(&format!("pingora-{}", address.port()))?;
    let mut command = stage.place.pinned(program)?;
    command.args([address.to_string(), stage.upstream.to_string()]);
    Server::start(address, &mut command, &folder)
}
