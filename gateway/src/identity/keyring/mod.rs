//! API keys that are made and taken back while the gateway runs: the ones in force, for every worker to read without a lock,
//! and their log. A key taken back is gone for all workers before the call returns. Keys themselves are never kept, only
//! their SHA-256.

pub mod log;

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use papaya::HashMap;

use self::log::{Entry, Log, Record};

/// The most keys in force.
const KEYS_MAX: usize = 1_000_000;

/// A key in force.
#[derive(Debug)]
pub struct IssuedKey {
    /// What is known of it.
    pub record: Record,
    /// Its id, as requests carry it.
    pub credential: Arc<str>,
}

/// Why something was not done.
#[derive(Debug, PartialEq, Eq)]
pub enum Fault {
    /// There is no log, or another process holds it.
    Closed(String),
    /// The key exists already.
    Taken,
    /// There are too many keys.
    Full,
    /// No key has this id.
    Unknown,
    /// The log could not be written.
    Disk(String),
}

/// All issued keys.
#[derive(Default)]
pub struct Keyring {
    live: HashMap<[u8; 32], Arc<IssuedKey>>,
    by_id: HashMap<String, Arc<IssuedKey>>,
    is_open: AtomicBool,
    /// When keys end, of those that do; an end that was put off stands here until it is past.
    ends: Mutex<BTreeSet<(u64, Arc<str>)>>,
    /// Of whoever changes something, for as long as the disk takes: nobody who only looks may wait for it.
    log: Mutex<Option<Log>>,
}

impl Keyring {
    /// Reads the log of `path`, and writes to it from now on.
    ///
    /// # Errors
    /// When the log cannot be had, or is damaged.
    pub fn open(&self, path: &Path, now_s: u64) -> Result<(), String> {
        let (log, records) = Log::open(path)?;
        for record in records.into_iter().filter(|record| record.holds(now_s)) {
            self.keep(record);
        }
        *self.lock() = Some(log);
        self.is_open.store(true, Ordering::Release);
        Ok(())
    }

    /// Whether keys can be made.
    #[must_use]
    pub fn is_open(&self) -> bool {
        self.is_open.load(Ordering::Acquire)
    }

    /// What `look` sees of the key of a digest, when it holds.
    pub fn find<T>(&self, digest: &[u8; 32], now_s: u64, look: impl FnOnce(&IssuedKey) -> T) -> Option<T> {
        let live = self.live.pin();
        live.get(digest).filter(|key| key.record.holds(now_s)).map(|key| look(key))
    }

    /// The key of an id.
    #[must_use]
    pub fn named(&self, id: &str, now_s: u64) -> Option<Arc<IssuedKey>> {
        self.by_id.pin().get(id).filter(|key| key.record.holds(now_s)).cloned()
    }

    /// All keys in force, the oldest first.
    #[must_use]
    pub fn all(&self, now_s: u64) -> Vec<Arc<IssuedKey>> {
        let by_id = self.by_id.pin();
        let mut keys: Vec<_> = by_id.values().filter(|key| key.record.holds(now_s)).cloned().collect();
        keys.sort_by(|a, b| (a.record.created_s, &a.record.id).cmp(&(b.record.created_s, &b.record.id)));
        keys
    }

    /// Puts a new key in force, when it is on disk.
    ///
    /// # Errors
    /// The key is taken, or the log cannot be written.
    pub fn add(&self, record: Record, now_s: u64) -> Result<Arc<IssuedKey>, Fault> {
        self.change(|log| {
            self.admissible(&record, now_s)?;
            log.append(&[Entry::Put(record.clone())]).map_err(Fault::Disk)?;
            Ok(self.keep(record))
        })
    }

