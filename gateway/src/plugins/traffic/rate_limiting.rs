//! Kong's `rate-limiting`: fixed windows of the UTC calendar, counted in this process or in Redis, exact in both. It counts
//! and says so in headers; it must not know what becomes of those who do not listen.

mod config;
mod shared;

use std::borrow::Cow;
use std::hash::{BuildHasher, DefaultHasher, Hash, Hasher};
use std::sync::Arc;

use http::StatusCode;
use smallvec::SmallVec;

use super::quota::by::{By, Who};
use super::quota::headers::{Named, Style};
use crate::document::Fields;
use crate::identity::Identities;
use crate::limits::store::lease::{Now, Terms};
use crate::limits::store::{Fault, Server};
use crate::limits::window::{Period, Usage};
use crate::plugins::{Flow, Kind, Plugin, Setup, Shared};
use crate::proxy::exchange::Exchange;
use crate::proxy::reply::Reply;

/// The kind.
pub const KIND: Kind = Kind { name: "rate-limiting", priority: 910, consumer_scope: true, compile };

const NANOS: u64 = 1_000_000_000;

struct Limit {
    period: Period,
    requests: u64,
    named: Named,
}

struct RateLimiting(Arc<Rule>);

struct Rule {
    /// Shortest period first.
    limits: Vec<Limit>,
    who: Who,
    /// Has taken in the plugin's route and service already: the prefix of Kong's key.
    scope: DefaultHasher,
    route: String,
    service: String,
    identities: Arc<Identities>,
    shared: Arc<Shared>,
    store: Store,
    fault_tolerant: bool,
    style: Style,
    error_code: StatusCode,
    error_message: Cow<'static, str>,
}

/// Where is counted.
enum Store {
    /// In this process.
    Local,
    /// In Redis: limits from `from` requests on by `terms`, lower ones for every request.
    Redis { server: Arc<Server>, terms: Option<Arc<Terms>>, from: u64 },
}

/// What each limit says, in the order of `Rule::limits`.
type Usages = SmallVec<[Usage; 2]>;

impl Plugin for RateLimiting {
    fn on_request(&self, exchange: &mut Exchange) -> Flow {
        let rule = &self.0;
        let key = rule.key(exchange);
        match &rule.store {
            Store::Local => {
                let usages = rule.count(key, exchange.started_unix_ns / NANOS);
                rule.answer(&usages, exchange)
            }
            Store::Redis { server, terms, from } => {
                // A head may take its time, and a window that is over may be forgotten there.
                let now = Now::read();
                match rule.shared.fleet.denials.of(key, now.unix_ns / NANOS) {
                    Some(usages) => rule.answer(&usages, exchange),
                    None => shared::pass(rule, server, terms.as_ref().map(|terms| (terms, *from)), key, now, exchange),
                }
            }
        }
    }

    /// By the period that grants most.
    fn quota(&self) -> Option<u64> {
        let by_caller = matches!(self.0.who.by, By::Consumer | By::Credential);
        let rates = self.0.limits.iter().map(|limit| limit.requests.div_ceil(limit.period.seconds_min()));
        rates.max().filter(|_| by_caller)
    }
}

impl Rule {
    /// Hash of scope and identifier, keyed at random so that nobody can aim at the counter of another.
    fn key(&self, exchange: &Exchange) -> u64 {
        let mut hasher = self.scope.clone();
        match self.who.known(exchange, &self.identities) {
            Some(identifier) => identifier.hash(&mut hasher),
            None => self.who.address(exchange.client.ip).hash(&mut hasher),
        }
        hasher.finish()
    }

    /// Counts the request in every period, or in none when one refuses it.
    fn count(&self, key: u64, unix_s: u64) -> Usages {
        let windows = &self.shared.windows;
        let mut usages = Usages::new();
        for (limit, period) in self.limits.iter().map(|l| (l.requests, l.period)) {
            let usage = windows.count(key, period, limit, unix_s);
            usages.push(usage);
            if !usage.admitted {
                self.take_back(&mut usages, key, unix_s);
                break;
            }
        }
        usages
    }

