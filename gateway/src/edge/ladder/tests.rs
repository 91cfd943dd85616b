//! The ladder's promises, one a test: who climbs, who never does, and for how long.

use super::*;

const SECOND: u64 = 1_000_000_000;
const A: Identity = Identity::Credential(1);
const B: Identity = Identity::Credential(2);
/// The middle of the jitter.
const NO_JITTER: u32 = 256;

fn source(n: u32) -> Source {
    Source::new(std::net::Ipv4Addr::from(0xc000_0200 + n).into(), 64)
}

fn cause() -> Cause {
    Cause { plugin: "rate-limiting".into(), route: "r".into(), request_id: "q".into() }
}

struct Rig {
    ladder: Ladder,
    now: u64,
    eligibility: Eligibility,
    flow: Option<Flow>,
}

impl Rig {
    fn new() -> Self {
        let ladder = Ladder::new(LadderPolicy::default());
        Self { ladder, now: 1_000 * SECOND, eligibility: Eligibility::Eligible, flow: None }
    }

    fn told(&self, n: u32, identity: Identity, kind: OffenceKind) -> OffenceTold {
        OffenceTold { at_ns: self.now, source: source(n), flow: self.flow, identity, kind, cause: cause() }
    }

    fn limited(&mut self, n: u32, identity: Identity, times: u32) -> Vec<Decision> {
        let kind = OffenceKind::RateLimited { retry_after: Duration::from_secs(60) };
        self.offend(n, identity, kind, times)
    }

    /// So many offences, a millisecond apart.
    fn offend(&mut self, n: u32, identity: Identity, kind: OffenceKind, times: u32) -> Vec<Decision> {
        let mut decisions = Vec::new();
        for _ in 0..times {
            self.now += SECOND / 1_000;
            let told = self.told(n, identity, kind);
            decisions.extend(self.ladder.offence(self.now, &told, self.eligibility, NO_JITTER));
        }
        decisions
    }

    fn good(&mut self, n: u32, identity: Identity, count: u32) -> Option<Decision> {
        let told = GoodTold { at_ns: self.now, source: source(n), identity, quota: 0, count };
        self.ladder.good(self.now, &told)
    }

    fn rung(&self, n: u32) -> Rung {
        self.ladder.known(source(n), self.now).map_or(Rung::Observe, |known| known.rung)
    }
}

fn seconds(decision: &Decision) -> u64 {
    (decision.expires_ns - decision.since_ns) / SECOND
}

#[test]
fn the_first_429_is_no_strike_and_twenty_more_degrade() {
    let mut rig = Rig::new();
    assert_eq!(rig.limited(1, A, 20), []);
    assert_eq!(rig.rung(1), Rung::Limited);
    let decisions = rig.limited(1, A, 1);
    assert_eq!((decisions[0].rung, decisions[0].strikes, seconds(&decisions[0])), (Rung::Degraded, 20, 30));
    assert_eq!(decisions[0].cause, cause());
}

#[test]
fn who_waits_as_told_never_climbs() {
    let mut rig = Rig::new();
    for _ in 0..1_000 {
        rig.now += 61 * SECOND;
        assert_eq!(rig.limited(1, A, 1), []);
    }
}

#[test]
fn strikes_spread_over_more_than_the_window_do_not_degrade() {
    let mut rig = Rig::new();
    for _ in 0..200 {
        rig.now += SECOND;
        assert_eq!(rig.limited(1, A, 1), []);
    }
}

#[test]
fn going_on_while_degraded_closes_the_gate_and_then_the_door() {
    let mut rig = Rig::new();
    rig.limited(1, A, 21);
    let gate = rig.limited(1, A, 20);
    assert_eq!((gate[0].rung, gate[0].held, seconds(&gate[0])), (Rung::Gated, None, 60));
    assert_eq!(rig.limited(1, A, 49), []);
    let door = rig.limited(1, A, 1);
    assert_eq!((door[0].rung, seconds(&door[0])), (Rung::Dropped, 120));
    assert_eq!(rig.limited(1, A, 1_000), [], "nothing counts at the top");
}

