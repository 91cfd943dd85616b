//! Kong's `hmac-auth`: a request whose date, line, headers and body its sender has signed with a shared secret. Signatures are
//! compared in constant time; time is the request's.

use std::sync::Arc;

use aws_lc_rs::{digest, hmac};
use base64::Engine;
use base64::engine::general_purpose::{GeneralPurpose, STANDARD};
use base64::engine::{DecodePaddingMode, GeneralPurposeConfig};
use http::header::{AUTHORIZATION, DATE, HeaderName, HeaderValue, PROXY_AUTHORIZATION, WWW_AUTHENTICATE};
use http::{HeaderMap, StatusCode};

use super::{Gate, Proven, challenge, conceal, realm};
use crate::document::Fields;
use crate::identity::HmacCredential;
use crate::plugins::{Flow, Kind, Plugin, Setup};
use crate::proxy::exchange::Exchange;
use crate::proxy::reply::Reply;

/// Kong's `hmac-auth`.
pub const KIND: Kind = Kind { name: "hmac-auth", priority: 1030, consumer_scope: false, compile };

const X_DATE: HeaderName = HeaderName::from_static("x-date");
const DIGEST: HeaderName = HeaderName::from_static("digest");

/// The largest body whose digest is checked, bytes.
const BODY_BYTES_MAX: usize = 8 << 20;
/// The longest field that is looked at, bytes, and the most headers that it may name.
const FIELD_BYTES_MAX: usize = 8 << 10;
const SIGNED_MAX: usize = 64;

/// Padded or not, as clients send it.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &base64::alphabet::STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

const ALGORITHMS: [(&str, hmac::Algorithm); 4] = [
    ("hmac-sha1", hmac::HMAC_SHA1_FOR_LEGACY_USE_ONLY),
    ("hmac-sha256", hmac::HMAC_SHA256),
    ("hmac-sha384", hmac::HMAC_SHA384),
    ("hmac-sha512", hmac::HMAC_SHA512),
];

const NO_DATE: &str =
    "HMAC signature cannot be verified, a valid date or x-date header is required for HMAC Authentication";
const UNVERIFIABLE: &str = "HMAC signature cannot be verified";
const MISMATCH: &str = "HMAC signature does not match";

struct HmacAuth {
    gate: Gate,
    hide_credentials: bool,
    /// How far the date may be off, seconds.
    clock_skew_s: f64,
    validate_request_body: bool,
    enforce_headers: Vec<String>,
    algorithms: Vec<(&'static str, hmac::Algorithm)>,
    challenge: Option<HeaderValue>,
}

/// What a field of credentials says: `hmac username="…", algorithm="…", headers="…", signature="…"`.
#[derive(Debug, PartialEq)]
struct Signed<'a> {
    username: &'a str,
    algorithm: &'a str,
    /// The names of what is signed, in order.
    headers: Vec<&'a str>,
    signature: &'a str,
}

fn compile(fields: &Fields<'_>, setup: &Setup<'_>) -> Option<Arc<dyn Plugin>> {
    let gate = Gate::read_anonymous(KIND.name, fields, setup);
    let realm = realm(fields);
    let clock_skew_s = fields.number("clock_skew", 0.0..=1e9).unwrap_or(300.0);
    if clock_skew_s <= 0.0 {
        fields.report.mismatch(fields.place_of("clock_skew"), "`clock_skew` is 0", "more than 0 seconds");
        return None;
    }
    let enforced = fields.strings("enforce_headers").unwrap_or_default();
    Some(Arc::new(HmacAuth {
        gate,
        hide_credentials: fields.boolean("hide_credentials").unwrap_or(false),
        clock_skew_s,
        validate_request_body: fields.boolean("validate_request_body").unwrap_or(false),
        enforce_headers: enforced.into_iter().map(|(_, name)| name).collect(),
        algorithms: algorithms(fields)?,
        challenge: challenge("hmac", realm.as_deref(), None),
    }))
}

fn algorithms(fields: &Fields<'_>) -> Option<Vec<(&'static str, hmac::Algorithm)>> {
    let Some(given) = fields.strings("algorithms") else { return Some(ALGORITHMS.to_vec()) };
    let mut found = Vec::new();
    for (place, name) in given {
        let Some(known) = ALGORITHMS.iter().find(|(known, _)| *known == name) else {
            let names = ALGORITHMS.map(|(known, _)| known);
            fields.report.unknown(place, format!("`algorithms` has `{name}`"), &name, &names);
            return None;
        };
        found.push(*known);
    }
    Some(found)
}

