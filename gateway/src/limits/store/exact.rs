//! Counters that Redis keeps, asked for every request, as Kong's policy `redis` with `sync_rate: -1`: one script reads all
//! windows of a request and counts in all of them or in none. Keys and lifetimes are Kong's.

use std::fmt::Write;
use std::sync::{Arc, LazyLock};

use redis::{FromRedisValue, Script};
use smallvec::SmallVec;

use super::{Fault, Server, link};
use crate::limits::window::{Period, Usage};

/// Kong counts plugins without a route or a service under this id.
const NO_ID: &str = "00000000-0000-0000-0000-000000000000";

/// KEYS: a counter for each window. ARGV: the number to add, then limit and lifetime in seconds for each.
/// Answer: which one refused, from 1, or 0; then what each has counted.
static COUNT: LazyLock<Script> = LazyLock::new(|| {
    Script::new(
        "local used, refused = {}, 0
for i, key in ipairs(KEYS) do
  used[i] = tonumber(redis.call('GET', key) or '0')
  if refused == 0 and used[i] >= tonumber(ARGV[2 * i]) then refused = i end
end
if refused == 0 then
  for i, key in ipairs(KEYS) do
    used[i] = redis.call('INCRBY', key, ARGV[1])
    if used[i] == tonumber(ARGV[1]) then redis.call('EXPIRE', key, ARGV[2 * i + 1]) end
  end
end
return {refused, unpack(used)}",
    )
});

/// KEYS: counters. Answer: what each has counted.
static READ: LazyLock<Script> = LazyLock::new(|| Script::new("return redis.call('MGET', unpack(KEYS))"));

/// KEYS: a counter. ARGV: the number to add, the lifetime in seconds. Answer: what it counts then.
pub(super) static ADD: LazyLock<Script> = LazyLock::new(|| {
    Script::new(
        "local used = redis.call('INCRBY', KEYS[1], ARGV[1])
if redis.call('TTL', KEYS[1]) < 0 then redis.call('EXPIRE', KEYS[1], ARGV[2]) end
return {used}",
    )
});

/// How long a counter is kept beyond the end of its window, seconds: for calls that were long under way, and for
/// gateways whose clocks are behind.
const LATE_S: u64 = 5;

/// How long a counter of the window that holds `of_s` lives in Redis from `unix_s` on, seconds: until the window is over,
/// and never less than Kong lets it live.
pub(super) fn life_s(period: Period, of_s: u64, unix_s: u64) -> u64 {
    (period.window(of_s).1.saturating_sub(unix_s) + LATE_S).max(lifetime_s(period))
}

/// The seconds of a window as Kong takes them, for headers and lifetimes (Kong `expiration`).
#[must_use]
pub fn lifetime_s(period: Period) -> u64 {
    match period {
        Period::Second => 1,
        Period::Minute => 60,
        Period::Hour => 3600,
        Period::Day => 86_400,
        Period::Month => 2_592_000,
        Period::Year => 31_536_000,
    }
}

/// Kong's key of a counter: `ratelimit:ROUTE:SERVICE:IDENTIFIER:START:PERIOD`, the start in milliseconds.
#[must_use]
pub fn key(route: &str, service: &str, identifier: &[u8], period: Period, unix_s: u64) -> Vec<u8> {
    named_key("ratelimit", route, service, identifier, "", period, unix_s)
}

/// Kong's key of a counter with a name of its own: `response-ratelimit:ROUTE:SERVICE:IDENTIFIER:START:NAME:PERIOD`.
#[must_use]
pub fn response_key(
    (route, service): (&str, &str),
    identifier: &[u8],
    name: &str,
    period: Period,
    unix_s: u64,
) -> Vec<u8> {
    named_key("response-ratelimit", route, service, identifier, &format!("{name}:"), period, unix_s)
}

fn named_key(
    kind: &str,
    route: &str,
    service: &str,
    identifier: &[u8],
    name: &str,
    period: Period,
    unix_s: u64,
) -> Vec<u8> {
    let known = |id| if str::is_empty(id) { NO_ID } else { id };
    let mut key = format!("{kind}:{}:{}:", known(route), known(service)).into_bytes();
    key.extend_from_slice(identifier);
    let mut end = String::new();
    let _ = write!(end, ":{}:{name}{}", period.start(unix_s) * 1000, period.name());
    key.extend_from_slice(end.as_bytes());
    key
}

