//! Why a route takes a request and the others do not: the conditions of each, asked one after another. It reads the
//! entities, not the router's table, so that its words are those of the file.

use std::fmt::Write as _;

use http::header::HeaderName;
use serde_json::Value;

use super::{Asked, route_name};
use crate::config::Snapshot;
use crate::router::pattern::{HeaderPattern, HostPattern, path_regex};

/// One condition: its words, and whether the request fulfils it.
struct Condition {
    words: String,
    holds: bool,
}

/// Lists routes that do not take the request, the nearest first.
pub fn tell(out: &mut String, snapshot: &Snapshot, winner: Option<usize>, asked: &Asked, at_most: usize) {
    let mut losers: Vec<(usize, usize, String)> = (0..snapshot.routes.len())
        .filter(|route| Some(*route) != winner)
        .map(|route| {
            let conditions = conditions(snapshot, route, asked);
            let held = conditions.iter().take_while(|c| c.holds).count();
            let why = match conditions.get(held) {
                Some(failing) => failing.words.clone(),
                None => format!("fits too, but comes later: {}", rank(snapshot, route)),
            };
            // Those that fit altogether come first, then by the number of conditions that hold.
            let distance = if held == conditions.len() { 0 } else { 1 + conditions.len() - held };
            (distance, route, why)
        })
        .collect();
    if losers.is_empty() {
        return;
    }
    losers.sort();
    let _ = writeln!(out, "\nother routes:");
    for (_, route, why) in losers.iter().take(at_most) {
        let _ = writeln!(out, "  {}: {why}", route_name(&snapshot.routes[*route]));
    }
    if losers.len() > at_most {
        let _ = writeln!(out, "  and {} more (--losers)", losers.len() - at_most);
    }
}

/// What makes the winner win.
pub fn reasons(snapshot: &Snapshot, route: usize, asked: &Asked) -> Vec<String> {
    let held =
        conditions(snapshot, route, asked).into_iter().filter(|c| c.holds).map(|c| format!("because {}", c.words));
    held.chain([rank(snapshot, route)]).collect()
}

/// What decides among routes that fit.
fn rank(snapshot: &Snapshot, route: usize) -> String {
    if let Some(priority) = snapshot.router.priority(route) {
        return format!("rank: an expression with priority {priority}, before all routes by fields");
    }
    let entity = &snapshot.routes[route].info.entity;
    let kinds: Vec<&str> = ["methods", "hosts", "headers", "snis", "paths"]
        .into_iter()
        .filter(|kind| match &entity[*kind] {
            Value::Array(items) => !items.is_empty(),
            Value::Object(map) => !map.is_empty(),
            _ => false,
        })
        .collect();
    let regex = paths(entity).any(|p| p.starts_with('~'));
    let longest = paths(entity).filter(|p| !p.starts_with('~')).map(str::len).max().unwrap_or(0);
    let mut rank = format!("rank: {} kinds of conditions ({})", kinds.len(), kinds.join(", "));
    if regex {
        let _ = write!(rank, ", regex with priority {}", entity["regex_priority"]);
    }
    if longest > 0 {
        let _ = write!(rank, ", longest prefix {longest}");
    }
    rank
}

fn paths(entity: &Value) -> impl Iterator<Item = &str> {
    entity["paths"].as_array().into_iter().flatten().filter_map(Value::as_str)
}

fn conditions(snapshot: &Snapshot, route: usize, asked: &Asked) -> Vec<Condition> {
    let entity = &snapshot.routes[route].info.entity;
    let facts = asked.facts();
    if let Some(holds) = snapshot.router.fits(route, &asked.view(&facts)) {
        let text = entity["expression"].as_str().unwrap_or_default();
        let not = if holds { "" } else { "not " };
        return vec![Condition { words: format!("expression is {not}true: {text}"), holds }];
    }
    let texts = |name: &str| -> Vec<String> {
        entity[name].as_array().into_iter().flatten().filter_map(Value::as_str).map(str::to_owned).collect()
    };
    let mut found = Vec::new();
    let mut add = |holds: bool, what: &str, value: &str, among: &[String]| {
        let not = if holds { "" } else { "not " };
        found.push(Condition { words: format!("{what} `{value}` is {not}among {}", among.join(", ")), holds });
    };
    let methods = texts("methods");
    if !methods.is_empty() {
        add(methods.iter().any(|m| m == facts.method.as_str()), "method", facts.method.as_str(), &methods);
    }
    let fits = |names: &[String], name: &str| {
        names.iter().any(|n| HostPattern::parse(n.trim_end_matches('.')).is_ok_and(|p| p.matches(name, facts.port)))
    };
    let hosts = texts("hosts");
    if !hosts.is_empty() {
        add(fits(&hosts, facts.host), "host", facts.host, &hosts);
    }
    if let Some(headers) = entity["headers"].as_object() {
        for (name, values) in headers {
            let values: Vec<String> = values.as_array().into_iter().flatten().map(text_of).collect();
            let given = facts.headers.get(name).and_then(|v| v.to_str().ok()).unwrap_or("(absent)");
            let holds = pattern(name, &values).is_some_and(|p| p.matches(facts.headers));
            add(holds, &format!("header {name}:"), given, &values);
        }
    }
    let snis = texts("snis");
    if let Some(sni) = facts.sni
        && !snis.is_empty()
    {
        add(fits(&snis, sni), "SNI", sni, &snis);
    }
    let paths = texts("paths");
    if !paths.is_empty() {
        let holds = paths.iter().any(|p| match p.strip_prefix('~') {
            Some(regex) => path_regex(regex).is_ok_and(|r| r.is_match(facts.path)),
            None => crate::router::path::normalize(p).is_ok_and(|p| facts.path.starts_with(&*p)),
        });
        add(holds, "path", facts.path, &paths);
    }
    found
}

fn text_of(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

fn pattern(name: &str, values: &[String]) -> Option<HeaderPattern> {
    let regex = match values {
        [only] => only.strip_prefix("~*").and_then(|p| regex::RegexBuilder::new(p).case_insensitive(true).build().ok()),
        _ => None,
    };
    let values = values.iter().map(|v| v.to_ascii_lowercase()).collect();
    Some(HeaderPattern { name: HeaderName::from_bytes(name.as_bytes()).ok()?, values, pattern: regex })
}