    /// Changes what is known of a key; the key itself and its id stay.
    ///
    /// # Errors
    /// There is no such key, or the log cannot be written.
    pub fn update(&self, id: &str, now_s: u64, change: impl FnOnce(&mut Record)) -> Result<Arc<IssuedKey>, Fault> {
        self.change(|log| {
            let mut record = self.named(id, now_s).ok_or(Fault::Unknown)?.record.clone();
            change(&mut record);
            log.append(&[Entry::Put(record.clone())]).map_err(Fault::Disk)?;
            Ok(self.keep(record))
        })
    }

    /// Puts a new key in force in place of the one of `id`, which ends at `end_s` or, without that, with the return.
    ///
    /// # Errors
    /// There is no such key any more, the new one is taken, or the log cannot be written; all is then as before.
    pub fn replace(
        &self,
        id: &str,
        now_s: u64,
        end_s: Option<u64>,
        successor: impl FnOnce(&Record) -> Record,
    ) -> Result<Arc<IssuedKey>, Fault> {
        self.change(|log| {
            let old = self.named(id, now_s).ok_or(Fault::Unknown)?;
            let record = successor(&old.record);
            self.admissible(&record, now_s)?;
            let ending = end_s.map(|end_s| {
                let mut ending = old.record.clone();
                ending.expires_s = Some(ending.expires_s.map_or(end_s, |known_s| known_s.min(end_s)));
                ending
            });
            let end = ending.clone().map_or_else(|| Entry::Del { id: id.to_owned() }, Entry::Put);
            log.append(&[Entry::Put(record.clone()), end]).map_err(Fault::Disk)?;
            let made = self.keep(record);
            match ending {
                Some(ending) => drop(self.keep(ending)),
                None => {
                    self.by_id.pin().remove(id);
                    self.forget(&old);
                }
            }
            Ok(made)
        })
    }

    /// Takes a key back: for all workers at once, then on disk.
    ///
    /// # Errors
    /// There is no such key; or the log cannot be written, and then the key is out of force until a restart.
    pub fn revoke(&self, id: &str) -> Result<Arc<IssuedKey>, Fault> {
        self.change(|log| {
            let key = self.by_id.pin().remove(id).cloned().ok_or(Fault::Unknown)?;
            self.forget(&key);
            log.append(&[Entry::Del { id: id.to_owned() }]).map_err(Fault::Disk)?;
            Ok(key)
        })
    }

    fn change<T>(&self, act: impl FnOnce(&mut Log) -> Result<T, Fault>) -> Result<T, Fault> {
        let mut held = self.lock();
        let log = held.as_mut().ok_or_else(|| Fault::Closed("no log".to_owned()))?;
        let outcome = act(log)?;
        if log.is_wasteful(self.by_id.len()) {
            let by_id = self.by_id.pin();
            if let Err(error) = log.compact(by_id.values().map(|key| &key.record)) {
                tracing::warn!(error, "the log of keys cannot be compacted");
            }
        }
        Ok(outcome)
    }

    /// Whether there is room for a key that nobody has.
    fn admissible(&self, record: &Record, now_s: u64) -> Result<(), Fault> {
        if self.by_id.len() >= KEYS_MAX {
            self.sweep(now_s);
        }
        if self.by_id.len() >= KEYS_MAX {
            return Err(Fault::Full);
        }
        let known = self.find(&record.digest(), now_s, |_| ());
        known.map_or(Ok(()), |()| Err(Fault::Taken))
    }

    fn keep(&self, record: Record) -> Arc<IssuedKey> {
        let credential = Arc::from(record.id.as_str());
        let key = Arc::new(IssuedKey { record, credential });
        self.by_id.pin().insert(key.record.id.clone(), Arc::clone(&key));
        self.live.pin().insert(key.record.digest(), Arc::clone(&key));
        if let Some(end_s) = key.record.expires_s {
            self.ends().insert((end_s, Arc::clone(&key.credential)));
        }
        key
    }

