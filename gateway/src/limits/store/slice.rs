//! What this process holds of a limit that several gateways share: requests are taken from a slice of the window without
//! asking anybody, and the slice grows ahead of need. Pure arithmetic on atomics; who asks the store is elsewhere.

use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering::Relaxed};

/// Calls that may follow each other without a pause, when a slice turns out to be too small.
const BURST: u64 = 3;
/// The first slice of a node that nobody knows yet, as a part of the limit and in requests at most.
const FIRST_PART: u64 = 256;
const FIRST_MAX: u64 = 32;
/// A call that is under way for longer is taken for lost, nanoseconds.
const CALL_MAX_NS: u64 = 30_000_000_000;

/// The largest limit of which slices are held: a word's number.
pub const LIMIT_MAX: u64 = u32::MAX as u64;

/// A number that belongs to a window (below 2^32): another window's is not seen, and an older one does not replace it.
#[derive(Default)]
struct Word(AtomicU64);

impl Word {
    fn of(&self, window: u32) -> Option<u64> {
        let word = self.0.load(Relaxed);
        ((word >> 32) as u32 == window).then_some(word & 0xffff_ffff)
    }

    fn set(&self, window: u32, number: u64) {
        let new = u64::from(window) << 32 | number.min(u64::from(u32::MAX));
        let _ = self.0.fetch_update(Relaxed, Relaxed, |old| ((old >> 32) as u32 <= window).then_some(new));
    }

    /// Adds one if that leaves it at most `max`; what it is then.
    fn add_below(&self, window: u32, max: u64) -> Option<u64> {
        let next = |word: u64| {
            let number = if (word >> 32) as u32 == window { word & 0xffff_ffff } else { 0 };
            ((word >> 32) as u32 <= window && number < max).then_some(u64::from(window) << 32 | (number + 1))
        };
        let before = self.0.fetch_update(Relaxed, Relaxed, next).ok()?;
        next(before).map(|word| word & 0xffff_ffff)
    }

    fn take_one(&self, window: u32) {
        let _ = self.0.fetch_update(Relaxed, Relaxed, |word| {
            ((word >> 32) as u32 == window && word & 0xffff_ffff > 0).then(|| word - 1)
        });
    }
}

/// One window of a slice.
#[derive(Default)]
struct Half {
    /// Requests taken.
    taken: Word,
    /// Requests that may be taken in all.
    held: Word,
    /// What all gateways hold, as last told.
    total: Word,
    /// 1: nothing is left in the store.
    over: Word,
    /// 1: the store was lost, and this process lives on its share.
    lost: Word,
    /// Requests that the store has been told of, where it counts requests and not slices.
    reported: Word,
}

/// The windows that run and come next, of one identity under one limit.
#[derive(Default)]
pub struct Slice {
    halves: [Half; 2],
    /// The newest window that was taken from.
    newest: AtomicU32,
    /// The newest window that was asked for ahead of its time.
    ahead: AtomicU32,
    /// Requests that came, ever.
    seen: AtomicU64,
    /// When the call under way began, monotonic nanoseconds; 0 is none.
    busy_ns: AtomicU64,
    /// When the next call would be due if all came evenly (GCRA).
    due_ns: AtomicU64,
    /// The last call: when, and what had come until then.
    asked_ns: AtomicU64,
    asked_seen: AtomicU64,
    /// Requests a second, as of the last call.
    rate: AtomicU64,
    /// A reserve at or below this wants a call.
    low: AtomicU64,
    /// This process's part of all that is used, in millionths; 0 is unknown.
    share: AtomicU64,
    /// Gateways that use this limit, as last told.
    nodes: AtomicU64,
    /// Whether the last call failed.
    failing: AtomicBool,
}

/// What became of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Take {
    /// It is counted; as many are left in the window, by what is known.
    Taken(u64),
    /// The window is used up, here and everywhere.
    Over,
    /// Nothing is held now; there may be more.
    Short,
}

/// A call to be made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Plan {
    /// The window that it is about.
    pub window: u32,
    /// What this process holds or has used.
    pub claim: u64,
    /// What it would like to have on top.
    pub want: u64,
}

