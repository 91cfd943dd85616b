//! What the configuration wants of the edge, as plain values. It must not know how any of it is carried out.

use std::{path::PathBuf, sync::Arc, time::Duration};

use gateway_common::{
    Ceiling,
    map::{self, Gate, HAS_CONSUMERS, HAS_EGRESS, HAS_GATE, HAS_NEIGHBOURHOODS, RunMode, SYNS_TOLD_AT_ONCE, Settings},
    source::v6_mask,
};
use ipnet::IpNet;

use super::accounts::Roll;

/// Whether the edge acts.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Mode {
    /// Nothing is attached, nothing is counted.
    #[default]
    Off,
    /// Everything is decided and counted, nothing is dropped.
    Shadow,
    /// Decisions are carried out.
    Enforce,
}

impl Mode {
    /// The word for logs, metrics and the status.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Off => "off",
            Self::Shadow => "shadow",
            Self::Enforce => "enforce",
        }
    }

    pub(super) fn run(self) -> RunMode {
        match self {
            Self::Off => RunMode::Off,
            Self::Shadow => RunMode::Shadow,
            Self::Enforce => RunMode::Enforce,
        }
    }
}

/// A ceiling as the operator writes it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Rate {
    /// Units (packets, bytes, connections) a second in the long run.
    pub per_second: u64,
    /// Units that may come at once.
    pub burst: u64,
}

/// Ceilings for each source; none means unlimited. They shed the excess and never create a verdict.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Ceilings {
    /// Packets to the protected ports.
    pub packets: Option<Rate>,
    /// Bytes of whole frames to the protected ports.
    pub bytes: Option<Rate>,
    /// New TCP connections to the protected ports.
    pub connections: Option<Rate>,
}

/// What to do where XDP cannot be had.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Fallback {
    /// The same judgement at TC ingress.
    #[default]
    Tc,
    /// The workers judge connections.
    None,
}

/// Everything that the edge is asked to do.
#[derive(Clone, PartialEq, Debug)]
pub struct Policy {
    /// Whether it acts.
    pub mode: Mode,
    /// Interfaces to attach to; none means that only the user-space executor works.
    pub interfaces: Vec<String>,
    /// Whether the slow generic mode is acceptable where the driver has no native one.
    pub allow_generic: bool,
    /// What to do where XDP cannot be had.
    pub fallback: Fallback,
    /// Folder on a bpffs in which links and maps outlive the process; none means that they die with it.
    pub pin: Option<PathBuf>,
    /// Whether what is pinned stays after a clean stop, for the next start.
    pub keep: bool,
    /// A file that takes the sampled drops, and its greatest size in bytes; there may be two of that size.
    pub pcap: Option<(PathBuf, u64)>,
    /// Whether the kernel keeps its verdicts when the control plane stops beating.
    pub hold: bool,
    /// Bits of an IPv6 address that make one source, 48–64.
    pub v6_prefix: u8,
    /// Never dropped, whatever else holds.
    pub never_drop: Vec<IpNet>,
    /// Proxies in front of the gateway: never dropped, and never blamed for what their clients do.
    pub trusted: Vec<IpNet>,
    /// Always dropped.
    pub deny: Vec<IpNet>,
    /// TCP and UDP ports of the gateway's own listeners: nothing else on the host is touched.
    pub ports: Vec<u16>,
    /// Ceilings for each source.
    pub ceilings: Ceilings,
    /// Ceilings that all sources of an IPv4 /24 or IPv6 /48 share: the excess is shed, whoever sent it.
    pub neighbourhood: Ceilings,
    /// A source whose credentials were accepted lately has 2^`raise` times the general ceilings; zero means the same.
    pub raise: u32,
    /// Whether what is sent to each source is counted in the kernel, and up to what it is sent.
    pub egress: Option<EgressPolicy>,
    /// What happens under a flood of SYNs whose senders may be forged; none means that strangers are never told apart.
    pub gate: Option<GatePolicy>,
    /// Cells for the ceilings, rounded up to a power of two (32 bytes each).
    pub cells: u32,
    /// Verdicts held at once.
    pub verdicts_max: u32,
    /// The ladder from the requests seen to verdicts; none means that nothing is ever escalated.
    pub ladder: Option<LadderPolicy>,
}

