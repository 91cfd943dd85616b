//! Windows of any length, fixed or sliding: a sliding one counts the window before it by the part of it that is still in
//! view (Kong `rate-limiting-advanced`). Exact across workers without a lock, bounded in memory.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::AcqRel, Ordering::Acquire, Ordering::Relaxed};

use papaya::HashMap;
use rustc_hash::FxBuildHasher;

use super::window::{AHEAD_S, Usage};

const NANOS: u64 = 1_000_000_000;
/// A word: the window's number above, then whether it is closed, then its count.
const WINDOW_SHIFT: u32 = 32;
const CLOSED: u64 = 1 << 31;

/// The most that is counted in a window.
pub const COUNT_MAX: u64 = CLOSED - 1;
/// The longest window, seconds: ten years.
pub const SECONDS_MAX: u32 = 315_360_000;

const fn word(window: u32, count: u64) -> u64 {
    (window as u64) << WINDOW_SHIFT | count
}

const fn window_of(word: u64) -> u32 {
    (word >> WINDOW_SHIFT) as u32
}

/// A window's length and kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Span {
    /// Length, seconds, from 1 to [`SECONDS_MAX`]; windows begin at its multiples since 1970.
    pub seconds: u32,
    /// Whether the window before counts by what of it is still within one length.
    pub sliding: bool,
}

/// Where a moment lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Moment {
    /// The window's number.
    pub window: u32,
    /// Nanoseconds until it ends.
    pub rest_ns: u64,
}

/// What is counted in two windows that follow each other.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// In the window before.
    pub previous: u64,
    /// In the window that runs.
    pub current: u64,
}

impl Span {
    /// Its length in nanoseconds.
    #[must_use]
    pub fn length_ns(self) -> u64 {
        u64::from(self.seconds) * NANOS
    }

    /// Where a moment lies.
    #[must_use]
    pub fn at(self, unix_ns: u64) -> Moment {
        let length = self.length_ns();
        Moment { window: (unix_ns / length) as u32, rest_ns: length - unix_ns % length }
    }

    /// The beginning of a window: where a request belongs that was late for its own.
    fn begin(self, window: u32) -> Moment {
        Moment { window, rest_ns: self.length_ns() }
    }

    /// The second since 1970 at which a window begins.
    #[must_use]
    pub fn start_s(self, window: u32) -> u64 {
        u64::from(window) * u64::from(self.seconds)
    }

    /// What of the window before still counts, times the length.
    fn weighed(self, previous: u64, rest_ns: u64) -> u128 {
        if self.sliding { u128::from(previous) * u128::from(rest_ns) } else { 0 }
    }

    /// Whether one more is within `limit`.
    #[must_use]
    pub fn admits(self, limit: u64, counts: Counts, rest_ns: u64) -> bool {
        let Some(room) = limit.checked_sub(counts.current + 1) else { return false };
        self.weighed(counts.previous, rest_ns) <= u128::from(room) * u128::from(self.length_ns())
    }

    /// What counts say to a client after its request was counted in them, or refused. The reset is the end of the window;
    /// for who was refused, when one request would be admitted if none came before.
    #[must_use]
    pub fn usage(self, limit: u64, counts: Counts, rest_ns: u64, admitted: bool) -> Usage {
        let used = self.weighed(counts.previous, rest_ns).div_ceil(u128::from(self.length_ns())) as u64;
        let remaining = if admitted { limit.saturating_sub(counts.current).saturating_sub(used) } else { 0 };
        let wait_ns = if admitted { rest_ns } else { self.wait_ns(limit, counts, rest_ns) };
        Usage { admitted, remaining, reset_s: wait_ns.div_ceil(NANOS).max(1) }
    }

    fn wait_ns(self, limit: u64, counts: Counts, rest_ns: u64) -> u64 {
        let length = self.length_ns();
        // How much of a window may still be in view so that `room` are not exceeded.
        let view = |room: u64, count: u64| {
            (u128::from(room) * u128::from(length) / u128::from(count.max(1))).min(u128::from(length)) as u64
        };
        match (limit.checked_sub(counts.current + 1), limit.checked_sub(1)) {
            (Some(room), _) if self.sliding => rest_ns.saturating_sub(view(room, counts.previous)),
            (None, Some(room)) if self.sliding => rest_ns + length - view(room, counts.current),
            (None, None) if self.sliding => rest_ns + length,
            _ => rest_ns,
        }
    }
}

