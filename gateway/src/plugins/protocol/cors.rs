//! Kong's `cors` (the CORS protocol of the Fetch standard, §3.2): answers preflights, and says on all other answers which
//! origins may read them. Runs before authentication, since a browser sends no credentials with a preflight.

use std::borrow::Cow;
use std::sync::Arc;

use http::header::{
    ACCESS_CONTROL_ALLOW_CREDENTIALS, ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS,
    ACCESS_CONTROL_ALLOW_ORIGIN, ACCESS_CONTROL_EXPOSE_HEADERS, ACCESS_CONTROL_MAX_AGE, ACCESS_CONTROL_REQUEST_HEADERS,
    ACCESS_CONTROL_REQUEST_METHOD, HeaderName, HeaderValue, ORIGIN, VARY,
};
use http::{HeaderMap, Method, StatusCode};
use regex::{Regex, RegexBuilder};

use crate::document::{Fields, Place};
use crate::plugins::{Flow, Kind, Plugin, Setup};
use crate::proxy::exchange::{Exchange, Response};
use crate::proxy::reply::Reply;

/// Kong's `cors`.
pub const KIND: Kind = Kind { name: "cors", priority: 2000, consumer_scope: false, compile };

const METHODS: &[&str] = &["GET", "HEAD", "PUT", "PATCH", "POST", "DELETE", "OPTIONS", "TRACE", "CONNECT"];
const REQUEST_PRIVATE_NETWORK: HeaderName = HeaderName::from_static("access-control-request-private-network");
const ALLOW_PRIVATE_NETWORK: HeaderName = HeaderName::from_static("access-control-allow-private-network");
const TRUE: HeaderValue = HeaderValue::from_static("true");
/// Compiled size of one origin pattern, bytes.
const PATTERN_BYTES_MAX: usize = 1 << 20;

struct Cors {
    origins: Origins,
    methods: HeaderValue,
    headers: Option<HeaderValue>,
    exposed_headers: Option<HeaderValue>,
    max_age: Option<HeaderValue>,
    credentials: bool,
    private_network: bool,
    preflight_continue: bool,
    allow_origin_absent: bool,
}

/// Who may read answers.
enum Origins {
    Any,
    /// One origin that is named plainly: it is told to whoever asks.
    One(HeaderValue),
    /// The first that fits the request's origin.
    Several(Vec<Pattern>),
}

enum Pattern {
    Any,
    /// A normalised origin.
    Plain(String),
    /// A regular expression for the whole origin, or for its host alone.
    Regex {
        regex: Regex,
        by_host: bool,
    },
}

fn compile(fields: &Fields<'_>, _setup: &Setup<'_>) -> Option<Arc<dyn Plugin>> {
    let origins = Origins::read(fields);
    let methods = joined(fields, "methods", Some(METHODS));
    let headers = joined(fields, "headers", None);
    let exposed_headers = joined(fields, "exposed_headers", None);
    let max_age = fields.number("max_age", f64::MIN..=f64::MAX).map(|age| age.to_string());
    let flag = |name, default| fields.boolean(name).unwrap_or(default);
    let plugin = Cors {
        credentials: flag("credentials", false),
        private_network: flag("private_network", false),
        preflight_continue: flag("preflight_continue", false),
        allow_origin_absent: flag("allow_origin_absent", true),
        origins: origins?,
        methods: methods
            .unwrap_or_else(|| HeaderValue::from_static("GET,HEAD,PUT,PATCH,POST,DELETE,OPTIONS,TRACE,CONNECT")),
        headers,
        exposed_headers,
        max_age: max_age.and_then(|age| age.parse().ok()),
    };
    Some(Arc::new(plugin))
}