impl Plugin for HmacAuth {
    fn conceal(&self, exchange: &mut Exchange) {
        for name in [PROXY_AUTHORIZATION, AUTHORIZATION] {
            conceal(&mut exchange.request.headers, &name);
        }
    }

    /// Nobody's body is held before everything else is found good.
    fn body_limit(&self, exchange: &Exchange) -> Option<usize> {
        let asked = self.validate_request_body && !self.gate.open(exchange);
        let held = asked && self.signer(exchange, field(&exchange.request.headers).map(|(_, signed)| signed)).is_ok();
        held.then_some(BODY_BYTES_MAX)
    }

    fn on_request(&self, exchange: &mut Exchange) -> Flow {
        self.gate.pass(exchange, |exchange| self.authenticate(exchange))
    }
}

impl HmacAuth {
    fn authenticate(&self, exchange: &mut Exchange) -> Result<Proven, Box<Reply>> {
        let (name, signed) = field(&exchange.request.headers).unzip();
        let verdict = self.signer(exchange, signed).and_then(|proven| {
            let good = !self.validate_request_body || has_digest(exchange);
            good.then_some(proven).ok_or(MISMATCH)
        });
        if self.hide_credentials {
            exchange.request.headers.remove(name.unwrap_or(AUTHORIZATION));
        }
        verdict.map_err(|message| self.refuse(message))
    }

    /// Who has signed the request, by all that is known of it before its body.
    fn signer(&self, exchange: &Exchange, signed: Option<Signed<'_>>) -> Result<Proven, &'static str> {
        let headers = &exchange.request.headers;
        if !headers.contains_key(AUTHORIZATION) && !headers.contains_key(PROXY_AUTHORIZATION) {
            return Err("Unauthorized");
        }
        let now_s = exchange.started_unix_ns as f64 / 1e9;
        // A date beside the one that is signed is anybody's, and would make a captured request hold for ever.
        let is_signed = |name: &HeaderName| signed.as_ref().is_some_and(|signed| signed.has(name));
        let any_signed = is_signed(&X_DATE) || is_signed(&DATE);
        let counts = |name: &HeaderName| !any_signed || is_signed(name);
        if ![X_DATE, DATE].iter().any(|name| counts(name) && is_now(headers, name, now_s, self.clock_skew_s)) {
            return Err(NO_DATE);
        }
        let signed = signed.ok_or(UNVERIFIABLE)?;
        if self.enforce_headers.iter().any(|name| !signed.headers.contains(&name.as_str())) {
            return Err(UNVERIFIABLE);
        }
        let algorithm = self.algorithms.iter().find(|(name, _)| *name == signed.algorithm).ok_or(UNVERIFIABLE)?.1;
        let credential = self.gate.identities.hmac(signed.username).ok_or(UNVERIFIABLE)?;
        let text = signed_text(exchange, &signed.headers).ok_or(MISMATCH)?;
        if !is_signature(credential, algorithm, &text, signed.signature) {
            return Err(MISMATCH);
        }
        Ok(Proven {
            consumer: Some(credential.consumer),
            credential: Arc::from(credential.id.as_str()),
            identifier: HeaderValue::from_bytes(signed.username.as_bytes()).ok(),
        })
    }

    fn refuse(&self, message: &'static str) -> Box<Reply> {
        let reply = Reply::templated(KIND.name, StatusCode::UNAUTHORIZED, message);
        Box::new(match &self.challenge {
            Some(challenge) => reply.with(WWW_AUTHENTICATE, challenge.clone()),
            None => reply,
        })
    }
}

impl Signed<'_> {
    fn has(&self, header: &HeaderName) -> bool {
        self.headers.iter().any(|name| name.eq_ignore_ascii_case(header.as_str()))
    }
}

/// The first field of credentials that can be read.
fn field(headers: &HeaderMap) -> Option<(HeaderName, Signed<'_>)> {
    [PROXY_AUTHORIZATION, AUTHORIZATION].into_iter().find_map(|name| {
        let signed = parse(only(headers, &name)?)?;
        Some((name, signed))
    })
}

fn is_now(headers: &HeaderMap, name: &HeaderName, now_s: f64, skew_s: f64) -> bool {
    let date = only(headers, name).and_then(|text| httpdate::parse_http_date(text).ok());
    let since = date.and_then(|date| date.duration_since(std::time::UNIX_EPOCH).ok());
    // Kong counts whole seconds.
    since.is_some_and(|since| (now_s.floor() - since.as_secs_f64()).abs() <= skew_s)
}

/// The value of a header that stands once.
fn only<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Option<&'a str> {
    let mut values = headers.get_all(name).iter();
    let value = values.next()?.to_str().ok()?;
    values.next().is_none().then_some(value)
}

