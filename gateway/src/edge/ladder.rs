//! From what the workers saw to what is done about a source. Pure: time and chance are arguments, nothing is carried
//! out here. It must not know maps, sockets or the configuration's words.

use std::time::Duration;

use gateway_common::{
    Source,
    map::{Flow, rung},
};

use super::{
    neighbours::{Innocence, Neighbours},
    policy::LadderPolicy,
    report::{Cause, GoodTold, Identity, OffenceKind, OffenceTold},
    watch::Watch,
};

mod others;

pub(super) use others::{Said, Weighed};

/// A Retry-After beyond this is held to it: nothing here lasts longer than a day.
const RETRY_AFTER_MAX: Duration = Duration::from_secs(86_400);
/// The gate doubles at most so often.
const DOUBLINGS_MAX: u8 = 16;

/// Where a source stands.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default)]
pub(super) enum Rung {
    #[default]
    Observe,
    Limited,
    Degraded,
    /// Its connections are cut, one for each time that it had enough strikes.
    Cut,
    Gated,
    Dropped,
}

impl Rung {
    pub fn number(self) -> u32 {
        match self {
            Self::Observe => rung::OBSERVE,
            Self::Limited => rung::LIMITED,
            Self::Degraded => rung::DEGRADED,
            Self::Cut => rung::CUT,
            Self::Gated => rung::GATED,
            Self::Dropped => rung::DROPPED,
        }
    }

    pub fn name(self) -> &'static str {
        match self {
            Self::Observe => "observe",
            Self::Limited => "limited",
            Self::Degraded => "degraded",
            Self::Cut => "cut",
            Self::Gated => "gated",
            Self::Dropped => "dropped",
        }
    }
}

/// Why a source stays in L7 although its strikes say more.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Held {
    /// Its address must never be dropped: on the never-drop list, or a trusted proxy.
    Ineligible,
    /// Somebody else would suffer.
    Neighbours(Innocence),
    /// No more verdicts are held at once.
    Full,
}

impl Held {
    pub fn name(self) -> &'static str {
        match self {
            Self::Ineligible => "the address is on the never-drop or trusted list",
            Self::Neighbours(innocence) => innocence.name(),
            Self::Full => "the table of verdicts is full",
        }
    }
}

/// What is to be done about a source, and why.
#[derive(Clone, PartialEq, Debug)]
pub(super) struct Decision {
    pub id: u64,
    pub source: Source,
    /// The connection to cut, if any.
    pub flow: Option<Flow>,
    pub rung: Rung,
    /// Why it is not a higher one.
    pub held: Option<Held>,
    pub cause: Cause,
    pub kind: OffenceKind,
    /// Strikes or failures that made it.
    pub strikes: u32,
    /// Times the source was gated before, within the ladder's memory.
    pub repeats: u8,
    pub since_ns: u64,
    pub expires_ns: u64,
    /// The gateway that came to it, if it was another.
    pub origin: Option<Box<str>>,
}

/// Whether the kernel may be told about a source.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Eligibility {
    Eligible,
    Never,
    Full,
}

/// Events within a window that begins with the first one.
#[derive(Clone, Copy, Default)]
struct Tally {
    count: u32,
    since_ns: u64,
}

impl Tally {
    fn add(&mut self, now_ns: u64, window_ns: u64) -> u32 {
        if self.count == 0 || now_ns.saturating_sub(self.since_ns) > window_ns {
            *self = Self { count: 0, since_ns: now_ns };
        }
        self.count += 1;
        self.count
    }
}

#[derive(Default)]
struct Entry {
    rung: Rung,
    /// When the rung ends; for `Observe`, zero.
    until_ns: u64,
    /// Told to come again not before.
    retry_ns: u64,
    strikes: Tally,
    failures: Tally,
    failing: Option<Identity>,
    /// How often the gate closed, and until when that is remembered.
    repeats: u8,
    remembered_ns: u64,
    offender: Option<Identity>,
    latest: Option<(Cause, OffenceKind)>,
    neighbours: Neighbours,
}

/// What is known of a source, for `why`.
pub(super) struct Known {
    pub rung: Rung,
    pub until_ns: u64,
    pub strikes: u32,
    pub failures: u32,
    pub repeats: u8,
    pub identities: usize,
    pub clean_identities: usize,
    pub recent: usize,
    pub recent_good: usize,
}

pub(super) struct Ladder {
    policy: LadderPolicy,
    window_ns: u64,
    neighbour_ns: u64,
    watch: Watch<Entry>,
    next_id: u64,
    /// Sources that found no place.
    pub unwatched: u64,
    pub offences: u64,
    pub goods: u64,
}

impl Ladder {
    pub fn new(policy: LadderPolicy) -> Self {
        Self {
            window_ns: nanos(policy.degrade_window),
            neighbour_ns: nanos(policy.neighbour_window),
            watch: Watch::new(policy.sources_max),
            policy,
            next_id: 1,
            unwatched: 0,
            offences: 0,
            goods: 0,
        }
    }

