//! Fixed windows aligned to the UTC calendar, as Kong's rate-limiting counts them: one atomic word a counter, exact across
//! workers, bounded in memory.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use papaya::HashMap;
use rustc_hash::FxBuildHasher;

/// A calendar window (Kong `second` … `year`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[allow(missing_docs)]
pub enum Period {
    Second,
    Minute,
    Hour,
    Day,
    Month,
    Year,
}

impl Period {
    /// All periods, shortest first, with their field names in the configuration.
    pub const ALL: [(&'static str, Period); 6] = [
        ("second", Period::Second),
        ("minute", Period::Minute),
        ("hour", Period::Hour),
        ("day", Period::Day),
        ("month", Period::Month),
        ("year", Period::Year),
    ];

    /// Seconds of the shortest such window.
    #[must_use]
    pub fn seconds_min(self) -> u64 {
        match self {
            Period::Second => 1,
            Period::Minute => 60,
            Period::Hour => 3600,
            Period::Day => 86_400,
            Period::Month => 28 * 86_400,
            Period::Year => 365 * 86_400,
        }
    }

    /// Bits of a counter's word that hold its count; those above number the window, until the year 2089 at least.
    const fn count_bits(self) -> u32 {
        match self {
            Period::Second => 32,
            Period::Minute => 38,
            Period::Hour => 44,
            Period::Day | Period::Month | Period::Year => 48,
        }
    }

    /// The most that a counter of this process counts in a window.
    #[must_use]
    pub const fn count_max(self) -> u64 {
        (1 << self.count_bits()) - 1
    }

    /// A counter's word: the number of its window above, what is counted in it below.
    const fn word(self, window: u32, used: u64) -> u64 {
        (window as u64) << self.count_bits() | used
    }

    /// The window and the count of a word.
    const fn parts(self, word: u64) -> (u32, u64) {
        ((word >> self.count_bits()) as u32, word & self.count_max())
    }

    /// The window and count that a request of `window` finds. A request that took its time to come belongs to a window that
    /// is over: it counts in the one that runs, or else it would empty it.
    fn found(self, word: u64, window: u32) -> (u32, u64) {
        match self.parts(word) {
            (stored, used) if stored >= window => (stored, used),
            _ => (window, 0),
        }
    }

    /// The field's name in the configuration.
    #[must_use]
    pub fn name(self) -> &'static str {
        Self::ALL[self as usize].0
    }

    /// The second at which the window that holds `unix_s` began.
    #[must_use]
    pub fn start(self, unix_s: u64) -> u64 {
        match self {
            Period::Second => unix_s,
            Period::Minute => unix_s / 60 * 60,
            Period::Hour => unix_s / 3600 * 3600,
            Period::Day => unix_s / 86_400 * 86_400,
            Period::Month => {
                let (year, month) = civil_month(unix_s / 86_400);
                days_from_civil(year, month) * 86_400
            }
            Period::Year => days_from_civil(civil_month(unix_s / 86_400).0, 1) * 86_400,
        }
    }

    /// The second at which the window of a number began.
    #[must_use]
    pub fn begin(self, window: u32) -> u64 {
        let number = u64::from(window);
        match self {
            Period::Second => number,
            Period::Minute => number * 60,
            Period::Hour => number * 3600,
            Period::Day => number * 86_400,
            // January of the year 1 is number 13.
            Period::Month => days_from_civil((number - 1) / 12, (number - 1) % 12 + 1) * 86_400,
            Period::Year => days_from_civil(number, 1) * 86_400,
        }
    }

    /// The number of the window that holds `unix_s`, and the second at which the next one begins.
    #[must_use]
    pub fn window(self, unix_s: u64) -> (u32, u64) {
        let fixed = |length: u64| {
            let index = unix_s / length;
            (index as u32, (index + 1) * length)
        };
        match self {
            Period::Second => fixed(1),
            Period::Minute => fixed(60),
            Period::Hour => fixed(3600),
            Period::Day => fixed(86_400),
            Period::Month => {
                let (year, month) = civil_month(unix_s / 86_400);
                let next = if month == 12 { (year + 1, 1) } else { (year, month + 1) };
                ((year * 12 + month) as u32, days_from_civil(next.0, next.1) * 86_400)
            }
            Period::Year => {
                let (year, _) = civil_month(unix_s / 86_400);
                (year as u32, days_from_civil(year + 1, 1) * 86_400)
            }
        }
    }
}

