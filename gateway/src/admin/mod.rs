//! The admin API: status, metrics, configuration, edge. On a listener and a runtime of its own, so that it answers when the
//! data plane is busy.

mod entities;
mod guard;
mod health;
mod keys;
mod page;
mod root;

use std::convert::Infallible;
use std::net::IpAddr;
use std::sync::Arc;

use bytes::Bytes;
use http::header::{CONTENT_TYPE, HeaderValue};
use http::{Method, StatusCode};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use serde_json::json;

use crate::config::sources::TEXT_MAX;
use crate::config::{Bundle, Refused, Reload, Running};
use crate::edge::{Edge, Identity};
use crate::identity::Revoked;
use crate::identity::keyring::Keyring;

/// What the admin API shows and does; the composition root provides it.
pub trait Control: Send + Sync {
    /// The configuration that runs.
    fn running(&self) -> &Running;
    /// Takes a new configuration, off this runtime, and tells the workers.
    fn replace(&self, bundle: Bundle) -> impl Future<Output = Reload> + Send;
    /// API keys that are made while it runs.
    fn keyring(&self) -> &Arc<Keyring>;
    /// Closes, with a reset, every open connection that lives by one of these credentials: kept ones of HTTP/1, HTTP/2,
    /// WebSockets. One of a trusted proxy, which carries many people, loses only what it serves of these. To be called
    /// after the credentials were taken from where requests look them up; a request that began before that is cut as well.
    /// Returns at once: the workers do it within milliseconds, and count `gateway_connections_ended_total` with the reason
    /// `revoked`. A reload does the same for what it takes away.
    fn revoke(&self, credentials: Revoked);
    /// Names this process.
    fn node(&self) -> &str;
    /// The edge, if there is one.
    fn edge(&self) -> Option<&Arc<Edge>>;
    /// A consumer's credentials as the edge knows them; none if there is no such consumer.
    fn identities_of(&self, consumer: &str) -> Option<(u128, Vec<Identity>)>;
    /// `/status`.
    fn status(&self) -> impl Future<Output = serde_json::Value> + Send;
    /// `/metrics`.
    fn metrics(&self) -> impl Future<Output = String> + Send;
}

type Answer = http::Response<Full<Bytes>>;

/// Serves the admin API on `listener` until the task is dropped.
pub async fn serve<C: Control + 'static>(listener: tokio::net::TcpListener, control: Arc<C>) {
    loop {
        let Ok((stream, _)) = listener.accept().await else {
            tokio::time::sleep(std::time::Duration::from_millis(50)).await;
            continue;
        };
        let control = Arc::clone(&control);
        tokio::spawn(async move {
            let service = service_fn(move |request| {
                let control = Arc::clone(&control);
                async move { Ok::<_, Infallible>(answer(&control, request).await) }
            });
            let connection = http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(std::time::Duration::from_secs(10))
                .serve_connection(TokioIo::new(stream), service);
            // The peer's failures are the peer's.
            let _ = connection.await;
        });
    }
}

