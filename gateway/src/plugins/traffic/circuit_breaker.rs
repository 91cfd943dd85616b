//! `circuit-breaker`, a kind of our own: stops asking an upstream that keeps failing, answers in its place, and tries it
//! again with a few probes. It decides by outcomes alone; it must not know targets or health checks.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::StatusCode;
use http::header::{CONTENT_LENGTH, HeaderName, HeaderValue, TRANSFER_ENCODING};

use crate::document::{Fields, Value};
use crate::plugins::{Flow, Kind, Plugin, Setup, Shared};
use crate::proxy::exchange::{Exchange, Outcome};
use crate::proxy::reply::{Reply, default_message};
use crate::upstreams::circuit::{Permit, Policy, State};

/// The kind. Last before the upstream: what other plugins refuse is no outcome of the upstream and must not take a probe.
pub const KIND: Kind = Kind { name: "circuit-breaker", priority: 1, consumer_scope: false, compile };

const STATE: HeaderName = HeaderName::from_static("x-circuit-breaker");
const NANOS: u64 = 1_000_000_000;
const HOUR: Duration = Duration::from_secs(3600);

struct CircuitBreaker {
    policy: Policy,
    failure_statuses: Vec<u16>,
    fallback: Reply,
    shared: Arc<Shared>,
}

impl Plugin for CircuitBreaker {
    fn on_request(&self, exchange: &mut Exchange) -> Flow {
        let Some(id) = protected(exchange) else { return Flow::Continue };
        match self.shared.circuits.of(id).permit(&self.policy, exchange.started_ns) {
            Permit::Pass => Flow::Continue,
            Permit::Probe => {
                exchange.circuit_probe = true;
                Flow::Continue
            }
            Permit::Refused { retry_ns } => self.fallback.clone().retry_after(retry_ns.div_ceil(NANOS)).into(),
        }
    }

    fn on_outcome(&self, exchange: &mut Exchange, outcome: Outcome, now_ns: u64) {
        let probe = std::mem::take(&mut exchange.circuit_probe);
        let Some(id) = protected(exchange) else { return };
        let circuit = self.shared.circuits.of(id);
        let before = circuit.state(&self.policy, now_ns);
        // Requests that were sent before the circuit opened say nothing about whether the upstream has recovered.
        if !probe && before != State::Closed {
            return;
        }
        circuit.record(&self.policy, probe, self.success(outcome), now_ns);
        match circuit.state(&self.policy, now_ns) {
            after if after == before => {}
            State::Open => tracing::warn!(circuit = id, "circuit opened"),
            State::Closed => tracing::info!(circuit = id, "circuit closed"),
            State::HalfOpen => {}
        }
    }
}

impl CircuitBreaker {
    fn success(&self, outcome: Outcome) -> Option<bool> {
        match outcome {
            Outcome::Status(status) => Some(!self.failure_statuses.contains(&status.as_u16())),
            Outcome::Broken | Outcome::TimedOut => Some(false),
            Outcome::Abandoned => None,
        }
    }
}

/// The id of what the request's circuit protects: the service, or the route when it has none.
fn protected(exchange: &Exchange) -> Option<&str> {
    let route = exchange.route.as_ref()?;
    Some(route.service.as_ref().map_or(&route.id, |service| &service.id))
}

fn compile(fields: &Fields<'_>, setup: &Setup<'_>) -> Option<Arc<dyn Plugin>> {
    let policy = Policy {
        window: duration(fields, "window", 10),
        minimum_requests: fields.integer("minimum_requests", 1..=1_000_000).unwrap_or(20) as u32,
        failure_ratio: fields.number("failure_ratio", 0.001..=1.0).unwrap_or(0.5),
        open_for: duration(fields, "open_for", 5),
        half_open_probes: fields.integer("half_open_probes", 1..=1000).unwrap_or(3) as u32,
    };
    let failure_statuses = failure_statuses(fields).unwrap_or_else(|| vec![500, 502, 503, 504]);
    let fallback = match fields.fields("fallback") {
        Some(fields) => fallback(&fields),
        None => templated(StatusCode::SERVICE_UNAVAILABLE),
    };
    let fallback = fallback.with(STATE, HeaderValue::from_static("open"));
    Some(Arc::new(CircuitBreaker { policy, failure_statuses, fallback, shared: Arc::clone(setup.shared) }))
}

