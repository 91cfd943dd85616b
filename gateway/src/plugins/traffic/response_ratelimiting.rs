//! Kong's `response-ratelimiting`: the upstream says in a header of its answer what a request has used up. Reads before the
//! upstream is asked, counts when it has answered; it must not know what the units are.

use std::hash::{BuildHasher, DefaultHasher, Hash, Hasher};
use std::sync::Arc;

use http::StatusCode;
use http::header::{HeaderName, HeaderValue, RETRY_AFTER};

use super::quota::by::Who;
use super::quota::{periods, redis};
use crate::document::Fields;
use crate::identity::Identities;
use crate::limits::store::{Fault, Server, exact};
use crate::limits::window::Period;
use crate::plugins::{Flow, Kind, Plugin, Resume, Setup, Shared};
use crate::proxy::exchange::{Exchange, Put, Response};
use crate::proxy::reply::Reply;

/// The kind.
pub const KIND: Kind = Kind { name: "response-ratelimiting", priority: 900, consumer_scope: true, compile };

const NANOS: u64 = 1_000_000_000;
/// Units that one answer may ask for at most.
const UNITS_MAX: u64 = 1 << 32;

/// One window of a named limit.
struct Limit {
    name: Arc<str>,
    period: Period,
    units: u64,
    limit_name: HeaderName,
    remaining_name: HeaderName,
}

struct ResponseRatelimiting(Arc<Rule>);

struct Rule {
    /// Those of one name stand together, shortest period first.
    limits: Vec<Limit>,
    header: HeaderName,
    who: Who,
    scope: DefaultHasher,
    route: String,
    service: String,
    server: Option<Arc<Server>>,
    identities: Arc<Identities>,
    shared: Arc<Shared>,
    block_on_first_violation: bool,
    hide_client_headers: bool,
    fault_tolerant: bool,
}

impl Plugin for ResponseRatelimiting {
    fn on_request(&self, exchange: &mut Exchange) -> Flow {
        let rule = Arc::clone(&self.0);
        let Some(server) = rule.server.clone() else {
            let unix_s = exchange.started_unix_ns / NANOS;
            let look =
                |limit: &Limit| rule.shared.windows.look(rule.key(exchange, limit), limit.period, limit.units, unix_s);
            let left: Vec<u64> = rule.limits.iter().map(|limit| look(limit).remaining).collect();
            return rule.begin(unix_s, left.into(), exchange);
        };
        // A head may take its time, and a window that is over may be forgotten there.
        let unix_s = crate::clock::unix_ns() / NANOS;
        let keys: Vec<Vec<u8>> = rule.limits.iter().map(|limit| rule.store_key(exchange, limit, unix_s)).collect();
        Flow::Wait(Box::pin(async move {
            let answer = exact::read(&server, &keys).await;
            rule.shared.fleet.calls.note(&answer);
            let resume: Resume = Box::new(move |exchange| match answer {
                Ok(used) => {
                    let left = rule.limits.iter().zip(used).map(|(limit, used)| limit.units.saturating_sub(used));
                    rule.begin(unix_s, left.collect(), exchange)
                }
                Err(fault) => rule.without_store(&fault),
            });
            resume
        }))
    }

    fn on_response(&self, exchange: &mut Exchange, response: &mut Response) {
        let Some(quota) = exchange.response_quota.take() else { return };
        if response.from_upstream {
            self.0.end(quota.0, &quota.1, exchange, response);
        }
    }
}

impl Rule {
    fn key(&self, exchange: &Exchange, limit: &Limit) -> u64 {
        let mut hasher = self.scope.clone();
        self.who.identifier(exchange, &self.identities).hash(&mut hasher);
        limit.name.hash(&mut hasher);
        hasher.finish()
    }

    fn store_key(&self, exchange: &Exchange, limit: &Limit, unix_s: u64) -> Vec<u8> {
        let identifier = self.who.identifier(exchange, &self.identities);
        exact::response_key((&self.route, &self.service), &identifier, &limit.name, limit.period, unix_s)
    }