#[test]
fn a_verdict_ends_and_the_next_one_lasts_twice_as_long_up_to_an_hour() {
    let mut rig = Rig::new();
    for n in 0..10 {
        rig.limited(1, A, 21);
        let gate = rig.limited(1, A, 20);
        assert_eq!(gate[0].rung, Rung::Gated);
        assert_eq!(seconds(&gate[0]), (60 << n).min(3_600));
        rig.now = gate[0].expires_ns;
        assert!(rig.rung(1) < Rung::Degraded, "at its end it is over");
    }
    rig.now += 3_601 * SECOND;
    rig.limited(1, A, 21);
    assert_eq!(seconds(&rig.limited(1, A, 20)[0]), 60, "an hour later it is forgotten");
}

#[test]
fn jitter_stays_within_a_quarter() {
    let policy = LadderPolicy::default();
    let lengths: Vec<u64> = (0..2_000).map(|random| gate_ns(&policy, 0, random)).collect();
    assert_eq!(lengths.iter().min().unwrap() / SECOND, 45);
    assert_eq!(lengths.iter().max().unwrap() / SECOND, 75);
    assert!((0..100).all(|n| gate_ns(&policy, n, u32::MAX) <= 3_600 * SECOND));
}

#[test]
fn two_credentials_behind_one_address_never_pass_degraded() {
    let mut rig = Rig::new();
    rig.good(1, B, 2);
    for _ in 0..200 {
        rig.good(1, B, 1);
        for decision in rig.limited(1, A, 50) {
            assert_eq!(decision.rung, Rung::Degraded, "{decision:?}");
        }
        rig.now += SECOND;
    }
    assert_eq!(rig.rung(1), Rung::Degraded);
    let held = rig.ladder.known(source(1), rig.now).unwrap();
    assert_eq!((held.identities, held.clean_identities), (2, 1));
}

#[test]
fn a_held_source_is_prolonged_seldom() {
    let mut rig = Rig::new();
    rig.good(1, B, 3);
    let decisions = rig.limited(1, A, 60_000);
    let held = Some(Held::Neighbours(Innocence::Credential));
    assert!(decisions.len() <= 6, "{}", decisions.len());
    assert!(decisions[1..].iter().all(|decision| decision.held == held && decision.rung == Rung::Degraded));
}

#[test]
fn a_neighbour_that_shows_itself_lifts_the_gate() {
    let mut rig = Rig::new();
    rig.limited(1, A, 41);
    assert_eq!(rig.rung(1), Rung::Gated);
    assert_eq!(rig.good(1, A, 50), None, "nobody vouches for himself");
    assert_eq!(rig.good(1, B, 2).map(|decision| decision.rung), None);
    let lifted = rig.good(1, B, 1).unwrap();
    assert_eq!((lifted.rung, lifted.held), (Rung::Degraded, Some(Held::Neighbours(Innocence::Credential))));
    assert_eq!(rig.rung(1), Rung::Degraded);
}

#[test]
fn a_trusted_proxy_is_degraded_at_most_and_the_record_says_why() {
    let mut rig = Rig::new();
    rig.eligibility = Eligibility::Never;
    let decisions = rig.limited(1, A, 50_000);
    assert!(decisions.iter().all(|decision| decision.rung == Rung::Degraded));
    assert_eq!(decisions[1].held, Some(Held::Ineligible));
}

#[test]
fn a_full_table_holds_the_ladder_back() {
    let mut rig = Rig::new();
    rig.eligibility = Eligibility::Full;
    rig.limited(1, A, 21);
    rig.now += 16 * SECOND;
    assert_eq!(rig.limited(1, A, 20)[0].held, Some(Held::Full));
}

