//! What one worker thread owns: its view of the configuration, its pool, its counters. Nothing here is shared between
//! workers without being lock-free, and nothing waits.

use std::cell::{Cell, RefCell};
use std::collections::{HashMap, VecDeque};
use std::net::{IpAddr, Ipv6Addr};
use std::rc::Rc;
use std::sync::Arc;

use rustc_hash::FxHashMap;

use super::answer::Lent;
use super::exchange::{RequestId, RouteRef};
use super::h2;
use super::registry::Registry;
use super::timers::Timers;
use super::transport::{Pool, TlsClients};
use crate::clock;
use crate::config::Snapshot;
use crate::edge::{Reporter, Standing, Standings};
use crate::identity::Revoked;
use crate::plugins::Shared;
use crate::telemetry::metrics;
use crate::upstreams::balance::Turns;
use crate::upstreams::resolve::Resolver;

/// A worker's view of one configuration.
pub struct Local {
    /// The configuration.
    pub snapshot: Arc<Snapshot>,
    /// Its routes, counted without atomics.
    pub routes: Vec<RouteRef>,
}

impl Local {
    /// A view of `snapshot`.
    #[must_use]
    pub fn new(snapshot: Arc<Snapshot>) -> Rc<Self> {
        let routes = snapshot.routes.iter().map(|r| Rc::new(Arc::clone(&r.info))).collect();
        Rc::new(Local { snapshot, routes })
    }
}

/// What the ladder is told, and asked; absent in a configuration without an edge.
pub struct EdgeLink {
    /// Tells what was seen.
    pub reporter: RefCell<Reporter>,
    /// Answers how a source stands.
    pub standings: Arc<Standings>,
}

/// One worker.
pub struct Worker {
    local: RefCell<Rc<Local>>,
    /// Idle upstream connections.
    pub pool: Rc<Pool>,
    /// Upstream connections of many streams.
    pub streams: h2::Pool<Lent>,
    /// Timers to use again.
    pub timers: Timers,
    /// Names to addresses.
    pub resolver: Rc<Resolver>,
    /// Turns of the load balancer.
    pub turns: Turns,
    /// TLS towards upstreams.
    pub tls: Arc<TlsClients>,
    /// What outlives a reload.
    pub shared: Arc<Shared>,
    /// The edge, if there is one.
    pub edge: Option<EdgeLink>,
    metrics: RefCell<metrics::Local>,
    log: RefCell<Vec<u8>>,
    degraded: RefCell<HashMap<IpAddr, u32>>,
    /// What was taken away lately, with the monotonic time.
    revoked: RefCell<VecDeque<(u64, Arc<Revoked>)>>,
    ids: Cell<u128>,
    /// Open client connections, one by one.
    pub registry: Rc<Registry>,
    /// How many they are; a tunnel counts as one.
    pub connections: Cell<u64>,
    /// Those by source; IPv6 by /64, which is what one client has.
    sources: RefCell<FxHashMap<IpAddr, u64>>,
    /// Wall clock minus monotonic clock, nanoseconds; the tick renews it, so that a request reads one clock.
    wall_offset_ns: Cell<u64>,
}

/// Log bytes gathered before they are handed to the writer; a tick hands over what is left.
const LOG_BATCH: usize = 16 * 1024;

/// Revocations remembered, for requests that were on their way to a plugin when they came.
const REVOKED_MAX: usize = 8;

/// Why connections ended that lived by a credential that is no more.
pub const REVOKED: &str = "revoked";
/// Why connections ended that the edge cut.
const CUT: &str = "cut";

impl Worker {
    /// A worker that serves `snapshot`.
    #[must_use]
    pub fn new(snapshot: Arc<Snapshot>, shared: Arc<Shared>, tls: Arc<TlsClients>, edge: Option<EdgeLink>) -> Self {
        Worker {
            local: RefCell::new(Local::new(snapshot)),
            pool: Rc::default(),
            streams: h2::Pool::default(),
            timers: Timers::default(),
            resolver: Rc::default(),
            turns: Turns::default(),
            tls,
            shared,
            edge,
            metrics: RefCell::default(),
            log: RefCell::default(),
            degraded: RefCell::default(),
            revoked: RefCell::default(),
            ids: Cell::new(rand::random()),
            registry: Rc::default(),
            connections: Cell::new(0),
            sources: RefCell::default(),
            wall_offset_ns: Cell::new(wall_offset_ns()),
        }
    }

    /// The configuration for a request that begins now.
    #[must_use]
    pub fn local(&self) -> Rc<Local> {
        Rc::clone(&self.local.borrow())
    }

    /// Takes a new configuration for requests to come; those in the air keep theirs.
    pub fn adopt(&self, snapshot: Arc<Snapshot>) {
        self.turns.clear();
        *self.local.borrow_mut() = Local::new(snapshot);
    }

    /// Closes what lives by credentials that are no more, each with a reset.
    pub fn revoke(&self, revoked: &Arc<Revoked>) {
        if revoked.is_empty() {
            return;
        }
        let closed = self.registry.revoke(|id| revoked.has(id));
        self.count_all_ended(REVOKED, closed);
        let mut known = self.revoked.borrow_mut();
        if known.len() == REVOKED_MAX {
            known.pop_front();
        }
        known.push_back((clock::monotonic_ns(), Arc::clone(revoked)));
    }

    /// Whether a credential was taken away after a request began.
    #[must_use]
    pub fn revoked_since(&self, began_ns: u64, credential: &str) -> bool {
        self.revoked.borrow().iter().any(|(at_ns, revoked)| *at_ns >= began_ns && revoked.has(credential))
    }