    /// Tells the upstream what is left of each limit, or refuses when one is used up.
    fn begin(&self, unix_s: u64, left: Box<[u64]>, exchange: &mut Exchange) -> Flow {
        for (at, limit) in self.limits.iter().enumerate() {
            if at > 0 && self.limits[at - 1].name == limit.name {
                continue;
            }
            let same = self.limits.iter().zip(&left).filter(|(other, _)| other.name == limit.name);
            let least = same.map(|(_, left)| *left).min().unwrap_or(0);
            if least == 0 && self.block_on_first_violation {
                let message = format!("API rate limit exceeded for '{}'", limit.name);
                return Reply::templated(KIND.name, StatusCode::TOO_MANY_REQUESTS, message).into();
            }
            if let Ok(name) = HeaderName::try_from(format!("x-ratelimit-remaining-{}", limit.name)) {
                exchange.request.headers.insert(name, HeaderValue::from(least));
            }
        }
        exchange.response_quota = Some(Box::new((unix_s, left)));
        Flow::Continue
    }

    /// Counts what the upstream says was used, tells the client, and refuses the answer of a limit that was used up.
    fn end(&self, unix_s: u64, left: &[u64], exchange: &mut Exchange, response: &mut Response) {
        let asked = self.asked(response);
        response.headers.remove(&self.header);
        let mut refused_until_s = None;
        for ((limit, left), asked) in self.limits.iter().zip(left).zip(&asked) {
            if !self.hide_client_headers {
                let told = left.saturating_sub(*asked);
                let headers = &mut exchange.response_headers;
                headers.push((limit.limit_name.clone(), HeaderValue::from(limit.units), Put::Set));
                headers.push((limit.remaining_name.clone(), HeaderValue::from(told), Put::Set));
            }
            if *asked > 0 && *left == 0 {
                refused_until_s = refused_until_s.max(Some(limit.period.window(unix_s).1));
            }
        }
        let Some(until_s) = refused_until_s else {
            self.count(&asked, exchange, unix_s);
            return;
        };
        response.status = StatusCode::TOO_MANY_REQUESTS;
        response.without_body = true;
        if !self.hide_client_headers {
            let wait_s = until_s.saturating_sub(unix_s).max(1);
            response.headers.insert(RETRY_AFTER, HeaderValue::from(wait_s));
        }
    }

    /// What the answer's header says was used of each limit: `name=number`, by commas.
    fn asked(&self, response: &Response) -> Vec<u64> {
        let mut asked = vec![0_u64; self.limits.len()];
        let lines = response.headers.get_all(&self.header).iter().filter_map(|value| value.to_str().ok());
        for (name, units) in lines.flat_map(|line| line.split(',')).filter_map(|pair| pair.split_once('=')) {
            let Ok(units) = units.trim().parse::<u64>() else { continue };
            for (limit, asked) in self.limits.iter().zip(&mut asked) {
                if &*limit.name == name.trim() {
                    *asked = units.min(UNITS_MAX);
                }
            }
        }
        asked
    }

    fn count(&self, asked: &[u64], exchange: &Exchange, unix_s: u64) {
        for (limit, units) in self.limits.iter().zip(asked).filter(|(_, units)| **units > 0) {
            let Some(server) = &self.server else {
                self.shared.windows.add(self.key(exchange, limit), limit.period, *units, unix_s);
                continue;
            };
            let key = self.store_key(exchange, limit, unix_s);
            let (server, shared, units, period) = (Arc::clone(server), Arc::clone(&self.shared), *units, limit.period);
            tokio::task::spawn_local(async move {
                let answer = exact::add(&server, &key, units, period, unix_s).await;
                shared.fleet.calls.note(&answer);
                if let Err(fault) = answer {
                    shared.fleet.complain(KIND.name, &fault);
                }
            });
        }
    }

