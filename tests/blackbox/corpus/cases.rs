//! Cases of plugins: a configuration, one request or several steps, what the client and the upstream get.

use std::collections::BTreeMap;
use std::fs;
use std::sync::Mutex;
use std::time::Duration;

use gateway_tests::deadline::holds_within;
use gateway_tests::gateway::command;
use gateway_tests::{Client, Gateway, Redis, Reply, Request, Setup, Upstream, fresh_minute};
use serde_json::{Value, json};

use super::judge::complaints;
use super::{End, account, open, tokens};

/// The port at which the cases expect the echo upstream.
const ECHO_PORT: u64 = 15555;

/// The port at which they expect an upstream that always answers 200.
const ALWAYS_PORT: u64 = 15999;

/// The port at which they expect Redis.
const REDIS_PORT: u64 = 6379;

#[test]
fn acl() {
    run("acl");
}

#[test]
fn basic_auth() {
    run("basic-auth");
}

#[test]
fn bot_detection() {
    run("bot-detection");
}

#[test]
fn correlation_id() {
    run("correlation-id");
}

#[test]
fn cors() {
    run("cors");
}

#[test]
fn ip_restriction() {
    run("ip-restriction");
}

#[test]
fn jwt() {
    run("jwt");
}

#[test]
fn key_auth() {
    run("key-auth");
}

#[test]
fn rate_limiting() {
    run("rate-limiting");
}

#[test]
fn redirect() {
    run("redirect");
}

#[test]
fn request_termination() {
    run("request-termination");
}

#[test]
fn request_transformer() {
    run("request-transformer");
}

#[test]
fn response_transformer() {
    run("response-transformer");
}

fn run(file: &str) {
    let name = format!("cases::{}", file.replace('-', "_"));
    let Some(folder) = open(&name) else { return };
    let text = fs::read_to_string(folder.join("cases").join(format!("{file}.json"))).unwrap();
    let text: Value = serde_json::from_str(&text).unwrap();
    let cases = text["cases"].as_array().unwrap().iter().enumerate();
    let cases: Vec<(String, Value)> = cases.map(|(at, case)| (format!("{file}/{}", at + 1), case.clone())).collect();
    let echo = Upstream::echo();
    let always = Upstream::new(|_| gateway_tests::Answer::reply(200, &[], b"{}"));
    account(file, &cases, |case| one(case, &echo, &always));
}

/// Whether the gateway has the plugin `name`: it is not reported as something that cannot run.
fn is_built(name: &str) -> bool {
    static KNOWN: Mutex<BTreeMap<String, bool>> = Mutex::new(BTreeMap::new());
    let mut known = KNOWN.lock().unwrap();
    *known.entry(name.to_owned()).or_insert_with(|| {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("kong.yml");
        let text = json!({ "_format_version": "3.0", "plugins": [{ "name": name }] });
        fs::write(&file, text.to_string()).unwrap();
        let said = command(&["check", file.to_str().unwrap()]).stderr;
        !["unknown plugin", "not yet supported: plugin", "enterprise"].iter().any(|words| said.contains(words))
    })
}

fn one(case: &Value, echo: &Upstream, always: &Upstream) -> End {
    if let Some(needs) = case.get("needs").filter(|needs| !needs.is_null() && *needs != "redis") {
        return End::Skipped(format!("needs {}", gateway_tests::json::plain(needs)));
    }
    let plugins = case["config"]["plugins"].as_array().into_iter().flatten();
    let missing = plugins.filter_map(|plugin| plugin["name"].as_str()).find(|name| !is_built(name));
    if let Some(name) = missing {
        return End::Skipped(format!("needs the plugin {name}"));
    }
    let name = case["name"].as_str().unwrap_or_default();
    // A server of its own: the cases count under the same keys.
    let redis = (case["needs"] == "redis").then(Redis::start);
    let config = settle(&case["config"], echo, always, redis.as_ref());
    let gateway = match Setup::new(&settings(config.clone(), &case["kong_conf"])).launch() {
        Ok(gateway) => gateway,
        Err(exit) => return End::Failed(format!("{name}: the configuration is refused: {}", exit.stderr.trim())),
    };
    if config.to_string().contains("\"minute\"") {
        fresh_minute(15);
    }
    let tokens = tokens::made(case);
    let steps = case["steps"].as_array().cloned().unwrap_or_else(|| vec![case.clone()]);
    for (at, step) in steps.iter().enumerate() {
        let step = here(&tokens::put(step, &tokens), echo, &gateway);
        let mut wrong = Vec::new();
        let mut attempt = || {
            wrong = match ask(&gateway, &step["request"]) {
                Ok(reply) => complaints(&step["expected"], &reply),
                Err(error) => vec![error],
            };
            wrong.is_empty()
        };
        // A window of one second passes while the next step waits for it.
        let patience = if config.to_string().contains("\"second\"") && at > 1 { 2 } else { 0 };
        if !holds_within(Duration::from_secs(patience), &mut attempt) {
            return End::Failed(format!("{name}, step {}: {}", at + 1, wrong.join("; ")));
        }
    }
    End::Passed
}

