//! Reads the `config` of `rate-limiting`. It must not count.

use http::header::{HeaderName, HeaderValue};

use super::{Limit, LimitBy};
use crate::document::Fields;
use crate::limits::window::Period;

/// The limits, shortest period first; Kong wants at least one, and none below that of a shorter period.
pub(super) fn limits(fields: &Fields<'_>) -> Option<Vec<Limit>> {
    let mut limits: Vec<Limit> = Vec::new();
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
        limits.push(limit(name, period, requests as u64));
    }
    if limits.is_empty() && sound {
        let periods = Period::ALL.map(|(name, _)| name).join(", ");
        fields.report.mismatch(fields.place(), "rate-limiting has no limit", format!("at least one of {periods}"));
        sound = false;
    }
    sound.then_some(limits)
}

fn limit(name: &str, period: Period, requests: u64) -> Limit {
    let header = |what: &str| {
        HeaderName::try_from(format!("x-ratelimit-{what}-{name}")).expect("the names of periods are lower-case letters")
    };
    Limit {
        period,
        requests,
        requests_value: HeaderValue::from(requests),
        limit_name: header("limit"),
        remaining_name: header("remaining"),
    }
}

/// Whose requests share a counter, with the fields that some choices need.
pub(super) fn limit_by(fields: &Fields<'_>) -> Option<LimitBy> {
    let header = fields.string("header_name").and_then(|name| header_name(fields, name));
    let path = fields.string("path").filter(|path| {
        let sound = path.starts_with('/');
        if !sound {
            fields.report.mismatch(fields.place_of("path"), "`path` does not begin with `/`", "a path");
        }
        sound
    });
    let choices = [
        ("consumer", LimitWord::Consumer),
        ("credential", LimitWord::Credential),
        ("ip", LimitWord::Ip),
        ("service", LimitWord::Service),
        ("header", LimitWord::Header),
        ("path", LimitWord::Path),
    ];
    let given = fields.node("limit_by").is_some();
    Some(match fields.choice("limit_by", &choices) {
        None if given => return None,
        None | Some(LimitWord::Consumer) => LimitBy::Consumer,
        Some(LimitWord::Credential) => LimitBy::Credential,
        Some(LimitWord::Ip) => LimitBy::Ip,
        Some(LimitWord::Service) => LimitBy::Service,
        Some(LimitWord::Header) => {
            fields.require("header_name");
            LimitBy::Header(header?)
        }
        Some(LimitWord::Path) => {
            fields.require("path");
            LimitBy::Path(path?)
        }
    })
}

#[derive(Clone, Copy)]
enum LimitWord {
    Consumer,
    Credential,
    Ip,
    Service,
    Header,
    Path,
}

fn header_name(fields: &Fields<'_>, name: String) -> Option<HeaderName> {
    let parsed = HeaderName::try_from(&name).ok();
    if parsed.is_none() {
        fields.report.mismatch(fields.place_of("header_name"), format!("`{name}` is no header name"), "a header name");
    }
    parsed
}

#[derive(Clone, Copy, PartialEq)]
enum Policy {
    Local,
    Cluster,
    Redis,
}

/// Kong's spellings of the Redis connection before 3.7, and what took their place.
const FLAT: [(&str, &str); 9] = [
    ("redis_host", "host"),
    ("redis_port", "port"),
    ("redis_timeout", "timeout"),
    ("redis_username", "username"),
    ("redis_password", "password"),
    ("redis_database", "database"),
    ("redis_ssl", "ssl"),
    ("redis_ssl_verify", "ssl_verify"),
    ("redis_server_name", "server_name"),
];

/// Reports the policies that are not `local`; whatever stands there, this process counts for itself.
pub(super) fn report_policy(fields: &Fields<'_>) {
    let choices = [("local", Policy::Local), ("cluster", Policy::Cluster), ("redis", Policy::Redis)];
    match fields.choice("policy", &choices) {
        Some(Policy::Cluster) => fields.report.mismatch(
            fields.place_of("policy"),
            "rate-limiting policy `cluster` needs a database, and there is none",
            "`local`",
        ),
        Some(Policy::Redis) => fields.report.unsupported(
            fields.place_of("policy"),
            "rate-limiting policy `redis`",
            Some("use `policy: local`; with `--allow-unsupported` this process counts for itself"),
        ),
        Some(Policy::Local) | None => {}
    }
    for (flat, nested) in FLAT {
        fields.skip(flat);
        if fields.given(flat) {
            fields.report.warn(fields.place_of(flat), format!("`{flat}` is deprecated: it is `redis.{nested}` now"));
        }
    }
    if let Some(redis) = fields.fields("redis") {
        for (_, nested) in FLAT {
            redis.skip(nested);
        }
    }
}
