//! Tells when a file changed: its folder is watched, since editors and Kubernetes replace files instead of writing them.

use std::path::Path;
use std::time::Duration;

use anyhow::Context;
use notify::{RecursiveMode, Watcher};
use tokio::sync::mpsc;
use tokio::time::Instant;

/// Changes come in bursts: the file is read when it has been quiet for this long.
const QUIET: Duration = Duration::from_millis(100);

/// Changes of the file at `path`.
pub struct Changes {
    events: mpsc::Receiver<()>,
    /// When a burst that has begun is over; kept here so that a wait that is given up loses nothing.
    over: Option<Instant>,
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
    Ok(Changes { events, over: None, _watcher: watcher })
}

impl Changes {
    /// Waits for the next change, and until it is over. May be dropped and called again.
    pub async fn recv(&mut self) -> Option<()> {
        loop {
            let event = match self.over {
                None => Some(self.events.recv().await),
                Some(over) => tokio::time::timeout_at(over, self.events.recv()).await.ok(),
            };
            match event {
                Some(Some(())) => self.over = Some(Instant::now() + QUIET),
                Some(None) if self.over.is_none() => return None,
                _ => {
                    self.over = None;
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
            let mut changes = file(&path).expect("watched");
            std::fs::write(&path, "a").expect("written");
            let waits = async {
                // As a loop does that also waits for other things, more often than a burst is quiet.
                while tokio::time::timeout(QUIET / 10, changes.recv()).await.is_err() {}
            };
            tokio::time::timeout(Duration::from_secs(10), waits).await.expect("the change is told");
        });
    }
}
