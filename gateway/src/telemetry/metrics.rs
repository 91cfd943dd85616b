//! Metrics: each worker counts for itself without atomics (`Local`); the control plane adds those up (`Registry`) and
//! writes Prometheus' text format. Kong's families appear when its prometheus plugin asks for them.

use std::collections::{BTreeMap, HashMap};
use std::fmt::Write;
use std::sync::Mutex;

use super::record::Record;
use crate::plugins::MetricFlags;

/// What is counted of one request.
pub struct Sample<'a> {
    service: &'a str,
    route: &'a str,
    consumer: &'a str,
    index: u32,
    status: u16,
    from_upstream: bool,
    reason: Option<&'static str>,
    flags: Option<MetricFlags>,
    total_ns: u64,
    upstream_ns: Option<u64>,
    bytes_in: u64,
    bytes_out: u64,
}

impl<'a> Sample<'a> {
    /// The sample of a record.
    #[must_use]
    pub fn of(record: &'a Record<'_>, flags: Option<MetricFlags>) -> Self {
        let route = record.exchange.route.as_deref();
        let service = route.and_then(|r| r.service.as_deref());
        let named = |name: &'a str, id: &'a str| if name.is_empty() { id } else { name };
        let per_consumer = flags.is_some_and(|f| f.per_consumer);
        let consumer = record.consumer.filter(|_| per_consumer);
        Sample {
            service: service.map_or("", |s| named(&s.name, &s.id)),
            route: route.map_or("", |r| named(&r.name, &r.id)),
            consumer: consumer.map_or("", |c| c.username.as_deref().unwrap_or(&c.id)),
            index: route.map_or(u32::MAX, |r| r.index),
            status: record.status,
            from_upstream: record.upstream_status.is_some(),
            reason: record.reason,
            flags,
            total_ns: record.total_ns,
            upstream_ns: record.upstream_ns,
            bytes_in: record.request_bytes,
            bytes_out: record.response_bytes,
        }
    }
}

/// Upper bounds in milliseconds, as Kong's.
const KONG_MS: [u64; 17] = [1, 2, 5, 7, 10, 15, 20, 30, 50, 75, 100, 200, 500, 750, 1000, 3000, 6000];
const REQUEST_MS: [u64; 13] = [25, 50, 80, 100, 250, 400, 700, 1000, 2000, 5000, 10_000, 30_000, 60_000];

#[derive(Clone, Default)]
struct Histogram<const N: usize> {
    buckets: Vec<u64>,
    count: u64,
    sum_ms: f64,
}

impl<const N: usize> Histogram<N> {
    fn observe(&mut self, bounds: &[u64; N], ns: u64) {
        self.buckets.resize(N, 0);
        let ms = ns as f64 / 1e6;
        if let Some(i) = bounds.iter().position(|b| ms <= *b as f64) {
            self.buckets[i] += 1;
        }
        self.count += 1;
        self.sum_ms += ms;
    }

    fn add(&mut self, other: &Self) {
        self.buckets.resize(N, 0);
        for (to, from) in self.buckets.iter_mut().zip(&other.buckets) {
            *to += from;
        }
        self.count += other.count;
        self.sum_ms += other.sum_ms;
    }
}

#[derive(Clone, Default)]
struct Series {
    service: String,
    route: String,
    consumer: String,
    requests: u64,
    flags: MetricFlags,
    bytes_in: u64,
    bytes_out: u64,
}

#[derive(Clone, Default)]
struct Latencies {
    service: String,
    route: String,
    gateway: Histogram<17>,
    upstream: Histogram<13>,
    total: Histogram<13>,
}

/// What one worker counted since it was last asked.
#[derive(Default)]
pub struct Local {
    series: HashMap<(u32, u16, bool, String), Series>,
    latencies: HashMap<u32, Latencies>,
    reasons: HashMap<&'static str, u64>,
    classes: [u64; 6],
    /// Connections that were not served, by reason.
    pub refused: HashMap<&'static str, u64>,
    /// Connections that ended before their time, by reason.
    pub ended: HashMap<&'static str, u64>,
    /// Client connections open now.
    pub connections: u64,
    /// Client connections accepted.
    pub accepted: u64,
    /// Upstream connections idle now.
    pub idle_upstream: u64,
}

impl Local {
    /// Counts an answer to what was no request.
    pub fn count_unparsed(&mut self, status: u16, reason: &'static str) {
        self.classes[usize::from(status / 100).min(5)] += 1;
        *self.reasons.entry(reason).or_insert(0) += 1;
    }

