//! A circuit: failure ratio over a sliding window, open for a time, half-open with probes. Lock-free, shared by workers;
//! time is an argument.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

/// When a circuit opens and closes.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Policy {
    /// Length of the sliding window.
    pub window: Duration,
    /// Requests in the window below which it never opens.
    pub minimum_requests: u32,
    /// Failures ÷ requests at which it opens, 0–1.
    pub failure_ratio: f64,
    /// How long it stays open.
    pub open_for: Duration,
    /// Successful probes that close it again.
    pub half_open_probes: u32,
}

/// Whether a request may go to the upstream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Permit {
    /// The circuit is closed.
    Pass,
    /// The circuit is half open and this request is one of its probes: tell `Circuit::record` that it was one.
    Probe,
    /// The circuit is open; ask again after this many nanoseconds.
    Refused {
        /// Nanoseconds until a probe is let through.
        retry_ns: u64,
    },
}

/// A circuit's state, for status and metrics.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum State {
    Closed,
    Open,
    HalfOpen,
}

const SLICES: u64 = 10;

/// One slice of the window: the slice's number, requests and failures in one word each, so that a stale slice is seen.
#[derive(Default)]
struct Slice {
    number: AtomicU64,
    requests: AtomicU32,
    failures: AtomicU32,
}

/// One circuit. `opened_ns` = 0 is closed.
#[derive(Default)]
pub struct Circuit {
    slices: [Slice; SLICES as usize],
    opened_ns: AtomicU64,
    probes: AtomicU32,
    successes: AtomicU32,
}

impl Circuit {
    /// Asks for permission to send a request.
    pub fn permit(&self, policy: &Policy, now_ns: u64) -> Permit {
        let opened = self.opened_ns.load(Ordering::Acquire);
        if opened == 0 {
            return Permit::Pass;
        }
        let until = opened.saturating_add(nanos(policy.open_for));
        if now_ns < until {
            return Permit::Refused { retry_ns: until - now_ns };
        }
        let probe = self
            .probes
            .fetch_update(Ordering::AcqRel, Ordering::Acquire, |p| (p < policy.half_open_probes.max(1)).then(|| p + 1));
        match probe {
            Ok(_) => Permit::Probe,
            // The probes are under way; a second is the shortest wait that can be told in `Retry-After`.
            Err(_) => Permit::Refused { retry_ns: 1_000_000_000 },
        }
    }

    /// Tells how a permitted request ended; `None` is neither (abandoned).
    pub fn record(&self, policy: &Policy, probe: bool, success: Option<bool>, now_ns: u64) {
        if probe {
            return self.record_probe(policy, success, now_ns);
        }
        let Some(success) = success else { return };
        let slice = self.slice(policy, now_ns);
        slice.requests.fetch_add(1, Ordering::Relaxed);
        if success {
            return;
        }
        slice.failures.fetch_add(1, Ordering::Relaxed);
        let (requests, failures) = self.counts(policy, now_ns);
        if requests >= policy.minimum_requests && f64::from(failures) >= policy.failure_ratio * f64::from(requests) {
            self.open(now_ns);
        }
    }

    fn record_probe(&self, policy: &Policy, success: Option<bool>, now_ns: u64) {
        match success {
            None => {
                // The probe said nothing: give its place to another.
                let _ = self.probes.fetch_update(Ordering::AcqRel, Ordering::Acquire, |p| p.checked_sub(1));
            }
            Some(false) => self.open(now_ns),
            Some(true) => {
                if self.successes.fetch_add(1, Ordering::AcqRel) + 1 >= policy.half_open_probes.max(1) {
                    self.close();
                }
            }
        }
    }

    /// The state at `now_ns`.
    #[must_use]
    pub fn state(&self, policy: &Policy, now_ns: u64) -> State {
        match self.opened_ns.load(Ordering::Acquire) {
            0 => State::Closed,
            opened if now_ns < opened.saturating_add(nanos(policy.open_for)) => State::Open,
            _ => State::HalfOpen,
        }
    }

    fn open(&self, now_ns: u64) {
        self.probes.store(0, Ordering::Release);
        self.successes.store(0, Ordering::Release);
        self.opened_ns.store(now_ns.max(1), Ordering::Release);
    }

