//! The generic cell rate algorithm in one word: the theoretical arrival time (TAT). Add, subtract, compare and one
//! bounded multiplication, so that the kernel's cells and user space reach the same decision from the same numbers.

use crate::clock::{Moment, TICK_NS_MAX};

/// Fraction bits of a token's length: a rate of 1 GB/s is one nanosecond a byte, and faster ones need a fraction.
const FRACTION_BITS: u32 = 16;
/// The longest token: one unit a second.
const TOKEN_MAX: u64 = 1_000_000_000 << FRACTION_BITS;
/// The most units one decision may cost (a frame of 128 KiB): with [`TOKEN_MAX`] the product stays below 2⁶³.
pub const UNITS_MAX: u64 = (1 << 17) - 1;
/// The deepest bucket: a day.
const DEPTH_NS_MAX: u64 = 86_400_000_000_000;

const _: () = assert!(TOKEN_MAX < u64::MAX / 2 / UNITS_MAX - 1);

/// A rate and a burst, as the arithmetic wants them. All zero means unlimited.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Ceiling {
    /// Nanoseconds that one unit takes, with 16 fraction bits.
    token_q16: u64,
    /// Nanoseconds by which the TAT may lie ahead of now: the burst.
    depth_ns: u64,
}

impl Ceiling {
    /// No ceiling.
    pub const UNLIMITED: Self = Self { token_q16: 0, depth_ns: 0 };

    /// `per_second` units a second in the long run, `burst` units at once. Zero for either means one: a ceiling that
    /// lets nothing through is a verdict, not a ceiling. Division happens here, never in the kernel.
    #[must_use]
    pub fn new(per_second: u64, burst: u64) -> Self {
        // Rounded up, so that rounding never admits more than was asked for.
        let token_q16 = TOKEN_MAX.div_ceil(per_second.max(1));
        let depth = (u128::from(token_q16) * u128::from(burst.max(1))).div_ceil(1 << FRACTION_BITS);
        let depth_ns = u64::try_from(depth).unwrap_or(DEPTH_NS_MAX).clamp(1, DEPTH_NS_MAX);
        Self { token_q16, depth_ns }
    }

    /// Whether there is no ceiling.
    #[inline(always)]
    #[must_use]
    pub const fn is_unlimited(self) -> bool {
        self.depth_ns == 0
    }

    /// Nanoseconds that `units` (held to [`UNITS_MAX`]) take, rounded up: rounding never admits more, and nothing is
    /// free at a rate above one a nanosecond.
    #[inline(always)]
    #[must_use]
    pub const fn cost_ns(self, units: u64) -> u64 {
        let units = if units > UNITS_MAX { UNITS_MAX } else { units };
        self.token_q16.wrapping_mul(units).wrapping_add((1 << FRACTION_BITS) - 1) >> FRACTION_BITS
    }

    /// The same, at 2^`raise` times the rate; never free.
    #[inline(always)]
    #[must_use]
    pub const fn raised_cost_ns(self, units: u64, raise: u32) -> u64 {
        let cost_ns = self.cost_ns(units) >> (raise & 31);
        if cost_ns == 0 { 1 } else { cost_ns }
    }

    /// Whether an event of this cost may be decided by the clock's tick: the burst that this takes away is a 64th at most,
    /// and does not show in a count of few.
    #[inline(always)]
    #[must_use]
    pub const fn is_smooth(self, cost_ns: u64) -> bool {
        self.depth_ns >= 64 * TICK_NS_MAX && cost_ns <= TICK_NS_MAX / 16
    }

    /// The burst in nanoseconds.
    #[inline(always)]
    #[must_use]
    pub const fn depth_ns(self) -> u64 {
        self.depth_ns
    }
}