    /// Counts a request.
    pub fn count(&mut self, s: &Sample<'_>) {
        self.classes[usize::from(s.status / 100).min(5)] += 1;
        if let Some(reason) = s.reason {
            *self.reasons.entry(reason).or_insert(0) += 1;
        }
        let Some(flags) = s.flags else { return };
        let key = (s.index, s.status, s.from_upstream, s.consumer.to_owned());
        let series = self.series.entry(key).or_insert_with(|| Series {
            service: s.service.to_owned(),
            route: s.route.to_owned(),
            consumer: s.consumer.to_owned(),
            flags,
            ..Series::default()
        });
        series.requests += 1;
        series.bytes_in += s.bytes_in;
        series.bytes_out += s.bytes_out;
        if flags.latency {
            let latencies = self.latencies.entry(s.index).or_insert_with(|| Latencies {
                service: s.service.to_owned(),
                route: s.route.to_owned(),
                ..Latencies::default()
            });
            latencies.total.observe(&REQUEST_MS, s.total_ns);
            if let Some(ns) = s.upstream_ns {
                latencies.upstream.observe(&REQUEST_MS, ns);
            }
            latencies.gateway.observe(&KONG_MS, s.total_ns.saturating_sub(s.upstream_ns.unwrap_or(0)));
        }
    }
}

#[derive(Default)]
struct Totals {
    requests: BTreeMap<String, u64>,
    bandwidth: BTreeMap<String, u64>,
    latencies: BTreeMap<String, Latencies>,
    reasons: BTreeMap<&'static str, u64>,
    refused: BTreeMap<&'static str, u64>,
    ended: BTreeMap<&'static str, u64>,
    classes: [u64; 6],
    accepted: u64,
    gauges: HashMap<usize, (u64, u64)>,
}

/// The sums over all workers. Only the control plane locks it.
#[derive(Default)]
pub struct Registry(Mutex<Totals>);

impl Registry {
    /// Adds what worker `id` counted.
    pub fn absorb(&self, id: usize, local: Local) {
        let Ok(mut totals) = self.0.lock() else { return };
        for ((_, status, from_upstream, _), s) in local.series {
            let labels = format!("service=\"{}\",route=\"{}\"", escape(&s.service), escape(&s.route));
            let consumer =
                if s.flags.per_consumer { format!(",consumer=\"{}\"", escape(&s.consumer)) } else { String::new() };
            if s.flags.status_codes {
                let source = if from_upstream { "service" } else { "kong" };
                let key = format!("{labels},code=\"{status}\",source=\"{source}\",workspace=\"default\"{consumer}");
                *totals.requests.entry(key).or_insert(0) += s.requests;
            }
            if s.flags.bandwidth {
                for (direction, bytes) in [("ingress", s.bytes_in), ("egress", s.bytes_out)] {
                    let key = format!("{labels},direction=\"{direction}\",workspace=\"default\"{consumer}");
                    *totals.bandwidth.entry(key).or_insert(0) += bytes;
                }
            }
        }
        for l in local.latencies.into_values() {
            let key =
                format!("service=\"{}\",route=\"{}\",workspace=\"default\"", escape(&l.service), escape(&l.route));
            let sum = totals.latencies.entry(key).or_default();
            sum.gateway.add(&l.gateway);
            sum.upstream.add(&l.upstream);
            sum.total.add(&l.total);
        }
        add(&mut totals.reasons, local.reasons);
        add(&mut totals.refused, local.refused);
        add(&mut totals.ended, local.ended);
        for (to, from) in totals.classes.iter_mut().zip(local.classes) {
            *to += from;
        }
        totals.accepted += local.accepted;
        totals.gauges.insert(id, (local.connections, local.idle_upstream));
    }

    /// Requests finished so far.
    #[must_use]
    pub fn requests(&self) -> u64 {
        self.0.lock().map_or(0, |t| t.classes.iter().sum())
    }

    /// Client connections open now.
    #[must_use]
    pub fn connections(&self) -> u64 {
        self.0.lock().map_or(0, |t| t.gauges.values().map(|g| g.0).sum())
    }

