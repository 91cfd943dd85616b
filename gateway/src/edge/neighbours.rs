//! Who else lives behind a source: the evidence that keeps an address shared by many from being banned for one of them.
//! Pure; time is an argument.

use super::report::Identity;

/// Identities remembered for a source.
const IDENTITIES_MAX: usize = 8;
/// Requests of a source whose outcome is remembered.
const RECENT_MAX: usize = 100;
/// A slot number that stands for an identity no longer remembered.
const FORGOTTEN: u8 = 0x7f;
const GOOD: u8 = 0x80;

/// Good answers that make an authenticated neighbour, and an anonymous one.
const CREDENTIAL_GOOD_MIN: u32 = 3;
const USER_AGENT_GOOD_MIN: u32 = 5;
/// Authenticated neighbours that are enough with one good answer each: behind an address of hundreds nobody is remembered
/// for long.
const CREDENTIALS_MIN: usize = 3;
/// Anonymous neighbours needed: a User-Agent is cheap to invent.
const USER_AGENTS_MIN: usize = 3;
/// Of an identity's requests, the part in percent that may be offences, if it is to be called clean; and of a source's
/// recent requests, the part that must be good ones by others.
const SHARE_PERCENT: u32 = 20;

/// Why a source must not be cut off.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Innocence {
    /// Another authenticated identity is clean.
    Credential,
    /// Several authenticated identities had nothing but good answers.
    Credentials,
    /// Several anonymous identities are clean.
    UserAgents,
    /// Much of what comes from there is good, and not the offender's.
    Share,
}

impl Innocence {
    pub fn name(self) -> &'static str {
        match self {
            Self::Credential => "an authenticated neighbour is clean",
            Self::Credentials => "several authenticated neighbours had good answers only",
            Self::UserAgents => "several clients behind the address are clean",
            Self::Share => "much of the address's traffic is good",
        }
    }
}

#[derive(Clone, Copy)]
struct Seen {
    identity: Identity,
    good: u32,
    bad: u32,
    since_ns: u64,
    last_ns: u64,
}

impl Seen {
    fn is_clean(&self, now_ns: u64, window_ns: u64) -> bool {
        let good_min = match self.identity {
            Identity::Credential(_) => CREDENTIAL_GOOD_MIN,
            Identity::UserAgent(_) => USER_AGENT_GOOD_MIN,
            Identity::None => return false,
        };
        let recent = now_ns.saturating_sub(self.last_ns) <= window_ns;
        recent && self.good >= good_min && self.bad * 100 <= SHARE_PERCENT * (self.good + self.bad)
    }

    /// A credential that has had good answers lately, and no others.
    fn is_spotless(&self, now_ns: u64, window_ns: u64) -> bool {
        let recent = now_ns.saturating_sub(self.last_ns) <= window_ns;
        self.is_credential() && recent && self.good > 0 && self.bad == 0
    }

    fn is_credential(&self) -> bool {
        matches!(self.identity, Identity::Credential(_))
    }

    /// What is older than a window counts half, and soon nothing.
    fn age(&mut self, now_ns: u64, window_ns: u64) {
        if now_ns.saturating_sub(self.last_ns) > window_ns {
            (self.good, self.bad, self.since_ns) = (0, 0, now_ns);
        } else if now_ns.saturating_sub(self.since_ns) > window_ns {
            (self.good, self.bad, self.since_ns) = (self.good / 2, self.bad / 2, now_ns);
        }
    }
}

/// One source's company.
pub(super) struct Neighbours {
    seen: [Option<Seen>; IDENTITIES_MAX],
    recent: [u8; RECENT_MAX],
    recent_len: u8,
    recent_next: u8,
}

impl Default for Neighbours {
    fn default() -> Self {
        Self { seen: [None; IDENTITIES_MAX], recent: [0; RECENT_MAX], recent_len: 0, recent_next: 0 }
    }
}

impl Neighbours {
    pub fn has_seen(&self, identity: Identity) -> bool {
        self.seen.iter().flatten().any(|seen| seen.identity == identity)
    }