/// A request that was looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Counted {
    /// The window in which it counts: a request that took its time to come counts in the one that runs.
    pub window: u32,
    /// Whether it was counted.
    pub counted: bool,
    /// What is said to the client.
    pub usage: Usage,
}

/// The two windows of one identity under one limit, and what others who share it have not been told.
#[derive(Default)]
pub struct Pair {
    halves: [AtomicU64; 2],
    owed: [AtomicU64; 2],
    /// When the next call is due, monotonic nanoseconds; `u64::MAX` while one is under way.
    due_ns: AtomicU64,
    /// Those who hold it, or `GONE`.
    holders: AtomicU32,
}

/// A pair that nobody may hold any more: it is being forgotten.
const GONE: u32 = u32::MAX;

/// A pair in use: it is not forgotten meanwhile.
pub struct Held(Arc<Pair>);

impl std::ops::Deref for Held {
    type Target = Pair;

    fn deref(&self) -> &Pair {
        &self.0
    }
}

impl Clone for Held {
    fn clone(&self) -> Self {
        // One that is held is not gone.
        self.0.holders.fetch_add(1, AcqRel);
        Held(Arc::clone(&self.0))
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.0.holders.fetch_sub(1, AcqRel);
    }
}

impl Pair {
    fn half(&self, window: u32) -> &AtomicU64 {
        &self.halves[window as usize & 1]
    }

    /// Closes the window before `window`, so that what is read of it stays true: its count, or the newer window that runs.
    fn close_before(&self, window: u32) -> Result<u64, u32> {
        let Some(before) = window.checked_sub(1) else { return Ok(0) };
        let close = |old: u64| match window_of(old) {
            newer if newer > before => None,
            same if same == before => (old & CLOSED == 0).then_some(old | CLOSED),
            _ => Some(word(before, CLOSED)),
        };
        match self.half(before).fetch_update(AcqRel, Acquire, close) {
            Ok(old) if window_of(old) == before => Ok(old & COUNT_MAX),
            Ok(_) => Ok(0),
            Err(old) if window_of(old) > before => Err(window_of(old)),
            Err(old) => Ok(old & COUNT_MAX),
        }
    }

    /// Counts one request if it is within `limit`; with `penalty` also if it is not.
    pub fn count(&self, span: Span, limit: u64, unix_ns: u64, penalty: bool) -> Counted {
        let mut moment = span.at(unix_ns);
        loop {
            let half = self.half(moment.window);
            let old = half.load(Acquire);
            if window_of(old) > moment.window {
                moment = span.begin(window_of(old));
                continue;
            }
            let runs = window_of(old) == moment.window;
            if runs && old & CLOSED != 0 {
                moment = span.begin(moment.window + 1);
                continue;
            }
            let previous = match self.close_before(moment.window) {
                Ok(previous) => previous,
                Err(newer) => {
                    moment = span.begin(newer);
                    continue;
                }
            };
            let current = if runs { old & COUNT_MAX } else { 0 };
            let admitted = span.admits(limit, Counts { previous, current }, moment.rest_ns);
            let counted = admitted || penalty;
            let current = if counted { (current + 1).min(COUNT_MAX) } else { current };
            if counted && half.compare_exchange(old, word(moment.window, current), AcqRel, Relaxed).is_err() {
                continue;
            }
            let usage = span.usage(limit, Counts { previous, current }, moment.rest_ns, admitted);
            return Counted { window: moment.window, counted, usage };
        }
    }

    /// What would be said without counting.
    #[must_use]
    pub fn look(&self, span: Span, limit: u64, unix_ns: u64) -> Usage {
        let moment = span.at(unix_ns);
        let of = |window: u32| {
            let word = self.half(window).load(Acquire);
            if window_of(word) == window { word & COUNT_MAX } else { 0 }
        };
        let counts = Counts { previous: moment.window.checked_sub(1).map_or(0, of), current: of(moment.window) };
        span.usage(limit, counts, moment.rest_ns, true)
    }

    /// Takes back a request that was counted in `window`: another limit refused it.
    pub fn give_back(&self, window: u32) {
        take(self.half(window), window, 1);
    }

    /// Notes that others have counted too: `total` with what they were told of, in `window`.
    pub fn learn(&self, window: u32, total: u64) {
        let known = total.saturating_add(self.owed(window)).min(COUNT_MAX);
        let _ = self.half(window).fetch_update(AcqRel, Acquire, |old| match window_of(old) {
            newer if newer > window => None,
            same if same == window => (old & COUNT_MAX < known).then_some(old & !COUNT_MAX | known),
            _ => Some(word(window, known)),
        });
    }

