//! The same judgement at TC ingress, for interfaces where XDP cannot be had. This file alone turns a reason into the
//! classifier's verdict. A VLAN tag that the driver took off is not seen here, and what GRO has joined is one packet.

use core::{ffi::c_void, mem::MaybeUninit};

use aya_ebpf::{bindings::__sk_buff, helpers::generated::bpf_skb_load_bytes, macros::classifier, programs::TcContext};
use gateway_common::{
    judge::judge,
    packet::{Cursor, parse},
    reason::Outcome,
};

use crate::{
    frame::{Integer, Words},
    handshake::HostBehind,
    tables, tally,
};

/// On to the next classifier, if there is one.
const TC_ACT_UNSPEC: i32 = -1;
const TC_ACT_SHOT: i32 = 2;

/// The entry point.
#[classifier]
pub fn gateway_tc(ctx: TcContext) -> i32 {
    let frame_bytes = u64::from(ctx.len());
    // Apart, so that no value of a packet that there is not lies on the stack: without CAP_PERFMON the verifier refuses.
    let packet = match parse(Near::new(&ctx)) {
        Ok(packet) => packet,
        Err(unparsed) => {
            tally::count(Outcome { reason: unparsed.into(), shadow: false }, frame_bytes);
            return TC_ACT_UNSPEC;
        }
    };
    let judgement = judge(&tables::Maps(HostBehind(&ctx)), Ok(packet), frame_bytes);
    tally::count(judgement.outcome, frame_bytes);
    if judgement.outcome.reason.drops() {
        tally::sample(&judgement, Ok(packet), frame_bytes, |to, count| head(&ctx, to, count));
    }
    if judgement.outcome.drops() { TC_ACT_SHOT } else { TC_ACT_UNSPEC }
}

#[inline(always)]
fn head(ctx: &TcContext, to: *mut c_void, count: u32) {
    // SAFETY: the helper checks the range against the packet; the caller owns `count` bytes at `to`.
    unsafe { bpf_skb_load_bytes(ctx.skb.skb.cast(), 0, to, count) };
}

/// A position at a distance from the packet's start that the compiler knows.
#[derive(Clone, Copy)]
struct Near {
    at: usize,
    end: usize,
    far: Far,
}

/// A position anywhere.
#[derive(Clone, Copy)]
pub struct Far {
    skb: *mut __sk_buff,
    offset: u32,
}

impl Near {
    #[inline(always)]
    fn new(ctx: &TcContext) -> Self {
        Self { at: ctx.data(), end: ctx.data_end(), far: Far { skb: ctx.skb.skb, offset: 0 } }
    }
}

impl Cursor for Near {
    #[inline(always)]
    fn bytes<const N: usize>(self) -> Option<[u8; N]> {
        if self.at + N > self.end {
            // Drivers may leave the first buffer short.
            return self.far.bytes();
        }
        // SAFETY: the N bytes at `at` lie below the buffer's end, as just compared; an array of bytes has no alignment.
        Some(unsafe { *(self.at as *const [u8; N]) })
    }

    #[inline(always)]
    fn skip(self, count: usize) -> Self {
        Self { at: self.at + count, far: self.far.jump(count), ..self }
    }

    type Far = Far;

    #[inline(always)]
    fn jump(self, count: usize) -> Far {
        self.far.jump(count)
    }
}

impl Cursor for Far {
    #[inline(always)]
    fn bytes<const N: usize>(self) -> Option<[u8; N]> {
        self.read()
    }

    #[inline(always)]
    fn skip(self, count: usize) -> Self {
        self.jump(count)
    }

    type Far = Self;

    #[inline(always)]
    fn jump(self, count: usize) -> Self {
        Self { offset: self.offset + count as u32, ..self }
    }
}

impl Words for Far {
    #[inline(always)]
    fn read<T: Integer, const N: usize>(self) -> Option<[T; N]> {
        let mut out = MaybeUninit::<[T; N]>::uninit();
        let bytes = size_of::<[T; N]>() as u32;
        // SAFETY: the helper checks the range against the packet, and writes as many bytes as are named.
        let result = unsafe { bpf_skb_load_bytes(self.skb.cast(), self.offset, out.as_mut_ptr().cast(), bytes) };
        // SAFETY: the helper wrote all of them, as it says, and every pattern of bits is an integer.
        if result == 0 { Some(unsafe { out.assume_init() }) } else { None }
    }
}

/// The start of the packet.
#[inline(always)]
pub fn start(skb: *mut __sk_buff) -> Far {
    Far { skb, offset: 0 }
}
