//! The maps' keys and values, byte for byte. A change of anything here is a new [`ABI`]: the program passes everything
//! if the settings carry another number. Every map has one writer, named beside it.

use core::sync::atomic::AtomicU64;

use crate::{gcra::Ceiling, source::Source};

/// The number of this layout.
pub const ABI: u32 = 4;

/// Names of the maps and of the program in the object.
pub mod name {
    /// The XDP program.
    pub const PROGRAM: &str = "gateway";
    /// The same judgement as a classifier at TC ingress.
    pub const CLASSIFIER: &str = "gateway_tc";
    /// The program that a cgroup runs when one of its sockets completes a handshake.
    pub const SOCKETS: &str = "gateway_sockets";
    /// The program that enters what is sent.
    pub const EGRESS_PROGRAM: &str = "gateway_egress";
    /// LRU hash of [`super::Source`] → [`super::Sent`]. Writer: the kernel.
    pub const EGRESS: &str = "EGRESS";
    /// LRU hash of [`super::Flow`] → [`super::Payer`]. Writer: user space; the kernel only takes out what an earlier
    /// connection between the same ends has left.
    pub const PAYERS: &str = "PAYERS";
    /// Array of [`super::Allowance`]. Writer: user space.
    pub const ALLOWANCES: &str = "ALLOWANCES";
    /// Array of [`super::Spent`], by the same index. Writer: the kernel; user space clears an account before it is
    /// opened.
    pub const SPENT: &str = "SPENT";
    /// Array of one [`super::Settings`]. Writer: user space.
    pub const SETTINGS: &str = "SETTINGS";
    /// Array of words, see [`super::PULSE_HEARTBEAT`]. Writer: user space, each word on its own.
    pub const PULSE: &str = "PULSE";
    /// Array of words, one bit a port, see [`super::listener_bit`]. Writer: user space.
    pub const LISTENERS: &str = "LISTENERS";
    /// Trie of address prefixes → list entry id. Writer: user space.
    pub const NEVER_DROP: &str = "NEVER_DROP";
    /// Trie of address prefixes → list entry id. Writer: user space.
    pub const DENY: &str = "DENY_CIDR";
    /// Preallocated hash of [`super::Source`] → [`super::Verdict`]. Writer: user space.
    pub const VERDICTS: &str = "VERDICTS";
    /// Preallocated hash of [`super::Flow`] → [`super::Cut`]. Writer: user space.
    pub const FLOWS: &str = "FLOWS";
    /// Preallocated hash of [`super::Source`] → [`super::Standing`]. Writer: user space.
    pub const STANDINGS: &str = "STANDINGS";
    /// LRU hash of [`super::Source`] → [`super::Verified`]. Only sources that completed a handshake are inserted.
    /// Writer: the program [`SOCKETS`] or, where it cannot be attached, user space.
    pub const VERIFIED: &str = "VERIFIED";
    /// Array of [`super::Cell`]. Writer: the kernel.
    pub const CELLS: &str = "CELLS";
    /// Array of [`super::Cell`], those of the neighbourhoods. Writer: the kernel.
    pub const NEIGHBOURHOODS: &str = "NEIGHBOURHOODS";
    /// Array of one [`super::Pressure`]. Writer: the kernel.
    pub const PRESSURE: &str = "PRESSURE";
    /// Per-CPU array of one word, the SYNs that this CPU let through. Writer: the kernel.
    pub const SYNS: &str = "SYNS";
    /// Per-CPU array of [`super::Counter`] by `Outcome::counter`. Writer: the kernel.
    pub const COUNTERS: &str = "COUNTERS";
    /// Ring buffer of [`super::Event`]. Writer: the kernel.
    pub const EVENTS: &str = "EVENTS";
    /// Array of one word, the TAT that keeps events rare. Writer: the kernel.
    pub const EVENTS_TAT: &str = "EVENTS_TAT";
}

