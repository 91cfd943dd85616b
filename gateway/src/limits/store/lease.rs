//! Large limits without a call for every request: slices of a window are leased from Redis in the background, or counts
//! are brought together at an interval (Kong's `sync_rate`). The store knows what each gateway holds, so that a lost
//! answer, a restart on either side or a return after an outage is made good by the next call.

use std::sync::{Arc, LazyLock};
use std::time::Duration;

use redis::{FromRedisValue, Script, ScriptInvocation};

use super::exact::{ADD, life_s};
use super::fleet::Follower;
use super::slice::{Plan, Slice, Take};
use super::{Fault, Fleet, Server, link};
use crate::limits::window::{Period, Usage};

/// KEYS: what each slice of each gateway holds of a window, as `GATEWAY:SLICE`. ARGV: who asks, what it holds (empty:
/// what is known of it), what it wants on top, the limit, the lifetime in seconds. Answer: what it gets, what all hold then, how many gateways they are.
static LEASE: LazyLock<Script> = LazyLock::new(|| {
    Script::new(
        "local function gateway(field) return string.match(field, '^[^:]*') end
local others, nodes, all = 0, 1, redis.call('HGETALL', KEYS[1])
local seen = {[gateway(ARGV[1])] = true}
for i = 1, #all, 2 do
  if all[i] ~= ARGV[1] then others = others + tonumber(all[i + 1]) end
  local name = gateway(all[i])
  if not seen[name] then seen[name], nodes = true, nodes + 1 end
end
local claim, want = tonumber(ARGV[2] ~= '' and ARGV[2] or redis.call('HGET', KEYS[1], ARGV[1]) or 0), tonumber(ARGV[3])
local left = math.max(0, tonumber(ARGV[4]) - others - claim)
if nodes > 1 then left = math.ceil(left / 2) end
local grant = math.min(want, left)
redis.call('HSET', KEYS[1], ARGV[1], string.format('%.0f', claim + grant))
redis.call('EXPIRE', KEYS[1], ARGV[5])
return {grant, others + claim + grant, nodes}",
    )
});

/// Requests that may wait for a slice at a time, in this process.
pub const WAITING_MAX: u64 = 4096;
/// How often one that waits looks again, and how many refreshes it waits at most.
const LOOK: Duration = Duration::from_millis(5);
const PATIENCE: u32 = 4;

/// What happens beyond what is held when the store is lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum OnLoss {
    /// This process goes on with its share.
    Share,
    /// Requests pass uncounted.
    Open,
    /// Requests fail.
    Closed,
}

/// How slices are leased.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Terms {
    /// Who leases.
    pub server: Arc<Server>,
    /// The pause between two calls about one limit of one identity, in the long run.
    pub refresh: Duration,
    /// What happens without the store.
    pub on_loss: OnLoss,
    /// Gateways, for a process that never reached the store.
    pub nodes: u64,
    /// Counts are told to the store at each refresh, and nothing is leased (Kong's `sync_rate`).
    pub counts: bool,
}

/// One limit of one identity.
#[derive(Clone)]
pub struct Account {
    /// The hash by which this process knows the slice. By another limit or another server it is another slice, so that a
    /// reload finds what was held before it held by somebody else.
    pub key: u64,
    /// What this process holds of it.
    pub slice: Arc<Slice>,
    /// Requests in a window.
    pub limit: u64,
    /// The window's length.
    pub period: Period,
}

/// Now.
#[derive(Clone, Copy, Debug)]
pub struct Now {
    /// Nanoseconds since 1970.
    pub unix_ns: u64,
    /// Monotonic nanoseconds.
    pub monotonic_ns: u64,
}

impl Now {
    /// What the clocks say.
    #[must_use]
    pub fn read() -> Self {
        Now { unix_ns: crate::clock::unix_ns(), monotonic_ns: crate::clock::monotonic_ns() }
    }
}

impl Account {
    /// The window that a request counts in.
    #[must_use]
    pub fn window(&self, now: Now) -> u32 {
        self.slice.running(self.period.window(now.unix_ns / 1_000_000_000).0)
    }

