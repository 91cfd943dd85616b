//! Kong's `rate-limiting-advanced`: several windows of any length at once, fixed or sliding, counted in this process, in
//! Redis, or here and brought together at an interval. It counts and says so in headers; it must not know what becomes of
//! those who do not listen.

mod config;

use std::borrow::Cow;
use std::hash::{BuildHasher, DefaultHasher, Hash, Hasher};
use std::sync::Arc;
use std::time::Duration;

use http::StatusCode;
use smallvec::SmallVec;

use super::quota::caller::Caller;
use super::quota::headers::{Named, Style};
use crate::document::Fields;
use crate::identity::Identities;
use crate::limits::span::{Counted, Held, Span};
use crate::limits::store::shared_spans::{self, Account, Act};
use crate::limits::store::{Fault, Server};
use crate::limits::window::Usage;
use crate::plugins::{Flow, Kind, Plugin, Resume, Setup, Shared};
use crate::proxy::exchange::Exchange;
use crate::proxy::reply::Reply;

/// The kind.
pub const KIND: Kind = Kind { name: "rate-limiting-advanced", priority: 910, consumer_scope: true, compile };

const NANOS: u64 = 1_000_000_000;

struct Limit {
    seconds: u32,
    requests: u64,
    named: Named,
}

struct RateLimitingAdvanced(Arc<Rule>);

struct Rule {
    /// Shortest window first.
    limits: Vec<Limit>,
    sliding: bool,
    caller: Caller,
    /// Has taken in the namespace already.
    scope: DefaultHasher,
    /// First part of the store's keys.
    name: Vec<u8>,
    identities: Arc<Identities>,
    shared: Arc<Shared>,
    store: Store,
    /// Whether those who are refused count too (Kong: not `disable_penalty`, sliding windows only).
    penalty: bool,
    style: Style,
    jitter_max_s: u64,
    error_code: StatusCode,
    error_message: Cow<'static, str>,
}

/// Where is counted.
enum Store {
    /// In this process.
    Local,
    /// In Redis, for every request.
    Each(Arc<Server>),
    /// In this process, and brought together with others by Redis at an interval.
    Together(Arc<Server>, Duration),
}

/// What each limit says, in the order of `Rule::limits`.
type Usages = SmallVec<[Usage; 2]>;

impl Plugin for RateLimitingAdvanced {
    fn on_request(&self, exchange: &mut Exchange) -> Flow {
        let rule = &self.0;
        let key = rule.key(exchange);
        match &rule.store {
            Store::Local => {
                let usages = rule.count(key, exchange.started_unix_ns, None);
                rule.answer(&usages, exchange)
            }
            Store::Together(server, every) => {
                let accounts = rule.accounts(key, exchange);
                let usages = rule.count(key, crate::clock::unix_ns(), Some(&accounts));
                for account in &accounts {
                    shared_spans::bring_together(&rule.shared.fleet, server, account, *every);
                }
                rule.answer(&usages, exchange)
            }
            Store::Each(server) => rule.ask(server, key, exchange),
        }
    }

    /// By the window that grants most.
    fn quota(&self) -> Option<u64> {
        let rates = self.0.limits.iter().map(|limit| limit.requests.div_ceil(u64::from(limit.seconds)));
        rates.max().filter(|_| self.0.caller.is_recognised())
    }
}

impl Rule {
    /// Hash of namespace and identifier, keyed at random so that nobody can aim at the counter of another.
    fn key(&self, exchange: &Exchange) -> u64 {
        let mut hasher = self.scope.clone();
        self.caller.hash(exchange, &self.identities, &mut hasher);
        hasher.finish()
    }

    fn span(&self, limit: &Limit) -> Span {
        Span { seconds: limit.seconds, sliding: self.sliding }
    }

    fn pair(&self, key: u64, limit: &Limit) -> Held {
        self.shared.spans.pair(key, limit.seconds)
    }

    fn accounts(&self, key: u64, exchange: &Exchange) -> SmallVec<[Account; 2]> {
        let mut name = self.name.clone();
        self.caller.write(exchange, &self.identities, &mut name);
        let name: Arc<[u8]> = name.into();
        let account = |limit: &Limit| Account {
            pair: self.pair(key, limit),
            span: self.span(limit),
            limit: limit.requests,
            name: Arc::clone(&name),
        };
        self.limits.iter().map(account).collect()
    }