fn parse(text: &str) -> Option<Signed<'_>> {
    if text.len() > FIELD_BYTES_MAX {
        return None;
    }
    let text = text.trim_start();
    let mut rest = text.strip_prefix("hmac").or_else(|| text.strip_prefix("Hmac"))?;
    let mut take = |name: &str| {
        let quoted = rest.trim_start().strip_prefix(name)?.strip_prefix("=\"")?;
        let (value, behind) = quoted.split_once('"')?;
        rest = behind.strip_prefix(',').unwrap_or(behind);
        (!value.is_empty()).then_some(value)
    };
    let (username, algorithm) = (take("username")?, take("algorithm")?);
    let (names, signature) = (take("headers")?, take("signature")?);
    let headers: Vec<&str> = names.split(' ').take(SIGNED_MAX + 1).collect();
    (headers.len() <= SIGNED_MAX).then_some(Signed { username, algorithm, headers, signature })
}

/// What was signed: a line for each name, as Kong puts them together. Nothing when a named header stands several times, since
/// the upstream may believe the other one.
fn signed_text(exchange: &Exchange, names: &[&str]) -> Option<Vec<u8>> {
    let request = &exchange.request;
    let target = request.uri.path_and_query().map_or("/", |target| target.as_str());
    let mut text = Vec::with_capacity(256);
    for (at, name) in names.iter().enumerate() {
        if at > 0 {
            text.push(b'\n');
        }
        let mut values = request.headers.get_all(*name).iter();
        let given = values.next();
        if values.next().is_some() {
            return None;
        }
        match (given, *name) {
            (Some(value), _) => {
                text.extend_from_slice(format!("{name}: ").as_bytes());
                text.extend_from_slice(value.as_bytes());
            }
            (None, "@request-target") => {
                let method = request.method.as_str().to_ascii_lowercase();
                text.extend_from_slice(format!("@request-target: {method} {target}").as_bytes());
            }
            (None, "request-line") => {
                let line = format!("{} {target} {:?}", request.method, request.version);
                text.extend_from_slice(line.as_bytes());
            }
            // HTTP/2 has the host in `:authority`.
            (None, "host") if request.uri.authority().is_some() => {
                let host = request.uri.authority().map_or("", |authority| authority.as_str());
                text.extend_from_slice(format!("host: {host}").as_bytes());
            }
            (None, _) => text.extend_from_slice(format!("{name}:").as_bytes()),
        }
    }
    Some(text)
}

fn is_signature(credential: &HmacCredential, algorithm: hmac::Algorithm, text: &[u8], signature: &str) -> bool {
    let key = hmac::Key::new(algorithm, &credential.secret);
    BASE64.decode(signature).is_ok_and(|given| hmac::verify(&key, text, &given).is_ok())
}