/// Entries of each list of prefixes (a trie's look-up grows with its depth).
pub const LIST_ENTRIES_MAX: u32 = 1_024;
/// Words of the map of protected ports: 65,536 bits for TCP, then as many for UDP. A bitmap costs a fifth of a hash's
/// look-up, and every packet pays it.
pub const LISTENERS_WORDS: u32 = 2 * 65_536 / 64;
/// Cells unless configured otherwise.
pub const CELLS_DEFAULT: u32 = 65_536;
/// Verdicts unless configured otherwise.
pub const VERDICTS_DEFAULT: u32 = 65_536;
/// Connections cut at once.
pub const FLOWS_MAX: u32 = 16_384;
/// Sources whose ceilings are raised at once.
pub const STANDINGS_MAX: u32 = 65_536;
/// Sources remembered to have completed a handshake, unless configured otherwise.
pub const VERIFIED_DEFAULT: u32 = 65_536;
/// Sources whose bytes are counted, unless configured otherwise.
pub const EGRESS_DEFAULT: u32 = 65_536;
/// Accounts of consumers, unless configured otherwise.
pub const CONSUMERS_DEFAULT: u32 = 65_536;
/// Connections remembered to be on a consumer's account: as many as a gateway has, and as many again that have ended.
pub const PAYERS_DEFAULT: u32 = 131_072;
/// Cells of neighbourhoods (a power of two).
pub const NEIGHBOURHOOD_CELLS: u32 = 16_384;
/// SYNs that a CPU counts by itself before it tells the shared meter (a power of two).
pub const SYNS_TOLD_AT_ONCE: u64 = 32;
/// Bytes of the ring buffer of events.
pub const EVENTS_BYTES: u32 = 65_536;

/// Index in the pulse: nanoseconds of the monotonic clock when the control plane last lived.
pub const PULSE_HEARTBEAT: u32 = 0;
/// Index in the pulse: not zero means that everything passes.
pub const PULSE_KILL: u32 = 1;
/// Index in the pulse: nanoseconds of the monotonic clock until which user space holds the gate closed to strangers.
pub const PULSE_PRESSURE: u32 = 2;
/// Words of the pulse.
pub const PULSE_WORDS: u32 = 3;

/// Whether the program acts, as [`Settings::mode`].
#[repr(u32)]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum RunMode {
    /// Pass everything.
    Off = 0,
    /// Decide and count, drop nothing.
    Shadow = 1,
    /// Decide, count, drop.
    Enforce = 2,
}

/// In [`Settings::lists`]: there are never-drop prefixes.
pub const HAS_NEVER_DROP: u32 = 1;
/// In [`Settings::lists`]: there are denied prefixes.
pub const HAS_DENY: u32 = 2;
/// In [`Settings::lists`]: there are (or may soon be) verdicts.
pub const HAS_VERDICTS: u32 = 4;
/// In [`Settings::lists`]: there are (or may soon be) connections to cut.
pub const HAS_FLOWS: u32 = 8;
/// In [`Settings::lists`]: under pressure strangers are told from verified sources.
pub const HAS_GATE: u32 = 16;
/// In [`Settings::lists`]: neighbourhoods have ceilings.
pub const HAS_NEIGHBOURHOODS: u32 = 32;
/// In [`Settings::lists`]: there are (or may soon be) sources with raised ceilings.
pub const HAS_STANDINGS: u32 = 64;
/// In [`Settings::lists`]: what is sent is entered in the book.
pub const HAS_EGRESS: u32 = 128;
/// In [`Settings::lists`]: it is entered in the accounts of consumers too.
pub const HAS_CONSUMERS: u32 = 256;

/// What the program works by.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Settings {
    /// [`ABI`] of who wrote this.
    pub abi: u32,
    /// A [`RunMode`].
    pub mode: u32,
    /// Age of the heartbeat in nanoseconds above which everything passes; zero holds for ever.
    pub stale_ns: u64,
    /// `source::v6_mask` of the configured prefix.
    pub v6_mask: u64,
    /// Seed of `Source::hash`.
    pub seed: [u64; 2],
    /// The number of cells (a power of two) minus one.
    pub cells_mask: u32,
    /// Which lists have entries: an empty one is not looked into.
    pub lists: u32,
    /// Packets of a source.
    pub packets: Ceiling,
    /// Bytes of a source.
    pub bytes: Ceiling,
    /// New connections of a source.
    pub connections: Ceiling,
    /// What all sources of a neighbourhood share.
    pub neighbourhood: Ceilings,
    /// When strangers are shut out, and how much of them is let in then.
    pub gate: Gate,
    /// Bytes sent to a source.
    pub sent: Ceiling,
}

/// Three ceilings.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Ceilings {
    /// Packets.
    pub packets: Ceiling,
    /// Bytes.
    pub bytes: Ceiling,
    /// New connections.
    pub connections: Ceiling,
}

impl Ceilings {
    /// None.
    pub const UNLIMITED: Self =
        Self { packets: Ceiling::UNLIMITED, bytes: Ceiling::UNLIMITED, connections: Ceiling::UNLIMITED };
}

/// The gate under pressure. The rate that ends the pressure lies below the one that begins it.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Gate {
    /// SYNs let through that begin the pressure.
    pub enter: Ceiling,
    /// SYNs of strangers that keep it up.
    pub stay: Ceiling,
    /// Nanoseconds that it lasts after the last excess.
    pub hold_ns: u64,
    /// SYNs of all strangers together that are let through while it lasts.
    pub syns: Ceiling,
    /// Other packets of strangers that belong to no connection, let through while it lasts.
    pub packets: Ceiling,
}

