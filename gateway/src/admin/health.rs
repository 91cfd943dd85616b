//! The health of upstreams and their targets in Kong's words, and Kong's way to put a target in or out of use by hand.

use std::collections::HashMap;
use std::net::IpAddr;
use std::time::Duration;

use bytes::Bytes;
use http::{Method, StatusCode};
use http_body_util::Full;
use serde_json::{Value, json};

use super::message;
use crate::config::Snapshot;
use crate::upstreams::group::{Group, Place};

/// How long the resolver may take; an answer about health does not wait for a slow one.
const LOOKUP_MAX: Duration = Duration::from_secs(2);

/// Addresses of the targets of one upstream, by host; none for a name that does not resolve.
pub type Addresses = HashMap<String, Vec<IpAddr>>;

/// The group that an upstream's name or id means.
#[must_use]
pub fn group<'a>(snapshot: &'a Snapshot, upstream: &str) -> Option<&'a Group> {
    snapshot.groups.iter().map(|group| &**group).find(|group| group.name == upstream || group.id == upstream)
}

/// Looks up the targets of the upstream whose health `path` asks for; nothing for any other path.
pub async fn addresses(snapshot: &Snapshot, path: &str) -> Addresses {
    let upstream = path.strip_prefix("/upstreams/").and_then(|rest| rest.strip_suffix("/health"));
    let Some(group) = upstream.and_then(|upstream| group(snapshot, upstream)) else { return Addresses::new() };
    let look_up = |host: String| async move {
        let found = tokio::time::timeout(LOOKUP_MAX, tokio::net::lookup_host((host.as_str(), 0))).await;
        let mut found: Vec<IpAddr> = found.into_iter().flatten().flatten().map(|address| address.ip()).collect();
        found.sort();
        found.dedup();
        (host, found)
    };
    let mut hosts: Vec<String> = group.places.iter().map(|place| place.host.clone()).collect();
    hosts.sort();
    hosts.dedup();
    futures_util::future::join_all(hosts.into_iter().map(look_up)).await.into_iter().collect()
}

/// Adds to a target's entity how it is, as Kong's `/upstreams/{upstream}/health` tells it.
pub fn tell(target: &mut Value, group: &Group, addresses: &Addresses) {
    let at = target["target"].as_str().and_then(|name| group.place_of(name));
    let Some((at, place)) = at.and_then(|at| Some((at, group.places.get(at)?))) else { return };
    let health = group.health_of(at);
    let found = addresses.get(&place.host).map(Vec::as_slice).unwrap_or_default();
    target["target"] = place.target.as_str().into();
    target["health"] = if found.is_empty() { "DNS_ERROR" } else { health }.into();
    target["data"] = json!({
        "host": place.host, "port": place.port, "nodeWeight": place.weight,
        "weight": weight(place),
        "dns": if place.host.parse::<IpAddr>().is_ok() { "static" } else { "A" },
        "addresses": found.iter().map(|ip| json!({
            "ip": ip, "port": place.port, "weight": place.weight, "health": health,
        })).collect::<Vec<_>>(),
    });
}

fn weight(place: &Place) -> Value {
    let available = if place.member.is_healthy() { place.weight } else { 0 };
    json!({ "total": place.weight, "available": available, "unavailable": place.weight - available })
}

/// Kong's `PUT /upstreams/{upstream}/targets/{target}[/{address}]/{healthy,unhealthy}`; `None` for any other request. The
/// addresses of a target share its state. `id_of` gives the target that an entity's id means.
pub fn put(
    snapshot: &Snapshot,
    method: &Method,
    parts: &[&str],
    id_of: impl Fn(&str) -> Option<String>,
) -> Option<http::Response<Full<Bytes>>> {
    let (upstream, target, word) = match parts {
        ["upstreams", upstream, "targets", target, word @ ("healthy" | "unhealthy")] => (upstream, target, word),
        ["upstreams", upstream, "targets", target, _, word @ ("healthy" | "unhealthy")] => (upstream, target, word),
        _ => return None,
    };
    if *method != Method::PUT && *method != Method::POST {
        return Some(message(StatusCode::METHOD_NOT_ALLOWED, "Method not allowed"));
    }
    let place = group(snapshot, upstream).and_then(|group| {
        let at = group.place_of(target).or_else(|| group.place_of(&id_of(target)?))?;
        Some((group, group.places.get(at)?))
    });
    let Some((group, place)) = place else { return Some(message(StatusCode::NOT_FOUND, "Not found")) };
    place.member.set_healthy(*word == "healthy");
    tracing::warn!(upstream = %group.name, target = %place.target, state = word, "target was set by the admin API");
    let mut answer = http::Response::new(Full::default());
    *answer.status_mut() = StatusCode::NO_CONTENT;
    Some(answer)
}
