//! What the workers ask before they serve, and the executor that judges connections where no kernel program does. Reads
//! take no lock; the control plane is the only writer. The judgement itself is `gateway_common::judge`.

use std::{
    net::{IpAddr, SocketAddr},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering},
    },
};

use arc_swap::ArcSwap;
use gateway_common::{
    Address, Reason, Source,
    charge::Words,
    clock::Clock,
    judge::{Judgement, Proof, Tables, judge},
    map::{
        Cell, Cut, Flow, PULSE_KILL, PULSE_PRESSURE, Pressure, RunMode, Settings, Standing as Raised, Verdict, rung,
    },
    packet::{Packet, TCP},
    reason::COUNTERS,
};
use ipnet::IpNet;
use tokio::sync::{mpsc, watch};

use super::Peer;

/// Accepted connections waiting to be told.
const ARRIVALS_WAITING_MAX: usize = 4_096;

/// How a source stands with the gateway.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Standing {
    /// Nothing is held against it.
    Clear,
    /// One request at a time, and the connection closes after the answer.
    Degraded,
    /// No new connections but probes; those that exist go on, degraded.
    Gated,
    /// Nothing is served.
    Dropped,
}

/// Whether a new connection may be served.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Admission {
    /// Serve it.
    Admit,
    /// Close it, for this reason.
    Refuse(Reason),
}

/// A prefix of a list: `(address & mask) == network`, on the v4-mapped form.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Prefix {
    network: u128,
    mask: u128,
}

impl Prefix {
    pub fn new(net: &IpNet) -> Self {
        let (bits, address) = (prefix_bits(net), Address::from(net.addr()));
        let mask = u128::MAX.checked_shl(128 - u32::from(bits)).unwrap_or(0);
        Self { network: u128::from_be_bytes(address.octets()) & mask, mask }
    }

    pub fn holds(&self, address: Address) -> bool {
        u128::from_be_bytes(address.octets()) & self.mask == self.network
    }

    /// Whether any address of the source is in this prefix.
    pub fn touches(&self, source: Source, v6_prefix: u8) -> bool {
        let ip = source.ip();
        let own = match ip {
            IpAddr::V4(_) => u128::MAX,
            IpAddr::V6(_) => u128::MAX << (128 - u32::from(v6_prefix.clamp(48, 64))),
        };
        let both = own & self.mask;
        u128::from_be_bytes(Address::from(ip).octets()) & both == self.network & both
    }
}

/// The prefix's length in the v4-mapped form.
pub(super) fn prefix_bits(net: &IpNet) -> u8 {
    match net {
        IpNet::V4(v4) => 96 + v4.prefix_len(),
        IpNet::V6(v6) => v6.prefix_len(),
    }
}

/// What changes together on a reload.
pub(super) struct Rules {
    pub settings: Settings,
    pub v6_prefix: u8,
    pub never_drop: Vec<Prefix>,
    pub deny: Vec<Prefix>,
    /// As many as the settings' mask says, plus one; kept over a reload of the same size.
    pub cells: Arc<[Cell]>,
}

impl Rules {
    pub fn off() -> Self {
        let settings = Settings { cells_mask: 0, ..Settings::OFF };
        Self { settings, v6_prefix: 64, never_drop: Vec::new(), deny: Vec::new(), cells: cells(1) }
    }
}

pub(super) fn cells(count: u32) -> Arc<[Cell]> {
    (0..count).map(|_| Cell::default()).collect()
}

/// What the workers may ask. Shared by all of them; nothing in it blocks.
pub struct Standings {
    /// Entries in `verdicts`: zero is the fast path.
    under_verdict: AtomicU32,
    verdicts: papaya::HashMap<Source, Verdict>,
    /// Entries in `cuts`: zero is the fast path.
    under_cut: AtomicU32,
    cuts: papaya::HashMap<Flow, Cut>,
    /// Sources whose ceilings are raised.
    raised: papaya::HashMap<Source, Raised>,
    /// Cuts and drops so far.
    severed: watch::Sender<u64>,
    /// Whether the control plane wants to hear of every accepted connection.
    tells: AtomicBool,
    arrivals: mpsc::Sender<Source>,
    /// Arrivals that found the queue full.
    pub(super) lost_arrivals: AtomicU64,
    /// Whether connections are judged here because no kernel program judges packets.
    executes: AtomicBool,
    killed: AtomicBool,
    rules: ArcSwap<Rules>,
    outcomes: Box<[AtomicU64]>,
    random: AtomicU64,
}