impl Slice {
    fn half(&self, window: u32) -> &Half {
        &self.halves[window as usize & 1]
    }

    /// A request that took its time to come belongs to a window that is over: it counts in the one that runs.
    #[must_use]
    pub fn running(&self, window: u32) -> u32 {
        self.newest.fetch_max(window, Relaxed).max(window)
    }

    /// Notes that a request came.
    pub fn see(&self) {
        self.seen.fetch_add(1, Relaxed);
    }

    /// Takes one request of `window` from what is held of `limit`.
    pub fn take(&self, window: u32, limit: u64) -> Take {
        let half = self.half(window);
        let held = half.held.of(window).unwrap_or(0);
        match half.taken.add_below(window, held) {
            Some(taken) => Take::Taken(self.remaining(window, taken, limit)),
            None if half.over.of(window) == Some(1) => Take::Over,
            None => Take::Short,
        }
    }

    /// Gives one back: another limit refused the request.
    pub fn give_back(&self, window: u32) {
        self.half(window).taken.take_one(window);
    }

    /// What is left of `limit` for everybody, by what is known.
    #[must_use]
    pub fn left(&self, window: u32, limit: u64) -> u64 {
        self.remaining(window, self.half(window).taken.of(window).unwrap_or(0), limit)
    }

    fn remaining(&self, window: u32, taken: u64, limit: u64) -> u64 {
        let half = self.half(window);
        let held = half.held.of(window).unwrap_or(0);
        let others = half.total.of(window).unwrap_or(held).saturating_sub(held);
        limit.saturating_sub(others).saturating_sub(taken)
    }

    /// Whether the store is lost in this window.
    #[must_use]
    pub fn is_lost(&self, window: u32) -> bool {
        self.half(window).lost.of(window) == Some(1)
    }

    /// The call that is due for the window that runs, if one is; the caller makes it and ends it with `granted` or `lose`,
    /// and in any case with `done`.
    pub fn plan(&self, window: u32, limit: u64, refresh_ns: u64, now_ns: u64) -> Option<Plan> {
        let half = self.half(window);
        if half.over.of(window) == Some(1) {
            return None;
        }
        let (held, taken) = (half.held.of(window).unwrap_or(0), half.taken.of(window).unwrap_or(0));
        let (lost, reserve) = (self.is_lost(window), held.saturating_sub(taken));
        if (!lost && reserve > self.low.load(Relaxed)) || !self.begin(refresh_ns, now_ns) {
            return None;
        }
        let rate = self.measure(now_ns);
        let first = (limit / FIRST_PART).clamp(1, FIRST_MAX);
        let ahead = |windows: u64| (u128::from(rate) * u128::from(refresh_ns * windows) / 1_000_000_000) as u64;
        self.low.store(ahead(1), Relaxed);
        let reserve = if lost { 0 } else { reserve };
        let want = ahead(2).max(first).saturating_sub(reserve).max(1);
        // What was granted here while the store was away is not claimed beyond what was used of it.
        Some(Plan { window, claim: if lost { taken } else { held.max(taken) }, want })
    }

    /// The call for the next window, once, when the running one is about to end and requests keep coming.
    pub fn plan_next(&self, window: u32, limit: u64, refresh_ns: u64, left_ns: u64, now_ns: u64) -> Option<Plan> {
        let rate = self.rate.load(Relaxed);
        let want = (u128::from(rate) * u128::from(refresh_ns * 2) / 1_000_000_000) as u64;
        if left_ns > refresh_ns * 2 || want == 0 || self.ahead.load(Relaxed) > window {
            return None;
        }
        if self.failing.load(Relaxed) || self.ahead.fetch_max(window + 1, Relaxed) > window {
            return None;
        }
        self.due_ns.store(self.due_ns.load(Relaxed).max(now_ns) + refresh_ns, Relaxed);
        Some(Plan { window: window + 1, claim: 0, want: want.min(limit) })
    }

