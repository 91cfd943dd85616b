//! The order in which a packet is judged: one function for the kernel and for the user-space executor, which differ only
//! in where their tables lie. Cheap exits first. What expires is compared with the clock's last tick, which costs next to
//! nothing; the clock itself is read where the tick cannot tell, at most once.

use core::sync::atomic::AtomicU64;

use crate::{
    charge::{Charged, Words, charge},
    clock::{Clock, Reading},
    gate,
    gcra::Ceiling,
    map::{
        ABI, Ceilings, Cell, Cut, Flow, HAS_DENY, HAS_FLOWS, HAS_GATE, HAS_NEIGHBOURHOODS, HAS_NEVER_DROP,
        HAS_STANDINGS, HAS_VERDICTS, NEIGHBOURHOOD_CELLS, PULSE_HEARTBEAT, PULSE_KILL, Pressure, RunMode, Settings,
        Standing, Verdict, rung,
    },
    packet::{Packet, TCP, Unparsed},
    reason::{Outcome, Reason},
    source::{Address, Source},
};

/// One new connection in this many passes the gate (a power of two).
const PROBE_ONE_IN: u32 = 64;

/// What a packet of a stranger can show for itself.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Proof {
    /// The host knows its connection.
    Connection,
    /// It acknowledges a SYN cookie of this host.
    Cookie,
    /// Nothing.
    None,
}

/// Where the executor's tables lie.
pub trait Tables: Words + Clock {
    /// The settings in force.
    fn settings(&self) -> Option<&Settings>;
    /// A word of the pulse.
    fn pulse(&self, index: u32) -> u64;
    /// Whether the port is one of the gateway's own.
    fn is_protected(&self, protocol: u8, port: u16) -> bool;
    /// Whether the address is on the never-drop list.
    fn is_never_drop(&self, address: Address) -> bool;
    /// Whether the address is on the deny list.
    fn is_denied(&self, address: Address) -> bool;
    /// The verdict on a source, expired or not.
    fn verdict(&self, source: Source) -> Option<&Verdict>;
    /// The order to cut a connection, expired or not.
    fn cut(&self, flow: &Flow) -> Option<&Cut>;
    /// The standing of a source, expired or not.
    fn standing(&self, source: Source) -> Option<&Standing>;
    /// The cell with this index.
    fn cell(&self, index: u32) -> Option<&Cell>;
    /// The neighbourhoods' cell with this index.
    fn neighbourhood(&self, index: u32) -> Option<&Cell>;
    /// The gate's state.
    fn pressure(&self) -> Option<&Pressure>;
    /// Whether the source has completed a handshake lately.
    fn is_verified(&self, source: Source) -> bool;
    /// What the packet in hand can show for itself.
    fn proof(&self, packet: &Packet) -> Proof;
    /// Counts a SYN; how many this CPU has counted.
    fn count_syn(&self) -> u64;
    /// Any 32 bits that the sender cannot foresee.
    fn random(&self) -> u32;
}

/// What was decided, and by which decision's record (zero: none).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Judgement {
    /// How the packet leaves.
    pub outcome: Outcome,
    /// The decision behind it, or zero.
    pub decision: u64,
    /// The clock's tick before the judgement; zero if it was not read.
    pub tick_ns: u64,
}

impl Judgement {
    #[inline(always)]
    const fn pass(reason: Reason) -> Self {
        Self { outcome: Outcome { reason, shadow: false }, decision: 0, tick_ns: 0 }
    }
}

impl From<Unparsed> for Reason {
    #[inline(always)]
    fn from(unparsed: Unparsed) -> Self {
        match unparsed {
            Unparsed::Malformed => Self::Malformed,
            Unparsed::ManyTags => Self::ManyTags,
            Unparsed::Arp => Self::Arp,
            Unparsed::OtherEthertype => Self::OtherEthertype,
            Unparsed::Icmp => Self::Icmp,
            Unparsed::Fragment => Self::Fragment,
            Unparsed::ManyExtensions => Self::ManyExtensions,
            Unparsed::OtherProtocol => Self::OtherProtocol,
        }
    }
}

/// Judges one packet of `frame_bytes` bytes.
#[inline(always)]
pub fn judge(tables: &impl Tables, parsed: Result<Packet, Unparsed>, frame_bytes: u64) -> Judgement {
    let packet = match parsed {
        Ok(packet) => packet,
        Err(unparsed) => return Judgement::pass(unparsed.into()),
    };
    if !tables.is_protected(packet.protocol, packet.port) {
        return Judgement::pass(Reason::OtherPort);
    }
    let Some(settings) = tables.settings() else {
        return Judgement::pass(Reason::Off);
    };
    if settings.abi != ABI || settings.mode == RunMode::Off as u32 {
        return Judgement::pass(Reason::Off);
    }
    if tables.pulse(PULSE_KILL) != 0 {
        return Judgement::pass(Reason::Killed);
    }
    let time = Reading::new(tables);
    // A heartbeat later than the tick is fresh, not ancient.
    let age_ns = time.tick_ns().saturating_sub(tables.pulse(PULSE_HEARTBEAT));
    if settings.stale_ns != 0 && age_ns > settings.stale_ns {
        return Judgement::pass(Reason::Stale);
    }
    if settings.lists & HAS_NEVER_DROP != 0 && tables.is_never_drop(packet.address) {
        return Judgement::pass(Reason::NeverDrop);
    }
    let (reason, decision) = Weighing { tables, settings, packet: &packet, frame_bytes, time: &time }.weigh();
    let shadow = settings.mode == RunMode::Shadow as u32 && reason.drops();
    Judgement { outcome: Outcome { reason, shadow }, decision, tick_ns: time.tick_ns() }
}

