//! A worker's way to tell the control plane what it saw: bounded, never blocking, and nearly free when all is well.
//! It must not decide anything.

use std::{
    net::{IpAddr, SocketAddr},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering},
        mpsc::{Receiver, SyncSender, sync_channel},
    },
    time::Duration,
};

use gateway_common::{Source, map::Flow};
use tokio::sync::mpsc;

/// Offences waiting for the control plane.
const OFFENCES_WAITING_MAX: usize = 4_096;
/// Tallies of good answers waiting for the control plane.
const GOODS_WAITING_MAX: usize = 16_384;
/// Notices of other gateways waiting for the control plane.
const NOTICES_WAITING_MAX: usize = 1_024;
/// Recognised consumers waiting for the control plane.
const RECOGNISED_WAITING_MAX: usize = 16_384;
/// Slots of a worker's table of good answers (a power of two).
const SLOTS: usize = 1_024;
/// The first good answers of a visitor are told at once, so that a short visit counts as a neighbour too.
const TOLD_AT_ONCE: u32 = 5;
/// After that, one tally a second.
const TALLY_NS: u64 = 1_000_000_000;
/// Bytes kept of a plugin's, a route's, a request's name.
const NAME_BYTES_MAX: usize = 128;

/// Who spoke, beyond the address: the strongest that is known.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Identity {
    /// An authenticated credential, hashed.
    Credential(u64),
    /// A User-Agent header, hashed.
    UserAgent(u64),
    /// Nothing was presented.
    None,
}

/// What a request did wrong.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum OffenceKind {
    /// It was over its quota and was told when to come again.
    RateLimited {
        /// The value of the Retry-After header that was sent.
        retry_after: Duration,
    },
    /// Its credentials were refused (401).
    Unauthorized,
    /// It was not understood (400).
    BadRequest,
}

impl OffenceKind {
    /// The word for records.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::RateLimited { .. } => "rate_limited",
            Self::Unauthorized => "unauthorized",
            Self::BadRequest => "bad_request",
        }
    }
}

/// The connection over which a request came.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Peer {
    /// The client's end.
    pub address: SocketAddr,
    /// The gateway's port.
    pub local_port: u16,
}

impl Peer {
    pub(super) fn flow(self) -> Flow {
        Flow::new(self.address.ip().into(), self.address.port(), self.local_port)
    }
}

/// A request that was refused. Answers that the edge itself caused are not offences and must not be told.
#[derive(Clone, Copy, Debug)]
pub struct Offence<'a> {
    /// The client's address.
    pub source: IpAddr,
    /// The connection, if it is the client's own: none behind a trusted proxy, whose connections others share.
    pub peer: Option<Peer>,
    /// Who the client says it is.
    pub identity: Identity,
    /// What it did.
    pub kind: OffenceKind,
    /// The plugin that refused it.
    pub plugin: &'a str,
    /// The route it asked for.
    pub route: &'a str,
    /// The request's id, as in the access log.
    pub request_id: &'a str,
}

/// Why a decision was made, in the words of the request that tripped it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Cause {
    /// The plugin that refused the request.
    pub plugin: Box<str>,
    /// The route it asked for.
    pub route: Box<str>,
    /// The request's id, as in the access log.
    pub request_id: Box<str>,
}

/// An answer below 400.
#[derive(Clone, Copy, Debug)]
pub struct Good {
    /// The client's address.
    pub source: IpAddr,
    /// Who the client is.
    pub identity: Identity,
    /// The quota of a recognised client, in requests a second; zero is none.
    pub quota: u64,
}

/// An offence on its way to the ladder.
#[derive(Clone, Debug)]
pub(super) struct OffenceTold {
    pub at_ns: u64,
    pub source: Source,
    pub flow: Option<Flow>,
    pub identity: Identity,
    pub kind: OffenceKind,
    pub cause: Cause,
}

/// Good answers of one visitor since the last tally.
#[derive(Clone, Copy, Debug)]
pub(super) struct GoodTold {
    pub at_ns: u64,
    pub source: Source,
    pub identity: Identity,
    pub quota: u64,
    pub count: u32,
}

/// Who was recognised on a connection.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct RecognisedTold {
    pub flow: Flow,
    /// The number of the consumer's UUID.
    pub consumer: u128,
}

