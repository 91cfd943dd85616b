//! Cases of the router: which route is matched, and what the upstream gets then. A route tells its id by a header that
//! it adds to the upstream request.

use std::fs;

use gateway_tests::grpc::{GrpcClient, GrpcServer};
use gateway_tests::tls::Pair;
use gateway_tests::{Client, Reply, Setup, Upstream};
use serde_json::{Value, json};

use super::cases::request;
use super::{End, account, open, stream};

const MARK: &str = "x-matched-route";

#[test]
fn router() {
    let Some(folder) = open("router::router") else { return };
    let text = fs::read_to_string(folder.join("cases/router.json")).unwrap();
    let text: Value = serde_json::from_str(&text).unwrap();
    let cases = text["cases"].as_array().unwrap().iter().enumerate();
    let cases: Vec<(String, Value)> = cases.map(|(at, case)| (format!("router/{}", at + 1), case.clone())).collect();
    let upstream = Upstream::echo();
    account("router", &cases, |case| one(case, &upstream));
}

fn one(case: &Value, upstream: &Upstream) -> End {
    if let Some(reason) = beyond(case) {
        return End::Skipped(reason.to_owned());
    }
    let name = case["name"].as_str().unwrap_or_default();
    if case["kind"] == "stream" {
        return stream::one(case);
    }
    if case["config"].to_string().contains("grpc") {
        return grpc(case, upstream);
    }
    let config = settle(case, upstream);
    let gateway = match Setup::new(&config.to_string()).launch() {
        Ok(gateway) => gateway,
        Err(exit) => return End::Failed(format!("{name}: the configuration is refused: {}", exit.stderr.trim())),
    };
    let described = &case["request"];
    let mut request = request(described);
    if let Some(host) = described["host"].as_str() {
        request = request.host(host);
    }
    let mut client = if described["scheme"] == "https" {
        Client::connect_tls(gateway.proxy_tls(), described["sni"].as_str().unwrap_or("any.test"))
    } else {
        Client::connect(gateway.proxy())
    };
    match client.try_send(&request) {
        Err(error) => End::Failed(format!("{name}: no answer: {error}")),
        Ok(reply) => {
            let wrong = complaints(&case["expected"], &reply, upstream);
            if wrong.is_empty() { End::Passed } else { End::Failed(format!("{name}: {}", wrong.join("; "))) }
        }
    }
}

/// A case whose service speaks gRPC.
fn grpc(case: &Value, upstream: &Upstream) -> End {
    let server = GrpcServer::start();
    let mut config = settle(case, upstream);
    for service in config["services"].as_array_mut().into_iter().flatten() {
        service["protocol"] = "grpc".into();
        service["port"] = server.address().port().into();
    }
    let gateway = match Setup::new(&config.to_string()).launch() {
        Ok(gateway) => gateway,
        Err(exit) => return End::Failed(format!("the configuration is refused: {}", exit.stderr.trim())),
    };
    let described = &case["request"];
    let host = described["headers"]["host"].as_str().unwrap_or("any.test");
    let client = GrpcClient::connect(gateway.proxy()).authority(host);
    let outcome = client.call(described["path"].as_str().unwrap_or("/"), "x");
    if outcome.code() != Some("0") {
        return End::Failed(format!("{outcome:?}"));
    }
    let call = server.last();
    let matched = call.headers.get(MARK).and_then(|value| value.to_str().ok());
    if matched != case["expected"]["matched_route"].as_str() {
        return End::Failed(format!("route {matched:?}"));
    }
    let own = server.address().to_string();
    match case["expected"].get("upstream_host_header") {
        Some(wanted) if call.authority != wanted.as_str().unwrap_or(&own) => {
            End::Failed(format!("authority {} not {wanted}", call.authority))
        }
        _ => End::Passed,
    }
}

/// Why a case cannot be seen from outside.
fn beyond(case: &Value) -> Option<&'static str> {
    let expected = case["expected"].as_object()?;
    let ids = case["config"]["routes"].as_array().into_iter().flatten().filter_map(|route| route["id"].as_str());
    let mut ids: Vec<&str> = ids.collect();
    let count = ids.len();
    ids.sort_unstable();
    ids.dedup();
    if ids.len() < count {
        return Some("two routes with one id");
    }
    if expected.keys().all(|key| key == "upstream") {
        return Some("only the address of an upstream elsewhere");
    }
    None
}

