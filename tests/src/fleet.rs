//! Several gateways on one Redis under a load that is spread unevenly: what they granted in each second, and what they
//! asked Redis. The black-box tests and the measurement share it.

use std::collections::BTreeMap;
use std::thread;
use std::time::{Duration, Instant};

use crate::client::{Client, Request};
use crate::deadline::unix_seconds;
use crate::gateway::Gateway;
use crate::redis::Redis;

/// What one gateway is asked, requests a second: the first far more than the others.
pub const SKEW: [u32; 4] = [1120, 240, 160, 80];

/// Gateways that answer for themselves, with `limits` as their rate-limiting beside the place of Redis.
#[track_caller]
pub fn gateways(redis: &Redis, limits: &str, count: usize) -> Vec<Gateway> {
    let text = config(redis, limits);
    (0..count).map(|_| Gateway::start(&text)).collect()
}

/// The configuration of one of them.
pub fn config(redis: &Redis, limits: &str) -> String {
    format!(
        "_format_version: \"3.0\"\nroutes:\n- name: all\n  id: 00000000-0000-4000-8000-00000000000a\n  paths: [/]\n  plugins:\n  \
         - {{ name: rate-limiting, config: {{ limit_by: path, path: /x, policy: redis, \
         redis: {{ host: 127.0.0.1, port: {}, timeout: 500 }}, {limits} }} }}\n  \
         - {{ name: request-termination, config: {{ status_code: 200, message: ok }} }}\n\
         gateway:\n  access_log: off\n  workers: 2\n",
        redis.port()
    )
}

/// What was granted, refused and lost.
#[derive(Clone, Debug, Default)]
pub struct Tally {
    /// 200 by the second since 1970 in which they were asked for.
    pub granted: BTreeMap<u64, u64>,
    /// 429.
    pub refused: u64,
    /// Anything else.
    pub other: u64,
    /// Slowest answer.
    pub slowest: Duration,
}

impl Tally {
    fn add(&mut self, other: &Tally) {
        for (second, count) in &other.granted {
            *self.granted.entry(*second).or_default() += count;
        }
        self.refused += other.refused;
        self.other += other.other;
        self.slowest = self.slowest.max(other.slowest);
    }

    /// Granted from one second to before another.
    pub fn granted_in(&self, seconds: std::ops::Range<u64>) -> u64 {
        self.granted.range(seconds).map(|(_, count)| count).sum()
    }

    /// Granted in all.
    pub fn all(&self) -> u64 {
        self.granted.values().sum()
    }
}

/// Asks each gateway at its rate for `seconds`; one tally a gateway. `meanwhile` runs beside it.
pub fn load(gateways: &[Gateway], rates: &[u32], seconds: u64, meanwhile: impl FnOnce() + Send) -> Vec<Tally> {
    let end = Instant::now() + Duration::from_secs(seconds);
    thread::scope(|scope| {
        let senders: Vec<Vec<_>> = gateways
            .iter()
            .zip(rates)
            .map(|(gateway, rate)| {
                // A thread waits for each answer: a few of them, so that a slow one does not lower the rate.
                let threads = (rate / 200).clamp(1, 8);
                (0..threads).map(|_| scope.spawn(move || send(gateway, rate / threads, end))).collect()
            })
            .collect();
        meanwhile();
        let sum = |threads: Vec<thread::ScopedJoinHandle<'_, Tally>>| {
            let mut sum = Tally::default();
            threads.into_iter().for_each(|thread| sum.add(&thread.join().expect("a sender does not panic")));
            sum
        };
        senders.into_iter().map(sum).collect()
    })
}

fn send(gateway: &Gateway, rate: u32, end: Instant) -> Tally {
    let mut tally = Tally::default();
    let mut client = Client::connect(gateway.proxy());
    let request = Request::get("/x");
    let interval = Duration::from_secs(1) / rate.max(1);
    let mut due = Instant::now();
    while due < end {
        thread::sleep(due.saturating_duration_since(Instant::now()));
        let (second, asked) = (unix_seconds(), Instant::now());
        match client.try_send(&request).map(|reply| reply.status) {
            Ok(200) => *tally.granted.entry(second).or_default() += 1,
            Ok(429) => tally.refused += 1,
            Ok(_) => tally.other += 1,
            Err(_) => {
                tally.other += 1;
                client = Client::connect(gateway.proxy());
            }
        }
        tally.slowest = tally.slowest.max(asked.elapsed());
        due = (due + interval).max(Instant::now().checked_sub(Duration::from_millis(500)).unwrap_or(due));
    }
    tally
}

/// Calls to Redis that a gateway has made for its limits.
#[track_caller]
pub fn calls(gateway: &Gateway) -> u64 {
    let text = gateway.admin_get("/metrics").expect(200).text();
    let lines = text.lines().filter(|line| line.starts_with("gateway_limit_store_calls_total{"));
    lines.filter_map(|line| line.rsplit(' ').next()?.parse::<u64>().ok()).sum()
}
