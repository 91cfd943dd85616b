//! Plugins: one file each, one table whose order is the order in which they run. A plugin sees an `Exchange`, and says
//! `Continue`, what to answer, or what to wait for; `on_request` itself never opens a socket, takes a shared lock or waits.

pub mod auth;
#[cfg(test)]
pub(crate) mod fixture;
pub mod observe;
pub mod protocol;
pub mod traffic;
pub mod transform;

use std::future::Future;
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::Arc;

use crate::document::{Fields, Place, Report};
use crate::identity::Identities;
use crate::limits::{Slots, Spans, Windows};
use crate::proxy::exchange::{Exchange, Outcome, Response};
use crate::proxy::reply::Reply;
use crate::telemetry::record::Record;
use crate::telemetry::writer::LogWriter;

/// What a plugin decides about a request.
pub enum Flow {
    /// Go on.
    Continue,
    /// Answer this now; the upstream is not asked.
    Reply(Box<Reply>),
    /// Somebody else must be asked first. The plugin bounds the time.
    Wait(Wait),
}

/// A question under way, on the worker's own thread. It ends with what is to be done about the exchange then.
pub type Wait = Pin<Box<dyn Future<Output = Resume>>>;

/// What a plugin does when its question is answered.
pub type Resume = Box<dyn FnOnce(&mut Exchange) -> Flow>;

impl From<Reply> for Flow {
    fn from(reply: Reply) -> Self {
        Flow::Reply(Box::new(reply))
    }
}

/// One configured plugin. Every method has a default, so that a plugin writes down only what it does.
pub trait Plugin: Send + Sync {
    /// Hides in what will be logged the secrets that this plugin looks for: before any plugin runs, so that nobody who
    /// answers first leaves them in the open.
    fn conceal(&self, _exchange: &mut Exchange) {}

    /// Bytes of the request body that must be held whole before `on_request`; `None` leaves the body streaming.
    fn body_limit(&self, _exchange: &Exchange) -> Option<usize> {
        None
    }

    /// Before the upstream is asked.
    fn on_request(&self, _exchange: &mut Exchange) -> Flow {
        Flow::Continue
    }

    /// Whether a connection of a stream route from this address may go on.
    fn on_connection(&self, _client: IpAddr) -> bool {
        true
    }

    /// Bytes of the response body that must be held whole before `on_response`; a longer body passes unchanged.
    fn response_body_limit(&self, _exchange: &Exchange, _response: &Response) -> Option<usize> {
        None
    }

    /// The requests a second that this instance grants to each recognised caller; `None` if it does not limit by caller.
    fn quota(&self) -> Option<u64> {
        None
    }

    /// Before the head of the answer is sent; also for answers of the gateway itself.
    fn on_response(&self, _exchange: &mut Exchange, _response: &mut Response) {}

    /// Once for each request for which `on_request` continued, as soon as it is known how the upstream call ended.
    fn on_outcome(&self, _exchange: &mut Exchange, _outcome: Outcome, _now_ns: u64) {}

    /// What clients are asked for in the handshake, when this plugin wants their certificates.
    fn certificate_request(&self) -> Option<CertificateRequest> {
        None
    }

    /// What the `prometheus` plugin wants counted; only that plugin answers.
    fn metrics(&self) -> Option<MetricFlags> {
        None
    }

    /// Whether `on_log` wants the record.
    fn logs(&self) -> bool {
        false
    }

    /// After the last byte of the answer.
    fn on_log(&self, _record: &Record<'_>) {}
}

/// A wish for certificates of clients.
#[derive(Clone, Debug)]
pub struct CertificateRequest {
    /// Names of authorities, DER, of which a client may choose; without it the client is told of none.
    pub authorities: Option<Vec<rustls::DistinguishedName>>,
}

/// Families of metrics that Kong's prometheus plugin switches on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MetricFlags {
    /// `per_consumer`: the consumer is a label.
    pub per_consumer: bool,
    /// `status_code_metrics`: `kong_http_requests_total`.
    pub status_codes: bool,
    /// `latency_metrics`: the three latency histograms.
    pub latency: bool,
    /// `bandwidth_metrics`: `kong_bandwidth_bytes`.
    pub bandwidth: bool,
    /// `upstream_health_metrics`: `kong_upstream_target_health`.
    pub upstream_health: bool,
}

