//! Tells when files changed: their folders are watched, since editors and Kubernetes replace files instead of writing them.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::Context;
use notify::{RecursiveMode, Watcher};
use tokio::sync::mpsc;

/// Changes come in bursts: the file is read when it has been quiet for this long.
const QUIET: Duration = Duration::from_millis(100);
/// A folder that is never quiet keeps a change waiting for this long at most.
const WAIT_MAX: Duration = Duration::from_secs(1);

/// Changes of files.
pub struct Changes {
    events: mpsc::Receiver<()>,
    /// When the first change came that was not told yet.
    since: Option<Instant>,
    _watcher: notify::RecommendedWatcher,
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
    Ok(Changes { events, since: None, _watcher: watcher })
}

impl Changes {
    /// Waits for the next change, and until it is over. Dropping the future loses no change.
    pub async fn recv(&mut self) -> Option<()> {
        let since = match self.since {
            Some(since) => since,
            None => {
                self.events.recv().await?;
                *self.since.insert(Instant::now())
            }
        };
        while let Some(left) = WAIT_MAX.checked_sub(since.elapsed()) {
            match tokio::time::timeout(QUIET.min(left), self.events.recv()).await {
                Ok(Some(())) => {}
                Ok(None) | Err(_) => break,
            }
        }
        self.since = None;
        Some(())
    }
}
