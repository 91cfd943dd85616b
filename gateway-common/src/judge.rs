//! The order in which a packet is judged: one function for the kernel and for the user-space executor, which differ only
//! in where their tables lie. Cheap exits first; the clock is read once, and only for a packet of a protected port.

use core::sync::atomic::AtomicU64;

use crate::{
    gcra::{Ceiling, decide},
    map::{
        ABI, Cell, HAS_DENY, HAS_NEVER_DROP, HAS_VERDICTS, PULSE_HEARTBEAT, PULSE_KILL, RunMode, Settings, Verdict,
        rung,
    },
    packet::{Packet, Unparsed},
    reason::{Outcome, Reason},
    source::{Address, Source},
};

/// Attempts at one cell before a packet passes unbilled.
const ATTEMPTS_MAX: usize = 3;
/// One new connection in this many passes the gate (a power of two).
const PROBE_ONE_IN: u32 = 64;

/// Where the executor's tables lie.
pub trait Tables {
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
    /// The cell with this index.
    fn cell(&self, index: u32) -> Option<&Cell>;
    /// Nanoseconds of the monotonic clock.
    fn now_ns(&self) -> u64;
    /// Any 32 bits that the sender cannot foresee.
    fn random(&self) -> u32;
    /// What the word holds.
    fn load(word: &AtomicU64) -> u64;
    /// Puts `next` into the word if it still holds `seen`, else says what it holds. (Core's own
    /// methods do not compile for the kernel's target.)
    fn compare_exchange(word: &AtomicU64, seen: u64, next: u64) -> Result<(), u64>;
}

/// What was decided, and by which decision's record (zero: none).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Judgement {
    /// How the packet leaves.
    pub outcome: Outcome,
    /// The decision behind it, or zero.
    pub decision: u64,
    /// The time of the judgement; zero if the clock was not read.
    pub now_ns: u64,
}

impl Judgement {
    #[inline(always)]
    const fn pass(reason: Reason) -> Self {
        Self { outcome: Outcome { reason, shadow: false }, decision: 0, now_ns: 0 }
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
    let now = tables.now_ns();
    // A heartbeat ahead of this CPU's clock is fresh, not ancient.
    let age_ns = now.saturating_sub(tables.pulse(PULSE_HEARTBEAT));
    if settings.stale_ns != 0 && age_ns > settings.stale_ns {
        return Judgement::pass(Reason::Stale);
    }
    if settings.lists & HAS_NEVER_DROP != 0 && tables.is_never_drop(packet.address) {
        return Judgement::pass(Reason::NeverDrop);
    }
    let (reason, decision) = weigh(tables, settings, packet, frame_bytes, now);
    let shadow = settings.mode == RunMode::Shadow as u32 && reason.drops();
    Judgement { outcome: Outcome { reason, shadow }, decision, now_ns: now }
}

/// Verdict, deny list, ceilings.
#[inline(always)]
fn weigh<T: Tables>(tables: &T, settings: &Settings, packet: Packet, frame_bytes: u64, now: u64) -> (Reason, u64) {
    let source = packet.address.source(settings.v6_mask);
    let verdict = if settings.lists & HAS_VERDICTS != 0 { tables.verdict(source) } else { None };
    let verdict = verdict.filter(|verdict| verdict.expiry_ns > now);
    let mut passes_as = Reason::Clean;
    let mut packets = settings.packets;
    let mut decision = 0;
    if let Some(verdict) = verdict {
        decision = verdict.decision;
        if verdict.rung >= rung::DROPPED {
            return (Reason::Drop, decision);
        }
        passes_as = Reason::GateEstablished;
        if packet.opens {
            if tables.random() & (PROBE_ONE_IN - 1) != 0 {
                return (Reason::Gate, decision);
            }
            passes_as = Reason::GateProbe;
        }
        if !verdict.packets.is_unlimited() {
            packets = verdict.packets;
        }
    }
    if settings.lists & HAS_DENY != 0 && tables.is_denied(packet.address) {
        return (Reason::Deny, 0);
    }
    let index = source.hash(settings.seed) & settings.cells_mask;
    let Some(cell) = tables.cell(index) else {
        return (passes_as, decision);
    };
    let ceilings = Ceilings { packets, bytes: settings.bytes, connections: settings.connections };
    let bill = bill::<T>(cell, ceilings, packet.opens, frame_bytes, now);
    (bill.unwrap_or(passes_as), decision)
}

struct Ceilings {
    packets: Ceiling,
    bytes: Ceiling,
    connections: Ceiling,
}

/// Charges the cell; some reason means that a ceiling was met, or that the cell was too busy.
#[inline(always)]
fn bill<T: Tables>(cell: &Cell, ceilings: Ceilings, opens: bool, frame_bytes: u64, now: u64) -> Option<Reason> {
    if let Some(reason) = charge::<T>(&cell.packets, ceilings.packets, 1, now, Reason::Packets) {
        return Some(reason);
    }
    if let Some(reason) = charge::<T>(&cell.bytes, ceilings.bytes, frame_bytes, now, Reason::Bytes) {
        return Some(reason);
    }
    if !opens {
        return None;
    }
    charge::<T>(&cell.connections, ceilings.connections, 1, now, Reason::Connections)
}

#[inline(always)]
fn charge<T: Tables>(tat: &AtomicU64, ceiling: Ceiling, units: u64, now: u64, exceeded: Reason) -> Option<Reason> {
    if ceiling.is_unlimited() {
        return None;
    }
    let cost_ns = ceiling.cost_ns(units);
    let mut seen = T::load(tat);
    for _ in 0..ATTEMPTS_MAX {
        let Some(next) = decide(seen, now, cost_ns, ceiling.depth_ns()) else {
            return Some(exceeded);
        };
        match T::compare_exchange(tat, seen, next) {
            Ok(()) => return None,
            Err(other) => seen = other,
        }
    }
    Some(Reason::Contention)
}
