//! The judgement over a book that lies in the test's own memory.

use core::cell::{Cell, RefCell};
use std::{boxed::Box, collections::HashMap, vec::Vec};

use super::*;
use crate::clock::TICK_NS_MAX;

const START: u64 = 1_000_000_000_000;
const PORT: u16 = 8_000;
const FRAME: u64 = 1_514;

struct Memory {
    settings: Settings,
    now_ns: Cell<u64>,
    kill: Cell<u64>,
    beat_ns: Cell<u64>,
    never_drop: bool,
    sources: RefCell<HashMap<Source, &'static Sent>>,
    payers: RefCell<HashMap<Flow, &'static Payer>>,
    allowances: RefCell<Vec<&'static Allowance>>,
    spent: Vec<Spent>,
}

impl Memory {
    fn new(mode: RunMode, of_source: Ceiling, of_consumers: &[Ceiling]) -> Self {
        let allowance = |ceiling: &Ceiling| allowance(*ceiling, 7);
        Self {
            settings: Settings {
                mode: mode as u32,
                stale_ns: 5_000_000_000,
                lists: HAS_EGRESS | HAS_CONSUMERS | HAS_NEVER_DROP,
                sent: of_source,
                ..Settings::OFF
            },
            now_ns: Cell::new(START),
            kill: Cell::new(0),
            beat_ns: Cell::new(START),
            never_drop: false,
            sources: RefCell::default(),
            payers: RefCell::default(),
            allowances: RefCell::new(of_consumers.iter().map(allowance).collect()),
            spent: of_consumers.iter().map(|_| Spent::default()).collect(),
        }
    }

    /// Puts a connection on an account.
    fn recognise(&self, packet: Packet, account: u32) {
        let flow = Flow::new(packet.address, packet.sender_port, packet.port);
        self.payers.borrow_mut().insert(flow, Box::leak(Box::new(Payer { account, epoch: 7 })));
    }

    fn enter(&self, packet: Packet) -> Option<&'static str> {
        enter(self, Ok(packet), FRAME).map(Outcome::name)
    }

    /// So many packets at once; the bytes of those that were sent.
    fn send(&self, packet: Packet, count: u64) -> u64 {
        (0..count).filter(|_| !enter(self, Ok(packet), FRAME).is_some_and(Outcome::drops)).count() as u64 * FRAME
    }

    /// Bytes, packets, bytes above.
    fn on(&self, account: usize) -> [u64; 3] {
        let spent = &self.spent[account];
        [&spent.bytes, &spent.packets, &spent.above_bytes].map(Self::load)
    }
}

fn allowance(ceiling: Ceiling, epoch: u32) -> &'static Allowance {
    Box::leak(Box::new(Allowance { owner: [0, 1], ceiling, epoch, spare: 0 }))
}

fn packet(host: u8, client_port: u16) -> Packet {
    let address = Address::v4([192, 0, 2, host]);
    Packet { address, protocol: TCP, port: PORT, sender_port: client_port, opens: false }
}

impl Words for Memory {
    fn load(word: &AtomicU64) -> u64 {
        word.load(core::sync::atomic::Ordering::Relaxed)
    }

    fn compare_exchange(word: &AtomicU64, seen: u64, next: u64) -> Result<(), u64> {
        let relaxed = core::sync::atomic::Ordering::Relaxed;
        word.compare_exchange(seen, next, relaxed, relaxed).map(drop)
    }
}

impl Clock for Memory {
    fn tick_ns(&self) -> u64 {
        self.now_ns.get() / TICK_NS_MAX * TICK_NS_MAX
    }

    fn now_ns(&self) -> u64 {
        self.now_ns.get()
    }
}

impl Book for Memory {
    fn settings(&self) -> Option<&Settings> {
        Some(&self.settings)
    }

    fn pulse(&self, index: u32) -> u64 {
        if index == PULSE_KILL { self.kill.get() } else { self.beat_ns.get() }
    }

    fn is_protected(&self, _protocol: u8, port: u16) -> bool {
        port == PORT
    }

    fn is_never_drop(&self, _address: Address) -> bool {
        self.never_drop
    }

    fn account(&self, source: Source) -> Option<&Sent> {
        self.sources.borrow().get(&source).copied()
    }

    fn open(&self, source: Source) -> Option<&Sent> {
        self.sources.borrow_mut().insert(source, Box::leak(Box::default()));
        self.account(source)
    }

    fn standing(&self, _source: Source) -> Option<&Standing> {
        None
    }

    fn payer(&self, flow: &Flow) -> Option<&Payer> {
        self.payers.borrow().get(flow).copied()
    }

    fn forget(&self, flow: &Flow) {
        self.payers.borrow_mut().remove(flow);
    }

    fn allowance(&self, account: u32) -> Option<&Allowance> {
        self.allowances.borrow().get(account as usize).copied()
    }

    fn spent(&self, account: u32) -> Option<&Spent> {
        self.spent.get(account as usize)
    }

    fn add(word: &AtomicU64, units: u64) {
        word.fetch_add(units, core::sync::atomic::Ordering::Relaxed);
    }
}

/// A hundred frames at once, ten a second.
fn hundred() -> Ceiling {
    Ceiling::new(10 * FRAME, 100 * FRAME)
}

