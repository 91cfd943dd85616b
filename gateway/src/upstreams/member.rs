//! What is known of a target from one request to the next, by all workers and over reloads: its health, the requests that
//! ride on it, how fast it answers. Lock-free; time is an argument.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use super::health::{Checks, Health, Sign, Witness};

/// After this time without an answer the measured latency counts for a third (Kong's decay), nanoseconds.
const DECAY_NS: f64 = 10e9;

/// The state of one target of one upstream.
#[derive(Default)]
pub struct Member {
    health: AtomicU64,
    riding: AtomicU32,
    /// Moving average of latencies, nanoseconds.
    latency_ns: AtomicU64,
    measured_ns: AtomicU64,
}

impl Member {
    /// Whether it is in use.
    #[must_use]
    pub fn is_healthy(&self) -> bool {
        !Health::unpacked(self.health.load(Ordering::Relaxed)).unhealthy
    }

    /// Takes note of a sign; true when it turned the target one way or the other.
    pub fn note(&self, checks: &Checks, sign: Sign, witness: Witness) -> bool {
        let mut turned = false;
        let _ = self.health.fetch_update(Ordering::AcqRel, Ordering::Relaxed, |word| {
            let before = Health::unpacked(word);
            let after = before.after(checks, sign, witness);
            turned = before.unhealthy != after.unhealthy;
            (before != after).then_some(after.packed())
        });
        turned
    }

    /// Puts the target in or out of use, whatever was seen (Kong's admin API).
    pub fn set_healthy(&self, healthy: bool) {
        let health = if healthy { Health::default() } else { Health::out() };
        self.health.store(health.packed(), Ordering::Release);
    }

    /// Requests that ride on it.
    #[must_use]
    pub fn riding(&self) -> u32 {
        self.riding.load(Ordering::Relaxed)
    }

    /// Takes an answer's latency into the average.
    pub fn measure(&self, latency_ns: u64, now_ns: u64) {
        let kept = decay(now_ns.saturating_sub(self.measured_ns.swap(now_ns, Ordering::Relaxed)));
        let before = self.latency_ns.load(Ordering::Relaxed) as f64;
        // The first measure is the average.
        let kept = if before == 0.0 { 0.0 } else { kept };
        // Two workers at once lose one measure, which an average does not feel.
        self.latency_ns.store((before * kept + latency_ns as f64 * (1.0 - kept)) as u64, Ordering::Relaxed);
    }

    /// The average latency, forgotten with time, nanoseconds.
    #[must_use]
    pub fn latency_ns(&self, now_ns: u64) -> f64 {
        let age_ns = now_ns.saturating_sub(self.measured_ns.load(Ordering::Relaxed));
        self.latency_ns.load(Ordering::Relaxed) as f64 * decay(age_ns)
    }
}

fn decay(age_ns: u64) -> f64 {
    (-(age_ns as f64) / DECAY_NS).exp()
}

/// A request that rides on a target until this is dropped.
pub struct Ride(Arc<Member>);

impl Ride {
    /// Begins a ride.
    #[must_use]
    pub fn begin(member: &Arc<Member>) -> Self {
        member.riding.fetch_add(1, Ordering::Relaxed);
        Ride(Arc::clone(member))
    }
}

impl Drop for Ride {
    fn drop(&mut self) {
        self.0.riding.fetch_sub(1, Ordering::Relaxed);
    }
}

/// All members of the process, by upstream and target. They outlive a reload.
#[derive(Default)]
pub struct Members(papaya::HashMap<String, Arc<Member>>);

impl Members {
    /// The state of `target` in `upstream`, made on first use.
    pub fn of(&self, upstream: &str, target: &str) -> Arc<Member> {
        let members = self.0.pin();
        let key = format!("{upstream} {target}");
        if let Some(member) = members.get(&key) {
            return Arc::clone(member);
        }
        Arc::clone(members.get_or_insert_with(key, Arc::default))
    }

    /// Forgets targets that no configuration names any more.
    pub fn sweep(&self) {
        self.0.pin().retain(|_, member| Arc::strong_count(member) > 1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_member_is_found_again_and_forgotten_when_unused() {
        let members = Members::default();
        let one = members.of("u", "a:1");
        one.set_healthy(false);
        assert!(!members.of("u", "a:1").is_healthy());
        assert!(members.of("v", "a:1").is_healthy());
        drop(one);
        members.sweep();
        assert!(members.of("u", "a:1").is_healthy());
    }

    #[test]
    fn rides_are_counted() {
        let member = Arc::new(Member::default());
        let rides = [Ride::begin(&member), Ride::begin(&member)];
        assert_eq!(member.riding(), 2);
        drop(rides);
        assert_eq!(member.riding(), 0);
    }

    #[test]
    fn latencies_are_forgotten() {
        let (member, now_ns) = (Member::default(), 100_000_000_000);
        member.measure(1_000, now_ns);
        assert!((member.latency_ns(now_ns) - 1_000.0).abs() < 1.0);
        assert!(member.latency_ns(now_ns + 60_000_000_000) < 10.0);
        member.measure(9_000, now_ns + 1_000_000_000);
        let mixed = member.latency_ns(now_ns + 1_000_000_000);
        assert!((1_500.0..2_000.0).contains(&mixed), "{mixed}");
    }
}
