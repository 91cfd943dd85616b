//! Steady clients of the gateway: requests in a loop until they are stopped, every second client with a connection a request.
//! What went wrong is told with the times of what went well.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use crate::client::{Client, Request};

/// Clients in a loop.
pub struct Load {
    stop: Arc<AtomicBool>,
    threads: Vec<thread::JoinHandle<Went>>,
    /// Requests served so far.
    pub served: Arc<AtomicU64>,
}

/// What came of it.
#[derive(Debug, Default)]
pub struct Went {
    pub served: u64,
    /// Answers other than 200, and errors.
    pub wrong: Vec<String>,
    /// Of each answer, with the time at which it was complete.
    pub took: Vec<(Instant, Duration)>,
}

impl Went {
    /// The longest answer.
    pub fn slowest(&self) -> Duration {
        self.took.iter().map(|(_, took)| *took).max().unwrap_or_default()
    }

    /// The 99th percentile of the answers that were complete between two times, milliseconds.
    pub fn p99_ms(&self, from: Instant, to: Instant) -> f64 {
        let within = self.took.iter().filter(|(at, _)| (from..to).contains(at));
        let mut times: Vec<f64> = within.map(|(_, took)| took.as_secs_f64() * 1e3).collect();
        times.sort_by(f64::total_cmp);
        crate::bar::percentile(&times, 99)
    }

    fn add(&mut self, other: Self) {
        self.served += other.served;
        self.wrong.extend(other.wrong);
        self.took.extend(other.took);
    }
}

impl Load {
    /// As many requests as there is time for.
    pub fn start(to: SocketAddr, path: &'static str, clients: usize) -> Self {
        Self::paced(to, path, clients, Duration::ZERO)
    }

    /// With a pause after each request.
    pub fn paced(to: SocketAddr, path: &'static str, clients: usize, pause: Duration) -> Self {
        let (stop, served) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let threads = (0..clients).map(|at| {
            let (stop, served) = (Arc::clone(&stop), Arc::clone(&served));
            thread::spawn(move || drive(to, path, (at % 2 == 0, pause), &stop, &served))
        });
        Self { threads: threads.collect(), stop, served }
    }

    /// Stops the clients.
    pub fn finish(self) -> Went {
        self.stop.store(true, Ordering::SeqCst);
        let mut all = Went::default();
        for thread in self.threads {
            all.add(thread.join().expect("a client does not panic"));
        }
        all
    }
}

fn drive(to: SocketAddr, path: &str, (keep, pause): (bool, Duration), stop: &AtomicBool, total: &AtomicU64) -> Went {
    let (mut client, mut went) = (None, Went::default());
    while !stop.load(Ordering::SeqCst) {
        let begun = Instant::now();
        let asked = match client.take().filter(|_| keep) {
            Some(client) => Ok(client),
            None => Client::try_connect_from(to, Ipv4Addr::LOCALHOST),
        };
        let asked = asked.and_then(|mut client| client.try_send(&Request::get(path)).map(|reply| (reply, client)));
        match asked {
            Ok((reply, kept)) if reply.status == 200 => {
                went.served += 1;
                total.fetch_add(1, Ordering::SeqCst);
                went.took.push((Instant::now(), begun.elapsed()));
                client = Some(kept);
            }
            Ok((reply, _)) => went.wrong.push(reply.start),
            Err(error) => went.wrong.push(error.to_string()),
        }
        if !pause.is_zero() {
            thread::sleep(pause);
        }
    }
    went
}