    fn without_store(&self, fault: &Fault) -> Flow {
        self.shared.fleet.complain(KIND.name, fault);
        if self.fault_tolerant {
            return Flow::Continue;
        }
        Reply::templated(KIND.name, StatusCode::INTERNAL_SERVER_ERROR, "An unexpected error occurred").into()
    }
}

fn compile(fields: &Fields<'_>, setup: &Setup<'_>) -> Option<Arc<dyn Plugin>> {
    let who = Who::read(fields, "limit_by", 3);
    let server = server(fields);
    let header = header(fields);
    let limits = limits(fields, matches!(server, Some(None)));
    let flag = |name, default| fields.boolean(name).unwrap_or(default);
    let (fault_tolerant, block) = (flag("fault_tolerant", true), flag("block_on_first_violation", false));
    let hide_client_headers = flag("hide_client_headers", false);
    let mut scope = setup.shared.hash_keys.build_hasher();
    (KIND.name, setup.route, setup.service).hash(&mut scope);
    Some(Arc::new(ResponseRatelimiting(Arc::new(Rule {
        limits: limits?,
        header: header?,
        who: who?,
        scope,
        route: setup.route.to_owned(),
        service: setup.service.to_owned(),
        server: server?,
        identities: Arc::clone(setup.identities),
        shared: Arc::clone(setup.shared),
        block_on_first_violation: block,
        hide_client_headers,
        fault_tolerant,
    }))))
}

/// The policy: in this process, or in a server's counters.
fn server(fields: &Fields<'_>) -> Option<Option<Arc<Server>>> {
    let given = fields.node("policy").is_some();
    let policy = fields.choice("policy", &[("local", "local"), ("cluster", "cluster"), ("redis", "redis")]);
    let server = redis::read(fields, policy == Some("redis"));
    match policy {
        Some("redis") => server.map(Some),
        Some("cluster") => {
            let message = "response-ratelimiting policy `cluster` needs a database, and there is none";
            fields.report.mismatch(fields.place_of("policy"), message, "`local` or `redis`");
            None
        }
        None if given => None,
        _ => Some(None),
    }
}

fn header(fields: &Fields<'_>) -> Option<HeaderName> {
    let name = fields.string("header_name").unwrap_or_else(|| "x-kong-limit".to_owned());
    let parsed = HeaderName::try_from(&name).ok();
    if parsed.is_none() {
        fields.report.mismatch(fields.place_of("header_name"), format!("`{name}` is no header name"), "a header name");
    }
    parsed
}