    /// Prometheus' text format. `node` is the id that Kong's families carry; without it they are left out.
    #[must_use]
    pub fn render(&self, node: Option<&str>) -> String {
        let mut out = String::new();
        let Ok(t) = self.0.lock() else { return out };
        head(&mut out, "gateway_requests_total", "counter", "Finished requests by class of status.");
        for (class, count) in t.classes.iter().enumerate().skip(1) {
            let _ = writeln!(out, "gateway_requests_total{{class=\"{class}xx\"}} {count}");
        }
        for (name, help, counts) in [
            ("gateway_own_answers_total", "Answers of the gateway itself by reason.", &t.reasons),
            ("gateway_connections_refused_total", "Client connections not served, by reason.", &t.refused),
            ("gateway_connections_ended_total", "Client connections ended before their time, by reason.", &t.ended),
        ] {
            head(&mut out, name, "counter", help);
            for (reason, count) in counts {
                let _ = writeln!(out, "{name}{{reason=\"{reason}\"}} {count}");
            }
        }
        head(&mut out, "gateway_connections_accepted_total", "counter", "Client connections accepted.");
        let _ = writeln!(out, "gateway_connections_accepted_total {}", t.accepted);
        head(&mut out, "gateway_connections", "gauge", "Client connections open now.");
        let _ = writeln!(out, "gateway_connections {}", t.gauges.values().map(|g| g.0).sum::<u64>());
        head(&mut out, "gateway_upstream_connections_idle", "gauge", "Upstream connections idle now.");
        let _ = writeln!(out, "gateway_upstream_connections_idle {}", t.gauges.values().map(|g| g.1).sum::<u64>());
        if let Some(node) = node {
            kong_node(&mut out, node, &t);
        }
        counters(&mut out, "kong_http_requests_total", "HTTP status codes per consumer/service/route", &t.requests);
        counters(
            &mut out,
            "kong_bandwidth_bytes",
            "Total bandwidth (ingress/egress) throughput in bytes",
            &t.bandwidth,
        );
        if !t.latencies.is_empty() {
            histograms(&mut out, "kong_kong_latency_ms", &KONG_MS, &t.latencies, |l| &l.gateway);
            histograms(&mut out, "kong_upstream_latency_ms", &REQUEST_MS, &t.latencies, |l| &l.upstream);
            histograms(&mut out, "kong_request_latency_ms", &REQUEST_MS, &t.latencies, |l| &l.total);
        }
        out
    }
}

fn add(to: &mut BTreeMap<&'static str, u64>, from: HashMap<&'static str, u64>) {
    for (reason, count) in from {
        *to.entry(reason).or_insert(0) += count;
    }
}

/// What Kong tells of the process itself; nginx's names stay, since dashboards ask for them.
fn kong_node(out: &mut String, node: &str, t: &Totals) {
    head(out, "kong_node_info", "gauge", "Kong Node metadata information");
    let _ = writeln!(out, "kong_node_info{{node_id=\"{node}\",version=\"{}\"}} 1", env!("CARGO_PKG_VERSION"));
    head(out, "kong_datastore_reachable", "gauge", "Datastore reachable from Kong, 0 is unreachable");
    let _ = writeln!(out, "kong_datastore_reachable 1");
    head(out, "kong_nginx_requests_total", "gauge", "Number of requests total");
    let requests: u64 = t.classes.iter().sum();
    let _ = writeln!(out, "kong_nginx_requests_total{{node_id=\"{node}\",subsystem=\"http\"}} {requests}");
    head(out, "kong_nginx_connections_total", "gauge", "Number of connections by subsystem");
    let active: u64 = t.gauges.values().map(|g| g.0).sum();
    for (state, count) in [("accepted", t.accepted), ("active", active), ("handled", t.accepted), ("total", requests)] {
        let _ = writeln!(
            out,
            "kong_nginx_connections_total{{node_id=\"{node}\",subsystem=\"http\",state=\"{state}\"}} {count}"
        );
    }
}

/// Writes the two comment lines of a family.
pub fn head(out: &mut String, name: &str, kind: &str, help: &str) {
    let _ = writeln!(out, "# HELP {name} {help}\n# TYPE {name} {kind}");
}

fn counters(out: &mut String, name: &str, help: &str, series: &BTreeMap<String, u64>) {
    if series.is_empty() {
        return;
    }
    head(out, name, "counter", help);
    for (labels, value) in series {
        let _ = writeln!(out, "{name}{{{labels}}} {value}");
    }
}

fn histograms<const N: usize>(
    out: &mut String,
    name: &str,
    bounds: &[u64; N],
    series: &BTreeMap<String, Latencies>,
    of: impl Fn(&Latencies) -> &Histogram<N>,
) {
    head(out, name, "histogram", "Latency in milliseconds");
    for (labels, latencies) in series {
        let h = of(latencies);
        let mut below = 0;
        for (bound, count) in bounds.iter().zip(&h.buckets) {
            below += count;
            let _ = writeln!(out, "{name}_bucket{{{labels},le=\"{bound}\"}} {below}");
        }
        let _ = writeln!(out, "{name}_bucket{{{labels},le=\"+Inf\"}} {}", h.count);
        let _ = writeln!(out, "{name}_count{{{labels}}} {}\n{name}_sum{{{labels}}} {}", h.count, h.sum_ms);
    }
}

/// Escapes a label's value.
#[must_use]
pub fn escape(text: &str) -> String {
    text.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}
