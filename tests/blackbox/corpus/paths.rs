//! The table of paths: service path, route path, `strip_path` and request path give the path that the upstream gets.

use std::fs;

use gateway_tests::{Gateway, Request, Upstream};
use serde_json::{Value, json};

use super::{End, account, open};

struct Row {
    host: String,
    request: String,
    expected: String,
}

#[test]
fn table() {
    let Some(folder) = open("paths::table") else { return };
    let text = fs::read_to_string(folder.join("path-handling.json")).unwrap();
    let table: Value = serde_json::from_str(&text).unwrap();
    let (mut services, mut traditional) = (Vec::new(), Vec::new());
    let mut cases = Vec::new();
    let upstream = Upstream::echo();
    for row in table["rows"].as_array().unwrap() {
        for strip in each(&row["strip_path"]) {
            for handling in each(&row["path_handling"]) {
                let id = format!(
                    "path-handling/{}-{}-{}",
                    row["row"],
                    if strip == true { "strip" } else { "keep" },
                    handling.as_str().unwrap_or_default()
                );
                let host = format!("{}.test", id.replace('/', "-"));
                // `v1` means something to the `traditional` router only, in which the rest stays as it is.
                let first = handling == "v0";
                traditional.push(service(row, &strip, &handling, &host, upstream.port()));
                if first {
                    services.push(service(row, &strip, &handling, &host, upstream.port()));
                }
                let text = |name: &str| row[name].as_str().unwrap_or_default().to_owned();
                let row = Row { host, request: text("request_path"), expected: text("expected_upstream_path") };
                cases.push((id, (first, row)));
            }
        }
    }
    let start = |services: Vec<Value>, flavor: &str| {
        let gateway = json!({ "router_flavor": flavor });
        Gateway::start(&json!({ "_format_version": "3.0", "services": services, "gateway": gateway }).to_string())
    };
    let default = start(services, "traditional_compatible");
    let traditional = start(traditional, "traditional");
    account("path-handling", &cases, |(first, row)| match (first, one(&traditional, row)) {
        (true, End::Passed) => one(&default, row),
        (_, end) => end,
    });
}

fn each(value: &Value) -> Vec<Value> {
    value.as_array().cloned().unwrap_or_else(|| vec![value.clone()])
}

fn service(row: &Value, strip: &Value, handling: &Value, host: &str, port: u16) -> Value {
    let mut service = json!({
        "name": host, "host": "127.0.0.1", "port": port,
        "routes": [{ "name": host, "hosts": [host], "strip_path": strip, "path_handling": handling }],
    });
    if row["service_path"].is_string() {
        service["path"] = row["service_path"].clone();
    }
    if row["route_path"].is_string() {
        service["routes"][0]["paths"] = json!([row["route_path"]]);
    }
    service
}

fn one(gateway: &Gateway, row: &Row) -> End {
    let reply = gateway.connect().try_send(&Request::get(&row.request).host(&row.host));
    match reply {
        Err(error) => End::Failed(error.to_string()),
        Ok(reply) if reply.status != 200 => End::Failed(format!("status {}", reply.status)),
        Ok(reply) if reply.echoed_uri() == row.expected => End::Passed,
        Ok(reply) => End::Failed(format!("{} gives {} not {}", row.request, reply.echoed_uri(), row.expected)),
    }
}