    /// The last of `usages` refused: the shorter periods give back their count, the longer ones are only read.
    fn take_back(&self, usages: &mut Usages, key: u64, unix_s: u64) {
        let refusing = usages.len() - 1;
        for (limit, usage) in self.limits.iter().zip(usages.iter_mut()).take(refusing) {
            self.shared.windows.uncount(key, limit.period, unix_s);
            usage.remaining += 1;
        }
        for limit in &self.limits[refusing + 1..] {
            usages.push(self.shared.windows.look(key, limit.period, limit.requests, unix_s));
        }
    }

    /// Tells the client where it stands; the answer, when a limit refused.
    fn answer(&self, usages: &Usages, exchange: &mut Exchange) -> Flow {
        let reset_s = self.style.tell(self.limits.iter().map(|l| &l.named).zip(usages.iter().copied()), exchange);
        if usages.iter().all(|usage| usage.admitted) {
            return Flow::Continue;
        }
        let reply = Reply::templated(KIND.name, self.error_code, self.error_message.clone());
        match reset_s {
            Some(reset_s) => reply.retry_after(reset_s).into(),
            None => reply.into(),
        }
    }

    /// The store gave no answer: as Kong, the request passes without headers, or fails.
    fn without_store(&self, fault: &Fault) -> Flow {
        self.shared.fleet.complain(KIND.name, fault);
        if self.fault_tolerant { Flow::Continue } else { failure().into() }
    }
}

fn failure() -> Reply {
    Reply::templated(KIND.name, StatusCode::INTERNAL_SERVER_ERROR, "An unexpected error occurred")
}