/// A limit on a counter of Redis.
pub struct Counter {
    /// The counter's key.
    pub key: Vec<u8>,
    /// Requests in the window.
    pub limit: u64,
    /// The window's length.
    pub period: Period,
}

/// Counts one request on every counter, or on none when one is full; what each says, in the order of `counters`.
///
/// # Errors
/// Why there is no answer.
pub async fn count(server: &Arc<Server>, counters: &[Counter], unix_s: u64) -> Result<SmallVec<[Usage; 2]>, Fault> {
    let mut script = COUNT.prepare_invoke();
    script.arg(1);
    for counter in counters {
        script.key(&counter.key[..]);
        script.arg(counter.limit).arg(life_s(counter.period, unix_s, unix_s));
    }
    let answer = link::call(server, &script).await?;
    let numbers = Vec::<i64>::from_redis_value(answer).map_err(|error| link::refused(server, &error))?;
    let (Some(refused), true) = (numbers.first(), numbers.len() == counters.len() + 1) else {
        return Err(Fault::Refused("an answer of another length".to_owned()));
    };
    let usages = counters.iter().zip(&numbers[1..]).enumerate().map(|(at, (counter, used))| {
        let used = u64::try_from(*used).unwrap_or(0);
        let (_, next) = counter.period.window(unix_s);
        Usage {
            admitted: *refused != at as i64 + 1,
            remaining: counter.limit.saturating_sub(used),
            reset_s: next.saturating_sub(unix_s).max(1),
        }
    });
    Ok(usages.collect())
}

/// What counters have counted, in the order of `keys`.
///
/// # Errors
/// Why there is no answer.
pub async fn read(server: &Arc<Server>, keys: &[Vec<u8>]) -> Result<Vec<u64>, Fault> {
    let mut script = READ.prepare_invoke();
    for key in keys {
        script.key(&key[..]);
    }
    let answer = link::call(server, &script).await?;
    let told = Vec::<Option<u64>>::from_redis_value(answer).map_err(|error| link::refused(server, &error))?;
    if told.len() != keys.len() {
        return Err(Fault::Refused("an answer of another length".to_owned()));
    }
    Ok(told.into_iter().map(Option::unwrap_or_default).collect())
}

/// Adds to the counter of the window that holds `of_s`, whatever its limit.
///
/// # Errors
/// Why there is no answer.
pub async fn add(server: &Arc<Server>, key: &[u8], number: u64, period: Period, of_s: u64) -> Result<(), Fault> {
    let mut script = ADD.key(key);
    script.arg(number).arg(life_s(period, of_s, crate::clock::unix_ns() / 1_000_000_000));
    link::call(server, &script).await.map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_counter_lives_until_its_window_is_over_and_as_long_as_kongs() {
        // 2026-12-01 and 2028-01-01: 31 days, 366 days.
        let (month, year) = (1_796_083_200, 1_830_297_600);
        assert_eq!(life_s(Period::Month, month, month), 31 * 86_400 + LATE_S);
        assert_eq!(life_s(Period::Year, year, year), 366 * 86_400 + LATE_S);
        assert_eq!(life_s(Period::Month, month + 86_400 * 9, month + 86_400 * 9), 30 * 86_400);
        assert_eq!(life_s(Period::Second, month, month), 1 + LATE_S);
        assert_eq!(life_s(Period::Second, month, month + 60), LATE_S, "late, it is not kept for ever");
        assert_eq!(life_s(Period::Second, month + 1, month), 2 + LATE_S, "ahead of its time");
    }

    #[test]
    fn keys_are_those_of_kong() {
        // 2026-11-24T12:34:56Z
        let of = |period| String::from_utf8(key("r", "", b"127.0.0.1", period, 1_795_523_696)).expect("text");
        assert_eq!(
            of(Period::Minute),
            "ratelimit:r:00000000-0000-0000-0000-000000000000:127.0.0.1:1795523640000:minute"
        );
        assert!(of(Period::Month).ends_with(":1793491200000:month"), "2026-11-01: {}", of(Period::Month));
        assert!(of(Period::Year).ends_with(":1767225600000:year"), "2026-01-01: {}", of(Period::Year));
    }
}
