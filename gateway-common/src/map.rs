//! The maps' keys and values, byte for byte. A change of anything here is a new [`ABI`]: the program passes everything
//! if the settings carry another number. Every map has one writer, named beside it.

use core::sync::atomic::AtomicU64;

use crate::{gcra::Ceiling, source::Source};

/// The number of this layout.
pub const ABI: u32 = 1;

/// Names of the maps and of the program in the object.
pub mod name {
    /// The XDP program.
    pub const PROGRAM: &str = "gateway";
    /// The same judgement as a classifier at TC ingress.
    pub const CLASSIFIER: &str = "gateway_tc";
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
    /// Array of [`super::Cell`]. Writer: the kernel.
    pub const CELLS: &str = "CELLS";
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
/// Bytes of the ring buffer of events.
pub const EVENTS_BYTES: u32 = 65_536;

/// Index in the pulse: nanoseconds of the monotonic clock when the control plane last lived.
pub const PULSE_HEARTBEAT: u32 = 0;
/// Index in the pulse: not zero means that everything passes.
pub const PULSE_KILL: u32 = 1;
/// Words of the pulse.
pub const PULSE_WORDS: u32 = 2;

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
    assert!(size_of::<Settings>() == 96);
    assert!(size_of::<Source>() == 16);
    assert!(size_of::<Verdict>() == 40);
    assert!(size_of::<Cell>() == 32);
    assert!(size_of::<Counter>() == 16);
    assert!(size_of::<Event>() == 48 + EVENT_HEAD_BYTES);
};

#[cfg(feature = "user")]
#[allow(unsafe_code)]
mod pod {
    use super::{Counter, Settings, Source, Verdict};

    // SAFETY: `repr(C)`, plain integers throughout, no padding (the sizes asserted above are the sums of the fields),
    // every bit pattern is a value.
    unsafe impl aya::Pod for Settings {}
    // SAFETY: as above.
    unsafe impl aya::Pod for Source {}
    // SAFETY: as above.
    unsafe impl aya::Pod for Verdict {}
    // SAFETY: as above.
    unsafe impl aya::Pod for Counter {}
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
    };
}
