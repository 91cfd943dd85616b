//! Kong's `services`, `upstreams` and `targets`.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use http::HeaderValue;
use serde_json::json;

use super::snapshot::{Service, Target};
use super::{balancing, ids};
use crate::document::{Fields, Node, Place, Report};
use crate::plugins::Shared;
use crate::proxy::exchange::ServiceInfo;
use crate::upstreams::group::{Group, Place as Member};
use crate::upstreams::ring::Ring;

/// A service and what is nested in it.
pub struct Draft<'a> {
    /// Compiled, but for its targets when the host names an upstream.
    pub service: Service,
    /// UUID.
    pub id: String,
    /// Name, or empty.
    pub name: String,
    /// False takes its routes out.
    pub enabled: bool,
    /// Nested `routes`.
    pub routes: &'a [Node],
    /// Nested `plugins`.
    pub plugins: &'a [Node],
    /// Where it stands.
    pub place: Place,
}

/// Protocol, host, port and path, from the fields or from the `url` shorthand, which wins (Kong's rule).
pub(super) struct Origin {
    pub(super) protocol: String,
    pub(super) host: Option<String>,
    pub(super) port: u16,
    pub(super) path: Option<String>,
}

const PROTOCOLS: &[(&str, &str)] = &[
    ("http", "http"),
    ("https", "https"),
    ("tcp", "tcp"),
    ("tls", "tls"),
    ("tls_passthrough", "tls_passthrough"),
    ("udp", "udp"),
    ("grpc", "grpc"),
    ("grpcs", "grpcs"),
    ("ws", "ws"),
    ("wss", "wss"),
];

/// Reads one service.
pub fn read<'a>(node: &'a Node, report: &'a Report, upstreams: &Upstreams) -> Option<Draft<'a>> {
    let f = Fields::of(node, "service", report)?;
    let name = f.string("name").unwrap_or_default();
    let id = ids::of_entity(&f, "services", (!name.is_empty()).then_some(name.as_str())).to_string();
    let origin = origin(&f);
    let milliseconds = |key| Duration::from_millis(f.integer(key, 1..=2_147_483_646).unwrap_or(60_000) as u64);
    let (connect_timeout, write_timeout, read_timeout) =
        (milliseconds("connect_timeout"), milliseconds("write_timeout"), milliseconds("read_timeout"));
    let retries = f.integer("retries", 0..=32_767).unwrap_or(5) as u32;
    let tls_verify = f.boolean("tls_verify");
    f.integer("tls_verify_depth", 0..=64);
    for key in ["client_certificate", "ca_certificates"] {
        if f.node(key).is_some() {
            report.unsupported(f.place_of(key), format!("`{key}` of a service"), None);
        }
    }
    let enabled = f.boolean("enabled").unwrap_or(true);
    let routes = f.list("routes").unwrap_or_default();
    let plugins = f.list("plugins").unwrap_or_default();
    let tls = match origin.protocol.as_str() {
        "https" | "tls" | "grpcs" => true,
        "ws" | "wss" => {
            report.error(f.place_of("protocol"), format!("protocol `{}` is an enterprise protocol", origin.protocol));
            return None;
        }
        _ => false,
    };
    let stream = matches!(origin.protocol.as_str(), "tcp" | "tls" | "tls_passthrough" | "udp");
    let grpc = matches!(origin.protocol.as_str(), "grpc" | "grpcs");
    if (stream || grpc) && origin.path.is_some() {
        let words = format!("`path` must be null when protocol is {}", origin.protocol);
        report.error(f.place_of("path"), words);
    }
    if tls_verify.is_some() && (!tls || grpc) {
        report.error(f.place_of("tls_verify"), "`tls_verify` is only for protocol https");
    }
    let Some(host) = origin.host else {
        if !f.given("url") {
            report.mismatch(f.place(), "service lacks the required field `host`", "`host` or `url`");
        }
        return None;
    };
    let entity = json!({
        "id": id, "name": (!name.is_empty()).then_some(&name), "protocol": origin.protocol, "host": host,
        "port": origin.port, "path": origin.path, "retries": retries, "enabled": enabled,
        "connect_timeout": connect_timeout.as_millis() as u64, "write_timeout": write_timeout.as_millis() as u64,
        "read_timeout": read_timeout.as_millis() as u64, "tls_verify": tls_verify,
    });
    let (targets, group) = match upstreams.get(&host) {
        Some((targets, group)) => (targets.clone(), Some(Arc::clone(group))),
        None => (vec![target(&host, origin.port, 100, tls, None)?], None),
    };
    let service = Service {
        info: Arc::new(ServiceInfo { id: id.clone(), name: name.clone(), entity }),
        grpc,
        tls,
        tls_verify: tls_verify.unwrap_or(false),
        path: origin.path.unwrap_or_else(|| "/".to_owned()),
        retries,
        stream,
        connect_timeout,
        write_timeout,
        read_timeout,
        weight_sum: targets.iter().map(|t| t.weight).sum(),
        targets,
        group,
    };
    Some(Draft { service, id, name, enabled, routes, plugins, place: node.place })
}