    /// Counts the request in every window, or in none when one refuses it; with a penalty, until one refuses. What `owing`
    /// accounts count, the store is told later.
    fn count(&self, key: u64, unix_ns: u64, owing: Option<&[Account]>) -> Usages {
        let pairs: SmallVec<[Held; 2]> = self.limits.iter().map(|limit| self.pair(key, limit)).collect();
        let mut counted: SmallVec<[Counted; 2]> = SmallVec::new();
        for (pair, limit) in pairs.iter().zip(&self.limits) {
            let one = pair.count(self.span(limit), limit.requests, unix_ns, self.penalty);
            if one.counted && owing.is_some() {
                pair.owe(one.window, 1);
            }
            counted.push(one);
            if !one.usage.admitted {
                break;
            }
        }
        let refused = counted.last().is_some_and(|last| !last.usage.admitted);
        let mut usages: Usages = counted.iter().map(|one| one.usage).collect();
        if refused && !self.penalty {
            for ((pair, one), usage) in pairs.iter().zip(&counted).zip(&mut usages).filter(|((_, one), _)| one.counted)
            {
                pair.give_back(one.window);
                if owing.is_some() {
                    pair.owe_less(one.window);
                }
                usage.remaining += 1;
            }
        }
        for (pair, limit) in pairs.iter().zip(&self.limits).skip(counted.len()) {
            usages.push(pair.look(self.span(limit), limit.requests, unix_ns));
        }
        usages
    }

    /// Counts the request in Redis. Without an answer it counts here, and Redis is told when it is back (as Kong).
    fn ask(self: &Arc<Self>, server: &Arc<Server>, key: u64, exchange: &mut Exchange) -> Flow {
        let unix_ns = crate::clock::unix_ns();
        if let Some(usages) = self.shared.fleet.denials.of(key, unix_ns / NANOS) {
            return self.answer(&usages, exchange);
        }
        let accounts = self.accounts(key, exchange);
        let (rule, server) = (Arc::clone(self), Arc::clone(server));
        Flow::Wait(Box::pin(async move {
            let act = if rule.penalty { Act::Penalise } else { Act::Count };
            let answer = shared_spans::call(&server, &accounts, act, unix_ns).await;
            rule.shared.fleet.calls.note(&answer);
            let usages = match answer {
                Ok(usages) => rule.remember(key, usages, unix_ns / NANOS),
                Err(fault) => rule.count_alone(key, &accounts, &fault),
            };
            let resume: Resume = Box::new(move |exchange| rule.answer(&usages, exchange));
            resume
        }))
    }

    fn count_alone(&self, key: u64, accounts: &[Account], fault: &Fault) -> Usages {
        self.shared.fleet.complain(KIND.name, fault);
        self.count(key, crate::clock::unix_ns(), Some(accounts))
    }

    /// Who is refused and not counted for it costs no call until he would be admitted if nobody else came.
    fn remember(&self, key: u64, usages: Usages, unix_s: u64) -> Usages {
        if let Some(refused) = usages.iter().find(|usage| !usage.admitted).filter(|_| !self.penalty) {
            self.shared.fleet.denials.remember_until(key, &usages, unix_s, unix_s + refused.reset_s - 1);
        }
        usages
    }

    /// Tells the client where it stands; the answer, when a limit refused.
    fn answer(&self, usages: &Usages, exchange: &mut Exchange) -> Flow {
        let reset_s = self.style.tell(self.limits.iter().map(|l| &l.named).zip(usages.iter().copied()), exchange);
        if usages.iter().all(|usage| usage.admitted) {
            return Flow::Continue;
        }
        let reply = Reply::templated(KIND.name, self.error_code, self.error_message.clone());
        match reset_s {
            Some(reset_s) => reply.retry_after(reset_s + self.jitter_s(exchange)).into(),
            None => reply.into(),
        }
    }

    /// Seconds more for one who is to come again, so that not all come at once.
    fn jitter_s(&self, exchange: &Exchange) -> u64 {
        let mut hasher = self.scope.clone();
        exchange.request_id.as_str().hash(&mut hasher);
        hasher.finish() % (self.jitter_max_s + 1)
    }
}

