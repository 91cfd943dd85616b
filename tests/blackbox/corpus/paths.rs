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
    let mut services = Vec::new();
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
                // `v1` means something to the `traditional` router only, which is not this one.
                let runs = handling == "v0";
                if runs {
                    services.push(service(row, &strip, &host, upstream.port()));
                }
                let text = |name: &str| row[name].as_str().unwrap_or_default().to_owned();
                let row = Row { host, request: text("request_path"), expected: text("expected_upstream_path") };
                cases.push((id, runs.then_some(row)));
            }
        }
    }
    let gateway = Gateway::start(&json!({ "_format_version": "3.0", "services": services }).to_string());
    account("path-handling", &cases, |row| match row {
        None => End::Skipped("path_handling v1 has effect in Kong's `traditional` flavour only".to_owned()),
        Some(row) => one(&gateway, row),
    });
}

fn each(value: &Value) -> Vec<Value> {
    value.as_array().cloned().unwrap_or_else(|| vec![value.clone()])
}

fn service(row: &Value, strip: &Value, host: &str, port: u16) -> Value {
    let mut service = json!({
        "name": host, "host": "127.0.0.1", "port": port,
        "routes": [{ "name": host, "hosts": [host], "strip_path": strip }],
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