    pub fn good(&mut self, now_ns: u64, window_ns: u64, identity: Identity, count: u32) {
        let slot = self.slot(now_ns, window_ns, identity);
        if let Some(seen) = &mut self.seen[slot] {
            // Far below overflow in `is_clean`'s multiplication.
            seen.good = seen.good.saturating_add(count).min(1 << 20);
            // `last_ns` is when a clean answer was last seen: an offence does not keep innocence alive.
            seen.last_ns = now_ns;
        }
        for _ in 0..count.min(RECENT_MAX as u32) {
            self.remember(slot as u8 | GOOD);
        }
    }

    pub fn bad(&mut self, now_ns: u64, window_ns: u64, identity: Identity) {
        let slot = self.slot(now_ns, window_ns, identity);
        if let Some(seen) = &mut self.seen[slot] {
            seen.bad = (seen.bad + 1).min(1 << 20);
        }
        self.remember(slot as u8);
    }

    /// Whether somebody other than `offender` would suffer.
    pub fn innocence(&self, now_ns: u64, window_ns: u64, offender: Identity) -> Option<Innocence> {
        let clean = |seen: &&Seen| seen.identity != offender && seen.is_clean(now_ns, window_ns);
        let mut agents = 0;
        for seen in self.seen.iter().flatten().filter(clean) {
            if seen.is_credential() {
                return Some(Innocence::Credential);
            }
            agents += 1;
        }
        let spotless = |seen: &&Seen| seen.identity != offender && seen.is_spotless(now_ns, window_ns);
        if self.seen.iter().flatten().filter(spotless).count() >= CREDENTIALS_MIN {
            return Some(Innocence::Credentials);
        }
        if agents >= USER_AGENTS_MIN {
            return Some(Innocence::UserAgents);
        }
        (self.good_by_others(offender) * 100 > SHARE_PERCENT * u32::from(self.recent_len)).then_some(Innocence::Share)
    }

    /// Identities remembered, and of those the clean ones.
    pub fn count(&self, now_ns: u64, window_ns: u64) -> (usize, usize) {
        let seen = self.seen.iter().flatten();
        (seen.clone().count(), seen.filter(|seen| seen.is_clean(now_ns, window_ns)).count())
    }

    /// Of the recent requests: all, and the good ones.
    pub fn recent(&self) -> (usize, usize) {
        let recent = &self.recent[..usize::from(self.recent_len)];
        (recent.len(), recent.iter().filter(|one| *one & GOOD != 0).count())
    }

    fn good_by_others(&self, offender: Identity) -> u32 {
        let own = self.find(offender).map_or(FORGOTTEN + 1, |slot| slot as u8 | GOOD);
        let recent = &self.recent[..usize::from(self.recent_len)];
        recent.iter().filter(|one| **one & GOOD != 0 && **one != own).count() as u32
    }

    fn find(&self, identity: Identity) -> Option<usize> {
        self.seen.iter().position(|seen| seen.is_some_and(|seen| seen.identity == identity))
    }

    fn slot(&mut self, now_ns: u64, window_ns: u64, identity: Identity) -> usize {
        if let Some(slot) = self.find(identity) {
            if let Some(seen) = &mut self.seen[slot] {
                seen.age(now_ns, window_ns);
            }
            return slot;
        }
        let slot = self.least_worth(now_ns, window_ns);
        for one in &mut self.recent {
            if *one & !GOOD == slot as u8 {
                *one = *one & GOOD | FORGOTTEN;
            }
        }
        self.seen[slot] = Some(Seen { identity, good: 0, bad: 0, since_ns: now_ns, last_ns: now_ns });
        slot
    }

    /// An offender that changes its name with every request must not push its neighbours' evidence out: the unclean
    /// and the anonymous go first.
    fn least_worth(&self, now_ns: u64, window_ns: u64) -> usize {
        let worth = |slot: &usize| match &self.seen[*slot] {
            None => (false, false, 0),
            Some(seen) => (seen.is_clean(now_ns, window_ns), seen.is_credential(), seen.last_ns.saturating_add(1)),
        };
        (0..IDENTITIES_MAX).min_by_key(worth).unwrap_or(0)
    }