/// A packet that nothing spares.
struct Weighing<'a, T> {
    tables: &'a T,
    settings: &'a Settings,
    packet: &'a Packet,
    frame_bytes: u64,
    time: &'a Reading<'a, T>,
}

impl<T: Tables> Weighing<'_, T> {
    /// Cut connections, verdict, deny list, gate, ceilings of the source, ceilings of its neighbourhood.
    #[inline(always)]
    fn weigh(&self) -> (Reason, u64) {
        let (settings, packet) = (self.settings, self.packet);
        if settings.lists & HAS_FLOWS != 0
            && let Some(decision) = self.cut()
        {
            return (Reason::Flow, decision);
        }
        let source = packet.address.source(settings.v6_mask);
        let mut ceilings =
            Ceilings { packets: settings.packets, bytes: settings.bytes, connections: settings.connections };
        let (mut passes_as, mut decision) = (Reason::Clean, 0);
        if settings.lists & HAS_VERDICTS != 0
            && let Some(verdict) = self.tables.verdict(source).filter(|verdict| self.time.is_before(verdict.expiry_ns))
        {
            decision = verdict.decision;
            passes_as = self.under(verdict);
            if passes_as.drops() {
                return (passes_as, decision);
            }
            if !verdict.packets.is_unlimited() {
                ceilings.packets = verdict.packets;
            }
        }
        if settings.lists & HAS_DENY != 0 && self.tables.is_denied(packet.address) {
            return (Reason::Deny, 0);
        }
        let mut is_verified = false;
        if settings.lists & HAS_GATE != 0 && gate::is_closed(self.tables, self.time.tick_ns()) {
            is_verified = self.tables.is_verified(source);
            if !is_verified {
                return (gate::stranger(self.tables, settings, packet, self.time), decision);
            }
        }
        let exceeded = self.bill(source, &ceilings);
        let exceeded = exceeded.or_else(|| if is_verified { None } else { self.neighbourhood(source) });
        if exceeded.is_none() && packet.opens && settings.lists & HAS_GATE != 0 && !is_verified {
            gate::meter(self.tables, &settings.gate.enter, settings.gate.hold_ns, self.time);
        }
        (exceeded.unwrap_or(passes_as), decision)
    }

    #[inline(always)]
    fn cut(&self) -> Option<u64> {
        if self.packet.protocol != TCP {
            return None;
        }
        let flow = Flow::new(self.packet.address, self.packet.sender_port, self.packet.port);
        self.tables.cut(&flow).filter(|cut| self.time.is_before(cut.expiry_ns)).map(|cut| cut.decision)
    }

    /// How a packet leaves that nothing but this verdict is held against.
    #[inline(always)]
    fn under(&self, verdict: &Verdict) -> Reason {
        if verdict.rung >= rung::DROPPED {
            return Reason::Drop;
        }
        if !self.packet.opens {
            return Reason::GateEstablished;
        }
        if self.tables.random() & (PROBE_ONE_IN - 1) != 0 { Reason::Gate } else { Reason::GateProbe }
    }

    /// Charges the source's cell; some reason means that a ceiling was met, or that the cell was too busy.
    #[inline(always)]
    fn bill(&self, source: Source, ceilings: &Ceilings) -> Option<Reason> {
        let cell = self.tables.cell(source.hash(self.settings.seed) & self.settings.cells_mask)?;
        if let Some(reason) = self.charge(source, &cell.packets, ceilings.packets, 1, Reason::Packets) {
            return Some(reason);
        }
        if let Some(reason) = self.charge(source, &cell.bytes, ceilings.bytes, self.frame_bytes, Reason::Bytes) {
            return Some(reason);
        }
        if !self.packet.opens {
            return None;
        }
        self.charge(source, &cell.connections, ceilings.connections, 1, Reason::Connections)
    }

    /// A source in good standing is looked up only once it meets the general ceiling.
    #[inline(always)]
    fn charge(
        &self,
        source: Source,
        tat: &AtomicU64,
        ceiling: Ceiling,
        units: u64,
        exceeded: Reason,
    ) -> Option<Reason> {
        match charge::<T>(tat, ceiling, units, self.time, 0) {
            Charged::Admitted => return None,
            Charged::Contended => return Some(Reason::Contention),
            Charged::Exceeded => {}
        }
        if self.settings.lists & HAS_STANDINGS == 0 {
            return Some(exceeded);
        }
        let standing = self.tables.standing(source).filter(|standing| self.time.is_before(standing.expiry_ns));
        match standing.map(|standing| charge::<T>(tat, ceiling, units, self.time, standing.raise)) {
            Some(Charged::Admitted) => None,
            _ => Some(exceeded),
        }
    }

    /// Charges the neighbourhood's cell: what is above its ceilings is shed, whoever sent it, so that the excess is
    /// shaped and nobody is cut off.
    #[inline(always)]
    fn neighbourhood(&self, source: Source) -> Option<Reason> {
        if self.settings.lists & HAS_NEIGHBOURHOODS == 0 {
            return None;
        }
        let index = source.neighbourhood().hash(self.settings.seed) & (NEIGHBOURHOOD_CELLS - 1);
        let cell = self.tables.neighbourhood(index)?;
        let ceilings = &self.settings.neighbourhood;
        let is_met = |tat, ceiling, units| charge::<T>(tat, ceiling, units, self.time, 0) == Charged::Exceeded;
        if is_met(&cell.packets, ceilings.packets, 1)
            || is_met(&cell.bytes, ceilings.bytes, self.frame_bytes)
            || self.packet.opens && is_met(&cell.connections, ceilings.connections, 1)
        {
            return Some(Reason::Prefix);
        }
        None
    }
}
