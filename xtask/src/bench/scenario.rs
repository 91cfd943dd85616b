//! The scenarios: what is asked, who takes part with which duty, and the bars.

use super::duty::{Duty, Policy};
use super::load::Clients;
use super::peers::Peer;

/// One row of bars, with its entries.
pub struct Scenario {
    pub name: &'static str,
    pub title: &'static str,
    pub clients: Clients,
    pub path: &'static str,
    pub entries: Vec<Entry>,
    pub bars: Vec<Bar>,
}

impl Scenario {
    /// Who cannot do the duty of a scenario in which peers take part, and why.
    pub fn absent(&self) -> impl Iterator<Item = (Peer, &'static str)> {
        let duty = self.entries.first().map(|entry| entry.duty);
        let compares = self.entries.iter().any(|entry| entry.peer != Peer::Gateway);
        let reason = move |peer: Peer| Some((peer, peer.lacks(duty.filter(|_| compares)?)?));
        Peer::ALL.into_iter().filter_map(reason)
    }
}

/// A server that takes part.
#[derive(Clone)]
pub struct Entry {
    pub label: String,
    pub peer: Peer,
    pub duty: Duty,
}

/// `of` costs at most `most` times the cheapest of `than`.
pub struct Bar {
    pub of: &'static str,
    pub most: f64,
    pub than: &'static [&'static str],
}

const BEST: &[&str] = &["nginx", "haproxy", "envoy", "caddy", "pingora"];
const BEST_OF_C: &[&str] = &["nginx", "haproxy"];

/// Everybody who can do `duty`.
fn all(duty: Duty) -> Vec<Entry> {
    Peer::ALL.into_iter().filter(|peer| peer.lacks(duty).is_none()).map(|peer| entry(peer.name(), peer, duty)).collect()
}

fn entry(label: &str, peer: Peer, duty: Duty) -> Entry {
    Entry { label: label.to_owned(), peer, duty }
}

const fn bar(of: &'static str, most: f64, than: &'static [&'static str]) -> Bar {
    Bar { of, most, than }
}

/// All that are measured in CPU time a request.
pub fn all_scenarios() -> Vec<Scenario> {
    let scenario = |name, title, clients, path, entries, bars| Scenario { name, title, clients, path, entries, bars };
    let plain = Duty::PLAIN;
    let limited = |suffix: &'static str, policy| {
        all(plain.policy(policy))
            .into_iter()
            .map(move |entry| Entry { label: format!("{}{suffix}", entry.label), ..entry })
    };
    let limits = limited("", Policy::LimitNeverHit).chain(limited(" refusing", Policy::LimitAlwaysHit)).collect();
    let routes = vec![
        entry("gateway", Peer::Gateway, plain.routes(10)),
        entry("gateway 10,000 routes", Peer::Gateway, plain.routes(10_000)),
    ];
    // Throughput of two workers wants more cores than the load leaves; what they cost each other shows here.
    let workers =
        vec![entry("gateway", Peer::Gateway, plain), entry("gateway two workers", Peer::Gateway, plain.workers(2))];
    let stack = vec![
        entry("gateway", Peer::Gateway, plain.tls()),
        entry("gateway everything", Peer::Gateway, plain.tls().policy(Policy::Everything)),
    ];
    vec![
        scenario(
            "S1",
            "HTTP/1.1 keep-alive, tiny body",
            Clients::Kept,
            "/api/x",
            all(plain),
            vec![bar("gateway", 0.95, BEST_OF_C), bar("gateway", 0.4, &["envoy"])],
        ),
        scenario(
            "S1w",
            "one worker on a core of its own, two on both cores",
            Clients::Kept,
            "/api/x",
            workers,
            vec![bar("gateway two workers", 1.1, &["gateway"])],
        ),
        scenario(
            "S2",
            "the same over TLS 1.3",
            Clients::Kept,
            "/api/x",
            all(plain.tls()),
            vec![bar("gateway", 1.0, BEST)],
        ),
        scenario(
            "S3",
            "HTTP/2 clients, HTTP/1.1 upstream",
            Clients::Http2,
            "/api/x",
            all(plain.http2()),
            vec![bar("gateway", 0.9, BEST)],
        ),
        scenario("S4a", "bodies of 100 kB", Clients::Kept, "/api/100k", all(plain), vec![bar("gateway", 1.1, BEST)]),
        scenario("S4b", "bodies of 1 MB", Clients::Kept, "/api/1m", all(plain), vec![bar("gateway", 1.1, BEST)]),
        scenario(
            "S5a",
            "a new connection for each request",
            Clients::New,
            "/api/x",
            all(plain),
            vec![bar("gateway", 1.0, BEST)],
        ),
        scenario(
            "S5b",
            "a full TLS 1.3 handshake for each request",
            Clients::New,
            "/api/x",
            all(plain.tls()),
            vec![bar("gateway", 1.0, BEST)],
        ),
        scenario(
            "S6",
            "a limit never hit; everything refused",
            Clients::Kept,
            "/api/x",
            limits,
            vec![
                bar("gateway", 1.0, BEST),
                bar("gateway refusing", 1.0, &["nginx refusing", "haproxy refusing", "envoy refusing"]),
                bar("gateway refusing", 0.6, &["gateway"]),
            ],
        ),
        scenario(
            "S7",
            "the same RS256 token verified each time",
            Clients::Kept,
            "/api/x",
            all(plain.policy(Policy::Jwt)),
            vec![bar("gateway", 0.5, BEST)],
        ),
        scenario(
            "S8",
            "10,000 routes against 10",
            Clients::Kept,
            "/api/x",
            routes,
            vec![bar("gateway 10,000 routes", 1.1, &["gateway"])],
        ),
        scenario(
            "S10",
            "TLS, jwt, acl, rate-limiting, transformer, JSON log, metrics",
            Clients::Kept,
            "/api/x",
            stack,
            vec![bar("gateway everything", 1.5, &["gateway"])],
        ),
    ]
}
