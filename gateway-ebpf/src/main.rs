//! The XDP program. This file alone turns a reason into XDP_PASS, XDP_DROP or XDP_TX (`classify` does so for TC), and lets
//! a packet out or not; the order of the judgement is `gateway_common::judge`, the tables are `tables`, everything that
//! leaves is counted once in `tally`.
#![no_std]
#![no_main]
// Core's atomics lack compare-exchange for this target, though its instruction set has it.
#![allow(internal_features)]
#![feature(core_intrinsics)]

mod classify;
mod egress;
mod frame;
mod handshake;
mod sockets;
mod tables;
mod tally;

use aya_ebpf::{
    bindings::{TC_ACT_SHOT, TC_ACT_UNSPEC, xdp_action},
    macros::{classifier, sock_ops, xdp},
    programs::{SockOpsContext, TcContext, XdpContext},
};
use gateway_common::{Reason, judge::judge, packet::parse, reason::Outcome};

/// The entry point. `frags`: frames larger than a page (jumbo, GRO) may come in parts.
#[xdp(frags)]
pub fn gateway(ctx: XdpContext) -> u32 {
    let parsed = parse(frame::Near::new(&ctx));
    let frame_bytes = frame::bytes(&ctx);
    let judgement = judge(&tables::Maps(handshake::Host(&ctx)), parsed, frame_bytes);
    if judgement.outcome.drops()
        && judgement.outcome.reason == Reason::Strangers
        && handshake::challenge(&ctx, frame_bytes)
    {
        tally::count(Outcome { reason: Reason::Challenged, shadow: false }, frame_bytes);
        return xdp_action::XDP_TX;
    }
    tally::count(judgement.outcome, frame_bytes);
    if judgement.outcome.reason.drops() {
        tally::sample(&judgement, parsed, frame_bytes, |to, count| frame::head(&ctx, to, count));
    }
    if judgement.outcome.drops() { xdp_action::XDP_DROP } else { xdp_action::XDP_PASS }
}

/// Told of every socket of the gateway's cgroup; it must let all of them be.
#[sock_ops]
pub fn gateway_sockets(ctx: SockOpsContext) -> u32 {
    sockets::note(&ctx);
    1
}

/// On an interface's way out.
#[classifier]
pub fn gateway_egress(ctx: TcContext) -> i32 {
    // Whoever comes after this program decides the rest.
    if egress::enter_packet(&ctx) { TC_ACT_UNSPEC } else { TC_ACT_SHOT as i32 }
}

#[panic_handler]
fn panic(_info: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}

/// The kernel lends its GPL-only helpers (`bpf_ktime_get_ns` among them) to programs that name a compatible licence.
#[unsafe(no_mangle)]
#[unsafe(link_section = "license")]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
