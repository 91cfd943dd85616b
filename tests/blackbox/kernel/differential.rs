//! The same frames through the program in the kernel and through the same function on the host: whatever the verifier,
//! the JIT and the maps add must not show.

use std::{
    collections::{HashMap, HashSet},
    sync::atomic::{AtomicU64, Ordering},
};

use gateway_common::{
    Address, Ceiling, Source,
    charge::Words,
    clock::Clock,
    judge::{Proof, Tables, judge},
    map::{
        Cell, Cut, Flow, Gate, NEIGHBOURHOOD_CELLS, PULSE_KILL, PULSE_PRESSURE, Pressure, RunMode, Settings, Standing,
        Verdict, name, rung,
    },
    packet::{Frame, Packet, parse},
};

use gateway_tests::bar;

use super::{
    frames::{self, L4, PORT},
    loaded::{Loaded, may_load, now_ns},
};

/// Frames compared in the normal run.
const FRAMES: usize = 20_000;
const MINUTE: u64 = 60_000_000_000;

/// The host's tables: what the kernel's maps were filled with.
struct Host {
    settings: Settings,
    now_ns: u64,
    never_drop: Vec<(u128, u32)>,
    deny: Vec<(u128, u32)>,
    verdicts: HashMap<Source, Verdict>,
    cells: Vec<Cell>,
    cuts: HashMap<Flow, Cut>,
    standings: HashMap<Source, Standing>,
    neighbourhoods: Vec<Cell>,
    pressure: Pressure,
    pressed_until_ns: u64,
    verified: HashSet<Source>,
    syns: AtomicU64,
}

fn bits(address: Address) -> u128 {
    u128::from_be_bytes(address.octets())
}

fn holds(list: &[(u128, u32)], address: Address) -> bool {
    list.iter().any(|(net, length)| (bits(address) ^ net).leading_zeros() >= *length)
}

impl Tables for Host {
    fn settings(&self) -> Option<&Settings> {
        Some(&self.settings)
    }
    fn pulse(&self, index: u32) -> u64 {
        match index {
            PULSE_KILL => 0,
            PULSE_PRESSURE => self.pressed_until_ns,
            _ => self.now_ns,
        }
    }
    fn is_protected(&self, _protocol: u8, port: u16) -> bool {
        port == PORT
    }
    fn is_never_drop(&self, address: Address) -> bool {
        holds(&self.never_drop, address)
    }
    fn is_denied(&self, address: Address) -> bool {
        holds(&self.deny, address)
    }
    fn verdict(&self, source: Source) -> Option<&Verdict> {
        self.verdicts.get(&source)
    }
    fn cell(&self, index: u32) -> Option<&Cell> {
        self.cells.get(index as usize)
    }
    fn cut(&self, flow: &Flow) -> Option<&Cut> {
        self.cuts.get(flow)
    }
    fn standing(&self, source: Source) -> Option<&Standing> {
        self.standings.get(&source)
    }
    fn neighbourhood(&self, index: u32) -> Option<&Cell> {
        self.neighbourhoods.get(index as usize)
    }
    fn pressure(&self) -> Option<&Pressure> {
        Some(&self.pressure)
    }
    fn is_verified(&self, source: Source) -> bool {
        self.verified.contains(&source)
    }
    fn proof(&self, _packet: &Packet) -> Proof {
        // Nobody listens where the test runs.
        Proof::None
    }
    fn count_syn(&self) -> u64 {
        self.syns.fetch_add(1, Ordering::Relaxed) + 1
    }
    fn random(&self) -> u32 {
        1
    }
}

impl Clock for Host {
    fn tick_ns(&self) -> u64 {
        self.now_ns
    }
    fn now_ns(&self) -> u64 {
        self.now_ns
    }
}

impl Words for Host {
    fn load(word: &AtomicU64) -> u64 {
        word.load(Ordering::Relaxed)
    }
    fn compare_exchange(word: &AtomicU64, seen: u64, next: u64) -> Result<(), u64> {
        word.compare_exchange(seen, next, Ordering::Relaxed, Ordering::Relaxed).map(drop)
    }
}

struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % sides
    }
}