async fn answer<C: Control + 'static>(shared: &Arc<C>, request: http::Request<Incoming>) -> Answer {
    let control = &**shared;
    match &control.running().current().settings.admin_token {
        Some(token) if guard::knows(token.reveal(), request.headers()) => {}
        Some(_) => return message(StatusCode::UNAUTHORIZED, "the admin API needs its token"),
        None => {
            if let Err(why) = guard::check(request.method(), request.headers()) {
                return message(StatusCode::FORBIDDEN, why);
            }
        }
    }
    let path = request.uri().path().trim_end_matches('/').to_owned();
    match (request.method(), path.as_str()) {
        (&Method::GET, "") => json_of(StatusCode::OK, &root::root(control.running(), control.node())),
        (&Method::GET, "/status") => json_of(StatusCode::OK, &control.status().await),
        (&Method::GET, "/metrics") => text_of("text/plain; version=0.0.4", control.metrics().await),
        (&Method::GET, "/config") => config(control, request.headers()),
        (&Method::POST, "/config") => replace(shared, request).await,
        (&Method::GET, "/edge") => edge_of(control, Edge::status),
        (&Method::GET, "/edge/why") => why(control, request.uri().query().unwrap_or_default()),
        (&Method::POST, "/edge/unban") => unban(control, request.uri().query().unwrap_or_default()),
        (&Method::POST, "/edge/kill" | "/edge/arm") => {
            let kill = path.ends_with("kill");
            edge_of(control, |edge| {
                edge.kill_switch(kill);
                json!({ "killed": kill })
            })
        }
        (method, _) if control.keyring().is_open() && keys::Order::of(method, &path).is_some() => {
            match keys::Order::of(method, &path) {
                Some(order) => keys::answer(shared, order, request).await,
                None => message(StatusCode::NOT_FOUND, "Not found"),
            }
        }
        (method, _) => {
            let method = method.clone();
            let query = request.uri().query().unwrap_or_default().to_owned();
            let (snapshot, node) = (control.running().current(), control.node().to_owned());
            let loaded = control.running().loaded_unix_s();
            let addresses = health::addresses(&snapshot, &path).await;
            let keyring = Arc::clone(control.keyring());
            // The first question reads the configuration again: not on the thread that answers everybody.
            let answer = tokio::task::spawn_blocking(move || {
                let issued = if path.contains("key") { keys::entities(&keyring) } else { Vec::new() };
                let asked = entities::Asked { method: &method, path: &path, query: &query, addresses: &addresses };
                entities::answer(&snapshot, issued, &asked, &node, loaded)
            });
            answer.await.unwrap_or_else(|_| message(StatusCode::INTERNAL_SERVER_ERROR, "An unexpected error occurred"))
        }
    }
}

/// `GET /config`: the text as it was given, or Kong's `{"config": …}` for whoever asks for JSON.
fn config<C: Control>(control: &C, headers: &http::HeaderMap) -> Answer {
    let snapshot = control.running().current();
    let text = match snapshot.bundle.0.as_slice() {
        [only] => only.text.clone(),
        several => several.iter().map(|t| format!("# {}\n---\n{}\n", t.name, t.text)).collect(),
    };
    let accept = headers.get(http::header::ACCEPT).and_then(|v| v.to_str().ok()).unwrap_or_default();
    if accept.contains("application/json") {
        return json_of(StatusCode::OK, &json!({ "config": text }));
    }
    text_of("application/yaml", text)
}

fn edge_of<C: Control>(control: &C, ask: impl FnOnce(&Edge) -> serde_json::Value) -> Answer {
    match control.edge() {
        Some(edge) => json_of(StatusCode::OK, &ask(edge)),
        None => message(StatusCode::NOT_FOUND, "the configuration has no `gateway.edge`"),
    }
}

/// Sets a source free, here and at the other gateways of the fleet.
fn unban<C: Control>(control: &C, query: &str) -> Answer {
    let ip = form_urlencoded::parse(query.as_bytes()).find(|(name, _)| name == "ip").map(|(_, value)| value);
    match ip.and_then(|text| text.parse::<IpAddr>().ok()) {
        Some(ip) => edge_of(control, |edge| json!({ "address": ip.to_string(), "stood": edge.lift(ip) })),
        None => message(StatusCode::BAD_REQUEST, "`ip` is no IP address"),
    }
}

fn why<C: Control>(control: &C, query: &str) -> Answer {
    let argument = |name: &str| form_urlencoded::parse(query.as_bytes()).find(|(k, _)| k == name).map(|(_, v)| v);
    if let Some(consumer) = argument("consumer") {
        return match control.identities_of(&consumer) {
            Some((number, identities)) => edge_of(control, |edge| {
                let mut answer = edge.why_consumer(number, &identities);
                answer["consumer"] = json!(consumer);
                answer["credentials"] = json!(identities.len());
                answer
            }),
            None => message(StatusCode::NOT_FOUND, "there is no such consumer"),
        };
    }
    match argument("ip").and_then(|text| text.parse::<IpAddr>().ok()) {
        Some(ip) => edge_of(control, |edge| edge.why(ip)),
        None => message(StatusCode::BAD_REQUEST, "`ip` is no IP address"),
    }
}