    /// Takes the right to call: one at a time, and one each `refresh_ns` in the long run.
    fn begin(&self, refresh_ns: u64, now_ns: u64) -> bool {
        let (due, busy) = (self.due_ns.load(Relaxed), self.busy_ns.load(Relaxed));
        if now_ns + BURST * refresh_ns < due || (busy != 0 && now_ns.saturating_sub(busy) < CALL_MAX_NS) {
            return false;
        }
        if self.busy_ns.compare_exchange(busy, now_ns.max(1), Relaxed, Relaxed).is_err() {
            return false;
        }
        self.due_ns.store(due.max(now_ns) + refresh_ns, Relaxed);
        true
    }

    /// Requests a second since the last call, falling by half at most.
    fn measure(&self, now_ns: u64) -> u64 {
        let seen = self.seen.load(Relaxed);
        let (then_ns, then_seen) = (self.asked_ns.swap(now_ns, Relaxed), self.asked_seen.swap(seen, Relaxed));
        if then_ns == 0 {
            return 0;
        }
        let passed_ns = now_ns.saturating_sub(then_ns).max(1_000_000);
        let now = u128::from(seen.saturating_sub(then_seen)) * 1_000_000_000 / u128::from(passed_ns);
        let idle = passed_ns > 1_000_000_000;
        let rate = (now as u64).max(if idle { 0 } else { self.rate.load(Relaxed) / 2 });
        self.rate.store(rate, Relaxed);
        rate
    }

    /// The call of `begin` has ended.
    pub fn done(&self) {
        self.busy_ns.store(0, Relaxed);
    }

    /// The store gave `grant` on top of the claim; all gateways, `nodes` in number, hold `total` now.
    pub fn granted(&self, plan: Plan, grant: u64, total: u64, nodes: u64, limit: u64) {
        let half = self.half(plan.window);
        let held = plan.claim + grant;
        half.held.set(plan.window, held);
        half.total.set(plan.window, total);
        half.lost.set(plan.window, 0);
        if total >= limit {
            half.over.set(plan.window, 1);
        }
        self.failing.store(false, Relaxed);
        self.nodes.store(nodes, Relaxed);
        self.learn_share(held, total, limit);
    }

    /// Who holds how much says little early in a window, and all when the window is used up.
    fn learn_share(&self, held: u64, total: u64, limit: u64) {
        if total < (limit / 2).max(1) {
            return;
        }
        let now = (u128::from(held) * 1_000_000 / u128::from(total)) as u64;
        let known = self.share.load(Relaxed);
        let share = if total >= limit || known == 0 { now } else { (known * 7 + now) / 8 };
        self.share.store(share.max(1), Relaxed);
    }

    /// The store gave no answer: this process goes on with its share of what was left, or of the whole window. Its share is
    /// its part of the use while the store was there, or else one of as many as were known, or are `configured`.
    pub fn lose(&self, plan: Plan, limit: u64, configured: u64) {
        self.failing.store(true, Relaxed);
        let half = self.half(plan.window);
        if half.lost.of(plan.window) == Some(1) {
            return;
        }
        let part = match (self.share.load(Relaxed), self.nodes.load(Relaxed).max(configured)) {
            (0, nodes) => 1_000_000 / nodes.max(1),
            (share, _) => share,
        };
        let mine = |requests: u64| (u128::from(requests) * u128::from(part)).div_ceil(1_000_000) as u64;
        let allowed = match (half.held.of(plan.window), half.total.of(plan.window)) {
            (Some(held), Some(total)) => held + mine(limit.saturating_sub(total)),
            _ => mine(limit),
        };
        half.held.set(plan.window, allowed);
        half.lost.set(plan.window, 1);
    }

    /// As `lose`, for who does not want to go on with a share: nothing more is held.
    pub fn lose_all(&self, plan: Plan) {
        self.failing.store(true, Relaxed);
        self.half(plan.window).lost.set(plan.window, 1);
    }

    /// Where the store counts requests and not slices: all that others have not used may be taken.
    pub fn begin_counting(&self, window: u32, limit: u64) {
        let half = self.half(window);
        if half.held.of(window).is_none() {
            half.held.set(window, limit);
        }
    }