/// Few sources and few shapes, so that every rule is met often.
fn frame(dice: &mut Dice) -> Vec<u8> {
    let port = [PORT, PORT, PORT, 22][dice.roll(4) as usize];
    let l4 = [L4::Syn(port), L4::Ack(port), L4::Rst(port), L4::SynAck(port), L4::Udp(port)][dice.roll(5) as usize];
    let host = dice.roll(8) as u8;
    let destination: (u8, &[u8]) = (60, &[0; 14]);
    let plain = match dice.roll(4) {
        0 => frames::v6(&format!("2001:db8:0:{host}::{}", dice.roll(3)), &[], l4),
        1 => frames::v6(&format!("2001:db8:0:{host}::1"), &vec![destination; dice.roll(8) as usize], l4),
        2 => frames::v6(&format!("::ffff:192.0.2.{host}"), &[], l4),
        _ => frames::v4([192, 0, 2, host], l4),
    };
    let mut frame = frames::tagged(&plain, &[0x8100, 0x88a8, 0x8100][..dice.roll(4) as usize]);
    match dice.roll(10) {
        // At least an Ethernet header, or the kernel refuses the run.
        0 => frame.truncate(14 + dice.roll(frame.len() as u64 - 13) as usize),
        1 => {
            let at = 12 + dice.roll(frame.len() as u64 - 12) as usize;
            frame[at] = dice.roll(256) as u8;
        }
        _ => {}
    }
    frame
}

fn set_up(loaded: &mut Loaded, mode: RunMode, pressed: bool) -> Host {
    let now = now_ns();
    let mut host = Host {
        settings: loaded.settings,
        now_ns: now,
        never_drop: Vec::new(),
        deny: Vec::new(),
        verdicts: HashMap::new(),
        cells: (0..1_024).map(|_| Cell::default()).collect(),
        cuts: HashMap::new(),
        standings: HashMap::new(),
        neighbourhoods: (0..NEIGHBOURHOOD_CELLS).map(|_| Cell::default()).collect(),
        pressure: Pressure::default(),
        pressed_until_ns: 0,
        verified: HashSet::new(),
        syns: AtomicU64::new(0),
    };
    let lists = [
        (name::NEVER_DROP, "192.0.2.1", 128),
        (name::NEVER_DROP, "2001:db8:0:1::1", 128),
        (name::DENY, "192.0.2.2", 96 + 31),
        (name::DENY, "2001:db8:0:2::", 63),
    ];
    for (list, address, length) in lists {
        loaded.list(list, address, length);
        let net = (bits(address.parse::<std::net::IpAddr>().expect("an address").into()), length);
        if list == name::DENY { host.deny.push(net) } else { host.never_drop.push(net) }
    }
    let verdicts = [
        ("192.0.2.1", rung::DROPPED, now + MINUTE),
        ("192.0.2.4", rung::DROPPED, now + MINUTE),
        ("192.0.2.5", rung::DROPPED, now - 1),
        ("2001:db8:0:4::", rung::DROPPED, now + MINUTE),
        ("2001:db8:0:1::", rung::DROPPED, now + MINUTE),
    ];
    for (address, rung, expiry_ns) in verdicts {
        let verdict = Verdict { expiry_ns, decision: 1, rung, spare: 0, packets: Ceiling::UNLIMITED };
        loaded.judge(address, verdict);
        host.verdicts.insert(Source::new(address.parse().expect("an address"), 64), verdict);
    }
    let cuts = [("192.0.2.6", 40_000, now + MINUTE), ("192.0.2.7", 40_000, now - 1)];
    for (address, client_port, expiry_ns) in cuts {
        let cut = Cut { expiry_ns, decision: 2 };
        loaded.cut(address, client_port, PORT, cut);
        let address: std::net::IpAddr = address.parse().expect("an address");
        host.cuts.insert(Flow::new(address.into(), client_port, PORT), cut);
    }
    for (address, expiry_ns) in [("192.0.2.3", now + MINUTE), ("192.0.2.0", now - 1)] {
        let standing = Standing { expiry_ns, raise: 2, spare: 0 };
        loaded.raise(address, standing);
        host.standings.insert(Source::new(address.parse().expect("an address"), 64), standing);
    }
    // Two sources have spent their connections, beyond what any standing gives back.
    for address in ["192.0.2.3", "192.0.2.0"] {
        let source = Source::new(address.parse().expect("an address"), 64);
        let index = source.hash(loaded.settings.seed) & loaded.settings.cells_mask;
        loaded.cell(index, [0, 0, now + 10 * MINUTE, 0]);
        host.cells[index as usize].connections = AtomicU64::new(now + 10 * MINUTE);
    }
    // Strangers are shut out from the start in half of the runs, and have spent their budgets.
    if pressed {
        loaded.spend_budgets(now + 60 * MINUTE);
        host.pressure.syns = AtomicU64::new(now + 60 * MINUTE);
        host.pressure.packets = AtomicU64::new(now + 60 * MINUTE);
        for address in ["192.0.2.3", "2001:db8:0:5::"] {
            loaded.verify(address);
            host.verified.insert(Source::new(address.parse().expect("an address"), 64));
        }
        host.pressed_until_ns = now + 10 * MINUTE;
        loaded.pulse(PULSE_PRESSURE, host.pressed_until_ns);
    }
    loaded.settings.gate = Gate {
        enter: Ceiling::new(1, 1_000_000),
        stay: Ceiling::new(1, 1_000_000),
        hold_ns: MINUTE,
        syns: Ceiling::new(1_000_000, 100_000),
        packets: Ceiling::new(1_000_000, 100_000),
    };
    loaded.settings.neighbourhood.packets = Ceiling::new(1, 1_000_000);
    // A second's worth, so that the two above have spent it and nobody else does.
    loaded.settings.connections = Ceiling::new(1_000_000, 1_000_000);
    loaded.settings.mode = mode as u32;
    loaded.settings.lists = u32::MAX;
    loaded.apply();
    host.settings = loaded.settings;
    host
}