/// A list of header or method names as one comma-joined value; nothing when it is absent or empty.
fn joined(fields: &Fields<'_>, field: &'static str, known: Option<&[&str]>) -> Option<HeaderValue> {
    let names = fields.strings(field)?;
    for (place, name) in &names {
        match known {
            Some(known) if !known.contains(&name.as_str()) => {
                fields.report.unknown(*place, format!("`{field}` has `{name}`"), name, known);
            }
            None if name != "*" && HeaderName::from_bytes(name.as_bytes()).is_err() => {
                let words = format!("`{name}` is not a header name");
                fields.report.mismatch(*place, words, "letters, digits and !#$%&'*+-.^_`|~");
            }
            _ => {}
        }
    }
    let text = names.iter().map(|(_, name)| name.as_str()).collect::<Vec<_>>().join(",");
    text.parse().ok().filter(|_| !names.is_empty())
}

impl Plugin for Cors {
    fn on_request(&self, exchange: &mut Exchange) -> Flow {
        if self.preflight_continue || !preflight(exchange) {
            return Flow::Continue;
        }
        let mut headers = HeaderMap::with_capacity(8);
        self.preflight_headers(&exchange.request.headers, &mut headers);
        let mut reply = Reply::empty(KIND.name, StatusCode::OK);
        reply.headers.extend(headers.iter().map(|(name, value)| (name.clone(), value.clone())));
        reply.into()
    }

    fn on_response(&self, exchange: &mut Exchange, response: &mut Response) {
        let origin = origin(&exchange.request.headers);
        if preflight(exchange) || (origin.is_none() && !self.allow_origin_absent) {
            return;
        }
        self.allow_origin(origin, &mut response.headers);
        if let Some(exposed) = &self.exposed_headers {
            response.headers.insert(ACCESS_CONTROL_EXPOSE_HEADERS, exposed.clone());
        }
    }
}

/// A request by which a browser asks whether it may send another one.
fn preflight(exchange: &Exchange) -> bool {
    let headers = &exchange.request.headers;
    exchange.request.method == Method::OPTIONS
        && headers.contains_key(ORIGIN)
        && headers.contains_key(ACCESS_CONTROL_REQUEST_METHOD)
}

fn origin(headers: &HeaderMap) -> Option<&HeaderValue> {
    headers.get(ORIGIN).filter(|origin| !origin.is_empty())
}

impl Cors {
    fn preflight_headers(&self, request: &HeaderMap, headers: &mut HeaderMap) {
        self.allow_origin(origin(request), headers);
        if let Some(allowed) = self.headers.as_ref().or_else(|| request.get(ACCESS_CONTROL_REQUEST_HEADERS)) {
            headers.insert(ACCESS_CONTROL_ALLOW_HEADERS, allowed.clone());
        }
        headers.insert(ACCESS_CONTROL_ALLOW_METHODS, self.methods.clone());
        if let Some(age) = &self.max_age {
            headers.insert(ACCESS_CONTROL_MAX_AGE, age.clone());
        }
        if self.private_network && request.get(REQUEST_PRIVATE_NETWORK).is_some_and(|v| v == "true") {
            headers.insert(ALLOW_PRIVATE_NETWORK, TRUE);
        }
    }

    /// Sets, or takes away, the headers that name the origin; those of the upstream do not survive beside them.
    fn allow_origin(&self, origin: Option<&HeaderValue>, headers: &mut HeaderMap) {
        let (allowed, any) = self.origins.allowed(origin);
        match allowed {
            Some(allowed) => headers.insert(ACCESS_CONTROL_ALLOW_ORIGIN, allowed),
            None => headers.remove(ACCESS_CONTROL_ALLOW_ORIGIN),
        };
        let mut varies = !matches!(self.origins, Origins::Any);
        if self.credentials && !any {
            headers.insert(ACCESS_CONTROL_ALLOW_CREDENTIALS, TRUE);
        } else if let Some(origin) = origin.filter(|_| self.credentials) {
            // Credentials and `*` exclude each other (Fetch §3.2.5).
            headers.insert(ACCESS_CONTROL_ALLOW_ORIGIN, origin.clone());
            headers.insert(ACCESS_CONTROL_ALLOW_CREDENTIALS, TRUE);
            varies = true;
        }
        if varies {
            headers.append(VARY, HeaderValue::from_static("Origin"));
        }
    }
}