/// `POST /config`: the body is a whole configuration in YAML or JSON, or Kong's `{"config": TEXT}`.
async fn replace<C: Control + 'static>(control: &Arc<C>, request: http::Request<Incoming>) -> Answer {
    let query = request.uri().query().unwrap_or_default().to_owned();
    let on = |name: &str| {
        let value = form_urlencoded::parse(query.as_bytes()).find(|(k, _)| k == name).map(|(_, v)| v.into_owned());
        value.is_some_and(|v| matches!(v.as_str(), "" | "1" | "true"))
    };
    let body = match Limited::new(request.into_body(), TEXT_MAX as usize).collect().await {
        Ok(body) => body.to_bytes(),
        Err(_) => return message(StatusCode::PAYLOAD_TOO_LARGE, "the configuration is too large or broke off"),
    };
    let Ok(text) = std::str::from_utf8(&body) else {
        return message(StatusCode::BAD_REQUEST, "the configuration is not UTF-8");
    };
    let bundle = Bundle::of("POST /config", &wrapped(text).unwrap_or_else(|| text.to_owned()));
    let control = Arc::clone(control);
    // A client that leaves drops this, and must not leave half of the work undone.
    let outcome = tokio::spawn(async move { control.replace(bundle).await });
    match outcome.await.unwrap_or_else(|_| Reload::Refused(Refused::broken_off())) {
        Reload::Adopted(snapshot) => json_of(StatusCode::CREATED, &json!({ "hash": snapshot.hash })),
        Reload::Same if on("check_hash") => {
            let mut answer = Answer::default();
            *answer.status_mut() = StatusCode::NOT_MODIFIED;
            answer
        }
        Reload::Same => json_of(StatusCode::OK, &json!({ "message": "configuration is identical" })),
        Reload::Refused(refused) => {
            let lines: Vec<&str> = refused.text.lines().collect();
            let mut body = json!({
                "code": 14, "name": "invalid declarative configuration", "fields": {},
                "message": "declarative config is invalid", "errors": lines,
            });
            if on("flatten_errors") {
                body["flattened_errors"] = refused.entities;
            }
            json_of(StatusCode::BAD_REQUEST, &body)
        }
    }
}

/// The text within Kong's `{"config": TEXT}`.
fn wrapped(text: &str) -> Option<String> {
    // Only an object that begins so can be one; a whole configuration in JSON is not read twice.
    let head: String = text.chars().take(64).filter(|c| !c.is_whitespace()).collect();
    if !head.starts_with("{\"config\":") && !head.starts_with("{\"check_hash\":") {
        return None;
    }
    let mut value: serde_json::Value = serde_json::from_str(text).ok()?;
    match value["config"].take() {
        serde_json::Value::String(text) => Some(text),
        _ => None,
    }
}

/// The segments of a path, decoded.
fn parts(path: &str) -> Vec<String> {
    let decoded = |part| percent_encoding::percent_decode_str(part).decode_utf8_lossy().into_owned();
    path.split('/').filter(|part| !part.is_empty()).map(decoded).collect()
}

fn message(status: StatusCode, text: &str) -> Answer {
    json_of(status, &json!({ "message": text }))
}

fn json_of(status: StatusCode, value: &serde_json::Value) -> Answer {
    let mut answer = text_of("application/json; charset=utf-8", value.to_string());
    *answer.status_mut() = status;
    answer
}

fn text_of(content_type: &'static str, text: String) -> Answer {
    let mut answer = Answer::new(Full::from(text));
    answer.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    answer
}