/// Whether an event that costs `cost_ns` may happen, and if so the cell's next word.
///
/// `None` leaves the cell as it is: what is refused is not charged. A word of zero is an unused cell. What is not known of
/// the moment is held against the event: credit counts from the latest time on and is spent at the earliest, so that
/// however little is known, never more than burst and rate is admitted.
#[inline(always)]
#[must_use]
pub const fn decide(tat: u64, moment: Moment, cost_ns: u64, depth_ns: u64) -> Option<u64> {
    let start = if tat > moment.latest_ns { tat } else { moment.latest_ns };
    let next = start.wrapping_add(cost_ns);
    if next.wrapping_sub(moment.earliest_ns) > depth_ns { None } else { Some(next) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn admitted(ceiling: Ceiling, times: impl Iterator<Item = u64>, units: u64) -> u64 {
        let mut tat = 0;
        let mut count = 0;
        for now in times {
            if let Some(next) = decide(tat, Moment::exactly(now), ceiling.cost_ns(units), ceiling.depth_ns()) {
                tat = next;
                count += units;
            }
        }
        count
    }

    #[test]
    fn a_burst_then_the_rate() {
        let ceiling = Ceiling::new(1_000, 100);
        let start = 5_000_000_000;
        assert_eq!(admitted(ceiling, (0..500).map(|n| start + n), 1), 100);
        let second = (0..1_000_000).map(|n| start + n * 1_000);
        assert!((1_095..=1_100).contains(&admitted(ceiling, second, 1)));
    }

    #[test]
    fn bytes_above_a_gigabyte_a_second_keep_their_fraction() {
        let ceiling = Ceiling::new(10_000_000_000, 1_000_000);
        assert_eq!(ceiling.cost_ns(1_500), 151);
        assert_eq!(ceiling.cost_ns(1), 1);
    }

    #[test]
    fn the_smallest_burst_still_lets_one_through() {
        for per_second in [1, 3, 7, 999, 1_900_000, 3_000_000_000] {
            let ceiling = Ceiling::new(per_second, 1);
            assert!(decide(0, Moment::exactly(5), ceiling.cost_ns(1), ceiling.depth_ns()).is_some(), "{per_second}");
        }
    }

    #[test]
    fn the_extremes_neither_wrap_nor_stick() {
        let slow = Ceiling::new(0, 0);
        assert_eq!(slow.cost_ns(u64::MAX), 1_000_000_000 * UNITS_MAX);
        let fast = Ceiling::new(u64::MAX, u64::MAX);
        assert!(decide(0, Moment::exactly(1), fast.cost_ns(1), fast.depth_ns()).is_some());
        assert!(Ceiling::new(1, u64::MAX).depth_ns() == DEPTH_NS_MAX);
    }

    proptest! {
        #[test]
        fn never_above_burst_plus_rate(
            per_second in 1u64..2_000_000,
            burst in 1u64..10_000,
            start in 0u64..(1 << 62),
            steps in prop::collection::vec((0u64..50_000_000, 1u64..4), 1..400),
        ) {
            let ceiling = Ceiling::new(per_second, burst);
            let (mut tat, mut now, mut count) = (0, start, 0u64);
            for (step, units) in steps {
                now += step;
                if let Some(next) = decide(tat, Moment::exactly(now), ceiling.cost_ns(units), ceiling.depth_ns()) {
                    tat = next;
                    count += units;
                }
                let elapsed = u128::from(now - start);
                let allowed = u128::from(burst) + (elapsed * u128::from(per_second)).div_ceil(1_000_000_000);
                prop_assert!(u128::from(count) <= allowed, "{count} > {allowed}");
            }
        }

        #[test]
        fn by_the_tick_never_above_and_little_below(
            per_second in 1_600u64..2_000_000,
            burst_ms in 640u64..10_000,
            start in 0u64..(1 << 62),
            ticks in prop::collection::vec(1u64..=TICK_NS_MAX, 1..50),
        ) {
            let ceiling = Ceiling::new(per_second, per_second * burst_ms / 1_000);
            let cost_ns = ceiling.cost_ns(1);
            prop_assume!(ceiling.is_smooth(cost_ns));
            let (mut tat, mut tick_ns, mut count) = (0, start, 0u64);
            for step in ticks {
                // As many as come through, all of them in the last nanosecond of the tick.
                let moment = Moment { earliest_ns: tick_ns, latest_ns: tick_ns + TICK_NS_MAX };
                while let Some(next) = decide(tat, moment, cost_ns, ceiling.depth_ns()) {
                    (tat, count) = (next, count + 1);
                }
                tick_ns += step;
                // The first event comes no earlier than the first tick, and no later than the second.
                let most = ceiling.depth_ns() + tick_ns - start;
                prop_assert!(count * cost_ns <= most, "{count} of {}", most / cost_ns);
                let least = ceiling.depth_ns() - TICK_NS_MAX + (tick_ns - step - start);
                prop_assert!((count + 1) * cost_ns > least, "{count} of {}", least / cost_ns);
            }
        }

        #[test]
        fn a_cell_recovers_after_its_depth(
            per_second in 1u64..2_000_000, burst in 2u64..10_000, start in 0u64..(1 << 62),
        ) {
            let ceiling = Ceiling::new(per_second, burst);
            let full = start + ceiling.depth_ns();
            prop_assert!(decide(full, Moment::exactly(full), ceiling.cost_ns(1), ceiling.depth_ns()).is_some());
        }
    }
}
