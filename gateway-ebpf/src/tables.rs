//! The maps, and the judgement's view of them. It must not decide anything.

use core::{
    intrinsics::{AtomicOrdering::Relaxed, atomic_cxchg},
    sync::atomic::AtomicU64,
};

use aya_ebpf::{
    helpers::generated::{bpf_get_prandom_u32, bpf_ktime_get_coarse_ns, bpf_ktime_get_ns},
    macros::map,
    maps::{Array, HashMap, LpmTrie, LruHashMap, PerCpuArray, RingBuf, lpm_trie::Key},
};
use gateway_common::{
    charge::Words,
    clock::Clock,
    judge::{Proof, Tables},
    map::{
        Allowance, CELLS_DEFAULT, CONSUMERS_DEFAULT, Cell, Counter, Cut, EGRESS_DEFAULT, EVENTS_BYTES, FLOWS_MAX, Flow,
        LIST_ENTRIES_MAX, LISTENERS_WORDS, NEIGHBOURHOOD_CELLS, PAYERS_DEFAULT, PULSE_WORDS, Payer, Pressure,
        STANDINGS_MAX, Sent, Settings, Spent, Standing, VERDICTS_DEFAULT, VERIFIED_DEFAULT, Verdict, Verified,
        listener_bit,
    },
    packet::Packet,
    reason,
    source::{Address, Source},
};

#[map]
pub static SETTINGS: Array<Settings> = Array::with_max_entries(1, 0);
#[map]
pub static PULSE: Array<u64> = Array::with_max_entries(PULSE_WORDS, 0);
#[map]
static LISTENERS: Array<u64> = Array::with_max_entries(LISTENERS_WORDS, 0);
#[map]
static NEVER_DROP: LpmTrie<[u8; 16], u32> = LpmTrie::with_max_entries(LIST_ENTRIES_MAX, 0);
#[map]
static DENY_CIDR: LpmTrie<[u8; 16], u32> = LpmTrie::with_max_entries(LIST_ENTRIES_MAX, 0);
#[map]
static VERDICTS: HashMap<Source, Verdict> = HashMap::with_max_entries(VERDICTS_DEFAULT, 0);
#[map]
pub static EGRESS: LruHashMap<Source, Sent> = LruHashMap::with_max_entries(EGRESS_DEFAULT, 0);
#[map]
pub static PAYERS: LruHashMap<Flow, Payer> = LruHashMap::with_max_entries(PAYERS_DEFAULT, 0);
#[map]
pub static ALLOWANCES: Array<Allowance> = Array::with_max_entries(CONSUMERS_DEFAULT, 0);
#[map]
pub static SPENT: Array<Spent> = Array::with_max_entries(CONSUMERS_DEFAULT, 0);
#[map]
static FLOWS: HashMap<Flow, Cut> = HashMap::with_max_entries(FLOWS_MAX, 0);
#[map]
pub static STANDINGS: HashMap<Source, Standing> = HashMap::with_max_entries(STANDINGS_MAX, 0);
#[map]
pub static VERIFIED: LruHashMap<Source, Verified> = LruHashMap::with_max_entries(VERIFIED_DEFAULT, 0);
#[map]
static NEIGHBOURHOODS: Array<Cell> = Array::with_max_entries(NEIGHBOURHOOD_CELLS, 0);
#[map]
static PRESSURE: Array<Pressure> = Array::with_max_entries(1, 0);
#[map]
static SYNS: PerCpuArray<u64> = PerCpuArray::with_max_entries(1, 0);
#[map]
static CELLS: Array<Cell> = Array::with_max_entries(CELLS_DEFAULT, 0);
#[map]
pub static COUNTERS: PerCpuArray<Counter> = PerCpuArray::with_max_entries(reason::COUNTERS, 0);
#[map]
pub static EVENTS: RingBuf = RingBuf::with_byte_size(EVENTS_BYTES, 0);
#[map]
pub static EVENTS_TAT: Array<u64> = Array::with_max_entries(1, 0);

/// What a hook can find out about the packet in hand beyond its bytes.
pub trait Evidence {
    /// What it shows for itself.
    fn proof(&self, packet: &Packet) -> Proof;
}

/// All of the above.
pub struct Maps<E>(pub E);

/// What the kernel's clock shows.
pub struct KernelClock;

impl Clock for KernelClock {
    #[inline(always)]
    fn tick_ns(&self) -> u64 {
        // SAFETY: no arguments; CLOCK_MONOTONIC_COARSE (Linux 5.11).
        unsafe { bpf_ktime_get_coarse_ns() }
    }

