//! Chains that were checked lately: checking one costs more than all the rest of a request, and a bad one may be made to cost
//! more than a good one. Each thread remembers its own, bounded; what was good never beyond the time at which it ends.

use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use super::{Chain, Trust, Verified};

/// Chains of one generation that a thread keeps; there are two, of good ones and of bad ones each.
const GENERATION_MAX: usize = 1024;
/// How long a bad one is remembered at most, seconds: its time may yet come.
const BAD_S: f64 = 10.0;

/// What is remembered for one set of authorities, which no other one of the process shares.
pub struct Memory {
    number: u64,
    /// How long, seconds.
    ttl_s: f64,
}

/// The memory and the chain.
type Key = (u64, [u8; 32]);

/// What was found, and until when that is believed, seconds since 1970.
struct Generations<T> {
    young: HashMap<Key, (T, f64)>,
    old: HashMap<Key, (T, f64)>,
}

thread_local! {
    static GOOD: RefCell<Generations<Rc<Verified>>> = RefCell::default();
    static BAD: RefCell<Generations<webpki::Error>> = RefCell::default();
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
        if let Some(known) = BAD.with_borrow_mut(|bad| bad.find(&key, now)) {
            return Err(known);
        }
        match trust.verify(chain, now_ns / 1_000_000_000) {
            Ok(verified) => {
                let verified = Rc::new(verified);
                // The second in which it ends is its last one.
                let until = (now + self.ttl_s).min(verified.until_s as f64 + 1.0);
                GOOD.with_borrow_mut(|good| good.keep(key, (Rc::clone(&verified), until)));
                Ok(verified)
            }
            Err(error) => {
                let until = now + self.ttl_s.min(BAD_S);
                BAD.with_borrow_mut(|bad| bad.keep(key, (error.clone(), until)));
                Err(error)
            }
        }
    }
}

impl<T> Default for Generations<T> {
    fn default() -> Self {
        Generations { young: HashMap::new(), old: HashMap::new() }
    }
}

impl<T: Clone> Generations<T> {
    fn find(&mut self, key: &Key, now: f64) -> Option<T> {
        if let Some((found, until)) = self.young.get(key) {
            return (now < *until).then(|| found.clone());
        }
        let (found, until) = self.old.remove(key)?;
        (now < until).then(|| {
            self.keep(*key, (found.clone(), until));
            found
        })
    }

    fn keep(&mut self, key: Key, value: (T, f64)) {
        if self.young.len() >= GENERATION_MAX {
            self.old = std::mem::take(&mut self.young);
        }
        self.young.insert(key, value);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_known_ends() {
        let mut good = Generations::default();
        good.keep((1, [1; 32]), ("good", 50.0));
        assert_eq!(good.find(&(1, [1; 32]), 49.9), Some("good"));
        assert_eq!(good.find(&(1, [1; 32]), 50.0), None);
        assert_eq!(good.find(&(2, [1; 32]), 1.0), None, "another plugin's authorities");
        assert_eq!(good.find(&(1, [2; 32]), 1.0), None);
    }

    #[test]
    fn what_is_in_use_outlives_a_flood_and_memory_has_a_bound() {
        let mut good = Generations::default();
        good.keep((0, [0; 32]), (0, 50.0));
        for at in 0..10 * GENERATION_MAX as u64 {
            good.keep((at + 1, [1; 32]), (1, 50.0));
            assert_eq!(good.find(&(0, [0; 32]), 1.0), Some(0));
        }
        assert!(good.young.len() <= GENERATION_MAX && good.old.len() <= GENERATION_MAX);
    }
}