impl Default for Policy {
    fn default() -> Self {
        Self {
            mode: Mode::Off,
            interfaces: Vec::new(),
            allow_generic: false,
            fallback: Fallback::default(),
            pin: None,
            keep: false,
            pcap: None,
            hold: false,
            v6_prefix: gateway_common::source::V6_PREFIX,
            never_drop: Vec::new(),
            trusted: Vec::new(),
            deny: Vec::new(),
            ports: Vec::new(),
            ceilings: Ceilings::default(),
            neighbourhood: Ceilings::default(),
            raise: 2,
            egress: None,
            gate: Some(GatePolicy::default()),
            cells: 65_536,
            verdicts_max: 65_536,
            ladder: Some(LadderPolicy::default()),
        }
    }
}

/// What is taken from other gateways, and under which name this one is known to them.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct FleetPolicy {
    /// This gateway's name, for people.
    pub name: Box<str>,
    /// Verdicts of others held at once.
    pub verdicts_max: u32,
    /// Notices of others heard in a second; further ones are not.
    pub per_second: u32,
}

/// What is sent.
#[derive(Clone, PartialEq, Debug)]
pub struct EgressPolicy {
    /// Bytes a second on the wire to one source; none means counted only.
    pub bytes: Option<Rate>,
    /// Sources counted at once (some 100 bytes each, taken at start); the least recently seen makes room.
    pub sources_max: u32,
    /// Whether what is sent to each consumer is counted too, over all its connections, and up to what it is sent.
    pub consumers: Option<ConsumersPolicy>,
}

impl Default for EgressPolicy {
    fn default() -> Self {
        Self { bytes: None, sources_max: map::EGRESS_DEFAULT, consumers: None }
    }
}

/// What is sent to consumers.
#[derive(Clone, PartialEq, Debug)]
pub struct ConsumersPolicy {
    /// Bytes a second on the wire to one consumer; none means counted only.
    pub bytes: Option<Rate>,
    /// The same for the consumers of a group, in place of `bytes`; by the group's name or id.
    pub groups: Vec<(String, Rate)>,
    /// Consumers with an account (80 bytes each, taken at start).
    pub consumers_max: u32,
    /// Who they are, and what holds for each.
    pub roll: Arc<Roll>,
}

impl Default for ConsumersPolicy {
    fn default() -> Self {
        let (groups, roll) = (Vec::new(), Arc::default());
        Self { bytes: None, groups, consumers_max: map::CONSUMERS_DEFAULT, roll }
    }
}

/// The gate that strangers find closed under pressure.
#[derive(Clone, PartialEq, Debug)]
pub struct GatePolicy {
    /// New connections a second, from all sources together, that are pressure. Half of that keeps it up.
    pub syns: u64,
    /// How long it lasts after the last excess.
    pub hold: Duration,
    /// New connections a second that strangers are granted together meanwhile; beyond it they are asked for a SYN
    /// cookie.
    pub stranger_syns: u64,
    /// Packets a second that strangers are granted together meanwhile which belong to no connection.
    pub stranger_packets: u64,
    /// Whether the host may be told to give SYN cookies always while the pressure lasts (`net.ipv4.tcp_syncookies`).
    pub arm_cookies: bool,
    /// Sources remembered to have completed a handshake (some 90 bytes each, taken at start).
    pub verified_max: u32,
}

impl Default for GatePolicy {
    fn default() -> Self {
        Self {
            syns: 20_000,
            hold: Duration::from_secs(10),
            stranger_syns: 1_000,
            stranger_packets: 10_000,
            arm_cookies: true,
            verified_max: map::VERIFIED_DEFAULT,
        }
    }
}

impl GatePolicy {
    fn gate(&self) -> Gate {
        // A tenth of a second's worth may come at once: shorter peaks are no flood.
        let meter = |per_second: u64| Ceiling::new(per_second, (per_second / 10).max(2 * SYNS_TOLD_AT_ONCE));
        let budget = |per_second: u64| Ceiling::new(per_second, per_second / 10);
        Gate {
            enter: meter(self.syns),
            stay: meter(self.syns / 2),
            hold_ns: u64::try_from(self.hold.as_nanos()).unwrap_or(u64::MAX / 4),
            syns: budget(self.stranger_syns),
            packets: budget(self.stranger_packets),
        }
    }
}