    #[inline(always)]
    fn now_ns(&self) -> u64 {
        // SAFETY: no arguments; CLOCK_MONOTONIC.
        unsafe { bpf_ktime_get_ns() }
    }
}

/// Whether the port is one of the gateway's own.
#[inline(always)]
pub fn is_protected(protocol: u8, port: u16) -> bool {
    let (word, bit) = listener_bit(protocol, port);
    LISTENERS.get(word).is_some_and(|ports| ports & bit != 0)
}

/// Whether the address is never dropped.
#[inline(always)]
pub fn is_never_drop(address: Address) -> bool {
    NEVER_DROP.get(Key::new(128, address.octets())).is_some()
}

/// What the word holds.
#[inline(always)]
pub fn load(word: &AtomicU64) -> u64 {
    // SAFETY: an aligned word; on this target a volatile load of 64 bits is one instruction, as a relaxed one is,
    // for which instruction set v3 has no other.
    unsafe { word.as_ptr().read_volatile() }
}

/// Puts `next` into the word if it still holds `seen`.
#[inline(always)]
pub fn compare_exchange(word: &AtomicU64, seen: u64, next: u64) -> Result<(), u64> {
    // SAFETY: an aligned word of a map, written by atomic operations only. The instruction exists from Linux 5.12
    // and instruction set v3 on.
    let (held, done) = unsafe { atomic_cxchg::<u64, { Relaxed }, { Relaxed }>(word.as_ptr(), seen, next) };
    if done { Ok(()) } else { Err(held) }
}

impl<E: Evidence> Tables for Maps<E> {
    #[inline(always)]
    fn settings(&self) -> Option<&Settings> {
        SETTINGS.get(0)
    }

    #[inline(always)]
    fn pulse(&self, index: u32) -> u64 {
        PULSE.get(index).copied().unwrap_or(0)
    }

    #[inline(always)]
    fn is_protected(&self, protocol: u8, port: u16) -> bool {
        is_protected(protocol, port)
    }

    #[inline(always)]
    fn is_never_drop(&self, address: Address) -> bool {
        is_never_drop(address)
    }

    #[inline(always)]
    fn is_denied(&self, address: Address) -> bool {
        DENY_CIDR.get(Key::new(128, address.octets())).is_some()
    }

    #[inline(always)]
    fn verdict(&self, source: Source) -> Option<&Verdict> {
        // SAFETY: the map is preallocated, so the entry's memory stays; user space replaces a verdict by another whole
        // element, and a removed element that is reused within this run shows at worst another source's verdict.
        unsafe { VERDICTS.get(source) }
    }

    #[inline(always)]
    fn cut(&self, flow: &Flow) -> Option<&Cut> {
        // SAFETY: as with verdicts.
        unsafe { FLOWS.get(flow) }
    }

    #[inline(always)]
    fn standing(&self, source: Source) -> Option<&Standing> {
        // SAFETY: as with verdicts.
        unsafe { STANDINGS.get(source) }
    }

    #[inline(always)]
    fn neighbourhood(&self, index: u32) -> Option<&Cell> {
        NEIGHBOURHOODS.get(index)
    }

    #[inline(always)]
    fn pressure(&self) -> Option<&Pressure> {
        PRESSURE.get(0)
    }

    #[inline(always)]
    fn is_verified(&self, source: Source) -> bool {
        VERIFIED.get_ptr(source).is_some()
    }

    #[inline(always)]
    fn proof(&self, packet: &Packet) -> Proof {
        self.0.proof(packet)
    }

    #[inline(always)]
    fn count_syn(&self) -> u64 {
        let Some(count) = SYNS.get_ptr_mut(0) else { return 1 };
        // SAFETY: this CPU's own element; neither hook's program is interrupted by another one on the same CPU.
        unsafe {
            *count += 1;
            *count
        }
    }

    #[inline(always)]
    fn cell(&self, index: u32) -> Option<&Cell> {
        CELLS.get(index)
    }

    #[inline(always)]
    fn random(&self) -> u32 {
        // SAFETY: no arguments.
        unsafe { bpf_get_prandom_u32() }
    }
}

impl<E> Clock for Maps<E> {
    #[inline(always)]
    fn tick_ns(&self) -> u64 {
        KernelClock.tick_ns()
    }

    #[inline(always)]
    fn now_ns(&self) -> u64 {
        KernelClock.now_ns()
    }
}

impl<E> Words for Maps<E> {
    #[inline(always)]
    fn load(word: &AtomicU64) -> u64 {
        load(word)
    }

    #[inline(always)]
    fn compare_exchange(word: &AtomicU64, seen: u64, next: u64) -> Result<(), u64> {
        compare_exchange(word, seen, next)
    }
}
