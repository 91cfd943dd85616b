//! Chains that were found good lately: checking one costs more than all the rest of a request. Each thread remembers its own,
//! bounded; only what was good is remembered, and never beyond the time at which it ends.

use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use super::{Chain, Trust, Verified};

/// Chains of one generation that a thread keeps; there are two.
const GENERATION_MAX: usize = 1024;

/// What is remembered for one set of authorities, which no other one of the process shares.
pub struct Memory {
    number: u64,
    /// How long, seconds.
    ttl_s: f64,
}

/// The memory, the chain, and until when it is believed, seconds since 1970.
type Known = HashMap<(u64, [u8; 32]), (Rc<Verified>, f64)>;

#[derive(Default)]
struct Generations {
    young: Known,
    old: Known,
}

thread_local! {
    static GOOD: RefCell<Generations> = RefCell::default();
}

impl Memory {
    /// Remembers for this long.
    #[must_use]
    pub fn new(ttl_s: f64) -> Self {
        static NUMBERS: AtomicU64 = AtomicU64::new(0);
        Memory { number: NUMBERS.fetch_add(1, Relaxed), ttl_s }
    }

    /// As `Trust::verify`, unless that is known. The time is in nanoseconds since 1970.
    ///
    /// # Errors
    /// Why the chain is not to be believed.
    pub fn verify(&self, trust: &Trust, chain: &Chain, now_ns: u64) -> Result<Rc<Verified>, webpki::Error> {
        let now = now_ns as f64 / 1e9;
        let key = (self.number, chain.digest);
        if let Some(known) = GOOD.with_borrow_mut(|good| good.find(&key, now)) {
            return Ok(known);
        }
        let verified = Rc::new(trust.verify(chain, now_ns / 1_000_000_000)?);
        if self.ttl_s > 0.0 {
            // The second in which it ends is its last one.
            let until = (now + self.ttl_s).min(verified.until_s as f64 + 1.0);
            GOOD.with_borrow_mut(|good| good.keep(key, (Rc::clone(&verified), until)));
        }
        Ok(verified)
    }
}

impl Generations {
    fn find(&mut self, key: &(u64, [u8; 32]), now: f64) -> Option<Rc<Verified>> {
        if let Some((verified, until)) = self.young.get(key) {
            return (now < *until).then(|| Rc::clone(verified));
        }
        let (verified, until) = self.old.remove(key)?;
        (now < until).then(|| {
            self.keep(*key, (Rc::clone(&verified), until));
            verified
        })
    }

    fn keep(&mut self, key: (u64, [u8; 32]), value: (Rc<Verified>, f64)) {
        if self.young.len() >= GENERATION_MAX {
            self.old = std::mem::take(&mut self.young);
        }
        self.young.insert(key, value);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::super::Names;
    use super::*;

    fn verified() -> Rc<Verified> {
        Rc::new(Verified { authority: Arc::from("a"), names: Names::default(), until_s: 100 })
    }

    #[test]
    fn what_is_known_ends() {
        let mut good = Generations::default();
        good.keep((1, [1; 32]), (verified(), 50.0));
        assert!(good.find(&(1, [1; 32]), 49.9).is_some());
        assert!(good.find(&(1, [1; 32]), 50.0).is_none());
        assert!(good.find(&(2, [1; 32]), 1.0).is_none(), "another plugin's authorities");
        assert!(good.find(&(1, [2; 32]), 1.0).is_none());
    }

    #[test]
    fn what_is_in_use_outlives_a_flood_and_memory_has_a_bound() {
        let mut good = Generations::default();
        good.keep((0, [0; 32]), (verified(), 50.0));
        for at in 0..10 * GENERATION_MAX as u64 {
            good.keep((at + 1, [1; 32]), (verified(), 50.0));
            assert!(good.find(&(0, [0; 32]), 1.0).is_some());
        }
        assert!(good.young.len() <= GENERATION_MAX && good.old.len() <= GENERATION_MAX);
    }
}