    /// Takes new numbers and keeps what is known; the number of watched sources stays as it was.
    pub fn update(&mut self, policy: LadderPolicy) {
        self.window_ns = nanos(policy.degrade_window);
        self.neighbour_ns = nanos(policy.neighbour_window);
        self.policy = policy;
    }

    /// Decisions up to this number are another process's.
    pub fn number_after(&mut self, last: u64) {
        self.next_id = self.next_id.max(last.saturating_add(1));
    }

    pub fn watched(&self) -> usize {
        self.watch.len()
    }

    /// Good answers. A verdict from which they show an innocent to suffer is lifted.
    pub fn good(&mut self, now_ns: u64, told: &GoodTold) -> Option<Decision> {
        self.goods += u64::from(told.count);
        let (neighbour_ns, degrade_ns) = (self.neighbour_ns, nanos(self.policy.degrade_for));
        let Some(entry) = self.watch.touch(told.source, |entry| entry.is_pinned(now_ns)) else {
            self.unwatched += 1;
            return None;
        };
        entry.settle(now_ns);
        entry.neighbours.good(now_ns, neighbour_ns, told.identity, told.count);
        if entry.failing == Some(told.identity) {
            entry.failures = Tally::default();
        }
        if entry.rung < Rung::Gated {
            return None;
        }
        let innocence = entry.neighbours.innocence(now_ns, neighbour_ns, entry.offender?)?;
        let (cause, kind) = entry.latest.clone()?;
        entry.stand(Rung::Degraded, now_ns.saturating_add(degrade_ns));
        let held = Some(Held::Neighbours(innocence));
        let draft = Draft { source: told.source, flow: None, cause, kind, strikes: 0, held, now_ns };
        Some(draft.decide(&mut self.next_id, entry))
    }

    /// A refused request. `random` is any 32 bits.
    pub fn offence(
        &mut self,
        now_ns: u64,
        told: &OffenceTold,
        eligibility: Eligibility,
        random: u32,
    ) -> Option<Decision> {
        self.offences += 1;
        let Some(entry) = self.watch.touch(told.source, |entry| entry.is_pinned(now_ns)) else {
            self.unwatched += 1;
            return None;
        };
        entry.settle(now_ns);
        entry.neighbours.bad(now_ns, self.neighbour_ns, told.identity);
        let strikes = entry.strike(now_ns, self.window_ns, told);
        let enough = match told.kind {
            _ if entry.rung == Rung::Gated => self.policy.drop_after,
            OffenceKind::RateLimited { .. } => self.policy.degrade_after,
            _ => self.policy.failures_run,
        };
        if strikes == 0 || strikes < enough || entry.rung == Rung::Dropped {
            return None;
        }
        (entry.strikes, entry.failures) = (Tally::default(), Tally::default());
        let held = entry.climb(now_ns, &self.policy, self.neighbour_ns, told, eligibility, random)?;
        entry.offender = Some(told.identity);
        entry.latest = Some((told.cause.clone(), told.kind));
        let flow = told.flow.filter(|_| entry.rung == Rung::Cut);
        let (cause, kind) = (told.cause.clone(), told.kind);
        let draft = Draft { source: told.source, flow, cause, kind, strikes, held, now_ns };
        Some(draft.decide(&mut self.next_id, entry))
    }

    /// Sources at which one of these identities was seen.
    pub fn sources_of(&self, identities: &[Identity]) -> Vec<Source> {
        let is_there = |entry: &Entry| {
            identities.iter().any(|identity| entry.offender == Some(*identity) || entry.neighbours.has_seen(*identity))
        };
        self.watch.iter().filter(|(_, entry)| is_there(entry)).map(|(source, _)| source).collect()
    }

    pub fn known(&self, source: Source, now_ns: u64) -> Option<Known> {
        let entry = self.watch.peek(source)?;
        let (identities, clean_identities) = entry.neighbours.count(now_ns, self.neighbour_ns);
        let (recent, recent_good) = entry.neighbours.recent();
        let live = |tally: Tally| match now_ns.saturating_sub(tally.since_ns) > self.window_ns {
            true => 0,
            false => tally.count,
        };
        let (rung, until_ns) = entry.standing(now_ns);
        Some(Known {
            rung,
            until_ns,
            strikes: live(entry.strikes),
            failures: live(entry.failures),
            repeats: if now_ns < entry.remembered_ns { entry.repeats } else { 0 },
            identities,
            clean_identities,
            recent,
            recent_good,
        })
    }
}

struct Draft {
    source: Source,
    flow: Option<Flow>,
    cause: Cause,
    kind: OffenceKind,
    strikes: u32,
    held: Option<Held>,
    now_ns: u64,
}

