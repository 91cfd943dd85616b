//! Tells when a file changed: its folder is watched, since editors and Kubernetes replace files instead of writing them.

use std::path::Path;
use std::time::Duration;

use anyhow::Context;
use notify::{RecursiveMode, Watcher};
use tokio::sync::mpsc;

/// Changes come in bursts: the file is read when it has been quiet for this long.
const QUIET: Duration = Duration::from_millis(100);

/// Changes of the file at `path`.
pub struct Changes {
    events: mpsc::Receiver<()>,
    /// A change was taken from the channel and not told yet.
    pending: bool,
    _watcher: notify::RecommendedWatcher,
}

/// Watches a file.
///
/// # Errors
/// When its folder cannot be watched.
pub fn file(path: &Path) -> anyhow::Result<Changes> {
    let (sender, events) = mpsc::channel(1);
    let mut watcher = notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
        // Reading it is what a reload does itself.
        if event.is_ok_and(|e| !e.kind.is_access()) {
            // A full channel already holds the news.
            let _ = sender.try_send(());
        }
    })?;
    let folder = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    watcher.watch(folder, RecursiveMode::NonRecursive).with_context(|| format!("cannot watch {}", folder.display()))?;
    Ok(Changes { events, pending: false, _watcher: watcher })
}

impl Changes {
    /// Waits for the next change, and until it is over. May be dropped at any time: a change is not lost with it.
    pub async fn recv(&mut self) -> Option<()> {
        if !self.pending {
            self.events.recv().await?;
            self.pending = true;
        }
        while tokio::time::timeout(QUIET, self.events.recv()).await.is_ok_and(|e| e.is_some()) {}
        self.pending = false;
        Some(())
    }
}
