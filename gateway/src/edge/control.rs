//! The control plane's state: policy in, offences in, verdicts out. One owner behind one lock, which no worker takes.

use std::{
    collections::VecDeque,
    net::IpAddr,
    sync::{Arc, atomic::Ordering},
};

use aya::{
    maps::{MapData, RingBuf},
    programs::links::FdLink,
};
use gateway_common::{
    Ceiling, Source,
    map::{Cut, LIST_ENTRIES_MAX, Standing, Verdict},
};
use ipnet::IpNet;

use self::fleet::Fleet;
use super::{
    attach::{Kernel, Trouble},
    egress::Egress,
    events::Events,
    hook::Guard,
    host::vital_addresses,
    ladder::{Decision, Eligibility, Held, Ladder, Rung},
    pcap::Capture,
    plans::{Plans, raise_for},
    policy::{Mode, Policy},
    pressure::Pressure,
    reconcile::Writer,
    report::{Desk, GoodTold, Identity, OffenceTold},
    tables::{list_troubles, sizes, wanted},
    userspace::{Prefix, Standings},
};
use crate::clock::{monotonic_ns, unix_ns};

mod fleet;
mod pressed;
mod succession;

/// Decisions remembered.
const HISTORY_MAX: usize = 1_000;
/// Samples read at once.
const SAMPLES_AT_ONCE: usize = 1_024;
/// Seconds between two looks at the interfaces.
const LOOK_EVERY_TICKS: u64 = 2;
/// How long a connection stays cut: the worker that holds it closes it long before.
const CUT_NS: u64 = 60_000_000_000;
/// How long an accepted credential raises a source's ceilings.
const RAISED_NS: u64 = 600_000_000_000;

/// Who carries the decisions out.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum InForce {
    Off,
    /// The workers alone.
    Userspace,
    /// Some interfaces by the kernel, the rest by the workers.
    Partly,
    Tc,
    Generic,
    Native,
}

impl InForce {
    pub fn name(self) -> &'static str {
        match self {
            Self::Off => "off",
            Self::Userspace => "userspace",
            Self::Partly => "partly",
            Self::Tc => "tc",
            Self::Generic => "generic",
            Self::Native => "native",
        }
    }
}

pub(super) struct Control {
    pub policy: Policy,
    pub desk: Arc<Desk>,
    pub standings: Arc<Standings>,
    pub ladder: Ladder,
    pub writer: Writer,
    pub kernel: Option<Kernel>,
    /// Why there is no kernel program, if one was asked for.
    pub load_trouble: Option<Trouble>,
    /// The program that learns of completed handshakes; without it the workers tell.
    sockets: Option<FdLink>,
    sockets_trouble: Option<Trouble>,
    egress: Egress,
    pub pressure: Pressure,
    plans: Plans,
    /// Lists that are longer than the kernel's.
    list_troubles: Vec<Trouble>,
    /// Of a policy that changed sizes: they are those of the start.
    pub needs_restart: bool,
    pub history: VecDeque<Decision>,
    pub decisions: u64,
    pub events: Events,
    ring: Option<RingBuf<MapData>>,
    /// Where sampled drops are written to.
    pub capture: Option<Capture>,
    /// Where verdicts must not go.
    spared: Vec<Prefix>,
    /// Addresses that the host itself needs.
    pub vital: Vec<IpNet>,
    ticks: u64,
    seed: [u64; 2],
    /// Verdicts that an earlier process left.
    pub inherited: usize,
    /// The tick at which verdicts are looked for that the earlier process wrote late.
    strangers_at: Option<u64>,
    /// Another process has taken the kernel's side over.
    is_superseded: bool,
    /// Other gateways, if there are any.
    pub fleet: Option<Fleet>,
}

impl Control {
    pub fn new(policy: Policy, desk: Arc<Desk>, standings: Arc<Standings>, seed: [u64; 2]) -> Self {
        let ladder = Ladder::new(policy.ladder.clone().unwrap_or_default());
        let writer = Writer::new(standings.clone(), wanted(&Policy::default(), &[], seed));
        let mut control = Self {
            policy: Policy::default(),
            desk,
            standings,
            ladder,
            writer,
            kernel: None,
            load_trouble: None,
            sockets: None,
            sockets_trouble: None,
            egress: Egress::default(),
            pressure: Pressure::default(),
            plans: Plans::default(),
            list_troubles: Vec::new(),
            needs_restart: false,
            history: VecDeque::new(),
            decisions: 0,
            events: Events::default(),
            ring: None,
            capture: None,
            spared: Vec::new(),
            vital: Vec::new(),
            ticks: 0,
            seed,
            inherited: 0,
            strangers_at: None,
            is_superseded: false,
            fleet: None,
        };
        control.apply(policy);
        control
    }

