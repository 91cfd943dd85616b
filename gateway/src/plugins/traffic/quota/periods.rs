//! Reads limits by period. Must not count.

use crate::document::Fields;
use crate::limits::window::Period;

/// Refuses limits that are above `max`, which counting by `how` can hold; whether there is none.
pub fn all_fit(
    fields: &Fields<'_>,
    limits: impl IntoIterator<Item = (Period, u64)>,
    how: &str,
    max: impl Fn(Period) -> u64,
) -> bool {
    let mut fit = true;
    for (period, limit) in limits {
        let (name, max) = (period.name(), max(period));
        if limit > max {
            let message = format!("the limit of `{name}` ({limit}) is more than {how} can count");
            fields.report.mismatch(fields.place_of(name), message, format!("an integer from 1 to {max}"));
            fit = false;
        }
    }
    fit
}

/// The limits of `what`, shortest period first; Kong wants at least one, and none below that of a shorter period.
pub fn read(fields: &Fields<'_>, what: &str) -> Option<Vec<(Period, u64)>> {
    let mut limits: Vec<(Period, u64)> = Vec::new();
    let mut shorter: Option<(&str, i64)> = None;
    let mut sound = true;
    for (name, period) in Period::ALL {
        if fields.node(name).is_none() {
            continue;
        }
        let Some(requests) = fields.integer(name, 1..=i64::MAX) else {
            sound = false;
            continue;
        };
        if let Some((other, more)) = shorter.filter(|(_, more)| *more > requests) {
            let message = format!("the limit of `{name}` ({requests}) is lower than that of `{other}` ({more})");
            fields.report.error(fields.place_of(name), message);
            sound = false;
        }
        shorter = Some((name, requests));
        limits.push((period, requests as u64));
    }
    if limits.is_empty() && sound {
        let periods = Period::ALL.map(|(name, _)| name).join(", ");
        fields.report.mismatch(fields.place(), format!("{what} has no limit"), format!("at least one of {periods}"));
        sound = false;
    }
    sound.then_some(limits)
}