impl Gate {
    /// Never closed.
    pub const OPEN: Self = Self {
        enter: Ceiling::UNLIMITED,
        stay: Ceiling::UNLIMITED,
        hold_ns: 0,
        syns: Ceiling::UNLIMITED,
        packets: Ceiling::UNLIMITED,
    };
}

/// Where a protected port's bit lies: the word's index and the bit in it. Only TCP and UDP have ports.
#[inline(always)]
#[must_use]
pub const fn listener_bit(protocol: u8, port: u16) -> (u32, u64) {
    let first = if protocol == crate::packet::UDP { LISTENERS_WORDS / 2 } else { 0 };
    (first + (port >> 6) as u32, 1 << (port & 63))
}

/// The rungs of the ladder that have a number.
pub mod rung {
    /// Nothing is known against the source.
    pub const OBSERVE: u32 = 0;
    /// Told to come later.
    pub const LIMITED: u32 = 1;
    /// One request at a time.
    pub const DEGRADED: u32 = 2;
    /// Its connections are cut one by one.
    pub const CUT: u32 = 3;
    /// No new connections but probes.
    pub const GATED: u32 = 4;
    /// Nothing.
    pub const DROPPED: u32 = 5;
}

/// A verdict on a source. The kernel checks the expiry itself.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Verdict {
    /// Nanoseconds of the monotonic clock.
    pub expiry_ns: u64,
    /// The decision's record.
    pub decision: u64,
    /// [`rung::GATED`] or [`rung::DROPPED`].
    pub rung: u32,
    /// Zero.
    pub spare: u32,
    /// The source's own ceiling of packets while the verdict lasts, in place of the general one.
    pub packets: Ceiling,
}

/// A TCP connection, as the client's end and the gateway's port name it.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Flow {
    /// The client's full address.
    pub address: crate::source::Address,
    /// The client's port.
    pub client_port: u16,
    /// The gateway's port.
    pub port: u16,
    /// Zero.
    pub spare: u32,
}

/// A connection that is cut. The kernel checks the expiry itself.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Cut {
    /// Nanoseconds of the monotonic clock.
    pub expiry_ns: u64,
    /// The decision's record.
    pub decision: u64,
}

/// A source whose ceilings are raised: who is known may do more.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Standing {
    /// Nanoseconds of the monotonic clock.
    pub expiry_ns: u64,
    /// Every ceiling is 2^`raise` times the general one.
    pub raise: u32,
    /// Zero.
    pub spare: u32,
}

/// A source that completed a handshake.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Verified {
    /// Nanoseconds of the monotonic clock, when the latest one was completed.
    pub at_ns: u64,
}

/// The state of the gate. What is read for every packet has a cache line of its own.
#[repr(C)]
#[derive(Debug, Default)]
pub struct Pressure {
    /// Nanoseconds of the monotonic clock; strangers are shut out until then.
    pub until_ns: AtomicU64,
    /// Not used.
    pub spare: [u64; 7],
    /// The meter of SYNs.
    pub meter: AtomicU64,
    /// Not used.
    pub spare_meter: [u64; 7],
    /// The strangers' budget of SYNs.
    pub syns: AtomicU64,
    /// Their budget of other packets.
    pub packets: AtomicU64,
    /// Not used.
    pub spare_budgets: [u64; 6],
}

/// A source's (or several colliding sources') ceilings: three theoretical arrival times.
#[repr(C)]
#[derive(Debug, Default)]
pub struct Cell {
    /// Of packets.
    pub packets: AtomicU64,
    /// Of bytes.
    pub bytes: AtomicU64,
    /// Of new connections.
    pub connections: AtomicU64,
    /// Not used.
    pub spare: AtomicU64,
}

/// What was sent to a source.
#[repr(C)]
#[derive(Debug, Default)]
pub struct Sent {
    /// Bytes on the wire, with every header that the segments of a large packet get there.
    pub bytes: AtomicU64,
    /// Packets as the host gave them to the interface: a large one counts once.
    pub packets: AtomicU64,
    /// The ceiling's theoretical arrival time.
    pub tat: AtomicU64,
}

/// On whose account a connection's packets are.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Payer {
    /// The account's index.
    pub account: u32,
    /// [`Allowance::epoch`] of whom it belonged to then.
    pub epoch: u32,
}

/// A consumer's account as user space has opened it.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Allowance {
    /// The consumer's id, the upper half first; zero is nobody.
    pub owner: [u64; 2],
    /// Bytes sent to the consumer.
    pub ceiling: Ceiling,
    /// Another number each time that the account is opened or closed, never zero: what was on the account before is not.
    pub epoch: u32,
    /// Zero.
    pub spare: u32,
}