fn origin(f: &Fields<'_>) -> Origin {
    let mut origin = Origin {
        protocol: f.choice("protocol", PROTOCOLS).unwrap_or("http").to_owned(),
        host: f.string("host"),
        port: f.integer("port", 0..=65_535).unwrap_or(80) as u16,
        path: f.string("path"),
    };
    if let Some(url) = f.string("url") {
        match parse_url(&url) {
            Ok(parsed) => origin = parsed,
            Err(what) => {
                f.report.mismatch(f.place_of("url"), format!("`url`: {what}"), "such as http://host:8080/path")
            }
        }
    } else if let Some(host) = &origin.host
        && (host.is_empty()
            || host.contains(['/', ' ', '?', '#', '@'])
            || (host.contains(':') && host.parse::<IpAddr>().is_err()))
    {
        f.report.mismatch(f.place_of("host"), "`host` is no host name", "a name or address without port or path");
        origin.host = None;
    }
    if let Some(path) = &origin.path {
        let chars =
            path.bytes().all(|b| b.is_ascii_graphic() && !matches!(b, b'?' | b'#' | b'<' | b'>' | b'"' | b'\\'));
        if !path.starts_with('/') || path.contains("//") || !chars {
            f.report.mismatch(
                f.place_of("path"),
                "`path` of a service",
                "an absolute path without empty segments or query",
            );
            origin.path = None;
        }
    }
    origin
}

/// Kong's `url` shorthand: the port is 443 for https, else 80, whatever the scheme.
pub(super) fn parse_url(url: &str) -> Result<Origin, &'static str> {
    let (scheme, rest) = url.split_once("://").ok_or("no scheme")?;
    if !PROTOCOLS.iter().any(|(p, _)| *p == scheme) {
        return Err("unknown scheme");
    }
    let (authority, path) = rest.find(['/', '?', '#']).map_or((rest, ""), |i| rest.split_at(i));
    let (host, port) = match authority.rsplit_once(':') {
        Some((host, port)) if !authority.ends_with(']') => (host, Some(port.parse().map_err(|_| "invalid port")?)),
        _ => (authority, None),
    };
    let host = host.strip_prefix('[').and_then(|h| h.strip_suffix(']')).unwrap_or(host);
    if host.is_empty() || host.contains(['@', ' ']) {
        return Err("invalid host");
    }
    if path.contains(['?', '#', ' ']) {
        return Err("a query or fragment cannot be part of it");
    }
    Ok(Origin {
        protocol: scheme.to_owned(),
        host: Some(host.to_owned()),
        port: port.unwrap_or(if scheme == "https" { 443 } else { 80 }),
        path: (!path.is_empty()).then(|| path.to_owned()),
    })
}

fn target(host: &str, port: u16, weight: u32, tls: bool, host_header: Option<&str>) -> Option<Target> {
    let ip: Option<IpAddr> = host.parse().ok();
    let shown = if matches!(ip, Some(IpAddr::V6(_))) { format!("[{host}]") } else { host.to_owned() };
    let default_port = if tls { 443 } else { 80 };
    let header = match host_header {
        Some(header) => header.to_owned(),
        None if port == default_port || port == 80 || port == 443 => shown,
        None => format!("{shown}:{port}"),
    };
    let host_header = HeaderValue::from_str(&header).ok()?;
    Some(Target { host: host.to_owned(), ip, port, weight, host_header })
}

/// Upstreams by name: their targets as services need them, and as they are balanced.
pub type Upstreams = HashMap<String, (Vec<Target>, Arc<Group>)>;