    /// Closes the connections that the edge has cut, and those of sources that it drops, each with a reset: whatever the
    /// kernel lets through no more would linger.
    pub fn sever(&self, now_ns: u64) {
        let Some(edge) = &self.edge else { return };
        let standings = &edge.standings;
        let closed = self.registry.sever(|entry| {
            standings.is_cut(entry.peer, entry.local.port(), now_ns)
                || standings.of(entry.peer.ip(), now_ns) == Standing::Dropped
        });
        self.count_all_ended(CUT, closed);
    }

    /// A fresh request id: SplitMix64 over a random start, two words of it.
    #[must_use]
    pub fn request_id(&self) -> RequestId {
        let state = self.ids.get().wrapping_add(0x9e37_79b9_7f4a_7c15_f39c_c060_5ced_c835);
        self.ids.set(state);
        let mix = |word: u64| {
            let word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            let word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            word ^ (word >> 31)
        };
        RequestId::new(u128::from(mix((state >> 64) as u64)) << 64 | u128::from(mix(state as u64)))
    }

    /// The wall clock at a monotonic time, nanoseconds since 1970.
    #[must_use]
    pub fn wall_ns(&self, monotonic_ns: u64) -> u64 {
        monotonic_ns.wrapping_add(self.wall_offset_ns.get())
    }

    /// Looks at the wall clock again: it may have been set.
    pub fn renew_wall_clock(&self) {
        self.wall_offset_ns.set(wall_offset_ns());
    }

    /// Counts a finished request.
    pub fn count(&self, sample: &metrics::Sample<'_>) {
        self.metrics.borrow_mut().count(sample);
    }

    /// Counts an answer to what was no request.
    pub fn count_unparsed(&self, status: u16, reason: &'static str) {
        self.metrics.borrow_mut().count_unparsed(status, reason);
    }

    /// Counts an accepted connection.
    pub fn count_accepted(&self) {
        self.metrics.borrow_mut().accepted += 1;
    }

    /// Counts a connection that was not served, by reason.
    pub fn count_refused(&self, reason: &'static str) {
        *self.metrics.borrow_mut().refused.entry(reason).or_insert(0) += 1;
    }

    /// Counts a connection that ended before its time, by reason.
    pub fn count_ended(&self, reason: &'static str) {
        *self.metrics.borrow_mut().ended.entry(reason).or_insert(0) += 1;
    }

    fn count_all_ended(&self, reason: &'static str, count: u64) {
        if count > 0 {
            *self.metrics.borrow_mut().ended.entry(reason).or_insert(0) += count;
        }
    }

    /// Open connections of a source.
    #[must_use]
    pub fn seats_of(&self, source: IpAddr) -> u64 {
        self.sources.borrow().get(&block_of(source)).copied().unwrap_or(0)
    }

    /// What was counted since the last time, with the connections that are open.
    #[must_use]
    pub fn take_metrics(&self) -> metrics::Local {
        std::mem::take(&mut self.metrics.borrow_mut())
    }

    /// Adds a line to the access log.
    pub fn log_line(&self, write: impl FnOnce(&mut Vec<u8>)) {
        let mut log = self.log.borrow_mut();
        write(&mut log);
        if log.len() >= LOG_BATCH {
            self.hand_over(&mut log);
        }
    }

    /// Hands gathered log lines to the writer.
    pub fn flush_log(&self) {
        self.hand_over(&mut self.log.borrow_mut());
    }

    fn hand_over(&self, log: &mut Vec<u8>) {
        if let Some(sink) = &self.local.borrow().snapshot.settings.access_log
            && !log.is_empty()
        {
            self.shared.writer.write(sink, std::mem::take(log));
        }
    }

    /// Takes the one place that a degraded source has; false when it is taken.
    pub fn enter_degraded(&self, source: IpAddr) -> bool {
        let mut degraded = self.degraded.borrow_mut();
        let count = degraded.entry(source).or_insert(0);
        *count += 1;
        *count == 1
    }

    /// Gives the place back.
    pub fn leave_degraded(&self, source: IpAddr) {
        let mut degraded = self.degraded.borrow_mut();
        if let Some(count) = degraded.get_mut(&source) {
            *count -= 1;
            if *count == 0 {
                degraded.remove(&source);
            }
        }
    }
}

/// An open connection, counted as long as this lives.
pub struct Seat {
    worker: Rc<Worker>,
    source: IpAddr,
}

impl Seat {
    /// Counts a connection from `source`.
    #[must_use]
    pub fn new(worker: &Rc<Worker>, source: IpAddr) -> Self {
        let source = block_of(source);
        worker.connections.set(worker.connections.get() + 1);
        *worker.sources.borrow_mut().entry(source).or_insert(0) += 1;
        Seat { worker: Rc::clone(worker), source }
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.worker.connections.set(self.worker.connections.get() - 1);
        let mut sources = self.worker.sources.borrow_mut();
        if let Some(count) = sources.get_mut(&self.source) {
            *count -= 1;
            if *count == 0 {
                sources.remove(&self.source);
            }
        }
    }
}

fn block_of(source: IpAddr) -> IpAddr {
    match source {
        IpAddr::V4(_) => source,
        IpAddr::V6(v6) => Ipv6Addr::from_bits(v6.to_bits() >> 64 << 64).into(),
    }
}

fn wall_offset_ns() -> u64 {
    clock::unix_ns().wrapping_sub(clock::monotonic_ns())
}
