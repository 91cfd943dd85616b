//! Active health checks: asks the targets in their intervals and tells their members. Runs on the control plane; requests
//! never wait for it.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::Semaphore;

use super::group::{Group, Place, ProbeKind, Probing};
use super::health::{Sign, Witness};
use crate::clock;
use crate::proxy::transport::{self, TlsClients, Transport};

/// How often it is looked who is due.
const TICK: Duration = Duration::from_millis(100);
/// Bytes of an answer that are read for its status.
const STATUS_BYTES_MAX: usize = 1024;

/// When a target is due again, by upstream and target.
#[derive(Default)]
struct Calendar(HashMap<String, u64>);

impl Calendar {
    /// Whether a target is due; the next time is then noted.
    fn due(&mut self, group: &Group, probing: &Probing, place: &Place, now_ns: u64) -> bool {
        let every = if place.member.is_healthy() { probing.healthy_every } else { probing.unhealthy_every };
        if every.is_zero() || place.weight == 0 {
            return false;
        }
        let next = self.0.entry(format!("{} {}", group.name, place.target)).or_default();
        // A shorter interval than the one that was noted counts from now.
        let every_ns = u64::try_from(every.as_nanos()).unwrap_or(u64::MAX);
        if now_ns < (*next).min(now_ns.saturating_add(every_ns)) {
            *next = (*next).min(now_ns.saturating_add(every_ns));
            return false;
        }
        *next = now_ns.saturating_add(every_ns);
        true
    }
}

/// Probes for ever; `groups` gives those of the configuration in force.
pub async fn run(groups: impl Fn() -> Arc<[Arc<Group>]>) {
    let clients = Arc::new(TlsClients::new());
    let mut calendar = Calendar::default();
    let mut places: HashMap<String, Arc<Semaphore>> = HashMap::new();
    let mut tick = tokio::time::interval(TICK);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tick.tick().await;
        let groups = groups();
        if groups.iter().all(|group| group.probing.is_none()) {
            (calendar, places) = (Calendar::default(), HashMap::new());
            continue;
        }
        let now_ns = clock::monotonic_ns();
        for group in groups.iter() {
            let Some(probing) = &group.probing else { continue };
            let permits = places
                .entry(format!("{} {}", group.name, probing.concurrency))
                .or_insert_with(|| Arc::new(Semaphore::new(probing.concurrency)));
            for at in 0..group.places.len() {
                if calendar.due(group, probing, &group.places[at], now_ns) {
                    let (group, clients, permits) = (Arc::clone(group), Arc::clone(&clients), Arc::clone(permits));
                    tokio::spawn(async move {
                        let Ok(_permit) = permits.acquire().await else { return };
                        probe(&group, at, &clients).await;
                    });
                }
            }
        }
    }
}

async fn probe(group: &Group, at: usize, clients: &TlsClients) {
    let Some(probing) = &group.probing else { return };
    let place = &group.places[at];
    let sign = match tokio::time::timeout(probing.timeout, ask(&probing.kind, place, clients)).await {
        Ok(Ok(sign)) => sign,
        Ok(Err(_)) => Sign::TcpFailure,
        Err(_) => Sign::Timeout,
    };
    if place.member.note(&group.active, sign, Witness::Probe) {
        let healthy = place.member.is_healthy();
        tracing::warn!(upstream = %group.name, target = %place.target, ?sign, healthy, "target turned");
    }
}

async fn ask(kind: &ProbeKind, place: &Place, clients: &TlsClients) -> std::io::Result<Sign> {
    let address = tokio::net::lookup_host((place.host.as_str(), place.port)).await?.next();
    let address = address.ok_or(std::io::ErrorKind::NotFound)?;
    let (path, headers, tls) = match kind {
        ProbeKind::Tcp => {
            transport::open(address, None, clients).await?;
            return Ok(Sign::Connected);
        }
        ProbeKind::Http { path, headers, tls } => (path, headers, tls),
    };
    let tls = tls.as_ref().map(|(sni, verify)| (sni.as_deref().unwrap_or(&place.host), *verify));
    let mut stream = transport::open(address, tls, clients).await?;
    let head = format!(
        "GET {path} HTTP/1.1\r\nHost: {}\r\nUser-Agent: gateway\r\nConnection: close\r\n{headers}\r\n",
        place.host_header
    );
    stream.write_all(head.as_bytes()).await?;
    stream.flush().await?;
    status(&mut stream).await
}

/// The status of an answer (RFC 9112 §4).
async fn status(stream: &mut Transport) -> std::io::Result<Sign> {
    let mut read = Vec::with_capacity(64);
    while !read.contains(&b'\n') {
        let mut chunk = [0; 64];
        let count = stream.read(&mut chunk).await?;
        if count == 0 || read.len() + count > STATUS_BYTES_MAX {
            return Err(std::io::ErrorKind::InvalidData.into());
        }
        read.extend_from_slice(&chunk[..count]);
    }
    let digits = read.strip_prefix(b"HTTP/1.").and_then(|rest| rest.get(2..5)).and_then(|d| str::from_utf8(d).ok());
    let status = digits.and_then(|digits| digits.parse().ok());
    status.map(Sign::Status).ok_or_else(|| std::io::ErrorKind::InvalidData.into())
}