    /// Forgets the keys whose time is over; their ids, each once.
    pub fn end(&self, now_s: u64) -> Vec<Arc<str>> {
        let mut ends = self.ends();
        let mut ended = Vec::new();
        while let Some((_, id)) = ends.first().filter(|(end_s, _)| *end_s <= now_s).cloned() {
            ends.pop_first();
            let over = self
                .by_id
                .pin()
                .remove_if(&*id, |_, key| !key.record.holds(now_s))
                .ok()
                .flatten()
                .map(|(_, key)| Arc::clone(key));
            if let Some(key) = over {
                self.forget(&key);
                ended.push(id);
            }
        }
        ended
    }

    /// The keys of consumers of whom `is_gone` says so.
    #[must_use]
    pub fn of_consumers(&self, is_gone: impl Fn(&str) -> bool) -> Vec<Arc<str>> {
        let by_id = self.by_id.pin();
        by_id.values().filter(|key| is_gone(&key.record.consumer)).map(|key| Arc::clone(&key.credential)).collect()
    }

    fn sweep(&self, now_s: u64) {
        self.by_id.pin().retain(|_, key| {
            let holds = key.record.holds(now_s);
            if !holds {
                self.forget(key);
            }
            holds
        });
    }

    /// Takes a key from the workers, unless the same text was issued again since.
    fn forget(&self, key: &IssuedKey) {
        let live = self.live.pin();
        let digest = key.record.digest();
        if live.get(&digest).is_some_and(|known| known.record.id == key.record.id) {
            live.remove(&digest);
        }
    }

    fn ends(&self) -> MutexGuard<'_, BTreeSet<(u64, Arc<str>)>> {
        self.ends.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn lock(&self) -> MutexGuard<'_, Option<Log>> {
        self.log.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::identity::digest;

    fn record(key: &str) -> Record {
        Record::new(format!("id-{key}"), &digest(key.as_bytes()), "consumer".to_owned(), 100)
    }

    fn opened(path: &Path) -> Keyring {
        let keyring = Keyring::default();
        keyring.open(path, 100).expect("opens");
        keyring
    }

    fn knows(keyring: &Keyring, key: &str, now_s: u64) -> bool {
        keyring.find(&digest(key.as_bytes()), now_s, |_| ()).is_some()
    }

