//! `gateway edge top`: what the kernel side does, again and again. It draws what the admin API says and knows no more.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::{IsTerminal, Write, stdout};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use clap::Args;
use serde_json::Value;

use super::admin::Admin;

/// Rows of each table.
const ROWS_MAX: usize = 10;
const WIDTH_MAX: usize = 110;

/// Shows rates by reason, sources, verdicts and decisions; without a terminal, once.
#[derive(Debug, Args)]
pub struct Top {
    #[command(flatten)]
    admin: Admin,
    /// Seconds between two looks.
    #[arg(long, default_value_t = 1.0, value_parser = interval)]
    interval: f64,
    /// Look so often, then end.
    #[arg(long)]
    count: Option<u32>,
}

fn interval(text: &str) -> Result<f64, String> {
    let seconds: f64 = text.parse().map_err(|_| "is no number".to_owned())?;
    if (0.1..=3_600.0).contains(&seconds) { Ok(seconds) } else { Err("0.1 to 3600 seconds".to_owned()) }
}

/// What was seen at one time.
struct Shot {
    at: Instant,
    edge: Value,
}

impl Top {
    /// Ends with the signal that ends it, or after `--count` looks.
    ///
    /// # Errors
    /// When the gateway cannot be asked.
    pub fn run(&self) -> anyhow::Result<ExitCode> {
        let is_terminal = stdout().is_terminal();
        let looks = self.count.or((!is_terminal).then_some(1));
        let mut before = self.look()?;
        let mut seen = 0;
        while looks.is_none_or(|looks| seen < looks) {
            std::thread::sleep(Duration::from_secs_f64(self.interval));
            let now = self.look()?;
            let seconds = now.at.duration_since(before.at).as_secs_f64();
            let page = page(&before.edge, &now.edge, seconds);
            let mut out = stdout().lock();
            // Home, the page, and clear what an earlier one left below.
            let written = if is_terminal { write!(out, "\x1b[H\x1b[2J{page}") } else { write!(out, "{page}") };
            if written.and_then(|()| out.flush()).is_err() {
                // Nobody looks any more.
                break;
            }
            before = now;
            seen += 1;
        }
        Ok(ExitCode::SUCCESS)
    }

    fn look(&self) -> anyhow::Result<Shot> {
        Ok(Shot { edge: self.admin.get("/edge")?, at: Instant::now() })
    }
}

/// One page; `seconds` lie between the two looks.
fn page(before: &Value, now: &Value, seconds: f64) -> String {
    let mut page = String::new();
    head(&mut page, now);
    reasons(&mut page, before, now, seconds);
    sources(&mut page, before, now);
    verdicts(&mut page, now);
    decisions(&mut page, now);
    let cut = |line: &str| plain(line).chars().take(WIDTH_MAX).collect::<String>();
    page.lines().map(|line| format!("{}\n", cut(line).trim_end())).collect()
}

/// A name may hold anything; a terminal must not obey it.
fn plain(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect()
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or("-")
}

