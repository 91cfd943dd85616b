//! The checked-in object, loaded, with its maps at the test's hand.

use std::{net::IpAddr, time::Duration};

use aya::{
    Ebpf, EbpfError, EbpfLoader, TestRun as _,
    maps::{Array, HashMap, LpmTrie, MapError, PerCpuArray, lpm_trie::Key},
    programs::{ProgramError, SchedClassifier, TestRunOptions, Xdp},
};
use gateway_common::{
    Address, Source,
    map::{self, Counter, Cut, Flow, Settings, Standing, Verdict, Verified, listener_bit, name},
    packet::{TCP, UDP},
    reason::Outcome,
};

/// The object that is checked in.
pub const OBJECT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../gateway/src/edge/gateway.bpf.o");
const PRESSURE_WORDS: usize = size_of::<map::Pressure>() / 8;
const XDP_DROP: u32 = 1;
const XDP_PASS: u32 = 2;
const TC_ACT_UNSPEC: u32 = u32::MAX;
const TC_ACT_SHOT: u32 = 2;

/// Nanoseconds of the monotonic clock, which is the program's.
pub fn now_ns() -> u64 {
    let now = nix::time::clock_gettime(nix::time::ClockId::CLOCK_MONOTONIC).expect("the clock exists");
    now.tv_sec() as u64 * 1_000_000_000 + now.tv_nsec() as u64
}

/// Whether this process may load programs; says so if not. Root is not needed: CAP_BPF and CAP_NET_ADMIN are.
pub fn may_load(test: &str) -> bool {
    match EbpfLoader::new().map_max_entries(name::CELLS, 2).map_max_entries(name::VERDICTS, 1).load_file(OBJECT) {
        Err(EbpfError::MapError(MapError::CreateError { io_error, .. })) if is_denied(&io_error) => {}
        _ => return true,
    }
    eprintln!("SKIP {test}: loading a program needs CAP_BPF and CAP_NET_ADMIN, which this user lacks");
    false
}

fn is_denied(error: &std::io::Error) -> bool {
    error.kind() == std::io::ErrorKind::PermissionDenied
}

/// A loaded program.
pub struct Loaded {
    /// The object.
    pub ebpf: Ebpf,
    /// What it works by; [`Loaded::apply`] writes it.
    pub settings: Settings,
}

impl Loaded {
    /// Loads the object with `cells` cells, in enforce mode, with a fresh heartbeat and the port 8000 protected.
    pub fn new(cells: u32, port: u16) -> Self {
        let mut ebpf = EbpfLoader::new()
            .map_max_entries(name::CELLS, cells)
            .map_max_entries(name::VERDICTS, 1_024)
            .map_max_entries(name::VERIFIED, 1_024)
            .map_max_entries(name::EGRESS, 1_024)
            .map_max_entries(name::PAYERS, 1_024)
            .map_max_entries(name::ALLOWANCES, 16)
            .map_max_entries(name::SPENT, 16)
            .load_file(OBJECT)
            .expect("the object loads");
        let program: &mut Xdp =
            ebpf.program_mut(name::PROGRAM).expect("the program is there").try_into().expect("it is XDP");
        program.load().expect("the verifier accepts it");
        let settings = Settings {
            mode: map::RunMode::Enforce as u32,
            stale_ns: 5_000_000_000,
            v6_mask: gateway_common::source::v6_mask(64),
            seed: [3, 5],
            cells_mask: cells - 1,
            ..Settings::OFF
        };
        let mut loaded = Self { ebpf, settings };
        loaded.apply();
        loaded.pulse(map::PULSE_HEARTBEAT, now_ns());
        loaded.protect(TCP, port);
        loaded.protect(UDP, port);
        loaded
    }

    /// Writes the settings.
    pub fn apply(&mut self) {
        let settings = self.settings;
        self.array::<Settings>(name::SETTINGS).set(0, settings, 0).expect("one element");
    }

    /// Writes a word of the pulse.
    pub fn pulse(&mut self, index: u32, word: u64) {
        self.array::<u64>(name::PULSE).set(index, word, 0).expect("the word exists");
    }

    /// Protects a port.
    pub fn protect(&mut self, protocol: u8, port: u16) {
        let (word, bit) = listener_bit(protocol, port);
        let mut listeners = self.array::<u64>(name::LISTENERS);
        let old = listeners.get(&word, 0).expect("the word exists");
        listeners.set(word, old | bit, 0).expect("the word exists");
    }

    /// Adds a prefix to a list; `bits` count in the v4-mapped form.
    pub fn list(&mut self, list: &str, address: &str, bits: u32) {
        let key = Key::new(bits, Address::from(address.parse::<IpAddr>().expect("an address")).octets());
        let map = self.ebpf.map_mut(list).expect("the list exists");
        LpmTrie::<_, [u8; 16], u32>::try_from(map).expect("it is a trie").insert(&key, 1, 0).expect("there is room");
        self.settings.lists |= if list == name::DENY { map::HAS_DENY } else { map::HAS_NEVER_DROP };
        self.apply();
    }

    /// Puts a source under a verdict.
    pub fn judge(&mut self, address: &str, verdict: Verdict) {
        let source = Source::new(address.parse().expect("an address"), 64);
        self.hash::<Source, Verdict>(name::VERDICTS).insert(source, verdict, 0).expect("room");
        self.settings.lists |= map::HAS_VERDICTS;
        self.apply();
    }