impl Draft {
    fn decide(self, next_id: &mut u64, entry: &Entry) -> Decision {
        let id = *next_id;
        *next_id += 1;
        Decision {
            id,
            source: self.source,
            flow: self.flow,
            rung: entry.rung,
            held: self.held,
            cause: self.cause,
            kind: self.kind,
            strikes: self.strikes,
            repeats: entry.repeats,
            since_ns: self.now_ns,
            expires_ns: entry.until_ns,
            origin: None,
        }
    }
}

impl Entry {
    fn is_pinned(&self, now_ns: u64) -> bool {
        self.rung >= Rung::Degraded && now_ns < self.until_ns
    }

    /// What has run out is forgotten.
    fn settle(&mut self, now_ns: u64) {
        if self.rung >= Rung::Degraded && now_ns >= self.until_ns {
            self.stand(Rung::Observe, 0);
        }
        if now_ns >= self.remembered_ns {
            self.repeats = 0;
        }
    }

    fn stand(&mut self, rung: Rung, until_ns: u64) {
        (self.rung, self.until_ns) = (rung, until_ns);
        (self.strikes, self.failures) = (Tally::default(), Tally::default());
    }

    fn standing(&self, now_ns: u64) -> (Rung, u64) {
        if self.is_pinned(now_ns) {
            (self.rung, self.until_ns)
        } else if now_ns < self.retry_ns {
            (Rung::Limited, self.retry_ns)
        } else {
            (Rung::Observe, 0)
        }
    }

    /// Counts the offence; how many there are now of its sort, zero if it is none.
    fn strike(&mut self, now_ns: u64, window_ns: u64, told: &OffenceTold) -> u32 {
        if let OffenceKind::RateLimited { retry_after } = told.kind {
            // The first 429 is the rule being told, not broken: only what comes before its Retry-After is a strike.
            let told_before = now_ns < self.retry_ns;
            let retry_ns = now_ns.saturating_add(nanos(retry_after.min(RETRY_AFTER_MAX)));
            self.retry_ns = self.retry_ns.max(retry_ns);
            return if told_before { self.strikes.add(now_ns, window_ns) } else { 0 };
        }
        if self.failing != Some(told.identity) {
            self.failing = Some(told.identity);
            self.failures = Tally::default();
        }
        self.failures.add(now_ns, window_ns)
    }

    /// One rung up, or as far as it may go: with what holds it back. None if nothing changes.
    fn climb(
        &mut self,
        now_ns: u64,
        policy: &LadderPolicy,
        neighbour_ns: u64,
        told: &OffenceTold,
        eligibility: Eligibility,
        random: u32,
    ) -> Option<Option<Held>> {
        let degraded_ns = now_ns.saturating_add(nanos(policy.degrade_for));
        if self.rung < Rung::Degraded {
            self.stand(Rung::Degraded, degraded_ns);
            return Some(None);
        }
        let held = match eligibility {
            Eligibility::Never => Some(Held::Ineligible),
            Eligibility::Full if self.rung < Rung::Gated => Some(Held::Full),
            _ => self.neighbours.innocence(now_ns, neighbour_ns, told.identity).map(Held::Neighbours),
        };
        let may_be_cut = told.flow.is_some() && held != Some(Held::Ineligible);
        if may_be_cut && (self.rung == Rung::Degraded || self.rung == Rung::Cut && held.is_some()) {
            // One connection is the offender's alone: no neighbour suffers, so none speaks against it.
            let is_repeated = self.rung == Rung::Cut;
            self.stand(Rung::Cut, degraded_ns);
            return Some(held.filter(|_| is_repeated));
        }
        if held.is_some() {
            // Prolonged when half is over: an abuser that goes on must not write a record for every few requests.
            let half_ns = nanos(policy.degrade_for) / 2;
            if self.rung < Rung::Gated && self.until_ns.saturating_sub(now_ns) > half_ns {
                return None;
            }
            self.stand(Rung::Degraded, degraded_ns);
            return Some(held);
        }
        let rung = if self.rung < Rung::Gated { Rung::Gated } else { Rung::Dropped };
        let until_ns = now_ns.saturating_add(gate_ns(policy, self.repeats, random));
        self.stand(rung, until_ns);
        self.repeats = (self.repeats + 1).min(DOUBLINGS_MAX);
        self.remembered_ns = until_ns.saturating_add(nanos(policy.memory));
        Some(None)
    }
}

/// `gate_for` × 2ⁿ ± 25%, at most `gate_max`.
fn gate_ns(policy: &LadderPolicy, repeats: u8, random: u32) -> u64 {
    let longest = nanos(policy.gate_max);
    let doubled = nanos(policy.gate_for).saturating_mul(1 << repeats.min(DOUBLINGS_MAX)).min(longest);
    // 768…1,280 of 1,024 parts.
    let parts = 768 + u64::from(random % 513);
    (doubled / 1_024).saturating_mul(parts).min(longest)
}

fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX / 4)
}

#[cfg(test)]
mod tests;
