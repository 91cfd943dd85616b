//! Windows of any length that gateways share: counted in Redis for every request, or here and told to it at an interval.
//! What Redis was not told of while it was away is made good by the next call.

use std::sync::{Arc, LazyLock};
use std::time::Duration;

use redis::{FromRedisValue, Script};
use smallvec::SmallVec;

use super::{Fault, Fleet, Server, link};
use crate::limits::span::{Counts, Held, Moment, Span};
use crate::limits::window::Usage;

/// KEYS: for each limit the counter of the window that runs and of the one before. ARGV: what to do (0 tell and read, 1
/// count if all admit, 2 count also where refused); then for each limit what is owed to the one and the other counter, the
/// limit, the nanoseconds of the window before that are in view, the window's length, and the lifetime in seconds.
/// Answer: which one refused, from 1, or 0; then what both have counted, for each.
static COUNT: LazyLock<Script> = LazyLock::new(|| {
    Script::new(
        "local refused, used = 0, {}
local function add(key, number, life)
  if number <= 0 then return end
  redis.call('INCRBY', key, string.format('%.0f', number))
  if redis.call('TTL', key) < 0 then redis.call('EXPIRE', key, life) end
end
for i = 1, #KEYS, 2 do
  local at = 3 * i - 1
  local limit, view, length, life = tonumber(ARGV[at + 2]), tonumber(ARGV[at + 3]), tonumber(ARGV[at + 4]), ARGV[at + 5]
  add(KEYS[i], tonumber(ARGV[at]), life)
  add(KEYS[i + 1], tonumber(ARGV[at + 1]), life)
  local now, before = tonumber(redis.call('GET', KEYS[i]) or '0'), tonumber(redis.call('GET', KEYS[i + 1]) or '0')
  if refused == 0 and now + 1 + before * view / length > limit then refused = (i + 1) / 2 end
  used[i], used[i + 1] = now, before
end
for i = 1, #KEYS, 2 do
  local last = refused == 0 or i <= 2 * refused
  if (ARGV[1] == '1' and refused == 0) or (ARGV[1] == '2' and last) then
    add(KEYS[i], 1, ARGV[3 * i + 4])
    used[i] = used[i] + 1
  end
end
return {refused, unpack(used)}",
    )
});

/// How long a counter is kept beyond its use, seconds.
const LATE_S: u64 = 5;

/// One limit of one identity.
#[derive(Clone)]
pub struct Account {
    /// What is counted here.
    pub pair: Held,
    /// The window's length and kind.
    pub span: Span,
    /// Requests in a window.
    pub limit: u64,
    /// Whose counter it is: the first part of the store's keys.
    pub name: Arc<[u8]>,
}

impl Account {
    /// The store's key: `NAME:START:SECONDS`.
    fn key(&self, window: u32) -> Vec<u8> {
        let end = format!(":{}:{}", self.span.start_s(window), self.span.seconds);
        [&self.name[..], end.as_bytes()].concat()
    }

    /// How long the counter of a window is of use, seconds: two lengths where it slides.
    fn life_s(&self, rest_ns: u64) -> u64 {
        let rest = rest_ns.div_ceil(1_000_000_000);
        rest + LATE_S + if self.span.sliding { u64::from(self.span.seconds) } else { 0 }
    }

    /// Whether the store does not know all that was counted in the windows in view.
    fn owes(&self, unix_ns: u64) -> bool {
        let window = self.span.at(unix_ns).window;
        self.pair.owed(window) > 0 || self.pair.owed(window.saturating_sub(1)) > 0
    }
}

/// What a call does beside telling and reading.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Act {
    /// Nothing.
    Read = 0,
    /// Counts a request that all limits admit.
    Count = 1,
    /// Counts it also where it is refused.
    Penalise = 2,
}

/// What is owed to the two counters of each account, until the store has it.
struct Told<'a> {
    accounts: &'a [Account],
    owed: SmallVec<[(u32, u64, u64); 2]>,
}

impl<'a> Told<'a> {
    fn take(accounts: &'a [Account], moments: &[Moment]) -> Self {
        let of = |(account, moment): (&Account, &Moment)| {
            let before = moment.window.checked_sub(1).map_or(0, |before| account.pair.settle(before));
            (moment.window, account.pair.settle(moment.window), before)
        };
        Told { accounts, owed: accounts.iter().zip(moments).map(of).collect() }
    }
}

impl Drop for Told<'_> {
    /// It was not told: it is owed again.
    fn drop(&mut self) {
        for (account, (window, now, before)) in self.accounts.iter().zip(&self.owed) {
            account.pair.owe(window.saturating_sub(1), *before);
            account.pair.owe(*window, *now);
        }
    }
}