impl Standings {
    pub(super) fn new(seed: u64) -> (Self, mpsc::Receiver<Source>) {
        let (arrivals, arrived) = mpsc::channel(ARRIVALS_WAITING_MAX);
        let standings = Self {
            under_verdict: AtomicU32::new(0),
            verdicts: papaya::HashMap::new(),
            under_cut: AtomicU32::new(0),
            cuts: papaya::HashMap::new(),
            raised: papaya::HashMap::new(),
            severed: watch::Sender::new(0),
            tells: AtomicBool::new(false),
            arrivals,
            lost_arrivals: AtomicU64::new(0),
            executes: AtomicBool::new(false),
            killed: AtomicBool::new(false),
            rules: ArcSwap::from_pointee(Rules::off()),
            outcomes: (0..COUNTERS).map(|_| AtomicU64::new(0)).collect(),
            random: AtomicU64::new(seed),
        };
        (standings, arrived)
    }

    /// How `source` stands at `now_ns` (monotonic). One relaxed load while nobody is under a verdict.
    #[must_use]
    pub fn of(&self, source: IpAddr, now_ns: u64) -> Standing {
        if self.under_verdict.load(Ordering::Relaxed) == 0 {
            return Standing::Clear;
        }
        let rules = self.rules.load();
        if rules.settings.mode != RunMode::Enforce as u32 || self.killed.load(Ordering::Relaxed) {
            return Standing::Clear;
        }
        let source = Source::new(source, rules.v6_prefix);
        match self.verdicts.pin().get(&source) {
            Some(verdict) if verdict.expiry_ns > now_ns => match verdict.rung {
                rung::DEGRADED | rung::CUT => Standing::Degraded,
                rung::GATED => Standing::Gated,
                rung::DROPPED.. => Standing::Dropped,
                _ => Standing::Clear,
            },
            _ => Standing::Clear,
        }
    }

    /// Whether this connection is to be closed at once, with a reset (`SO_LINGER` of zero): the kernel drops what comes
    /// over it, so that nothing else would tell the client. One relaxed load while no connection is cut. Workers ask it of
    /// all their connections when [`Standings::severances`] changed.
    #[must_use]
    pub fn is_cut(&self, peer: SocketAddr, local_port: u16, now_ns: u64) -> bool {
        if self.under_cut.load(Ordering::Relaxed) == 0 {
            return false;
        }
        let rules = self.rules.load();
        if rules.settings.mode != RunMode::Enforce as u32 || self.killed.load(Ordering::Relaxed) {
            return false;
        }
        let flow = Peer { address: peer, local_port }.flow();
        self.cuts.pin().get(&flow).is_some_and(|cut| cut.expiry_ns > now_ns)
    }

    /// Changes when a connection is cut or a source is dropped: when open connections are to be looked at.
    #[must_use]
    pub fn severances(&self) -> watch::Receiver<u64> {
        self.severed.subscribe()
    }

    /// Judges a new connection from `source`, where no kernel program does; otherwise admits it unseen.
    #[must_use]
    pub fn admit_connection(&self, source: IpAddr, now_ns: u64) -> Admission {
        if self.tells.load(Ordering::Relaxed) {
            self.tell_arrival(source);
        }
        if !self.executes.load(Ordering::Relaxed) {
            return Admission::Admit;
        }
        self.admit_named(source, now_ns)
    }

    /// Judges a connection from `source` as a load balancer names it: no program in the kernel sees that address.
    #[must_use]
    pub fn admit_named(&self, source: IpAddr, now_ns: u64) -> Admission {
        let judgement = self.judge(source, now_ns);
        self.outcomes[judgement.outcome.counter() as usize].fetch_add(1, Ordering::Relaxed);
        if judgement.outcome.drops() { Admission::Refuse(judgement.outcome.reason) } else { Admission::Admit }
    }

