//! What the edge is told of each answer, and whose address a request counts for.

use std::hash::BuildHasher;
use std::net::IpAddr;
use std::time::Duration;

use http::StatusCode;
use http::header::{HeaderMap, HeaderName, USER_AGENT};

use super::exchange::{Client, Exchange};
use super::flight::Flight;
use super::reply::{Refusal, Reply};
use super::worker::Worker;
use crate::clock;
use crate::config::Settings;
use crate::config::settings::RealIp;
use crate::edge::{Good, Identity, Offence, OffenceKind, Peer};

/// Entries of the header that are looked at.
const HOPS_MAX: usize = 64;

/// Takes the client's address from a trusted peer's header (Kong `trusted_ips`, `real_ip_header`). With the PROXY protocol the
/// peer is the client already.
pub fn resolve_client(exchange: &mut Exchange, settings: &Settings) {
    let peer = exchange.client.peer.ip().to_canonical();
    exchange.client.ip = peer;
    exchange.client.trusted = settings.is_trusted(peer);
    if let RealIp::Header(name) = &settings.real_ip
        && exchange.client.trusted
        && let Some(ip) = named_client(&exchange.request.headers, name, settings)
    {
        exchange.client.ip = ip;
        exchange.client_text = Some(ip.to_string().into());
    }
}

/// The client that a trusted peer names.
#[must_use]
pub fn named_client(headers: &HeaderMap, name: &HeaderName, settings: &Settings) -> Option<IpAddr> {
    let values = headers.get_all(name).iter().rev();
    let entries = values.flat_map(|value| value.to_str().unwrap_or_default().rsplit(',')).take(HOPS_MAX);
    let mut addresses = entries.map_while(|text| text.trim().parse::<IpAddr>().ok()).map(|ip| ip.to_canonical());
    let mut ip = addresses.next()?;
    if settings.real_ip_recursive {
        // From the right, whoever is trusted speaks for the one before; the first stranger is the client.
        while let Some(before) = { settings.is_trusted(ip) }.then(|| addresses.next()).flatten() {
            ip = before;
        }
    }
    Some(ip)
}

/// Tells the edge: `reply` is the gateway's own answer, or nothing for an upstream's.
pub fn tell(flight: &Flight, reply: Option<&Reply>, now_ns: u64) {
    let Some(edge) = &flight.worker.edge else { return };
    let client = &flight.exchange.client;
    let source = client.ip;
    let identity = identity(flight);
    let Some(reply) = reply else {
        let good = flight.upstream_status.is_some_and(|s| s.is_success() || s.is_redirection());
        if good {
            let known = matches!(identity, Identity::Credential(_));
            let quota = if known {
                flight.chain().quota(flight.exchange.consumer(), &flight.local.snapshot.identities, flight.protocol())
            } else {
                0
            };
            edge.reporter.borrow_mut().good(now_ns, &Good { source, identity, quota });
        }
        return;
    };
    // What the edge itself caused is not evidence: a verdict must not feed itself.
    if matches!(reply.reason, "source_degraded" | "source_dropped") {
        return;
    }
    let kind = match reply.status {
        StatusCode::TOO_MANY_REQUESTS => {
            OffenceKind::RateLimited { retry_after: Duration::from_secs(reply.retry_after_seconds().unwrap_or(1)) }
        }
        StatusCode::UNAUTHORIZED => OffenceKind::Unauthorized,
        StatusCode::BAD_REQUEST => OffenceKind::BadRequest,
        _ => return,
    };
    let route = flight.exchange.route.as_ref().map_or("", |r| if r.name.is_empty() { &r.id } else { &r.name });
    edge.reporter.borrow_mut().offence(
        now_ns,
        &Offence {
            source,
            // A trusted proxy's connection carries others too, and a load balancer's packets are not the client's.
            peer: (!client.trusted && !client.told)
                .then_some(Peer { address: client.peer, local_port: client.local_port }),
            identity,
            kind,
            plugin: reply.reason,
            route,
            request_id: flight.exchange.request_id.as_str(),
        },
    );
}

/// Tells the edge whose the connection is, when consumers have accounts there: at once when that changes, else now and then.
/// An anonymous consumer is nobody in particular, and changes nothing.
pub fn recognised(flight: &Flight) {
    let Some(edge) = &flight.worker.edge else { return };
    let mut reporter = edge.reporter.borrow_mut();
    if !reporter.has_accounts() {
        return;
    }
    let consumer = flight.exchange.consumer().and_then(|index| flight.local.snapshot.identities.consumer(index));
    let (Some(consumer), Exchange { client, started_ns, .. }) = (consumer, &flight.exchange) else { return };
    let (number, entry) = (consumer.number(), &flight.connection.entry);
    let peer = Peer { address: client.peer, local_port: client.local_port };
    if !entry.is_on_account_of(number, *started_ns) && reporter.recognised(peer, number) {
        entry.put_on_account_of(number, *started_ns);
    }
}

/// Counts what the parser refused, and tells the edge: there is no request to blame, only a source.
pub fn unparsed(worker: &Worker, client: Client, refusal: Refusal) {
    let reply = refusal.reply();
    worker.count_unparsed(reply.status.as_u16(), reply.reason);
    if let Some(edge) = &worker.edge {
        let offence = Offence {
            source: client.ip,
            // The refusal ends the connection: there is none to cut.
            peer: None,
            identity: Identity::None,
            kind: OffenceKind::BadRequest,
            plugin: reply.reason,
            route: "",
            request_id: "",
        };
        edge.reporter.borrow_mut().offence(clock::monotonic_ns(), &offence);
    }
}

/// The strongest identity that is known.
fn identity(flight: &Flight) -> Identity {
    let keys = &flight.worker.shared.hash_keys;
    if let Some(credential) = flight.exchange.credential() {
        return Identity::Credential(keys.hash_one(credential));
    }
    match flight.exchange.request.headers.get(USER_AGENT) {
        Some(agent) => Identity::UserAgent(keys.hash_one(agent.as_bytes())),
        None => Identity::None,
    }
}
