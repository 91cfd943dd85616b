//! The fleet's part in the control plane: what is told to other gateways, and what of theirs is obeyed. Who carries it there
//! and back is elsewhere.

use std::collections::{HashMap, VecDeque};
use std::net::IpAddr;
use std::time::Duration;

use gateway_common::{Source, map::rung};
use tokio::sync::mpsc;

use super::{Control, Decision, HISTORY_MAX};
use crate::edge::ladder::{Rung, Said, Weighed};
use crate::edge::notice::{Foreign, Notice, Word};
use crate::edge::policy::{FleetPolicy, Mode};
use crate::edge::report::{Cause, OffenceKind};

/// Notices that wait to be told.
const WAITING_MAX: usize = 1_024;
/// Verdicts told again to one who came.
const RETOLD_MAX: usize = 1_000;
/// Liftings that are told again, and for how long.
const LIFTED_MAX: usize = 256;
const LIFTED_NS: u64 = 3_600_000_000_000;

const SECOND_NS: u64 = 1_000_000_000;

/// Where the fleet stands, as the status and the metrics show it.
pub(in crate::edge) struct Fleet {
    /// This process, to others.
    node: Box<str>,
    name: Box<str>,
    bounds: FleetPolicy,
    outbox: Option<mpsc::Sender<Notice>>,
    /// Whether others can be reached, and since when that is so.
    pub linked: bool,
    pub linked_changes: u64,
    /// Verdicts that hold because another gateway said so, with its name.
    pub foreign: HashMap<Source, (Box<str>, Box<str>)>,
    /// Sources that an operator has lifted.
    lifted: VecDeque<Lifted>,
    /// Since when somebody waits to be told what holds.
    asked_ns: Option<u64>,
    /// The second in which is heard, and how much was heard in it.
    heard: (u64, u32),
    pub counts: Counts,
}

/// A source that an operator set free.
struct Lifted {
    ip: IpAddr,
    at_ns: u64,
    /// At this gateway, which tells it again.
    here: bool,
}

/// How often what happened.
#[derive(Clone, Copy, Default, Debug)]
pub(in crate::edge) struct Counts {
    pub told: u64,
    /// Not told: too much was waiting, or nobody could be reached.
    pub untold: u64,
    pub obeyed: u64,
    pub lifted: u64,
    pub known: u64,
    pub spared: u64,
    pub innocent: u64,
    pub full: u64,
    pub too_many: u64,
    pub malformed: u64,
}

impl Counts {
    /// Words and figures of what was heard.
    pub fn heard(&self) -> [(&'static str, u64); 8] {
        [
            ("obeyed", self.obeyed),
            ("lifted", self.lifted),
            ("known", self.known),
            ("spared", self.spared),
            ("innocent", self.innocent),
            ("full", self.full),
            ("too_many", self.too_many),
            ("malformed", self.malformed),
        ]
    }
}

impl Fleet {
    fn new(bounds: FleetPolicy) -> Self {
        Fleet {
            node: uuid::Uuid::new_v4().simple().to_string().into(),
            name: bounds.name.clone(),
            bounds,
            outbox: None,
            linked: false,
            linked_changes: 0,
            foreign: HashMap::new(),
            lifted: VecDeque::new(),
            asked_ns: None,
            heard: (0, 0),
            counts: Counts::default(),
        }
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    fn notice(&self, word: Word) -> Notice {
        Notice { node: self.node.clone(), name: self.name.clone(), word }
    }

    fn tell(&mut self, word: Word) {
        let notice = self.notice(word);
        let told = self.linked && self.outbox.as_ref().is_some_and(|outbox| outbox.try_send(notice).is_ok());
        *if told { &mut self.counts.told } else { &mut self.counts.untold } += 1;
    }

    fn remember_lifting(&mut self, lifted: Lifted) {
        self.foreign.retain(|source, _| source.ip() != lifted.ip);
        self.lifted.retain(|known| known.ip != lifted.ip);
        if self.lifted.len() == LIFTED_MAX {
            self.lifted.pop_front();
        }
        self.lifted.push_back(lifted);
    }

    /// Whether a verdict on a source that began then was lifted since.
    fn is_lifted_since(&self, ip: IpAddr, began_ns: u64) -> bool {
        self.lifted.iter().any(|lifted| lifted.ip == ip && lifted.at_ns >= began_ns)
    }

    /// Whether so many a second are too many.
    fn is_too_much(&mut self, now_ns: u64) -> bool {
        let second = now_ns / SECOND_NS;
        if self.heard.0 != second {
            self.heard = (second, 0);
        }
        self.heard.1 += 1;
        self.heard.1 > self.bounds.per_second
    }
}

impl Control {
    /// Takes part in a fleet; what comes out is to be told to the others.
    pub fn join(&mut self, bounds: FleetPolicy) -> mpsc::Receiver<Notice> {
        let (outbox, notices) = mpsc::channel(WAITING_MAX);
        let mut fleet = Fleet::new(bounds);
        fleet.outbox = Some(outbox);
        self.fleet = Some(fleet);
        notices
    }