    /// Notes that the store is to be told of `number` more in `window`.
    pub fn owe(&self, window: u32, number: u64) {
        let _ = self.owed[window as usize & 1].fetch_update(Relaxed, Relaxed, |old| match window_of(old) {
            newer if newer > window => None,
            same if same == window => Some(word(window, ((old & COUNT_MAX) + number).min(COUNT_MAX))),
            _ => Some(word(window, number.min(COUNT_MAX))),
        });
    }

    /// One less is owed: the request was taken back.
    pub fn owe_less(&self, window: u32) {
        take(&self.owed[window as usize & 1], window, 1);
    }

    /// What the store has not been told of `window`.
    #[must_use]
    pub fn owed(&self, window: u32) -> u64 {
        let word = self.owed[window as usize & 1].load(Relaxed);
        if window_of(word) == window { word & COUNT_MAX } else { 0 }
    }

    /// The same, now to be told: who asks gives it back with `owe` if that fails.
    pub fn settle(&self, window: u32) -> u64 {
        let owed = self.owed(window);
        if owed > 0 { take(&self.owed[window as usize & 1], window, owed) } else { 0 }
    }

    /// Takes the right to call, if a call is due; ended with `called`.
    #[must_use]
    pub fn begin_call(&self, now_ns: u64) -> bool {
        let due = self.due_ns.load(Relaxed);
        now_ns >= due && self.due_ns.compare_exchange(due, u64::MAX, Relaxed, Relaxed).is_ok()
    }

    /// The call has ended; the next is due then.
    pub fn called(&self, due_ns: u64) {
        self.due_ns.store(due_ns, Relaxed);
    }

    /// Whether one of its windows is in view, and none stems from a clock that was set back since.
    fn is_live(&self, span_s: u32, unix_s: u64) -> bool {
        let number = |second: u64| (second / u64::from(span_s)) as u32;
        let newest = self.halves.iter().map(|half| window_of(half.load(Relaxed))).max().unwrap_or(0);
        (number(unix_s).saturating_sub(1)..=number(unix_s + AHEAD_S)).contains(&newest)
    }

    fn hold(self: &Arc<Self>) -> Option<Held> {
        let held = self.holders.fetch_update(AcqRel, Relaxed, |holders| (holders != GONE).then(|| holders + 1));
        held.is_ok().then(|| Held(Arc::clone(self)))
    }

    /// Lets nobody hold it any more; false if somebody does.
    fn retire(&self) -> bool {
        !self.holders.compare_exchange(0, GONE, AcqRel, Relaxed).is_err_and(|holders| holders != GONE)
    }

    fn clear(&self) {
        for cell in self.halves.iter().chain(&self.owed) {
            cell.store(0, Relaxed);
        }
    }
}

/// Takes up to `number` from a window's word; how many were there.
fn take(cell: &AtomicU64, window: u32, number: u64) -> u64 {
    let of = |old: u64| number.min(old & COUNT_MAX);
    let taken = cell.fetch_update(AcqRel, Acquire, |old| (window_of(old) == window).then(|| old - of(old)));
    taken.map_or(0, of)
}

/// Counters at most; beyond it, keys share the overflow's, so that a flood of identities costs no memory.
const COUNTERS_MAX: usize = 1 << 20;
const OVERFLOW: usize = 1 << 10;

/// All such counters of the process. They outlive a reload.
pub struct Spans {
    /// Their keys are hashes already.
    pairs: HashMap<(u64, u32), Arc<Pair>, FxBuildHasher>,
    pairs_max: usize,
    /// For each length: numbers of windows of different lengths cannot be compared.
    overflow: HashMap<u32, Arc<[Arc<Pair>]>>,
}

impl Default for Spans {
    fn default() -> Self {
        Self::bounded(COUNTERS_MAX)
    }
}

impl Spans {
    fn bounded(pairs_max: usize) -> Self {
        Spans { pairs: HashMap::with_hasher(FxBuildHasher), pairs_max, overflow: HashMap::new() }
    }

