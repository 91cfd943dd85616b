//! Kong's `routes`.

use std::sync::Arc;

use http::{HeaderName, Method};
use serde_json::json;

use super::ids;
use super::settings::Flavor;
use super::snapshot::{Chain, Protocols, Route};
use crate::document::{Fields, Node, Place, Report, Value};
use crate::proxy::exchange::{RouteInfo, ServiceInfo};
use crate::router::path::Joint;
use crate::router::pattern::{HeaderPattern, HostPattern, Methods, path_regex};
use crate::router::{Expression, Matchers, Rule, path};

/// A route and what is nested in it.
pub struct Draft<'a> {
    /// Compiled, but for its plugins.
    pub route: Route,
    /// What the router asks.
    pub matchers: Matchers,
    /// What the router asks instead when the route is an expression.
    pub rule: Option<Rule>,
    /// UUID.
    pub id: String,
    /// Name, or empty.
    pub name: String,
    /// Nested `plugins`.
    pub plugins: &'a [Node],
    /// Where it stands.
    pub place: Place,
}

/// The service that a route belongs to.
pub struct Parent {
    /// Place in the list of services.
    pub index: usize,
    /// For logs.
    pub info: Arc<ServiceInfo>,
}

/// Reads one route.
pub fn read<'a>(
    node: &'a Node,
    parent: Option<Parent>,
    top: bool,
    index: usize,
    flavor: Flavor,
    report: &'a Report,
) -> Option<Draft<'a>> {
    let f = Fields::of(node, "route", report)?;
    if top {
        f.skip("service");
    }
    let name = f.string("name").unwrap_or_default();
    let uuid = ids::of_entity(&f, "routes", (!name.is_empty()).then_some(name.as_str()));
    let protocols = protocols(&f, "protocols", Protocols(3))?;
    let mut matchers = Matchers { uuid: uuid.as_u128(), ..Matchers::default() };
    read_matchers(&f, &mut matchers);
    let rule = rule(&f, flavor, index, protocols, uuid.as_u128());
    let redirects = [(426, ()), (301, ()), (302, ()), (307, ()), (308, ())];
    let https_redirect = f.integer("https_redirect_status_code", 301..=426).unwrap_or(426);
    if !redirects.iter().any(|(code, ())| *code == https_redirect) {
        report.mismatch(
            f.place_of("https_redirect_status_code"),
            format!("`https_redirect_status_code` is {https_redirect}"),
            "one of 426, 301, 302, 307, 308",
        );
    }
    let strip_path = f.boolean("strip_path");
    let grpc = protocols.has(Protocols::ALL_GRPC);
    if grpc && strip_path == Some(true) {
        report.mismatch(f.place_of("strip_path"), "`strip_path` of a route for gRPC", "false");
    }
    let strip_path = strip_path.unwrap_or(!grpc);
    let preserve_host = f.boolean("preserve_host").unwrap_or(false);
    let given_joint = f.choice("path_handling", &[("v0", Joint::Segments), ("v1", Joint::Text)]).unwrap_or_default();
    // The other flavours of the router read the field and do as `v0` says (Kong).
    let joint = if flavor == Flavor::Traditional { given_joint } else { Joint::default() };
    f.boolean("request_buffering");
    f.boolean("response_buffering");
    for key in ["sources", "destinations", "filter_chains"] {
        if f.node(key).is_some() {
            report.unsupported(f.place_of(key), format!("`{key}` of a route"), None);
        }
    }
    if rule.is_some() {
        // An expression takes the place of the fields that match (Kong refuses both together).
        for key in ["paths", "hosts", "methods", "headers", "snis"] {
            if f.node(key).is_some() {
                report.mismatch(f.place_of(key), format!("`{key}` beside `expression`"), "one or the other");
            }
        }
    } else if f.node("expression").is_none()
        && matchers.methods.0.is_empty()
        && matchers.hosts.is_empty()
        && matchers.headers.is_empty()
        && matchers.prefixes.is_empty()
        && matchers.regexes.is_empty()
        && matchers.snis.is_empty()
        && !["paths", "hosts", "methods", "headers", "snis"].iter().any(|k| f.given(k))
    {
        report.error(f.place(), "must set one of 'methods', 'hosts', 'headers', 'paths' when 'protocols' is 'http'");
    }
    let json_of = |key: &str| node.some(key).map(Node::to_json);
    let entity = json!({
        "id": uuid.to_string(), "name": (!name.is_empty()).then_some(&name), "protocols": protocol_names(protocols),
        "methods": json_of("methods"), "hosts": json_of("hosts"), "paths": json_of("paths"), "headers": json_of("headers"),
        "snis": json_of("snis"), "strip_path": strip_path, "preserve_host": preserve_host,
        "regex_priority": matchers.regex_priority, "https_redirect_status_code": https_redirect, "path_handling": if given_joint == Joint::Text { "v1" } else { "v0" },
        "request_buffering": true, "response_buffering": true, "expression": json_of("expression"),
        "service": parent.as_ref().map(|p| json!({ "id": p.info.id })),
    });
    let info = RouteInfo {
        index: index as u32,
        id: uuid.to_string(),
        name: name.clone(),
        service: parent.as_ref().map(|p| Arc::clone(&p.info)),
        entity,
    };
    let route = Route {
        info: Arc::new(info),
        service: parent.map(|p| p.index),
        protocols,
        https_redirect: https_redirect as u16,
        strip_path,
        joint,
        preserve_host,
        chain: Chain::default(),
    };
    let plugins = f.list("plugins").unwrap_or_default();
    Some(Draft { route, matchers, rule, id: uuid.to_string(), name, plugins, place: node.place })
}

