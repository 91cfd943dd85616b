//! `/` and the shape of the admin API, as tools that know Kong's expect it.

use serde_json::{Value, json};

use crate::config::Running;
use crate::plugins::REGISTRY;

/// The release of Kong whose format and answers are followed; tools choose by it what they may ask.
pub const KONG_VERSION: &str = "3.9.1";

/// `/`.
pub fn root(running: &Running, node: &str) -> Value {
    let snapshot = running.current();
    let available: serde_json::Map<String, Value> = REGISTRY
        .iter()
        .map(|k| (k.name.to_owned(), json!({ "version": KONG_VERSION, "priority": k.priority })))
        .collect();
    let mut used: Vec<&str> = Vec::new();
    for slot in snapshot.routes.iter().flat_map(|r| &r.chain.slots).chain(&snapshot.unmatched.slots) {
        if !used.contains(&slot.kind.name) {
            used.push(slot.kind.name);
        }
    }
    json!({
        "tagline": "Welcome to the gateway",
        "version": KONG_VERSION,
        "edition": "community",
        "gateway_version": env!("CARGO_PKG_VERSION"),
        "node_id": node,
        "hostname": std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default().trim(),
        "pids": { "master": std::process::id() },
        "plugins": { "available_on_server": available, "enabled_in_cluster": used },
        "configuration": {
            "database": "off",
            "declarative_config": running.paths().first(),
            "router_flavor": match snapshot.settings.router_flavor {
                crate::config::settings::Flavor::Fields => "traditional_compatible",
                crate::config::settings::Flavor::Traditional => "traditional",
                crate::config::settings::Flavor::Expressions => "expressions",
            },
            "proxy_listen": snapshot.settings.listen.iter().map(|l| l.address.to_string()).collect::<Vec<_>>(),
            "admin_listen": snapshot.settings.admin.map(|a| a.to_string()),
        },
    })
}