    /// Puts a policy into force. Verdicts, cells and what the ladder knows are kept.
    pub fn apply(&mut self, mut policy: Policy) {
        // A loaded program's tables cannot be resized.
        let held = self.kernel.as_ref().map(|kernel| (kernel.sizes, self.policy.pin.clone()));
        self.needs_restart = held.as_ref().is_some_and(|held| *held != (sizes(&policy), policy.pin.clone()));
        if let Some((sizes, pin)) = held {
            (policy.cells, policy.verdicts_max, policy.pin) = (sizes.cells, sizes.verdicts, pin);
        }
        if policy.v6_prefix != self.policy.v6_prefix {
            // Sources of another width cannot be told from these.
            self.forget_verdicts();
        }
        self.policy = policy;
        self.vital = if self.policy.mode == Mode::Off { Vec::new() } else { vital_addresses() };
        self.spared = self.spared();
        self.open_capture();
        if let Some(ladder) = &self.policy.ladder {
            self.ladder.update(ladder.clone());
        }
        let open = self.policy.mode != Mode::Off && self.policy.ladder.is_some();
        self.desk.v6_prefix.store(self.policy.v6_prefix, Ordering::Relaxed);
        self.desk.open.store(open, Ordering::Relaxed);
        self.guard();
        self.announce();
    }

    /// A reload that leaves the file alone goes on with it.
    fn open_capture(&mut self) {
        let wanted = self.policy.pcap.as_ref().filter(|_| self.policy.mode != Mode::Off);
        let is_same = |(path, max): &(std::path::PathBuf, u64)| {
            self.capture.as_ref().is_some_and(|capture| capture.is_of(path, *max) && capture.failure.is_none())
        };
        if wanted.is_none_or(|wanted| !is_same(wanted)) {
            self.capture = wanted.map(|(path, bytes_max)| Capture::open(path, *bytes_max));
        }
    }

    /// Where verdicts must not go. An IPv6 source is a whole prefix: that the host lives in it too spares the host,
    /// address by address, on the never-drop list, but not all its neighbours.
    fn spared(&self) -> Vec<Prefix> {
        let vital = self.vital.iter().filter(|net| net.addr().is_ipv4());
        self.policy.never_drop.iter().chain(&self.policy.trusted).chain(vital).map(Prefix::new).collect()
    }

    /// Loads and attaches, or detaches, as the policy says.
    fn guard(&mut self) {
        let mut wanted = wanted(&self.policy, &self.vital, self.seed);
        // An address that the list has no room for could be dropped: then rather no program.
        let is_safe = wanted.never_drop.len() <= LIST_ENTRIES_MAX as usize;
        self.list_troubles = list_troubles(&wanted);
        let wants_kernel = self.policy.mode != Mode::Off && !self.policy.interfaces.is_empty() && is_safe;
        if self.is_superseded {
            // The other process is served by the kernel's side now.
        } else if !wants_kernel {
            self.unload();
        } else if self.kernel.is_none() {
            self.load(wanted.settings.v6_mask);
            // Cells that were taken over are found by the seed that filled them.
            wanted.settings.seed = self.seed;
        }
        // The program must know its rules before the first packet meets it.
        self.writer.want(wanted);
        self.writer.beat(monotonic_ns());
        self.attach();
    }

    fn attach(&mut self) {
        if let Some(kernel) = &mut self.kernel {
            kernel.attach(&self.policy);
            self.egress.attach(kernel, self.policy.egress.is_some());
        }
        let executes = matches!(self.in_force(), InForce::Userspace | InForce::Partly);
        self.standings.execute(executes);
        let has_accounts = self.kernel.is_some() && self.policy.consumers().is_some() && self.egress.is_attached();
        self.desk.has_accounts.store(has_accounts, Ordering::Relaxed);
        self.standings.tell_arrivals(self.kernel.is_some() && self.policy.gate.is_some() && self.sockets.is_none());
    }

