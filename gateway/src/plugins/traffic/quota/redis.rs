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
    let present = |text: Option<String>| text.filter(|text| !text.is_empty());
    let tls = nested.ssl.or(flat.ssl).unwrap_or(false).then(|| Tls {
        verify: nested.ssl_verify.or(flat.ssl_verify).unwrap_or(false),
        server_name: present(nested.server_name.or(flat.server_name)),
    });
    let server = Server {
        host,
        port: nested.port.or(flat.port).unwrap_or(6379) as u16,
        database: nested.database.or(flat.database).unwrap_or(0),
        username: present(nested.username.or(flat.username)),
        password: present(nested.password.or(flat.password)),
        tls,
        timeout: Duration::from_millis(nested.timeout_ms.or(flat.timeout_ms).unwrap_or(2000) as u64),
    };
    server.prepare();
    Some(Arc::new(server))
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