fn limits(fields: &Fields<'_>, local: bool) -> Option<Vec<Limit>> {
    if !fields.require("limits") {
        return None;
    }
    let block = fields.fields("limits")?;
    let mut limits = Vec::new();
    let mut sound = true;
    for (key, node) in block.all() {
        let Some(inner) = Fields::of(node, &key.name, fields.report) else {
            sound = false;
            continue;
        };
        let named = |what: &str, period: Period| {
            HeaderName::try_from(format!("x-ratelimit-{what}-{}-{}", key.name, period.name())).ok()
        };
        if named("limit", Period::Second).is_none() {
            let message = format!("`{}` cannot be part of a header's name", key.name);
            fields.report.mismatch(key.place, message, "letters, digits, `-` and `_`");
            sound = false;
        }
        let name: Arc<str> = Arc::from(key.name.as_str());
        let Some(periods) = periods::read(&inner, &format!("the limit `{}`", key.name)) else {
            sound = false;
            continue;
        };
        sound &= !local || periods::all_fit(&inner, periods.iter().copied(), "policy `local`", Period::count_max);
        for (period, units) in periods {
            if let (Some(limit_name), Some(remaining_name)) = (named("limit", period), named("remaining", period)) {
                limits.push(Limit { name: Arc::clone(&name), period, units, limit_name, remaining_name });
            }
        }
    }
    if limits.is_empty() && sound {
        fields.report.mismatch(block.place(), "response-ratelimiting has no limit", "a name with its periods");
        sound = false;
    }
    sound.then_some(limits)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plugins::fixture::{bad, good, pass, reply, response, told};

    fn once(plugin: &Arc<dyn Plugin>, used: &str) -> (Exchange, Response) {
        let mut ex = Exchange::for_test("GET", "/a", &[]);
        pass(plugin, &mut ex);
        let mut answer = response(200, &[("x-kong-limit", used)], "body");
        plugin.on_response(&mut ex, &mut answer);
        (ex, answer)
    }

    #[test]
    fn the_upstream_says_what_was_used() {
        let plugin = good(&KIND, "{limits: {video: {minute: 6, hour: 10}, image: {minute: 4}}, limit_by: ip}");
        let (ex, answer) = once(&plugin, "video=2, image=1, other=9, video");
        assert_eq!(told(&ex, "x-ratelimit-limit-video-minute").as_deref(), Some("6"));
        assert_eq!(told(&ex, "x-ratelimit-remaining-video-minute").as_deref(), Some("4"));
        assert_eq!(told(&ex, "x-ratelimit-remaining-video-hour").as_deref(), Some("8"));
        assert_eq!(told(&ex, "x-ratelimit-remaining-image-minute").as_deref(), Some("3"));
        assert_eq!(ex.request.headers["x-ratelimit-remaining-video"], "6");
        assert!(!answer.headers.contains_key("x-kong-limit") && answer.status == 200);
        let (ex, answer) = once(&plugin, "video=9");
        assert_eq!(ex.request.headers["x-ratelimit-remaining-video"], "4");
        assert!(answer.status == 200 && !answer.without_body, "what is left may be overdrawn once");
        let (ex, answer) = once(&plugin, "video=1");
        assert_eq!(ex.request.headers["x-ratelimit-remaining-video"], "0");
        assert!(answer.status == 429 && answer.without_body);
        assert_eq!(once(&plugin, "image=1").1.status, 200);
    }

    #[test]
    fn units_may_be_more_than_32_bits_hold() {
        let plugin = good(&KIND, "{limits: {bytes: {day: 10000000000}}, limit_by: ip, block_on_first_violation: true}");
        for left in ["7000000000", "4000000000", "1000000000", "0"] {
            let (ex, _) = once(&plugin, "bytes=3000000000");
            assert_eq!(told(&ex, "x-ratelimit-remaining-bytes-day").as_deref(), Some(left));
        }
        assert_eq!(reply(&plugin, &mut Exchange::for_test("GET", "/a", &[])).status.as_u16(), 429);
    }

    #[test]
    fn a_used_up_limit_may_refuse_at_once() {
        let plugin = good(&KIND, "{limits: {video: {minute: 1}}, limit_by: ip, block_on_first_violation: true}");
        assert_eq!(once(&plugin, "video=1").1.status, 200);
        let refused = reply(&plugin, &mut Exchange::for_test("GET", "/a", &[]));
        assert!(
            matches!(refused.text, crate::proxy::reply::Text::Templated(t) if t == "API rate limit exceeded for 'video'")
        );
    }

    #[test]
    fn faulty_configurations_are_told_where() {
        for (config, words) in [
            ("limit_by: ip", "required field `limits`"),
            ("limits: {}", "has no limit"),
            ("limits: {video: {}}", "the limit `video` has no limit"),
            ("limits: {'a b': {minute: 1}}", "cannot be part of a header's name"),
            ("limits: {v: {minute: 0}}", "an integer from 1"),
            (
                "limits:\n  v:\n    hour: 17592186044416",
                ":3:5: error: the limit of `hour` (17592186044416) is more than",
            ),
            ("limits: {v: {minutes: 1}}", "did you mean `minute`?"),
            ("limits: {v: {minute: 1}}\nlimit_by: path", "`limit_by` is `path`"),
            ("limits: {v: {minute: 1}}\npolicy: redis", "needs to know where Redis is"),
        ] {
            let report = bad(&KIND, config);
            assert!(report.contains(words), "{config}: {report}");
        }
    }
}
