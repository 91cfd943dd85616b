//! Tells when files changed: their folders are watched, since editors and Kubernetes replace files instead of writing them.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context;
use notify::{RecursiveMode, Watcher};
use tokio::sync::mpsc;
use tokio::time::Instant;

/// Changes come in bursts: the file is read when it has been quiet for this long.
const QUIET: Duration = Duration::from_millis(100);
/// A folder that is never quiet keeps a change waiting for this long at most.
const WAIT_MAX: Duration = Duration::from_secs(1);

/// Changes of files.
pub struct Changes {
    events: mpsc::Receiver<()>,
    /// The burst that has begun; kept here so that a wait that is given up loses nothing.
    burst: Option<Burst>,
    _watcher: notify::RecommendedWatcher,
}

#[derive(Clone, Copy)]
struct Burst {
    began: Instant,
    last: Instant,
}

/// Watches files, and folders with all that is in them.
///
/// # Errors
/// When a folder cannot be watched.
pub fn paths(paths: &[PathBuf]) -> anyhow::Result<Changes> {
    let (sender, events) = mpsc::channel(1);
    let mut watcher = notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
        // Reading it is what a reload does itself.
        if event.is_ok_and(|e| !e.kind.is_access()) {
            // A full channel already holds the news.
            let _ = sender.try_send(());
        }
    })?;
    for path in paths {
        let (folder, mode) = if path.is_dir() {
            (path.as_path(), RecursiveMode::Recursive)
        } else {
            let parent = path.parent().filter(|p| !p.as_os_str().is_empty());
            (parent.unwrap_or(Path::new(".")), RecursiveMode::NonRecursive)
        };
        watcher.watch(folder, mode).with_context(|| format!("cannot watch {}", folder.display()))?;
    }
    Ok(Changes { events, burst: None, _watcher: watcher })
}

impl Changes {
    /// Waits for the next change, and until it is over. Dropping the future loses no change.
    pub async fn recv(&mut self) -> Option<()> {
        loop {
            let event = match self.burst {
                None => Some(self.events.recv().await),
                Some(Burst { began, last }) => {
                    let over = (last + QUIET).min(began + WAIT_MAX);
                    // A folder that is never quiet always has an event ready.
                    let wait = tokio::time::timeout_at(over, self.events.recv());
                    if Instant::now() < over { wait.await.ok() } else { None }
                }
            };
            match event {
                Some(Some(())) => {
                    let last = Instant::now();
                    self.burst = Some(Burst { began: self.burst.map_or(last, |burst| burst.began), last });
                }
                Some(None) if self.burst.is_none() => return None,
                _ => {
                    self.burst = None;
                    return Some(());
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wait_that_is_given_up_loses_no_change() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        runtime.block_on(async {
            let folder = tempfile::tempdir().expect("a folder");
            let path = folder.path().join("k.yml");
            let mut changes = paths(std::slice::from_ref(&path)).expect("watched");
            std::fs::write(&path, "a").expect("written");
            let waits = async {
                // As a loop does that also waits for other things, more often than a burst is quiet.
                while tokio::time::timeout(QUIET / 10, changes.recv()).await.is_err() {}
            };
            tokio::time::timeout(Duration::from_secs(10), waits).await.expect("the change is told");
        });
    }
}