    /// Interfaces come and go: what is gone is let go, what has come is attached to.
    fn look_after_interfaces(&mut self) {
        let Some(kernel) = &mut self.kernel else { return };
        let names = |kernel: &Kernel| kernel.attached.iter().map(|one| one.interface.clone()).collect::<Vec<_>>();
        let before = names(kernel);
        kernel.let_go();
        self.attach();
        if self.kernel.as_ref().map(names) != Some(before) {
            self.announce();
        }
    }

    pub fn in_force(&self) -> InForce {
        if self.policy.mode == Mode::Off {
            return InForce::Off;
        }
        let Some(kernel) = self.kernel.as_ref().filter(|kernel| !kernel.attached.is_empty()) else {
            return InForce::Userspace;
        };
        if kernel.attached.len() < self.policy.interfaces.len() {
            InForce::Partly
        } else if kernel.attached.iter().any(|attached| attached.guard == Guard::Generic) {
            InForce::Generic
        } else if kernel.attached.iter().any(|attached| attached.guard == Guard::Tc) {
            InForce::Tc
        } else {
            InForce::Native
        }
    }

    pub fn troubles(&self) -> impl Iterator<Item = &Trouble> {
        self.list_troubles
            .iter()
            .chain(&self.load_trouble)
            .chain(self.kernel.iter().flat_map(|kernel| &kernel.troubles))
    }

    /// Why nothing is pinned although that was asked for.
    pub fn pin_trouble(&self) -> Option<&Trouble> {
        self.kernel.as_ref().and_then(|kernel| kernel.pin_trouble.as_ref())
    }

    /// What works, but could work better.
    pub fn advice(&self) -> impl Iterator<Item = &Trouble> {
        self.kernel
            .iter()
            .filter_map(|kernel| kernel.advice.as_ref())
            .chain(&self.sockets_trouble)
            .chain(&self.egress.troubles)
    }

    fn announce(&self) {
        for advice in self.advice() {
            tracing::warn!(
                problem = advice.problem,
                detail = advice.detail,
                remedy = advice.remedy,
                "the edge could do better"
            );
        }
        for trouble in self.troubles() {
            tracing::warn!(
                interface = trouble.interface.as_deref().unwrap_or("-"),
                problem = trouble.problem,
                detail = trouble.detail,
                remedy = trouble.remedy,
                "the edge is degraded: connections are judged in user space"
            );
        }
        for attached in self.kernel.iter().flat_map(|kernel| &kernel.attached) {
            if attached.guard != Guard::Native {
                let (problem, detail) = attached.instead.as_ref().map_or(("", ""), |why| (why.problem, &why.detail));
                let (interface, hook) = (&attached.interface, attached.guard.name());
                tracing::warn!(interface, hook, problem, detail, "not native XDP: packets cost more");
            }
        }
        if let Some(trouble) = self.pin_trouble() {
            let Trouble { problem, detail, remedy, .. } = trouble;
            tracing::warn!(problem, detail, remedy, "the edge is not pinned: a restart leaves a gap");
        }
        if self.needs_restart {
            tracing::warn!(
                "cells, verdicts_max, verified_max, sources_max, consumers_max and pin of the edge change only with a restart; \
                 so does memory for what is off at the start"
            );
        }
        tracing::info!(mode = self.policy.mode.name(), in_force = self.in_force().name(), "edge");
    }

    pub fn hear_good(&mut self, told: &GoodTold) {
        if let Some(decision) = self.ladder.good(told.at_ns, told) {
            self.carry_out(decision);
        }
        let Identity::Credential(credential) = told.identity else { return };
        let since_ns = told.at_ns.saturating_sub(RAISED_NS);
        let quota = self.plans.note(told.source, credential, told.quota, told.at_ns, since_ns);
        let raise = self.policy.raise.max(raise_for(&self.policy.ceilings, quota));
        if raise > 0 {
            let expiry_ns = told.at_ns.saturating_add(RAISED_NS);
            self.writer.raise(told.source, Standing { expiry_ns, raise, spare: 0 }, told.at_ns);
        }
    }