/// The expression of a route, where the flavour of the router knows them.
fn rule(f: &Fields<'_>, flavor: Flavor, route: usize, protocols: Protocols, uuid: u128) -> Option<Rule> {
    let text = f.string("expression");
    // Kong bounds it so that a double holds it.
    let priority = f.integer("priority", 0..=(1 << 46) - 1).unwrap_or(0) as u64;
    if flavor != Flavor::Expressions {
        for key in ["expression", "priority"] {
            if f.node(key).is_some() {
                f.report.mismatch(
                    f.place_of(key),
                    format!("`{key}` of a route with another flavour of the router"),
                    "`gateway.router_flavor: expressions` or KONG_ROUTER_FLAVOR=expressions",
                );
            }
        }
        return None;
    }
    let place = f.node("expression").map_or(f.place(), |node| node.place);
    match Expression::parse(&text?) {
        Ok(expression) => Some(Rule::new(route, expression, protocols.0, priority, uuid)),
        Err(mistake) => {
            let words = format!("`expression`, character {}: {}", mistake.at + 1, mistake.words);
            f.report.mismatch(place, words, mistake.expected);
            None
        }
    }
}

const PROTOCOLS: &[(&str, u8)] = &[
    ("http", 1),
    ("https", 2),
    ("grpc", 4),
    ("grpcs", 8),
    ("tcp", Protocols::TCP.0),
    ("tls", Protocols::TLS.0),
    ("tls_passthrough", Protocols::TLS_PASSTHROUGH.0),
    ("udp", Protocols::UDP.0),
];

/// A set of protocols; `default` when none is given.
pub fn protocols<'a>(f: &Fields<'a>, name: &'a str, default: Protocols) -> Option<Protocols> {
    let Some(given) = f.strings(name) else { return Some(default) };
    let mut bits = 0;
    for (place, text) in given {
        match PROTOCOLS.iter().find(|(n, _)| *n == text) {
            Some((_, bit)) => bits |= bit,
            None if text == "ws" || text == "wss" => {
                f.report.error(place, format!("protocol `{text}` is an enterprise protocol"))
            }
            None => {
                let names: Vec<&str> = PROTOCOLS.iter().map(|(n, _)| *n).collect();
                f.report.unknown(place, format!("`{name}` has `{text}`"), &text, &names);
            }
        }
    }
    Some(Protocols(bits))
}

fn protocol_names(set: Protocols) -> Vec<&'static str> {
    PROTOCOLS.iter().filter(|(_, bit)| set.0 & bit != 0).map(|(n, _)| *n).collect()
}