/// The ladder's evidence and durations.
#[derive(Clone, PartialEq, Debug)]
pub struct LadderPolicy {
    /// Strikes (requests sent before Retry-After is over) that degrade a source.
    pub degrade_after: u32,
    /// Within this time.
    pub degrade_window: Duration,
    /// How long a source stays degraded.
    pub degrade_for: Duration,
    /// Failed requests (400, 401) in one run, within the same window, that count like `degrade_after` strikes.
    pub failures_run: u32,
    /// How long the first SYN gate lasts; it doubles with each further one.
    pub gate_for: Duration,
    /// The longest verdict.
    pub gate_max: Duration,
    /// Strikes over connections that outlived the gate, within the window, that drop the source altogether.
    pub drop_after: u32,
    /// How long earlier verdicts lengthen the next one.
    pub memory: Duration,
    /// How long a neighbour's good answers protect the source they share.
    pub neighbour_window: Duration,
    /// Sources watched at once: some 800 bytes each, taken when they are first seen.
    pub sources_max: u32,
}

impl Default for LadderPolicy {
    fn default() -> Self {
        Self {
            degrade_after: 20,
            degrade_window: Duration::from_secs(10),
            degrade_for: Duration::from_secs(30),
            failures_run: 20,
            gate_for: Duration::from_secs(60),
            gate_max: Duration::from_secs(3_600),
            drop_after: 50,
            memory: Duration::from_secs(3_600),
            neighbour_window: Duration::from_secs(300),
            sources_max: 65_536,
        }
    }
}

/// Age of the heartbeat above which the kernel passes everything.
const STALE_NS: u64 = 5_000_000_000;
/// A frame may be as long as this; a smaller burst of bytes would let none through.
pub(super) const BURST_BYTES_MIN: u64 = 131_072;

impl Policy {
    /// What is asked for consumers.
    pub(super) fn consumers(&self) -> Option<&ConsumersPolicy> {
        self.egress.as_ref().and_then(|egress| egress.consumers.as_ref())
    }

    /// As the kernel wants it; the lists are the writer's business.
    pub(super) fn settings(&self, seed: [u64; 2], cells: u32) -> Settings {
        let own = self.ceilings.ceilings();
        let gate = self.gate.as_ref().map(GatePolicy::gate);
        let mut lists = if gate.is_some() { HAS_GATE } else { 0 };
        let egress = Ceilings { bytes: self.egress.as_ref().and_then(|egress| egress.bytes), ..Ceilings::default() };
        if self.egress.is_some() {
            lists |= HAS_EGRESS;
        }
        if self.consumers().is_some() {
            lists |= HAS_CONSUMERS;
        }
        if self.neighbourhood != Ceilings::default() {
            lists |= HAS_NEIGHBOURHOODS;
        }
        Settings {
            mode: self.mode.run() as u32,
            stale_ns: if self.hold { 0 } else { STALE_NS },
            v6_mask: v6_mask(self.v6_prefix),
            seed,
            cells_mask: cells - 1,
            lists,
            packets: own.packets,
            bytes: own.bytes,
            connections: own.connections,
            neighbourhood: self.neighbourhood.ceilings(),
            gate: gate.unwrap_or(Gate::OPEN),
            sent: egress.ceilings().bytes,
            ..Settings::OFF
        }
    }
}

impl Ceilings {
    fn ceilings(&self) -> map::Ceilings {
        let ceiling = |rate: Option<Rate>, burst_min: u64| match rate {
            Some(rate) => Ceiling::new(rate.per_second, rate.burst.max(burst_min)),
            None => Ceiling::UNLIMITED,
        };
        map::Ceilings {
            packets: ceiling(self.packets, 1),
            bytes: ceiling(self.bytes, BURST_BYTES_MIN),
            connections: ceiling(self.connections, 1),
        }
    }
}