#[test]
fn the_kernel_and_the_host_judge_every_frame_alike() {
    if !may_load("kernel::differential") {
        return;
    }
    let mut compared = 0;
    let runs = [(RunMode::Enforce, false), (RunMode::Enforce, true), (RunMode::Shadow, true)];
    for (run, (mode, pressed)) in runs.into_iter().enumerate() {
        let mut loaded = Loaded::new(1_024, PORT);
        loaded.settings.stale_ns = 0;
        let host = set_up(&mut loaded, mode, pressed);
        let mut dice = Dice(run as u64);
        let mut expected = HashMap::<&str, u64>::new();
        let frames = if bar::in_full() { FRAMES * 10 } else { FRAMES };
        for n in 0..frames / runs.len() {
            let frame = frame(&mut dice);
            let outcome = judge(&host, parse(Frame(&frame)), frame.len() as u64).outcome;
            *expected.entry(outcome.name()).or_default() += 1;
            let (drops, _) = loaded.run(&frame, 1);
            compared += 1;
            assert_eq!(drops, outcome.drops(), "frame {n}, {}: {frame:02x?}", outcome.name());
        }
        let counted: HashMap<&str, u64> =
            loaded.counted().into_iter().map(|(word, counter)| (word, counter.packets)).collect();
        assert_eq!(counted, expected);
        assert!(counted.len() >= 10, "{counted:?}");
        let new = if pressed { ["flow", "strangers", "stranger_packets"] } else { ["flow", "connections", "clean"] };
        let word = |word: &str| if mode == RunMode::Shadow { format!("shadow_{word}") } else { word.to_owned() };
        assert!(new.iter().all(|one| counted.contains_key(&*word(one))), "{counted:?}");
    }
    let agreed = format!("{compared} of {compared} frames");
    bar::holds("R13", "kernel and user-space executor give the same verdict and reason", "100%", agreed, true);
}

/// Whatever is known against them: verdicts, a cut, the deny list, ceilings of one, pressure.
#[test]
fn spared_addresses_are_never_dropped() {
    if !may_load("kernel::differential::spared_addresses_are_never_dropped") {
        return;
    }
    let mut loaded = Loaded::new(1_024, PORT);
    let mut host = set_up(&mut loaded, RunMode::Enforce, true);
    let everywhere = (0, 0);
    host.deny.push(everywhere);
    host.settings.packets = Ceiling::new(1, 1);
    host.settings.connections = Ceiling::new(1, 1);
    let mut dice = Dice(7);
    let decisions = if bar::in_full() { 1_000_000 } else { 100_000 };
    let (mut spared, mut dropped, mut others) = (0, 0, 0);
    while spared < decisions {
        let (v4, l4) = (dice.roll(2) == 0, [L4::Syn(PORT), L4::Ack(PORT), L4::Udp(PORT)][dice.roll(3) as usize]);
        let is_spared = dice.roll(16) > 0;
        let frame = match (v4, is_spared) {
            (true, true) => frames::v4([192, 0, 2, 1], l4),
            (true, false) => frames::v4([192, 0, 2, 4], l4),
            (false, true) => frames::v6("2001:db8:0:1::1", &[], l4),
            (false, false) => frames::v6("2001:db8:0:4::1", &[], l4),
        };
        let drops = judge(&host, parse(Frame(&frame)), frame.len() as u64).outcome.drops();
        if is_spared {
            spared += 1;
            dropped += usize::from(drops);
        } else {
            others += usize::from(drops);
        }
    }
    let words = format!("spared addresses, in {decisions} decisions with everything against them");
    bar::at_most("R7", &words, dropped as f64, 0.0, " drops");
    assert!(dropped == 0 && others > 100, "{dropped} {others}");
}