    /// The call that tells the store what was taken since the last one, if it is due; ended as those of `plan`.
    pub fn plan_report(&self, window: u32, every_ns: u64, now_ns: u64) -> Option<Plan> {
        let busy = self.busy_ns.load(Relaxed);
        if now_ns < self.due_ns.load(Relaxed) || (busy != 0 && now_ns.saturating_sub(busy) < CALL_MAX_NS) {
            return None;
        }
        self.busy_ns.compare_exchange(busy, now_ns.max(1), Relaxed, Relaxed).ok()?;
        self.due_ns.store(now_ns + every_ns, Relaxed);
        let half = self.half(window);
        let (taken, reported) = (half.taken.of(window).unwrap_or(0), half.reported.of(window).unwrap_or(0));
        Some(Plan { window, claim: taken, want: taken.saturating_sub(reported) })
    }

    /// The next report is due at once: the process ends.
    pub fn make_due(&self) {
        self.due_ns.store(0, Relaxed);
    }

    /// Whether the store was not told of all that was taken.
    #[must_use]
    pub fn owes(&self, window: u32) -> bool {
        let half = self.half(window);
        half.taken.of(window).unwrap_or(0) > half.reported.of(window).unwrap_or(0)
    }

    /// The store has counted what `plan` told; all gateways have used `total`.
    pub fn reported(&self, plan: Plan, total: u64, limit: u64) {
        let half = self.half(plan.window);
        half.reported.set(plan.window, plan.claim);
        let others = total.saturating_sub(plan.claim);
        half.held.set(plan.window, limit.saturating_sub(others));
        half.total.set(plan.window, limit.max(others));
    }

