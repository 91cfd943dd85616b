//! The monotonic clock as a judgement reads it: its last tick, which costs next to nothing, and itself, which on a virtual
//! machine costs more than all the rest of a judgement. It must not decide anything.

use core::cell::Cell;

/// Ticks lie no further apart (`CONFIG_HZ` is 100 or more).
pub const TICK_NS_MAX: u64 = 10_000_000;

/// The monotonic clock, in nanoseconds.
pub trait Clock {
    /// What it showed at its last tick, [`TICK_NS_MAX`] ago at most.
    fn tick_ns(&self) -> u64;
    /// What it shows.
    fn now_ns(&self) -> u64;
}

/// A time that is known to lie between two others.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Moment {
    /// It is not before.
    pub earliest_ns: u64,
    /// It is not after.
    pub latest_ns: u64,
}

impl Moment {
    /// Known to the nanosecond.
    #[inline(always)]
    #[must_use]
    pub const fn exactly(at_ns: u64) -> Self {
        Self { earliest_ns: at_ns, latest_ns: at_ns }
    }
}

/// The time of one judgement: the tick read at once, the clock at most once, and only when asked.
pub struct Reading<'a, C> {
    clock: &'a C,
    tick_ns: u64,
    now_ns: Cell<u64>,
}

impl<'a, C: Clock> Reading<'a, C> {
    /// Reads the tick.
    #[inline(always)]
    pub fn new(clock: &'a C) -> Self {
        Self { clock, tick_ns: clock.tick_ns(), now_ns: Cell::new(0) }
    }

    /// The tick.
    #[inline(always)]
    pub fn tick_ns(&self) -> u64 {
        self.tick_ns
    }

    /// The clock.
    #[inline(always)]
    pub fn now_ns(&self) -> u64 {
        if self.now_ns.get() == 0 {
            self.now_ns.set(self.clock.now_ns());
        }
        self.now_ns.get()
    }

    /// What the tick alone tells of the time.
    #[inline(always)]
    pub fn by_tick(&self) -> Moment {
        Moment { earliest_ns: self.tick_ns, latest_ns: self.tick_ns.wrapping_add(TICK_NS_MAX) }
    }

    /// Whether that time is still to come; the clock is asked only where the tick cannot tell.
    #[inline(always)]
    pub fn is_before(&self, at_ns: u64) -> bool {
        at_ns > self.tick_ns && (at_ns - self.tick_ns > TICK_NS_MAX || at_ns > self.now_ns())
    }
}
