//! One row of the table of bars (docs/edge.md): what is asked, what was measured, and whether that is enough, or by how much
//! not. The commands that run tests and measurements gather the rows.

use std::fmt::Display;

use crate::deadline::say;

/// Whether rows are to be measured as often as their bars ask, and not only as often as a test needs.
#[must_use]
pub fn in_full() -> bool {
    std::env::var_os("GATEWAY_BARS").is_some_and(|value| value == "full")
}

/// A row that holds or does not. A tabulator has no place in any of the words.
pub fn holds(id: &str, what: &str, bar: &str, measured: impl Display, good: bool) {
    let verdict = if good { "pass" } else { "fails" };
    say(&format!("BAR\t{id}\t{what}\t{bar}\t{measured}\t{verdict}"));
}

/// A row whose figure must not be above `limit`.
pub fn at_most(id: &str, what: &str, measured: f64, limit: f64, unit: &str) {
    figure(id, what, '≤', (measured, limit), unit, measured <= limit);
}

/// A row whose figure must not be below `limit`.
pub fn at_least(id: &str, what: &str, measured: f64, limit: f64, unit: &str) {
    figure(id, what, '≥', (measured, limit), unit, measured >= limit);
}

fn figure(id: &str, what: &str, sign: char, (measured, limit): (f64, f64), unit: &str, good: bool) {
    let verdict = match good {
        true => "pass".to_owned(),
        false if limit == 0.0 => format!("misses by {}{unit}", short(measured)),
        false => format!("misses by {:.0}%", 100.0 * ((measured - limit) / limit).abs()),
    };
    let (limit, measured) = (short(limit), short(measured));
    say(&format!("BAR\t{id}\t{what}\t{sign} {limit}{unit}\t{measured}{unit}\t{verdict}"));
}

/// Three digits that say something.
fn short(value: f64) -> String {
    let digits = if value == value.trunc() || value.abs() >= 100.0 {
        0
    } else if value.abs() >= 10.0 {
        1
    } else {
        3
    };
    format!("{value:.digits$}")
}

/// The value below which `percent` of the sorted values lie.
#[must_use]
pub fn percentile(sorted: &[f64], percent: usize) -> f64 {
    let at = (sorted.len() * percent).div_ceil(100).saturating_sub(1);
    sorted.get(at).copied().unwrap_or(f64::NAN)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_values_that_were_measured() {
        let values: Vec<f64> = (1..=50).map(f64::from).collect();
        assert_eq!((percentile(&values, 50), percentile(&values, 99), percentile(&values, 100)), (25.0, 50.0, 50.0));
        assert!(percentile(&[], 50).is_nan());
    }

    #[test]
    fn figures_have_three_digits() {
        let texts = [0.0, 3.0, 0.98765, 12.345, 1234.5].map(short);
        assert_eq!(texts, ["0", "3", "0.988", "12.3", "1234"]);
    }
}
