//! Servers beside each other: all of a scenario are up at once, and rounds are interleaved, so that a noisy minute hits
//! each of them.

use anyhow::{Result, ensure};

use super::duty::Policy;
use super::load::{Load, Run};
use super::median;
use super::peers::Stage;
use super::scenario::{Entry, Scenario};
use super::server::Server;

/// One round of one server.
pub struct Row {
    pub label: String,
    pub cpu_us: f64,
    pub run: Run,
    pub resident_kib: u64,
}

/// How long and how often.
#[derive(Clone, Copy)]
pub struct Length {
    pub rounds: u32,
    pub seconds: u64,
}

/// Runs a scenario.
///
/// # Errors
/// A server did not start, or did not do its duty.
pub fn run(stage: &Stage<'_>, scenario: &Scenario, length: Length, load_core: usize) -> Result<Vec<Row>> {
    let entries: Vec<&Entry> = scenario.entries.iter().filter(|entry| stage.has(entry.peer)).collect();
    let servers: Vec<Server> =
        entries.iter().map(|entry| stage.start(entry.peer, entry.duty)).collect::<Result<_>>()?;
    let bearer = format!("Authorization: Bearer {}", stage.keys.token);
    let load = |entry: &Entry| Load {
        clients: scenario.clients,
        tls: entry.duty.tls,
        path: scenario.path,
        header: matches!(entry.duty.policy, Policy::Jwt | Policy::Everything).then_some(bearer.as_str()),
        core: load_core,
    };
    for (entry, server) in entries.iter().zip(&servers) {
        load(entry).run(server.address, 1)?;
    }
    let mut rows = Vec::new();
    for round in 1..=length.rounds {
        for (entry, server) in entries.iter().zip(&servers) {
            let before = server.cpu_time()?;
            let run = load(entry).run(server.address, length.seconds)?;
            let spent = server.cpu_time()?.saturating_sub(before);
            check(entry, &run)?;
            let cpu_us = spent.as_secs_f64() * 1e6 / run.requests as f64;
            eprintln!(
                "{} round {round}: {:<22} {cpu_us:8.2} CPU-us a request, {:>9.0} requests/s",
                scenario.name, entry.label, run.per_second
            );
            rows.push(Row { label: entry.label.clone(), cpu_us, run, resident_kib: server.resident_kib() });
        }
    }
    Ok(rows)
}

/// A server that fails fast is not a fast one.
fn check(entry: &Entry, run: &Run) -> Result<()> {
    let Run { requests, refused, errors, .. } = run;
    let wrong = if entry.duty.policy == Policy::LimitAlwaysHit { requests.abs_diff(*refused) } else { *refused };
    ensure!(
        *requests > 0 && wrong + errors <= requests / 1000,
        "{}: {requests} requests, {refused} refused, {errors} errors",
        entry.label
    );
    Ok(())
}

/// Median CPU time a request of one label.
pub fn cpu_of(rows: &[Row], label: &str) -> Option<f64> {
    let values: Vec<f64> = rows.iter().filter(|row| row.label == label).map(|row| row.cpu_us).collect();
    (!values.is_empty()).then(|| median(values))
}
