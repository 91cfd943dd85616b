//! Kong's `rate-limiting` with policy `local`: fixed windows of the UTC calendar, exact across workers. It counts and
//! says so in headers; it must not know what becomes of those who do not listen.

mod config;

use std::borrow::Cow;
use std::hash::{BuildHasher, DefaultHasher, Hash, Hasher};
use std::sync::Arc;

use http::header::{HeaderName, HeaderValue};
use http::{HeaderMap, StatusCode};
use smallvec::SmallVec;

use crate::document::Fields;
use crate::identity::Identities;
use crate::limits::window::{Period, Usage};
use crate::plugins::{Flow, Kind, Plugin, Setup, Shared};
use crate::proxy::exchange::{Exchange, Put};
use crate::proxy::reply::Reply;

/// The kind.
pub const KIND: Kind = Kind { name: "rate-limiting", priority: 910, consumer_scope: true, compile };

const LIMIT: HeaderName = HeaderName::from_static("ratelimit-limit");
const REMAINING: HeaderName = HeaderName::from_static("ratelimit-remaining");
const RESET: HeaderName = HeaderName::from_static("ratelimit-reset");

const NANOS: u64 = 1_000_000_000;

/// Whose requests share a counter; all fall back to the client's address.
#[derive(Clone, Debug)]
enum LimitBy {
    Consumer,
    Credential,
    Ip,
    Service,
    Header(HeaderName),
    Path(String),
}

struct Limit {
    period: Period,
    requests: u64,
    requests_value: HeaderValue,
    limit_name: HeaderName,
    remaining_name: HeaderName,
}

struct RateLimiting {
    /// Shortest period first.
    limits: Vec<Limit>,
    by: LimitBy,
    /// Has taken in the plugin's route and service already: the prefix of Kong's key.
    scope: DefaultHasher,
    identities: Arc<Identities>,
    shared: Arc<Shared>,
    hide_client_headers: bool,
    error_code: StatusCode,
    error_message: Cow<'static, str>,
}

/// What each limit says, in the order of `RateLimiting::limits`.
type Usages = SmallVec<[Usage; 2]>;

impl Plugin for RateLimiting {
    fn on_request(&self, exchange: &mut Exchange) -> Flow {
        let unix_s = exchange.started_unix_ns / NANOS;
        let (usages, refused) = self.count(self.key(exchange), unix_s);
        let mut reply = refused.then(|| Reply::templated("rate-limiting", self.error_code, self.error_message.clone()));
        if !self.hide_client_headers {
            let reset_s = self.tell(&usages, exchange);
            reply = reply.map(|r| r.retry_after(reset_s));
        }
        reply.map_or(Flow::Continue, Flow::from)
    }

    /// By the period that grants most.
    fn quota(&self) -> Option<u64> {
        let by_caller = matches!(self.by, LimitBy::Consumer | LimitBy::Credential);
        let rates = self.limits.iter().map(|limit| limit.requests.div_ceil(limit.period.seconds_min()));
        rates.max().filter(|_| by_caller)
    }
}

impl RateLimiting {
    /// Hash of scope and identifier, keyed at random so that nobody can aim at the counter of another.
    fn key(&self, exchange: &Exchange) -> u64 {
        let mut hasher = self.scope.clone();
        match self.identifier(exchange) {
            Some(identifier) => identifier.hash(&mut hasher),
            None => exchange.client.ip.to_canonical().hash(&mut hasher),
        }
        hasher.finish()
    }

    fn identifier<'a>(&'a self, exchange: &'a Exchange) -> Option<&'a [u8]> {
        let credential = || exchange.credential().map(|c| c.as_bytes());
        match &self.by {
            LimitBy::Ip => None,
            LimitBy::Consumer => match exchange.consumer().and_then(|c| self.identities.consumer(c)) {
                Some(consumer) => Some(consumer.id.as_bytes()),
                None => credential(),
            },
            LimitBy::Credential => credential(),
            LimitBy::Service => exchange.route.as_ref()?.service.as_ref().map(|s| s.id.as_bytes()),
            LimitBy::Header(name) => first(&exchange.request.headers, name),
            LimitBy::Path(path) => (exchange.path == *path).then_some(path.as_bytes()),
        }
    }

