//! How far a source's ceilings are raised for the sake of whoever was recognised behind it: each credential's quota, while
//! it is seen there. Pure: time is an argument. It must not know maps or plugins.

use std::collections::HashMap;

use gateway_common::{Source, map::STANDINGS_MAX};
use smallvec::SmallVec;

use super::policy::{Ceilings, Rate};

/// The kernel's ceilings are coarse: so many times the quota, lest a wrong count ever costs an answer.
const CONNECTIONS_A_REQUEST: u64 = 10;
/// A request over a kept connection is some packets, and a large answer is acknowledged by many.
const PACKETS_A_REQUEST: u64 = 100;
/// Credentials counted behind one source; the one seen longest ago makes room.
const CREDENTIALS_MAX: usize = 32;
/// The most that ceilings are raised by: 2¹⁶ times.
const RAISE_MAX: u32 = 16;

/// A credential's quota, and when it was last accepted.
#[derive(Clone, Copy)]
struct Plan {
    credential: u64,
    per_second: u64,
    seen_ns: u64,
}

/// Quotas by source.
#[derive(Default)]
pub(super) struct Plans {
    sources: HashMap<Source, SmallVec<[Plan; 1]>>,
}

impl Plans {
    /// A credential with a quota of `per_second` requests was accepted from `source`; how many requests a second all of
    /// those have together that were accepted from there since `since_ns`.
    pub fn note(&mut self, source: Source, credential: u64, per_second: u64, now_ns: u64, since_ns: u64) -> u64 {
        if self.sources.len() >= STANDINGS_MAX as usize && !self.sources.contains_key(&source) {
            return per_second;
        }
        let plans = self.sources.entry(source).or_default();
        plans.retain(|plan| plan.credential != credential && plan.seen_ns >= since_ns);
        if plans.len() == CREDENTIALS_MAX
            && let Some(oldest) = plans.iter().enumerate().min_by_key(|(_, plan)| plan.seen_ns).map(|(at, _)| at)
        {
            plans.remove(oldest);
        }
        plans.push(Plan { credential, per_second, seen_ns: now_ns });
        plans.iter().fold(0, |sum: u64, plan| sum.saturating_add(plan.per_second))
    }

    /// Forgets sources from which nothing was accepted since then.
    pub fn sweep(&mut self, since_ns: u64) {
        self.sources.retain(|_, plans| plans.iter().any(|plan| plan.seen_ns >= since_ns));
    }
}

/// The least power of two by which these ceilings leave room for so many requests a second.
pub(super) fn raise_for(ceilings: &Ceilings, per_second: u64) -> u32 {
    let raise = |ceiling: Option<Rate>, each: u64| {
        let wanted = per_second.saturating_mul(each);
        let given = ceiling.map_or(u64::MAX, |rate| rate.per_second.max(1));
        let times = wanted.div_ceil(given).max(1);
        times.checked_next_power_of_two().map_or(RAISE_MAX, u64::ilog2).min(RAISE_MAX)
    };
    raise(ceilings.connections, CONNECTIONS_A_REQUEST).max(raise(ceilings.packets, PACKETS_A_REQUEST))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn source(n: u8) -> Source {
        Source::new([192, 0, 2, n].into(), 64)
    }

    #[test]
    fn the_plans_behind_a_source_add_up_while_they_are_seen() {
        let mut plans = Plans::default();
        assert_eq!(plans.note(source(1), 7, 100, 10, 0), 100);
        assert_eq!(plans.note(source(1), 7, 100, 11, 0), 100, "the same one");
        assert_eq!(plans.note(source(1), 8, 50, 12, 0), 150);
        assert_eq!(plans.note(source(2), 8, 50, 12, 0), 50, "another source");
        assert_eq!(plans.note(source(1), 8, 20, 30, 12), 20, "the first was not seen any more, the second has less");
        plans.sweep(20);
        assert_eq!(plans.sources.len(), 1);
    }

    #[test]
    fn what_is_remembered_is_bounded() {
        let mut plans = Plans::default();
        let all = (0..100).map(|n| plans.note(source(1), n, 1, n, 0)).max();
        assert_eq!(all, Some(CREDENTIALS_MAX as u64));
    }

    #[test]
    fn ceilings_are_raised_as_far_as_the_plan_needs() {
        let rate = |per_second| Some(Rate { per_second, burst: 1 });
        let ceilings = Ceilings { packets: rate(20_000), bytes: rate(1), connections: rate(100) };
        assert_eq!(raise_for(&ceilings, 0), 0);
        assert_eq!(raise_for(&ceilings, 10), 0, "100 connections are the ceiling itself");
        assert_eq!(raise_for(&ceilings, 11), 1);
        assert_eq!(raise_for(&ceilings, 1_000), 7, "10,000 connections are 100 times the ceiling");
        assert_eq!(raise_for(&Ceilings { packets: None, ..ceilings }, 1_000), 7);
        assert_eq!(raise_for(&Ceilings { connections: None, ..ceilings }, 1_000), 3, "100,000 packets");
        assert_eq!(raise_for(&Ceilings::default(), u64::MAX), 0, "nothing to raise");
        assert_eq!(raise_for(&ceilings, u64::MAX), RAISE_MAX);
    }
}
