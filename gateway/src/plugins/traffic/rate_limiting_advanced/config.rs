//! Reads the `config` of `rate-limiting-advanced`. It must not count.

use std::time::Duration;

use super::{Limit, Store};
use crate::document::{Fields, Node, Value};
use crate::limits::span::{COUNT_MAX, SECONDS_MAX};
use crate::plugins::traffic::quota::headers::Named;
use crate::plugins::traffic::quota::redis;

/// Names of windows in headers; others are named by their seconds.
const NAMES: [(u32, &str); 6] =
    [(1, "second"), (60, "minute"), (3600, "hour"), (86_400, "day"), (2_592_000, "month"), (31_536_000, "year")];

/// The limits, shortest window first.
pub(super) fn limits(fields: &Fields<'_>) -> Option<Vec<Limit>> {
    let given = fields.require("limit") & fields.require("window_size");
    let (limits, sizes) = (fields.list("limit"), fields.list("window_size"));
    if !given {
        return None;
    }
    let (limits, sizes) = (limits?, sizes?);
    if limits.len() != sizes.len() {
        let message = "You must provide the same number of windows and limits";
        fields.report.error(fields.place_of("window_size"), message);
        return None;
    }
    if limits.is_empty() {
        fields.report.mismatch(fields.place_of("limit"), "rate-limiting-advanced has no limit", "at least one");
        return None;
    }
    let mut read: Vec<Limit> = Vec::with_capacity(limits.len());
    let mut sound = true;
    for (limit, size) in limits.iter().zip(sizes) {
        let requests = integer(fields, "limit", limit, 0, COUNT_MAX);
        let seconds = integer(fields, "window_size", size, 1, u64::from(SECONDS_MAX));
        let (Some(requests), Some(seconds)) = (requests, seconds) else {
            sound = false;
            continue;
        };
        if read.iter().any(|known| u64::from(known.seconds) == seconds) {
            fields.report.mismatch(size.place, format!("`window_size` has {seconds} twice"), "one limit a window");
            sound = false;
        }
        let seconds = seconds as u32;
        let word = NAMES.iter().find(|(known, _)| *known == seconds).map(|(_, name)| (*name).to_owned());
        let named = Named::new(&word.unwrap_or_else(|| seconds.to_string()), requests, u64::from(seconds));
        read.push(Limit { seconds, requests, named });
    }
    read.sort_by_key(|limit| limit.seconds);
    sound.then_some(read)
}

fn integer(fields: &Fields<'_>, name: &str, node: &Node, min: u64, max: u64) -> Option<u64> {
    let (number, shown) = match node.value {
        Value::Int(number) => (u64::try_from(number).ok(), number.to_string()),
        // Kong's Lua has one number type: 60.0 is an integer there.
        Value::Float(number) if number.fract() == 0.0 && number >= 0.0 => (Some(number as u64), number.to_string()),
        Value::Float(number) => (None, number.to_string()),
        _ => (None, node.kind().to_owned()),
    };
    let number = number.filter(|number| (min..=max).contains(number));
    if number.is_none() {
        let expected = format!("an integer from {min} to {max}");
        fields.report.mismatch(node.place, format!("`{name}` has {shown}"), expected);
    }
    number
}

/// Whether windows slide.
pub(super) fn sliding(fields: &Fields<'_>) -> Option<bool> {
    let given = fields.node("window_type").is_some();
    match fields.choice("window_type", &[("sliding", true), ("fixed", false)]) {
        None if given => None,
        chosen => Some(chosen.unwrap_or(true)),
    }
}

#[derive(Clone, Copy, PartialEq)]
enum Strategy {
    Local,
    Redis,
    Cluster,
}

/// The strategy, where Redis is, and how often it is asked.
pub(super) fn store(fields: &Fields<'_>) -> Option<Store> {
    let choices = [("local", Strategy::Local), ("redis", Strategy::Redis), ("cluster", Strategy::Cluster)];
    let given = fields.node("strategy").is_some();
    let strategy = fields.choice("strategy", &choices);
    let server = redis::read_advanced(fields, strategy == Some(Strategy::Redis));
    let rate = sync_rate(fields);
    match strategy {
        Some(Strategy::Cluster) => {
            fields.report.mismatch(
                fields.place_of("strategy"),
                "rate-limiting-advanced strategy `cluster` needs a database, and there is none",
                "`local` or `redis`",
            );
            None
        }
        Some(Strategy::Redis) => {
            let (server, rate) = (server?, rate?);
            Some(match rate {
                rate if rate < 0.0 => Store::Local,
                0.0 => Store::Each(server),
                rate => Store::Together(server, Duration::from_secs_f64(rate)),
            })
        }
        Some(Strategy::Local) => {
            if rate.is_some_and(|rate| rate > 0.0) {
                let message = "`sync_rate` brings nothing together with strategy `local`";
                fields.report.warn(fields.place_of("sync_rate"), message);
            }
            Some(Store::Local)
        }
        None => (!given).then_some(Store::Local),
    }
}

/// Kong's `sync_rate`: 0 asks Redis for every request, -1 never, from 0.02 s on counts are brought together at that interval.
fn sync_rate(fields: &Fields<'_>) -> Option<f64> {
    let given = fields.node("sync_rate").is_some();
    let Some(rate) = fields.number("sync_rate", -1.0..=86_400.0) else { return (!given).then_some(0.0) };
    if rate == -1.0 || rate == 0.0 || rate >= 0.02 {
        return Some(rate);
    }
    let message = format!("`sync_rate` is {rate}");
    fields.report.mismatch(fields.place_of("sync_rate"), message, "-1, 0, or a number of seconds from 0.02");
    None
}

/// What has no meaning here, and what is not built.
pub(super) fn others(fields: &Fields<'_>) {
    for ignored in ["dictionary_name", "lock_dictionary_name"] {
        fields.string(ignored);
    }
    if let Some(throttling) = fields.fields("throttling") {
        let enabled = throttling.boolean("enabled").unwrap_or(false);
        throttling.number("interval", 1.0..=1_000_000.0);
        throttling.number("queue_limit", 1.0..=1_000_000.0);
        throttling.number("retry_times", 1.0..=1_000_000.0);
        if enabled {
            let place = throttling.place_of("enabled");
            fields.report.unsupported(place, "`throttling` of rate-limiting-advanced", None);
        }
    }
    let groups = fields.strings("consumer_groups").is_some_and(|groups| !groups.is_empty());
    if fields.boolean("enforce_consumer_groups").unwrap_or(false) {
        let place = fields.place_of("enforce_consumer_groups");
        let hint = "nest the plugin in the consumer groups instead";
        fields.report.unsupported(place, "`enforce_consumer_groups`, which Kong deprecates", Some(hint));
    } else if groups {
        let message = "`consumer_groups` has no effect without `enforce_consumer_groups`";
        fields.report.warn(fields.place_of("consumer_groups"), message);
    }
}