#[test]
fn a_consumer_has_one_ceiling_over_all_its_connections_and_takes_nothing_from_its_neighbours() {
    let book = Memory::new(RunMode::Enforce, Ceiling::UNLIMITED, &[hundred(), hundred()]);
    let (home, office, neighbour) = (packet(1, 40_000), packet(2, 40_000), packet(1, 50_000));
    book.recognise(home, 0);
    book.recognise(office, 0);
    book.recognise(neighbour, 1);
    assert_eq!(book.send(home, 60), 60 * FRAME);
    let rest = book.send(office, 60);
    // The tick may hold back a 64th of the burst.
    assert!((38 * FRAME..=40 * FRAME).contains(&rest), "{rest}");
    assert_eq!(book.enter(home), Some("consumer_bandwidth"));
    assert_eq!(book.send(neighbour, 60), 60 * FRAME, "another one behind the same address");
    let [bytes, packets, above] = book.on(0);
    assert_eq!(bytes, 60 * FRAME + rest);
    assert_eq!((packets, above), (bytes / FRAME, 121 * FRAME - bytes));
    assert_eq!(book.on(1), [60 * FRAME, 60, 0]);

    let after = START + 2_000_000_000;
    book.now_ns.set(after);
    book.beat_ns.set(after);
    assert!((19 * FRAME..=21 * FRAME).contains(&book.send(office, 60)), "two seconds are twenty frames");
}

#[test]
fn what_one_ceiling_refuses_is_not_charged_to_the_other() {
    // One byte more than the frames, for what is rounded up.
    let (narrow, wide) = (Ceiling::new(FRAME, 10 * FRAME + 1), Ceiling::new(FRAME, 1_000 * FRAME + 1));
    let slow = packet(1, 40_000);
    let book = Memory::new(RunMode::Enforce, wide, &[narrow]);
    book.recognise(slow, 0);
    assert_eq!(book.send(slow, 5_000), 10 * FRAME);
    // A stranger behind the address has all that the consumer did not get.
    let stranger = packet(1, 50_000);
    assert_eq!(book.send(stranger, 5_000), 990 * FRAME);
    assert_eq!(book.enter(stranger), Some("bandwidth"));

    let book = Memory::new(RunMode::Enforce, narrow, &[wide]);
    let (here, there) = (packet(1, 40_000), packet(2, 40_000));
    book.recognise(here, 0);
    book.recognise(there, 0);
    assert_eq!(book.send(here, 5_000), 10 * FRAME);
    assert_eq!(book.enter(here), Some("bandwidth"));
    assert_eq!(book.send(there, 5_000), 10 * FRAME, "the source's ceiling, with the consumer's hardly touched");
    assert_eq!(book.on(0), [20 * FRAME, 20, 0]);
}

#[test]
fn shadow_sends_and_counts_and_nothing_is_dropped_by_order_without_a_beat_or_for_the_spared() {
    let one = packet(1, 40_000);
    let narrow = Ceiling::new(1, FRAME);
    let shadow = Memory::new(RunMode::Shadow, Ceiling::UNLIMITED, &[narrow]);
    shadow.recognise(one, 0);
    assert_eq!(shadow.send(one, 10), 10 * FRAME);
    assert_eq!(shadow.enter(one), Some("shadow_consumer_bandwidth"));
    assert_eq!(shadow.on(0), [11 * FRAME, 11, 10 * FRAME]);

    let mut book = Memory::new(RunMode::Enforce, Ceiling::UNLIMITED, &[narrow]);
    book.recognise(one, 0);
    assert_eq!(book.send(one, 10), FRAME);
    book.kill.set(1);
    assert_eq!(book.send(one, 10), 10 * FRAME);
    book.kill.set(0);
    book.beat_ns.set(START - 6_000_000_000);
    assert_eq!(book.send(one, 10), 10 * FRAME);
    book.beat_ns.set(START);
    assert_eq!(book.send(one, 10), 0);
    book.never_drop = true;
    assert_eq!(book.send(one, 10), 10 * FRAME);
    assert_eq!(book.on(0)[0], 31 * FRAME);
}

#[test]
fn a_new_connection_or_a_new_owner_is_on_nobodys_account() {
    let mut book = Memory::new(RunMode::Enforce, Ceiling::UNLIMITED, &[Ceiling::new(1, FRAME)]);
    let one = packet(1, 40_000);
    book.recognise(one, 0);
    assert_eq!(book.send(one, 10), FRAME);
    // SYN and ACK: another connection between the same ends.
    assert_eq!(book.enter(Packet { opens: true, ..one }), None);
    assert_eq!(book.send(one, 10), 10 * FRAME);
    book.recognise(one, 0);
    assert_eq!(book.send(one, 10), 0);
    book.allowances.borrow_mut()[0] = allowance(Ceiling::new(1, FRAME), 8);
    assert_eq!(book.send(one, 10), 10 * FRAME, "the account is somebody else's");
    book.recognise(one, 9);
    assert_eq!(book.send(one, 10), 10 * FRAME, "there is no such account");
    book.recognise(one, 0);
    book.allowances.borrow_mut()[0] = allowance(Ceiling::new(1, FRAME), 7);
    assert_eq!(book.send(one, 10), 0);
    book.settings.lists = HAS_EGRESS;
    assert_eq!(book.send(one, 10), 10 * FRAME, "nobody asked for it");
}