/// Between 0.1 s and an hour.
fn duration(fields: &Fields<'_>, name: &'static str, default_s: u64) -> Duration {
    let Some(duration) = fields.duration(name) else { return Duration::from_secs(default_s) };
    if !(Duration::from_millis(100)..=HOUR).contains(&duration) {
        fields.report.mismatch(fields.place_of(name), format!("`{name}` is {duration:?}"), "from 100ms to 1h");
    }
    duration
}

fn failure_statuses(fields: &Fields<'_>) -> Option<Vec<u16>> {
    let items = fields.list("failure_statuses")?;
    let statuses = items.iter().filter_map(|item| match item.value {
        Value::Int(status @ 100..=599) => Some(status as u16),
        _ => {
            fields.report.mismatch(
                item.place,
                format!("a failure status is {}", item.kind()),
                "statuses from 100 to 599",
            );
            None
        }
    });
    Some(statuses.collect())
}

fn templated(status: StatusCode) -> Reply {
    Reply::templated(KIND.name, status, default_message(status.as_u16()))
}

fn fallback(fields: &Fields<'_>) -> Reply {
    let status = fields.integer("status", 200..=599).unwrap_or(503) as u16;
    let status = StatusCode::from_u16(status).unwrap_or(StatusCode::SERVICE_UNAVAILABLE);
    let content_type = match fields.string("content_type").map(HeaderValue::try_from) {
        None => HeaderValue::from_static("application/json; charset=utf-8"),
        Some(Ok(value)) => value,
        Some(Err(_)) => {
            fields.report.mismatch(
                fields.place_of("content_type"),
                "`content_type` is no header value",
                "a media type",
            );
            HeaderValue::from_static("text/plain")
        }
    };
    let mut reply = match fields.string("body") {
        Some(body) => Reply::raw(KIND.name, status, Bytes::from(body), Some(content_type)),
        None => templated(status),
    };
    for (place, text) in fields.strings("headers").unwrap_or_default() {
        match header(&text) {
            Some(header) => reply.headers.push(header),
            None => fields.report.mismatch(place, "a fallback header is not sound", "`Name: value`, framing left out"),
        }
    }
    reply
}

