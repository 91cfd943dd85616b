//! The gate: under a flood of SYNs whose senders are forged, ceilings per source hold nothing. Then sources that have
//! completed a handshake keep their own ceilings, and all strangers share one budget, so that the flood can fill only
//! that. Pressure is measured here, entered and left at different rates. It must not know who completed a handshake.

use core::sync::atomic::AtomicU64;

use crate::{
    charge::{Charged, charge},
    clock::Reading,
    gcra::Ceiling,
    judge::{Proof, Tables},
    map::{PULSE_PRESSURE, SYNS_TOLD_AT_ONCE, Settings},
    packet::{Packet, TCP},
    reason::Reason,
};

/// The end of the pressure is written no more often than this, so that the line which every packet reads stays shared.
const RENEWED_EVERY_NS: u64 = 50_000_000;

/// Whether strangers are shut out at this tick of the clock.
#[inline(always)]
pub fn is_closed<T: Tables>(tables: &T, tick_ns: u64) -> bool {
    tables.pressure().is_some_and(|pressure| T::load(&pressure.until_ns) > tick_ns)
        || tables.pulse(PULSE_PRESSURE) > tick_ns
}

/// Counts a SYN against `ceiling`. An excess is pressure, for `hold_ns` from now on.
#[inline(always)]
pub fn meter<T: Tables>(tables: &T, ceiling: &Ceiling, hold_ns: u64, time: &Reading<'_, T>) {
    // A CPU counts by itself first: one word shared by all would cost more than all the rest.
    if tables.count_syn() & (SYNS_TOLD_AT_ONCE - 1) != 0 {
        return;
    }
    let Some(pressure) = tables.pressure() else { return };
    if charge::<T>(&pressure.meter, *ceiling, SYNS_TOLD_AT_ONCE, time, 0) == Charged::Exceeded {
        close::<T>(&pressure.until_ns, time.tick_ns(), hold_ns);
    }
}

#[inline(always)]
fn close<T: Tables>(until_ns: &AtomicU64, tick_ns: u64, hold_ns: u64) {
    let seen = T::load(until_ns);
    let until = tick_ns.wrapping_add(hold_ns);
    if seen.wrapping_add(RENEWED_EVERY_NS) < until {
        // A lost race means that somebody else has just written the same.
        let _ = T::compare_exchange(until_ns, seen, until);
    }
}

/// How a stranger's packet leaves while the gate is closed.
#[inline(always)]
pub fn stranger<T: Tables>(tables: &T, settings: &Settings, packet: &Packet, time: &Reading<'_, T>) -> Reason {
    let gate = &settings.gate;
    let Some(pressure) = tables.pressure() else { return Reason::Stranger };
    if packet.opens {
        meter(tables, &gate.stay, gate.hold_ns, time);
        return match charge::<T>(&pressure.syns, gate.syns, 1, time, 0) {
            Charged::Admitted => Reason::Stranger,
            _ => Reason::Strangers,
        };
    }
    if packet.protocol == TCP {
        match tables.proof(packet) {
            Proof::Connection => return Reason::StrangerConnection,
            Proof::Cookie => return Reason::Cookie,
            Proof::None => {}
        }
    }
    match charge::<T>(&pressure.packets, gate.packets, 1, time, 0) {
        Charged::Admitted => Reason::Stranger,
        _ => Reason::StrangerPackets,
    }
}
