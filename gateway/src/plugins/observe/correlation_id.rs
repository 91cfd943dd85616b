//! Kong's `correlation-id`: gives each request an id in a header, keeps one that the client brought, and may tell it back.

use std::fmt::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use http::header::{HeaderName, HeaderValue};

use crate::document::Fields;
use crate::plugins::{Flow, Kind, Plugin, Setup};
use crate::proxy::exchange::{Exchange, Response};

/// The kind.
pub const KIND: Kind = Kind { name: "correlation-id", priority: 100_001, consumer_scope: true, compile };

#[derive(Clone, Copy)]
enum Generator {
    Uuid,
    UuidCounter,
    Tracker,
}

struct CorrelationId {
    header: HeaderName,
    generator: Generator,
    echo_downstream: bool,
    /// The constant part of `uuid#counter`.
    prefix: String,
    serial: AtomicU64,
}

impl Plugin for CorrelationId {
    fn on_request(&self, exchange: &mut Exchange) -> Flow {
        self.assign(exchange);
        Flow::Continue
    }

    fn on_response(&self, exchange: &mut Exchange, response: &mut Response) {
        if !self.echo_downstream {
            return;
        }
        // A request that was answered before this plugin's turn has no id yet.
        if exchange.correlation_id.is_none() {
            self.assign(exchange);
        }
        let sent = exchange.request.headers.get(&self.header).cloned();
        // Another plugin may have taken the header away from the upstream.
        let chosen = || HeaderValue::try_from(exchange.correlation_id.as_deref()?).ok();
        if let Some(value) = sent.or_else(chosen) {
            response.headers.insert(self.header.clone(), value);
        }
    }
}

impl CorrelationId {
    fn assign(&self, exchange: &mut Exchange) {
        let brought = exchange.request.headers.get(&self.header).filter(|v| !v.is_empty());
        let id = match brought {
            Some(value) => String::from_utf8_lossy(value.as_bytes()).into_owned(),
            None => {
                let id = self.generate(exchange);
                if let Ok(value) = HeaderValue::try_from(&id) {
                    exchange.request.headers.insert(self.header.clone(), value);
                }
                id
            }
        };
        exchange.correlation_id = Some(id.into());
    }

    fn generate(&self, exchange: &Exchange) -> String {
        match self.generator {
            Generator::Uuid => uuid(),
            Generator::UuidCounter => {
                let mut id = String::with_capacity(self.prefix.len() + 12);
                let serial = self.serial.fetch_add(1, Ordering::Relaxed) + 1;
                let _ = write!(id, "{}#{serial}", self.prefix);
                id
            }
            Generator::Tracker => {
                let (client, serial) = (&exchange.client, self.serial.fetch_add(1, Ordering::Relaxed) + 1);
                let (s, ms) = (exchange.started_unix_ns / 1_000_000_000, exchange.started_unix_ns / 1_000_000 % 1000);
                let (ip, port, pid) = (client.peer.ip(), client.peer.port(), std::process::id());
                format!("{ip}-{}-{pid}-{port}-{serial}-{s}.{ms:03}", client.local_port)
            }
        }
    }
}

/// A version 4 UUID of the thread's random numbers: no system call for each request.
fn uuid() -> String {
    uuid::Builder::from_random_bytes(rand::random()).into_uuid().to_string()
}

fn compile(fields: &Fields<'_>, _setup: &Setup<'_>) -> Option<Arc<dyn Plugin>> {
    let generators =
        [("uuid", Generator::Uuid), ("uuid#counter", Generator::UuidCounter), ("tracker", Generator::Tracker)];
    let generator = fields.choice("generator", &generators).unwrap_or(Generator::UuidCounter);
    let echo_downstream = fields.boolean("echo_downstream").unwrap_or(false);
    let name = fields.string("header_name").unwrap_or_else(|| "Kong-Request-ID".into());
    let Ok(header) = HeaderName::try_from(&name) else {
        let message = format!("`{name}` is no header name");
        fields.report.mismatch(fields.place_of("header_name"), message, "a header name");
        return None;
    };
    Some(Arc::new(CorrelationId { header, generator, echo_downstream, prefix: uuid(), serial: AtomicU64::new(0) }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plugins::fixture::{bad, good, pass, response};

    fn sent(plugin: &Arc<dyn Plugin>, headers: &[(&str, &str)], name: &str) -> String {
        let mut ex = Exchange::for_test("GET", "/", headers);
        pass(plugin, &mut ex);
        let value = ex.request.headers[name].to_str().expect("text").to_owned();
        assert_eq!(ex.correlation_id.as_deref(), Some(&*value));
        value
    }

    #[test]
    fn the_counter_counts() {
        let plugin = good(&KIND, "{}");
        let (one, two) = (sent(&plugin, &[], "kong-request-id"), sent(&plugin, &[], "kong-request-id"));
        let (prefix, serial) = one.split_once('#').expect("a counter");
        assert_eq!((prefix.len(), serial), (36, "1"));
        assert_eq!(two, format!("{prefix}#2"));
    }

    #[test]
    fn uuids_are_unique_and_trackers_have_six_parts() {
        let plugin = good(&KIND, "{generator: uuid, header_name: X-Id}");
        let one = sent(&plugin, &[], "x-id");
        assert_eq!(uuid::Uuid::parse_str(&one).expect("a UUID").get_version_num(), 4);
        assert_ne!(one, sent(&plugin, &[], "x-id"));
        let tracker = sent(&good(&KIND, "{generator: tracker}"), &[], "kong-request-id");
        let pid = std::process::id();
        assert_eq!(tracker, format!("127.0.0.1-8000-{pid}-40000-1-1700000000.000"));
    }

    #[test]
    fn the_clients_id_is_kept_unless_empty() {
        let plugin = good(&KIND, "{}");
        assert_eq!(sent(&plugin, &[("kong-request-id", "mine")], "kong-request-id"), "mine");
        assert_ne!(sent(&plugin, &[("kong-request-id", "")], "kong-request-id"), "");
    }

    #[test]
    fn it_is_told_back_only_when_asked() {
        for (config, echoed) in [("{echo_downstream: true}", true), ("{}", false)] {
            let plugin = good(&KIND, config);
            let mut ex = Exchange::for_test("GET", "/", &[("kong-request-id", "mine")]);
            let mut answer = response(200, &[], "");
            plugin.on_response(&mut ex, &mut answer);
            assert_eq!(answer.headers.get("kong-request-id").is_some_and(|v| v == "mine"), echoed);
        }
    }

    #[test]
    fn faults_are_told() {
        assert!(bad(&KIND, "{header_name: 'a b'}").contains("no header name"));
        assert!(bad(&KIND, "{generator: uuid4}").contains("did you mean `uuid`?"));
    }
}
