//! Tables of bars: the kernel edge's, R1 to R13, and those of hostile traffic, S1 to S11, as tests and measurements tell their
//! rows. It must not start anything.

use std::fmt::Write as _;

/// Bars by number, with what each asks.
pub type Bars = [(&'static str, &'static str)];

/// The kernel edge's.
pub const EDGE: &Bars = &[
    ("R1", "cost of a packet"),
    ("R2", "good traffic survives a flood"),
    ("R3", "no tax when idle"),
    ("R4", "flood-proof state"),
    ("R5", "exact cells"),
    ("R6", "latency of a verdict"),
    ("R7", "no innocent bans"),
    ("R8", "fail safe"),
    ("R9", "parser parity"),
    ("R10", "least privilege, truthful attach"),
    ("R11", "seen and explained"),
    ("R12", "no gap"),
    ("R13", "same policy without the kernel"),
];

/// Those of hostile traffic.
pub const HOSTILE: &Bars = &[
    ("S1", "memory above idle under attack"),
    ("S2", "other clients are answered"),
    ("S3", "their slowest answer"),
    ("S4", "attacks are ended"),
    ("S5", "reload"),
    ("S6", "stop"),
    ("S7", "upstream gone"),
    ("S8", "stale pooled connections"),
    ("S9", "descriptors run out"),
    ("S10", "standstill"),
    ("S11", "soak"),
];

/// One row: the bar's number, what, bar, measured, verdict.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Row([String; 5]);

/// The row that a line tells, if it does (`tests/src/bar.rs` writes them).
#[must_use]
pub fn row(line: &str) -> Option<Row> {
    let words: Vec<String> = line.strip_prefix("BAR\t")?.split('\t').map(str::to_owned).collect();
    words.try_into().ok().map(Row)
}

/// Rows below their bar.
#[must_use]
pub fn missed(rows: &[Row]) -> usize {
    rows.iter().filter(|row| row.0[4] != "pass").count()
}

/// All rows by number; `elsewhere` says where those come from that are not among them.
#[must_use]
pub fn table(bars: &Bars, rows: &[Row], elsewhere: &str) -> String {
    let mut lines: Vec<[String; 5]> = vec![["", "what", "bar", "measured", ""].map(str::to_owned)];
    let mut missing = Vec::new();
    for &(id, title) in bars {
        let own: Vec<&Row> = rows.iter().filter(|row| row.0[0] == id).collect();
        if own.is_empty() {
            missing.push(format!("{id} ({title})"));
        }
        for (at, row) in own.iter().enumerate() {
            let mut line = row.0.clone();
            if at > 0 {
                line[0].clear();
            }
            lines.push(line);
        }
    }
    let width = |column: usize| lines.iter().map(|line| line[column].chars().count()).max().unwrap_or(0);
    let widths: [usize; 5] = std::array::from_fn(width);
    let mut out = String::new();
    for line in &lines {
        let cells = line.iter().zip(widths).map(|(cell, width)| format!("{cell:<width$}"));
        let text = cells.collect::<Vec<_>>().join("  ");
        let _ = writeln!(out, "{}", text.trim_end());
    }
    let _ = writeln!(out, "{} rows, {} of them below their bar", rows.len(), missed(rows));
    if !missing.is_empty() {
        let _ = writeln!(out, "not here: {}; {elsewhere}", missing.join(", "));
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_stand_by_number_and_what_is_missing_is_named() {
        let lines = ["BAR\tR10\tuser\tnobody\tnobody\tpass", "noise", "BAR\tR2\tflood\t≥ 99%\t98%\tmisses by 1%"];
        let rows: Vec<Row> = lines.iter().filter_map(|line| row(line)).collect();
        let table = table(EDGE, &rows, "elsewhere");
        let at = |text: &str| table.find(text).expect("it is there");
        assert!(at("R2 ") < at("R10 "), "{table}");
        assert!(table.contains("2 rows, 1 of them below their bar"), "{table}");
        assert!(table.contains("R1 (cost of a packet)") && table.ends_with("elsewhere\n"), "{table}");
    }
}
