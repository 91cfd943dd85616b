//! The maps, and the judgement's view of them. It must not decide anything.

use core::{
    intrinsics::{AtomicOrdering::Relaxed, atomic_cxchg},
    sync::atomic::AtomicU64,
};

use aya_ebpf::{
    helpers::generated::{bpf_get_prandom_u32, bpf_ktime_get_ns},
    macros::map,
    maps::{Array, HashMap, LpmTrie, PerCpuArray, RingBuf, lpm_trie::Key},
};
use gateway_common::{
    judge::Tables,
    map::{
        CELLS_DEFAULT, Cell, Counter, EVENTS_BYTES, LIST_ENTRIES_MAX, LISTENERS_WORDS, PULSE_WORDS, Settings,
        VERDICTS_DEFAULT, Verdict, listener_bit,
    },
    reason,
    source::{Address, Source},
};

#[map]
static SETTINGS: Array<Settings> = Array::with_max_entries(1, 0);
#[map]
static PULSE: Array<u64> = Array::with_max_entries(PULSE_WORDS, 0);
#[map]
static LISTENERS: Array<u64> = Array::with_max_entries(LISTENERS_WORDS, 0);
#[map]
static NEVER_DROP: LpmTrie<[u8; 16], u32> = LpmTrie::with_max_entries(LIST_ENTRIES_MAX, 0);
#[map]
static DENY_CIDR: LpmTrie<[u8; 16], u32> = LpmTrie::with_max_entries(LIST_ENTRIES_MAX, 0);
#[map]
static VERDICTS: HashMap<Source, Verdict> = HashMap::with_max_entries(VERDICTS_DEFAULT, 0);
#[map]
static CELLS: Array<Cell> = Array::with_max_entries(CELLS_DEFAULT, 0);
#[map]
pub static COUNTERS: PerCpuArray<Counter> = PerCpuArray::with_max_entries(reason::COUNTERS, 0);
#[map]
pub static EVENTS: RingBuf = RingBuf::with_byte_size(EVENTS_BYTES, 0);
#[map]
pub static EVENTS_TAT: Array<u64> = Array::with_max_entries(1, 0);

/// All of the above.
pub struct Maps;

impl Tables for Maps {
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
        let (word, bit) = listener_bit(protocol, port);
        LISTENERS.get(word).is_some_and(|ports| ports & bit != 0)
    }

    #[inline(always)]
    fn is_never_drop(&self, address: Address) -> bool {
        NEVER_DROP.get(Key::new(128, address.octets())).is_some()
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
    fn cell(&self, index: u32) -> Option<&Cell> {
        CELLS.get(index)
    }

    #[inline(always)]
    fn now_ns(&self) -> u64 {
        // SAFETY: no arguments; CLOCK_MONOTONIC.
        unsafe { bpf_ktime_get_ns() }
    }

    #[inline(always)]
    fn random(&self) -> u32 {
        // SAFETY: no arguments.
        unsafe { bpf_get_prandom_u32() }
    }

    #[inline(always)]
    fn load(word: &AtomicU64) -> u64 {
        // SAFETY: an aligned word; on this target a volatile load of 64 bits is one instruction, as a relaxed one is,
        // for which instruction set v3 has no other.
        unsafe { word.as_ptr().read_volatile() }
    }

    #[inline(always)]
    fn compare_exchange(word: &AtomicU64, seen: u64, next: u64) -> Result<(), u64> {
        // SAFETY: an aligned word of a map, written by atomic operations only. The instruction exists from Linux 5.12
        // and instruction set v3 on.
        let (held, done) = unsafe { atomic_cxchg::<u64, { Relaxed }, { Relaxed }>(word.as_ptr(), seen, next) };
        if done { Ok(()) } else { Err(held) }
    }
}
