//! The targets of one upstream, and which of them a request goes to. Pure but for the members' counters; randomness and
//! time are arguments.

use std::sync::Arc;
use std::time::Duration;

use http::HeaderName;

use super::balance::Turns;
use super::health::{Checks, Sign, Witness};
use super::member::Member;
use super::ring::Ring;

/// Kong `algorithm`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Algorithm {
    RoundRobin,
    LeastConnections,
    ConsistentHashing,
    Latency,
}

/// Port of a target that names none (Kong).
pub const PORT: u16 = 8000;

/// What a request is hashed by (Kong `hash_on`, `hash_fallback`).
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum HashOn {
    Nothing,
    Consumer,
    Ip,
    Header(HeaderName),
    /// Name and path; a client without it gets one.
    Cookie(String, String),
    Path,
    QueryArgument(String),
    UriCapture(String),
}

/// How a target is probed (Kong `healthchecks.active`).
#[derive(Clone, Debug, PartialEq)]
pub struct Probing {
    /// What is asked.
    pub kind: ProbeKind,
    /// `timeout`.
    pub timeout: Duration,
    /// `concurrency`.
    pub concurrency: usize,
    /// `healthy.interval`; zero is never.
    pub healthy_every: Duration,
    /// `unhealthy.interval`; zero is never.
    pub unhealthy_every: Duration,
}

/// Kong `active.type`.
#[derive(Clone, Debug, PartialEq)]
pub enum ProbeKind {
    /// A connection is enough.
    Tcp,
    /// A GET of `path` with these further lines of the head.
    Http {
        /// `http_path`.
        path: String,
        /// `headers`, each `Name: value` and a line end.
        headers: String,
        /// With TLS: `https_sni` and `https_verify_certificate`.
        tls: Option<(Option<String>, bool)>,
    },
}

/// One target as it is balanced.
pub struct Place {
    /// `HOST:PORT`.
    pub target: String,
    /// Host name or address.
    pub host: String,
    /// Port.
    pub port: u16,
    /// `Host` that the target is asked with.
    pub host_header: String,
    /// Share of the requests.
    pub weight: u32,
    /// Its state.
    pub member: Arc<Member>,
}

/// An upstream with its targets.
pub struct Group {
    /// UUID.
    pub id: String,
    /// Name.
    pub name: String,
    /// How a target is chosen.
    pub algorithm: Algorithm,
    /// `hash_on` and `hash_fallback`.
    pub hash_on: [HashOn; 2],
    /// Limits by clients' requests.
    pub passive: Checks,
    /// Limits by probes.
    pub active: Checks,
    /// How targets are probed, if they are.
    pub probing: Option<Probing>,
    /// Percentage of available weight at or below which nobody is available (Kong `threshold`).
    pub threshold: f64,
    /// The targets, in the order of the services' lists.
    pub places: Vec<Place>,
    /// For hashing.
    pub ring: Ring,
}

/// What a choice depends on, beside the group.
pub struct Chance<'a> {
    /// The worker's turns, and the number under which this group's are kept.
    pub turns: (&'a Turns, usize),
    /// The request's hash.
    pub hash: Option<u32>,
    /// Targets that failed for this request.
    pub tried: &'a [usize],
    /// Random bits.
    pub random: u64,
    /// Monotonic time.
    pub now_ns: u64,
}

impl Group {
    /// Whether health is looked at.
    #[must_use]
    pub fn checked(&self) -> bool {
        self.passive.on() || self.active.on()
    }

    fn available(&self, at: usize) -> bool {
        let place = &self.places[at];
        place.weight > 0 && (!self.checked() || place.member.is_healthy())
    }

    /// Whether enough weight is available.
    #[must_use]
    pub fn is_up(&self) -> bool {
        let weight = |up: bool| -> u64 {
            let counted = (0..self.places.len()).filter(|at| !up || self.available(*at));
            counted.map(|at| u64::from(self.places[at].weight)).sum()
        };
        let available = weight(true);
        available > 0 && (self.threshold == 0.0 || available as f64 * 100.0 > self.threshold * weight(false) as f64)
    }

