//! Bytes of a stream route, both ways, between a client and a target of its service. It must not know what they mean.

use std::io;
use std::net::SocketAddr;
use std::rc::Rc;

use smallvec::SmallVec;
use tokio::io::{AsyncRead, AsyncWrite};

use super::relay;
use super::transport::{self, Transport};
use super::worker::{Local, Worker};
use crate::clock;
use crate::config::snapshot::{Service, Target};
use crate::upstreams::group::{Chance, HashOn};
use crate::upstreams::health::Sign;
use crate::upstreams::member::Ride;
use crate::upstreams::ring;

/// A connection that has its route.
pub struct Carried<'a> {
    /// The configuration that it began with.
    pub local: &'a Rc<Local>,
    /// Place of its route.
    pub route: usize,
    /// The client.
    pub source: SocketAddr,
}

/// Carries a connection to its end. A plugin that refuses it, or a service without a target, closes it (Kong).
pub async fn run<S: AsyncRead + AsyncWrite + Unpin>(worker: &Rc<Worker>, carried: Carried<'_>, client: S) {
    let Some(service) = service(&carried) else { return };
    let Some((upstream, _ride)) = connect(worker, &carried, service).await else {
        return tracing::debug!(source = %carried.source, service = %service.info.id, "no target for a stream");
    };
    relay::join(client, upstream, service.read_timeout).await;
}

/// The service of a route, if its plugins let the client go there.
pub(super) fn service<'a>(carried: &Carried<'a>) -> Option<&'a Service> {
    let snapshot = &carried.local.snapshot;
    let route = &snapshot.routes[carried.route];
    let allowed = route.chain.slots.iter().all(|slot| {
        let plugin = slot.base.as_ref().and_then(|base| base.for_protocol(route.protocols));
        plugin.is_none_or(|plugin| plugin.on_connection(carried.source.ip()))
    });
    let service = route.service.map(|service| &snapshot.services[service]).filter(|_| allowed);
    if service.is_none() {
        tracing::debug!(source = %carried.source, route = %route.info.id, "stream refused");
    }
    service
}

/// A connection to a target, and the ride on it.
async fn connect(worker: &Rc<Worker>, carried: &Carried<'_>, service: &Service) -> Option<(Transport, Option<Ride>)> {
    let mut tried: SmallVec<[usize; 4]> = SmallVec::new();
    for _ in 0..=service.retries.min(RETRIES_MAX) {
        let now_ns = clock::monotonic_ns();
        let (target, ride) = choose(worker, carried, service, &mut tried, now_ns)?;
        let opened = tokio::time::timeout(service.connect_timeout, open(worker, service, &target, now_ns)).await;
        let sign = match opened {
            Ok(Ok(transport)) => return Some((transport, ride)),
            Ok(Err(_)) => Sign::TcpFailure,
            Err(_) => Sign::Timeout,
        };
        if let (Some(group), Some(last)) = (&service.group, tried.last()) {
            group.witness(*last, sign);
        }
    }
    None
}

/// Attempts after the first at most, whatever a service asks for.
pub(super) const RETRIES_MAX: u32 = 100;

/// A target of the service that was not tried, and the ride to it.
pub(super) fn choose(
    worker: &Worker,
    carried: &Carried<'_>,
    service: &Service,
    tried: &mut SmallVec<[usize; 4]>,
    now_ns: u64,
) -> Option<(Target, Option<Ride>)> {
    let id = carried.local.snapshot.routes[carried.route].service?;
    let Some(group) = &service.group else { return Some((service.targets.first()?.clone(), None)) };
    // Of what Kong hashes on only the address is known of a stream.
    let by_ip = group.hash_on.contains(&HashOn::Ip);
    let hash = by_ip.then(|| ring::hash(carried.source.ip().to_string().as_bytes()));
    let chance = Chance { turns: (&worker.turns, id), hash, tried, random: rand::random(), now_ns };
    let chosen = group.choose(&chance)?;
    tried.push(chosen);
    Some((service.targets.get(chosen)?.clone(), Some(Ride::begin(&group.places[chosen].member))))
}

async fn open(worker: &Rc<Worker>, service: &Service, target: &Target, now_ns: u64) -> io::Result<Transport> {
    let address = address(worker, target, now_ns).await?;
    let tls = service.tls.then_some((target.host.as_str(), service.tls_verify));
    transport::open(address, tls, &worker.tls).await
}

/// Where a target is.
pub(super) async fn address(worker: &Rc<Worker>, target: &Target, now_ns: u64) -> io::Result<SocketAddr> {
    let ip = match target.ip {
        Some(ip) => Some(ip),
        None => worker.resolver.address(&target.host, now_ns).await,
    };
    Ok(SocketAddr::new(ip.ok_or(io::ErrorKind::NotFound)?, target.port))
}
