//! What the gateway sends, entered in the book on its way out of the interface. It must not decide anything.

use core::{
    intrinsics::{AtomicOrdering::Relaxed, atomic_xadd},
    mem::MaybeUninit,
    sync::atomic::AtomicU64,
};

use aya_ebpf::{
    bindings::{__sk_buff, BPF_NOEXIST},
    helpers::generated::bpf_skb_load_bytes,
    programs::TcContext,
};
use gateway_common::{
    charge::Words,
    clock::Clock,
    egress::{Book, enter},
    map::{Allowance, Flow, Payer, Sent, Settings, Spent, Standing},
    packet::{Cursor, parse_sent},
    source::{Address, Source},
};

use crate::{
    tables::{
        ALLOWANCES, EGRESS, KernelClock, PAYERS, PULSE, SETTINGS, SPENT, STANDINGS, compare_exchange, is_never_drop,
        is_protected, load,
    },
    tally,
};

/// Enters a packet; false if it is to be dropped.
#[inline(always)]
pub fn enter_packet(ctx: &TcContext) -> bool {
    let skb = ctx.skb.skb;
    // SAFETY: the context is the one that the kernel gave to this run (the field exists since Linux 5.0).
    let wire_bytes = u64::from(unsafe { (*skb).wire_len });
    let Some(outcome) = enter(&Account, parse_sent(Skb { skb, offset: 0 }), wire_bytes) else { return true };
    tally::count(outcome, wire_bytes);
    !outcome.drops()
}

/// A position in a packet that the host sends. Its headers may lie in parts: all of it is read by a helper.
#[derive(Clone, Copy)]
struct Skb {
    skb: *mut __sk_buff,
    offset: u32,
}

impl Cursor for Skb {
    #[inline(always)]
    fn bytes<const N: usize>(self) -> Option<[u8; N]> {
        let mut out = MaybeUninit::<[u8; N]>::uninit();
        // SAFETY: the helper checks the range against the packet, and writes N bytes.
        let result = unsafe { bpf_skb_load_bytes(self.skb.cast(), self.offset, out.as_mut_ptr().cast(), N as u32) };
        // SAFETY: the helper wrote all of them, as it says.
        if result == 0 { Some(unsafe { out.assume_init() }) } else { None }
    }

    #[inline(always)]
    fn skip(self, count: usize) -> Self {
        Self { offset: self.offset + count as u32, ..self }
    }

    type Far = Self;

    #[inline(always)]
    fn jump(self, count: usize) -> Self {
        self.skip(count)
    }
}

/// The maps, as the book sees them.
struct Account;

impl Book for Account {
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
    fn account(&self, source: Source) -> Option<&Sent> {
        // SAFETY: the map is preallocated and its words are atomic; an account that is taken over within this run gets
        // at worst one packet of another.
        unsafe { EGRESS.get(source) }
    }

    #[inline(always)]
    fn open(&self, source: Source) -> Option<&Sent> {
        let mut fresh = MaybeUninit::<Sent>::uninit();
        let words = fresh.as_mut_ptr().cast::<u64>();
        // Word by word and volatile: a loop over the stack loads only with CAP_PERFMON.
        // SAFETY: three words are all of it, and zeroes are a value.
        let fresh = unsafe {
            words.write_volatile(0);
            words.add(1).write_volatile(0);
            words.add(2).write_volatile(0);
            fresh.assume_init_ref()
        };
        // Another CPU may have been faster: its account is the one.
        let _ = EGRESS.insert(source, fresh, u64::from(BPF_NOEXIST));
        self.account(source)
    }

    #[inline(always)]
    fn standing(&self, source: Source) -> Option<&Standing> {
        // SAFETY: as with verdicts.
        unsafe { STANDINGS.get(source) }
    }

    #[inline(always)]
    fn payer(&self, flow: &Flow) -> Option<&Payer> {
        // SAFETY: the map is preallocated; user space replaces a payer by another whole element, and one that is reused
        // within this run shows at worst another connection's payer.
        unsafe { PAYERS.get(flow) }
    }

    #[inline(always)]
    fn forget(&self, flow: &Flow) {
        // What is not there any more is forgotten.
        let _ = PAYERS.remove(flow);
    }

    #[inline(always)]
    fn allowance(&self, account: u32) -> Option<&Allowance> {
        ALLOWANCES.get(account)
    }

    #[inline(always)]
    fn spent(&self, account: u32) -> Option<&Spent> {
        SPENT.get(account)
    }

    #[inline(always)]
    fn add(word: &AtomicU64, units: u64) {
        // SAFETY: an aligned word of a map, written by atomic operations only.
        unsafe { atomic_xadd::<u64, u64, { Relaxed }>(word.as_ptr(), units) };
    }
}

impl Clock for Account {
    #[inline(always)]
    fn tick_ns(&self) -> u64 {
        KernelClock.tick_ns()
    }

    #[inline(always)]
    fn now_ns(&self) -> u64 {
        KernelClock.now_ns()
    }
}

impl Words for Account {
    #[inline(always)]
    fn load(word: &AtomicU64) -> u64 {
        load(word)
    }

    #[inline(always)]
    fn compare_exchange(word: &AtomicU64, seen: u64, next: u64) -> Result<(), u64> {
        compare_exchange(word, seen, next)
    }
}
