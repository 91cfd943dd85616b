//! The drain signal: told once, seen by everybody who holds a watcher.

use tokio::sync::watch;

/// Tells everybody to finish.
#[derive(Debug)]
pub struct Drain(watch::Sender<bool>);

/// Sees the signal.
#[derive(Clone, Debug)]
pub struct Drained(watch::Receiver<bool>);

impl Drain {
    /// A signal that is not given yet.
    #[must_use]
    pub fn new() -> (Self, Drained) {
        let (sender, receiver) = watch::channel(false);
        (Drain(sender), Drained(receiver))
    }

    /// Gives the signal.
    pub fn begin(&self) {
        self.0.send_replace(true);
    }
}

impl Drained {
    /// Whether the signal was given.
    #[must_use]
    pub fn now(&self) -> bool {
        *self.0.borrow()
    }

    /// Waits for the signal.
    pub async fn wait(&mut self) {
        // A sender that is gone will never tell: that is the end as well.
        let _ = self.0.wait_for(|drained| *drained).await;
    }
}
