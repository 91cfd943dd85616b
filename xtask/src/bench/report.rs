//! What came of a scenario: the table of its servers, its bars, and the raw rounds as lines of JSON.

use std::fs::File;
use std::io::Write as _;
use std::process::Command;

use anyhow::{Context, Result};
use serde_json::json;

use super::peers::Stage;
use super::race::{Row, cpu_of};
use super::scenario::{Bar, Scenario};
use super::{idle, median};
use crate::shell;

/// Prints the medians of a scenario.
pub fn table(scenario: &Scenario, rows: &[Row]) {
    println!("\n{}: {}", scenario.name, scenario.title);
    println!(
        "{:<22} {:>16} {:>7} {:>11} {:>8} {:>8} {:>8}",
        "", "CPU-us a request", "/ best", "requests/s", "p50 ms", "p99 ms", "RSS MiB"
    );
    for (peer, reason) in scenario.absent() {
        println!("{} is not in it: {reason}", peer.name());
    }
    let mut labels: Vec<(&str, f64)> = Vec::new();
    for row in rows {
        if !labels.iter().any(|(label, _)| *label == row.label) {
            labels.extend(cpu_of(rows, &row.label).map(|cpu| (row.label.as_str(), cpu)));
        }
    }
    let best = labels.iter().map(|(_, cpu)| *cpu).fold(f64::INFINITY, f64::min);
    for (label, cpu) in labels {
        let middle =
            |value: &dyn Fn(&Row) -> f64| median(rows.iter().filter(|row| row.label == label).map(value).collect());
        println!(
            "{label:<22} {cpu:>16.2} {:>7.2} {:>11.0} {:>8.2} {:>8.2} {:>8.1}",
            cpu / best,
            middle(&|row| row.run.per_second),
            middle(&|row| row.run.p50_ms),
            middle(&|row| row.run.p99_ms),
            middle(&|row| row.resident_kib as f64 / 1024.0),
        );
    }
}

/// A bar in words, the ratio that was measured, and the ratio that it allows.
pub struct Verdict {
    pub bar: String,
    pub measured: f64,
    pub most: f64,
}

/// The bar against the cheapest that was there; nothing if none was.
pub fn verdict(scenario: &Scenario, bar: &Bar, rows: &[Row]) -> Option<Verdict> {
    let own = cpu_of(rows, bar.of)?;
    let than = bar.than.iter().filter_map(|label| Some((label, cpu_of(rows, label)?)));
    let (label, cheapest) = than.min_by(|a, b| a.1.total_cmp(&b.1))?;
    let bar_text = format!("{:<4} {} <= {:.2} x {label}", scenario.name, bar.of, bar.most);
    Some(Verdict { bar: bar_text, measured: own / cheapest, most: bar.most })
}

/// Prints the bars.
pub fn verdicts(verdicts: &[Verdict]) {
    println!("\n{:<58} {:>9}", "bar (CPU time a request)", "measured");
    for Verdict { bar, measured, most } in verdicts {
        let held = if measured <= most {
            "held".to_owned()
        } else {
            format!("missed by {:.0}%", (measured / most - 1.0) * 100.0)
        };
        println!("{bar:<58} {measured:>9.2} {held}");
    }
}

/// Where raw rounds go.
pub struct Raw {
    file: File,
    pub name: String,
    machine: serde_json::Value,
}

impl Raw {
    /// A new file under `bench/results`, named after `what` and the time.
    ///
    /// # Errors
    /// It cannot be made.
    pub fn create(what: &str) -> Result<Self> {
        let date = shell::output(Command::new("date").args(["-u", "+%Y-%m-%dT%H:%M:%SZ"])).unwrap_or_default();
        let kernel = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
        let processor = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        let processor = processor.lines().find_map(|line| line.strip_prefix("model name")).unwrap_or_default();
        let revision = shell::output(shell::program("git").args(["rev-parse", "--short", "HEAD"])).unwrap_or_default();
        let name = format!("bench/results/{what}-{}.jsonl", date.trim().replace([':', '-'], ""));
        let path = shell::root().join(&name);
        std::fs::create_dir_all(path.parent().context("a file stands in a folder")?)?;
        let machine = json!({
            "date": date.trim(),
            "revision": revision.trim(),
            "kernel": kernel.trim(),
            "processor": processor.trim_start_matches([' ', '\t', ':']),
        });
        Ok(Self { file: File::create(path)?, name, machine })
    }

    /// Adds the rounds of a scenario.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn add(&mut self, stage: &Stage<'_>, scenario: &Scenario, rows: &[Row]) -> Result<()> {
        for row in rows {
            let peer = scenario.entries.iter().find(|entry| entry.label == row.label).map(|entry| entry.peer);
            self.line(
                peer.map_or("", |peer| stage.version(peer)),
                json!({
                    "scenario": scenario.name,
                    "proxy": row.label,
                    "requests": row.run.requests,
                    "seconds": row.run.seconds,
                    "cpu_us_a_request": row.cpu_us,
                    "requests_per_second": row.run.per_second,
                    "p50_ms": row.run.p50_ms,
                    "p99_ms": row.run.p99_ms,
                    "rss_kib": row.resident_kib,
                }),
            )?;
        }
        Ok(())
    }

    /// Adds what idle connections cost.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn add_idle(&mut self, stage: &Stage<'_>, cost: &idle::Cost) -> Result<()> {
        let fields = json!({"scenario": "S9", "proxy": cost.peer.name(), "connections": cost.connections, "kib_a_connection": cost.kib});
        self.line(stage.version(cost.peer), fields)
    }

    /// Adds a line about one `version` of a proxy.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn line(&mut self, version: &str, fields: serde_json::Value) -> Result<()> {
        let mut line = self.machine.clone();
        if let (Some(line), serde_json::Value::Object(fields)) = (line.as_object_mut(), fields) {
            line.insert("version".to_owned(), version.into());
            line.extend(fields);
        }
        Ok(writeln!(self.file, "{line}")?)
    }
}