    /// Takes one request from what is held, and begins the calls that are due; the window that it counts in, and what
    /// became of it. `key` makes the store's key of the window that holds a second.
    pub fn take(&self, fleet: &Arc<Fleet>, terms: &Arc<Terms>, now: Now, key: &dyn Fn(u64) -> Vec<u8>) -> (u32, Take) {
        let window = self.window(now);
        let refresh_ns = terms.refresh.as_nanos() as u64;
        if terms.counts {
            self.slice.begin_counting(window, self.limit);
            let took = self.slice.take(window, self.limit);
            if let Some(plan) = self.slice.plan_report(window, refresh_ns, now.monotonic_ns) {
                self.begin(fleet, terms, plan, key);
            }
            return (window, if took == Take::Short { Take::Over } else { took });
        }
        let took = self.slice.take(window, self.limit);
        if let Some(plan) = self.slice.plan(window, self.limit, refresh_ns, now.monotonic_ns) {
            self.begin(fleet, terms, plan, key);
        }
        let left_ns = (self.period.begin(window + 1) * 1_000_000_000).saturating_sub(now.unix_ns);
        if let Some(plan) = self.slice.plan_next(window, self.limit, refresh_ns, left_ns, now.monotonic_ns) {
            self.begin(fleet, terms, plan, key);
        }
        (window, took)
    }

    /// Makes a call in the background.
    fn begin(&self, fleet: &Arc<Fleet>, terms: &Arc<Terms>, plan: Plan, key: &dyn Fn(u64) -> Vec<u8>) {
        let key = key(self.period.begin(plan.window));
        let (account, fleet, terms) = (self.clone(), Arc::clone(fleet), Arc::clone(terms));
        let follower = terms.counts.then(|| fleet.follow());
        tokio::task::spawn_local(async move {
            account.call(&fleet, &terms, plan, &key).await;
            if let Some(follower) = follower {
                account.follow(&follower, &fleet, &terms, plan.window, &key).await;
            }
        });
    }

    /// Makes a call and tells the slice how it ended; whether it was answered.
    async fn call(&self, fleet: &Fleet, terms: &Terms, plan: Plan, key: &[u8]) -> bool {
        let _done = Done(&self.slice);
        let answer = ask(fleet, terms, self, plan, key).await;
        fleet.calls.note(&answer);
        match (&answer, terms.counts) {
            (Ok([total, ..]), true) => self.slice.reported(plan, *total, self.limit),
            (Ok([grant, total, nodes]), false) => self.slice.granted(plan, *grant, *total, *nodes, self.limit),
            (Err(_), true) => {}
            (Err(_), false) if terms.on_loss == OnLoss::Share => self.slice.lose(plan, self.limit, terms.nodes),
            (Err(_), false) => self.slice.lose_all(plan),
        }
        if let Err(fault) = &answer {
            fleet.complain("lease", fault);
        }
        answer.is_ok()
    }

    /// Tells what was counted since the last report, although no request comes any more that would, until all is told, or
    /// the process ends and cannot tell.
    async fn follow(&self, follower: &Follower, fleet: &Fleet, terms: &Terms, window: u32, key: &[u8]) {
        let refresh_ns = terms.refresh.as_nanos() as u64;
        loop {
            // What is counted until the next report is due begins none.
            let closing = follower.pause(terms.refresh).await;
            if !self.slice.owes(window) {
                return;
            }
            if closing {
                self.slice.make_due();
            }
            match self.slice.plan_report(window, refresh_ns, Now::read().monotonic_ns) {
                Some(plan) if !self.call(fleet, terms, plan, key).await && closing => return,
                Some(_) => {}
                // Another call is under way; else there was one that began with the next window.
                None if closing => tokio::time::sleep(LOOK).await,
                None => {}
            }
        }
    }

    /// Waits until something is held, the window is used up, or patience ends.
    pub async fn wait(&self, fleet: &Arc<Fleet>, terms: &Arc<Terms>, key: &dyn Fn(u64) -> Vec<u8>) -> (u32, Take) {
        let mut last = (self.window(Now::read()), Take::Over);
        let Some(_waiting) = Waiting::begin(fleet) else { return last };
        let looks = (terms.refresh * PATIENCE).as_millis() / LOOK.as_millis();
        for _ in 0..looks.max(2) {
            tokio::time::sleep(LOOK).await;
            last = self.take(fleet, terms, Now::read(), key);
            if last.1 != Take::Short || self.slice.is_lost(last.0) {
                break;
            }
        }
        last
    }
}

/// Ends a call, answered or not.
struct Done<'a>(&'a Slice);

impl Drop for Done<'_> {
    fn drop(&mut self) {
        self.0.done();
    }
}

/// One of those who wait.
struct Waiting<'a>(&'a Fleet);

impl<'a> Waiting<'a> {
    fn begin(fleet: &'a Fleet) -> Option<Self> {
        fleet.enter(WAITING_MAX).then_some(Waiting(fleet))
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.leave();
    }
}

