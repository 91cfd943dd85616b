//! How many requests of a caller are under way: each holds a slot and gives it back when it is dropped, however it ended.
//! Exact across workers without a lock, bounded in memory.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering::AcqRel, Ordering::Relaxed};

use papaya::HashMap;
use rustc_hash::FxBuildHasher;

/// A counter that nobody may use any more: it is being forgotten.
const GONE: u32 = u32::MAX;

/// The most slots of a caller.
pub const SLOTS_MAX: u32 = 1_000_000;

/// A slot of a caller.
#[derive(Debug)]
pub struct Slot(Arc<AtomicU32>);

impl Drop for Slot {
    fn drop(&mut self) {
        // One that is held is not forgotten.
        self.0.fetch_sub(1, AcqRel);
    }
}

/// What became of a request for a slot.
enum Asked {
    Given,
    Full,
    Gone,
}

fn ask(counter: &AtomicU32, limit: u32) -> Asked {
    match counter.fetch_update(AcqRel, Relaxed, |held| (held < limit.min(SLOTS_MAX)).then(|| held + 1)) {
        Ok(_) => Asked::Given,
        Err(GONE) => Asked::Gone,
        Err(_) => Asked::Full,
    }
}

/// Callers at most; beyond it, they share the overflow's counters, so that a flood of identities costs no memory.
const CALLERS_MAX: usize = 1 << 20;
const OVERFLOW: usize = 1 << 12;

/// The requests under way in this process. They outlive a reload.
pub struct Slots {
    /// Their keys are hashes already.
    callers: HashMap<u64, Arc<AtomicU32>, FxBuildHasher>,
    callers_max: usize,
    overflow: Vec<Arc<AtomicU32>>,
}

impl Default for Slots {
    fn default() -> Self {
        Self::bounded(CALLERS_MAX)
    }
}

impl Slots {
    fn bounded(callers_max: usize) -> Self {
        let overflow = (0..OVERFLOW).map(|_| Arc::default()).collect();
        Slots { callers: HashMap::with_hasher(FxBuildHasher), callers_max, overflow }
    }

    /// A slot of `key`, unless `limit` are held; `key` is a 64-bit hash of limit and caller, keyed at random.
    #[must_use]
    pub fn take(&self, key: u64, limit: u32) -> Option<Slot> {
        let pin = self.callers.pin();
        loop {
            let counter = match pin.get(&key) {
                Some(counter) => counter,
                None if pin.len() >= self.callers_max => &self.overflow[key as usize % OVERFLOW],
                None => pin.get_or_insert_with(key, Arc::default),
            };
            match ask(counter, limit) {
                Asked::Given => return Some(Slot(Arc::clone(counter))),
                Asked::Full => return None,
                // Whoever finds it first takes it out.
                Asked::Gone => drop(pin.remove_if(&key, |_, known| Arc::ptr_eq(known, counter))),
            }
        }
    }

    /// Forgets callers of whom nothing is under way; the control plane calls it now and then.
    pub fn sweep(&self) {
        self.callers
            .pin()
            .retain(|_, counter| counter.compare_exchange(0, GONE, AcqRel, Relaxed).is_err_and(|n| n != GONE));
    }

    /// Number of callers.
    #[must_use]
    pub fn len(&self) -> usize {
        self.callers.len()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicBool;

    use super::*;

    #[test]
    fn as_many_as_the_limit_are_held_and_dropping_gives_back() {
        let slots = Slots::default();
        let held: Vec<Option<Slot>> = (0..4).map(|_| slots.take(1, 3)).collect();
        assert_eq!(held.iter().filter(|slot| slot.is_some()).count(), 3);
        assert!(slots.take(2, 1).is_some(), "another caller");
        slots.sweep();
        assert_eq!(slots.len(), 1, "who holds some is known");
        drop(held);
        assert!(slots.take(1, 1).is_some());
        assert!(slots.take(1, 1).is_some());
        slots.sweep();
        assert!(slots.is_empty());
    }

    #[test]
    fn a_lower_limit_counts_those_that_are_held() {
        let slots = Slots::default();
        let held: Vec<Slot> = (0..3).filter_map(|_| slots.take(1, 3)).collect();
        assert!(slots.take(1, 2).is_none() && slots.take(1, 4).is_some());
        drop(held);
        assert!(slots.take(1, 2).is_some());
    }

    #[test]
    fn never_more_than_the_limit_while_callers_are_forgotten() {
        let (slots, over, ends) = (Slots::default(), AtomicBool::new(false), AtomicBool::new(false));
        let held = AtomicU32::new(0);
        std::thread::scope(|scope| {
            let threads: Vec<_> = (0..3)
                .map(|_| {
                    scope.spawn(|| {
                        for _ in 0..20_000 {
                            let Some(slot) = slots.take(7, 2) else { continue };
                            over.fetch_or(held.fetch_add(1, AcqRel) >= 2, AcqRel);
                            held.fetch_sub(1, AcqRel);
                            drop(slot);
                        }
                    })
                })
                .collect();
            scope.spawn(|| {
                while !ends.load(Relaxed) {
                    slots.sweep();
                }
            });
            threads.into_iter().for_each(|thread| thread.join().expect("no panic"));
            ends.store(true, Relaxed);
        });
        assert!(!over.into_inner());
        slots.sweep();
        assert!(slots.is_empty());
    }

    #[test]
    fn memory_is_bounded() {
        let slots = Slots::bounded(1);
        let held = slots.take(1, 1);
        let other = slots.take(2, 1);
        assert!(held.is_some() && other.is_some() && slots.take(2, 1).is_none());
        assert_eq!(slots.len(), 1);
    }
}
