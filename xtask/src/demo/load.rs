//! The two clients of the demo. The honest one sends at a steady rate and measures from the moment at which each
//! request was due; the abusive one ignores every answer. Both are bounded in threads and in rate, and end when their
//! flag falls.

use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::Result;

use crate::http::Client;
use crate::lab::Namespace;

/// What a client saw since the last look.
#[derive(Clone, Default)]
pub struct Seen {
    pub statuses: BTreeMap<u16, u64>,
    /// Connections refused, reset or closed without an answer.
    pub refused: u64,
    /// Connections or answers that did not come in time.
    pub timed_out: u64,
    pub latencies_us: Vec<u32>,
}

impl Seen {
    pub fn add(&mut self, other: &Self) {
        for (status, count) in &other.statuses {
            *self.statuses.entry(*status).or_default() += count;
        }
        self.refused += other.refused;
        self.timed_out += other.timed_out;
        self.latencies_us.extend(&other.latencies_us);
    }

    #[must_use]
    pub fn of(&self, status: u16) -> u64 {
        self.statuses.get(&status).copied().unwrap_or(0)
    }

    /// Requests and attempts of any outcome.
    #[must_use]
    pub fn all(&self) -> u64 {
        self.statuses.values().sum::<u64>() + self.refused + self.timed_out
    }

    /// Share of good answers in percent; 0 when there was none at all.
    #[must_use]
    pub fn good_percent(&self) -> f64 {
        self.of(200) as f64 * 100.0 / self.all().max(1) as f64
    }

    /// 99th percentile of the latency, in milliseconds.
    #[must_use]
    pub fn p99_ms(&self) -> f64 {
        let mut sorted = self.latencies_us.clone();
        sorted.sort_unstable();
        let rank = (sorted.len() * 99).div_ceil(100).saturating_sub(1);
        sorted.get(rank).map_or(0.0, |us| f64::from(*us) / 1000.0)
    }
}

/// A running client.
pub struct Load {
    seen: Arc<Mutex<Seen>>,
    running: Arc<AtomicBool>,
}

impl Load {
    /// What was seen since the last call.
    #[must_use]
    pub fn take(&self) -> Seen {
        std::mem::take(&mut *self.seen.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.running.store(false, Ordering::Relaxed);
    }
}

/// The recording end that a client's threads hold.
#[derive(Clone)]
struct Recorder {
    seen: Arc<Mutex<Seen>>,
    running: Arc<AtomicBool>,
}

impl Recorder {
    fn runs(&self) -> bool {
        self.running.load(Ordering::Relaxed)
    }

    fn record(&self, result: &std::io::Result<u16>, latency: Duration) {
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        match result {
            Ok(status) => *seen.statuses.entry(*status).or_default() += 1,
            Err(error) if matches!(error.kind(), ErrorKind::TimedOut | ErrorKind::WouldBlock) => seen.timed_out += 1,
            Err(_) => seen.refused += 1,
        }
        seen.latencies_us.push(u32::try_from(latency.as_micros()).unwrap_or(u32::MAX));
    }
}

/// How a client behaves.
#[derive(Clone)]
pub struct Manner {
    pub target: SocketAddr,
    pub path: &'static str,
    /// Keys used in turn; `None` sends none.
    pub keys: &'static [Option<&'static str>],
    pub threads: u32,
    /// Of each thread.
    pub per_second: u32,
    /// Requests after which a new connection is made.
    pub per_connection: u32,
    pub connect_within: Duration,
    pub answer_within: Duration,
}

/// Starts a client in a namespace.
///
/// # Errors
/// The namespace is gone.
pub fn start(place: &Namespace, manner: Manner) -> Result<Load> {
    let recorder = Recorder { seen: Arc::default(), running: Arc::new(AtomicBool::new(true)) };
    let load = Load { seen: Arc::clone(&recorder.seen), running: Arc::clone(&recorder.running) };
    place.run(move || {
        for number in 0..manner.threads {
            let (manner, recorder) = (manner.clone(), recorder.clone());
            std::thread::spawn(move || send(&manner, &recorder, number));
        }
    })?;
    Ok(load)
}

fn send(manner: &Manner, recorder: &Recorder, number: u32) {
    let interval = Duration::from_secs(1) / manner.per_second;
    // The threads' requests are spread over one interval.
    let mut due = Instant::now() + interval * number / manner.threads;
    let mut connection: Option<(Client, u32)> = None;
    let mut turn = number as usize;
    while recorder.runs() {
        std::thread::sleep(due.saturating_duration_since(Instant::now()));
        turn += 1;
        let key = manner.keys[turn % manner.keys.len()];
        let result = request(manner, &mut connection, key);
        let now = Instant::now();
        recorder.record(&result, now - due);
        due += interval;
        // A client that fell behind by more than a second gives up what it missed, and does not make a burst of it.
        if now.saturating_duration_since(due) > Duration::from_secs(1) {
            due = now;
        }
    }
}

fn request(manner: &Manner, slot: &mut Option<(Client, u32)>, key: Option<&str>) -> std::io::Result<u16> {
    let (mut client, used) = match slot.take() {
        Some((client, used)) if client.is_open() && used < manner.per_connection => (client, used),
        _ => (Client::connect(manner.target, manner.connect_within, manner.answer_within)?, 0),
    };
    let headers: &[(&str, &str)] = match key {
        Some(key) => &[("apikey", key)],
        None => &[],
    };
    let answer = client.send("GET", manner.path, headers, &[])?;
    *slot = Some((client, used + 1));
    Ok(answer.status)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_of_what_was_seen() {
        let mut seen = Seen { latencies_us: (1..=100).map(|ms| ms * 1000).collect(), ..Seen::default() };
        seen.statuses.insert(200, 99);
        seen.refused = 1;
        assert_eq!((seen.all(), seen.p99_ms(), seen.good_percent()), (100, 99.0, 99.0));
        assert_eq!((Seen::default().p99_ms(), Seen::default().good_percent()), (0.0, 0.0));
    }
}