impl Origins {
    fn read(fields: &Fields<'_>) -> Option<Self> {
        let entries = fields.strings("origins").unwrap_or_default();
        if entries.is_empty() || (entries.len() == 1 && entries[0].1 == "*") {
            return Some(Origins::Any);
        }
        if let [(_, only)] = &entries[..]
            && plain(only)
        {
            return only.parse().ok().map(Origins::One);
        }
        let count = entries.len();
        let patterns: Vec<Pattern> =
            entries.iter().filter_map(|(place, text)| Pattern::read(fields, *place, text)).collect();
        (patterns.len() == count).then_some(Origins::Several(patterns))
    }

    /// What to put into `Access-Control-Allow-Origin`, and whether it stands for any origin.
    fn allowed(&self, origin: Option<&HeaderValue>) -> (Option<HeaderValue>, bool) {
        let any = HeaderValue::from_static("*");
        match self {
            Origins::Any => (Some(any), true),
            Origins::One(only) => (Some(only.clone()), false),
            Origins::Several(patterns) => {
                let Some(origin) = origin.and_then(|o| o.to_str().ok()) else { return (None, false) };
                // Kong's rule: a `*` among others is for all, wherever it stands.
                if patterns.iter().any(|p| matches!(p, Pattern::Any)) {
                    return (Some(any), true);
                }
                let origin = Normal::of(origin);
                let fits = patterns.iter().any(|pattern| pattern.fits(&origin));
                (fits.then(|| origin.whole.parse().ok()).flatten(), false)
            }
        }
    }
}

impl Pattern {
    fn read(fields: &Fields<'_>, place: Place, text: &str) -> Option<Self> {
        if text == "*" {
            return Some(Pattern::Any);
        }
        if plain(text) {
            return Some(Pattern::Plain(Normal::of(text).whole.into_owned()));
        }
        let by_host = !text.contains(':');
        let inner = text.strip_prefix('^').unwrap_or(text);
        let inner = inner.strip_suffix('$').filter(|i| !i.ends_with('\\')).unwrap_or(inner);
        match RegexBuilder::new(&format!("^(?:{inner})$")).size_limit(PATTERN_BYTES_MAX).build() {
            Ok(regex) => Some(Pattern::Regex { regex, by_host }),
            Err(error) => {
                let words = error.to_string();
                let words = words.lines().last().unwrap_or_default();
                fields.report.mismatch(
                    place,
                    format!("`{text}` is not an origin: {words}"),
                    "`*`, an origin or a regular expression",
                );
                None
            }
        }
    }

    fn fits(&self, origin: &Normal<'_>) -> bool {
        match self {
            Pattern::Any => true,
            Pattern::Plain(plain) => *plain == origin.whole,
            Pattern::Regex { regex, by_host: true } => regex.is_match(&origin.host),
            Pattern::Regex { regex, by_host: false } => regex.is_match(&origin.whole),
        }
    }
}

/// Whether an entry is an origin or host by itself, and not a regular expression.
fn plain(text: &str) -> bool {
    text.bytes().all(|b| b.is_ascii_alphanumeric() || b".:/-".contains(&b))
}

/// An origin without the port that its scheme has anyway.
struct Normal<'a> {
    whole: Cow<'a, str>,
    host: Cow<'a, str>,
}

