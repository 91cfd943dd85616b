//! Reads where Redis is, in Kong's present form and the one before 3.7. Must not connect.

use std::sync::Arc;
use std::time::Duration;

use crate::document::Fields;
use crate::limits::store::Server;
use crate::limits::store::server::Tls;

/// Kong's spellings before 3.7, and what took their place.
const FLAT: [(&str, &str); 9] = [
    ("redis_host", "host"),
    ("redis_port", "port"),
    ("redis_timeout", "timeout"),
    ("redis_username", "username"),
    ("redis_password", "password"),
    ("redis_database", "database"),
    ("redis_ssl", "ssl"),
    ("redis_ssl_verify", "ssl_verify"),
    ("redis_server_name", "server_name"),
];

/// What one of the two forms gives.
#[derive(Default)]
struct Given {
    host: Option<String>,
    port: Option<i64>,
    timeout_ms: Option<i64>,
    username: Option<String>,
    password: Option<String>,
    database: Option<i64>,
    ssl: Option<bool>,
    ssl_verify: Option<bool>,
    server_name: Option<String>,
}

/// The server of a plugin's `config`; `needed` says whether its policy is `redis`, so that a host must be there.
pub fn read(fields: &Fields<'_>, needed: bool) -> Option<Arc<Server>> {
    let names = FLAT.map(|(flat, _)| flat);
    let flat = given(fields, names);
    for (flat, nested) in FLAT {
        if fields.given(flat) {
            fields.report.warn(fields.place_of(flat), format!("`{flat}` is deprecated: it is `redis.{nested}` now"));
        }
    }
    let nested = fields.fields("redis").map(|block| given(&block, FLAT.map(|(_, nested)| nested))).unwrap_or_default();
    if !needed {
        return None;
    }
    let Some(host) = nested.host.or(flat.host) else {
        let message = "policy `redis` needs to know where Redis is";
        fields.report.mismatch(fields.place(), message, "`redis: { host: … }`");
        return None;
    };
    let both = Given {
        host: None,
        port: nested.port.or(flat.port),
        timeout_ms: nested.timeout_ms.or(flat.timeout_ms),
        username: nested.username.or(flat.username),
        password: nested.password.or(flat.password),
        database: nested.database.or(flat.database),
        ssl: nested.ssl.or(flat.ssl),
        ssl_verify: nested.ssl_verify.or(flat.ssl_verify),
        server_name: nested.server_name.or(flat.server_name),
    };
    Some(server(both, host))
}

/// What Kong's enterprise plugins know of ways to Redis and is not built.
const NOT_BUILT: [&str; 10] = [
    "cluster_nodes",
    "cluster_addresses",
    "sentinel_nodes",
    "sentinel_addresses",
    "sentinel_master",
    "sentinel_role",
    "sentinel_username",
    "sentinel_password",
    "redis_proxy_type",
    "cloud_authentication",
];

/// The server in the block `redis` of Kong's enterprise plugins: it is on this host by default, and has three times to wait,
/// of which the longest counts.
pub fn read_advanced(fields: &Fields<'_>, needed: bool) -> Option<Arc<Server>> {
    let block = fields.fields("redis");
    let mut longest = None;
    if let Some(block) = &block {
        for name in NOT_BUILT {
            if block.node(name).is_some() {
                fields.report.unsupported(block.place_of(name), format!("`redis.{name}`"), None);
            }
        }
        if block.boolean("connection_is_proxied").unwrap_or(false) {
            fields.report.unsupported(block.place_of("connection_is_proxied"), "a proxied connection to Redis", None);
        }
        // One connection a worker carries all calls.
        block.integer("keepalive_pool_size", 1..=2_147_483_646);
        block.integer("keepalive_backlog", 0..=2_147_483_646);
        block.integer("cluster_max_redirections", 0..=2_147_483_646);
        let times = ["connect_timeout", "send_timeout", "read_timeout"];
        longest = times.into_iter().filter_map(|name| block.integer(name, 0..=2_147_483_646)).max();
    }
    let given = block.map(|block| given(&block, FLAT.map(|(_, nested)| nested))).unwrap_or_default();
    needed.then(|| {
        let timeout_ms = longest.or(given.timeout_ms);
        let host = given.host.clone().unwrap_or_else(|| "127.0.0.1".to_owned());
        server(Given { timeout_ms: timeout_ms.filter(|ms| *ms > 0), ..given }, host)
    })
}

fn server(given: Given, host: String) -> Arc<Server> {
    let present = |text: Option<String>| text.filter(|text| !text.is_empty());
    let server = Server {
        host,
        port: given.port.unwrap_or(6379) as u16,
        database: given.database.unwrap_or(0),
        username: present(given.username),
        password: present(given.password),
        tls: given
            .ssl
            .unwrap_or(false)
            .then(|| Tls { verify: given.ssl_verify.unwrap_or(false), server_name: present(given.server_name) }),
        timeout: Duration::from_millis(given.timeout_ms.unwrap_or(2000) as u64),
    };
    server.prepare();
    Arc::new(server)
}

fn given(fields: &Fields<'_>, names: [&'static str; 9]) -> Given {
    let [host, port, timeout, username, password, database, ssl, ssl_verify, server_name] = names;
    Given {
        host: fields.string(host),
        port: fields.integer(port, 1..=65_535),
        timeout_ms: fields.integer(timeout, 1..=2_147_483_646),
        username: fields.string(username),
        password: fields.string(password),
        database: fields.integer(database, 0..=i64::from(i32::MAX)),
        ssl: fields.boolean(ssl),
        ssl_verify: fields.boolean(ssl_verify),
        server_name: fields.string(server_name),
    }
}