    /// The target that a request goes to; nothing when nobody is available.
    #[must_use]
    pub fn choose(&self, chance: &Chance<'_>) -> Option<usize> {
        if !self.is_up() {
            return None;
        }
        // A target that failed is met again only when there is no other.
        let fresh = |at: usize| self.available(at) && !chance.tried.contains(&at);
        let any_fresh = (0..self.places.len()).any(fresh);
        let open = |at: usize| if any_fresh { fresh(at) } else { self.available(at) };
        match (self.algorithm, chance.hash) {
            (Algorithm::ConsistentHashing, Some(hash)) => self.ring.walk(hash).find(|at| open(*at)),
            (Algorithm::LeastConnections, _) => self.least_busy(open),
            (Algorithm::Latency, _) => self.fastest_of_two(open, chance),
            _ => {
                let (turns, id) = chance.turns;
                let weights = self.places.iter().enumerate();
                turns.next(id, weights.map(|(at, place)| if open(at) { place.weight } else { 0 }))
            }
        }
    }

    /// The least of (requests + 1) ÷ weight.
    fn least_busy(&self, open: impl Fn(usize) -> bool) -> Option<usize> {
        let load = |at: &usize| {
            let place = &self.places[*at];
            (f64::from(place.member.riding()) + 1.0) / f64::from(place.weight.max(1))
        };
        (0..self.places.len()).filter(|at| open(*at)).min_by(|a, b| load(a).total_cmp(&load(b)))
    }

    /// The faster of two that chance picks.
    fn fastest_of_two(&self, open: impl Fn(usize) -> bool, chance: &Chance<'_>) -> Option<usize> {
        let candidates: Vec<usize> = (0..self.places.len()).filter(|at| open(*at)).collect();
        let count = candidates.len() as u64;
        let first = chance.random.checked_rem(count)?;
        let second = (first + 1 + (chance.random >> 32).checked_rem((count - 1).max(1))?) % count;
        let latency = |at: &usize| self.places[*at].member.latency_ns(chance.now_ns);
        let pair = [candidates[first as usize], candidates[second as usize]];
        pair.into_iter().min_by(|a, b| latency(a).total_cmp(&latency(b)))
    }

    /// Takes note of how a request to the target at `at` went.
    pub fn witness(&self, at: usize, sign: Sign) {
        let Some(place) = self.places.get(at).filter(|_| self.passive.on()) else { return };
        if place.member.note(&self.passive, sign, Witness::Request) {
            tracing::warn!(upstream = %self.name, target = %place.target, "target is unhealthy");
        }
    }

    /// The target at `at` as Kong's admin API names its state; one that gets no requests has none.
    #[must_use]
    pub fn health_of(&self, at: usize) -> &'static str {
        match self.places.get(at) {
            Some(place) if self.checked() && place.weight > 0 => word(place.member.is_healthy()),
            _ => "HEALTHCHECKS_OFF",
        }
    }

    /// The upstream as a whole, in the same words.
    #[must_use]
    pub fn health(&self) -> &'static str {
        if self.checked() { word(self.is_up()) } else { "HEALTHCHECKS_OFF" }
    }

    /// The place of a target by its name as it stands in the file.
    #[must_use]
    pub fn place_of(&self, target: &str) -> Option<usize> {
        let by_default = format!("{target}:{PORT}");
        self.places.iter().position(|place| place.target == target || place.target == by_default)
    }

    /// Each target with the states that it can have, and whether it has them (`kong_upstream_target_health`).
    pub fn states(&self) -> impl Iterator<Item = (&str, &'static str, bool)> {
        self.places.iter().enumerate().flat_map(|(at, place)| {
            let state = self.health_of(at);
            [("healthchecks_off", "HEALTHCHECKS_OFF"), ("healthy", "HEALTHY"), ("unhealthy", "UNHEALTHY")]
                .map(|(label, of)| (place.target.as_str(), label, of == state))
        })
    }
}

