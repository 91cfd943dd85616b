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
    /// Many requests at a time, on frames: bytes between requests are not a request's head.
    multiplexed: AtomicBool,
    /// No requests but bytes, both ways: a tunnel or a stream, which knows its own time.
    carried: AtomicBool,
    /// Closing is to be a reset.
    resets: AtomicBool,
    /// Quiet, and without what a request takes.
    rests: AtomicBool,
    /// hyper is lent the stream, and does not close it.
    lent: AtomicBool,
    /// The stream is closed as soon as it has said what it has to say.
    parts: AtomicBool,
}

/// The patience of a connection's timer.
#[derive(Clone, Copy, Debug)]
pub struct Patience {
    /// For a request's head.
    pub header: Duration,
    /// Between requests.
    pub idle: Duration,
    /// For a reader that takes nothing.
    pub write: Duration,
}

/// What the timer finds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Finding {
    /// All is well.
    Fine,
    /// No request came for a while: the connection can do without its buffers.
    Rest,
    /// No request came for long enough: the connection is to be let go.
    Quiet,
    /// The connection has had its time, for this reason.
    Overdue(&'static str),
}

/// After so long without a request a connection of HTTP/1.1 rests.
const REST_AFTER: Duration = Duration::from_secs(1);
/// How long a connection that was asked to go may take.
const FAREWELL: Duration = Duration::from_secs(2);

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
            multiplexed: AtomicBool::new(false),
            carried: AtomicBool::new(false),
            resets: AtomicBool::new(false),
            rests: AtomicBool::new(false),
            lent: AtomicBool::new(false),
            parts: AtomicBool::new(false),
        })
    }

    /// The connection speaks HTTP/2.
    pub fn multiplex(&self) {
        self.multiplexed.store(true, Relaxed);
    }

    /// Whether nothing is going on: no request, no part of a head, nothing that waits to be taken.
    #[must_use]
    pub fn is_quiet(&self) -> bool {
        let none = |since: &AtomicU64| since.load(Relaxed) == 0;
        self.in_flight.load(Relaxed) == 0 && none(&self.head_since) && none(&self.stalled_since)
    }

    /// hyper is lent the stream and may not close it, or is given it.
    pub fn lend(&self, lent: bool) {
        self.lent.store(lent, Relaxed);
    }

    /// Whether the stream is only lent.
    #[must_use]
    pub fn is_lent(&self) -> bool {
        self.lent.load(Relaxed)
    }

    /// The stream is closed next, which ends both its directions: to shut one down before would be a system call more.
    pub fn part(&self) {
        self.parts.store(true, Relaxed);
    }

    /// Whether the stream is closed next.
    #[must_use]
    pub fn is_parting(&self) -> bool {
        self.parts.load(Relaxed)
    }

    /// The connection has given up its buffers, or has them again.
    pub fn rest(&self, rests: bool) {
        self.rests.store(rests, Relaxed);
    }

    /// The connection is no more one of requests: it is not judged.
    pub fn carry(&self) {
        self.carried.store(true, Relaxed);
    }

    /// Whether somebody is served now.
    #[must_use]
    pub fn is_busy(&self) -> bool {
        self.carried.load(Relaxed) || self.in_flight.load(Relaxed) > 0
    }

    /// When the connection is closed, it is with a reset.
    pub fn reset(&self) {
        self.resets.store(true, Relaxed);
    }

    /// Whether the connection is to be closed with a reset.
    #[must_use]
    pub fn resets(&self) -> bool {
        self.resets.load(Relaxed)
    }

    /// Bytes came. The first of a request starts its clock.
    pub fn received(&self) {
        if self.in_flight.load(Relaxed) == 0 && !self.multiplexed.load(Relaxed) && self.head_since.load(Relaxed) == 0 {
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

    /// Whether the connection may stay.
    #[must_use]
    pub fn judge(&self, now_ns: u64, patience: &Patience) -> Finding {
        if self.carried.load(Relaxed) {
            return Finding::Fine;
        }
        let spent = |since: u64| Duration::from_nanos(now_ns.saturating_sub(since));
        let (stalled, head) = (self.stalled_since.load(Relaxed), self.head_since.load(Relaxed));
        let quiet = spent(self.quiet_since.load(Relaxed));
        if stalled != 0 {
            return if spent(stalled) >= patience.write { Finding::Overdue("write") } else { Finding::Fine };
        }
        if self.in_flight.load(Relaxed) > 0 {
            return Finding::Fine;
        }
        if head != 0 {
            return if spent(head) >= patience.header { Finding::Overdue("header") } else { Finding::Fine };
        }
        if self.served.load(Relaxed) == 0 {
            return if quiet >= patience.header { Finding::Overdue("first_byte") } else { Finding::Fine };
        }
        match quiet {
            quiet if quiet >= patience.idle + FAREWELL => Finding::Overdue("idle"),
            quiet if quiet >= patience.idle => Finding::Quiet,
            quiet if quiet >= REST_AFTER && !self.multiplexed.load(Relaxed) && !self.rests.load(Relaxed) => {
                Finding::Rest
            }
            _ => Finding::Fine,
        }
    }
}

/// A request is being served as long as this lives.
#[derive(Debug)]
pub struct Serving(Arc<Presence>);

impl Serving {
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

    const P: Patience =
        Patience { header: Duration::from_secs(10), idle: Duration::from_secs(60), write: Duration::from_secs(30) };
    const S: u64 = 1_000_000_000;

    #[test]
    fn a_silent_connection_has_the_header_time_then_the_idle_time() {
        let p = Presence::new(100 * S);
        assert_eq!(p.judge(109 * S, &P), Finding::Fine);
        assert_eq!(p.judge(110 * S, &P), Finding::Overdue("first_byte"));
        p.enter().1.end(100 * S);
        assert_eq!(p.judge(100 * S, &P), Finding::Fine);
        assert_eq!(p.judge(101 * S, &P), Finding::Rest);
        p.rest(true);
        assert_eq!(p.judge(159 * S, &P), Finding::Fine);
        assert_eq!(p.judge(160 * S, &P), Finding::Quiet);
        assert_eq!(p.judge(162 * S, &P), Finding::Overdue("idle"));
    }

    #[test]
    fn frames_between_requests_are_no_head() {
        let p = Presence::new(100 * S);
        p.multiplex();
        p.enter().1.end(100 * S);
        p.received();
        assert_eq!(p.judge(159 * S, &P), Finding::Fine);
        assert_eq!(p.judge(160 * S, &P), Finding::Quiet);
    }

    #[test]
    fn a_request_in_flight_is_nobodys_fault_unless_the_reader_stalls() {
        let p = Presence::new(0);
        let (_, serving) = p.enter();
        assert_eq!(p.judge(1_000 * S, &P), Finding::Fine);
        p.stalled_since.store(1_000 * S, Relaxed);
        assert_eq!(p.judge(1_029 * S, &P), Finding::Fine);
        assert_eq!(p.judge(1_030 * S, &P), Finding::Overdue("write"));
        drop(serving);
    }

    #[test]
    fn a_dripping_head_is_cut() {
        let p = Presence::new(0);
        drop(p.enter());
        p.head_since.store(100 * S, Relaxed);
        p.received();
        assert_eq!(p.judge(111 * S, &P), Finding::Overdue("header"));
    }
}