/// What was sent to a consumer.
#[repr(C)]
#[derive(Debug, Default)]
pub struct Spent {
    /// Bytes on the wire, as in [`Sent`].
    pub bytes: AtomicU64,
    /// Packets as the host gave them to the interface.
    pub packets: AtomicU64,
    /// The ceiling's theoretical arrival time.
    pub tat: AtomicU64,
    /// Bytes above the ceiling: not sent, or in shadow mode sent all the same and counted above too.
    pub above_bytes: AtomicU64,
    /// Packets above the ceiling.
    pub above_packets: AtomicU64,
}

/// One CPU's count of one outcome.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Counter {
    /// Packets.
    pub packets: u64,
    /// Bytes of whole frames.
    pub bytes: u64,
}

/// Bytes of a frame kept in an event.
pub const EVENT_HEAD_BYTES: usize = 64;
/// Events a second at most, and at once.
pub const EVENTS_PER_SECOND: u64 = 100;

/// A sampled drop, or what would have been one.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Event {
    /// Nanoseconds of the monotonic clock.
    pub at_ns: u64,
    /// The full address.
    pub address: crate::source::Address,
    /// The decision behind it, or zero.
    pub decision: u64,
    /// The counter's index.
    pub outcome: u32,
    /// Bytes of the whole frame.
    pub frame_bytes: u32,
    /// The destination port in host order.
    pub port: u16,
    /// The IP protocol.
    pub protocol: u8,
    /// Bytes of `head` that are the frame's.
    pub head_bytes: u8,
    /// Zero.
    pub spare: u32,
    /// The frame's first bytes, in words only so that the kernel clears them in eight stores.
    pub head: [u64; EVENT_HEAD_BYTES / 8],
}

const _: () = {
    assert!(size_of::<Settings>() == 96 + 48 + 72 + 16);
    assert!(size_of::<Sent>() == 24);
    assert!(size_of::<Payer>() == 8);
    assert!(size_of::<Allowance>() == 40);
    assert!(size_of::<Spent>() == 40);
    assert!(size_of::<Ceilings>() == 48);
    assert!(size_of::<Gate>() == 72);
    assert!(size_of::<Flow>() == 24);
    assert!(size_of::<Cut>() == 16);
    assert!(size_of::<Standing>() == 16);
    assert!(size_of::<Verified>() == 8);
    assert!(size_of::<Pressure>() == 192);
    assert!(size_of::<Source>() == 16);
    assert!(size_of::<Verdict>() == 40);
    assert!(size_of::<Cell>() == 32);
    assert!(size_of::<Counter>() == 16);
    assert!(size_of::<Event>() == 48 + EVENT_HEAD_BYTES);
};

#[cfg(feature = "user")]
#[allow(unsafe_code)]
mod pod {
    use super::{Allowance, Counter, Cut, Flow, Payer, Settings, Source, Standing, Verdict, Verified};

    // SAFETY: `repr(C)`, plain integers throughout, no padding (the sizes asserted above are the sums of the fields),
    // every bit pattern is a value.
    unsafe impl aya::Pod for Settings {}
    // SAFETY: as above.
    unsafe impl aya::Pod for Source {}
    // SAFETY: as above.
    unsafe impl aya::Pod for Verdict {}
    // SAFETY: as above.
    unsafe impl aya::Pod for Counter {}
    // SAFETY: as above.
    unsafe impl aya::Pod for Flow {}
    // SAFETY: as above.
    unsafe impl aya::Pod for Cut {}
    // SAFETY: as above.
    unsafe impl aya::Pod for Standing {}
    // SAFETY: as above.
    unsafe impl aya::Pod for Verified {}
    // SAFETY: as above.
    unsafe impl aya::Pod for Payer {}
    // SAFETY: as above.
    unsafe impl aya::Pod for Allowance {}
}

impl Settings {
    /// Everything passes.
    pub const OFF: Self = Self {
        abi: ABI,
        mode: RunMode::Off as u32,
        stale_ns: 0,
        v6_mask: u64::MAX,
        seed: [0, 0],
        cells_mask: CELLS_DEFAULT - 1,
        lists: 0,
        packets: Ceiling::UNLIMITED,
        bytes: Ceiling::UNLIMITED,
        connections: Ceiling::UNLIMITED,
        neighbourhood: Ceilings::UNLIMITED,
        gate: Gate::OPEN,
        sent: Ceiling::UNLIMITED,
    };
}

impl Flow {
    /// Of the client's end and the gateway's port.
    #[inline(always)]
    #[must_use]
    pub const fn new(address: crate::source::Address, client_port: u16, port: u16) -> Self {
        Self { address, client_port, port, spare: 0 }
    }
}