    /// Whether it was used in the window `now`, the one before, or until `latest`. What is of a later one stems from a clock
    /// that was set back.
    #[must_use]
    pub fn is_live(&self, now: u32, latest: u32) -> bool {
        (now.saturating_sub(1)..=latest).contains(&self.newest.load(Relaxed))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const REFRESH: u64 = 100_000_000;

    /// A store of one window: what each node holds.
    struct Store(Vec<u64>, u64);

    impl Store {
        fn answer(&mut self, node: usize, slice: &Slice, plan: Plan) {
            let others: u64 = self.0.iter().enumerate().filter(|(at, _)| *at != node).map(|(_, held)| held).sum();
            let left = self.1.saturating_sub(others + plan.claim);
            let grant = plan.want.min(left.div_ceil(2));
            self.0[node] = plan.claim + grant;
            slice.granted(plan, grant, others + self.0[node], 4, self.1);
            slice.done();
        }
    }

    #[test]
    fn what_is_not_held_is_not_taken() {
        let slice = Slice::default();
        assert_eq!(slice.take(7, 100), Take::Short);
        let plan = slice.plan(7, 100, REFRESH, 1).expect("due");
        assert_eq!(plan, Plan { window: 7, claim: 0, want: 1 });
        assert_eq!(slice.plan(7, 100, REFRESH, 2), None, "one at a time");
        slice.granted(plan, 2, 60, 2, 100);
        slice.done();
        assert_eq!([(); 3].map(|()| slice.take(7, 100)), [Take::Taken(41), Take::Taken(40), Take::Short]);
        slice.give_back(7);
        assert_eq!(slice.take(7, 100), Take::Taken(40));
        slice.granted(Plan { window: 7, claim: 2, want: 9 }, 0, 100, 2, 100);
        assert_eq!(slice.take(7, 100), Take::Over);
        assert_eq!(slice.plan(7, 100, REFRESH, u64::MAX / 2), None, "who is denied asks no more");
        assert_eq!(slice.take(8, 100), Take::Short, "another window");
    }

    #[test]
    fn a_hot_limit_is_used_up_and_no_more_with_few_calls() {
        let (limit, nodes) = (60_000, 4);
        let slices: Vec<Slice> = (0..nodes).map(|_| Slice::default()).collect();
        let mut store = Store(vec![0; nodes], limit);
        let (mut taken, mut calls) = (0, 0);
        // Two thousand a second for a minute, most of them at one node.
        for at in 0..120_000_u64 {
            let node = [0, 0, 0, 0, 0, 1, 2, 3][at as usize % 8];
            let (slice, now_ns) = (&slices[node], at * 500_000 + 1);
            slice.see();
            let taken_now = matches!(slice.take(1, limit), Take::Taken(_));
            taken += u64::from(taken_now);
            if let Some(plan) = slice.plan(1, limit, REFRESH, now_ns) {
                calls += 1;
                store.answer(node, slice, plan);
                taken += u64::from(!taken_now && matches!(slice.take(1, limit), Take::Taken(_)));
            }
        }
        assert!((59_000..=60_000).contains(&taken), "{taken}");
        assert!(calls <= 4 * 600, "{calls} calls in a minute");
    }

    #[test]
    fn without_the_store_everybody_lives_on_his_share_and_then_gives_back() {
        let slice = Slice::default();
        let plan = slice.plan(1, 1000, REFRESH, 1).expect("due");
        slice.granted(Plan { claim: 140, ..plan }, 10, 600, 4, 1000);
        slice.done();
        for _ in 0..150 {
            assert!(matches!(slice.take(1, 1000), Take::Taken(_)));
        }
        let plan = slice.plan(1, 1000, REFRESH, 200_000_000).expect("due");
        slice.lose(plan, 1000, 1);
        slice.done();
        // A quarter of the use was here: a quarter of what is left.
        let more = (0..1000).take_while(|_| matches!(slice.take(1, 1000), Take::Taken(_))).count();
        assert_eq!(more, 100);
        assert!(slice.is_lost(1));
        let plan = slice.plan(1, 1000, REFRESH, 400_000_000).expect("asked again and again");
        assert_eq!(plan.claim, 250);
        slice.granted(plan, 5, 700, 4, 1000);
        assert!(!slice.is_lost(1));
        slice.done();
        assert!(slice.share.load(Relaxed) > 250_000, "255 of 700 move it a little");
        // A window that begins without the store.
        slice.lose(Plan { window: 2, claim: 0, want: 1 }, 1000, 1);
        let all = (0..1000).take_while(|_| matches!(slice.take(2, 1000), Take::Taken(_))).count();
        assert_eq!(all, 265);
    }

    #[test]
    fn the_next_window_is_asked_for_once() {
        let slice = Slice::default();
        let plan = slice.plan(1, 1000, REFRESH, 1).expect("due");
        slice.granted(plan, 100, 100, 1, 1000);
        slice.done();
        for _ in 0..100 {
            slice.see();
            slice.take(1, 1000);
        }
        let plan = slice.plan(1, 1000, REFRESH, 100_000_001).expect("due");
        slice.granted(plan, plan.want, 300, 1, 1000);
        slice.done();
        assert_eq!(slice.plan_next(1, 1000, REFRESH, 300_000_000, 2), None, "too early");
        let plan = slice.plan_next(1, 1000, REFRESH, 150_000_000, 2).expect("due");
        assert_eq!((plan.window, plan.claim), (2, 0));
        assert_eq!(slice.plan_next(1, 1000, REFRESH, 140_000_000, 3), None);
        slice.granted(plan, 50, 50, 1, 1000);
        assert!(matches!(slice.take(1, 1000), Take::Taken(_)), "the running window is untouched");
        assert!(matches!(slice.take(2, 1000), Take::Taken(949 | 999)));
    }

    #[test]
    fn counts_brought_together_now_and_then() {
        let slice = Slice::default();
        slice.begin_counting(1, 10);
        let take = || slice.take(1, 10);
        assert_eq!([take(), take(), take()], [Take::Taken(9), Take::Taken(8), Take::Taken(7)]);
        let plan = slice.plan_report(1, REFRESH, 1).expect("due");
        assert_eq!((plan.claim, plan.want), (3, 3));
        assert!(slice.owes(1));
        slice.reported(plan, 8, 10);
        slice.done();
        assert!(!slice.owes(1));
        assert_eq!([take(), take(), take()], [Take::Taken(1), Take::Taken(0), Take::Short]);
        assert_eq!(slice.plan_report(1, REFRESH, 2), None, "not due");
        let plan = slice.plan_report(1, REFRESH, 1 + REFRESH).expect("due");
        assert_eq!((plan.claim, plan.want), (5, 2));
    }
}
