//! Public keys that remember the signatures which they found good: a client sends the same token for minutes, and checking
//! RSA costs more than all the rest of a request. That a signature is a key's stays true for ever, so nothing here can
//! outlive a revocation: whose key it is, and whether the token still holds, is asked each time by others.

use std::cell::RefCell;
use std::collections::HashMap;
use std::collections::hash_map::RandomState;
use std::hash::BuildHasher;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use aws_lc_rs::signature::ParsedPublicKey;

/// Signatures of one generation that a thread keeps; there are two.
const GENERATION_MAX: usize = 1024;
/// Bytes of a message and its signature that are kept.
const BYTES_MAX: usize = 4096;

/// A public key with its own number, which no other key of the process ever has.
pub struct RememberingKey {
    number: u64,
    key: ParsedPublicKey,
}

impl RememberingKey {
    /// A key that has seen no signature yet.
    #[must_use]
    pub fn new(key: ParsedPublicKey) -> Self {
        static NUMBERS: AtomicU64 = AtomicU64::new(0);
        RememberingKey { number: NUMBERS.fetch_add(1, Relaxed), key }
    }

    /// Whether `signature` is this key's over `message`.
    #[must_use]
    pub fn verify(&self, message: &[u8], signature: &[u8]) -> bool {
        let check = || self.key.verify_sig(message, signature).is_ok();
        if message.len() + signature.len() > BYTES_MAX {
            return check();
        }
        GOOD.with_borrow_mut(|good| good.contains_or(self.number, message, signature, check))
    }
}

thread_local! {
    static GOOD: RefCell<Good> = RefCell::default();
}

/// Good signatures of two generations: when the young one is full, the old one is forgotten and the young one grows old.
#[derive(Default)]
struct Good {
    hasher: RandomState,
    young: HashMap<u64, Signed>,
    old: HashMap<u64, Signed>,
}

/// All that a signature depends on; compared whole, a hash decides nothing.
struct Signed {
    number: u64,
    message: Box<[u8]>,
    signature: Box<[u8]>,
}

impl Good {
    fn contains_or(&mut self, number: u64, message: &[u8], signature: &[u8], check: impl FnOnce() -> bool) -> bool {
        let hash = self.hasher.hash_one((number, signature));
        let same = |it: &Signed| it.number == number && *it.message == *message && *it.signature == *signature;
        if self.young.get(&hash).is_some_and(same) {
            return true;
        }
        if !self.old.get(&hash).is_some_and(same) && !check() {
            return false;
        }
        if self.young.len() >= GENERATION_MAX {
            self.old = std::mem::take(&mut self.young);
        }
        self.young.insert(hash, Signed { number, message: message.into(), signature: signature.into() });
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_was_good_is_remembered_and_all_of_it_counts() {
        let mut good = Good::default();
        assert!(!good.contains_or(1, b"m", b"s", || false));
        assert!(good.contains_or(1, b"m", b"s", || true), "a bad signature is not remembered as one");
        assert!(good.contains_or(1, b"m", b"s", || unreachable!("it is remembered")));
        for (number, message, signature) in [(2, b"m", b"s"), (1, b"n", b"s"), (1, b"m", b"t")] {
            assert!(!good.contains_or(number, message, signature, || false));
        }
        assert!(!good.contains_or(1, b"ms", b"", || false), "no byte moves from one part to the other");
    }

    #[test]
    fn what_is_in_use_outlives_a_flood_and_memory_has_a_bound() {
        let mut good = Good::default();
        for at in 0..10 * GENERATION_MAX {
            assert!(good.contains_or(0, &at.to_le_bytes(), b"s", || true));
            assert!(good.contains_or(1, b"m", b"in use", || at == 0));
        }
        assert!(good.young.len() <= GENERATION_MAX && good.old.len() <= GENERATION_MAX);
    }
}
