//! What is sent to a source: counted byte for byte, and held to a ceiling. Only packets of connections open an account,
//! so that answers to forged SYNs cannot fill the book. It must not know where the book lies.

use core::sync::atomic::AtomicU64;

use crate::{
    charge::{Charged, Words, charge},
    clock::{Clock, Reading},
    map::{
        ABI, HAS_EGRESS, HAS_NEVER_DROP, HAS_STANDINGS, PULSE_HEARTBEAT, PULSE_KILL, RunMode, Sent, Settings, Standing,
    },
    packet::{Packet, TCP, Unparsed},
    reason::{Outcome, Reason},
    source::{Address, Source},
};

/// Where the executor's book lies.
pub trait Book: Words + Clock {
    /// The settings in force.
    fn settings(&self) -> Option<&Settings>;
    /// A word of the pulse.
    fn pulse(&self, index: u32) -> u64;
    /// Whether the port is one of the gateway's own.
    fn is_protected(&self, protocol: u8, port: u16) -> bool;
    /// Whether the address is never dropped.
    fn is_never_drop(&self, address: Address) -> bool;
    /// The source's account.
    fn account(&self, source: Source) -> Option<&Sent>;
    /// Opens one.
    fn open(&self, source: Source) -> Option<&Sent>;
    /// The standing of a source, expired or not.
    fn standing(&self, source: Source) -> Option<&Standing>;
    /// Adds to a word that others add to.
    fn add(word: &AtomicU64, units: u64);
}

/// Enters one packet, which was parsed as sent and has so many bytes on the wire; some outcome means that it is above
/// the ceiling.
#[inline(always)]
pub fn enter<B: Book>(book: &B, parsed: Result<Packet, Unparsed>, wire_bytes: u64) -> Option<Outcome> {
    let packet = parsed.ok().filter(|packet| packet.protocol == TCP)?;
    if !book.is_protected(packet.protocol, packet.port) {
        return None;
    }
    let settings = book.settings()?;
    if settings.abi != ABI || settings.lists & HAS_EGRESS == 0 || settings.mode == RunMode::Off as u32 {
        return None;
    }
    let source = packet.address.source(settings.v6_mask);
    let account = match book.account(source) {
        Some(account) => account,
        None if packet.opens => return None,
        None => book.open(source)?,
    };
    let spared = || settings.lists & HAS_NEVER_DROP != 0 && book.is_never_drop(packet.address);
    if !settings.sent.is_unlimited() && is_above(book, settings, source, account, wire_bytes) && !spared() {
        let shadow = settings.mode == RunMode::Shadow as u32;
        if !shadow {
            return Some(Outcome { reason: Reason::Bandwidth, shadow });
        }
        count::<B>(account, wire_bytes);
        return Some(Outcome { reason: Reason::Bandwidth, shadow });
    }
    count::<B>(account, wire_bytes);
    None
}

#[inline(always)]
fn count<B: Book>(account: &Sent, wire_bytes: u64) {
    B::add(&account.bytes, wire_bytes);
    B::add(&account.packets, 1);
}

#[inline(always)]
fn is_above<B: Book>(book: &B, settings: &Settings, source: Source, account: &Sent, wire_bytes: u64) -> bool {
    if book.pulse(PULSE_KILL) != 0 {
        return false;
    }
    let time = Reading::new(book);
    let age_ns = time.tick_ns().saturating_sub(book.pulse(PULSE_HEARTBEAT));
    if settings.stale_ns != 0 && age_ns > settings.stale_ns {
        return false;
    }
    if charge::<B>(&account.tat, settings.sent, wire_bytes, &time, 0) != Charged::Exceeded {
        return false;
    }
    if settings.lists & HAS_STANDINGS == 0 {
        return true;
    }
    let standing = book.standing(source).filter(|standing| time.is_before(standing.expiry_ns));
    match standing {
        Some(standing) => {
            charge::<B>(&account.tat, settings.sent, wire_bytes, &time, standing.raise) == Charged::Exceeded
        }
        None => true,
    }
}