    /// Whether the others can be reached now. When they can, they are greeted, and told what holds here.
    pub fn link(&mut self, linked: bool, now_ns: u64) {
        let Some(fleet) = &mut self.fleet else { return };
        if fleet.linked == linked {
            return;
        }
        (fleet.linked, fleet.linked_changes) = (linked, fleet.linked_changes + 1);
        if linked {
            fleet.tell(Word::Hello);
            self.retell(now_ns);
        }
    }

    /// Tells what holds here of this gateway's own, and what an operator has lifted.
    fn retell(&mut self, now_ns: u64) {
        if self.policy.mode != Mode::Enforce {
            return;
        }
        let Some(fleet) = &self.fleet else { return };
        let own = self.writer.desired().iter().filter(|(source, verdict)| {
            verdict.rung >= rung::GATED && verdict.expiry_ns > now_ns && !fleet.foreign.contains_key(*source)
        });
        let ids: Vec<u64> = own.take(RETOLD_MAX).map(|(_, verdict)| verdict.decision).collect();
        let told = self.history.iter().filter(|decision| ids.contains(&decision.id));
        let mut words: Vec<Word> = told.map(|decision| Word::Verdict(foreign(decision, now_ns))).collect();
        words.extend(fleet.lifted.iter().filter(|lifted| lifted.here).map(|lifted| {
            let ago = Duration::from_nanos(now_ns.saturating_sub(lifted.at_ns));
            Word::Lifted { source: lifted.ip, ago, by_operator: true }
        }));
        if let Some(fleet) = &mut self.fleet {
            words.into_iter().for_each(|word| fleet.tell(word));
        }
    }

    /// Tells the others of a decision made here. `before` is the rung that the source stood on.
    pub(super) fn tell_fleet(&mut self, decision: &Decision, before: u32) {
        let tells = self.policy.mode == Mode::Enforce;
        let Some(fleet) = &mut self.fleet else { return };
        let was_foreign = fleet.foreign.remove(&decision.source).is_some();
        let ip = decision.source.ip();
        if tells && decision.rung >= Rung::Gated {
            fleet.tell(Word::Verdict(foreign(decision, decision.since_ns)));
        } else if tells && before >= rung::GATED && !was_foreign {
            // Here an innocent was seen; those who obeyed this gateway need not wait for the end.
            fleet.tell(Word::Lifted { source: ip, ago: Duration::ZERO, by_operator: false });
        }
    }

    /// What another gateway tells.
    pub fn hear_fleet(&mut self, text: &[u8], now_ns: u64) {
        let Some(fleet) = &mut self.fleet else { return };
        let Some(notice) = Notice::of(text) else {
            fleet.counts.malformed += 1;
            return;
        };
        if notice.node == fleet.node {
            return;
        }
        if fleet.is_too_much(now_ns) {
            fleet.counts.too_many += 1;
            return;
        }
        match notice.word {
            // Several who come at once are told together.
            Word::Hello => fleet.asked_ns = fleet.asked_ns.or(Some(now_ns)),
            Word::Lifted { source, ago, by_operator } => {
                let at_ns = now_ns.saturating_sub(u64::try_from(ago.as_nanos()).unwrap_or(u64::MAX));
                self.hear_lifting(source, at_ns, by_operator, &notice.node);
            }
            Word::Verdict(told) => self.hear_verdict(told, (notice.node, notice.name), now_ns),
        }
    }