fn items(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

fn head(page: &mut String, now: &Value) {
    let mode = &now["mode"];
    let hook = |one: &Value| format!("{} ({})", text(&one["name"]), text(&one["mode"]));
    let attached: Vec<String> = items(&now["interfaces"]["attached"]).iter().map(hook).collect();
    let attached = if attached.is_empty() { "none".to_owned() } else { attached.join(", ") };
    let (wanted, in_force) = (text(&mode["wanted"]), text(&mode["in_force"]));
    let killed = if mode["kill_switch"] == true { "   KILL SWITCH: everything passes" } else { "" };
    let _ = writeln!(
        page,
        "edge: {wanted}, in force: {in_force}   interfaces: {attached}   pinned: {}{killed}",
        text(&now["pins"]["in_force"])
    );
    for why in items(&mode["why"]) {
        let _ = writeln!(page, "! {}: {} → {}", text(&why["problem"]), text(&why["detail"]), text(&why["remedy"]));
    }
}

/// Counters by reason, the liveliest first.
fn reasons(page: &mut String, before: &Value, now: &Value, seconds: f64) {
    let empty = serde_json::Map::new();
    let counters = now["packets"].as_object().unwrap_or(&empty);
    let number = |of: &Value, word: &str, unit: &str| of["packets"][word][unit].as_u64().unwrap_or(0);
    let rate = |word: &str, unit: &str| {
        number(now, word, unit).saturating_sub(number(before, word, unit)) as f64 / seconds.max(0.001)
    };
    let mut rows: Vec<(&String, f64, f64, u64)> = counters
        .keys()
        .map(|word| (word, rate(word, "packets"), rate(word, "bytes"), number(now, word, "packets")))
        .collect();
    rows.sort_by(|a, b| b.1.total_cmp(&a.1).then(b.3.cmp(&a.3)));
    let _ = writeln!(page, "\n{:<24}{:>14}{:>16}{:>16}", "REASON", "PACKETS/S", "BYTES/S", "PACKETS");
    for (word, packets, bytes, total) in rows.into_iter().take(ROWS_MAX) {
        let _ = writeln!(page, "{word:<24}{packets:>14.0}{bytes:>16.0}{total:>16}");
    }
}

/// Sources in the samples that came since the last look.
fn sources(page: &mut String, before: &Value, now: &Value) {
    let seen = items(&before["events"]);
    let mut counts: BTreeMap<(&str, &str), u32> = BTreeMap::new();
    for event in items(&now["events"]).iter().take_while(|event| seen.first() != Some(event)) {
        *counts.entry((text(&event["source"]), text(&event["reason"]))).or_default() += 1;
    }
    let mut rows: Vec<_> = counts.into_iter().collect();
    rows.sort_by_key(|(_, count)| std::cmp::Reverse(*count));
    let _ = writeln!(page, "\n{:<44}{:<24}{:>10}", "SOURCE OF DROPS", "REASON", "SAMPLES");
    for ((source, reason), count) in rows.into_iter().take(ROWS_MAX) {
        let _ = writeln!(page, "{source:<44}{reason:<24}{count:>10}");
    }
}

fn verdicts(page: &mut String, now: &Value) {
    let verdicts = &now["verdicts"];
    let (desired, in_kernel, max) = (&verdicts["desired"], &verdicts["in_kernel"], &verdicts["max"]);
    let _ = writeln!(page, "\n{:<44}{:>6}{:>10}{:>12}", "VERDICT ON", "RUNG", "SECONDS", "DECISION");
    for verdict in items(&verdicts["shown_desired"]).iter().take(ROWS_MAX) {
        let (rung, seconds, decision) = (&verdict["rung"], &verdict["expires_in_seconds"], &verdict["decision"]);
        let _ = writeln!(
            page,
            "{:<44}{:>6}{:>10}{:>12}",
            text(&verdict["source"]),
            rung.to_string(),
            seconds.to_string(),
            decision.to_string()
        );
    }
    let _ = writeln!(page, "{desired} verdicts, {in_kernel} in the kernel, room for {max}");
}

fn decisions(page: &mut String, now: &Value) {
    let _ = writeln!(page, "\n{:<22}{:<28}{:<10}{:<20}{:<18}REQUEST", "DECIDED", "SOURCE", "RUNG", "PLUGIN", "ROUTE");
    for decision in items(&now["decisions"]).iter().take(ROWS_MAX) {
        let word = |name: &str| text(&decision[name]).to_owned();
        let held = decision["held"].as_str().map(|held| format!("   held: {held}")).unwrap_or_default();
        let _ = writeln!(
            page,
            "{:<22}{:<28}{:<10}{:<20}{:<18}{}{held}",
            word("since"),
            word("source"),
            word("name"),
            word("plugin"),
            word("route"),
            word("request_id")
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn edge(dropped: u64, events: &[&str]) -> Value {
        let event = |text: &&str| {
            let (at, source) = text.split_once(' ').unwrap();
            json!({ "at": at, "source": source, "reason": "deny" })
        };
        json!({
            "mode": { "wanted": "enforce", "in_force": "native", "kill_switch": false, "why": [] },
            "interfaces": { "attached": [{ "name": "eth0", "mode": "native" }] },
            "pins": { "in_force": "/sys/fs/bpf/gateway/edge" },
            "packets": { "clean": { "packets": 10, "bytes": 600 }, "deny": { "packets": dropped, "bytes": dropped * 60 } },
            "events": events.iter().map(event).collect::<Vec<_>>(),
            "verdicts": { "desired": 1, "in_kernel": 1, "max": 1024, "shown_desired": [
                { "source": "192.0.2.7", "rung": 5, "expires_in_seconds": 59, "decision": 3 }] },
            "decisions": [{ "since": "2026-01-01T00:00:00Z", "source": "192.0.2.7", "name": "dropped",
                "plugin": "rate-limiting", "route": "orders", "request_id": "abc", "held": null }],
        })
    }

    #[test]
    fn a_page_has_rates_sources_verdicts_and_causes() {
        let page = page(&edge(100, &["1 192.0.2.1"]), &edge(300, &["3 192.0.2.9", "2 192.0.2.9", "1 192.0.2.1"]), 2.0);
        let row =
            |word: &str| page.lines().find(|line| line.starts_with(word)).unwrap_or_else(|| panic!("{word}: {page}"));
        let words = |word: &str| row(word).split_whitespace().map(str::to_owned).collect::<Vec<_>>();
        assert_eq!(words("deny"), ["deny", "100", "6000", "300"]);
        assert_eq!(words("192.0.2.9"), ["192.0.2.9", "deny", "2"], "only what is new");
        assert!(!page.contains("192.0.2.1 "), "{page}");
        assert!(row("192.0.2.7").contains('5'));
        assert!(row("2026").contains("rate-limiting") && row("2026").ends_with("abc"));
        assert!(row("edge:").contains("eth0 (native)"));
        let at = |word: &str| page.find(word).unwrap();
        assert!(at("deny ") < at("clean "), "the liveliest first");
    }

    #[test]
    fn a_terminal_does_not_obey_what_a_client_sent() {
        let mut evil = edge(1, &[]);
        evil["decisions"][0]["request_id"] = "\u{1b}]0;owned\u{7}\u{9b}2J".into();
        let page = page(&edge(1, &[]), &evil, 1.0);
        assert!(page.chars().all(|c| c == '\n' || !c.is_control()), "{page:?}");
    }

    #[test]
    fn an_answer_with_nothing_in_it_is_a_page_too() {
        assert!(page(&json!({}), &json!({}), 0.0).contains("REASON"));
        assert!(interval("0").is_err() && interval("x").is_err());
    }
}
