//! Denials that hold until their window ends: who is denied costs the store no call. Shared by all workers without a lock.

use papaya::HashMap;
use smallvec::SmallVec;

use crate::limits::window::Usage;

/// Denials at most; beyond it they are not remembered, and cost a call each.
const DENIALS_MAX: usize = 1 << 18;

/// What all limits of a denied identity said.
#[derive(Clone)]
struct Denial {
    until_s: u64,
    at_s: u64,
    usages: SmallVec<[Usage; 2]>,
}

/// The denials of this process.
#[derive(Default)]
pub struct Denials(HashMap<u64, Denial>);

impl Denials {
    /// What the limits said when `key` was denied, with the seconds that are left now.
    #[must_use]
    pub fn of(&self, key: u64, unix_s: u64) -> Option<SmallVec<[Usage; 2]>> {
        let pin = self.0.pin();
        let denial = pin.get(&key)?;
        // A clock that was set back must not lengthen a denial.
        if unix_s >= denial.until_s || unix_s < denial.at_s {
            return None;
        }
        let mut usages = denial.usages.clone();
        for usage in &mut usages {
            usage.reset_s = usage.reset_s.saturating_sub(unix_s - denial.at_s).max(1);
        }
        Some(usages)
    }

    /// Remembers that `key` is denied as `usages` say, until the window of the one that refused ends.
    pub fn remember(&self, key: u64, usages: &SmallVec<[Usage; 2]>, unix_s: u64) {
        if let Some(refusing) = usages.iter().find(|u| !u.admitted) {
            self.remember_until(key, usages, unix_s, unix_s + refusing.reset_s);
        }
    }

    /// Remembers that `key` is denied as `usages` say, until a second; nothing when that is not in the future.
    pub fn remember_until(&self, key: u64, usages: &SmallVec<[Usage; 2]>, unix_s: u64, until_s: u64) {
        let pin = self.0.pin();
        if until_s > unix_s && pin.len() < DENIALS_MAX {
            pin.insert(key, Denial { until_s, at_s: unix_s, usages: usages.clone() });
        }
    }

    /// Forgets what has ended.
    pub fn sweep(&self, unix_s: u64) {
        self.0.pin().retain(|_, denial| unix_s >= denial.at_s.saturating_sub(1) && unix_s < denial.until_s);
    }

    /// Number of denials.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether nobody is denied.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

#[cfg(test)]
mod tests {
    use smallvec::smallvec;

    use super::*;

    #[test]
    fn a_denial_ends_with_the_window_that_refused() {
        let denials = Denials::default();
        let open = Usage { admitted: true, remaining: 3, reset_s: 3000 };
        let refused = Usage { admitted: false, remaining: 0, reset_s: 20 };
        denials.remember(7, &smallvec![refused, open], 1000);
        assert!(denials.of(8, 1000).is_none() && denials.of(7, 1020).is_none());
        let told = denials.of(7, 1019).expect("denied");
        assert_eq!((told[0].reset_s, told[1].reset_s), (1, 2981));
        assert!(denials.of(7, 999).is_none(), "the clock was set back");
        denials.sweep(1020);
        assert!(denials.is_empty());
    }

    #[test]
    fn what_was_admitted_is_no_denial() {
        let denials = Denials::default();
        denials.remember(7, &smallvec![Usage { admitted: true, remaining: 0, reset_s: 20 }], 1000);
        assert!(denials.is_empty());
    }
}