impl<'a> Normal<'a> {
    fn of(text: &'a str) -> Self {
        let Some((scheme, rest)) = text.split_once("://") else {
            return Normal { whole: text.into(), host: text.into() };
        };
        let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
        let authority = authority.rsplit_once('@').map_or(authority, |(_, host)| host);
        let (host, port) = match authority.rsplit_once(':') {
            Some((host, port)) if !host.is_empty() && port.bytes().all(|b| b.is_ascii_digit()) => (host, Some(port)),
            _ => (authority, None),
        };
        let default = matches!((scheme, port), ("http", Some("80")) | ("https", Some("443")) | (_, Some("")));
        let whole = match port.filter(|_| !default) {
            Some(port) => format!("{scheme}://{host}:{port}"),
            None => format!("{scheme}://{host}"),
        };
        Normal { whole: whole.into(), host: host.into() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plugins::auth::bench::{answer, identities, plugin, problems};

    const ASK: (&str, &str) = ("access-control-request-method", "GET");

    /// All CORS headers and `vary` of the answer, in the order in which they are set.
    fn shown(headers: impl Iterator<Item = (HeaderName, HeaderValue)>) -> Vec<String> {
        headers
            .filter(|(name, _)| *name == VARY || name.as_str().starts_with("access-control-"))
            .map(|(name, value)| {
                format!("{}: {}", name.as_str().trim_start_matches("access-control-"), value.to_str().expect("text"))
            })
            .collect()
    }

    fn asked(config: &str, headers: &[(&str, &str)]) -> Vec<String> {
        let plugin = plugin("cors", config, &identities(Vec::new()));
        let mut exchange = Exchange::for_test("OPTIONS", "/", headers);
        let Flow::Reply(reply) = plugin.on_request(&mut exchange) else { return vec!["continue".into()] };
        assert_eq!(reply.status, StatusCode::OK);
        let mut lines = shown(reply.headers.into_iter());
        lines.retain(|line| line != "allow-methods: GET,HEAD,PUT,PATCH,POST,DELETE,OPTIONS,TRACE,CONNECT");
        lines.sort();
        lines
    }

    fn answered(config: &str, headers: &[(&str, &str)]) -> Vec<String> {
        let plugin = plugin("cors", config, &identities(Vec::new()));
        let mut exchange = Exchange::for_test("GET", "/", headers);
        assert_eq!(answer(&plugin, &mut exchange), "continue");
        let mut response = Response {
            status: StatusCode::OK,
            headers: HeaderMap::new(),
            body: None,
            from_upstream: true,
            without_body: false,
        };
        response.headers.insert(ACCESS_CONTROL_ALLOW_ORIGIN, HeaderValue::from_static("upstream"));
        response.headers.insert(VARY, HeaderValue::from_static("Accept"));
        plugin.on_response(&mut exchange, &mut response);
        let mut lines = shown(response.headers.iter().map(|(n, v)| (n.clone(), v.clone())));
        lines.sort();
        lines
    }

    fn origin_for(config: &str, origin: &str) -> Option<String> {
        let lines = asked(config, &[("origin", origin), ASK]);
        lines.iter().find_map(|line| line.strip_prefix("allow-origin: ").map(str::to_owned))
    }

    #[test]
    fn only_a_preflight_is_answered() {
        assert_eq!(asked("{}", &[("origin", "http://a.test"), ASK]), ["allow-origin: *"]);
        assert_eq!(asked("{}", &[("origin", "http://a.test")]), ["continue"]);
        assert_eq!(asked("{}", &[ASK]), ["continue"]);
        assert_eq!(asked("preflight_continue: true", &[("origin", "http://a.test"), ASK]), ["continue"]);
    }

    #[test]
    fn a_preflight_tells_all() {
        let config = "{origins: [example.test], methods: [GET], headers: [origin, type], max_age: 23, \
                      exposed_headers: [x-token], credentials: true, private_network: true}";
        let headers = [("origin", "http://other.test"), ASK, ("access-control-request-private-network", "true")];
        let expected = [
            "allow-credentials: true",
            "allow-headers: origin,type",
            "allow-methods: GET",
            "allow-origin: example.test",
            "allow-private-network: true",
            "max-age: 23",
            "vary: Origin",
        ];
        assert_eq!(asked(config, &headers), expected);
        let echoed = [("origin", "http://a.test"), ASK, ("access-control-request-headers", "x-a, x-b")];
        assert_eq!(asked("{}", &echoed), ["allow-headers: x-a, x-b", "allow-origin: *"]);
    }

    #[test]
    fn origins_are_matched_whole() {
        for (origins, origin, expected) in [
            ("[foo\\.test]", "http://foo.test", Some("http://foo.test")),
            ("[foo\\.test]", "http://foo.test:8000", Some("http://foo.test:8000")),
            ("[foo\\.test]", "http://evilfoo.test", None),
            ("[foo\\.test]", "http://foo.test.evil.test", None),
            ("['^foo\\.test$']", "http://foo.test", Some("http://foo.test")),
            ("['foo\\.test|bar\\.test']", "http://foo.test.evil", None),
            ("['foo\\.test|bar\\.test']", "http://bar.test", Some("http://bar.test")),
            ("['https://(.*\\.)?foo\\.test:8000']", "https://a.foo.test:8000", Some("https://a.foo.test:8000")),
            ("['https://(.*\\.)?foo\\.test:8000']", "https://foo.test", None),
            ("[http://a.test, http://b.test]", "http://a.test:80", Some("http://a.test")),
            ("[http://a.test, http://b.test]", "http://a.test:81", None),
            ("[http://a.test, http://b.test]", "https://a.test", None),
            ("[https://a.test, http://b.test]", "https://a.test:443", Some("https://a.test")),
            ("[a.test, b.test]", "http://a.test", None),
            ("[a.test, b.test]", "a.test", Some("a.test")),
            ("[a.test, '*']", "http://z.test", Some("*")),
            ("[http://a.test, http://b.test]", "http://a.test@evil.test", None),
            ("[http://a.test, http://b.test]", "null", None),
        ] {
            let got = origin_for(&format!("origins: {origins}"), origin);
            assert_eq!(got.as_deref(), expected, "{origins} {origin}");
        }
    }

    #[test]
    fn other_answers_name_the_origin_too() {
        assert_eq!(answered("{}", &[]), ["allow-origin: *", "vary: Accept"]);
        let two = "{origins: [http://a.test, http://b.test], exposed_headers: [x-a, x-b]}";
        let origin = [("origin", "http://b.test")];
        let expected = ["allow-origin: http://b.test", "expose-headers: x-a,x-b", "vary: Accept", "vary: Origin"];
        assert_eq!(answered(two, &origin), expected);
        let other = [("origin", "http://evil.test")];
        assert_eq!(answered(two, &other), ["expose-headers: x-a,x-b", "vary: Accept", "vary: Origin"]);
    }

    #[test]
    fn credentials_exclude_the_star() {
        let origin = [("origin", "http://a.test:3000")];
        let expected = ["allow-credentials: true", "allow-origin: http://a.test:3000", "vary: Accept", "vary: Origin"];
        assert_eq!(answered("{origins: ['*'], credentials: true}", &origin), expected);
        assert_eq!(answered("{credentials: true}", &[]), ["allow-origin: *", "vary: Accept"]);
    }

    #[test]
    fn requests_without_an_origin_can_be_left_alone() {
        let config = "{origins: [foo.bar], credentials: true, allow_origin_absent: false}";
        for headers in [&[][..], &[("origin", "")]] {
            assert_eq!(answered(config, headers), ["allow-origin: upstream", "vary: Accept"]);
        }
        let config = "{origins: [foo.bar], credentials: true}";
        let expected = ["allow-credentials: true", "allow-origin: foo.bar", "vary: Accept", "vary: Origin"];
        assert_eq!(answered(config, &[]), expected);
    }

    #[test]
    fn a_preflight_gets_nothing_more_on_its_way_back() {
        let plugin = plugin("cors", "preflight_continue: true", &identities(Vec::new()));
        let mut exchange = Exchange::for_test("OPTIONS", "/", &[("origin", "http://a.test"), ASK]);
        let mut response = Response {
            status: StatusCode::OK,
            headers: HeaderMap::new(),
            body: None,
            from_upstream: true,
            without_body: false,
        };
        plugin.on_response(&mut exchange, &mut response);
        assert!(response.headers.is_empty());
    }

    #[test]
    fn wrong_configuration_has_a_place() {
        let words = problems("cors", "origins: ['a(', '(?=a)b']");
        assert!(words.contains("k.yml:1:11: error: `a(` is not an origin"), "{words}");
        assert!(words.contains("look-around"), "{words}");
        assert!(problems("cors", "methods: [GET, PUTT]").contains("did you mean `PUT`?"));
        assert!(problems("cors", "headers: ['a b']").contains("k.yml:1:11: error: `a b` is not a header name"));
    }
}