/// What outlives a reload: counters and writers that plugins share.
pub struct Shared {
    /// Rate-limit counters.
    pub windows: Windows,
    /// Those of windows of any length.
    pub spans: Spans,
    /// Requests under way, of those who may have only so many.
    pub slots: Slots,
    /// Limits shared with other gateways.
    pub fleet: Arc<crate::limits::store::Fleet>,
    /// Circuit states by service or route.
    pub circuits: crate::upstreams::circuit::Circuits,
    /// States of upstreams' targets.
    pub members: crate::upstreams::member::Members,
    /// Writes log files off the request path.
    pub writer: LogWriter,
    /// How near the process is to its memory limit.
    pub pressure: crate::limits::Pressure,
    /// Servers that say who calls, and their keys.
    pub remote: crate::identity::remote::Remote,
    /// API keys that are made and taken back while it runs.
    pub keyring: Arc<crate::identity::keyring::Keyring>,
    /// Seals sessions where the configuration has no secret for it.
    pub session_secret: [u8; 32],
    /// Keys the hashes of identities, so that collisions cannot be aimed at.
    pub hash_keys: std::hash::RandomState,
}

impl Shared {
    /// Nothing counted and nothing known yet.
    #[must_use]
    pub fn new(writer: LogWriter) -> Self {
        Shared {
            windows: Windows::default(),
            spans: Spans::default(),
            slots: Slots::default(),
            fleet: Arc::default(),
            circuits: Default::default(),
            members: Default::default(),
            writer,
            pressure: Default::default(),
            remote: Default::default(),
            keyring: Arc::default(),
            session_secret: rand::random(),
            hash_keys: Default::default(),
        }
    }

    /// Forgets what is over; the control plane calls it every second.
    pub fn sweep(&self, unix_s: u64) {
        self.windows.sweep(unix_s);
        self.spans.sweep(unix_s);
        self.slots.sweep();
        self.fleet.sweep(unix_s);
        self.members.sweep();
    }
}

/// What a plugin may look at when it is compiled.
pub struct Setup<'a> {
    /// Consumers and credentials of the same file.
    pub identities: &'a Arc<Identities>,
    /// What outlives a reload.
    pub shared: &'a Arc<Shared>,
    /// Where to report what is wrong.
    pub report: &'a Report,
    /// The plugin's place in the file.
    pub place: Place,
    /// The plugin's own UUID.
    pub id: &'a str,
    /// UUID of the route that it is scoped to, or empty.
    pub route: &'a str,
    /// UUID of the service that it is scoped to, or empty.
    pub service: &'a str,
    /// UUID of the consumer group that it is scoped to, or empty.
    pub group: &'a str,
}

/// A kind of plugin.
pub struct Kind {
    /// The name in the file.
    pub name: &'static str,
    /// Kong's PRIORITY: higher runs earlier.
    pub priority: i32,
    /// Whether an instance may be scoped to a consumer.
    pub consumer_scope: bool,
    /// Reads `config` and builds an instance; reports and returns nothing when it is wrong.
    pub compile: fn(&Fields<'_>, &Setup<'_>) -> Option<Arc<dyn Plugin>>,
}

/// Every kind of plugin, in the order in which they run (Kong's PRIORITY, ties by name).
pub const REGISTRY: &[Kind] = &[
    observe::correlation_id::KIND,
    auth::bot_detection::KIND,
    protocol::cors::KIND,
    auth::session::KIND,
    auth::oauth2_introspection::KIND,
    auth::mtls_auth::KIND,
    auth::jwt::KIND,
    auth::key_auth::KIND,
    auth::ldap_auth::KIND,
    auth::basic_auth::KIND,
    auth::openid_connect::KIND,
    auth::hmac_auth::KIND,
    auth::header_cert_auth::KIND,
    auth::ip_restriction::KIND,
    traffic::request_size_limiting::KIND,
    auth::acl::KIND,
    traffic::rate_limiting::KIND,
    traffic::rate_limiting_advanced::KIND,
    traffic::concurrency_limiting::KIND,
    traffic::response_ratelimiting::KIND,
    transform::request_transformer::KIND,
    transform::response_transformer::KIND,
    traffic::redirect::KIND,
    observe::prometheus::KIND,
    observe::file_log::KIND,
    traffic::request_termination::KIND,
    traffic::circuit_breaker::KIND,
];

/// The kind named `name`.
#[must_use]
pub fn kind(name: &str) -> Option<&'static Kind> {
    REGISTRY.iter().find(|k| k.name == name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_registry_runs_by_priority_then_name() {
        let order: Vec<_> = REGISTRY.iter().map(|k| (-k.priority, k.name)).collect();
        assert!(order.is_sorted(), "{order:?}");
    }
}