fn header(text: &str) -> Option<(HeaderName, HeaderValue)> {
    let (name, value) = text.split_once(':')?;
    let name = HeaderName::try_from(name.trim()).ok().filter(|n| n != CONTENT_LENGTH && n != TRANSFER_ENCODING)?;
    Some((name, HeaderValue::try_from(value.trim()).ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plugins::fixture::{bad, compile as build, good, pass, reply, route, shared};
    use crate::proxy::reply::Text;

    const QUICK: &str = "{minimum_requests: 4, failure_ratio: 0.5, window: 10, open_for: 5, half_open_probes: 2}";

    fn request(service: &str, at_s: u64) -> Exchange {
        let mut ex = Exchange::for_test("GET", "/", &[]);
        ex.route = Some(route("r", service));
        ex.started_ns = at_s * NANOS;
        ex
    }

    /// One request that goes to the upstream at `at_s` and ends so.
    fn ends(plugin: &Arc<dyn Plugin>, service: &str, at_s: u64, outcome: Outcome) {
        let mut ex = request(service, at_s);
        pass(plugin, &mut ex);
        plugin.on_outcome(&mut ex, outcome, at_s * NANOS);
    }

    fn opened(config: &str, outcome: Outcome) -> Arc<dyn Plugin> {
        let plugin = good(&KIND, config);
        (0..4).for_each(|_| ends(&plugin, "s", 100, outcome));
        plugin
    }

    #[test]
    fn failures_open_it_and_probes_close_it() {
        let plugin = opened(QUICK, Outcome::Status(StatusCode::BAD_GATEWAY));
        let refused = reply(&plugin, &mut request("s", 102));
        assert_eq!((refused.status.as_u16(), refused.retry_after_seconds()), (503, Some(3)));
        assert!(refused.headers.contains(&(STATE, HeaderValue::from_static("open"))));
        assert!(
            matches!(refused.text, Text::Templated(t) if t == "The upstream server is currently unavailable"),
            "Kong's templated form"
        );
        ends(&plugin, "s", 105, Outcome::Status(StatusCode::OK));
        ends(&plugin, "s", 105, Outcome::Status(StatusCode::OK));
        let mut ex = request("s", 106);
        pass(&plugin, &mut ex);
        assert!(!ex.circuit_probe);
    }

    #[test]
    fn a_failed_probe_opens_it_again_and_an_abandoned_one_makes_room() {
        let plugin = opened(QUICK, Outcome::TimedOut);
        ends(&plugin, "s", 105, Outcome::Abandoned);
        ends(&plugin, "s", 105, Outcome::Broken);
        assert_eq!(reply(&plugin, &mut request("s", 106)).retry_after_seconds(), Some(4));
    }

    #[test]
    fn only_failures_of_the_upstream_count() {
        for outcome in [Outcome::Abandoned, Outcome::Status(StatusCode::NOT_FOUND), Outcome::Status(StatusCode::OK)] {
            pass(&opened(QUICK, outcome), &mut request("s", 100));
        }
        let own = "{minimum_requests: 4, failure_statuses: [404]}";
        reply(&opened(own, Outcome::Status(StatusCode::NOT_FOUND)), &mut request("s", 100));
        pass(&opened(own, Outcome::Status(StatusCode::BAD_GATEWAY)), &mut request("s", 100));
    }

    #[test]
    fn late_failures_neither_open_it_longer_nor_spoil_a_probe() {
        let plugin = good(&KIND, QUICK);
        let mut late: Vec<Exchange> = (0..6).map(|_| request("s", 100)).collect();
        late.iter_mut().for_each(|ex| pass(&plugin, ex));
        late.iter_mut().take(4).for_each(|ex| plugin.on_outcome(ex, Outcome::Broken, 100 * NANOS));
        plugin.on_outcome(&mut late[4], Outcome::Broken, 104 * NANOS);
        ends(&plugin, "s", 105, Outcome::Status(StatusCode::OK));
        plugin.on_outcome(&mut late[5], Outcome::Broken, 105 * NANOS);
        ends(&plugin, "s", 105, Outcome::Status(StatusCode::OK));
        pass(&plugin, &mut request("s", 105));
    }

    #[test]
    fn services_fail_alone_and_share_what_routes_saw() {
        let plugin = opened(QUICK, Outcome::Broken);
        pass(&plugin, &mut request("another", 101));
        let mut other_route = request("s", 101);
        other_route.route = Some(route("r2", "s"));
        reply(&plugin, &mut other_route);
        pass(&plugin, &mut Exchange::for_test("GET", "/", &[]));
        let mut alone = request("", 101);
        pass(&plugin, &mut alone);
        (0..4).for_each(|_| ends(&plugin, "", 101, Outcome::Broken));
        reply(&plugin, &mut request("", 102));
    }

    #[test]
    fn the_state_outlives_a_reload() {
        let shared = shared();
        let (before, _) = build(&KIND, QUICK, false, &shared);
        let before = before.expect("compiles");
        (0..4).for_each(|_| ends(&before, "s", 100, Outcome::Broken));
        let (after, _) = build(&KIND, QUICK, false, &shared);
        reply(&after.expect("compiles"), &mut request("s", 101));
    }

    #[test]
    fn a_fallback_answers_in_its_place() {
        let config = "{minimum_requests: 4, fallback: {status: 200, headers: ['X-Fallback: yes'], body: '[]'}}";
        let refused = reply(&opened(config, Outcome::Broken), &mut request("s", 101));
        assert_eq!(refused.status, 200);
        assert!(refused.headers.contains(&(HeaderName::from_static("x-fallback"), HeaderValue::from_static("yes"))));
        assert!(matches!(refused.text, Text::Raw(b, Some(t)) if b == "[]" && t == "application/json; charset=utf-8"));
        let bare = "{minimum_requests: 4, fallback: {status: 429}}";
        let refused = reply(&opened(bare, Outcome::Broken), &mut request("s", 101));
        assert!(matches!(refused.text, Text::Templated(t) if t == "Too many requests"));
    }

    #[test]
    fn faults_are_told() {
        for (config, words) in [
            ("{failure_ratio: 1.5}", "a number from 0.001 to 1"),
            ("{window: 2h}", "from 100ms to 1h"),
            ("{open_for: 0}", "from 100ms to 1h"),
            ("{failure_statuses: [abc]}", "statuses from 100 to 599"),
            ("{fallback: {headers: ['no colon']}}", "`Name: value`"),
            ("{fallback: {headers: ['Content-Length: 1']}}", "framing left out"),
            ("{fallback: {code: 1}}", "unknown field `code`"),
        ] {
            let report = bad(&KIND, config);
            assert!(report.contains(words), "{config}: {report}");
        }
    }
}