/// Whether `Digest` is the body's SHA-256 (RFC 3230 §4.3.2); no body needs none, and one that is not held has none.
fn has_digest(exchange: &Exchange) -> bool {
    let body = match exchange.body.whole() {
        Some(body) => body,
        None if exchange.body.is_empty() => &[][..],
        None => return false,
    };
    if !exchange.request.headers.contains_key(DIGEST) {
        return body.is_empty();
    }
    let made = format!("SHA-256={}", STANDARD.encode(digest::digest(&digest::SHA256, body)));
    only(&exchange.request.headers, &DIGEST) == Some(&made)
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::super::bench::*;
    use super::*;
    use crate::proxy::body::RequestBody;

    /// The time at which the test exchange arrives.
    const NOW: &str = "Tue, 14 Nov 2023 22:13:20 GMT";

    fn credentials(algorithm: &str, headers: &str, signature: &[u8]) -> String {
        let signature = STANDARD.encode(signature);
        format!("hmac username=\"bob\", algorithm=\"{algorithm}\", headers=\"{headers}\", signature=\"{signature}\"")
    }

    fn signed(headers: &str, text: &str) -> String {
        credentials(
            "hmac-sha256",
            headers,
            hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, b"bob's hmac"), text.as_bytes()).as_ref(),
        )
    }

    fn ask(config: &str, headers: &[(&str, &str)], body: &'static str) -> (String, Exchange) {
        let plugin = plugin("hmac-auth", config, &identities(Vec::new()));
        let mut exchange = Exchange::for_test("POST", "/a%20b?c=d", headers);
        if plugin.body_limit(&exchange).is_some() {
            exchange.body = RequestBody::Whole(Bytes::from_static(body.as_bytes()));
        }
        (answer(&plugin, &mut exchange), exchange)
    }

    const NONE: &str = "401 Unauthorized [hmac]";
    const UNVERIFIED: &str = "401 HMAC signature cannot be verified [hmac]";
    const WRONG: &str = "401 HMAC signature does not match [hmac]";

    #[test]
    fn what_is_signed_is_put_together_as_kong_does() {
        for (names, text) in [
            ("date", format!("date: {NOW}")),
            ("date request-line", format!("date: {NOW}\nPOST /a%20b?c=d HTTP/1.1")),
            ("@request-target date", format!("@request-target: post /a%20b?c=d\ndate: {NOW}")),
            ("date x-none content-md5", format!("date: {NOW}\nx-none:\ncontent-md5: md5")),
            ("Date", format!("Date: {NOW}")),
        ] {
            let authorization = signed(names, &text);
            let headers = [("date", NOW), ("content-md5", "md5"), ("authorization", &*authorization)];
            let (verdict, exchange) = ask("{}", &headers, "");
            assert_eq!(verdict, "continue", "{names}");
            assert_eq!(upstream(&exchange, "x-consumer-username"), Some("bob"));
            assert_eq!(upstream(&exchange, "x-credential-identifier"), Some("bob"));
            let headers = [("date", NOW), ("content-md5", "md5"), ("proxy-authorization", &*authorization)];
            assert_eq!(ask("{}", &headers, "").0, "continue", "{names}");
        }
        let twice = signed("date x-a", &format!("date: {NOW}\nx-a: 1"));
        assert_eq!(ask("{}", &[("date", NOW), ("x-a", "1"), ("authorization", &twice)], "").0, "continue");
        let headers = [("date", NOW), ("x-a", "1"), ("x-a", "2"), ("authorization", &*twice)];
        assert_eq!(ask("{}", &headers, "").0, WRONG);
    }

    #[test]
    fn every_algorithm_and_only_those_allowed() {
        for (name, algorithm) in ALGORITHMS {
            let tag = hmac::sign(&hmac::Key::new(algorithm, b"bob's hmac"), format!("date: {NOW}").as_bytes());
            let authorization = credentials(name, "date", tag.as_ref());
            let headers = [("date", NOW), ("authorization", &*authorization)];
            assert_eq!(ask("{}", &headers, "").0, "continue", "{name}");
            let only = if name == "hmac-sha512" { "continue" } else { UNVERIFIED };
            assert_eq!(ask("algorithms: [hmac-sha512]", &headers, "").0, only, "{name}");
            let other = authorization.replace(name, "hmac-md5");
            assert_eq!(ask("{}", &[("date", NOW), ("authorization", &other)], "").0, UNVERIFIED);
        }
    }

    #[test]
    fn fields_that_cannot_be_read_are_refused() {
        let good = signed("date", &format!("date: {NOW}"));
        let many = signed(&"date ".repeat(SIGNED_MAX + 1), "");
        for (authorization, expected) in [
            (good.replace("hmac username", "Hmac username"), "continue"),
            (good.replace(", ", ","), "continue"),
            (good.replace("username=\"bob\"", "username=\"eve\""), UNVERIFIED),
            (good.replace("username=\"bob\"", "username=\"\""), UNVERIFIED),
            (good.replace("hmac username", "HMAC username"), UNVERIFIED),
            (good.replace("signature", "sig"), UNVERIFIED),
            (good.replace("signature=\"", "signature=\"A"), WRONG),
            (good.replace("headers=\"date\"", "headers=\"date request-line\""), WRONG),
            (good.replace('"', ""), UNVERIFIED),
            (many, UNVERIFIED),
            ("Basic Ym9iOmJvYg==".to_owned(), UNVERIFIED),
            ("hmac".to_owned(), UNVERIFIED),
            (String::new(), UNVERIFIED),
        ] {
            assert_eq!(
                ask("{}", &[("date", NOW), ("authorization", &authorization)], "").0,
                expected,
                "{authorization}"
            );
        }
        assert_eq!(ask("{}", &[("date", NOW)], "").0, NONE);
        let two = [("date", NOW), ("authorization", &*good), ("authorization", &*good)];
        assert_eq!(ask("{}", &two, "").0, UNVERIFIED);
    }

    #[test]
    fn the_date_must_be_of_now() {
        let late = "Tue, 14 Nov 2023 22:18:21 GMT";
        let authorization = signed("date", &format!("date: {late}"));
        let refusal = format!("401 {NO_DATE} [hmac]");
        assert_eq!(ask("{}", &[("date", late), ("authorization", &authorization)], "").0, refusal);
        assert_eq!(ask("clock_skew: 301", &[("date", late), ("authorization", &authorization)], "").0, "continue");
        let both = [("date", late), ("x-date", NOW), ("authorization", &*authorization)];
        assert_eq!(ask("{}", &both, "").0, refusal, "the date that was not signed is anybody's");
        let capital = signed("Date", &format!("Date: {late}"));
        let both = [("date", late), ("x-date", NOW), ("authorization", &*capital)];
        assert_eq!(ask("{}", &both, "").0, refusal);
        let other = signed("x-date", &format!("x-date: {late}"));
        assert_eq!(ask("{}", &[("date", NOW), ("x-date", late), ("authorization", &other)], "").0, refusal);
        // Of two that are signed one is enough, and neither need be: `enforce_headers` is for that.
        let two = signed("date x-date", &format!("date: {late}\nx-date: {NOW}"));
        assert_eq!(ask("{}", &[("date", late), ("x-date", NOW), ("authorization", &two)], "").0, "continue");
        let none = signed("request-line", "POST /a%20b?c=d HTTP/1.1");
        assert_eq!(ask("{}", &[("date", late), ("x-date", NOW), ("authorization", &none)], "").0, "continue");
        assert_eq!(ask("{}", &[("date", late), ("authorization", &none)], "").0, refusal);
        for date in ["", "now", "2023-11-14T22:13:20Z"] {
            assert_eq!(ask("{}", &[("date", date), ("authorization", &authorization)], "").0, refusal, "{date}");
        }
        assert_eq!(ask("{}", &[("authorization", &authorization)], "").0, refusal);
        assert!(problems("hmac-auth", "clock_skew: 0").contains("`clock_skew` is 0"));
    }

    #[test]
    fn headers_can_be_demanded_and_bodies_checked() {
        let authorization = signed("date", &format!("date: {NOW}"));
        let headers = [("date", NOW), ("authorization", &*authorization)];
        assert_eq!(ask("enforce_headers: [date]", &headers, "").0, "continue");
        assert_eq!(ask("enforce_headers: [date, digest]", &headers, "").0, UNVERIFIED);
        let digest = format!("SHA-256={}", STANDARD.encode(digest::digest(&digest::SHA256, b"body")));
        let with = |digest: &'static str| [headers[0], headers[1], ("digest", digest)];
        let digest: &'static str = digest.leak();
        let check = "validate_request_body: true";
        assert_eq!(ask(check, &with(digest), "body").0, "continue");
        assert_eq!(ask(check, &with(digest), "Body").0, WRONG);
        assert_eq!(ask(check, &with(digest), "").0, WRONG);
        assert_eq!(ask(check, &headers, "body").0, WRONG);
        assert_eq!(ask(check, &headers, "").0, "continue");
        assert_eq!(ask("{}", &with("SHA-256=x"), "body").0, "continue");
    }

    #[test]
    fn a_body_is_held_for_whoever_has_signed_alone() {
        let plugin =
            plugin("hmac-auth", "{ validate_request_body: true, enforce_headers: [date] }", &identities(Vec::new()));
        let limit = |date: &str, authorization: &str| {
            let headers = [("date", date), ("authorization", authorization)];
            plugin.body_limit(&Exchange::for_test("POST", "/", &headers))
        };
        let good = signed("date", &format!("date: {NOW}"));
        assert_eq!(limit(NOW, &good), Some(BODY_BYTES_MAX));
        for bad in [
            "Basic Ym9iOmJvYg==",
            &good.replace("\"bob\"", "\"eve\""),
            &good.replace("hmac-sha256", "hmac-md5"),
            &good.replace("signature=\"", "signature=\"A"),
            &signed("request-line", "POST / HTTP/1.1"),
        ] {
            assert_eq!(limit(NOW, bad), None, "{bad}");
        }
        let late = "Tue, 14 Nov 2023 22:18:21 GMT";
        assert_eq!(limit(late, &signed("date", &format!("date: {late}"))), None);
    }

    #[test]
    fn fields_are_kongs() {
        let authorization = signed("date", &format!("date: {NOW}"));
        let headers = [("date", NOW), ("authorization", &*authorization)];
        let (_, exchange) = ask("{}", &headers, "");
        assert!(upstream(&exchange, "authorization").is_some());
        let (_, exchange) = ask("hide_credentials: true", &headers, "");
        assert_eq!(upstream(&exchange, "authorization"), None);
        assert_eq!(ask("anonymous: nobody", &[], "").0, "continue");
        assert_eq!(ask("realm: vault", &[], "").0, "401 Unauthorized [hmac realm=\"vault\"]");
        assert!(problems("hmac-auth", "algorithms: [hmac-sha255]").contains("did you mean `hmac-sha256`?"));
    }
}