fn word(healthy: bool) -> &'static str {
    if healthy { "HEALTHY" } else { "UNHEALTHY" }
}

#[cfg(test)]
mod tests {
    use super::super::member::Ride;
    use super::*;

    fn group(algorithm: Algorithm, weights: &[u32]) -> Group {
        let place = |(i, weight): (usize, &u32)| Place {
            target: format!("t{i}:80"),
            host: format!("t{i}"),
            port: 80,
            host_header: format!("t{i}"),
            weight: *weight,
            member: Arc::default(),
        };
        let places: Vec<Place> = weights.iter().enumerate().map(place).collect();
        Group {
            id: "u".into(),
            name: "u".into(),
            algorithm,
            hash_on: [HashOn::Ip, HashOn::Nothing],
            passive: Checks { tcp_failures: 1, ..Checks::default() },
            active: Checks::default(),
            probing: None,
            threshold: 0.0,
            ring: Ring::new(places.iter().map(|place| (place.target.as_str(), place.weight))),
            places,
        }
    }

    fn choose(group: &Group, turns: &Turns, hash: u32, tried: &[usize], random: u64) -> Option<usize> {
        group.choose(&Chance { turns: (turns, 1), hash: Some(hash), tried, random, now_ns: 1 })
    }

    const ALL: [Algorithm; 4] =
        [Algorithm::RoundRobin, Algorithm::LeastConnections, Algorithm::ConsistentHashing, Algorithm::Latency];

    #[test]
    fn nobody_goes_to_a_target_that_is_out() {
        for algorithm in ALL {
            let (group, turns) = (group(algorithm, &[100, 100, 0]), Turns::default());
            group.witness(0, Sign::TcpFailure);
            for i in 0..100_u32 {
                let hash = i.wrapping_mul(0x9e37_79b9);
                let random = u64::from(hash) << 32 | u64::from(hash);
                assert_eq!(choose(&group, &turns, hash, &[], random), Some(1), "{algorithm:?}");
            }
            group.witness(1, Sign::TcpFailure);
            assert_eq!(choose(&group, &turns, 7, &[], 7), None);
            assert_eq!(
                (group.health(), group.health_of(1), group.health_of(2)),
                ("UNHEALTHY", "UNHEALTHY", "HEALTHCHECKS_OFF")
            );
        }
    }

    #[test]
    fn a_target_that_failed_is_met_again_only_when_there_is_no_other() {
        for algorithm in ALL {
            let (group, turns) = (group(algorithm, &[100, 100]), Turns::default());
            let first = choose(&group, &turns, 7, &[], 7).expect("a target");
            assert_eq!(choose(&group, &turns, 7, &[first], 7), Some(1 - first), "{algorithm:?}");
            assert!(choose(&group, &turns, 7, &[0, 1], 7).is_some());
        }
    }

    #[test]
    fn the_least_busy_and_the_fastest_are_preferred() {
        let busy = group(Algorithm::LeastConnections, &[100, 200]);
        let _rides = [Ride::begin(&busy.places[1].member), Ride::begin(&busy.places[1].member)];
        let turns = Turns::default();
        assert_eq!(choose(&busy, &turns, 0, &[], 0), Some(0));
        let _more = Ride::begin(&busy.places[0].member);
        assert_eq!(choose(&busy, &turns, 0, &[], 0), Some(1));
        let slow = group(Algorithm::Latency, &[1, 1]);
        slow.places[0].member.measure(1_000_000, 1);
        assert!((0..8).all(|random| choose(&slow, &turns, 0, &[], random) != Some(0)));
    }

    #[test]
    fn a_threshold_takes_the_whole_group_out() {
        let mut group = group(Algorithm::RoundRobin, &[50, 50]);
        group.threshold = 50.0;
        assert!(group.is_up());
        group.witness(0, Sign::TcpFailure);
        assert!(!group.is_up());
        group.threshold = 49.0;
        assert!(group.is_up());
        group.passive = Checks::default();
        assert_eq!(group.health_of(0), "HEALTHCHECKS_OFF");
    }
}
