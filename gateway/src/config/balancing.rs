//! Kong's `upstreams`, as far as they say how a target is chosen and when it is healthy.

use std::time::Duration;

use http::{HeaderName, HeaderValue};

use crate::document::{Fields, Value};
use crate::upstreams::group::{Algorithm, Group, HashOn, ProbeKind, Probing};
use crate::upstreams::health::Checks;
use crate::upstreams::ring::Ring;

/// Reads the fields of an upstream; its targets come later.
pub fn read(f: &Fields<'_>, id: &str, name: &str) -> Group {
    let algorithms = [
        ("round-robin", Algorithm::RoundRobin),
        ("least-connections", Algorithm::LeastConnections),
        ("consistent-hashing", Algorithm::ConsistentHashing),
        ("latency", Algorithm::Latency),
    ];
    let mut algorithm = f.choice("algorithm", &algorithms).unwrap_or(Algorithm::RoundRobin);
    let hash_on = [hash(f, &ON), hash(f, &FALLBACK)];
    if hash_on[0] != HashOn::Nothing {
        // Kong's rule: whoever names something to hash on wants it hashed.
        algorithm = Algorithm::ConsistentHashing;
    }
    judge(f, &hash_on);
    f.integer("slots", 10..=65_536);
    if f.boolean("use_srv_name") == Some(true) {
        f.report.unsupported(f.place_of("use_srv_name"), "`use_srv_name` of an upstream", None);
    }
    if f.node("client_certificate").is_some() {
        f.report.unsupported(f.place_of("client_certificate"), "`client_certificate` of an upstream", None);
    }
    let checks = f.fields("healthchecks");
    let threshold = checks.as_ref().and_then(|c| c.number("threshold", 0.0..=100.0)).unwrap_or(0.0);
    let passive = checks.as_ref().and_then(|c| c.fields("passive")).map(|p| passive(&p)).unwrap_or_default();
    let (active, probing) = checks.as_ref().and_then(|c| c.fields("active")).map(|a| active(&a)).unwrap_or_default();
    Group {
        id: id.to_owned(),
        name: name.to_owned(),
        algorithm,
        hash_on,
        passive,
        active,
        probing,
        threshold,
        places: Vec::new(),
        ring: Ring::default(),
    }
}

/// Names of the fields of `hash_on` or of `hash_fallback`.
struct Keys {
    on: &'static str,
    header: &'static str,
    argument: &'static str,
    capture: &'static str,
}

const ON: Keys =
    Keys { on: "hash_on", header: "hash_on_header", argument: "hash_on_query_arg", capture: "hash_on_uri_capture" };
const FALLBACK: Keys = Keys {
    on: "hash_fallback",
    header: "hash_fallback_header",
    argument: "hash_fallback_query_arg",
    capture: "hash_fallback_uri_capture",
};

#[derive(Clone, Copy, PartialEq)]
enum Word {
    None,
    Consumer,
    Ip,
    Header,
    Cookie,
    Path,
    Argument,
    Capture,
}

fn hash(f: &Fields<'_>, keys: &Keys) -> HashOn {
    let words = [
        ("none", Word::None),
        ("consumer", Word::Consumer),
        ("ip", Word::Ip),
        ("header", Word::Header),
        ("cookie", Word::Cookie),
        ("path", Word::Path),
        ("query_arg", Word::Argument),
        ("uri_capture", Word::Capture),
    ];
    let word = f.choice(keys.on, &words).unwrap_or(Word::None);
    let header = f.string(keys.header);
    let (argument, capture) = (f.string(keys.argument), f.string(keys.capture));
    let cookie = f.string("hash_on_cookie");
    let path = f.string("hash_on_cookie_path").unwrap_or_else(|| "/".to_owned());
    let lacks = |key: &str| {
        f.report.mismatch(f.place_of(keys.on), format!("`{}` needs `{key}`", keys.on), "the name to hash on");
        HashOn::Nothing
    };
    match word {
        Word::None => HashOn::Nothing,
        Word::Consumer => HashOn::Consumer,
        Word::Ip => HashOn::Ip,
        Word::Path => HashOn::Path,
        Word::Header => match header.map(|name| HeaderName::from_bytes(name.as_bytes())) {
            Some(Ok(name)) => HashOn::Header(name),
            Some(Err(_)) => {
                f.report.mismatch(
                    f.place_of(keys.header),
                    format!("`{}` is no header name", keys.header),
                    "a header name",
                );
                HashOn::Nothing
            }
            None => lacks(keys.header),
        },
        Word::Cookie => match cookie {
            Some(name) if is_token(&name) && HeaderValue::from_str(&path).is_ok() && !path.contains(';') => {
                HashOn::Cookie(name, path)
            }
            Some(_) => {
                f.report.mismatch(f.place_of("hash_on_cookie"), "the cookie's name or path", "a name and a path");
                HashOn::Nothing
            }
            None => lacks("hash_on_cookie"),
        },
        Word::Argument => argument.map_or_else(|| lacks(keys.argument), HashOn::QueryArgument),
        Word::Capture => capture.map_or_else(|| lacks(keys.capture), HashOn::UriCapture),
    }
}

fn is_token(name: &str) -> bool {
    HeaderName::from_bytes(name.as_bytes()).is_ok()
}