/// Year and month of a day number since 1970 (Howard Hinnant, "chrono-compatible low-level date algorithms").
fn civil_month(days: u64) -> (u64, u64) {
    let z = days + 719_468;
    let era = z / 146_097;
    let doe = z % 146_097;
    let yoe = (doe - doe / 1460 + doe / 36_524 - doe / 146_096) / 365;
    let doy = doe - (365 * yoe + yoe / 4 - yoe / 100);
    let mp = (5 * doy + 2) / 153;
    let month = if mp < 10 { mp + 3 } else { mp - 9 };
    let year = yoe + era * 400 + u64::from(month <= 2);
    (year, month)
}

/// Day number since 1970 of the first of a month.
fn days_from_civil(year: u64, month: u64) -> u64 {
    let y = if month <= 2 { year - 1 } else { year };
    let era = y / 400;
    let yoe = y % 400;
    let mp = if month > 2 { month - 3 } else { month + 9 };
    let doy = (153 * mp + 2) / 5;
    let doe = yoe * 365 + yoe / 4 - yoe / 100 + doy;
    era * 146_097 + doe - 719_468
}

/// What one counter says after a request was counted, or refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Usage {
    /// Whether this request was within the limit (and was counted).
    pub admitted: bool,
    /// Requests left in the window, this one subtracted.
    pub remaining: u64,
    /// Whole seconds until the window ends, at least 1.
    pub reset_s: u64,
}

/// How far a worker's clock may be ahead of the control plane's, seconds. A window that begins later is of a time to come.
pub const AHEAD_S: u64 = 2;

/// Counters at most; beyond it, keys share the overflow cells, so that a flood of identities costs no memory.
const COUNTERS_MAX: usize = 1 << 20;
const OVERFLOW_CELLS: usize = 1 << 12;

/// The word of a counter that is being forgotten: no window has this number.
const GONE: u64 = u64::MAX;

/// Changes a counter's word, or leaves it, as `fetch_update`; nothing if it is being forgotten.
fn change(cell: &AtomicU64, next: impl Fn(u64) -> Option<u64>) -> Option<Result<u64, u64>> {
    let next = |word| if word == GONE { None } else { next(word) };
    let changed = cell.fetch_update(Ordering::Relaxed, Ordering::Relaxed, next);
    (changed != Err(GONE)).then_some(changed)
}

/// All counters of the process. They outlive a reload.
pub struct Windows {
    /// Their keys are hashes already.
    counters: HashMap<(u64, Period), Arc<AtomicU64>, FxBuildHasher>,
    counters_max: usize,
    /// As many cells for each period: two periods in one cell would empty each other's windows.
    overflow: Vec<AtomicU64>,
}

impl Default for Windows {
    fn default() -> Self {
        Self::bounded(COUNTERS_MAX)
    }
}

impl Windows {
    fn bounded(counters_max: usize) -> Self {
        let cells = OVERFLOW_CELLS * Period::ALL.len();
        let overflow = (0..cells).map(|_| AtomicU64::new(0)).collect();
        Windows { counters: HashMap::with_hasher(FxBuildHasher), counters_max, overflow }
    }

    fn shared_cell(&self, key: u64, period: Period) -> &AtomicU64 {
        &self.overflow[period as usize * OVERFLOW_CELLS + key as usize % OVERFLOW_CELLS]
    }

    /// Counts one request of `key` against `limit` in the window of `unix_s`; a request over the limit is not counted.
    ///
    /// `key` is a 64-bit hash of limit and identity, keyed at random by the caller so that nobody can aim at a collision.
    pub fn count(&self, key: u64, period: Period, limit: u64, unix_s: u64) -> Usage {
        let (window, next) = period.window(unix_s);
        let reset_s = next.saturating_sub(unix_s).max(1);
        self.with_cell(key, period, |cell| {
            let counted = change(cell, |word| {
                let (window, used) = period.found(word, window);
                (used < limit.min(period.count_max())).then(|| period.word(window, used + 1))
            })?;
            Some(match counted {
                Ok(before) => {
                    let (_, used) = period.found(before, window);
                    Usage { admitted: true, remaining: limit.saturating_sub(used + 1), reset_s }
                }
                Err(_) => Usage { admitted: false, remaining: 0, reset_s },
            })
        })
    }

    /// Takes back one counted request: another limit of the same request refused it.
    pub fn uncount(&self, key: u64, period: Period, unix_s: u64) {
        let (window, _) = period.window(unix_s);
        self.with_cell(key, period, |cell| {
            change(cell, |word| {
                let (stored, used) = period.parts(word);
                (stored >= window && used > 0).then(|| word - 1)
            })
            .map(drop)
        });
    }

