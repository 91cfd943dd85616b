//! This gateway.

use std::path::Path;

use anyhow::Result;
use serde_json::{Value, json};

use super::{LIMIT_NEVER, Stage};
use crate::bench::duty::{Duty, Policy};
use crate::bench::server::{Place, Server, free, write};

pub fn start(stage: &Stage<'_>, program: &Path, duty: Duty) -> Result<Server> {
    let address = free()?;
    let folder = stage.place.folder_of(&format!("gateway-{}", address.port()))?;
    let log =
        if duty.policy == Policy::Everything { folder.join("access.log").display().to_string() } else { "off".into() };
    // The route in use is the last: whoever looks at one after the other pays for all of them.
    let routes: Vec<Value> = (1..duty.routes)
        .map(|at| json!({"name": format!("r{at}"), "paths": [format!("/other-{at}/")]}))
        .chain([json!({"name": "api", "paths": ["/api/"]})])
        .collect();
    let mut config = json!({
        "_format_version": "3.0",
        "gateway": {
            "listen": [format!("{address}{}", if duty.tls { " ssl" } else { "" })],
            "admin": "127.0.0.1:0", "workers": duty.workers, "access_log": log,
        },
        "services": [{"name": "up", "url": format!("http://{}/", stage.upstream), "routes": routes, "plugins": plugins(duty.policy)}],
    });
    if duty.tls {
        config["certificates"] = json!([{
            "cert": std::fs::read_to_string(&stage.keys.certificate)?,
            "key": std::fs::read_to_string(&stage.keys.certificate_key)?,
            "snis": [{"name": "*"}],
        }]);
    }
    if matches!(duty.policy, Policy::Jwt | Policy::Everything) {
        config["consumers"] = json!([{
            "username": "bench",
            "acls": [{"group": "bench"}],
            "jwt_secrets": [{"key": "bench", "algorithm": "RS256", "rsa_public_key": std::fs::read_to_string(&stage.keys.public)?}],
        }]);
    }
    let file = write(&folder, "kong.json", &config.to_string())?;
    let mut command = if duty.workers == 1 { stage.place.pinned(program)? } else { crate::shell::program(program) };
    command.arg("run").arg("-c").arg(file);
    Server::start(address, &mut command, &folder)
}

fn plugins(policy: Policy) -> Value {
    // None of the others tells the client where it stands.
    let limit = |most: u32| {
        json!({"name": "rate-limiting",
            "config": {"minute": most, "limit_by": "ip", "hide_client_headers": true}})
    };
    match policy {
        Policy::None => json!([]),
        Policy::LimitNeverHit => json!([limit(LIMIT_NEVER)]),
        Policy::LimitAlwaysHit => json!([limit(1)]),
        Policy::Jwt => json!([{"name": "jwt"}]),
        Policy::Everything => json!([
            {"name": "jwt", "config": {"claims_to_verify": ["exp"]}},
            {"name": "acl", "config": {"allow": ["bench"]}},
            {"name": "rate-limiting", "config": {"minute": LIMIT_NEVER}},
            {"name": "request-transformer", "config": {"add": {"headers": ["X-Bench: yes"]}}},
            {"name": "prometheus", "config": {"status_code_metrics": true, "latency_metrics": true}},
        ]),
    }
}

/// The gateway with entities of the caller's, one worker.
///
/// # Errors
/// It did not start.
pub fn with(place: &Place<'_>, program: &Path, entities: Value) -> Result<Server> {
    let address = free()?;
    let folder = place.folder_of(&format!("gateway-{}", address.port()))?;
    let mut config = json!({
        "_format_version": "3.0",
        "gateway": {"listen": [address.to_string()], "admin": "127.0.0.1:0", "workers": 1, "access_log": "off"},
    });
    if let (Some(config), Value::Object(entities)) = (config.as_object_mut(), entities) {
        config.extend(entities);
    }
    let file = write(&folder, "kong.json", &config.to_string())?;
    Server::start(address, place.pinned(program)?.arg("run").arg("-c").arg(file), &folder)
}
