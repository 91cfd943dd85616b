//! The process as the system sees it: its descriptors, its memory and its threads. Nothing here knows the gateway.

use std::path::PathBuf;

use crate::{privileges, watch};

/// Allows as many descriptors as the system grants.
pub fn raise_descriptor_limit() {
    use nix::sys::resource::{Resource, getrlimit, setrlimit};
    if let Ok((soft, hard)) = getrlimit(Resource::RLIMIT_NOFILE)
        && soft < hard
        && let Err(error) = setrlimit(Resource::RLIMIT_NOFILE, hard, hard)
    {
        tracing::warn!(%error, "cannot raise the descriptor limit");
    }
}

/// Memory that this process holds, in KiB; 0 where the system does not say.
pub fn rss_kib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    line.and_then(|rest| rest.trim().trim_end_matches("kB").trim().parse().ok()).unwrap_or_default()
}

/// Watches files and folders; the watcher's thread inherits from the one that starts it, which gives its privileges up.
///
/// # Errors
/// The system's.
pub fn watch_without_privileges(paths: &[PathBuf]) -> anyhow::Result<watch::Changes> {
    let watch = || {
        privileges::of_files();
        watch::paths(paths)
    };
    std::thread::scope(|scope| scope.spawn(watch).join()).unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}