    /// Counts `number` requests of `key`, whatever the limit.
    pub fn add(&self, key: u64, period: Period, number: u64, unix_s: u64) {
        let (window, _) = period.window(unix_s);
        self.with_cell(key, period, |cell| {
            change(cell, |word| {
                let (window, used) = period.found(word, window);
                Some(period.word(window, used.saturating_add(number).min(period.count_max())))
            })
            .map(drop)
        });
    }

    /// What `count` would leave, without counting: `remaining` is the limit less the requests counted so far.
    #[must_use]
    pub fn look(&self, key: u64, period: Period, limit: u64, unix_s: u64) -> Usage {
        let (window, next) = period.window(unix_s);
        let pin = self.counters.pin();
        let word = match pin.get(&(key, period)) {
            Some(cell) => Some(cell.load(Ordering::Relaxed)).filter(|word| *word != GONE).unwrap_or(0),
            None if pin.len() >= self.counters_max => self.shared_cell(key, period).load(Ordering::Relaxed),
            None => 0,
        };
        let (_, used) = period.found(word, window);
        let remaining = limit.saturating_sub(used);
        Usage { admitted: remaining > 0, remaining, reset_s: next.saturating_sub(unix_s).max(1) }
    }

    /// What `act` does to a counter; nothing where that is being forgotten, and then it has another.
    fn with_cell<T>(&self, key: u64, period: Period, act: impl Fn(&AtomicU64) -> Option<T>) -> T {
        let pin = self.counters.pin();
        loop {
            let cell = match pin.get(&(key, period)) {
                Some(cell) => cell,
                None if pin.len() < self.counters_max => pin.get_or_insert_with((key, period), Arc::default),
                // Those are never forgotten.
                None => match act(self.shared_cell(key, period)) {
                    Some(done) => return done,
                    None => continue,
                },
            };
            if let Some(done) = act(cell) {
                return done;
            }
            // Whoever finds it first takes it out.
            let _ = pin.remove_if(&(key, period), |_, known| Arc::ptr_eq(known, cell));
        }
    }

    /// Forgets the counters of past windows; the control plane calls it now and then. Those of windows to come go too:
    /// the clock was set back, and nobody must wait until it is there again.
    pub fn sweep(&self, unix_s: u64) {
        let live = |period: Period, word: u64| {
            (period.window(unix_s).0..=period.window(unix_s + AHEAD_S).0).contains(&period.parts(word).0)
        };
        self.counters.pin().retain(|(_, period), cell| {
            let word = cell.load(Ordering::Relaxed);
            // Nobody counts any more on what is forgotten.
            live(*period, word)
                || cell
                    .compare_exchange(word, GONE, Ordering::Relaxed, Ordering::Relaxed)
                    .is_err_and(|word| word != GONE)
        });
        for (i, cell) in self.overflow.iter().enumerate() {
            let (_, period) = Period::ALL[i / OVERFLOW_CELLS];
            let word = cell.load(Ordering::Relaxed);
            if word != 0 && !live(period, word) {
                // A request that came in between keeps its count.
                let _ = cell.compare_exchange(word, 0, Ordering::Relaxed, Ordering::Relaxed);
            }
        }
    }

    /// Number of live counters.
    #[must_use]
    pub fn len(&self) -> usize {
        self.counters.len()
    }