    /// The windows of `key`, a 64-bit hash of plugin and identity keyed at random, and of a length in seconds.
    #[must_use]
    pub fn pair(&self, key: u64, seconds: u32) -> Held {
        let pin = self.pairs.pin();
        loop {
            let pair = match pin.get(&(key, seconds)) {
                Some(pair) => pair,
                None if pin.len() < self.pairs_max => pin.get_or_insert_with((key, seconds), Arc::default),
                None => {
                    let overflow = self.overflow.pin();
                    let all = || (0..OVERFLOW).map(|_| Arc::default()).collect();
                    let shared: &Arc<[Arc<Pair>]> = overflow.get_or_insert_with(seconds, all);
                    // These are never forgotten.
                    match shared[key as usize % OVERFLOW].hold() {
                        Some(held) => return held,
                        None => continue,
                    }
                }
            };
            match pair.hold() {
                Some(held) => return held,
                // Whoever finds it first takes it out.
                None => drop(pin.remove_if(&(key, seconds), |_, known| Arc::ptr_eq(known, pair))),
            }
        }
    }

    /// Forgets windows that are over, and those of a time to come: the clock was set back.
    pub fn sweep(&self, unix_s: u64) {
        self.pairs.pin().retain(|(_, seconds), pair| pair.is_live(*seconds, unix_s) || !pair.retire());
        for (seconds, shared) in self.overflow.pin().iter() {
            shared.iter().filter(|pair| !pair.is_live(*seconds, unix_s)).for_each(|pair| pair.clear());
        }
    }

    /// Number of counters.
    #[must_use]
    pub fn len(&self) -> usize {
        self.pairs.len()
    }

    /// Whether nothing is counted.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SLIDING: Span = Span { seconds: 60, sliding: true };
    const FIXED: Span = Span { seconds: 60, sliding: false };

    fn admitted(pair: &Pair, span: Span, limit: u64, second: u64, tries: usize) -> usize {
        (0..tries).filter(|_| pair.count(span, limit, second * NANOS, false).usage.admitted).count()
    }

    #[test]
    fn a_sliding_window_weighs_the_one_before() {
        let pair = Pair::default();
        assert_eq!(admitted(&pair, SLIDING, 10, 6000, 20), 10);
        assert_eq!(admitted(&pair, SLIDING, 10, 6060, 20), 0, "all of it is in view");
        assert_eq!(admitted(&pair, SLIDING, 10, 6090, 20), 5, "half of it");
        assert_eq!(admitted(&pair, SLIDING, 10, 6119, 20), 4, "a sixtieth of ten, and five");
        assert_eq!(admitted(&pair, SLIDING, 10, 6120, 20), 1, "nine");
        assert_eq!(admitted(&pair, SLIDING, 10, 6300, 20), 10, "a window without any lies between");
    }

    #[test]
    fn a_fixed_window_does_not() {
        let pair = Pair::default();
        assert_eq!([6000, 6060, 6061].map(|at| admitted(&pair, FIXED, 10, at, 20)), [10, 10, 0]);
        let told = pair.count(FIXED, 10, 6061 * NANOS, false).usage;
        assert_eq!(told, Usage { admitted: false, remaining: 0, reset_s: 59 });
    }

    #[test]
    fn who_is_refused_learns_when_to_come_again() {
        let pair = Pair::default();
        admitted(&pair, SLIDING, 10, 6000, 10);
        let wait = |at: u64| pair.count(SLIDING, 10, at * NANOS, false).usage.reset_s;
        // Ten of the window before must fall to nine.
        assert_eq!((wait(6000), wait(6059), wait(6060), wait(6065)), (66, 7, 6, 1));
        assert_eq!(admitted(&pair, SLIDING, 10, 6066, 20), 1);
        assert_eq!(wait(6066), 6);
        assert_eq!(Span { seconds: 60, sliding: true }.usage(0, Counts::default(), NANOS, false).reset_s, 61);
    }

    #[test]
    fn a_penalty_counts_those_who_are_refused() {
        let pair = Pair::default();
        for _ in 0..12 {
            pair.count(SLIDING, 10, 6000 * NANOS, true);
        }
        assert_eq!(admitted(&pair, SLIDING, 10, 6066, 1), 0, "twelve count, and not ten");
        assert_eq!(admitted(&pair, SLIDING, 10, 6075, 1), 1);
    }