/// Reads `upstreams` with their nested targets, and top-level `targets`, by upstream name.
pub fn read_upstreams<'a>(nodes: &'a [Node], targets: &'a [Node], shared: &Shared, report: &'a Report) -> Upstreams {
    let mut upstreams: HashMap<String, Vec<Target>> = HashMap::new();
    let mut groups: HashMap<String, Group> = HashMap::new();
    let mut host_headers: HashMap<String, Option<String>> = HashMap::new();
    let mut ids_of: HashMap<String, String> = HashMap::new();
    let mut places: HashMap<String, Place> = HashMap::new();
    for node in nodes {
        let Some(f) = Fields::of(node, "upstream", report) else { continue };
        let name = f.required_string("name");
        let id = ids::of_entity(&f, "upstreams", name.as_deref()).to_string();
        let host_header = f.string("host_header");
        let group = balancing::read(&f, &id, name.as_deref().unwrap_or_default());
        let nested = f.list("targets").unwrap_or_default();
        let Some(name) = name else { continue };
        if let Some(first) = places.insert(name.clone(), node.place) {
            super::compile::duplicate(report, node.place, "upstreams", ("name", &name), Some(first));
        }
        let list = nested.iter().filter_map(|t| read_target(t, None, host_header.as_deref(), report)).collect();
        ids_of.insert(id, name.clone());
        host_headers.insert(name.clone(), host_header);
        groups.insert(name.clone(), group);
        upstreams.insert(name, list);
    }
    for node in targets {
        let reference = node.member("upstream").and_then(super::compile::reference);
        let name = reference.as_ref().map(|r| ids_of.get(r).unwrap_or(r).clone());
        let Some((name, list)) = name.and_then(|n| upstreams.get_mut(&n).map(|l| (n, l))) else {
            report.error(
                node.place,
                format!(
                    "invalid reference 'upstream: {}' (no such entry in 'upstreams')",
                    reference.unwrap_or_default()
                ),
            );
            continue;
        };
        let host_header = host_headers.get(&name).and_then(Option::as_deref);
        list.extend(read_target(node, Some("upstream"), host_header, report));
    }
    let join = |(name, targets): (String, Vec<Target>)| {
        let group = groups.remove(&name).map(|group| settle(group, &targets, shared));
        group.map(|group| (name, (targets, Arc::new(group))))
    };
    upstreams.into_iter().filter_map(join).collect()
}

/// The group with its targets and what is known of them.
fn settle(mut group: Group, targets: &[Target], shared: &Shared) -> Group {
    let member = |target: &Target| {
        let shown = if target.host.contains(':') { format!("[{}]", target.host) } else { target.host.clone() };
        let shown = format!("{shown}:{}", target.port);
        Member {
            member: shared.members.of(&group.name, &shown),
            target: shown,
            host: target.host.clone(),
            port: target.port,
            host_header: target.host_header.to_str().unwrap_or_default().to_owned(),
            weight: target.weight,
        }
    };
    group.places = targets.iter().map(member).collect();
    group.ring = Ring::new(group.places.iter().map(|place| (place.target.as_str(), place.weight)));
    group
}

fn read_target<'a>(
    node: &'a Node,
    parent: Option<&'a str>,
    host_header: Option<&str>,
    report: &'a Report,
) -> Option<Target> {
    let f = Fields::of(node, "target", report)?;
    if let Some(parent) = parent {
        f.skip(parent);
    }
    let text = f.required_string("target");
    ids::of_entity(&f, "targets", None);
    let weight = f.integer("weight", 0..=65_535).unwrap_or(100) as u32;
    let text = text?;
    let (host, port) = match text.rsplit_once(':') {
        Some((host, port)) if !text.ends_with(']') && (!host.contains(':') || host.starts_with('[')) => {
            (host, port.parse().ok())
        }
        _ => (text.as_str(), Some(crate::upstreams::group::PORT)),
    };
    let host = host.trim_start_matches('[').trim_end_matches(']');
    let made = port.filter(|_| !host.is_empty()).and_then(|port| target(host, port, weight, false, host_header));
    if made.is_none() {
        report.mismatch(f.place_of("target"), "`target` is no target", "HOST, HOST:PORT or [ADDRESS]:PORT");
    }
    made
}
