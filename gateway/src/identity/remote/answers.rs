//! What servers said of tokens, until it is too old: by digest of the token, bounded, shared by the workers. Requests for the
//! same token ask once. Must not know what an answer means.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use papaya::HashMap;
use tokio::sync::OnceCell;

/// The most tokens that are remembered by one memory.
const ANSWERS_MAX: usize = 65_536;
/// The most bytes of answers that are remembered by one memory, beside those of questions under way.
const BYTES_MAX: usize = 16 << 20;

/// An answer, and until when it holds.
pub struct Dated<T> {
    /// The answer.
    pub answer: T,
    /// Monotonic nanoseconds.
    pub until_ns: u64,
    /// What it takes of the memory, about.
    pub bytes: usize,
}

/// The answer for one token, or the question under way.
pub struct Slot<T> {
    cell: OnceCell<Dated<T>>,
    /// The memory's count of bytes.
    total: Arc<AtomicUsize>,
}

/// A memory of answers.
pub struct Answers<T> {
    map: HashMap<[u8; 32], Arc<Slot<T>>>,
    count: AtomicUsize,
    /// Of all answers that came since the last sweep, and of those that it left.
    bytes: Arc<AtomicUsize>,
}

impl<T> Default for Answers<T> {
    fn default() -> Self {
        Answers { map: HashMap::new(), count: AtomicUsize::new(0), bytes: Arc::default() }
    }
}

impl<T> Slot<T> {
    /// The answer, when it is there and holds.
    pub fn get(&self, now_ns: u64) -> Option<&T> {
        self.cell.get().filter(|dated| now_ns < dated.until_ns).map(|dated| &dated.answer)
    }

    /// The answer, when it is there, however old: for whoever has just waited for it.
    pub fn latest(&self) -> Option<&T> {
        self.cell.get().map(|dated| &dated.answer)
    }

    /// The answer; whoever comes first asks, the others wait. When he goes away the next one asks.
    pub async fn ask(&self, question: impl Future<Output = Dated<T>>) -> &T {
        let counted = async {
            let dated = question.await;
            self.total.fetch_add(dated.bytes, Ordering::Relaxed);
            dated
        };
        &self.cell.get_or_init(|| counted).await.answer
    }
}

impl<T: Send + Sync + 'static> Answers<T> {
    /// The slot of a token: one whose answer holds or is on its way, or a fresh one.
    pub fn slot(&self, token: &[u8; 32], now_ns: u64) -> Arc<Slot<T>> {
        let map = self.map.pin();
        let fresh = |slot: &Arc<Slot<T>>| slot.cell.get().is_none_or(|dated| now_ns < dated.until_ns);
        if let Some(slot) = map.get(token).filter(|slot| fresh(slot)) {
            return Arc::clone(slot);
        }
        if self.is_full() {
            self.sweep(now_ns);
        }
        let slot = Arc::new(Slot { cell: OnceCell::new(), total: Arc::clone(&self.bytes) });
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

    fn is_full(&self) -> bool {
        self.count.load(Ordering::Relaxed) >= ANSWERS_MAX || self.bytes.load(Ordering::Relaxed) >= BYTES_MAX
    }

    /// Forgets what does not hold any more. When too much holds, it forgets all: the next question is asked again.
    fn sweep(&self, now_ns: u64) {
        let map = self.map.pin();
        let before = self.bytes.load(Ordering::Relaxed);
        map.retain(|_, slot| slot.cell.get().is_none_or(|dated| now_ns < dated.until_ns));
        let mut left: usize = map.values().filter_map(|slot| slot.cell.get()).map(|dated| dated.bytes).sum();
        if map.len() >= ANSWERS_MAX || left >= BYTES_MAX {
            map.clear();
            left = 0;
        }
        self.count.store(map.len(), Ordering::Relaxed);
        // What came meanwhile stays counted.
        self.bytes.fetch_add(left.wrapping_sub(before), Ordering::Relaxed);
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
        let answer = runtime.block_on(slot.ask(async { Dated { answer: 7, until_ns: 100, bytes: 1 } }));
        assert_eq!(*answer, 7);
        assert_eq!(answers.slot(&[1; 32], 99).get(99), Some(&7));
        assert_eq!(answers.slot(&[2; 32], 99).get(99), None);
        assert_eq!(answers.slot(&[1; 32], 100).get(100), None);
    }

    fn remember(answers: &Answers<u8>, n: usize, bytes: usize, until_ns: u64) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
        runtime.block_on(answers.slot(&key(n), 0).ask(async { Dated { answer: 7, until_ns, bytes } }));
    }

    #[test]
    fn the_memory_is_bounded_in_bytes() {
        let answers = Answers::<u8>::default();
        let size = 64 << 10;
        for n in 0..BYTES_MAX / size {
            remember(&answers, n, size, if n % 2 == 0 { 100 } else { 1000 });
        }
        assert_eq!(answers.bytes.load(Ordering::Relaxed), BYTES_MAX);
        // Those that hold no more make room.
        drop(answers.slot(&key(1 << 20), 100));
        assert_eq!(answers.slot(&key(1), 100).get(100), Some(&7));
        assert_eq!(answers.bytes.load(Ordering::Relaxed), BYTES_MAX / 2);
        for n in 0..BYTES_MAX / size {
            remember(&answers, 2000 + n, size, 1000);
            // Questions under way are what may come on top.
            let held = answers.map.pin().values().filter_map(|slot| slot.cell.get()).map(|dated| dated.bytes).sum();
            assert!((size..=BYTES_MAX).contains(&held), "{held}");
        }
    }

    fn key(n: usize) -> [u8; 32] {
        let mut key = [0; 32];
        key[..8].copy_from_slice(&n.to_be_bytes());
        key
    }

    #[test]
    fn the_memory_is_bounded() {
        let answers = Answers::<u8>::default();
        for n in 0..ANSWERS_MAX + 100 {
            drop(answers.slot(&key(n), 0));
            assert!(answers.map.len() <= ANSWERS_MAX);
        }
    }
}