/// What the workers share with the control plane.
pub(super) struct Desk {
    /// Whether anybody listens: without a ladder a report costs one load.
    pub open: AtomicBool,
    /// Whether consumers have accounts.
    pub has_accounts: AtomicBool,
    pub v6_prefix: AtomicU8,
    pub lost_offences: AtomicU64,
    pub lost_goods: AtomicU64,
    /// Notices of other gateways that found no place.
    pub lost_notices: AtomicU64,
    offences: mpsc::Sender<OffenceTold>,
    goods: SyncSender<GoodTold>,
    pub notices: mpsc::Sender<Box<[u8]>>,
    /// Recognised consumers that found no place.
    pub lost_recognised: AtomicU64,
    recognised: mpsc::Sender<RecognisedTold>,
}

/// The control plane's end.
pub(super) struct Inbox {
    pub offences: mpsc::Receiver<OffenceTold>,
    /// Polled before each decision and each second: a good answer wakes nobody.
    pub goods: Receiver<GoodTold>,
    /// What other gateways tell, as it came.
    pub notices: mpsc::Receiver<Box<[u8]>>,
    pub recognised: mpsc::Receiver<RecognisedTold>,
}

pub(super) fn desk() -> (Arc<Desk>, Inbox) {
    let (offences, offences_in) = mpsc::channel(OFFENCES_WAITING_MAX);
    let (goods, goods_in) = sync_channel(GOODS_WAITING_MAX);
    let (notices, notices_in) = mpsc::channel(NOTICES_WAITING_MAX);
    let (recognised, recognised_in) = mpsc::channel(RECOGNISED_WAITING_MAX);
    let desk = Desk {
        open: AtomicBool::new(false),
        has_accounts: AtomicBool::new(false),
        v6_prefix: AtomicU8::new(gateway_common::source::V6_PREFIX),
        lost_offences: AtomicU64::new(0),
        lost_goods: AtomicU64::new(0),
        lost_notices: AtomicU64::new(0),
        lost_recognised: AtomicU64::new(0),
        offences,
        goods,
        notices,
        recognised,
    };
    (Arc::new(desk), Inbox { offences: offences_in, goods: goods_in, notices: notices_in, recognised: recognised_in })
}

#[derive(Clone, Copy)]
struct Slot {
    source: Source,
    identity: Identity,
    quota: u64,
    /// Good answers not told yet.
    untold: u32,
    /// Good answers told since this visitor took the slot, counted up to `TOLD_AT_ONCE`.
    told: u32,
    told_at_ns: u64,
}

/// One for each worker.
pub struct Reporter {
    desk: Arc<Desk>,
    slots: Box<[Option<Slot>]>,
}

impl Reporter {
    pub(super) fn new(desk: Arc<Desk>) -> Self {
        Self { desk, slots: vec![None; SLOTS].into_boxed_slice() }
    }

    /// Counts an answer below 400. `now_ns` is the monotonic clock.
    pub fn good(&mut self, now_ns: u64, good: &Good) {
        if !self.desk.open.load(Ordering::Relaxed) {
            return;
        }
        let Good { identity, quota, .. } = *good;
        let source = Source::new(good.source, self.desk.v6_prefix.load(Ordering::Relaxed));
        let slot = &mut self.slots[index(source, identity)];
        if let Some(seen) = slot
            && seen.source == source
            && seen.identity == identity
        {
            seen.untold = seen.untold.saturating_add(1);
            // Routes differ in what they grant.
            seen.quota = seen.quota.max(quota);
            if seen.told >= TOLD_AT_ONCE && now_ns.saturating_sub(seen.told_at_ns) < TALLY_NS {
                return;
            }
            tell(&self.desk, seen, now_ns);
            return;
        }
        if let Some(previous) = slot
            && previous.untold > 0
        {
            tell(&self.desk, previous, now_ns);
        }
        let mut fresh = Slot { source, identity, quota, untold: 1, told: 0, told_at_ns: now_ns };
        tell(&self.desk, &mut fresh, now_ns);
        *slot = Some(fresh);
    }

    /// Whether it matters who is recognised on which connection.
    #[must_use]
    pub fn has_accounts(&self) -> bool {
        self.desk.has_accounts.load(Ordering::Relaxed)
    }