    fn tell_arrival(&self, ip: IpAddr) {
        let source = Source::new(ip, self.rules.load().v6_prefix);
        if self.arrivals.try_send(source).is_err() {
            self.lost_arrivals.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn judge(&self, ip: IpAddr, now_ns: u64) -> Judgement {
        let rules = self.rules.load();
        let packet = Packet { address: ip.into(), protocol: TCP, port: 0, sender_port: 0, opens: true };
        let source = packet.address.source(rules.settings.v6_mask);
        // A degraded source is the proxy's business: only the kernel's rungs are carried out at the door.
        let verdict = match self.under_verdict.load(Ordering::Relaxed) {
            0 => None,
            _ => self.verdicts.pin().get(&source).copied().filter(|verdict| verdict.rung >= rung::GATED),
        };
        let raised = self.raised.pin();
        let tables = Door { standings: self, rules: &rules, verdict, raised: raised.get(&source), now_ns };
        judge(&tables, Ok(packet), 0)
    }

    /// Connections by outcome, as the executor here judged them; the index is the kernel's counter's.
    pub(super) fn outcomes(&self) -> impl Iterator<Item = u64> + '_ {
        self.outcomes.iter().map(|count| count.load(Ordering::Relaxed))
    }

    pub(super) fn execute(&self, executes: bool) {
        self.executes.store(executes, Ordering::Relaxed);
    }

    pub(super) fn executes(&self) -> bool {
        self.executes.load(Ordering::Relaxed)
    }

    pub(super) fn tell_arrivals(&self, tells: bool) {
        self.tells.store(tells, Ordering::Relaxed);
    }

    pub(super) fn kill(&self, killed: bool) {
        self.killed.store(killed, Ordering::Relaxed);
    }

    pub(super) fn is_killed(&self) -> bool {
        self.killed.load(Ordering::Relaxed)
    }

    pub(super) fn rules(&self) -> Arc<Rules> {
        self.rules.load_full()
    }

    pub(super) fn replace(&self, rules: Rules) {
        self.rules.store(Arc::new(rules));
    }

    pub(super) fn put(&self, source: Source, verdict: Verdict) {
        if self.verdicts.pin().insert(source, verdict).is_none() {
            self.under_verdict.fetch_add(1, Ordering::Relaxed);
        }
        if verdict.rung >= rung::DROPPED {
            self.severed.send_modify(|count| *count += 1);
        }
    }

    pub(super) fn remove(&self, source: Source) {
        if self.verdicts.pin().remove(&source).is_some() {
            self.under_verdict.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

/// Connections cut, and ceilings raised.
impl Standings {
    pub(super) fn raise(&self, source: Source, standing: Raised) {
        self.raised.pin().insert(source, standing);
    }

    pub(super) fn lower(&self, source: Source) {
        self.raised.pin().remove(&source);
    }

    pub(super) fn cut(&self, flow: Flow, cut: Cut) {
        if self.cuts.pin().insert(flow, cut).is_none() {
            self.under_cut.fetch_add(1, Ordering::Relaxed);
        }
        self.severed.send_modify(|count| *count += 1);
    }

    pub(super) fn mend(&self, flow: Flow) {
        if self.cuts.pin().remove(&flow).is_some() {
            self.under_cut.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

/// The judgement's view of one connection.
struct Door<'a> {
    standings: &'a Standings,
    rules: &'a Rules,
    verdict: Option<Verdict>,
    raised: Option<&'a Raised>,
    now_ns: u64,
}

impl Tables for Door<'_> {
    fn settings(&self) -> Option<&Settings> {
        Some(&self.rules.settings)
    }

    fn pulse(&self, index: u32) -> u64 {
        // The heart beats in this very process: only the kill switch can be on.
        match index {
            PULSE_KILL => u64::from(self.standings.is_killed()),
            PULSE_PRESSURE => 0,
            _ => self.now_ns,
        }
    }

    fn is_protected(&self, _protocol: u8, _port: u16) -> bool {
        true
    }

    fn is_never_drop(&self, address: Address) -> bool {
        self.rules.never_drop.iter().any(|prefix| prefix.holds(address))
    }

    fn is_denied(&self, address: Address) -> bool {
        self.rules.deny.iter().any(|prefix| prefix.holds(address))
    }

    fn verdict(&self, _source: Source) -> Option<&Verdict> {
        self.verdict.as_ref()
    }

    fn standing(&self, _source: Source) -> Option<&Raised> {
        self.raised
    }

    fn cell(&self, index: u32) -> Option<&Cell> {
        self.rules.cells.get(index as usize)
    }

    // What lies below is the kernel's alone: a connection that reaches this door has completed its handshake, and
    // `want` leaves these tables' flags out.

    fn cut(&self, _flow: &Flow) -> Option<&Cut> {
        None
    }

    fn neighbourhood(&self, _index: u32) -> Option<&Cell> {
        None
    }

    fn pressure(&self) -> Option<&Pressure> {
        None
    }

    fn is_verified(&self, _source: Source) -> bool {
        true
    }

    fn proof(&self, _packet: &Packet) -> Proof {
        Proof::Connection
    }

    fn count_syn(&self) -> u64 {
        1
    }

    fn random(&self) -> u32 {
        // A counter through a mixer (splitmix64): nobody outside sees the seed.
        let x = self.standings.random.fetch_add(0x9e37_79b9_7f4a_7c15, Ordering::Relaxed);
        let x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (x >> 32) as u32
    }
}

impl Clock for Door<'_> {
    fn tick_ns(&self) -> u64 {
        self.now_ns
    }

    fn now_ns(&self) -> u64 {
        self.now_ns
    }
}

impl Words for Door<'_> {
    fn load(word: &AtomicU64) -> u64 {
        word.load(Ordering::Relaxed)
    }

    fn compare_exchange(word: &AtomicU64, seen: u64, next: u64) -> Result<(), u64> {
        word.compare_exchange(seen, next, Ordering::Relaxed, Ordering::Relaxed).map(|_| ())
    }
}
