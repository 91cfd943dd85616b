//! What a client connection is doing right now, so that the worker's tick can tell a slow client from a busy one without a
//! timer a request. Written by the connection's own thread only; atomics because hyper wants `Send`.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use crate::clock;

/// The state of one connection. All times are monotonic nanoseconds, 0 is "not now".
#[derive(Debug)]
pub struct Presence {
    in_flight: AtomicU32,
    served: AtomicU64,
    quiet_since: AtomicU64,
    head_since: AtomicU64,
    stalled_since: AtomicU64,
    /// HTTP/2: frames come between requests, and no byte tells where one begins.
    framed: AtomicBool,
    /// Bodies that have more to give and are not asked for it: the peer's window is closed.
    unasked: AtomicU32,
    /// Counts how often bodies were asked.
    asks: AtomicU64,
}

/// What the timer finds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Finding {
    /// Look again after this time.
    Fine(Duration),
    /// The connection has had its time.
    Overdue,
}

impl Presence {
    /// A connection that was just accepted.
    #[must_use]
    pub fn new(now_ns: u64) -> Arc<Self> {
        Arc::new(Presence {
            in_flight: AtomicU32::new(0),
            served: AtomicU64::new(0),
            quiet_since: AtomicU64::new(now_ns),
            head_since: AtomicU64::new(0),
            stalled_since: AtomicU64::new(0),
            framed: AtomicBool::new(false),
            unasked: AtomicU32::new(0),
            asks: AtomicU64::new(0),
        })
    }

    /// The connection speaks HTTP/2.
    pub fn speak_frames(&self) {
        self.framed.store(true, Relaxed);
    }

    /// A body waits to be asked for more, or is asked (or gone).
    pub fn unasked(&self, waits: bool) {
        let count = self.unasked.load(Relaxed);
        self.unasked.store(if waits { count + 1 } else { count.saturating_sub(1) }, Relaxed);
        self.asks.store(self.asks.load(Relaxed).wrapping_add(1), Relaxed);
    }

    /// How often bodies were asked, if one waits for it: a number that stands still tells a closed window.
    #[must_use]
    pub fn waiting(&self) -> Option<u64> {
        (self.unasked.load(Relaxed) > 0).then(|| self.asks.load(Relaxed))
    }

    /// Bytes came. The first of a request starts its clock.
    pub fn received(&self) {
        let between = self.framed.load(Relaxed) && self.served.load(Relaxed) > 0;
        if !between && self.in_flight.load(Relaxed) == 0 && self.head_since.load(Relaxed) == 0 {
            self.head_since.store(clock::monotonic_ns(), Relaxed);
        }
    }

    /// The peer takes no more bytes, or does again.
    pub fn stalled(&self, stalled: bool) {
        let since = self.stalled_since.load(Relaxed);
        if stalled && since == 0 {
            self.stalled_since.store(clock::monotonic_ns(), Relaxed);
        } else if !stalled && since != 0 {
            self.stalled_since.store(0, Relaxed);
        }
    }

    /// A request's head is complete: the time of its first byte, and a guard for as long as it is served.
    #[must_use]
    pub fn enter(self: &Arc<Self>) -> (u64, Serving) {
        self.in_flight.store(self.in_flight.load(Relaxed) + 1, Relaxed);
        self.served.store(self.served.load(Relaxed) + 1, Relaxed);
        let head_since = self.head_since.load(Relaxed);
        self.head_since.store(0, Relaxed);
        let began = match head_since {
            0 => clock::monotonic_ns(),
            since => since,
        };
        (began, Serving(Arc::clone(self)))
    }

    /// Whether the connection may stay: `header` for a request's head, `idle` between requests and for a reader that takes
    /// nothing.
    #[must_use]
    pub fn judge(&self, now_ns: u64, header: Duration, idle: Duration) -> Finding {
        let stalled = self.stalled_since.load(Relaxed);
        let head = self.head_since.load(Relaxed);
        let (since, limit) = if stalled != 0 {
            (stalled, idle)
        } else if self.in_flight.load(Relaxed) > 0 {
            return Finding::Fine(header.min(idle));
        } else if head != 0 {
            (head, header)
        } else if self.served.load(Relaxed) == 0 {
            (self.quiet_since.load(Relaxed), header)
        } else {
            (self.quiet_since.load(Relaxed), idle)
        };
        let spent = Duration::from_nanos(now_ns.saturating_sub(since));
        match limit.checked_sub(spent) {
            Some(left) if !left.is_zero() => Finding::Fine(left.min(header.min(idle))),
            _ => Finding::Overdue,
        }
    }
}

/// A request is being served as long as this lives.
#[derive(Debug)]
pub struct Serving(Arc<Presence>);

impl Serving {
    /// The connection.
    #[must_use]
    pub fn presence(&self) -> &Presence {
        &self.0
    }

    /// Tells when the request ended, so that the connection's quiet time begins then.
    pub fn end(&self, now_ns: u64) {
        self.0.quiet_since.store(now_ns, Relaxed);
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        let left = self.0.in_flight.load(Relaxed).saturating_sub(1);
        self.0.in_flight.store(left, Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const H: Duration = Duration::from_secs(10);
    const I: Duration = Duration::from_secs(60);
    const S: u64 = 1_000_000_000;

    #[test]
    fn a_silent_connection_has_the_header_time_then_the_idle_time() {
        let p = Presence::new(100 * S);
        assert_eq!(p.judge(105 * S, H, I), Finding::Fine(Duration::from_secs(5)));
        assert_eq!(p.judge(110 * S, H, I), Finding::Overdue);
        p.enter().1.end(100 * S);
        assert_eq!(p.judge(159 * S, H, I), Finding::Fine(Duration::from_secs(1)));
        assert_eq!(p.judge(160 * S, H, I), Finding::Overdue);
    }

    #[test]
    fn a_request_in_flight_is_nobodys_fault_unless_the_reader_stalls() {
        let p = Presence::new(0);
        let (_, serving) = p.enter();
        assert!(matches!(p.judge(1_000 * S, H, I), Finding::Fine(_)));
        p.stalled_since.store(1_000 * S, Relaxed);
        assert_eq!(p.judge(1_061 * S, H, I), Finding::Overdue);
        drop(serving);
    }

    #[test]
    fn a_dripping_head_is_cut() {
        let p = Presence::new(0);
        drop(p.enter());
        p.head_since.store(100 * S, Relaxed);
        p.received();
        assert_eq!(p.judge(111 * S, H, I), Finding::Overdue);
    }
}
