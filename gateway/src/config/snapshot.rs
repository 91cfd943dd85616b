//! What requests run on: one immutable value, replaced as a whole.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use http::HeaderValue;

use super::compile::Load;
use super::entities::Entities;
use super::handshake::Handshake;
use super::keys::Keys;
use super::settings::Settings;
use super::sources::Bundle;
use crate::document::Place;
use crate::identity::{ConsumerIndex, GroupIndex, Identities};
use crate::plugins::{Kind, MetricFlags, Plugin};
use crate::proxy::exchange::{RouteInfo, ServiceInfo};
use crate::router::Routes;
use crate::router::path::Joint;
use crate::router::stream::StreamRouter;
use crate::upstreams::group::Group;

/// A protocol that a route or plugin is for (Kong `protocols`), as bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Protocols(pub u8);

impl Protocols {
    /// `http`.
    pub const HTTP: Self = Protocols(1);
    /// `https`.
    pub const HTTPS: Self = Protocols(2);
    /// `grpc`.
    pub const GRPC: Self = Protocols(4);
    /// `grpcs`.
    pub const GRPCS: Self = Protocols(8);
    /// All of gRPC.
    pub const ALL_GRPC: Self = Protocols(Self::GRPC.0 | Self::GRPCS.0);
    /// `tcp`.
    pub const TCP: Self = Protocols(16);
    /// `tls`.
    pub const TLS: Self = Protocols(32);
    /// `tls_passthrough`.
    pub const TLS_PASSTHROUGH: Self = Protocols(64);
    /// `udp`.
    pub const UDP: Self = Protocols(128);
    /// All of streams.
    pub const STREAM: Self = Protocols(Self::TCP.0 | Self::TLS.0 | Self::TLS_PASSTHROUGH.0 | Self::UDP.0);

    /// Whether any of `other` is in this set.
    #[must_use]
    pub fn has(self, other: Self) -> bool {
        self.0 & other.0 != 0
    }
}

/// Where requests of a service go: a name and port, or the targets of an upstream.
#[derive(Clone, Debug)]
pub struct Target {
    /// Host name or address.
    pub host: String,
    /// The address, when the host is one.
    pub ip: Option<IpAddr>,
    /// Port.
    pub port: u16,
    /// Weight among the targets of an upstream.
    pub weight: u32,
    /// `Host` for the upstream.
    pub host_header: HeaderValue,
}

/// Kong's `services` entity.
pub struct Service {
    /// For logs.
    pub info: Arc<ServiceInfo>,
    /// Whether its protocol is one of gRPC: the upstream speaks HTTP/2.
    pub grpc: bool,
    /// Whether the upstream speaks TLS.
    pub tls: bool,
    /// Whether its certificate is verified (`tls_verify`).
    pub tls_verify: bool,
    /// Path, `/` when none is given.
    pub path: String,
    /// Further attempts after the first.
    pub retries: u32,
    /// `connect_timeout`.
    pub connect_timeout: Duration,
    /// `write_timeout`.
    pub write_timeout: Duration,
    /// Whether its protocol is one of streams.
    pub stream: bool,
    /// `read_timeout`.
    pub read_timeout: Duration,
    /// One target, or those of an upstream with a weight above 0.
    pub targets: Vec<Target>,
    /// Sum of the targets' weights.
    pub weight_sum: u32,
    /// How the targets of an upstream are balanced; they stand there in the same order.
    pub group: Option<Arc<Group>>,
}

/// Where a plugin is declared: nested in an entity, or at top level with references.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Scope {
    /// Place of the route.
    pub route: Option<usize>,
    /// Place of the service.
    pub service: Option<usize>,
    /// Place of the consumer.
    pub consumer: Option<ConsumerIndex>,
    /// Place of the consumer group.
    pub group: Option<GroupIndex>,
}

impl Scope {
    /// How specific it is; the highest wins (Kong's twelve levels, the consumer group below the consumer).
    #[must_use]
    pub fn weight(&self) -> u8 {
        let place = u8::from(self.route.is_some()) * 2 + u8::from(self.service.is_some());
        let of = |levels: [u8; 4]| levels[usize::from(place)];
        match (self.consumer, self.group) {
            (Some(_), _) => of([5, 9, 10, 12]),
            (None, Some(_)) => of([4, 7, 8, 11]),
            (None, None) => of([1, 2, 3, 6]),
        }
    }
}

/// What is known of a plugin entity besides what it does.
#[derive(Debug)]
pub struct PluginInfo {
    /// UUID.
    pub id: String,
    /// Where it holds.
    pub scope: Scope,
    /// Where it stands.
    pub place: Place,
}

/// One configured plugin.
pub struct Instance {
    /// Its behaviour.
    pub plugin: Arc<dyn Plugin>,
    /// Protocols for which it runs.
    pub protocols: Protocols,
    /// For people.
    pub info: Arc<PluginInfo>,
}

/// One kind of plugin in a chain: the instance for everybody, and those of single consumers.
pub struct Slot {
    /// The kind.
    pub kind: &'static Kind,
    /// Most specific instance without a consumer.
    pub base: Option<Instance>,
    /// Most specific instance for a consumer.
    pub consumers: HashMap<ConsumerIndex, Instance>,
    /// Most specific instance for a consumer group.
    pub groups: HashMap<GroupIndex, Instance>,
}

