//! Choosing among weighted targets: smooth weighted round-robin, kept by each worker for itself.

use std::cell::RefCell;
use std::collections::HashMap;

/// The turns of one worker, by the id of what is balanced.
#[derive(Default)]
pub struct Turns(RefCell<HashMap<usize, Vec<i64>>>);

impl Turns {
    /// The next of `weights` for the balanced thing `id`; `None` when all weigh nothing.
    pub fn next(&self, id: usize, weights: impl ExactSizeIterator<Item = u32> + Clone) -> Option<usize> {
        let total: i64 = weights.clone().map(i64::from).sum();
        if total == 0 {
            return None;
        }
        let mut turns = self.0.borrow_mut();
        let current = turns.entry(id).or_default();
        current.resize(weights.len(), 0);
        // nginx's smooth round-robin: everybody earns its weight, the richest is chosen and pays the total.
        let mut best = None;
        for (i, weight) in weights.enumerate() {
            if weight == 0 {
                // Who is out saves nothing up for later.
                current[i] = 0;
                continue;
            }
            current[i] += i64::from(weight);
            if best.is_none_or(|best: usize| current[i] > current[best]) {
                best = Some(i);
            }
        }
        current[best?] -= total;
        best
    }

    /// Forgets everything: a new configuration counts anew.
    pub fn clear(&self) {
        self.0.borrow_mut().clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_follow_the_weights_and_are_spread() {
        let turns = Turns::default();
        let picks: Vec<usize> = (0..7).filter_map(|_| turns.next(1, [5_u32, 1, 1].into_iter())).collect();
        assert_eq!(picks.iter().filter(|p| **p == 0).count(), 5);
        assert_ne!(picks[..5], [0, 0, 0, 0, 0]);
        assert_eq!(turns.next(2, [0_u32, 0].into_iter()), None);
    }
}
