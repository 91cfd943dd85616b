//! What leaves is counted, and a few drops are shown. It must not change an outcome.

use core::{ffi::c_void, sync::atomic::AtomicU64};
use gateway_common::{
    Address,
    clock::{Clock as _, Moment},
    gcra::decide,
    judge::Judgement,
    map::{EVENT_HEAD_BYTES, EVENTS_PER_SECOND, Event},
    packet::{Packet, Unparsed},
    reason::Outcome,
};

use crate::tables::{COUNTERS, EVENTS, EVENTS_TAT, KernelClock, compare_exchange, load};

/// Nanoseconds between two events, and of the burst.
const EVENT_NS: u64 = 1_000_000_000 / EVENTS_PER_SECOND;
const EVENTS_DEPTH_NS: u64 = 1_000_000_000;
/// The shortest frame that parses: Ethernet, IPv4, UDP.
const PARSED_BYTES_MIN: u32 = 14 + 20 + 8;

/// The one exit that counts.
#[inline(always)]
pub fn count(outcome: Outcome, frame_bytes: u64) {
    if let Some(counter) = COUNTERS.get_ptr_mut(outcome.counter()) {
        // SAFETY: this CPU's own element; neither hook's program is interrupted by another one on the same CPU.
        unsafe {
            (*counter).packets += 1;
            (*counter).bytes += frame_bytes;
        }
    }
}

/// Sends an event unless there were enough of them. `copy` writes the frame's first bytes, as many as it is told.
#[inline(always)]
pub fn sample(
    judgement: &Judgement,
    parsed: Result<Packet, Unparsed>,
    frame_bytes: u64,
    copy: impl FnOnce(*mut c_void, u32),
) {
    let Ok(packet) = parsed else { return };
    if !is_due(judgement.tick_ns) {
        return;
    }
    emit(judgement, packet, frame_bytes, copy);
}

/// One attempt: a lost race is a lost event.
#[inline(always)]
fn is_due(tick_ns: u64) -> bool {
    let Some(word) = EVENTS_TAT.get_ptr_mut(0) else { return false };
    // SAFETY: an aligned word of the map, written by atomic operations only.
    let tat = unsafe { AtomicU64::from_ptr(word) };
    let seen = load(tat);
    let Some(next) = decide(seen, Moment::exactly(tick_ns), EVENT_NS, EVENTS_DEPTH_NS) else { return false };
    compare_exchange(tat, seen, next).is_ok()
}

#[inline(always)]
fn emit(judgement: &Judgement, packet: Packet, frame_bytes: u64, copy: impl FnOnce(*mut c_void, u32)) {
    let Some(mut slot) = EVENTS.reserve::<Event>(0) else { return };
    // Two constants, because the verifier wants to see that the length is never zero.
    let head_bytes = if frame_bytes < EVENT_HEAD_BYTES as u64 { PARSED_BYTES_MIN } else { EVENT_HEAD_BYTES as u32 };
    let address: Address = packet.address;
    slot.write(Event {
        at_ns: KernelClock.now_ns(),
        address,
        decision: judgement.decision,
        outcome: judgement.outcome.counter(),
        frame_bytes: frame_bytes as u32,
        port: packet.port,
        protocol: packet.protocol,
        head_bytes: head_bytes as u8,
        spare: 0,
        head: [0; EVENT_HEAD_BYTES / 8],
    });
    // SAFETY: `write` above made the whole event; `head` holds at least `head_bytes` bytes.
    let head = unsafe { (&raw mut (*slot.as_mut_ptr()).head).cast() };
    // A frame that cannot be copied is shown without its head.
    copy(head, head_bytes);
    slot.submit(0);
}