fn compile(fields: &Fields<'_>, setup: &Setup<'_>) -> Option<Arc<dyn Plugin>> {
    let limits = config::limits(fields);
    let who = Who::read(fields, "limit_by", 6);
    let store = config::store(fields);
    let fault_tolerant = fields.boolean("fault_tolerant").unwrap_or(true);
    let error_code = fields.integer("error_code", 200..=599).unwrap_or(429);
    let error_message = fields.string("error_message").map_or("API rate limit exceeded".into(), Cow::Owned);
    let style = Style::read(fields);
    let (limits, store) = (limits?, store?);
    if !config::holds(fields, &limits, &store) {
        return None;
    }
    let mut scope = setup.shared.hash_keys.build_hasher();
    (setup.route, setup.service).hash(&mut scope);
    if let Store::Redis { server, terms, from } = &store {
        // A denial or a slice by another server, or of another limit, is none here.
        (server, terms, from).hash(&mut scope);
        limits.iter().for_each(|limit| (limit.period, limit.requests).hash(&mut scope));
    }
    Some(Arc::new(RateLimiting(Arc::new(Rule {
        limits,
        who: who?,
        scope,
        route: setup.route.to_owned(),
        service: setup.service.to_owned(),
        identities: Arc::clone(setup.identities),
        shared: Arc::clone(setup.shared),
        store,
        fault_tolerant,
        style,
        error_code: StatusCode::from_u16(error_code as u16).unwrap_or(StatusCode::TOO_MANY_REQUESTS),
        error_message,
    }))))
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::HeaderValue;

    use crate::plugins::fixture::{bad, compile as build, good, pass, reply, route, shared, told};
    use crate::proxy::exchange::Authenticated;

    fn request() -> Exchange {
        Exchange::for_test("GET", "/a", &[])
    }

    #[test]
    fn each_answer_says_what_is_left_and_the_limit_is_exact() {
        let plugin = good(&KIND, "{minute: 2, policy: local, limit_by: ip, redis: {host: h, port: 1}}");
        for left in ["1", "0"] {
            let mut ex = request();
            pass(&plugin, &mut ex);
            assert_eq!(told(&ex, "x-ratelimit-limit-minute").as_deref(), Some("2"));
            assert_eq!(told(&ex, "x-ratelimit-remaining-minute").as_deref(), Some(left));
            assert_eq!(told(&ex, "ratelimit-limit").as_deref(), Some("2"));
            assert_eq!(told(&ex, "ratelimit-remaining").as_deref(), Some(left));
            // 1_700_000_000 is 20 s into its minute.
            assert_eq!(told(&ex, "ratelimit-reset").as_deref(), Some("40"));
        }
        let mut ex = request();
        let refused = reply(&plugin, &mut ex);
        assert_eq!((refused.status.as_u16(), refused.retry_after_seconds()), (429, Some(40)));
        assert_eq!(told(&ex, "x-ratelimit-remaining-minute").as_deref(), Some("0"));
        assert!(matches!(refused.text, crate::proxy::reply::Text::Templated(t) if t == "API rate limit exceeded"));
        let mut ex = request();
        ex.started_unix_ns += 40 * NANOS;
        pass(&plugin, &mut ex);
    }

    #[test]
    fn a_refused_request_is_counted_in_no_period() {
        let shared = shared();
        let (plugin, _) = build(&KIND, "{second: 2, minute: 3, hour: 9, limit_by: ip}", false, &shared);
        let plugin = plugin.expect("compiles");
        for second in [0, 0, 1] {
            let mut ex = request();
            ex.started_unix_ns += second * NANOS;
            pass(&plugin, &mut ex);
        }
        for _ in 0..5 {
            let mut ex = request();
            ex.started_unix_ns += NANOS;
            assert_eq!(reply(&plugin, &mut ex).retry_after_seconds(), Some(39), "the minute's end");
            assert_eq!(told(&ex, "x-ratelimit-remaining-second").as_deref(), Some("1"));
            assert_eq!(told(&ex, "x-ratelimit-remaining-minute").as_deref(), Some("0"));
            assert_eq!(told(&ex, "x-ratelimit-remaining-hour").as_deref(), Some("6"));
            assert_eq!(told(&ex, "ratelimit-limit").as_deref(), Some("3"));
        }
    }

    #[test]
    fn threads_share_one_limit_exactly_and_refusals_leave_the_longer_period_alone() {
        let shared = shared();
        let plugin = build(&KIND, "{minute: 100, hour: 300, limit_by: ip}", false, &shared).0.expect("compiles");
        let passed = || (0..200).filter(|_| matches!(plugin.on_request(&mut request()), Flow::Continue)).count();
        let admitted: usize = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..4).map(|_| scope.spawn(passed)).collect();
            threads.into_iter().map(|t| t.join().expect("no panic")).sum()
        });
        assert_eq!(admitted, 100);
        let mut ex = request();
        reply(&plugin, &mut ex);
        assert_eq!(told(&ex, "x-ratelimit-remaining-hour").as_deref(), Some("200"));
    }

    #[test]
    fn of_equally_tight_windows_the_longer_counts() {
        let plugin = good(&KIND, "{second: 5, minute: 5, limit_by: ip}");
        let mut ex = request();
        pass(&plugin, &mut ex);
        assert_eq!(told(&ex, "ratelimit-reset").as_deref(), Some("40"));
    }

    #[test]
    fn hidden_headers_and_own_words() {
        let plugin =
            good(&KIND, "{minute: 1, limit_by: ip, hide_client_headers: true, error_code: 404, error_message: gone}");
        pass(&plugin, &mut request());
        let mut ex = request();
        let refused = reply(&plugin, &mut ex);
        assert_eq!((refused.status.as_u16(), refused.retry_after_seconds()), (404, None));
        assert!(ex.response_headers.is_empty());
    }

    /// Sends `first` until it is refused, then tells whether `second` is refused too.
    fn shares(config: &str, first: fn(&mut Exchange), second: fn(&mut Exchange)) -> bool {
        let plugin = good(&KIND, &format!("{{minute: 1, {config}}}"));
        let send = |with: fn(&mut Exchange)| {
            let mut ex = request();
            ex.request.headers.insert("x-key", HeaderValue::from_static("same"));
            ex.route = Some(route("r", "s"));
            with(&mut ex);
            plugin.on_request(&mut ex)
        };
        assert!(matches!(send(first), Flow::Continue));
        assert!(matches!(send(first), Flow::Reply(_)));
        matches!(send(second), Flow::Reply(_))
    }

    fn known(consumer: Option<u32>, credential: Option<&str>) -> Option<Authenticated> {
        Some(Authenticated { consumer, credential: credential.map(Arc::from), groups: None })
    }

    fn elsewhere(ex: &mut Exchange) {
        ex.client.ip = "192.0.2.9".parse().expect("address");
    }

    #[test]
    fn identities_have_counters_of_their_own() {
        assert!(!shares("limit_by: ip", |_| {}, elsewhere));
        assert!(shares("limit_by: ip", |_| {}, |ex| ex.client.ip = "::ffff:127.0.0.1".parse().expect("address")));
        assert!(!shares(
            "limit_by: consumer",
            |ex| ex.authenticated = known(Some(0), None),
            |ex| {
                ex.authenticated = known(Some(1), None);
            }
        ));
        assert!(shares(
            "limit_by: consumer",
            |ex| ex.authenticated = known(Some(0), Some("c1")),
            |ex| {
                elsewhere(ex);
                ex.authenticated = known(Some(0), Some("c2"));
            }
        ));
        assert!(!shares(
            "limit_by: credential",
            |ex| ex.authenticated = known(Some(0), Some("c1")),
            |ex| ex.authenticated = known(Some(0), Some("c2"))
        ));
        assert!(shares("limit_by: service", |_| {}, elsewhere));
        assert!(!shares("limit_by: service", |_| {}, |ex| ex.route = Some(route("r", "s9"))));
        assert!(shares("limit_by: header, header_name: X-Key", |_| {}, elsewhere));
        assert!(shares("limit_by: path, path: /a", |_| {}, elsewhere));
    }

    #[test]
    fn a_missing_identity_falls_back_to_the_address() {
        assert!(shares("limit_by: consumer", |_| {}, |_| {}));
        assert!(!shares("limit_by: consumer", |_| {}, elsewhere));
        assert!(!shares("limit_by: header, header_name: x-none", |_| {}, elsewhere));
        assert!(!shares("limit_by: path, path: /b", |_| {}, elsewhere));
        assert!(!shares(
            "limit_by: service",
            |ex| ex.route = None,
            |ex| {
                ex.route = None;
                elsewhere(ex);
            }
        ));
    }

    #[test]
    fn faulty_configurations_are_told_where() {
        for (config, words) in [
            ("policy: local", "has no limit"),
            ("second: 10\nminute: 5", ":2:1: error: the limit of `minute` (5) is lower than that of `second` (10)"),
            ("minute: 0", "an integer from 1"),
            ("minute: 1\nlimit_by: header", "required field `header_name`"),
            ("minute: 1\nlimit_by: header\nheader_name: 'a b'", "no header name"),
            ("minute: 1\nlimit_by: path", "required field `path`"),
            ("minute: 1\nlimit_by: path\npath: x", "does not begin with `/`"),
            ("minute: 1\nlimit_by: who", "`limit_by` is `who`"),
            ("minute: 1\npolicy: cluster", ":2:1: error: rate-limiting policy `cluster` needs a database"),
            ("minute: 1\npolicy: redis", "policy `redis` needs to know where Redis is"),
            ("minute: 1\npolicy: redis\nredis: {host: h}\nsync_rate: 0.01", "`sync_rate` is 0.01"),
            ("minute: 1\nredis: {host: h, port: 0}", "an integer from 1 to 65535"),
            ("minute: 1\nipv6_prefix: 129", "an integer from 1 to 128"),
            ("second: 4294967296", ":1:1: error: the limit of `second` (4294967296) is more than policy `local`"),
            ("day: 281474976710656", "an integer from 1 to 281474976710655"),
            (
                "year: 4294967296\npolicy: redis\nredis: {host: h}\nlease: {}",
                "more than `lease` or `sync_rate` can count",
            ),
            ("year: 4294967296\npolicy: redis\nredis: {host: h}\nsync_rate: 1", "an integer from 1 to 4294967295"),
            ("minute: 1\nminutes: 1", "did you mean `minute`?"),
            ("minute: 1\nredis: {hots: x}", "did you mean `host`?"),
        ] {
            let report = bad(&KIND, config);
            assert!(report.contains(words), "{config}: {report}");
        }
    }

    #[test]
    fn large_limits_are_taken_where_they_can_be_counted() {
        good(&KIND, "{year: 281474976710655, limit_by: ip}");
        good(&KIND, "{year: 9223372036854775807, policy: redis, redis: {host: h}}");
        good(&KIND, "{year: 4294967295, policy: redis, redis: {host: h}, lease: {}}");
    }

    #[test]
    fn old_names_of_the_server_are_warnings() {
        let (plugin, report) = build(&KIND, "{minute: 1, policy: redis, redis_host: h}", false, &shared());
        assert!(plugin.is_some());
        assert!(report.contains("`redis_host` is deprecated: it is `redis.host` now"), "{report}");
        assert!(!report.contains("error"), "{report}");
    }
}