    /// Tells the control plane whose a connection is, by the number of the consumer's UUID. False when there was no room:
    /// counted, not waited for, and to be told again.
    pub fn recognised(&mut self, peer: Peer, consumer: u128) -> bool {
        let told = self.desk.recognised.try_send(RecognisedTold { flow: peer.flow(), consumer }).is_ok();
        if !told {
            self.desk.lost_recognised.fetch_add(1, Ordering::Relaxed);
        }
        told
    }

    /// Tells the control plane of a refused request. Full means counted, not waited for.
    pub fn offence(&mut self, now_ns: u64, offence: &Offence<'_>) {
        if !self.desk.open.load(Ordering::Relaxed) {
            return;
        }
        let told = OffenceTold {
            at_ns: now_ns,
            source: Source::new(offence.source, self.desk.v6_prefix.load(Ordering::Relaxed)),
            flow: offence.peer.map(Peer::flow),
            identity: offence.identity,
            kind: offence.kind,
            cause: Cause {
                plugin: cut(offence.plugin),
                route: cut(offence.route),
                request_id: cut(offence.request_id),
            },
        };
        if self.desk.offences.try_send(told).is_err() {
            self.desk.lost_offences.fetch_add(1, Ordering::Relaxed);
        }
    }
}

fn tell(desk: &Desk, slot: &mut Slot, now_ns: u64) {
    let told =
        GoodTold { at_ns: now_ns, source: slot.source, identity: slot.identity, quota: slot.quota, count: slot.untold };
    if desk.goods.try_send(told).is_err() {
        desk.lost_goods.fetch_add(1, Ordering::Relaxed);
    }
    slot.told = slot.told.saturating_add(slot.untold);
    (slot.untold, slot.quota) = (0, 0);
    slot.told_at_ns = now_ns;
}

fn index(source: Source, identity: Identity) -> usize {
    let word = match identity {
        Identity::Credential(hash) => hash,
        Identity::UserAgent(hash) => !hash,
        Identity::None => 0,
    };
    source.hash([word, 0]) as usize & (SLOTS - 1)
}

pub(super) fn cut(text: &str) -> Box<str> {
    if text.len() <= NAME_BYTES_MAX {
        return text.into();
    }
    text[..text.floor_char_boundary(NAME_BYTES_MAX)].into()
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: u64 = 1_000_000_000;
    const IP: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 1));

    fn good() -> Good {
        Good { source: IP, identity: Identity::None, quota: 0 }
    }

    fn open_desk() -> (Reporter, Inbox) {
        let (desk, inbox) = desk();
        desk.open.store(true, Ordering::Relaxed);
        (Reporter::new(desk), inbox)
    }

    #[test]
    fn a_short_visit_is_told_at_once_and_a_long_one_once_a_second() {
        let (mut reporter, inbox) = open_desk();
        for n in 0..1_000 {
            reporter.good(n, &good());
        }
        assert_eq!(inbox.goods.try_iter().map(|told| told.count).sum::<u32>(), TOLD_AT_ONCE);
        reporter.good(2 * SECOND, &good());
        let later: Vec<_> = inbox.goods.try_iter().collect();
        assert_eq!(later.len(), 1);
        assert_eq!(later[0].count, 1_000 - TOLD_AT_ONCE + 1);
    }

    #[test]
    fn a_full_desk_loses_and_counts_instead_of_waiting() {
        let (mut reporter, _inbox) = open_desk();
        let offence = Offence {
            source: IP,
            peer: None,
            identity: Identity::None,
            kind: OffenceKind::BadRequest,
            plugin: "p",
            route: "r",
            request_id: "q",
        };
        for _ in 0..OFFENCES_WAITING_MAX + 7 {
            reporter.offence(0, &offence);
        }
        assert_eq!(reporter.desk.lost_offences.load(Ordering::Relaxed), 7);
    }

    #[test]
    fn a_closed_desk_hears_nothing() {
        let (desk, inbox) = desk();
        Reporter::new(desk).good(0, &good());
        assert!(inbox.goods.try_recv().is_err());
    }

    #[test]
    fn names_are_cut_at_a_character() {
        let long = "ä".repeat(200);
        assert_eq!(cut(&long).len(), NAME_BYTES_MAX);
    }
}
