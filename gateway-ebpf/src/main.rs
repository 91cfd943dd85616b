//! The XDP program. This file alone turns a reason into XDP_PASS or XDP_DROP (`classify` does so for TC); the order of
//! the judgement is `gateway_common::judge`, the tables are `tables`, everything that leaves is counted once in `tally`.
#![no_std]
#![no_main]
// Core's atomics lack compare-exchange for this target, though its instruction set has it.
#![allow(internal_features)]
#![feature(core_intrinsics)]

mod classify;
mod frame;
mod tables;
mod tally;

use aya_ebpf::{bindings::xdp_action, macros::xdp, programs::XdpContext};
use gateway_common::{judge::judge, packet::parse};

/// The entry point. `frags`: frames larger than a page (jumbo, GRO) may come in parts.
#[xdp(frags)]
pub fn gateway(ctx: XdpContext) -> u32 {
    let parsed = parse(frame::Near::new(&ctx));
    let frame_bytes = frame::bytes(&ctx);
    let judgement = judge(&tables::Maps, parsed, frame_bytes);
    tally::count(judgement.outcome, frame_bytes);
    if judgement.outcome.reason.drops() {
        tally::sample(&judgement, parsed, frame_bytes, |to, count| frame::head(&ctx, to, count));
    }
    if judgement.outcome.drops() { xdp_action::XDP_DROP } else { xdp_action::XDP_PASS }
}

#[panic_handler]
fn panic(_info: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}

/// The kernel lends its GPL-only helpers (`bpf_ktime_get_ns` among them) to programs that name a compatible licence.
#[unsafe(no_mangle)]
#[unsafe(link_section = "license")]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