    fn hear_lifting(&mut self, ip: IpAddr, at_ns: u64, by_operator: bool, node: &str) {
        let source = self.source(ip);
        let verdict = self.writer.desired().get(&source).map(|verdict| verdict.decision);
        let cause = verdict.and_then(|id| self.history.iter().rev().find(|decision| decision.id == id));
        // What was decided after it was lifted stands.
        let is_newer = cause.is_some_and(|decision| decision.since_ns > at_ns);
        let Some(fleet) = &mut self.fleet else { return };
        if by_operator && !fleet.is_lifted_since(ip, at_ns) {
            fleet.remember_lifting(Lifted { ip, at_ns, here: false });
        }
        let is_theirs = fleet.foreign.get(&source).is_some_and(|(by, _)| **by == *node);
        if verdict.is_none() || is_newer || !(by_operator || is_theirs) {
            fleet.counts.known += 1;
            return;
        }
        fleet.foreign.remove(&source);
        fleet.counts.lifted += 1;
        self.set_free(source);
        tracing::info!(source = %source.ip(), by_operator, node, "verdict lifted by another gateway");
    }

    fn hear_verdict(&mut self, told: Foreign, (node, name): (Box<str>, Box<str>), now_ns: u64) {
        let source = self.source(told.source);
        let is_spared = self.is_spared(source);
        let has_place = self.writer.desired().len() < self.policy.verdicts_max as usize
            || self.writer.desired().contains_key(&source);
        let Some(fleet) = &mut self.fleet else { return };
        let is_held = fleet.foreign.contains_key(&source);
        let began_ns = now_ns.saturating_sub(u64::try_from(told.age.as_nanos()).unwrap_or(u64::MAX));
        if fleet.is_lifted_since(source.ip(), began_ns) {
            fleet.counts.known += 1;
            return;
        }
        if is_spared {
            fleet.counts.spared += 1;
            return;
        }
        if !has_place || (!is_held && fleet.foreign.len() >= fleet.bounds.verdicts_max as usize) {
            fleet.counts.full += 1;
            return;
        }
        let lasts_ns = u64::try_from(told.lasts.as_nanos()).unwrap_or(0);
        let said = Said {
            source,
            rung: if told.dropped { Rung::Dropped } else { Rung::Gated },
            until_ns: now_ns.saturating_add(lasts_ns),
            cause: Cause { plugin: told.plugin, route: told.route, request_id: told.request_id },
            kind: told.kind,
            strikes: told.strikes,
            repeats: told.repeats,
        };
        // What is told again ends a little later each time, by the way that it takes.
        let known_ns = self.writer.desired().get(&source).map_or(0, |verdict| verdict.expiry_ns);
        if self.fleet.as_ref().is_some_and(|fleet| fleet.foreign.contains_key(&source))
            && self.writer.desired().get(&source).is_some_and(|verdict| verdict.rung >= said.rung.number())
            && said.until_ns <= known_ns.saturating_add(SECOND_NS)
        {
            self.count(|counts| counts.known += 1);
            return;
        }
        match self.ladder.weigh(now_ns, said) {
            Weighed::Obeyed(mut decision) => {
                decision.origin = Some(name.clone());
                self.count(|counts| counts.obeyed += 1);
                self.carry_out(decision);
                if let Some(fleet) = &mut self.fleet {
                    fleet.foreign.insert(source, (node, name));
                }
            }
            Weighed::Held(mut decision) => {
                decision.origin = Some(name);
                self.count(|counts| counts.innocent += 1);
                self.record(decision);
            }
            Weighed::Known => self.count(|counts| counts.known += 1),
            Weighed::Full => self.count(|counts| counts.full += 1),
        }
    }

    fn count(&mut self, count: impl FnOnce(&mut Counts)) {
        if let Some(fleet) = &mut self.fleet {
            count(&mut fleet.counts);
        }
    }

    /// An operator sets a source free, here and at the others; whether it stood under a verdict here.
    pub fn lift(&mut self, ip: IpAddr, now_ns: u64) -> bool {
        let source = self.source(ip);
        let stood = self.writer.desired().contains_key(&source);
        self.set_free(source);
        if let Some(fleet) = &mut self.fleet {
            let ip = source.ip();
            fleet.remember_lifting(Lifted { ip, at_ns: now_ns, here: true });
            fleet.tell(Word::Lifted { source: ip, ago: Duration::ZERO, by_operator: true });
        }
        tracing::warn!(source = %source.ip(), stood, "verdict lifted by an operator");
        stood
    }