    #[test]
    fn keys_survive_a_restart_and_revoked_ones_do_not() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("keys");
        let keyring = opened(&path);
        for key in ["a", "b", "c"] {
            keyring.add(record(key), 100).expect("adds");
        }
        assert_eq!(keyring.add(record("a"), 100).err(), Some(Fault::Taken));
        keyring.update("id-b", 100, |record| record.expires_s = Some(200)).expect("changes");
        keyring.revoke("id-c").expect("revokes");
        assert_eq!(keyring.revoke("id-c").err(), Some(Fault::Unknown));
        let check = |keyring: &Keyring| {
            assert!(knows(keyring, "a", 1000) && knows(keyring, "b", 199));
            assert!(!knows(keyring, "b", 200) && !knows(keyring, "c", 100) && !knows(keyring, "d", 100));
            assert_eq!(keyring.all(100).len(), 2);
        };
        check(&keyring);
        drop(keyring);
        check(&opened(&path));
        let text = std::fs::read_to_string(&path).expect("reads");
        assert!(!text.contains("\"a\""), "no key stands in the log: {text}");
    }

    #[test]
    fn a_key_is_replaced_once_or_not_at_all() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("keys");
        let keyring = opened(&path);
        keyring.add(record("a"), 100).expect("adds");
        keyring.update("id-a", 100, |record| record.expires_s = Some(300)).expect("changes");
        keyring.replace("id-a", 100, Some(900), |_| record("b")).expect("replaces");
        assert!(knows(&keyring, "a", 299) && !knows(&keyring, "a", 300) && knows(&keyring, "b", 300), "no longer");
        keyring.replace("id-a", 100, Some(200), |_| record("c")).expect("replaces");
        assert!(knows(&keyring, "a", 199) && !knows(&keyring, "a", 200));
        assert_eq!(keyring.replace("id-b", 100, None, |_| record("c")).err(), Some(Fault::Taken));
        let successor = |old: &Record| {
            let mut record = record("d");
            record.tier = Some(old.id.clone());
            record
        };
        keyring.replace("id-b", 100, None, successor).expect("replaces");
        assert_eq!(
            keyring.replace("id-b", 100, None, |_| record("e")).err(),
            Some(Fault::Unknown),
            "the second of two"
        );
        let check = |keyring: &Keyring| {
            assert!(!knows(keyring, "b", 100) && knows(keyring, "c", 100) && !knows(keyring, "e", 100));
            assert_eq!(keyring.named("id-d", 100).and_then(|key| key.record.tier.clone()).as_deref(), Some("id-b"));
            assert_eq!(keyring.all(200).len(), 2);
        };
        check(&keyring);
        drop(keyring);
        let keyring = opened(&path);
        check(&keyring);
        keyring.lock().as_mut().expect("is open").break_disk();
        for end_s in [None, Some(200)] {
            let outcome = keyring.replace("id-c", 100, end_s, |_| record("f"));
            assert!(matches!(outcome, Err(Fault::Disk(_))), "{outcome:?}");
        }
        assert!(knows(&keyring, "c", 1000) && !knows(&keyring, "f", 100), "as before");
        assert!(matches!(keyring.revoke("id-c"), Err(Fault::Disk(_))));
        assert!(!knows(&keyring, "c", 100), "out of force all the same");
    }

    #[test]
    fn nobody_who_looks_waits_for_the_disk() {
        let folder = tempfile::tempdir().expect("a folder");
        let keyring = opened(&folder.path().join("keys"));
        keyring.add(record("a"), 100).expect("adds");
        let (seen, sees) = std::sync::mpsc::channel();
        std::thread::scope(|scope| {
            let writer = keyring.lock();
            let keyring = &keyring;
            scope.spawn(move || {
                seen.send((keyring.is_open(), keyring.named("id-a", 100).is_some(), keyring.all(100).len()))
            });
            let outcome = sees.recv_timeout(std::time::Duration::from_secs(10));
            drop(writer);
            assert_eq!(outcome, Ok((true, true, 1)));
        });
        assert!(!Keyring::default().is_open());
    }

    #[test]
    fn the_log_stays_small() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("keys");
        let keyring = opened(&path);
        keyring.add(record("kept"), 100).expect("adds");
        for _ in 0..1500 {
            keyring.update("id-kept", 100, |record| record.tier = Some("gold".to_owned())).expect("changes");
        }
        let lines = std::fs::read_to_string(&path).expect("reads").lines().count();
        assert!(lines < 1100, "{lines}");
        drop(keyring);
        assert_eq!(opened(&path).all(100)[0].record.tier.as_deref(), Some("gold"));
    }

    #[test]
    fn a_torn_end_is_cut_off_and_damage_within_is_told() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("keys");
        let keyring = opened(&path);
        keyring.add(record("a"), 100).expect("adds");
        keyring.add(record("b"), 100).expect("adds");
        drop(keyring);
        let whole = std::fs::read(&path).expect("reads");
        for cut in 1..40 {
            std::fs::write(&path, &whole[..whole.len() - cut]).expect("writes");
            let keyring = opened(&path);
            assert!(knows(&keyring, "a", 100) && !knows(&keyring, "b", 100), "{cut}");
            keyring.add(record("c"), 100).expect("adds");
            drop(keyring);
            assert!(knows(&opened(&path), "c", 100));
        }
        let mut broken = whole.clone();
        let middle = whole.len() / 2 - 10;
        broken[middle] ^= 1;
        std::fs::write(&path, &broken).expect("writes");
        let error = Keyring::default().open(&path, 100).expect_err("refused");
        assert!(error.contains("damaged"), "{error}");
    }

    #[test]
    fn two_processes_do_not_write_one_log() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("keys");
        let first = opened(&path);
        let error = Keyring::default().open(&path, 100).expect_err("refused");
        assert!(error.contains("another process"), "{error}");
        drop(first);
        opened(&path);
    }
}
