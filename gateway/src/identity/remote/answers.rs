//! What servers said of tokens, until it is too old: by digest of the token, bounded, shared by the workers. Requests for the
//! same token ask once. Must not know what an answer means.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use papaya::HashMap;
use tokio::sync::OnceCell;

/// The most tokens that are remembered by one memory.
const ANSWERS_MAX: usize = 65_536;

/// An answer, and until when it holds.
pub struct Dated<T> {
    /// The answer.
    pub answer: T,
    /// Monotonic nanoseconds.
    pub until_ns: u64,
}

/// The answer for one token, or the question under way.
pub struct Slot<T>(OnceCell<Dated<T>>);

/// A memory of answers.
pub struct Answers<T> {
    map: HashMap<[u8; 32], Arc<Slot<T>>>,
    count: AtomicUsize,
}

impl<T> Default for Answers<T> {
    fn default() -> Self {
        Answers { map: HashMap::new(), count: AtomicUsize::new(0) }
    }
}

impl<T> Slot<T> {
    /// The answer, when it is there and holds.
    pub fn get(&self, now_ns: u64) -> Option<&T> {
        self.0.get().filter(|dated| now_ns < dated.until_ns).map(|dated| &dated.answer)
    }

    /// The answer, when it is there, however old: for whoever has just waited for it.
    pub fn latest(&self) -> Option<&T> {
        self.0.get().map(|dated| &dated.answer)
    }

    /// The answer; whoever comes first asks, the others wait. When he goes away the next one asks.
    pub async fn ask(&self, question: impl Future<Output = Dated<T>>) -> &T {
        &self.0.get_or_init(|| question).await.answer
    }
}

impl<T: Send + Sync + 'static> Answers<T> {
    /// The slot of a token: one whose answer holds or is on its way, or a fresh one.
    pub fn slot(&self, token: &[u8; 32], now_ns: u64) -> Arc<Slot<T>> {
        let map = self.map.pin();
        let fresh = |slot: &Arc<Slot<T>>| slot.0.get().is_none_or(|dated| now_ns < dated.until_ns);
        if let Some(slot) = map.get(token).filter(|slot| fresh(slot)) {
            return Arc::clone(slot);
        }
        if self.count.load(Ordering::Relaxed) >= ANSWERS_MAX {
            self.sweep(now_ns);
        }
        let slot = Arc::new(Slot(OnceCell::new()));
        if self.count.load(Ordering::Relaxed) >= ANSWERS_MAX {
            // Not remembered.
            return slot;
        }
        match map.insert(*token, Arc::clone(&slot)) {
            Some(_) => {}
            None => {
                self.count.fetch_add(1, Ordering::Relaxed);
            }
        }
        slot
    }

    /// Forgets what does not hold any more. When everything holds, it forgets all: the next question is asked again.
    fn sweep(&self, now_ns: u64) {
        let map = self.map.pin();
        map.retain(|_, slot| slot.0.get().is_none_or(|dated| now_ns < dated.until_ns));
        if map.len() >= ANSWERS_MAX {
            map.clear();
        }
        self.count.store(map.len(), Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_holds_for_its_time() {
        let answers = Answers::<u8>::default();
        let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
        let slot = answers.slot(&[1; 32], 0);
        assert_eq!(slot.get(0), None);
        let answer = runtime.block_on(slot.ask(async { Dated { answer: 7, until_ns: 100 } }));
        assert_eq!(*answer, 7);
        assert_eq!(answers.slot(&[1; 32], 99).get(99), Some(&7));
        assert_eq!(answers.slot(&[2; 32], 99).get(99), None);
        assert_eq!(answers.slot(&[1; 32], 100).get(100), None);
    }

    #[test]
    fn the_memory_is_bounded() {
        let answers = Answers::<u8>::default();
        for n in 0..ANSWERS_MAX + 100 {
            let mut key = [0; 32];
            key[..8].copy_from_slice(&n.to_be_bytes());
            drop(answers.slot(&key, 0));
            assert!(answers.map.len() <= ANSWERS_MAX);
        }
    }
}
