//! What a process knows of limits that it shares with others: slices that it holds, who is denied, how calls end.

use std::fmt::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use papaya::HashMap;

use super::Fault;
use super::denied::Denials;
use super::slice::Slice;
use crate::limits::window::Period;
use crate::telemetry::metrics;

/// Slices at most; beyond it, the store is asked for every request.
const SLICES_MAX: usize = 1 << 16;

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
        self.slices.pin().retain(|(_, period), slice| slice.is_live(period.window(unix_s).0));
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