    /// Counts the request in every period, or in none when one refuses it.
    fn count(&self, key: u64, unix_s: u64) -> (Usages, bool) {
        let windows = &self.shared.windows;
        let mut usages = Usages::new();
        for (limit, period) in self.limits.iter().map(|l| (l.requests, l.period)) {
            let usage = windows.count(key, period, limit, unix_s);
            usages.push(usage);
            if !usage.admitted {
                self.take_back(&mut usages, key, unix_s);
                return (usages, true);
            }
        }
        (usages, false)
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

    /// Puts the headers on the answer: a pair for each period, and those of the tightest window, whose seconds to its
    /// end are returned.
    fn tell(&self, usages: &Usages, exchange: &mut Exchange) -> u64 {
        let headers = &mut exchange.response_headers;
        headers.reserve(2 * self.limits.len() + 3);
        let mut tightest: Option<(&Limit, Usage)> = None;
        for (limit, usage) in self.limits.iter().zip(usages) {
            headers.push((limit.limit_name.clone(), limit.requests_value.clone(), Put::Set));
            headers.push((limit.remaining_name.clone(), HeaderValue::from(usage.remaining), Put::Set));
            // Of equals the longer period counts.
            if tightest.is_none_or(|(_, t)| usage.remaining <= t.remaining) {
                tightest = Some((limit, *usage));
            }
        }
        let Some((limit, usage)) = tightest else { return 1 };
        headers.push((LIMIT, limit.requests_value.clone(), Put::Set));
        headers.push((REMAINING, HeaderValue::from(usage.remaining), Put::Set));
        headers.push((RESET, HeaderValue::from(usage.reset_s), Put::Set));
        usage.reset_s
    }
}

fn first<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Option<&'a [u8]> {
    headers.get(name).map(HeaderValue::as_bytes)
}

fn compile(fields: &Fields<'_>, setup: &Setup<'_>) -> Option<Arc<dyn Plugin>> {
    let limits = config::limits(fields);
    let by = config::limit_by(fields);
    config::report_policy(fields);
    // The local store cannot fail, and there is nothing to synchronise.
    fields.boolean("fault_tolerant");
    fields.number("sync_rate", -1.0..=f64::MAX);
    let error_code = fields.integer("error_code", 200..=599).unwrap_or(429);
    let error_message = fields.string("error_message").map_or("API rate limit exceeded".into(), Cow::Owned);
    let hide_client_headers = fields.boolean("hide_client_headers").unwrap_or(false);
    let mut scope = setup.shared.hash_keys.build_hasher();
    (setup.route, setup.service).hash(&mut scope);
    Some(Arc::new(RateLimiting {
        limits: limits?,
        by: by?,
        scope,
        identities: Arc::clone(setup.identities),
        shared: Arc::clone(setup.shared),
        hide_client_headers,
        error_code: StatusCode::from_u16(error_code as u16).unwrap_or(StatusCode::TOO_MANY_REQUESTS),
        error_message,
    }))
}

#[cfg(test)]
mod tests {
    use super::*;
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
        Some(Authenticated { consumer, credential: credential.map(Arc::from) })
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
            ("minute: 1\npolicy: redis", "policy `redis`"),
            ("minute: 1\nminutes: 1", "did you mean `minute`?"),
            ("minute: 1\nredis: {hots: x}", "did you mean `host`?"),
        ] {
            let report = bad(&KIND, config);
            assert!(report.contains(words), "{config}: {report}");
        }
    }

    #[test]
    fn old_and_unbuilt_settings_are_warnings() {
        let (plugin, report) = build(&KIND, "{minute: 1, policy: redis, redis_host: h}", true, &shared());
        assert!(plugin.is_some());
        assert!(report.contains("`redis_host` is deprecated: it is `redis.host` now"), "{report}");
        assert!(!report.contains("error"), "{report}");
    }
}