/// The configuration with the upstreams' ports as they are here.
fn settle(config: &Value, echo: &Upstream, always: &Upstream, redis: Option<&Redis>) -> Value {
    let port = |port: u64| match port {
        ECHO_PORT => u64::from(echo.port()),
        ALWAYS_PORT => u64::from(always.port()),
        other => other,
    };
    let mut config = config.clone();
    for service in config["services"].as_array_mut().into_iter().flatten() {
        if let Some(known) = service["port"].as_u64() {
            service["port"] = port(known).into();
        }
        if let Some(url) = service["url"].as_str() {
            let url = url.replace(&ECHO_PORT.to_string(), &echo.port().to_string());
            service["url"] = url.replace(&ALWAYS_PORT.to_string(), &always.port().to_string()).into();
        }
    }
    for plugin in config["plugins"].as_array_mut().into_iter().flatten() {
        if let (Some(redis), true) = (redis, plugin["config"]["redis"]["port"] == REDIS_PORT) {
            plugin["config"]["redis"]["port"] = redis.port().into();
        }
    }
    config
}

/// The step with the ports that it names as they are here; 9000 is the proxy's own.
fn here(step: &Value, echo: &Upstream, gateway: &Gateway) -> Value {
    match step {
        Value::String(text) => text.replace(&format!("127.0.0.1:{ECHO_PORT}"), &echo.address().to_string()).into(),
        Value::Number(number) if number.as_u64() == Some(9000) => gateway.proxy().port().into(),
        Value::Array(items) => items.iter().map(|item| here(item, echo, gateway)).collect(),
        Value::Object(fields) => {
            Value::Object(fields.iter().map(|(name, field)| (name.clone(), here(field, echo, gateway))).collect())
        }
        other => other.clone(),
    }
}

/// The text of the file: `config` with the settings of kong.conf that matter to it.
fn settings(mut config: Value, kong_conf: &Value) -> String {
    let mut block = json!({});
    if let Some(trusted) = kong_conf["trusted_ips"].as_str() {
        block["trusted_ips"] = trusted.split(',').map(|text| Value::from(text.trim())).collect();
    }
    if let Some(header) = kong_conf.get("real_ip_header") {
        block["real_ip_header"] = header.clone();
    }
    if kong_conf["real_ip_recursive"] == "on" {
        block["real_ip_recursive"] = true.into();
    }
    for name in ["headers", "headers_upstream"] {
        if let Some(set) = kong_conf.get(name) {
            block[name] = set.clone();
        }
    }
    config["gateway"] = block;
    config.to_string()
}

fn ask(gateway: &Gateway, described: &Value) -> Result<Reply, String> {
    let request = request(described);
    Client::connect(gateway.proxy()).try_send(&request).map_err(|error| format!("no answer: {error}"))
}

/// The request that a case describes.
pub fn request(described: &Value) -> Request {
    let text = |name: &str| described[name].as_str().unwrap_or_default();
    let mut request = Request::new(text("method"), text("path"));
    let mut kind = String::new();
    for (name, value) in described["headers"].as_object().into_iter().flatten() {
        if name.eq_ignore_ascii_case("content-type") {
            kind = value.as_str().unwrap_or_default().to_owned();
        }
        for value in value.as_array().unwrap_or(&vec![value.clone()]) {
            request = request.header(name, &gateway_tests::json::plain(value));
        }
    }
    request.body = text("body").as_bytes().to_vec();
    if let Some(table) = described["body_table"].as_object() {
        request.body = table_body(table, &kind).into_bytes();
        for (name, value) in &mut request.headers {
            if name.eq_ignore_ascii_case("content-type") && value == "multipart/form-data" {
                value.push_str("; boundary=corpus-boundary");
            }
        }
    }
    request
}

fn table_body(table: &serde_json::Map<String, Value>, kind: &str) -> String {
    let pairs = table.iter().map(|(name, value)| (name, gateway_tests::json::plain(value)));
    if kind.starts_with("multipart/form-data") {
        let parts = pairs.map(|(name, value)| {
            format!("--corpus-boundary\r\nContent-Disposition: form-data; name=\"{name}\"\r\n\r\n{value}\r\n")
        });
        return format!("{}--corpus-boundary--\r\n", parts.collect::<String>());
    }
    if kind.starts_with("application/json") {
        return Value::Object(table.clone()).to_string();
    }
    pairs.map(|(name, value)| format!("{name}={value}")).collect::<Vec<_>>().join("&")
}
