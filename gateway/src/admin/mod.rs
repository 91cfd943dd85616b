//! The admin API: status, metrics, configuration, edge. On a listener and a runtime of its own, so that it answers when the
//! data plane is busy.

mod guard;

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

use crate::config::running::TEXT_MAX;
use crate::config::{Reload, Running};
use crate::edge::{Edge, Identity};

/// What the admin API shows and does; the composition root provides it.
pub trait Control: Send + Sync {
    /// The configuration that runs.
    fn running(&self) -> &Running;
    /// Takes a new configuration and tells the workers.
    fn replace(&self, text: &str, source: &str) -> Reload;
    /// The edge, if there is one.
    fn edge(&self) -> Option<&Arc<Edge>>;
    /// A consumer's credentials as the edge knows them; none if there is no such consumer.
    fn identities_of(&self, consumer: &str) -> Option<Vec<Identity>>;
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
                async move { Ok::<_, Infallible>(answer(&*control, request).await) }
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

async fn answer<C: Control>(control: &C, request: http::Request<Incoming>) -> Answer {
    if let Err(why) = guard::check(request.method(), request.headers()) {
        return message(StatusCode::FORBIDDEN, why);
    }
    let path = request.uri().path().trim_end_matches('/').to_owned();
    match (request.method(), path.as_str()) {
        (&Method::GET, "") => json_of(
            StatusCode::OK,
            &json!({ "version": env!("CARGO_PKG_VERSION"), "tagline": "Welcome to the gateway" }),
        ),
        (&Method::GET, "/status") => json_of(StatusCode::OK, &control.status().await),
        (&Method::GET, "/metrics") => text_of("text/plain; version=0.0.4", control.metrics().await),
        (&Method::GET, "/config") => text_of("application/yaml", control.running().current().text.clone()),
        (&Method::POST, "/config") => replace(control, request).await,
        (&Method::GET, "/edge") => edge_of(control, Edge::status),
        (&Method::GET, "/edge/why") => why(control, request.uri().query().unwrap_or_default()),
        (&Method::POST, "/edge/kill" | "/edge/arm") => {
            let kill = path.ends_with("kill");
            edge_of(control, |edge| {
                edge.kill_switch(kill);
                json!({ "killed": kill })
            })
        }
        _ => message(StatusCode::NOT_FOUND, "Not found"),
    }
}

fn edge_of<C: Control>(control: &C, ask: impl FnOnce(&Edge) -> serde_json::Value) -> Answer {
    match control.edge() {
        Some(edge) => json_of(StatusCode::OK, &ask(edge)),
        None => message(StatusCode::NOT_FOUND, "the configuration has no `gateway.edge`"),
    }
}

fn why<C: Control>(control: &C, query: &str) -> Answer {
    let argument = |name: &str| form_urlencoded::parse(query.as_bytes()).find(|(k, _)| k == name).map(|(_, v)| v);
    if let Some(consumer) = argument("consumer") {
        return match control.identities_of(&consumer) {
            Some(identities) => edge_of(control, |edge| {
                let mut answer = edge.why_identity(&identities);
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

/// `POST /config`: the body is a whole configuration in YAML or JSON.
async fn replace<C: Control>(control: &C, request: http::Request<Incoming>) -> Answer {
    let body = match Limited::new(request.into_body(), TEXT_MAX as usize).collect().await {
        Ok(body) => body.to_bytes(),
        Err(_) => return message(StatusCode::PAYLOAD_TOO_LARGE, "the configuration is too large or broke off"),
    };
    let Ok(text) = std::str::from_utf8(&body) else {
        return message(StatusCode::BAD_REQUEST, "the configuration is not UTF-8");
    };
    match control.replace(text, "POST /config") {
        Reload::Adopted(snapshot) => json_of(StatusCode::CREATED, &json!({ "hash": snapshot.hash })),
        Reload::Same => json_of(StatusCode::OK, &json!({ "message": "configuration is identical" })),
        Reload::Refused(errors) => {
            let lines: Vec<&str> = errors.lines().collect();
            json_of(StatusCode::BAD_REQUEST, &json!({ "message": "declarative config is invalid", "errors": lines }))
        }
    }
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
