//! Published keys: fetched from the control plane before they are needed, again in an interval, and once more when a token
//! names a key that is not among them. The last good set stays when a fetch fails. Requests read a set that is there; only
//! one whose key is unknown waits, and not for long.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use arc_swap::ArcSwap;
use bytes::Bytes;
use http::header::{ACCEPT, HeaderMap, HeaderValue};
use http::{Method, StatusCode, Uri};
use serde_json::Value;
use tokio::sync::{Notify, watch};

use crate::calls::{Calls, Question, address, shown};
use crate::clock;
use crate::identity::jwk::KeySet;

/// How often it is looked who is due.
const TICK: Duration = Duration::from_millis(250);
/// The longest document that is read, bytes.
const DOCUMENT_BYTES_MAX: usize = 1 << 20;
/// The first pause after a failure and the longest; each failure doubles it.
const RETRY_NS: u64 = 1_000_000_000;
const RETRY_NS_MAX: u64 = 60_000_000_000;

/// Where keys are published, and how they are fetched.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Publisher {
    /// The key set, or the document that says where it is.
    pub at: Uri,
    /// With an issuer `at` is its discovery document (OpenID Connect Discovery 1.0 §4), which must name it.
    pub issuer: Option<String>,
    /// Whether certificates are verified.
    pub verify: bool,
    /// For one document.
    pub timeout: Duration,
    /// Between fetches.
    pub refresh: Duration,
    /// Least time between two fetches for the sake of unknown keys.
    pub refetch: Duration,
}

/// The keys of one publisher.
pub struct Source {
    publisher: Publisher,
    keys: ArcSwap<KeySet>,
    /// Counts fetches that ended, well or not.
    ended: watch::Sender<u64>,
    /// When the last fetch began and the next is due, monotonic nanoseconds.
    begun_ns: AtomicU64,
    due_ns: AtomicU64,
    failures: AtomicU64,
    busy: AtomicBool,
    wake: Arc<Notify>,
}

/// All sources in use.
#[derive(Default)]
pub struct Sources {
    list: Mutex<Vec<Weak<Source>>>,
    wake: Arc<Notify>,
}

impl Sources {
    /// The source of a publisher: the one that a running configuration has, or a new one.
    pub fn of(&self, publisher: Publisher) -> Arc<Source> {
        let mut list = self.list.lock().unwrap_or_else(PoisonError::into_inner);
        list.retain(|source| source.strong_count() > 0);
        if let Some(known) = list.iter().filter_map(Weak::upgrade).find(|source| source.publisher == publisher) {
            return known;
        }
        let source = Arc::new(Source {
            publisher,
            keys: ArcSwap::default(),
            ended: watch::Sender::new(0),
            begun_ns: AtomicU64::new(0),
            due_ns: AtomicU64::new(0),
            failures: AtomicU64::new(0),
            busy: AtomicBool::new(false),
            wake: Arc::clone(&self.wake),
        });
        list.push(Arc::downgrade(&source));
        self.wake.notify_one();
        source
    }

    /// Fetches for ever what is due.
    pub async fn run(&self, calls: &Arc<Calls>) {
        loop {
            tokio::select! {
                () = tokio::time::sleep(TICK) => {}
                () = self.wake.notified() => {}
            }
            let now_ns = clock::monotonic_ns();
            let list = self.list.lock().unwrap_or_else(PoisonError::into_inner);
            for source in list.iter().filter_map(Weak::upgrade).filter(|source| source.begin(now_ns)) {
                let calls = Arc::clone(calls);
                tokio::spawn(async move { source.fetch(&calls).await });
            }
        }
    }
}

impl Source {
    /// The keys as they were last fetched; empty before that.
    #[must_use]
    pub fn keys(&self) -> arc_swap::Guard<Arc<KeySet>> {
        self.keys.load()
    }

    /// Whether a good set has ever come.
    #[must_use]
    pub fn is_known(&self) -> bool {
        self.keys.load().has(None)
    }