/// Kong's rules for the two together.
fn judge(f: &Fields<'_>, [on, fallback]: &[HashOn; 2]) {
    if *fallback != HashOn::Nothing && matches!(on, HashOn::Nothing | HashOn::Cookie(..)) {
        let words = "`hash_fallback` must be `none` when `hash_on` is `none` or `cookie`";
        f.report.error(f.place_of("hash_fallback"), words);
    } else if *on != HashOn::Nothing && on == fallback {
        f.report.error(f.place_of("hash_fallback"), "`hash_on` and `hash_fallback` must differ");
    }
}

fn count(f: Option<&Fields<'_>>, name: &'static str) -> u8 {
    f.and_then(|f| f.integer(name, 0..=255)).map_or(0, |n| n as u8)
}

fn statuses<'a>(f: Option<&Fields<'a>>, defaults: &[u16]) -> Vec<u16> {
    let Some(list) = f.and_then(|f| f.list("http_statuses")) else { return defaults.to_vec() };
    let known = list.iter().filter_map(|node| match node.value {
        Value::Int(status) if (100..=999).contains(&status) => Some(status as u16),
        _ => {
            if let Some(f) = f {
                f.report.mismatch(node.place, "`http_statuses`", "integers from 100 to 999");
            }
            None
        }
    });
    known.collect()
}

fn seconds(f: Option<&Fields<'_>>, name: &'static str, default: f64) -> Duration {
    Duration::from_secs_f64(f.and_then(|f| f.number(name, 0.0..=65_535.0)).unwrap_or(default))
}

fn passive(f: &Fields<'_>) -> Checks {
    let kinds = [("http", ()), ("https", ()), ("tcp", ()), ("grpc", ()), ("grpcs", ())];
    f.choice("type", &kinds);
    const HEALTHY: &[u16] =
        &[200, 201, 202, 203, 204, 205, 206, 207, 208, 226, 300, 301, 302, 303, 304, 305, 306, 307, 308];
    checks(f.fields("healthy").as_ref(), f.fields("unhealthy").as_ref(), HEALTHY, &[429, 500, 503])
}

fn checks(healthy: Option<&Fields<'_>>, unhealthy: Option<&Fields<'_>>, good: &[u16], bad: &[u16]) -> Checks {
    Checks {
        healthy_statuses: statuses(healthy, good),
        successes: count(healthy, "successes"),
        unhealthy_statuses: statuses(unhealthy, bad),
        http_failures: count(unhealthy, "http_failures"),
        tcp_failures: count(unhealthy, "tcp_failures"),
        timeouts: count(unhealthy, "timeouts"),
    }
}

fn active(f: &Fields<'_>) -> (Checks, Option<Probing>) {
    let (healthy, unhealthy) = (f.fields("healthy"), f.fields("unhealthy"));
    const BAD: &[u16] = &[429, 404, 500, 501, 502, 503, 504, 505];
    let checks = checks(healthy.as_ref(), unhealthy.as_ref(), &[200, 302], BAD);
    let probing = Probing {
        healthy_every: seconds(healthy.as_ref(), "interval", 0.0),
        unhealthy_every: seconds(unhealthy.as_ref(), "interval", 0.0),
        timeout: seconds(Some(f), "timeout", 1.0),
        concurrency: f.integer("concurrency", 1..=10_000).map_or(10, |n| n as usize),
        kind: kind(f),
    };
    let on = !(probing.healthy_every.is_zero() && probing.unhealthy_every.is_zero());
    if on && f.string("type").is_some_and(|kind| kind.starts_with("grpc")) {
        f.report.unsupported(f.place_of("type"), "active health checks by gRPC", None);
        return (checks, None);
    }
    (checks, on.then_some(probing))
}

fn kind(f: &Fields<'_>) -> ProbeKind {
    let kinds = [("http", 0), ("https", 1), ("tcp", 2), ("grpc", 0), ("grpcs", 1)];
    let kind = f.choice("type", &kinds).unwrap_or(0);
    let path = f.string("http_path").unwrap_or_else(|| "/".to_owned());
    if !path.starts_with('/') || !path.bytes().all(|b| b.is_ascii_graphic()) {
        f.report.mismatch(f.place_of("http_path"), "`http_path` is no path", "a path that begins with `/`");
    }
    let (sni, verify) = (f.string("https_sni"), f.boolean("https_verify_certificate").unwrap_or(true));
    let mut headers = String::new();
    for (name, values) in f.fields("headers").iter().flat_map(|given| given.all()) {
        let Value::Seq(values) = &values.value else {
            f.report.mismatch(name.place, format!("`{}`", name.name), "a list of values");
            continue;
        };
        for value in values {
            let text = if let Value::Str(text) = &value.value { Some(text) } else { None };
            let sound = text.filter(|text| is_token(&name.name) && HeaderValue::from_str(text).is_ok());
            match sound {
                Some(text) => headers.push_str(&format!("{}: {text}\r\n", name.name)),
                None => f.report.mismatch(value.place, format!("`{}`", name.name), "a header's name and value"),
            }
        }
    }
    if kind == 2 {
        ProbeKind::Tcp
    } else {
        ProbeKind::Http { path, headers, tls: (kind == 1).then_some((sni, verify)) }
    }
}
