//! One finished request as Kong's log plugins write it. Built when the last byte has left; serialised only if somebody asks.

use http::HeaderMap;
use serde_json::{Value, json};

use crate::identity::Consumer;
use crate::proxy::exchange::Exchange;

/// The facts of one finished request.
pub struct Record<'a> {
    /// The request.
    pub exchange: &'a Exchange,
    /// Status sent to the client.
    pub status: u16,
    /// Headers sent to the client.
    pub response_headers: &'a HeaderMap,
    /// Body bytes sent to the client.
    pub response_bytes: u64,
    /// Body bytes received from the client.
    pub request_bytes: u64,
    /// Status of the upstream's answer.
    pub upstream_status: Option<u16>,
    /// Why the gateway answered itself: a plugin's name or a refusal's word.
    pub reason: Option<&'static str>,
    /// The consumer.
    pub consumer: Option<&'a Consumer>,
    /// Upstream calls, in order.
    pub tries: &'a [Try],
    /// From the first byte of the request to the last byte of the answer, nanoseconds.
    pub total_ns: u64,
    /// Waiting for the upstream's head, nanoseconds; `None` when it was not asked.
    pub upstream_ns: Option<u64>,
    /// From the upstream's head to the last byte of its body, nanoseconds.
    pub receive_ns: u64,
    /// Whether the answer ended before it was complete.
    pub aborted: bool,
}

/// One attempt at an upstream.
#[derive(Clone, Copy, Debug)]
pub struct Try {
    /// Address that was tried.
    pub address: std::net::SocketAddr,
    /// Wall clock, nanoseconds since 1970.
    pub started_unix_ns: u64,
    /// Whether it failed before an answer came.
    pub failed: bool,
}

impl Record<'_> {
    /// Kong's log object (pdk `kong.log.serialize`); credentials in `authorization` and `proxy-authorization`, and
    /// what plugins concealed, are redacted.
    #[must_use]
    pub fn to_json(&self) -> Value {
        let ex = self.exchange;
        let ms = |ns: u64| ns / 1_000_000;
        let waited = self.upstream_ns.map_or(-1, |ns| ms(ns) as i64);
        let kong = ms(self.total_ns).saturating_sub(self.upstream_ns.map_or(0, ms)).saturating_sub(ms(self.receive_ns));
        let scheme = if ex.client.tls { "https" } else { "http" };
        let port = ex.client.local_port;
        let path = ex.raw_uri.split('?').next().unwrap_or_default();
        let mut object = json!({
            "request": {
                "id": ex.request_id.as_str(),
                "method": ex.request.method.as_str(),
                "uri": ex.raw_uri,
                "url": format!("{scheme}://{}:{port}{path}", ex.host),
                "size": self.request_bytes,
                "querystring": query(ex),
                "headers": headers(&ex.request.headers),
            },
            "response": { "status": self.status, "size": self.response_bytes, "headers": headers(self.response_headers) },
            "latencies": {
                "request": ms(self.total_ns),
                "kong": kong,
                "proxy": waited,
                "receive": ms(self.receive_ns),
            },
            "tries": self.tries.iter().map(|t| t.to_json()).collect::<Vec<_>>(),
            "client_ip": ex.client.ip.to_string(),
            "started_at": ex.started_unix_ns / 1_000_000,
            "upstream_uri": ex.upstream_path,
            "upstream_status": self.upstream_status.map(|s| s.to_string()),
            "workspace_name": "default",
            "source": if self.upstream_status.is_some() { "upstream" } else { "kong" },
        });
        if let Some(route) = &ex.route {
            object["route"] = route.entity.clone();
            if let Some(service) = &route.service {
                object["service"] = service.entity.clone();
            }
        }
        if let Some(consumer) = self.consumer {
            object["consumer"] =
                json!({ "id": consumer.id, "username": consumer.username, "custom_id": consumer.custom_id });
        }
        if let Some(credential) = ex.credential() {
            object["authenticated_entity"] = json!({ "id": &**credential });
        }
        if let Some(id) = &ex.correlation_id {
            object["correlation_id"] = json!(id);
        }
        if let Some(reason) = self.reason {
            object["reason"] = json!(reason);
        }
        if self.aborted {
            object["aborted"] = json!(true);
        }
        object
    }
}

impl Try {
    fn to_json(self) -> Value {
        json!({
            "ip": self.address.ip().to_string(),
            "port": self.address.port(),
            "balancer_start": self.started_unix_ns / 1_000_000,
            "balancer_start_ns": self.started_unix_ns,
            "state": if self.failed { Some("failed") } else { None },
        })
    }
}

fn query(ex: &Exchange) -> Value {
    let Some((_, query)) = ex.raw_uri.split_once('?') else { return json!({}) };
    let mut object = serde_json::Map::new();
    for (name, value) in form_urlencoded::parse(query.as_bytes()) {
        put(&mut object, &name, Value::from(value.into_owned()));
    }
    Value::Object(object)
}

fn headers(map: &HeaderMap) -> Value {
    let mut object = serde_json::Map::new();
    for (name, value) in map {
        let known = name == http::header::AUTHORIZATION || name == http::header::PROXY_AUTHORIZATION;
        let secret = known || value.is_sensitive();
        let text = if secret { "REDACTED".into() } else { String::from_utf8_lossy(value.as_bytes()) };
        put(&mut object, name.as_str(), Value::from(text));
    }
    Value::Object(object)
}

/// A name that comes again turns its value into a list, as Kong writes it.
fn put(object: &mut serde_json::Map<String, Value>, name: &str, value: Value) {
    match object.get_mut(name) {
        None => {
            object.insert(name.to_owned(), value);
        }
        Some(Value::Array(list)) => list.push(value),
        Some(first) => {
            let list = vec![first.take(), value];
            *first = Value::Array(list);
        }
    }
}