/// The configuration with every service here, and every route telling its id.
fn settle(case: &Value, upstream: &Upstream) -> Value {
    let mut config = case["config"].clone();
    for service in config["services"].as_array_mut().into_iter().flatten() {
        service["host"] = "127.0.0.1".into();
        service["port"] = upstream.port().into();
        service["protocol"] = "http".into();
    }
    let captures = case["expected"].get("uri_captures").is_some();
    for route in config["routes"].as_array_mut().into_iter().flatten() {
        let id = route["id"].as_str().unwrap_or_default().to_owned();
        let by_name_only = ["methods", "hosts", "headers", "paths"].iter().all(|key| route.get(key).is_none());
        if by_name_only && route.get("protocols").is_none() {
            route["protocols"] = json!(["https"]);
        }
        // Kong's own tests hand routes to the router without the defaults of a file.
        if route.get("strip_path").is_none() {
            route["strip_path"] = false.into();
        }
        route["plugins"] = if captures {
            json!([{ "name": "request-termination", "config": { "echo": true, "status_code": 200 } }])
        } else {
            json!([{ "name": "request-transformer", "config": { "add": { "headers": [format!("{MARK}:{id}")] } } }])
        };
    }
    if case["request"]["scheme"] == "https" {
        let names = ["any.test", "*.test", "*.org", "*.foo"];
        let pair = Pair::new(&names);
        config["certificates"] = json!([{ "cert": pair.certificate_pem, "key": pair.key_pem, "snis": names }]);
    }
    config
}

fn complaints(expected: &Value, reply: &Reply, upstream: &Upstream) -> Vec<String> {
    let mut out = Vec::new();
    let Some(matched) = expected.get("matched_route") else { return captures(expected, reply) };
    if matched.is_null() {
        if reply.status != 404 {
            let by = if reply.status == 200 { reply.echoed(MARK) } else { None };
            out.push(format!("status {} by {by:?}, not 404", reply.status));
        }
        return out;
    }
    if expected.get("service").is_some_and(Value::is_null) {
        if reply.status != 503 {
            out.push(format!("status {} of a route without a service", reply.status));
        }
        return out;
    }
    if reply.status != 200 {
        return vec![format!("status {}: {}", reply.status, reply.text())];
    }
    let mut compare = |what: &str, found: Option<String>, wanted: Option<&str>| {
        if found.as_deref() != wanted {
            out.push(format!("{what} {found:?} not {wanted:?}"));
        }
    };
    compare("route", reply.echoed(MARK), matched.as_str());
    if let Some(path) = expected["upstream_path"].as_str() {
        compare("upstream path", Some(reply.echoed_uri()), Some(path));
    }
    if let Some(prefix) = expected.get("x_forwarded_prefix") {
        compare("prefix", reply.echoed("x-forwarded-prefix"), prefix.as_str());
    }
    if let Some(host) = expected.get("upstream_host_header") {
        // None of its own means the upstream's.
        let own = upstream.address().to_string();
        compare("host", reply.echoed("host"), Some(host.as_str().unwrap_or(&own)));
    }
    out
}

/// The captures of a regular expression, as an echoing route shows them.
fn captures(expected: &Value, reply: &Reply) -> Vec<String> {
    let mut out = Vec::new();
    let shown: Value = serde_json::from_slice(&reply.body).unwrap_or_default();
    let shown = &shown["request"]["uri_captures"];
    for (name, wanted) in expected["uri_captures"].as_object().into_iter().flatten() {
        let found = match name.parse::<usize>() {
            // The whole match is not shown.
            Ok(0) => continue,
            Ok(at) => &shown["unnamed"][at - 1],
            Err(_) => &shown["named"][name.as_str()],
        };
        if found != wanted && !(found.is_null() && wanted == "") {
            out.push(format!("capture {name} is {found} not {wanted}"));
        }
    }
    out
}