    pub fn hear_offence(&mut self, told: &OffenceTold, random: u32) {
        let eligibility = self.eligibility(told.source);
        if let Some(decision) = self.ladder.offence(told.at_ns, told, eligibility, random) {
            self.carry_out(decision);
        }
    }

    pub fn is_spared(&self, source: Source) -> bool {
        self.spared.iter().any(|prefix| prefix.touches(source, self.policy.v6_prefix))
    }

    fn eligibility(&self, source: Source) -> Eligibility {
        if self.is_spared(source) {
            Eligibility::Never
        } else if self.writer.desired().len() >= self.policy.verdicts_max as usize {
            Eligibility::Full
        } else {
            Eligibility::Eligible
        }
    }

    fn carry_out(&mut self, mut decision: Decision) {
        let before = self.writer.desired().get(&decision.source).map_or(0, |verdict| verdict.rung);
        // A degraded source needs a place in the workers' table only; that table too is bounded.
        let has_place = self.writer.desired().len() < self.policy.verdicts_max as usize
            || self.writer.desired().contains_key(&decision.source);
        if has_place {
            self.writer.decide(decision.source, verdict(&decision));
        } else {
            decision.held = Some(Held::Full);
        }
        if let Some(flow) = decision.flow {
            let cut = Cut { expiry_ns: decision.since_ns.saturating_add(CUT_NS), decision: decision.id };
            if !self.writer.cut(flow, cut) {
                decision.held = Some(Held::Full);
            }
        }
        tracing::info!(
            decision = decision.id,
            source = %decision.source.ip(),
            rung = decision.rung.name(),
            cut_port = decision.flow.map(|flow| flow.client_port),
            held = decision.held.map(|held| held.name()),
            plugin = &*decision.cause.plugin,
            route = &*decision.cause.route,
            request_id = &*decision.cause.request_id,
            kind = decision.kind.name(),
            strikes = decision.strikes,
            seconds = decision.expires_ns.saturating_sub(decision.since_ns) / 1_000_000_000,
            origin = decision.origin.as_deref(),
            "edge decision"
        );
        if decision.origin.is_none() {
            self.tell_fleet(&decision, before);
        }
        self.record(decision);
    }

    /// Once a second.
    pub fn tick(&mut self, now_ns: u64) {
        self.give_way();
        self.read_ring();
        self.ticks += 1;
        if self.strangers_at == Some(self.ticks) {
            let strangers = self.writer.strangers();
            self.inherit(strangers);
        }
        if self.ticks.is_multiple_of(LOOK_EVERY_TICKS) {
            self.look_after_interfaces();
        }
        self.writer.beat(now_ns);
        self.writer.sweep(now_ns);
        self.sweep_fleet(now_ns);
        self.plans.sweep(now_ns.saturating_sub(RAISED_NS));
        self.feel_pressure(now_ns);
    }

    /// The kernel sends a hundred samples a second, and the ring holds five times as many: nobody need be woken.
    fn read_ring(&mut self) {
        let Some(ring) = &mut self.ring else { return };
        // From the monotonic clock's time to the one on the wall.
        let ahead_ns = unix_ns().saturating_sub(monotonic_ns());
        for _ in 0..SAMPLES_AT_ONCE {
            let Some(item) = ring.next() else { return };
            let Some((sample, head)) = self.events.take(&item) else { continue };
            if let Some(capture) = &mut self.capture {
                capture.write(sample, head, ahead_ns.saturating_add(sample.at_ns));
            }
        }
    }

    fn forget_verdicts(&mut self) {
        let sources: Vec<Source> = self.writer.desired().keys().copied().collect();
        for source in sources {
            self.writer.decide(source, None);
        }
        self.ladder = Ladder::new(self.policy.ladder.clone().unwrap_or_default());
    }

    pub fn source(&self, ip: IpAddr) -> Source {
        Source::new(ip, self.policy.v6_prefix)
    }
}

fn verdict(decision: &Decision) -> Option<Verdict> {
    (decision.rung >= Rung::Degraded).then(|| Verdict {
        expiry_ns: decision.expires_ns,
        decision: decision.id,
        rung: decision.rung.number(),
        spare: 0,
        // The general ceiling holds for what the gate lets through.
        packets: Ceiling::UNLIMITED,
    })
}