    #[test]
    fn what_is_left_is_a_whole_number() {
        let pair = Pair::default();
        admitted(&pair, SLIDING, 10, 6000, 3);
        assert_eq!(pair.look(SLIDING, 10, 6080 * NANOS).remaining, 8);
        assert_eq!(pair.look(SLIDING, 10, 6081 * NANOS).remaining, 8, "1.95 of 3 are in view");
        let first = pair.count(SLIDING, 10, 6100 * NANOS, false);
        assert_eq!((first.usage.remaining, first.usage.reset_s, first.window), (8, 20, 101));
        pair.give_back(101);
        assert_eq!(pair.look(SLIDING, 10, 6100 * NANOS).remaining, 9);
    }

    #[test]
    fn threads_share_one_limit_exactly_over_the_turn_of_a_window() {
        for sliding in [true, false] {
            let (pair, span) = (Pair::default(), Span { seconds: 60, sliding });
            let count = |at: u64| (0..5000).filter(|_| pair.count(span, 3000, at, false).usage.admitted).count();
            let turn = 6060 * NANOS;
            let admitted: usize = std::thread::scope(|scope| {
                let threads: Vec<_> =
                    [turn - 1, turn, turn - 1, turn].map(|at| scope.spawn(move || count(at))).into_iter().collect();
                threads.into_iter().map(|thread| thread.join().expect("no panic")).sum()
            });
            // Who came first decides how much of the window before was used.
            assert!(if sliding { admitted == 3000 } else { (3000..=6000).contains(&admitted) }, "{sliding} {admitted}");
        }
    }

    #[test]
    fn a_late_request_counts_in_the_window_that_runs() {
        let pair = Pair::default();
        assert_eq!(admitted(&pair, SLIDING, 2, 6060, 1), 1);
        let late = pair.count(SLIDING, 2, 6059 * NANOS, false);
        assert!(late.usage.admitted && late.window == 101);
        assert_eq!(admitted(&pair, SLIDING, 2, 6061, 1), 0);
    }

    #[test]
    fn what_others_counted_is_learned_and_what_they_do_not_know_is_owed() {
        let pair = Pair::default();
        pair.count(FIXED, 10, 6000 * NANOS, false);
        pair.owe(100, 1);
        assert_eq!((pair.settle(100), pair.settle(100)), (1, 0));
        pair.owe(100, 2);
        pair.learn(100, 6);
        assert_eq!(pair.look(FIXED, 10, 6000 * NANOS).remaining, 2);
        pair.learn(100, 3);
        assert_eq!(pair.look(FIXED, 10, 6000 * NANOS).remaining, 2, "it never falls");
        pair.owe(101, 1);
        pair.owe(102, 1);
        assert_eq!((pair.owed(100), pair.owed(101), pair.owed(102)), (0, 1, 1));
        assert!(pair.begin_call(5) && !pair.begin_call(6));
        pair.called(10);
        assert!(!pair.begin_call(9) && pair.begin_call(10));
    }

    #[test]
    fn nobody_counts_on_what_is_being_forgotten() {
        let spans = Spans::default();
        let span = Span { seconds: 60, sliding: false };
        let held = spans.pair(7, 60);
        spans.sweep(6000);
        let copy = held.clone();
        drop(held);
        spans.sweep(6000);
        assert_eq!(copy.count(span, 2, 6000 * NANOS, false).usage.remaining, 1);
        assert_eq!(spans.pair(7, 60).count(span, 2, 6000 * NANOS, false).usage.remaining, 0, "it is the same");
        drop(copy);
        // One that is being forgotten is found no more.
        let gone = Arc::clone(spans.pairs.pin().get(&(7, 60)).expect("it is there"));
        assert!(gone.retire() && gone.hold().is_none());
        assert_eq!(spans.pair(7, 60).count(span, 2, 6000 * NANOS, false).usage.remaining, 1, "another");
        spans.sweep(6180);
        assert!(spans.is_empty());
    }

    #[test]
    fn memory_is_bounded_and_what_is_over_is_forgotten() {
        let spans = Spans::bounded(1);
        let count = |key, seconds, at: u64| {
            let span = Span { seconds, sliding: true };
            spans.pair(key, seconds).count(span, 1, at * NANOS, false).usage.admitted
        };
        assert!(count(1, 60, 6000) && count(2, 60, 6000) && count(2, 1, 6000));
        assert!(!count(2, 60, 6000) && spans.len() == 1);
        spans.sweep(6061);
        assert!(!spans.is_empty() && !count(2, 60, 6061), "the window before is in view");
        spans.sweep(6000 - 120);
        assert!(spans.is_empty() && count(2, 60, 6000), "the clock was set back");
    }
}