/// One limit of one identity of which no slice is held, since too many are: the store is asked for every request, and
/// counts them beside what others hold.
pub struct Single {
    /// As of an account.
    pub key: u64,
    /// The store's key of the window.
    pub store_key: Vec<u8>,
    /// Requests in a window.
    pub limit: u64,
    /// The window's length.
    pub period: Period,
}

impl Single {
    /// Counts one request, unless nothing is left.
    ///
    /// # Errors
    /// Why there is no answer.
    pub async fn take(&self, fleet: &Fleet, server: &Arc<Server>, unix_s: u64) -> Result<Usage, Fault> {
        let [granted, total, _] = self.ask(fleet, server, 1, unix_s).await?;
        let reset_s = self.period.window(unix_s).1.saturating_sub(unix_s).max(1);
        Ok(Usage { admitted: granted == 1, remaining: self.limit.saturating_sub(total), reset_s })
    }

    /// Gives one back: another limit refused the request. When that does not reach the store, it stays counted.
    pub async fn give_back(&self, fleet: &Fleet, server: &Arc<Server>, unix_s: u64) {
        let _ = self.ask(fleet, server, -1, unix_s).await;
    }

    async fn ask(&self, fleet: &Fleet, server: &Arc<Server>, want: i64, unix_s: u64) -> Result<[u64; 3], Fault> {
        let mut script = LEASE.key(&self.store_key[..]);
        // Not the field of a slice, which says itself what it holds.
        script.arg(format!("{}:{:x}:single", fleet.node(), self.key)).arg("").arg(want).arg(self.limit);
        script.arg(life_s(self.period, unix_s, unix_s));
        let answer = numbers(server, &script).await;
        fleet.calls.note(&answer);
        answer
    }
}

async fn ask(fleet: &Fleet, terms: &Terms, account: &Account, plan: Plan, key: &[u8]) -> Result<[u64; 3], Fault> {
    let mut script;
    let of_s = account.period.begin(plan.window);
    let life_s = life_s(account.period, of_s, crate::clock::unix_ns() / 1_000_000_000);
    if terms.counts {
        script = ADD.key(key);
        script.arg(plan.want).arg(life_s);
    } else {
        script = LEASE.key(key);
        script
            .arg(format!("{}:{:x}", fleet.node(), account.key))
            .arg(plan.claim)
            .arg(plan.want)
            .arg(account.limit)
            .arg(life_s);
    }
    numbers(&terms.server, &script).await
}

async fn numbers(server: &Arc<Server>, script: &ScriptInvocation<'_>) -> Result<[u64; 3], Fault> {
    let answer = link::call(server, script).await?;
    let told = Vec::<i64>::from_redis_value(answer).map_err(|error| link::refused(server, &error))?;
    let mut numbers = [0; 3];
    for (number, told) in numbers.iter_mut().zip(told) {
        *number = u64::try_from(told).unwrap_or(0);
    }
    Ok(numbers)
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;

    use super::*;

    #[tokio::test]
    async fn a_request_asks_for_the_window_in_which_it_counts() {
        let server = Server {
            host: "127.0.0.1".to_owned(),
            port: 1,
            database: 0,
            username: None,
            password: None,
            tls: None,
            timeout: Duration::from_millis(100),
        };
        let terms = |counts| Terms {
            server: Arc::new(server.clone()),
            refresh: Duration::from_millis(100),
            on_loss: OnLoss::Closed,
            nodes: 1,
            counts,
        };
        for (period, counts) in [(Period::Second, false), (Period::Minute, false), (Period::Minute, true)] {
            // 2026-11-24T12:34:59Z, when another worker has counted in the next window already.
            let now = Now { unix_ns: 1_795_523_699_000_000_000, monotonic_ns: 1 };
            let account = Account { key: 1, slice: Arc::default(), limit: 5, period };
            let newer = account.slice.running(period.window(1_795_523_700).0);
            let asked = RefCell::new(Vec::new());
            let key = |unix_s| {
                asked.borrow_mut().push(unix_s);
                Vec::new()
            };
            let took = tokio::task::LocalSet::new()
                .run_until(async { account.take(&Arc::default(), &Arc::new(terms(counts)), now, &key) })
                .await;
            assert_eq!(took, (newer, if counts { Take::Taken(4) } else { Take::Short }), "{period:?}");
            assert_eq!(*asked.borrow(), [1_795_523_700], "{period:?}");
        }
    }
}