/// Tells the store what it does not know of `accounts`, and counts a request there; what each limit says.
///
/// # Errors
/// Why there is no answer; nothing is lost then.
pub async fn call(
    server: &Arc<Server>,
    accounts: &[Account],
    act: Act,
    unix_ns: u64,
) -> Result<SmallVec<[Usage; 2]>, Fault> {
    let moments: SmallVec<[Moment; 2]> = accounts.iter().map(|account| account.span.at(unix_ns)).collect();
    let mut told = Told::take(accounts, &moments);
    let mut script = COUNT.prepare_invoke();
    script.arg(act as u8);
    for ((account, moment), (_, now, before)) in accounts.iter().zip(&moments).zip(&told.owed) {
        script.key(account.key(moment.window)).key(account.key(moment.window.saturating_sub(1)));
        let view_ns = if account.span.sliding { moment.rest_ns } else { 0 };
        script.arg(*now).arg(*before).arg(account.limit).arg(view_ns).arg(account.span.length_ns());
        script.arg(account.life_s(moment.rest_ns));
    }
    let answer = link::call(server, &script).await?;
    let numbers = Vec::<i64>::from_redis_value(answer).map_err(|error| link::refused(server, &error))?;
    let (Some((refused, used)), true) = (numbers.split_first(), numbers.len() == 2 * accounts.len() + 1) else {
        return Err(Fault::Refused("an answer of another length".to_owned()));
    };
    told.owed.clear();
    let number = |at: usize| u64::try_from(used[at]).unwrap_or(0);
    let usage = |(at, (account, moment)): (usize, (&Account, &Moment))| {
        let counts = Counts { current: number(2 * at), previous: number(2 * at + 1) };
        account.pair.learn(moment.window.saturating_sub(1), counts.previous);
        account.pair.learn(moment.window, counts.current);
        account.span.usage(account.limit, counts, moment.rest_ns, *refused != at as i64 + 1)
    };
    Ok(accounts.iter().zip(&moments).enumerate().map(usage).collect())
}

/// Brings counts together in the background, if that is due, and again until the store knows all.
pub fn bring_together(fleet: &Arc<Fleet>, server: &Arc<Server>, account: &Account, every: Duration) {
    if !account.pair.begin_call(crate::clock::monotonic_ns()) {
        return;
    }
    let mut call = Call(account.clone(), every);
    let Some(follower) = fleet.try_follow() else { return };
    let (fleet, server) = (Arc::clone(fleet), Arc::clone(server));
    tokio::task::spawn_local(async move {
        loop {
            let told = call.make(&fleet, &server).await;
            let account = call.0.clone();
            drop(call);
            // What cannot be told is owed until its windows are out of view.
            let closing = follower.pause(every).await;
            let owes = account.owes(crate::clock::unix_ns());
            if !owes || (closing && !told) || !account.pair.begin_call(u64::MAX - 1) {
                return;
            }
            call = Call(account, every);
        }
    });
}

/// A call to bring counts together; when it ends, answered or not, the next is due after a while.
struct Call(Account, Duration);

impl Call {
    /// Whether the store was told.
    async fn make(&self, fleet: &Fleet, server: &Arc<Server>) -> bool {
        let answer = call(server, std::slice::from_ref(&self.0), Act::Read, crate::clock::unix_ns()).await;
        fleet.calls.note(&answer);
        if let Err(fault) = &answer {
            fleet.complain("rate-limiting-advanced", fault);
        }
        answer.is_ok()
    }
}

impl Drop for Call {
    fn drop(&mut self) {
        self.0.pair.called(crate::clock::monotonic_ns() + self.1.as_nanos() as u64);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn account(sliding: bool) -> Account {
        Account {
            pair: crate::limits::Spans::default().pair(1, 60),
            span: Span { seconds: 60, sliding },
            limit: 10,
            name: Arc::from(&b"ratelimit-advanced:n:i"[..]),
        }
    }

    #[test]
    fn keys_name_the_window_and_live_as_long_as_it_is_in_view() {
        let key = String::from_utf8(account(true).key(100)).expect("text");
        assert_eq!(key, "ratelimit-advanced:n:i:6000:60");
        let lives = [true, false].map(|sliding| account(sliding).life_s(20_500_000_000));
        assert_eq!(lives, [86, 26]);
    }

    #[test]
    fn what_was_not_told_is_owed_again() {
        let account = account(true);
        account.pair.owe(99, 2);
        account.pair.owe(100, 3);
        let moments = [account.span.at(6_001_000_000_000)];
        let told = Told::take(std::slice::from_ref(&account), &moments);
        assert_eq!((account.pair.owed(99), account.pair.owed(100)), (0, 0));
        drop(told);
        assert_eq!((account.pair.owed(99), account.pair.owed(100)), (2, 3));
    }
}