    fn set_free(&mut self, source: Source) {
        self.writer.decide(source, None);
        self.ladder.forgive(source);
    }

    /// Once a second: tells those who asked; forgets whose verdicts have ended, and liftings that no verdict outlives.
    pub(super) fn sweep_fleet(&mut self, now_ns: u64) {
        let asked =
            self.fleet.as_mut().and_then(|fleet| fleet.asked_ns.take_if(|at| now_ns.saturating_sub(*at) >= SECOND_NS));
        if asked.is_some() {
            self.retell(now_ns);
        }
        let desired = self.writer.desired();
        if let Some(fleet) = &mut self.fleet {
            fleet.foreign.retain(|source, _| desired.get(source).is_some_and(|verdict| verdict.rung >= rung::GATED));
            fleet.lifted.retain(|lifted| now_ns.saturating_sub(lifted.at_ns) < LIFTED_NS);
        }
    }

    /// Keeps a decision for whoever asks.
    pub(super) fn record(&mut self, decision: Decision) {
        self.decisions += 1;
        if self.history.len() == HISTORY_MAX {
            self.history.pop_front();
        }
        self.history.push_back(decision);
    }
}

fn foreign(decision: &Decision, now_ns: u64) -> Foreign {
    let Cause { plugin, route, request_id } = decision.cause.clone();
    let kind: OffenceKind = decision.kind;
    Foreign {
        source: decision.source.ip(),
        dropped: decision.rung == Rung::Dropped,
        age: Duration::from_nanos(now_ns.saturating_sub(decision.since_ns)),
        lasts: Duration::from_nanos(decision.expires_ns.saturating_sub(now_ns)),
        plugin,
        route,
        request_id,
        kind,
        strikes: decision.strikes,
        repeats: decision.repeats,
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::edge::policy::Policy;
    use crate::edge::report::{Desk, GoodTold, Identity, OffenceTold, desk};
    use crate::edge::userspace::Standings;

    const OFFENDER: Identity = Identity::Credential(1);
    const NEIGHBOUR: Identity = Identity::Credential(2);
    const IP: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(198, 51, 100, 7));

    struct Node {
        control: Control,
        out: mpsc::Receiver<Notice>,
    }

    impl Node {
        fn new(name: &str) -> Self {
            let (desk, _): (Arc<Desk>, _) = desk();
            let (standings, _) = Standings::new(1);
            let policy = Policy { mode: Mode::Enforce, cells: 1_024, verdicts_max: 1_024, ..Policy::default() };
            let mut control = Control::new(policy, desk, Arc::new(standings), [1, 2]);
            let bounds = FleetPolicy { name: name.into(), verdicts_max: 10, per_second: 100 };
            let out = control.join(bounds);
            let mut node = Node { control, out };
            node.control.link(true, SECOND_NS);
            node.texts();
            node
        }

        fn texts(&mut self) -> Vec<String> {
            std::iter::from_fn(|| self.out.try_recv().ok()).map(|notice| notice.text()).collect()
        }

        fn hear(&mut self, texts: &[String], now_ns: u64) {
            texts.iter().for_each(|text| self.control.hear_fleet(text.as_bytes(), now_ns));
        }

        fn abused(&mut self, now_ns: u64) {
            let kind = OffenceKind::RateLimited { retry_after: Duration::from_secs(60) };
            for n in 0..60 {
                let cause = Cause { plugin: "p".into(), route: "r".into(), request_id: "q".into() };
                let source = self.control.source(IP);
                let told = OffenceTold { at_ns: now_ns + n, source, flow: None, identity: OFFENDER, kind, cause };
                self.control.hear_offence(&told, 256);
            }
        }

        fn good(&mut self, now_ns: u64, identity: Identity) {
            let source = self.control.source(IP);
            self.control.hear_good(&GoodTold { at_ns: now_ns, source, identity, quota: 0, count: 10 });
        }

        fn rung(&self) -> u32 {
            self.control.writer.desired().get(&self.control.source(IP)).map_or(0, |verdict| verdict.rung)
        }

        fn counts(&self) -> Counts {
            self.control.fleet.as_ref().expect("joined").counts
        }
    }

    const NOW: u64 = 1_000 * SECOND_NS;

    #[test]
    fn who_decided_lifts_it_for_all_when_an_innocent_shows() {
        let (mut a, mut b, mut c) = (Node::new("a"), Node::new("b"), Node::new("c"));
        a.abused(NOW);
        let texts = a.texts();
        assert_eq!(texts.len(), 1, "only what is gated is told: {texts:?}");
        b.hear(&texts, NOW);
        c.hear(&texts, NOW);
        assert_eq!((a.rung(), b.rung(), c.rung()), (4, 4, 4));
        assert!(b.texts().is_empty(), "what was told is not told on");
        // An innocent at one that only obeyed is its own business.
        c.good(NOW + SECOND_NS, NEIGHBOUR);
        assert!(c.rung() < 4 && c.texts().is_empty());
        a.good(NOW + SECOND_NS, NEIGHBOUR);
        let texts = a.texts();
        assert_eq!(texts.len(), 1, "{texts:?}");
        b.hear(&texts, NOW + SECOND_NS);
        assert_eq!((b.rung(), b.counts().lifted), (0, 1));
    }

    #[test]
    fn only_who_decided_or_an_operator_lifts() {
        let (mut a, mut b, mut c) = (Node::new("a"), Node::new("b"), Node::new("c"));
        a.abused(NOW);
        let told = a.texts();
        b.hear(&told, NOW);
        let by = |node: &Node, by_operator| {
            let word = Word::Lifted { source: IP, ago: Duration::ZERO, by_operator };
            vec![node.control.fleet.as_ref().expect("joined").notice(word).text()]
        };
        b.hear(&by(&c, false), NOW + 1);
        assert_eq!(b.rung(), 4);
        assert!(!c.control.lift(IP, NOW + SECOND_NS), "it does not stand there");
        let lifting = c.texts();
        a.hear(&lifting, NOW + SECOND_NS);
        b.hear(&lifting, NOW + SECOND_NS);
        assert_eq!((a.rung(), b.rung()), (0, 0));
        // Told again by one who missed it, it does not come back; what is decided anew does.
        b.hear(&told, NOW + 2 * SECOND_NS);
        assert_eq!(b.rung(), 4, "its age is that of a new one");
        b.control.lift(IP, NOW + 3 * SECOND_NS);
        let stale = told[0].replace("\"age_ms\":0", "\"age_ms\":5000");
        assert_ne!(stale, told[0]);
        b.hear(&[stale], NOW + 4 * SECOND_NS);
        assert_eq!(b.rung(), 0);
        // A lifting of long ago leaves what was decided since.
        b.abused(NOW + 10 * SECOND_NS);
        let word = Word::Lifted { source: IP, ago: Duration::from_secs(30), by_operator: true };
        let late = c.control.fleet.as_ref().expect("joined").notice(word).text();
        b.hear(&[late], NOW + 11 * SECOND_NS);
        assert_eq!(b.rung(), 4);
    }

    #[test]
    fn who_comes_is_told_and_what_is_known_changes_nothing() {
        let (mut a, mut b) = (Node::new("a"), Node::new("b"));
        a.abused(NOW);
        a.texts();
        a.control.link(false, NOW);
        a.control.link(true, NOW + 1);
        let texts = a.texts();
        assert!(texts.len() == 2 && texts[0].contains("hello"), "{texts:?}");
        b.hear(&texts, NOW + 1);
        assert_eq!(b.rung(), 4);
        b.hear(&texts[1..], NOW + SECOND_NS);
        assert_eq!((b.counts().obeyed, b.counts().known), (1, 1));
        b.control.tick(NOW + 2 * SECOND_NS);
        assert!(b.texts().is_empty(), "it has nothing of its own");
        let hello = vec![b.control.fleet.as_ref().expect("joined").notice(Word::Hello).text()];
        a.hear(&hello, NOW + SECOND_NS);
        a.control.tick(NOW + 3 * SECOND_NS);
        assert_eq!(a.texts().len(), 1);
    }

    #[test]
    fn a_shadow_tells_nothing() {
        let mut a = Node::new("a");
        a.control.policy.mode = Mode::Shadow;
        a.abused(NOW);
        a.control.link(false, NOW);
        a.control.link(true, NOW);
        assert_eq!((a.rung(), a.texts().len()), (4, 1), "a greeting alone");
    }
}
