//! Timers that are used again: a request takes one and sets it further into the future, which costs the runtime's wheel
//! nothing. A fresh timer a request would be inserted and removed each time.

use std::cell::RefCell;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::time::{Instant, Sleep};

use crate::clock;

/// Timers kept for later at most.
const KEPT_MAX: usize = 1024;

/// A worker's timers.
pub struct Timers {
    kept: RefCell<Vec<Pin<Box<Sleep>>>>,
    /// One moment on both clocks, so that setting a timer reads none.
    origin: (Instant, u64),
}

impl Default for Timers {
    fn default() -> Self {
        Timers { kept: RefCell::default(), origin: (Instant::now(), clock::monotonic_ns()) }
    }
}

impl Timers {
    /// A timer that rings `limit` after the monotonic time `now_ns`. It may wake its task for nothing once more after it
    /// was dropped.
    #[must_use]
    pub fn set(&self, now_ns: u64, limit: Duration) -> Timer<'_> {
        let due = self.due(now_ns, limit);
        let sleep = match self.kept.borrow_mut().pop() {
            Some(mut sleep) => {
                sleep.as_mut().reset(due);
                sleep
            }
            None => Box::pin(tokio::time::sleep_until(due)),
        };
        Timer { timers: self, sleep: Some(sleep) }
    }

    fn due(&self, now_ns: u64, limit: Duration) -> Instant {
        let (instant, ns) = self.origin;
        instant + Duration::from_nanos(now_ns.saturating_sub(ns)) + limit
    }
}

/// A timer that is set.
pub struct Timer<'a> {
    timers: &'a Timers,
    sleep: Option<Pin<Box<Sleep>>>,
}

impl Timer<'_> {
    /// Sets it anew.
    pub fn reset(&mut self, now_ns: u64, limit: Duration) {
        let due = self.timers.due(now_ns, limit);
        if let Some(sleep) = &mut self.sleep {
            sleep.as_mut().reset(due);
        }
    }
}

impl Future for Timer<'_> {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        self.sleep.as_mut().map_or(Poll::Ready(()), |sleep| sleep.as_mut().poll(cx))
    }
}

impl Drop for Timer<'_> {
    fn drop(&mut self) {
        let mut kept = self.timers.kept.borrow_mut();
        if kept.len() < KEPT_MAX {
            kept.extend(self.sleep.take());
        }
    }
}
