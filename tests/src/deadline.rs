//! Waiting with a deadline, and skipping aloud. Nothing here knows what is waited for.

use std::io::Write;
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// How long a condition may take to become true on a busy machine of two cores.
pub const PATIENCE: Duration = Duration::from_secs(15);

/// The pause between two looks at a condition.
const LOOK: Duration = Duration::from_millis(10);

/// Waits until `condition` holds; panics with `what` after [`PATIENCE`].
#[track_caller]
pub fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    if !holds_within(PATIENCE, &mut condition) {
        panic!("not within {PATIENCE:?}: {what}");
    }
}

/// Waits until `condition` holds; false if it does not within `limit`.
pub fn holds_within(limit: Duration, mut condition: impl FnMut() -> bool) -> bool {
    let end = Instant::now() + limit;
    loop {
        if condition() {
            return true;
        }
        if Instant::now() >= end {
            return false;
        }
        thread::sleep(LOOK);
    }
}

/// Seconds since the epoch by the wall clock, as windows and token claims count them.
pub fn unix_seconds() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).expect("the clock is after 1970").as_secs()
}

/// Waits, if fewer than `needed` seconds of the current UTC minute are left, for the next minute:
/// a test that counts within one calendar window must not straddle its end.
pub fn fresh_minute(needed: u64) {
    assert!(needed < 60, "a minute has 60 seconds");
    if 60 - unix_seconds() % 60 < needed {
        let minute = unix_seconds() / 60;
        let begun = holds_within(Duration::from_secs(61), || unix_seconds() / 60 > minute);
        assert!(begun, "the wall clock stands still");
    }
}

/// Says that a test, or a part of it, did not run and why: never skip in silence. The line goes past
/// the capture of the test runner so that it can be counted.
pub fn skip(name: &str, reason: &str) {
    say(&format!("SKIP {name}: {reason}"));
}

/// Prints a line past the capture of the test runner.
pub fn say(line: &str) {
    let mut out = std::io::stdout().lock();
    // A closed stdout cannot be told to anybody.
    let _ = writeln!(out, "{line}").and_then(|()| out.flush());
}