fn compile(fields: &Fields<'_>, setup: &Setup<'_>) -> Option<Arc<dyn Plugin>> {
    let limits = config::limits(fields);
    let sliding = config::sliding(fields);
    let caller = Caller::read(fields, "identifier", "compound_identifier", setup.group);
    let store = config::store(fields);
    let namespace = fields.string("namespace").filter(|name| !name.is_empty()).unwrap_or_else(|| setup.id.to_owned());
    let disable_penalty = fields.boolean("disable_penalty").unwrap_or(false);
    let jitter_max_s = fields.integer("retry_after_jitter_max", 0..=86_400).unwrap_or(0) as u64;
    let error_code = fields.integer("error_code", 200..=599).unwrap_or(429);
    let error_message = fields.string("error_message").map_or("API rate limit exceeded".into(), Cow::Owned);
    let style = Style::read(fields);
    config::others(fields);
    let mut scope = setup.shared.hash_keys.build_hasher();
    (KIND.name, &namespace).hash(&mut scope);
    Some(Arc::new(RateLimitingAdvanced(Arc::new(Rule {
        limits: limits?,
        sliding: sliding?,
        caller: caller?,
        scope,
        name: format!("ratelimit-advanced:{namespace}:").into_bytes(),
        identities: Arc::clone(setup.identities),
        shared: Arc::clone(setup.shared),
        store: store?,
        penalty: sliding? && !disable_penalty,
        style,
        jitter_max_s,
        error_code: StatusCode::from_u16(error_code as u16).unwrap_or(StatusCode::TOO_MANY_REQUESTS),
        error_message,
    }))))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plugins::fixture::{bad, compile as build, good, pass, reply, shared, told};
    use crate::proxy::exchange::Authenticated;

    fn at(second: u64) -> Exchange {
        let mut ex = Exchange::for_test("GET", "/a", &[]);
        ex.started_unix_ns = second * NANOS;
        ex
    }

    #[test]
    fn several_windows_at_once_are_told_by_name_or_length() {
        let plugin = good(&KIND, "{limit: [5, 3], window_size: [3600, 30], identifier: ip, window_type: fixed}");
        for left in ["2", "1", "0"] {
            let mut ex = at(6000);
            pass(&plugin, &mut ex);
            assert_eq!(told(&ex, "x-ratelimit-limit-30").as_deref(), Some("3"));
            assert_eq!(told(&ex, "x-ratelimit-remaining-30").as_deref(), Some(left));
            assert_eq!(told(&ex, "x-ratelimit-limit-hour").as_deref(), Some("5"));
            assert_eq!(told(&ex, "ratelimit-reset").as_deref(), Some("30"));
        }
        let mut ex = at(6010);
        let refused = reply(&plugin, &mut ex);
        assert_eq!((refused.status.as_u16(), refused.retry_after_seconds()), (429, Some(20)));
        assert_eq!(told(&ex, "x-ratelimit-remaining-hour").as_deref(), Some("2"), "counted in none");
        let mut ex = at(6030);
        pass(&plugin, &mut ex);
        assert_eq!(told(&ex, "ratelimit-limit").as_deref(), Some("5"), "the hour is tighter now");
    }

    #[test]
    fn a_sliding_window_counts_those_who_are_refused_unless_told_not_to() {
        for (more, first) in [("", 6075), (", disable_penalty: true", 6066)] {
            let plugin = good(&KIND, &format!("{{limit: [10], window_size: [60], identifier: ip{more}}}"));
            for _ in 0..10 {
                pass(&plugin, &mut at(6000));
            }
            for _ in 0..2 {
                reply(&plugin, &mut at(6059));
            }
            pass(&plugin, &mut at(first));
        }
        let plugin = good(&KIND, "{limit: [10], window_size: [60], identifier: ip}");
        for _ in 0..12 {
            plugin.on_request(&mut at(6000));
        }
        assert_eq!(reply(&plugin, &mut at(6066)).retry_after_seconds(), Some(14), "twelve before, one now");
    }

    #[test]
    fn a_plugin_of_the_same_namespace_shares_the_counters() {
        let shared = shared();
        let of = |name: &str| {
            let text = format!("{{limit: [2], window_size: [60], identifier: ip, namespace: {name}}}");
            build(&KIND, &text, false, &shared).0.expect("compiles")
        };
        let (one, same, other) = (of("a"), of("a"), of("b"));
        pass(&one, &mut at(6000));
        pass(&same, &mut at(6000));
        reply(&one, &mut at(6000));
        pass(&other, &mut at(6000));
    }

    #[test]
    fn a_compound_identifier_takes_things_together() {
        let config = "{limit: [1], window_size: [60], compound_identifier: [consumer, path], path: /a}";
        let plugin = good(&KIND, config);
        let send = |consumer: u32, path: &str| {
            let mut ex = at(6000);
            ex.authenticated = Some(Authenticated { consumer: Some(consumer), credential: None, groups: None });
            ex.path = path.to_owned();
            matches!(plugin.on_request(&mut ex), Flow::Continue)
        };
        let passed = [send(0, "/a"), send(0, "/a"), send(1, "/a"), send(0, "/b"), send(0, "/c")];
        assert_eq!(passed, [true, false, true, true, false], "other paths count by address");
    }

    #[test]
    fn jitter_is_added_to_the_wait_alone() {
        let plugin = good(
            &KIND,
            "{limit: [0], window_size: [60], identifier: ip, window_type: fixed, retry_after_jitter_max: 5}",
        );
        let mut seen = std::collections::BTreeSet::new();
        for id in 0..64 {
            let mut ex = at(6000);
            ex.request_id = crate::proxy::exchange::RequestId::new(id);
            seen.extend(reply(&plugin, &mut ex).retry_after_seconds());
            assert_eq!(told(&ex, "ratelimit-reset").as_deref(), Some("60"));
        }
        assert_eq!(seen.into_iter().collect::<Vec<_>>(), [60, 61, 62, 63, 64, 65]);
    }

    #[test]
    fn faulty_configurations_are_told_where() {
        for (config, words) in [
            ("window_size: [1]", "required field `limit`"),
            ("limit: [1]", "required field `window_size`"),
            ("limit: [1, 2]\nwindow_size: [60]", ":2:1: error: You must provide the same number of windows and limits"),
            ("limit: []\nwindow_size: []", "at least one"),
            ("limit: [a]\nwindow_size: [60]", ":1:9: error: `limit` has a string"),
            ("limit: [1]\nwindow_size: [0]", "an integer from 1 to 315360000"),
            ("limit: [1, 2]\nwindow_size: [60, 60]", ":2:19: error: `window_size` has 60 twice"),
            ("limit: [9999999999]\nwindow_size: [60]", "an integer from 0 to 2147483647"),
            ("limit: [1]\nwindow_size: [60]\nwindow_type: rolling", "`window_type` is `rolling`"),
            ("limit: [1]\nwindow_size: [60]\nstrategy: cluster", "strategy `cluster` needs a database"),
            ("limit: [1]\nwindow_size: [60]\nstrategy: redis\nsync_rate: 0.01", "`sync_rate` is 0.01"),
            ("limit: [1]\nwindow_size: [60]\nidentifier: header", "required field `header_name`"),
            ("limit: [1]\nwindow_size: [60]\nidentifier: who", "`identifier` is `who`"),
            ("limit: [1]\nwindow_size: [60]\nidentifier: consumer-group", ":3:1: error: `consumer-group` counts"),
            ("limit: [1]\nwindow_size: [60]\ncompound_identifier: [ip, who]", "`compound_identifier` has `who`"),
            ("limit: [1]\nwindow_size: [60]\nthrottling: {enabled: true}", "not yet supported"),
            ("limit: [1]\nwindow_size: [60]\nenforce_consumer_groups: true", "not yet supported"),
            ("limit: [1]\nwindow_size: [60]\nredis: {sentinel_master: m}", "not yet supported"),
            ("limit: [1]\nwindow_size: [60]\nredis: {cluster_nodes: [{ip: a}]}", "not yet supported"),
            ("limit: [1]\nwindow_sise: [60]", "did you mean `window_size`?"),
        ] {
            let report = bad(&KIND, config);
            assert!(report.contains(words), "{config}: {report}");
        }
    }

    #[test]
    fn what_kong_writes_out_is_taken() {
        good(
            &KIND,
            "{limit: [5], window_size: [60.0], identifier: consumer, strategy: local, sync_rate: -1, dictionary_name: x, \
             lock_dictionary_name: locks, hide_client_headers: false, retry_after_jitter_max: 0, disable_penalty: false, \
             enforce_consumer_groups: false, consumer_groups: null, compound_identifier: null, \
             throttling: {enabled: false, interval: 5, queue_limit: 5, retry_times: 3}, \
             redis: {host: 127.0.0.1, port: 6379, connect_timeout: 2000, read_timeout: 2000, send_timeout: 2000, \
             keepalive_pool_size: 256, keepalive_backlog: null, cluster_max_redirections: 5, cluster_nodes: null, \
             sentinel_nodes: null, sentinel_master: null, sentinel_role: null, connection_is_proxied: false}}",
        );
    }
}