#[test]
fn a_run_of_failures_degrades_and_a_success_ends_the_run() {
    let mut rig = Rig::new();
    let agent = Identity::UserAgent(7);
    assert_eq!(rig.offend(1, agent, OffenceKind::Unauthorized, 19), []);
    rig.good(1, agent, 1);
    assert_eq!(rig.offend(1, agent, OffenceKind::BadRequest, 19), []);
    assert_eq!(rig.offend(1, agent, OffenceKind::Unauthorized, 1)[0].rung, Rung::Degraded);
}

#[test]
fn failures_of_many_identities_are_no_run() {
    let mut rig = Rig::new();
    for n in 0..1_000 {
        assert_eq!(rig.offend(1, Identity::UserAgent(n), OffenceKind::Unauthorized, 1), []);
    }
}

#[test]
fn a_flood_of_sources_stays_within_its_memory_and_spares_the_verdicts() {
    let mut rig = Rig::new();
    rig.ladder = Ladder::new(LadderPolicy { sources_max: 256, ..LadderPolicy::default() });
    rig.limited(1, A, 41);
    for n in 1_000..101_000 {
        let told = rig.told(n, A, OffenceKind::BadRequest);
        rig.ladder.offence(rig.now, &told, Eligibility::Eligible, 0);
    }
    assert_eq!(rig.ladder.watched(), 256);
    assert_eq!(rig.rung(1), Rung::Gated);
}

#[test]
fn no_trace_of_a_million_decisions_drops_a_spared_address() {
    let mut rig = Rig::new();
    rig.eligibility = Eligibility::Never;
    let mut state = 1u64;
    for _ in 0..1_000_000 {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        let dice = state >> 33;
        rig.now += dice % (SECOND / 10);
        let identity = [A, B, Identity::None, Identity::UserAgent(dice % 5)][(dice % 4) as usize];
        let kind = match dice % 3 {
            0 => OffenceKind::Unauthorized,
            _ => OffenceKind::RateLimited { retry_after: Duration::from_secs(dice % 90) },
        };
        let told = rig.told((dice % 3) as u32, identity, kind);
        if let Some(decision) = rig.ladder.offence(rig.now, &told, rig.eligibility, dice as u32) {
            assert!(decision.rung <= Rung::Degraded);
        }
    }
}

#[test]
fn a_watched_source_takes_what_the_policy_says() {
    assert!(size_of::<Entry>() <= 768, "{}", size_of::<Entry>());
}

fn flow(client_port: u16) -> Option<Flow> {
    Some(Flow::new(std::net::IpAddr::from([192, 0, 2, 1]).into(), client_port, 8000))
}

#[test]
fn a_known_connection_is_cut_before_the_source_is_gated() {
    let mut rig = Rig { flow: flow(40_000), ..Rig::new() };
    rig.limited(1, A, 21);
    rig.flow = flow(40_001);
    let cut = rig.limited(1, A, 20);
    assert_eq!((cut[0].rung, cut[0].flow, cut[0].held), (Rung::Cut, flow(40_001), None));
    let gate = rig.limited(1, A, 20);
    assert_eq!((gate[0].rung, gate[0].flow), (Rung::Gated, None));
}

#[test]
fn beside_an_innocent_neighbour_connections_are_cut_again_and_again() {
    let mut rig = Rig { flow: flow(40_000), ..Rig::new() };
    rig.good(1, B, 10);
    rig.limited(1, A, 21);
    for port in 40_001..40_010 {
        rig.flow = flow(port);
        let cut = rig.limited(1, A, 20);
        assert_eq!((cut[0].rung, cut[0].flow), (Rung::Cut, flow(port)));
        assert_eq!(cut[0].held.is_some(), port > 40_001, "{port}");
    }
    assert_eq!(rig.rung(1), Rung::Cut);
}

#[test]
fn an_address_that_is_never_dropped_keeps_its_connections() {
    let mut rig = Rig { flow: flow(40_000), eligibility: Eligibility::Never, ..Rig::new() };
    rig.limited(1, A, 21);
    rig.now += 20 * SECOND;
    for decision in rig.limited(1, A, 200) {
        assert_eq!((decision.rung, decision.flow), (Rung::Degraded, None));
    }
}