impl Slot {
    /// The instance that runs for `consumer`, if any (Kong's scope precedence is resolved when the chain is built, but for
    /// groups: of several the first in the file whose instance is most specific).
    #[must_use]
    pub fn instance(&self, consumer: Option<ConsumerIndex>, identities: &Identities) -> Option<&Instance> {
        let own = consumer.and_then(|c| self.consumers.get(&c)).or(self.base.as_ref());
        if self.groups.is_empty() {
            return own;
        }
        let groups = consumer.and_then(|c| identities.consumer(c)).map_or(&[][..], |c| &c.member_of);
        let of_groups = groups.iter().filter_map(|group| self.groups.get(group));
        own.into_iter()
            .chain(of_groups)
            .reduce(|best, next| if next.info.scope.weight() > best.info.scope.weight() { next } else { best })
    }

    /// Whether that is another one than for somebody who is not known.
    #[must_use]
    pub fn has_own(&self, consumer: Option<ConsumerIndex>, identities: &Identities) -> bool {
        match (self.instance(consumer, identities), &self.base) {
            (Some(chosen), Some(base)) => !std::ptr::eq(chosen, base),
            (chosen, _) => chosen.is_some(),
        }
    }
}

impl Instance {
    /// The plugin, when it runs for `protocol`.
    #[must_use]
    pub fn for_protocol(&self, protocol: Protocols) -> Option<&dyn Plugin> {
        self.protocols.has(protocol).then_some(&*self.plugin)
    }
}

/// The plugins of a route, in the order in which they run.
#[derive(Default)]
pub struct Chain {
    /// One a kind.
    pub slots: Vec<Slot>,
    /// What the prometheus plugin of this chain counts.
    pub metrics: Option<MetricFlags>,
    /// Whether any instance wants the log record.
    pub logs: bool,
    /// Slots whose instances may limit by caller.
    pub limiters: Vec<usize>,
}

impl Chain {
    /// The requests a second that a consumer is granted here; 0 is no limit by caller.
    #[must_use]
    pub fn quota(&self, consumer: Option<ConsumerIndex>, identities: &Identities, protocol: Protocols) -> u64 {
        let slots = self.limiters.iter().filter_map(|at| self.slots.get(*at));
        slots.filter_map(|slot| slot.instance(consumer, identities)?.for_protocol(protocol)?.quota()).max().unwrap_or(0)
    }
}

/// Kong's `routes` entity.
pub struct Route {
    /// For logs, metrics, echoes.
    pub info: Arc<RouteInfo>,
    /// Place of its service in `Snapshot::services`.
    pub service: Option<usize>,
    /// `protocols`.
    pub protocols: Protocols,
    /// `https_redirect_status_code`.
    pub https_redirect: u16,
    /// `strip_path`.
    pub strip_path: bool,
    /// `path_handling`.
    pub joint: Joint,
    /// `preserve_host`.
    pub preserve_host: bool,
    /// Its plugins.
    pub chain: Chain,
}

/// One whole configuration.
pub struct Snapshot {
    /// The `gateway:` block.
    pub settings: Settings,
    /// Upstreams.
    pub groups: Arc<[Arc<Group>]>,
    /// Services in file order.
    pub services: Vec<Service>,
    /// Routes in file order.
    pub routes: Vec<Route>,
    /// Finds a route.
    pub router: Routes,
    /// Finds the route of a connection that is not HTTP.
    pub stream: StreamRouter,
    /// The certificates without HTTP's protocols, for stream routes.
    pub stream_tls: Option<Arc<rustls::ServerConfig>>,
    /// Plugins that see the answer to a request that no route takes.
    pub unmatched: Chain,
    /// Consumers and credentials.
    pub identities: Arc<Identities>,
    /// TLS of clients, with certificates by SNI; absent without `certificates`.
    pub tls: Option<Handshake>,
    /// Counts of entities, for the status.
    pub counts: Counts,
    /// Keys and key sets.
    pub keys: Keys,
    /// SHA-256 of the texts, hexadecimal.
    pub hash: String,
    /// The texts it was made of.
    pub bundle: Bundle,
    /// How they were read.
    pub load: Arc<Load>,
    /// The entities as the admin API shows them, and when they were last asked for.
    pub(super) kept: Mutex<Option<(Arc<Entities>, u64)>>,
}

impl Snapshot {
    /// The entities as the admin API shows them, at the monotonic time `now_ns`. The first call reads the texts again:
    /// keep it off the data path.
    #[must_use]
    pub fn entities(&self, now_ns: u64) -> Arc<Entities> {
        let read = || Arc::new(Entities::read(&self.bundle, &self.load.dialect));
        // A thread that panicked while reading leaves nothing behind that is kept.
        let Ok(mut kept) = self.kept.lock() else { return read() };
        let entities = kept.take().map_or_else(read, |(entities, _)| entities);
        *kept = Some((Arc::clone(&entities), now_ns));
        entities
    }

    /// Gives the entities up when nobody asked since `since_ns`: of a large configuration they are larger than all the rest,
    /// and freeing them takes its time.
    #[must_use]
    pub fn forget_entities(&self, since_ns: u64) -> Option<Arc<Entities>> {
        let mut kept = self.kept.try_lock().ok()?;
        kept.take_if(|(_, asked_ns)| *asked_ns < since_ns).map(|(entities, _)| entities)
    }
}

/// How many entities there are.
#[derive(Clone, Copy, Debug, Default)]
#[allow(missing_docs)]
pub struct Counts {
    pub services: usize,
    pub routes: usize,
    pub consumers: usize,
    pub plugins: usize,
    pub upstreams: usize,
}
