//! The bars of shared limits: four gateways on one Redis, an uneven load for a minute each. Granted beside the limit,
//! calls to Redis a gateway, and the same while Redis is away. Run by `cargo xtask bench limits`.
#![allow(clippy::print_stdout)] // The figures are its purpose.

use std::thread;
use std::time::Duration;

use anyhow::{Result, ensure};
use gateway_tests::deadline::{fresh_minute, unix_seconds};
use gateway_tests::fleet::{SKEW, Tally, calls, gateways, load};
use gateway_tests::{Gateway, Redis};

const SECONDS: u64 = 60;
const NODES: usize = 4;

fn main() -> Result<()> {
    println!("load: {SKEW:?} requests a second on {NODES} gateways, {SECONDS} s each row\n");
    let good = [minute(), seconds(), outage()];
    ensure!(good.iter().all(|good| *good), "a bar was missed");
    Ok(())
}

/// A limit a minute that is used up after 35 of 60 seconds.
fn minute() -> bool {
    let (redis, limit) = (Redis::start(), 56_000);
    let fleet = gateways(&redis, &format!("minute: {limit}, lease: {{}}"), NODES);
    fresh_minute(59);
    let tallies = load(&fleet, &SKEW, SECONDS - 2, || {});
    let granted: u64 = tallies.iter().map(Tally::all).sum();
    let ratio = granted as f64 / limit as f64;
    told("a minute", ratio, &tallies, &fleet) && (0.95..=1.05).contains(&ratio)
}

/// A limit a second, half of what comes.
fn seconds() -> bool {
    let (redis, limit) = (Redis::start(), 800);
    let fleet = gateways(&redis, &format!("second: {limit}, lease: {{ from: 100 }}"), NODES);
    let tallies = load(&fleet, &SKEW, SECONDS, || {});
    let (first, last) = ends(&tallies);
    let granted: u64 = tallies.iter().map(|tally| tally.granted_in(first + 1..last)).sum();
    let ratio = granted as f64 / (limit * (last - first - 1)) as f64;
    told("each second", ratio, &tallies, &fleet) && (0.95..=1.05).contains(&ratio)
}

/// The same with Redis killed after a third and started again, empty, after two.
fn outage() -> bool {
    let (mut redis, limit) = (Redis::start(), 800);
    let fleet = gateways(&redis, &format!("second: {limit}, lease: {{ from: 100 }}"), NODES);
    let third = Duration::from_secs(SECONDS / 3);
    let mut marks = Vec::new();
    let tallies = load(&fleet, &SKEW, SECONDS, || {
        thread::sleep(third);
        redis.kill();
        marks.push(unix_seconds());
        thread::sleep(third);
        redis.restart();
        marks.push(unix_seconds());
    });
    let (first, last) = ends(&tallies);
    let ratio = |from: u64, to: u64| {
        let granted: u64 = tallies.iter().map(|tally| tally.granted_in(from..to)).sum();
        granted as f64 / (limit * (to - from)) as f64
    };
    let (before, away, after) = (ratio(first + 1, marks[0]), ratio(marks[0], marks[1]), ratio(marks[1] + 2, last));
    let each = (marks[0]..marks[1]).map(|second| ratio(second, second + 1));
    let (least, most) = each.fold((f64::INFINITY, 0.0_f64), |(least, most), one| (least.min(one), most.max(one)));
    let good = told("Redis away", away, &tallies, &fleet);
    println!(
        "  before {before:.3}, away {away:.3} (seconds from {least:.3} to {most:.3}), after its return {after:.3}"
    );
    good && (0.5..=1.25).contains(&away) && (0.95..=1.05).contains(&after)
}

/// The first and the last second in which something was granted.
fn ends(tallies: &[Tally]) -> (u64, u64) {
    let seconds = || tallies.iter().flat_map(|tally| tally.granted.keys().copied());
    (seconds().min().unwrap_or(0), seconds().max().unwrap_or(0))
}

/// Prints a row; whether every request was answered by the limit, and no gateway asked Redis more often than once in
/// 100 ms.
fn told(what: &str, ratio: f64, tallies: &[Tally], fleet: &[Gateway]) -> bool {
    let asked: u64 = tallies.iter().map(|tally| tally.all() + tally.refused + tally.other).sum();
    let other: u64 = tallies.iter().map(|tally| tally.other).sum();
    let slowest = tallies.iter().map(|tally| tally.slowest).max().unwrap_or_default();
    let calls: Vec<f64> = fleet.iter().map(|gateway| calls(gateway) as f64 / (SECONDS * 10) as f64).collect();
    let shown: Vec<String> = calls.iter().map(|calls| format!("{calls:.2}")).collect();
    println!(
        "{what}: granted/limit {ratio:.3}, {asked} asked, {other} neither 200 nor 429, slowest answer {} ms, \
         calls a gateway and 100 ms {}",
        slowest.as_millis(),
        shown.join(" ")
    );
    other == 0 && calls.iter().all(|calls| *calls <= 1.0)
}