    fn remember(&mut self, one: u8) {
        self.recent[usize::from(self.recent_next)] = one;
        self.recent_next = (self.recent_next + 1) % RECENT_MAX as u8;
        self.recent_len = (self.recent_len + 1).min(RECENT_MAX as u8);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WINDOW: u64 = 300_000_000_000;
    const BAD: Identity = Identity::Credential(1);
    const OTHER: Identity = Identity::Credential(2);

    fn offending(times: u32) -> Neighbours {
        let mut neighbours = Neighbours::default();
        for _ in 0..times {
            neighbours.bad(0, WINDOW, BAD);
        }
        neighbours
    }

    #[test]
    fn one_clean_credential_protects_for_five_minutes() {
        let mut neighbours = offending(100);
        neighbours.good(10, WINDOW, OTHER, 2);
        assert_eq!(neighbours.innocence(10, WINDOW, BAD), None);
        neighbours.good(10, WINDOW, OTHER, 1);
        assert_eq!(neighbours.innocence(10, WINDOW, BAD), Some(Innocence::Credential));
        assert_eq!(neighbours.innocence(10, WINDOW, OTHER), None, "nobody vouches for himself");
        assert_eq!(neighbours.innocence(11 + WINDOW, WINDOW, BAD), None);
    }

    #[test]
    fn a_neighbour_who_offends_too_is_not_clean() {
        let mut neighbours = offending(100);
        neighbours.good(0, WINDOW, OTHER, 8);
        neighbours.bad(0, WINDOW, OTHER);
        neighbours.bad(0, WINDOW, OTHER);
        assert_eq!(neighbours.innocence(0, WINDOW, BAD), Some(Innocence::Credential));
        neighbours.bad(0, WINDOW, OTHER);
        assert_eq!(neighbours.innocence(0, WINDOW, BAD), None);
    }

    #[test]
    fn it_takes_three_user_agents() {
        let mut neighbours = offending(100);
        for agent in 0..3 {
            assert_eq!(neighbours.innocence(0, WINDOW, BAD), None);
            neighbours.good(0, WINDOW, Identity::UserAgent(agent), 5);
        }
        assert_eq!(neighbours.innocence(0, WINDOW, BAD), Some(Innocence::UserAgents));
    }

    #[test]
    fn a_fifth_of_good_traffic_protects() {
        let mut neighbours = Neighbours::default();
        neighbours.good(0, WINDOW, Identity::None, 20);
        for _ in 0..80 {
            neighbours.bad(0, WINDOW, BAD);
        }
        assert_eq!(neighbours.innocence(0, WINDOW, BAD), None);
        neighbours.good(0, WINDOW, Identity::None, 21);
        assert_eq!(neighbours.innocence(0, WINDOW, BAD), Some(Innocence::Share));
    }

    #[test]
    fn a_thousand_invented_names_do_not_push_a_clean_credential_out() {
        let mut neighbours = Neighbours::default();
        neighbours.good(0, WINDOW, OTHER, 3);
        for name in 0..1_000 {
            neighbours.bad(1, WINDOW, Identity::UserAgent(name));
            neighbours.bad(1, WINDOW, Identity::Credential(1_000 + name));
        }
        assert_eq!(neighbours.innocence(2, WINDOW, Identity::UserAgent(5)), Some(Innocence::Credential));
    }

    #[test]
    fn a_crowd_of_which_each_came_once_is_innocent() {
        let mut neighbours = offending(20);
        for n in 0..49 {
            neighbours.good(0, WINDOW, Identity::Credential(100 + n), 1);
        }
        for _ in 0..RECENT_MAX {
            neighbours.bad(0, WINDOW, BAD);
        }
        assert_eq!(neighbours.innocence(0, WINDOW, BAD), Some(Innocence::Credentials));
        assert_eq!(neighbours.innocence(2 * WINDOW, WINDOW, BAD), None, "long ago");
    }
}