fn read_matchers(f: &Fields<'_>, m: &mut Matchers) {
    for (place, text) in f.strings("methods").unwrap_or_default() {
        let method = Method::from_bytes(text.as_bytes())
            .ok()
            .filter(|_| text.chars().all(|c| c.is_ascii_uppercase() || c == '-' || c == '_'));
        match method {
            Some(method) => m.methods.0.push(method),
            None => f.report.mismatch(place, format!("`methods`: `{text}`"), "a method in upper case"),
        }
    }
    m.methods = Methods(std::mem::take(&mut m.methods.0));
    for (key, list) in [("hosts", &mut m.hosts), ("snis", &mut m.snis)] {
        for (place, text) in f.strings(key).unwrap_or_default() {
            match HostPattern::parse(text.trim_end_matches('.')) {
                Ok(host) => list.push(host),
                Err(what) => {
                    f.report.mismatch(place, format!("`{key}`: `{text}`: {what}"), "a host name, *.suffix or prefix.*")
                }
            }
        }
    }
    for (place, text) in f.strings("paths").unwrap_or_default() {
        read_path(f, place, &text, m);
    }
    m.regex_priority = f.integer("regex_priority", 0..=2_147_483_647).unwrap_or(0) as u32;
    if let Some(headers) = f.node("headers") {
        read_headers(f, headers, m);
    }
}

fn read_path(f: &Fields<'_>, place: Place, text: &str, m: &mut Matchers) {
    if let Some(regex) = text.strip_prefix('~') {
        if !regex.starts_with('/') && !regex.starts_with("^/") {
            f.report.mismatch(
                place,
                format!("`paths`: `{text}`"),
                "should start with: / (fixed path) or ~/ (regex path)",
            );
            return;
        }
        match path_regex(regex) {
            Ok(compiled) => m.regexes.push((regex.to_owned(), compiled)),
            Err(what) => f.report.mismatch(
                place,
                format!("`paths`: invalid regex: {what}"),
                "the syntax of Rust's regex crate: no look-around, no back-references",
            ),
        }
        return;
    }
    if !text.starts_with('/') {
        f.report.mismatch(place, format!("`paths`: `{text}`"), "should start with: / (fixed path) or ~/ (regex path)");
        return;
    }
    if text.contains("//") {
        f.report.mismatch(place, format!("`paths`: `{text}`"), "a path without empty segments");
        return;
    }
    match path::normalize(text) {
        Ok(normal) => m.prefixes.push(normal.into_owned()),
        Err(_) => f.report.mismatch(
            place,
            format!("`paths`: `{text}` is no plain path"),
            "characters of a URI path; a regex begins with ~/",
        ),
    }
}

fn read_headers(f: &Fields<'_>, node: &Node, m: &mut Matchers) {
    let Some(headers) = Fields::of(node, "`headers`", f.report) else { return };
    for (key, value) in headers.all() {
        let Ok(name) = HeaderName::from_bytes(key.name.to_ascii_lowercase().as_bytes()) else {
            f.report.mismatch(key.place, format!("`headers`: `{}`", key.name), "a header name");
            continue;
        };
        if name == http::header::HOST {
            f.report.error(
                key.place,
                "`headers`: cannot contain 'host' header, which must be specified in the 'hosts' attribute",
            );
            continue;
        }
        let Value::Seq(items) = &value.value else {
            f.report.mismatch(value.place, format!("`{}` is {}", key.name, value.kind()), "a list of values");
            continue;
        };
        let values: Vec<String> = items
            .iter()
            .filter_map(|v| match &v.value {
                Value::Str(s) => Some(s.clone()),
                Value::Int(i) => Some(i.to_string()),
                Value::Bool(b) => Some(b.to_string()),
                _ => None,
            })
            .collect();
        if values.len() != items.len() || values.is_empty() {
            f.report.mismatch(value.place, format!("`headers`: `{}`", key.name), "a non-empty list of strings");
            continue;
        }
        let regex = match values.as_slice() {
            [only] => only
                .strip_prefix("~*")
                .map(|p| regex::RegexBuilder::new(p).case_insensitive(true).size_limit(1 << 20).build()),
            _ => None,
        };
        let pattern = match regex.transpose() {
            Ok(pattern) => pattern,
            Err(_) => {
                f.report.mismatch(
                    value.place,
                    format!("`headers`: `{}`: invalid regex", key.name),
                    "the syntax of Rust's regex crate",
                );
                continue;
            }
        };
        let values = values.into_iter().map(|v| v.to_ascii_lowercase()).collect();
        m.headers.push(HeaderPattern { name, values, pattern });
    }
}