    /// Asks for a fetch for the sake of a key that is not known. Returns what to wait for, or nothing when the last fetch was
    /// too short a time ago.
    #[must_use]
    pub fn renewal(&self, now_ns: u64) -> Option<impl Future<Output = ()> + use<>> {
        let mut ended = self.ended.subscribe();
        let first = *ended.borrow_and_update() == 0;
        let refetch_ns = u64::try_from(self.publisher.refetch.as_nanos()).unwrap_or(u64::MAX);
        let free = now_ns.saturating_sub(self.begun_ns.load(Ordering::Acquire)) >= refetch_ns;
        if !first && !free && !self.busy.load(Ordering::Acquire) {
            return None;
        }
        if free {
            self.due_ns.store(0, Ordering::Release);
            self.wake.notify_one();
        }
        let patience = self.publisher.timeout * 2 + TICK * 2;
        Some(async move {
            // Both ends say the same: look again.
            let _ = tokio::time::timeout(patience, ended.changed()).await;
        })
    }

    /// Whether a fetch is due; it is then under way.
    fn begin(&self, now_ns: u64) -> bool {
        let due = now_ns >= self.due_ns.load(Ordering::Acquire) && !self.busy.swap(true, Ordering::AcqRel);
        if due {
            self.begun_ns.store(now_ns, Ordering::Release);
            self.due_ns.store(u64::MAX, Ordering::Release);
        }
        due
    }

    async fn fetch(&self, calls: &Calls) {
        let nanos = |time: Duration| u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
        let pause_ns = match self.publisher.fetch(calls).await {
            Ok(keys) => {
                if self.failures.swap(0, Ordering::AcqRel) > 0 {
                    tracing::info!(at = shown(&self.publisher.at), "keys are fetched again");
                }
                self.keys.store(Arc::new(keys));
                nanos(self.publisher.refresh)
            }
            Err(error) => {
                let failures = self.failures.fetch_add(1, Ordering::AcqRel);
                tracing::warn!(
                    at = shown(&self.publisher.at),
                    error,
                    "keys cannot be fetched; the last good ones stay"
                );
                (RETRY_NS << failures.min(6)).min(RETRY_NS_MAX)
            }
        };
        self.due_ns.store(clock::monotonic_ns().saturating_add(pause_ns), Ordering::Release);
        self.busy.store(false, Ordering::Release);
        self.ended.send_modify(|count| *count += 1);
    }
}

impl Publisher {
    async fn fetch(&self, calls: &Calls) -> Result<KeySet, String> {
        let at = match &self.issuer {
            Some(issuer) => self.discover(issuer, calls).await?,
            None => self.at.clone(),
        };
        Ok(KeySet::read(&self.get(at, calls).await?)?)
    }

    /// Where an issuer's key set is (OpenID Connect Discovery 1.0 §4.2, §4.3).
    async fn discover(&self, issuer: &str, calls: &Calls) -> Result<Uri, String> {
        let text = self.get(self.at.clone(), calls).await?;
        let document: Value = serde_json::from_slice(&text).map_err(|_| "the discovery document is no JSON")?;
        let named = document["issuer"].as_str().unwrap_or_default();
        if named.trim_end_matches('/') != issuer.trim_end_matches('/') {
            return Err("the discovery document is of another issuer".to_owned());
        }
        let keys = address(document["jwks_uri"].as_str().unwrap_or_default())?;
        if self.at.scheme_str() == Some("https") && keys.scheme_str() != Some("https") {
            return Err("the discovery document leads from https to http".to_owned());
        }
        Ok(keys)
    }

    async fn get(&self, to: Uri, calls: &Calls) -> Result<Bytes, String> {
        let mut headers = HeaderMap::new();
        headers.insert(ACCEPT, HeaderValue::from_static("application/json"));
        let question = Question {
            to,
            method: Method::GET,
            headers,
            body: Bytes::new(),
            verify: self.verify,
            timeout: self.timeout,
            answer_bytes_max: DOCUMENT_BYTES_MAX,
        };
        let answer = calls.ask(&question).await?;
        if answer.status != StatusCode::OK {
            return Err(format!("status {}", answer.status.as_u16()));
        }
        Ok(answer.body)
    }
}