    fn close(&self) {
        for slice in &self.slices {
            slice.number.store(0, Ordering::Relaxed);
            slice.requests.store(0, Ordering::Relaxed);
            slice.failures.store(0, Ordering::Relaxed);
        }
        self.opened_ns.store(0, Ordering::Release);
    }

    /// The slice of `now_ns`, emptied if it still holds an older turn. Two workers may both empty it: a few counts at the
    /// turn of a slice may be lost, which a ratio does not feel.
    fn slice(&self, policy: &Policy, now_ns: u64) -> &Slice {
        let number = now_ns / slice_ns(policy);
        let slice = &self.slices[(number % SLICES) as usize];
        if slice.number.swap(number, Ordering::Relaxed) != number {
            slice.requests.store(0, Ordering::Relaxed);
            slice.failures.store(0, Ordering::Relaxed);
        }
        slice
    }

    fn counts(&self, policy: &Policy, now_ns: u64) -> (u32, u32) {
        let number = now_ns / slice_ns(policy);
        let live = self.slices.iter().filter(|s| number - s.number.load(Ordering::Relaxed).min(number) < SLICES);
        live.fold((0_u32, 0_u32), |(requests, failures), s| {
            (
                requests.saturating_add(s.requests.load(Ordering::Relaxed)),
                failures.saturating_add(s.failures.load(Ordering::Relaxed)),
            )
        })
    }
}

fn nanos(d: Duration) -> u64 {
    u64::try_from(d.as_nanos()).unwrap_or(u64::MAX)
}

fn slice_ns(policy: &Policy) -> u64 {
    (nanos(policy.window) / SLICES).max(1)
}

/// All circuits of the process, by the id of what they protect. They outlive a reload.
#[derive(Default)]
pub struct Circuits(papaya::HashMap<String, Arc<Circuit>>);

impl Circuits {
    /// The circuit of `id`, made on first use.
    pub fn of(&self, id: &str) -> Arc<Circuit> {
        let circuits = self.0.pin();
        if let Some(circuit) = circuits.get(id) {
            return Arc::clone(circuit);
        }
        Arc::clone(circuits.get_or_insert_with(id.to_owned(), Arc::default))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const S: u64 = 1_000_000_000;

    fn policy() -> Policy {
        Policy {
            window: Duration::from_secs(10),
            minimum_requests: 4,
            failure_ratio: 0.5,
            open_for: Duration::from_secs(5),
            half_open_probes: 2,
        }
    }

    #[test]
    fn opens_on_the_ratio_and_closes_after_probes() {
        let (c, p) = (Circuit::default(), policy());
        for i in 0..4 {
            assert_eq!(c.permit(&p, 100 * S), Permit::Pass);
            c.record(&p, false, Some(i % 2 == 0), 100 * S);
        }
        assert_eq!(c.state(&p, 100 * S), State::Open);
        assert_eq!(c.permit(&p, 101 * S), Permit::Refused { retry_ns: 4 * S });
        assert_eq!(c.permit(&p, 105 * S), Permit::Probe);
        assert_eq!(c.permit(&p, 105 * S), Permit::Probe);
        assert!(matches!(c.permit(&p, 105 * S), Permit::Refused { .. }));
        c.record(&p, true, Some(true), 105 * S);
        c.record(&p, true, Some(true), 105 * S);
        assert_eq!(c.state(&p, 105 * S), State::Closed);
    }

    #[test]
    fn a_failed_probe_opens_again_and_an_abandoned_one_frees_its_place() {
        let (c, p) = (Circuit::default(), policy());
        for _ in 0..4 {
            c.record(&p, false, Some(false), 100 * S);
        }
        assert_eq!(c.permit(&p, 105 * S), Permit::Probe);
        c.record(&p, true, None, 105 * S);
        assert_eq!(c.permit(&p, 105 * S), Permit::Probe);
        c.record(&p, true, Some(false), 106 * S);
        assert_eq!(c.permit(&p, 107 * S), Permit::Refused { retry_ns: 4 * S });
    }

    #[test]
    fn old_failures_leave_the_window_and_few_requests_never_open() {
        let (c, p) = (Circuit::default(), policy());
        for _ in 0..3 {
            c.record(&p, false, Some(false), 100 * S);
        }
        assert_eq!(c.state(&p, 100 * S), State::Closed);
        c.record(&p, false, Some(false), 120 * S);
        assert_eq!(c.state(&p, 120 * S), State::Closed);
    }
}
