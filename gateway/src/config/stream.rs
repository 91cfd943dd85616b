//! Kong's `routes` of protocols `tcp`, `tls`, `tls_passthrough` and `udp`.

use std::sync::Arc;

use serde_json::json;

use super::ids;
use super::routes::{Draft, Parent};
use super::snapshot::{Chain, Protocols, Route};
use crate::document::{Fields, Node, Report, Value};
use crate::proxy::exchange::RouteInfo;
use crate::router::Matchers;
use crate::router::path::Joint;
use crate::router::pattern::HostPattern;
use crate::router::stream::{Carriage, End, StreamMatchers, network};

const CARRIAGES: &[(&str, Carriage, Protocols)] = &[
    ("tcp", Carriage::Tcp, Protocols::TCP),
    ("tls", Carriage::Tls, Protocols::TLS),
    ("tls_passthrough", Carriage::Passthrough, Protocols::TLS_PASSTHROUGH),
    ("udp", Carriage::Udp, Protocols::UDP),
];

/// Whether a route is of a stream protocol.
#[must_use]
pub fn is_stream(node: &Node) -> bool {
    let Some(Value::Seq(protocols)) = node.member("protocols").map(|p| &p.value) else { return false };
    protocols.iter().any(|p| matches!(&p.value, Value::Str(s) if CARRIAGES.iter().any(|(name, ..)| name == s)))
}

/// Reads one route.
pub fn read<'a>(
    node: &'a Node,
    parent: Parent,
    top: bool,
    index: usize,
    report: &'a Report,
) -> Option<(Draft<'a>, StreamMatchers)> {
    let f = Fields::of(node, "route", report)?;
    if top {
        f.skip("service");
    }
    let name = f.string("name").unwrap_or_default();
    let uuid = ids::of_entity(&f, "routes", (!name.is_empty()).then_some(name.as_str()));
    let (carriages, protocols) = carriages(&f);
    let matchers = StreamMatchers {
        sources: ends(&f, "sources"),
        destinations: ends(&f, "destinations"),
        snis: snis(&f),
        carriages,
        uuid: uuid.as_u128(),
        route: index,
    };
    for key in ["strip_path", "preserve_host", "path_handling", "https_redirect_status_code", "regex_priority"] {
        f.skip(key);
    }
    f.skip("request_buffering");
    f.skip("response_buffering");
    judge(&f, &matchers);
    let plugins = f.list("plugins").unwrap_or_default();
    for plugin in plugins {
        if let Some(Value::Str(kind)) = plugin.member("name").map(|name| &name.value)
            && kind != "ip-restriction"
        {
            report.unsupported(plugin.place, format!("plugin `{kind}` on a stream route"), None);
        }
    }
    let json_of = |key: &str| node.member(key).map(Node::to_json);
    let entity = json!({
        "id": uuid.to_string(), "name": (!name.is_empty()).then_some(&name), "protocols": json_of("protocols"),
        "sources": json_of("sources"), "destinations": json_of("destinations"), "snis": json_of("snis"),
        "service": { "id": parent.info.id },
    });
    let info = RouteInfo {
        index: index as u32,
        id: uuid.to_string(),
        name: name.clone(),
        service: Some(Arc::clone(&parent.info)),
        entity,
    };
    let route = Route {
        info: Arc::new(info),
        service: Some(parent.index),
        protocols,
        https_redirect: 426,
        strip_path: false,
        joint: Joint::default(),
        preserve_host: false,
        chain: Chain::default(),
    };
    let draft = Draft {
        route,
        matchers: Matchers::default(),
        rule: None,
        id: uuid.to_string(),
        name,
        plugins,
        place: node.place,
    };
    Some((draft, matchers))
}

fn carriages(f: &Fields<'_>) -> (Vec<Carriage>, Protocols) {
    let mut carriages = Vec::new();
    let mut bits = 0;
    for (place, text) in f.strings("protocols").unwrap_or_default() {
        match CARRIAGES.iter().find(|(name, ..)| *name == text) {
            Some((_, carriage, protocol)) => {
                carriages.push(*carriage);
                bits |= protocol.0;
            }
            None => {
                let words = format!("`protocols` has `{text}` beside a stream protocol");
                f.report.mismatch(place, words, "protocols of one family: tcp, tls, udp, or tls_passthrough");
            }
        }
    }
    if carriages.contains(&Carriage::Passthrough) && carriages.len() > 1 {
        f.report.error(f.place_of("protocols"), "`tls_passthrough` cannot stand beside other protocols");
    }
    (carriages, Protocols(bits))
}

/// Kong's rules of what must be there.
fn judge(f: &Fields<'_>, m: &StreamMatchers) {
    let passthrough = m.carriages.contains(&Carriage::Passthrough);
    let given = |key: &str| f.given(key);
    if passthrough && !given("snis") {
        f.report.error(f.place(), "must set snis when 'protocols' is 'tls_passthrough'");
    } else if !["sources", "destinations", "snis"].into_iter().any(given) {
        f.report.error(
            f.place(),
            "must set one of 'sources', 'destinations', 'snis' when 'protocols' is 'tcp', 'tls' or 'udp'",
        );
    } else if given("snis") && !passthrough && !m.carriages.contains(&Carriage::Tls) {
        f.report.error(f.place_of("snis"), "'snis' can only be set when 'protocols' is 'tls' or 'tls_passthrough'");
    }
}

fn snis(f: &Fields<'_>) -> Vec<HostPattern> {
    let mut patterns = Vec::new();
    for (place, text) in f.strings("snis").unwrap_or_default() {
        match HostPattern::parse(text.trim_end_matches('.')) {
            Ok(pattern) => patterns.push(pattern),
            Err(what) => {
                f.report.mismatch(place, format!("`snis`: `{text}`: {what}"), "a host name, *.suffix or prefix.*")
            }
        }
    }
    patterns
}

fn ends<'a>(f: &Fields<'a>, key: &'a str) -> Vec<End> {
    let mut ends = Vec::new();
    for node in f.list(key).unwrap_or_default() {
        let Some(end) = Fields::of(node, key, f.report) else { continue };
        let ip = end.string("ip");
        let port = end.integer("port", 0..=65_535).map(|port| port as u16);
        let net = ip.as_deref().and_then(network);
        if (ip.is_some() && net.is_none()) || (ip.is_none() && port.is_none()) {
            f.report.mismatch(
                node.place,
                format!("an entry of `{key}`"),
                "an `ip` (address or CIDR), a `port`, or both",
            );
            continue;
        }
        ends.push(End { net, port });
    }
    ends
}