    /// Whether nothing is counted yet.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn windows_follow_the_calendar() {
        // 2026-11-24T12:34:56Z
        let now = 1_795_523_696;
        assert_eq!(Period::Minute.window(now).1 - now, 60 - now % 60);
        let (_, next) = Period::Month.window(now);
        assert_eq!(next, 1_796_083_200, "2026-12-01T00:00:00Z");
        let (_, next) = Period::Year.window(now);
        assert_eq!(next, 1_798_761_600, "2027-01-01T00:00:00Z");
        for (_, period) in Period::ALL {
            // 2026-12-31T23:59:59Z
            for unix_s in [now, 1_798_761_599] {
                let (window, next) = period.window(unix_s);
                assert_eq!(
                    (period.begin(window), period.begin(window + 1)),
                    (period.start(unix_s), next),
                    "{period:?}"
                );
            }
        }
        // 2024-02-29 is still February.
        assert_eq!(Period::Month.window(1_709_164_800).1, 1_709_251_200);
    }

    #[test]
    fn a_window_admits_exactly_its_limit() {
        let windows = Windows::default();
        let admitted = (0..10).filter(|_| windows.count(7, Period::Minute, 3, 120).admitted).count();
        assert_eq!(admitted, 3);
        assert_eq!(windows.count(7, Period::Minute, 3, 180), Usage { admitted: true, remaining: 2, reset_s: 60 });
        windows.uncount(7, Period::Minute, 180);
        assert_eq!(windows.look(7, Period::Minute, 3, 181).remaining, 3);
        assert_eq!(windows.count(7, Period::Minute, 3, 181).remaining, 2);
        assert_eq!(windows.look(7, Period::Minute, 3, 182), Usage { admitted: true, remaining: 2, reset_s: 58 });
    }

    #[test]
    fn what_a_counter_can_hold_is_refused_beyond() {
        for (_, period) in Period::ALL {
            let windows = Windows::default();
            // 2026-11-24T12:34:56Z
            let (now, limit) = (1_795_523_696, period.count_max());
            windows.add(7, period, limit - 1, now);
            assert!(windows.count(7, period, limit, now).admitted, "{period:?}");
            assert!(!windows.count(7, period, limit, now).admitted, "{period:?}");
            windows.add(7, period, u64::MAX, now);
            assert_eq!(windows.look(7, period, limit, now).remaining, 0, "{period:?}");
            let next = period.window(now).1;
            assert_eq!(windows.look(7, period, limit, next).remaining, limit, "{period:?}");
        }
    }

    #[test]
    fn two_threads_share_one_limit_exactly() {
        let windows = Windows::default();
        let admitted: usize = std::thread::scope(|scope| {
            let count = || (0..10_000).filter(|_| windows.count(1, Period::Hour, 5000, 0).admitted).count();
            let threads = [scope.spawn(count), scope.spawn(count)];
            threads.into_iter().map(|t| t.join().expect("no panic")).sum()
        });
        assert_eq!(admitted, 5000);
    }

    #[test]
    fn a_late_request_counts_in_the_window_that_runs() {
        let windows = Windows::default();
        let count = |unix_s| windows.count(7, Period::Second, 2, unix_s).admitted;
        assert!(count(100) && count(100) && !count(100));
        assert!(!count(99), "it finds the counter full");
        assert!(!count(100), "and has not emptied it");
        windows.uncount(7, Period::Second, 99);
        assert_eq!(windows.look(7, Period::Second, 2, 99).remaining, 1);
    }

    #[test]
    fn a_clock_that_was_set_back_locks_nobody_out() {
        let windows = Windows::bounded(1);
        for key in 1..=2 {
            assert!(windows.count(key, Period::Minute, 1, 60_000).admitted);
            assert!(!windows.count(key, Period::Minute, 1, 600).admitted);
        }
        windows.sweep(600);
        assert!(windows.count(1, Period::Minute, 1, 600).admitted && windows.count(2, Period::Minute, 1, 600).admitted);
    }

    #[test]
    fn so_does_one_that_was_set_back_by_a_part_of_a_window() {
        let windows = Windows::default();
        assert!(windows.count(1, Period::Hour, 1, 7200).admitted);
        windows.sweep(7199);
        assert!(!windows.count(1, Period::Hour, 1, 7199).admitted, "a worker's clock may be ahead");
        windows.sweep(7200 - 600);
        assert!(windows.count(1, Period::Hour, 1, 7200 - 600).admitted);
    }

    #[test]
    fn nobody_counts_on_what_is_being_forgotten() {
        let windows = Windows::default();
        windows.count(7, Period::Minute, 5, 60);
        let held = windows.counters.pin().get(&(7, Period::Minute)).cloned().expect("it is counted");
        windows.sweep(180);
        assert_eq!(change(&held, |word| Some(word + 1)), None, "one who had found it before");
        windows.counters.pin().insert((7, Period::Minute), held);
        assert_eq!(windows.look(7, Period::Minute, 5, 180).remaining, 5);
        assert_eq!(windows.count(7, Period::Minute, 5, 180).remaining, 4);
        assert_eq!(windows.look(7, Period::Minute, 5, 180).remaining, 4);
    }

    #[test]
    fn limits_hold_for_those_who_share_a_cell() {
        let windows = Windows::bounded(1);
        windows.count(1, Period::Day, 9, 1000);
        let admitted = (0..10)
            .filter(|_| {
                let second = windows.count(2, Period::Second, 5, 1000).admitted;
                second && windows.count(2, Period::Minute, 5, 1000).admitted
            })
            .count();
        assert_eq!(admitted, 5);
        assert_eq!(windows.len(), 1);
    }

    #[test]
    fn past_windows_are_forgotten() {
        let windows = Windows::default();
        windows.count(1, Period::Second, 5, 100);
        windows.count(2, Period::Day, 5, 100);
        windows.sweep(200);
        assert_eq!(windows.len(), 1);
    }
}
