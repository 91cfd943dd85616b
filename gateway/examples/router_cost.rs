//! What a look-up in the table of routes costs, for a table of 10 routes and one of 10,000, in nanoseconds: printed as one
//! line of JSON. Run by `cargo xtask bench load`.
#![allow(clippy::print_stdout)] // The line is its purpose.

use std::hint::black_box;
use std::time::Instant;

use gateway::router::pattern::HostPattern;
use gateway::router::{Facts, Matchers, Router};
use http::{HeaderMap, Method};

const LOOKUPS: usize = 200_000;
const ROUNDS: usize = 5;

fn main() {
    let [few, many] = [10, 10_000].map(cost_ns);
    println!("{{\"ns_at_10\":{few:.1},\"ns_at_10000\":{many:.1},\"ratio\":{:.2}}}", many / few);
}

/// A hundred hosts at most, every route with a path of its own below one of them.
fn table(routes: usize) -> Router {
    let route = |n: usize| Matchers {
        hosts: vec![HostPattern::parse(&host(n)).expect("a host name")],
        prefixes: vec![format!("/v1/path/{n}/")],
        uuid: n as u128,
        ..Matchers::default()
    };
    Router::new((0..routes).map(route).collect())
}

fn host(n: usize) -> String {
    format!("h{}.test", n % 100)
}

/// The least of several rounds: what disturbs only adds.
fn cost_ns(routes: usize) -> f64 {
    let router = table(routes);
    let asked: Vec<(String, String)> =
        (0..1024).map(|i| i * 7919 % routes).map(|n| (host(n), format!("/v1/path/{n}/x"))).collect();
    let headers = HeaderMap::new();
    let round = || {
        let begun = Instant::now();
        for (host, path) in asked.iter().cycle().take(LOOKUPS) {
            let facts = Facts { method: &Method::GET, host, port: 80, path, headers: &headers, sni: None };
            assert!(black_box(router.find(black_box(&facts))).is_some());
        }
        begun.elapsed().as_nanos() as f64 / LOOKUPS as f64
    };
    (0..ROUNDS).map(|_| round()).fold(f64::INFINITY, f64::min)
}
