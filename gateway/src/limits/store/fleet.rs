//! What a process knows of limits that it shares with others: slices that it holds, who is denied, how calls end.

use std::fmt::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use papaya::HashMap;
use tokio::sync::watch;

use super::Fault;
use super::denied::Denials;
use super::slice::Slice;
use crate::limits::window::{AHEAD_S, Period};
use crate::telemetry::metrics;

/// Slices at most; beyond it, the store is asked for every request.
const SLICES_MAX: usize = 1 << 16;

/// Tasks at most that tell the store of windows of any length; what they do not tell is told with a later request.
const FOLLOWERS_MAX: u64 = 1 << 16;
/// How often one that closes looks whether all is told.
const LOOK: Duration = Duration::from_millis(5);

/// Limits shared with other gateways, as this process sees them. It outlives a reload.
pub struct Fleet {
    /// Names this process to the store.
    node: String,
    slices: HashMap<(u64, Period), Arc<Slice>>,
    /// Requests that wait for a slice.
    waiting: AtomicU64,
    /// Who is denied until when.
    pub denials: Denials,
    /// How the calls to the store ended.
    pub calls: Calls,
    /// When was last complained, monotonic seconds.
    complained_s: AtomicU64,
    /// Tasks that will tell the store what it does not know yet.
    followers: AtomicU64,
    /// The process ends: what is owed is told at once.
    closing: watch::Sender<bool>,
}

/// One of those tasks.
pub struct Follower {
    fleet: Arc<Fleet>,
    closing: watch::Receiver<bool>,
}

impl Follower {
    /// Waits for the next call, or until the process ends; whether it does.
    pub async fn pause(&self, time: Duration) -> bool {
        let mut closing = self.closing.clone();
        let ends = async {
            // The fleet outlives its followers.
            let _ = closing.wait_for(|closing| *closing).await;
        };
        tokio::time::timeout(time, ends).await.is_ok()
    }
}

impl Drop for Follower {
    fn drop(&mut self) {
        self.fleet.followers.fetch_sub(1, Relaxed);
    }
}

impl Default for Fleet {
    fn default() -> Self {
        Fleet {
            node: uuid::Uuid::new_v4().simple().to_string(),
            slices: HashMap::new(),
            waiting: AtomicU64::new(0),
            denials: Denials::default(),
            calls: Calls::default(),
            complained_s: AtomicU64::new(0),
            followers: AtomicU64::new(0),
            closing: watch::Sender::new(false),
        }
    }
}

impl Fleet {
    /// This process's name in the store.
    #[must_use]
    pub fn node(&self) -> &str {
        &self.node
    }

    /// The slice of a limit and identity, of which `key` is a hash as for `Windows`; none when there are too many.
    #[must_use]
    pub fn slice(&self, key: u64, period: Period) -> Option<Arc<Slice>> {
        let pin = self.slices.pin();
        if let Some(slice) = pin.get(&(key, period)) {
            return Some(Arc::clone(slice));
        }
        if pin.len() >= SLICES_MAX {
            return None;
        }
        Some(Arc::clone(pin.get_or_insert_with((key, period), Arc::default)))
    }

    /// Lets one more wait, unless `max` do.
    #[must_use]
    pub fn enter(&self, max: u64) -> bool {
        let entered = self.waiting.fetch_add(1, Relaxed) < max;
        if !entered {
            self.leave();
        }
        entered
    }

    /// One waits no more.
    pub fn leave(&self) {
        self.waiting.fetch_sub(1, Relaxed);
    }

    /// One more task will tell the store what is owed.
    #[must_use]
    pub fn follow(self: &Arc<Self>) -> Follower {
        self.followers.fetch_add(1, Relaxed);
        Follower { fleet: Arc::clone(self), closing: self.closing.subscribe() }
    }

    /// The same, unless there are too many.
    #[must_use]
    pub fn try_follow(self: &Arc<Self>) -> Option<Follower> {
        (self.followers.load(Relaxed) < FOLLOWERS_MAX).then(|| self.follow())
    }

    /// From now on the store is told at once of what is owed: the process ends.
    pub fn close(&self) {
        self.closing.send_replace(true);
    }

    /// Waits until it was told of all, `time` at most. A worker does so when its last request has ended; every worker waits
    /// for all, since the tasks of one may tell what another counted.
    pub async fn told(&self, time: Duration) {
        let all_told = async {
            while self.followers.load(Relaxed) > 0 {
                tokio::time::sleep(LOOK).await;
            }
        };
        // Who is not reached in time is not told.
        let _ = tokio::time::timeout(time, all_told).await;
    }

    /// Says in the log, at most once a second, that a plugin had to do without the store.
    pub fn complain(&self, plugin: &'static str, fault: &Fault) {
        let now_s = crate::clock::monotonic_ns() / 1_000_000_000;
        if self.complained_s.swap(now_s, Relaxed) != now_s {
            tracing::warn!(plugin, why = %fault, "counts without Redis");
        }
    }

    /// Writes its metrics.
    pub fn render(&self, out: &mut String) {
        let name = "gateway_limit_store_calls_total";
        metrics::head(out, name, "counter", "Calls to Redis for limits, by their end.");
        for (end, count) in self.calls.all() {
            let _ = writeln!(out, "{name}{{end=\"{end}\"}} {count}");
        }
        metrics::head(out, "gateway_limit_denials", "gauge", "Denials remembered until their window ends.");
        let _ = writeln!(out, "gateway_limit_denials {}", self.denials.len());
        metrics::head(out, "gateway_limit_slices", "gauge", "Limits of an identity of which slices are held.");
        let _ = writeln!(out, "gateway_limit_slices {}", self.slices.len());
    }

    /// Forgets what is over; the control plane calls it now and then.
    pub fn sweep(&self, unix_s: u64) {
        self.denials.sweep(unix_s);
        let live =
            |period: Period, slice: &Slice| slice.is_live(period.window(unix_s).0, period.window(unix_s + AHEAD_S).0);
        self.slices.pin().retain(|(_, period), slice| live(*period, slice));
    }
}

/// Calls to the store since the start, by their end.
#[derive(Default)]
pub struct Calls {
    answered: AtomicU64,
    down: AtomicU64,
    slow: AtomicU64,
    full: AtomicU64,
    broken: AtomicU64,
    refused: AtomicU64,
}

impl Calls {
    /// Counts the end of a call.
    pub fn note<T>(&self, answer: &Result<T, Fault>) {
        let counter = match answer {
            Ok(_) => &self.answered,
            Err(Fault::Down) => &self.down,
            Err(Fault::Slow) => &self.slow,
            Err(Fault::Full) => &self.full,
            Err(Fault::Broken) => &self.broken,
            Err(Fault::Refused(_)) => &self.refused,
        };
        counter.fetch_add(1, Relaxed);
    }

    /// Ends and how often each came.
    #[must_use]
    pub fn all(&self) -> [(&'static str, u64); 6] {
        [
            ("answered", self.answered.load(Relaxed)),
            ("down", self.down.load(Relaxed)),
            ("slow", self.slow.load(Relaxed)),
            ("full", self.full.load(Relaxed)),
            ("broken", self.broken.load(Relaxed)),
            ("refused", self.refused.load(Relaxed)),
        ]
    }
}
