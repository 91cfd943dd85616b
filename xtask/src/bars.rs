//! The table of the kernel edge's bars, R1 to R13, as tests and measurements tell its rows. It must not start anything.

use std::fmt::Write as _;

/// What each bar asks.
const BARS: [(&str, &str); 13] = [
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

/// One row: the bar's number, what, bar, measured, verdict.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Row([String; 5]);

/// The row that a line tells, if it does (`tests/src/bar.rs` writes them).
#[must_use]
pub fn row(line: &str) -> Option<Row> {
    let words: Vec<String> = line.strip_prefix("BAR\t")?.split('\t').map(str::to_owned).collect();
    words.try_into().ok().map(Row)
}

/// All rows by number; `elsewhere` says where those come from that are not among them.
#[must_use]
pub fn table(rows: &[Row], elsewhere: &str) -> String {
    let mut lines: Vec<[String; 5]> = vec![["", "what", "bar", "measured", ""].map(str::to_owned)];
    let mut missing = Vec::new();
    for (id, title) in BARS {
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
    let bad = rows.iter().filter(|row| row.0[4] != "pass").count();
    let _ = writeln!(out, "{} rows, {bad} of them below their bar", rows.len());
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
        let table = table(&rows, "elsewhere");
        let at = |text: &str| table.find(text).expect("it is there");
        assert!(at("R2 ") < at("R10 "), "{table}");
        assert!(table.contains("2 rows, 1 of them below their bar"), "{table}");
        assert!(table.contains("R1 (cost of a packet)") && table.ends_with("elsewhere\n"), "{table}");
    }
}
