//! What is sent to a source, and over all its connections to a consumer: counted byte for byte, and held to a ceiling. Only
//! packets of connections open an account, so that answers to forged SYNs cannot fill the book. It must not know where the
//! book lies.

use core::sync::atomic::AtomicU64;

use crate::{
    charge::{Charged, Words, charge, is_exceeded},
    clock::{Clock, Reading},
    gcra::Ceiling,
    map::{
        ABI, Allowance, Flow, HAS_CONSUMERS, HAS_EGRESS, HAS_NEVER_DROP, HAS_STANDINGS, PULSE_HEARTBEAT, PULSE_KILL,
        Payer, RunMode, Sent, Settings, Spent, Standing,
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
    /// On whose account a connection is, of whatever epoch.
    fn payer(&self, flow: &Flow) -> Option<&Payer>;
    /// Forgets that.
    fn forget(&self, flow: &Flow);
    /// A consumer's account, as it was opened.
    fn allowance(&self, account: u32) -> Option<&Allowance>;
    /// What is on it.
    fn spent(&self, account: u32) -> Option<&Spent>;
    /// Adds to a word that others add to.
    fn add(word: &AtomicU64, units: u64);
}

/// A consumer's account, and its ceiling. Nobody has both as well: without CAP_PERFMON the verifier refuses to look at
/// what may not lie on the stack.
#[derive(Clone, Copy)]
struct Consumer<'a> {
    ceiling: Ceiling,
    spent: Option<&'a Spent>,
}

impl Consumer<'_> {
    const NOBODY: Self = Self { ceiling: Ceiling::UNLIMITED, spent: None };
}

/// Which ceiling a packet is above. A whole word: without CAP_PERFMON the verifier refuses half of one on the stack where a
/// pointer lay.
#[repr(u64)]
#[derive(Clone, Copy, PartialEq, Eq)]
enum Above {
    None,
    Source,
    Consumer,
}

/// Enters one packet, which was parsed as sent and has so many bytes on the wire; some outcome means that it is above
/// a ceiling.
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
    let has_consumers = settings.lists & HAS_CONSUMERS != 0;
    let consumer = if has_consumers { consumer(book, &packet) } else { Consumer::NOBODY };
    let source = packet.address.source(settings.v6_mask);
    let account = match book.account(source) {
        Some(account) => account,
        None if packet.opens => return None,
        None => book.open(source)?,
    };
    let is_limited = !settings.sent.is_unlimited() || !consumer.ceiling.is_unlimited();
    let above = if is_limited { above(book, settings, (source, account), consumer, wire_bytes) } else { Above::None };
    let spared = || settings.lists & HAS_NEVER_DROP != 0 && book.is_never_drop(packet.address);
    let above = if above == Above::None || spared() { Above::None } else { above };
    if above == Above::Consumer
        && let Some(spent) = consumer.spent
    {
        B::add(&spent.above_bytes, wire_bytes);
        B::add(&spent.above_packets, 1);
    }
    let reason = if above == Above::Consumer { Reason::ConsumerBandwidth } else { Reason::Bandwidth };
    let outcome = Outcome { reason, shadow: settings.mode == RunMode::Shadow as u32 };
    if above != Above::None && outcome.drops() {
        return Some(outcome);
    }
    B::add(&account.bytes, wire_bytes);
    B::add(&account.packets, 1);
    if let Some(spent) = consumer.spent {
        B::add(&spent.bytes, wire_bytes);
        B::add(&spent.packets, 1);
    }
    if above == Above::None { None } else { Some(outcome) }
}

/// On whose account the packet is. A connection that begins is on nobody's, whatever an earlier one between the same ends
/// was on.
#[inline(always)]
fn consumer<'a, B: Book>(book: &'a B, packet: &Packet) -> Consumer<'a> {
    let flow = Flow::new(packet.address, packet.sender_port, packet.port);
    // After `forget` the entry may be another connection's: nothing of it is read then.
    let Some(payer) = book.payer(&flow) else { return Consumer::NOBODY };
    if packet.opens {
        book.forget(&flow);
        return Consumer::NOBODY;
    }
    match book.allowance(payer.account) {
        Some(allowance) if allowance.epoch == payer.epoch => {
            Consumer { ceiling: allowance.ceiling, spent: book.spent(payer.account) }
        }
        _ => Consumer::NOBODY,
    }
}

/// Which ceiling the packet is above. It is charged to all of them or to none, but for a race between CPUs: whom one
/// ceiling slows down does not use the others up.
#[inline(always)]
fn above<B: Book>(
    book: &B,
    settings: &Settings,
    (source, account): (Source, &Sent),
    consumer: Consumer<'_>,
    wire_bytes: u64,
) -> Above {
    if book.pulse(PULSE_KILL) != 0 {
        return Above::None;
    }
    let time = Reading::new(book);
    let age_ns = time.tick_ns().saturating_sub(book.pulse(PULSE_HEARTBEAT));
    if settings.stale_ns != 0 && age_ns > settings.stale_ns {
        return Above::None;
    }
    if let Some(spent) = consumer.spent
        && is_exceeded::<B>(&spent.tat, consumer.ceiling, wire_bytes, &time)
    {
        return Above::Consumer;
    }
    if is_above(book, settings, source, account, &time, wire_bytes) {
        return Above::Source;
    }
    match consumer.spent {
        Some(spent) if charge::<B>(&spent.tat, consumer.ceiling, wire_bytes, &time, 0) == Charged::Exceeded => {
            Above::Consumer
        }
        _ => Above::None,
    }
}

/// Whether the packet is above its source's ceiling, which is charged otherwise.
#[inline(always)]
fn is_above<B: Book>(
    book: &B,
    settings: &Settings,
    source: Source,
    account: &Sent,
    time: &Reading<'_, B>,
    wire_bytes: u64,
) -> bool {
    if charge::<B>(&account.tat, settings.sent, wire_bytes, time, 0) != Charged::Exceeded {
        return false;
    }
    if settings.lists & HAS_STANDINGS == 0 {
        return true;
    }
    let standing = book.standing(source).filter(|standing| time.is_before(standing.expiry_ns));
    match standing {
        Some(standing) => {
            charge::<B>(&account.tat, settings.sent, wire_bytes, time, standing.raise) == Charged::Exceeded
        }
        None => true,
    }
}

#[cfg(test)]
mod tests;