    /// Cuts a connection of this client.
    pub fn cut(&mut self, address: &str, client_port: u16, port: u16, cut: Cut) {
        let flow = Flow::new(address.parse::<IpAddr>().expect("an address").into(), client_port, port);
        self.hash::<Flow, Cut>(name::FLOWS).insert(flow, cut, 0).expect("room");
        self.settings.lists |= map::HAS_FLOWS;
        self.apply();
    }

    /// Raises a source's ceilings.
    pub fn raise(&mut self, address: &str, standing: Standing) {
        let source = Source::new(address.parse().expect("an address"), 64);
        self.hash::<Source, Standing>(name::STANDINGS).insert(source, standing, 0).expect("room");
        self.settings.lists |= map::HAS_STANDINGS;
        self.apply();
    }

    /// Writes a cell: packets, bytes, connections, nothing.
    pub fn cell(&mut self, index: u32, words: [u64; 4]) {
        self.array::<[u64; 4]>(name::CELLS).set(index, words, 0).expect("the cell exists");
    }

    /// Spends the strangers' budgets until then.
    pub fn spend_budgets(&mut self, until_ns: u64) {
        let mut words = [0_u64; PRESSURE_WORDS];
        words[std::mem::offset_of!(map::Pressure, syns) / 8] = until_ns;
        words[std::mem::offset_of!(map::Pressure, packets) / 8] = until_ns;
        self.array::<[u64; PRESSURE_WORDS]>(name::PRESSURE).set(0, words, 0).expect("one element");
    }

    /// Takes a source for one that has completed a handshake.
    pub fn verify(&mut self, address: &str) {
        let source = Source::new(address.parse().expect("an address"), 64);
        self.hash::<Source, Verified>(name::VERIFIED).insert(source, Verified { at_ns: 1 }, 0).expect("room");
    }

    /// Whether a source has completed a handshake.
    pub fn is_verified(&mut self, address: &str) -> bool {
        let source = Source::new(address.parse().expect("an address"), 64);
        self.hash::<Source, Verified>(name::VERIFIED).get(&source, 0).is_ok()
    }

    /// Runs one frame `repeat` times; whether the last one was dropped, and the nanoseconds that one run took.
    pub fn run(&mut self, frame: &[u8], repeat: u32) -> (bool, Duration) {
        let program: &mut Xdp =
            self.ebpf.program_mut(name::PROGRAM).expect("the program is there").try_into().expect("it is XDP");
        // The kernel refuses less than an Ethernet header; a shorter frame cannot reach a driver either.
        let options = TestRunOptions { data_in: Some(frame), repeat, ..Default::default() };
        let result = program.test_run(options).expect("the program runs");
        assert!(matches!(result.return_value, XDP_DROP | XDP_PASS), "{}", result.return_value);
        (result.return_value == XDP_DROP, result.duration)
    }

    /// Runs one frame through the classifier; whether it was dropped, or none if the kernel makes no packet of it.
    pub fn classify(&mut self, frame: &[u8]) -> Option<bool> {
        let program: &mut SchedClassifier =
            self.ebpf.program_mut(name::CLASSIFIER).expect("the program is there").try_into().expect("it is TC's");
        if program.fd().is_err() {
            program.load().expect("the verifier accepts it");
        }
        let options = TestRunOptions { data_in: Some(frame), ..Default::default() };
        let result = match program.test_run(options) {
            Err(ProgramError::SyscallError(error)) if error.io_error.raw_os_error() == Some(libc::EINVAL) => {
                return None;
            }
            result => result.expect("the program runs"),
        };
        assert!(matches!(result.return_value, TC_ACT_SHOT | TC_ACT_UNSPEC), "{}", result.return_value);
        Some(result.return_value == TC_ACT_SHOT)
    }

    /// What was counted, by the outcome's word, zeroes left out.
    pub fn counted(&mut self) -> Vec<(&'static str, Counter)> {
        let map = self.ebpf.map(name::COUNTERS).expect("the map exists");
        let counters = PerCpuArray::<_, Counter>::try_from(map).expect("it is a per-CPU array");
        let mut out = Vec::new();
        for (index, cpus) in counters.iter().enumerate() {
            let mut sum = Counter::default();
            for cpu in cpus.expect("the element exists").iter() {
                sum.packets += cpu.packets;
                sum.bytes += cpu.bytes;
            }
            if sum.packets > 0 {
                out.push((Outcome::of_counter(index as u32).expect("every counter has a word").name(), sum));
            }
        }
        out
    }

    /// Packets counted under one word.
    pub fn packets(&mut self, word: &str) -> u64 {
        self.counted().iter().find(|(name, _)| *name == word).map_or(0, |(_, counter)| counter.packets)
    }

    fn hash<K: aya::Pod, V: aya::Pod>(&mut self, name: &str) -> HashMap<&mut aya::maps::MapData, K, V> {
        HashMap::try_from(self.ebpf.map_mut(name).expect("the map exists")).expect("it is a hash")
    }

    fn array<T: aya::Pod>(&mut self, name: &str) -> Array<&mut aya::maps::MapData, T> {
        Array::try_from(self.ebpf.map_mut(name).expect("the map exists")).expect("it is an array")
    }
}
