//! Field names of earlier releases: understood, warned about, and moved to where they stand today. The new name wins; two
//! names with different values are an error (Kong's rule).

use super::each_entity;
use crate::document::{Node, Place, Report, Value};

/// Plugins, the old field, and the path of the new one; an empty path drops the field.
const MOVED: &[(&[&str], &str, &str)] = &[
    (REDIS, "redis_host", "redis.host"),
    (REDIS, "redis_port", "redis.port"),
    (REDIS, "redis_timeout", "redis.timeout"),
    (REDIS, "redis_username", "redis.username"),
    (REDIS, "redis_password", "redis.password"),
    (REDIS, "redis_database", "redis.database"),
    (REDIS, "redis_ssl", "redis.ssl"),
    (REDIS, "redis_ssl_verify", "redis.ssl_verify"),
    (REDIS, "redis_server_name", "redis.server_name"),
    (LISTS, "whitelist", "allow"),
    (LISTS, "blacklist", "deny"),
    (SESSION, "cookie_lifetime", "rolling_timeout"),
    (SESSION, "cookie_idletime", "idling_timeout"),
    (SESSION, "cookie_samesite", "cookie_same_site"),
    (SESSION, "cookie_httponly", "cookie_http_only"),
    (SESSION, "cookie_discard", "stale_ttl"),
    (SESSION, "cookie_renew", ""),
    (&["opentelemetry"], "endpoint", "traces_endpoint"),
    (&["opentelemetry"], "batch_span_count", "queue.max_batch_size"),
    (&["opentelemetry"], "batch_flush_delay", "queue.max_coalescing_delay"),
    (QUEUED, "queue_size", "queue.max_batch_size"),
    (QUEUED, "flush_timeout", "queue.max_coalescing_delay"),
    (QUEUED, "retry_count", ""),
];

const REDIS: &[&str] = &["rate-limiting", "response-ratelimiting"];
const LISTS: &[&str] = &["acl", "ip-restriction", "bot-detection"];
const SESSION: &[&str] = &["session"];
const QUEUED: &[&str] = &["http-log", "statsd", "datadog"];

/// Moves old fields of plugins.
pub fn rewrite(root: &mut Node, report: &Report) {
    each_entity(root, &mut |kind, entity| {
        if kind != "plugins" {
            return;
        }
        if let Some((place, _)) = take(entity, "run_on") {
            report.warn(place, "`run_on` is gone since 2.0 and does nothing");
        }
        let name = entity.member("name").and_then(Node::text).unwrap_or_default().to_owned();
        let Some(config) = entity.member_mut("config") else { return };
        for (plugins, old, new) in MOVED {
            if plugins.contains(&name.as_str())
                && let Some((place, value)) = take(config, old)
            {
                put(config, old, new, place, value, report);
            }
        }
    });
}

fn take(map: &mut Node, name: &str) -> Option<(Place, Node)> {
    let Value::Map(entries) = &mut map.value else { return None };
    let index = entries.iter().position(|(k, _)| k.name == name)?;
    let (key, value) = entries.remove(index);
    Some((key.place, value))
}

fn put(config: &mut Node, old: &str, new: &str, place: Place, value: Node, report: &Report) {
    if new.is_empty() {
        report.warn(place, format!("`{old}` is deprecated and does nothing"));
        return;
    }
    report.warn(place, format!("`{old}` is deprecated: it is `{new}` now"));
    if matches!(value.value, Value::Null) {
        return;
    }
    let (into, field) = match new.split_once('.') {
        None => (config, new),
        Some((group, field)) => {
            if config.some(group).is_none() {
                let group_node = Value::Map(Vec::new());
                match config.member_mut(group) {
                    Some(null) => null.value = group_node,
                    None => config.insert(group, group_node),
                }
            }
            let Some(group) = config.member_mut(group) else { return };
            (group, field)
        }
    };
    match into.some(field) {
        Some(known) if known.to_json() != value.to_json() => {
            report.error(place, format!("`{old}` and `{new}` differ, and both mean the same"));
        }
        Some(_) => {}
        None => {
            let _ = take(into, field);
            if let Value::Map(entries) = &mut into.value {
                let key = crate::document::Key { place, name: field.to_owned() };
                entries.push((key, value));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::document::tree::parse;

    #[test]
    fn old_names_move_and_contradictions_are_told() {
        let text = "plugins:\n- name: rate-limiting\n  run_on: first\n  config: {minute: 1, redis_host: a, redis_port: 1, redis: {port: 2}}\n\
                    - {name: acl, config: {whitelist: [g]}}\n- {name: cors, config: {whitelist: [g]}}\n";
        let mut tree = parse(text).expect("parses");
        let report = Report::new("k.yml", false);
        rewrite(&mut tree, &report);
        let json = tree.to_json();
        assert_eq!(
            json["plugins"][0]["config"],
            serde_json::json!({ "minute": 1, "redis": { "port": 2, "host": "a" } })
        );
        assert_eq!(json["plugins"][1]["config"], serde_json::json!({ "allow": ["g"] }));
        assert!(json["plugins"][2]["config"].get("whitelist").is_some());
        let told = report.to_string();
        assert!(told.contains("`redis_port` and `redis.port` differ"), "{told}");
        assert!(told.contains("`whitelist` is deprecated: it is `allow` now"), "{told}");
    }
}
