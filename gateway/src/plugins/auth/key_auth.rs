//! Kong's `key-auth`: an API key in a header, the query or the body. Keys are looked up by digest and never logged.

use std::borrow::Cow;
use std::sync::Arc;

use bytes::Bytes;
use http::header::{CONTENT_LENGTH, CONTENT_TYPE, HeaderName, HeaderValue, WWW_AUTHENTICATE};
use http::{HeaderMap, StatusCode};
use serde_json::Value;

use super::{CREDENTIAL_TIER, Gate, Proven, arguments, challenge, conceal, header_name, names, realm};
use crate::document::Fields;
use crate::identity::digest;
use crate::identity::keyring::{IssuedKey, Keyring};
use crate::plugins::transform::multipart;
use crate::plugins::{Flow, Kind, Plugin, Setup};
use crate::proxy::body::RequestBody;
use crate::proxy::exchange::Exchange;
use crate::proxy::reply::Reply;

/// Kong's `key-auth`.
pub const KIND: Kind = Kind { name: "key-auth", priority: 1250, consumer_scope: false, compile };

/// The longest body that is searched for a key, bytes.
const BODY_BYTES_MAX: usize = 1 << 20;

struct KeyAuth {
    gate: Gate,
    keyring: Arc<Keyring>,
    keys: Vec<KeyName>,
    /// The same names, to hide their values in what is logged.
    hidden: Vec<String>,
    in_header: bool,
    in_query: bool,
    in_body: bool,
    hide_credentials: bool,
    challenge: Option<HeaderValue>,
}

struct KeyName {
    text: String,
    header: HeaderName,
}

/// What stands under a name in one place.
enum Found<'a> {
    Nothing,
    One(Cow<'a, [u8]>),
    Several,
}

fn compile(fields: &Fields<'_>, setup: &Setup<'_>) -> Option<Arc<dyn Plugin>> {
    let gate = Gate::read(KIND.name, fields, setup);
    let named = names(fields, "key_names", &["apikey"]);
    let count = named.len();
    let keys: Vec<KeyName> = named
        .into_iter()
        .filter_map(|(place, text)| Some(KeyName { header: header_name(fields, place, &text)?, text }))
        .collect();
    if count == 0 {
        fields.report.mismatch(fields.place_of("key_names"), "`key_names` is empty", "at least one name");
    }
    let flag = |name, default| fields.boolean(name).unwrap_or(default);
    let plugin = KeyAuth {
        gate,
        keyring: Arc::clone(&setup.shared.keyring),
        hidden: keys.iter().map(|k| k.text.clone()).collect(),
        in_header: flag("key_in_header", true),
        in_query: flag("key_in_query", true),
        in_body: flag("key_in_body", false),
        hide_credentials: flag("hide_credentials", false),
        challenge: challenge("Key", realm(fields).as_deref(), None),
        keys,
    };
    (count > 0 && plugin.keys.len() == count).then(|| Arc::new(plugin) as Arc<dyn Plugin>)
}

impl Plugin for KeyAuth {
    fn body_limit(&self, exchange: &Exchange) -> Option<usize> {
        let wanted = self.in_body && !self.gate.open(exchange) && Form::of(&exchange.request.headers).is_some();
        wanted.then_some(BODY_BYTES_MAX)
    }

    fn conceal(&self, exchange: &mut Exchange) {
        if let Some(uri) = arguments::redacted(&exchange.raw_uri, &self.hidden) {
            exchange.raw_uri = uri;
        }
        for name in &self.keys {
            conceal(&mut exchange.request.headers, &name.header);
        }
    }

    fn on_request(&self, exchange: &mut Exchange) -> Flow {
        let mut tier = None;
        let flow = self.gate.pass(exchange, |exchange| self.authenticate(exchange, &mut tier));
        if let (Flow::Continue, Some(tier)) = (&flow, tier) {
            exchange.request.headers.insert(CREDENTIAL_TIER, tier);
        }
        flow
    }
}

impl KeyAuth {
    /// `tier` becomes that of an issued key.
    fn authenticate(&self, exchange: &mut Exchange, tier: &mut Option<HeaderValue>) -> Result<Proven, Box<Reply>> {
        let body = if self.in_body { BodyFields::of(exchange) } else { None };
        let (name, key) = self.find(exchange, body.as_ref())?;
        let digest = digest(&key);
        let proven = match self.gate.identities.api_key_of(&digest) {
            Some(credential) => Some(Proven {
                consumer: Some(credential.consumer),
                credential: Arc::from(credential.id.as_str()),
                identifier: HeaderValue::from_str(&credential.id).ok(),
            }),
            None => self.issued(&digest, exchange.started_unix_ns / 1_000_000_000, tier),
        };
        if self.hide_credentials {
            let name = self.keys.get(name).ok_or_else(|| self.refuse("Unauthorized"))?;
            self.hide(exchange, name, body);
        }
        proven.ok_or_else(|| self.refuse("Unauthorized"))
    }

    /// A key that was made while the gateway runs; one whose consumer is gone opens nothing.
    fn issued(&self, digest: &[u8; 32], now_s: u64, tier: &mut Option<HeaderValue>) -> Option<Proven> {
        let look = |key: &IssuedKey| {
            let consumer = self.gate.identities.consumer_named(&key.record.consumer)?;
            *tier = key.record.tier.as_deref().and_then(|tier| HeaderValue::from_bytes(tier.as_bytes()).ok());
            Some(Proven {
                consumer: Some(consumer),
                credential: Arc::clone(&key.credential),
                identifier: HeaderValue::from_str(&key.credential).ok(),
            })
        };
        self.keyring.find(digest, now_s, look).flatten()
    }

    /// The first name that has a key anywhere, in Kong's order: for each name the header, then the query, then the body.
    fn find(&self, exchange: &Exchange, body: Option<&BodyFields>) -> Result<(usize, Vec<u8>), Box<Reply>> {
        for (index, name) in self.keys.iter().enumerate() {
            let mut found = Found::Nothing;
            if self.in_header {
                found = in_header(&exchange.request.headers, &name.header);
            }
            if matches!(found, Found::Nothing) && self.in_query {
                found = in_arguments(exchange.query.as_deref().unwrap_or_default().as_bytes(), &name.text);
            }
            if let (Found::Nothing, Some(body)) = (&found, body) {
                found = body.find(&name.text);
            }
            match found {
                Found::Nothing => {}
                Found::One(key) if key.is_empty() => break,
                Found::One(key) => return Ok((index, key.into_owned())),
                Found::Several => return Err(self.refuse("Duplicate API key found")),
            }
        }
        Err(self.refuse("No API key found in request"))
    }

    fn hide(&self, exchange: &mut Exchange, name: &KeyName, body: Option<BodyFields>) {
        exchange.request.headers.remove(&name.header);
        if let Some(query) = exchange.query.take() {
            exchange.query = Some(arguments::without(&query, &name.text)).filter(|q| !q.is_empty());
        }
        if let Some(rest) = body.and_then(|body| body.without(&name.text)) {
            if exchange.request.headers.contains_key(CONTENT_LENGTH) {
                exchange.request.headers.insert(CONTENT_LENGTH, HeaderValue::from(rest.len()));
            }
            exchange.body = RequestBody::Whole(rest);
        }
    }

    fn refuse(&self, message: &'static str) -> Box<Reply> {
        let reply = Reply::templated(KIND.name, StatusCode::UNAUTHORIZED, message);
        Box::new(match &self.challenge {
            Some(challenge) => reply.with(WWW_AUTHENTICATE, challenge.clone()),
            None => reply,
        })
    }
}

fn in_header<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Found<'a> {
    let mut values = headers.get_all(name).iter();
    match (values.next(), values.next()) {
        (None, _) => Found::Nothing,
        (Some(value), None) => Found::One(Cow::Borrowed(value.as_bytes())),
        (Some(_), Some(_)) => Found::Several,
    }
}

fn in_arguments<'a>(arguments: &[u8], name: &str) -> Found<'a> {
    let mut values = form_urlencoded::parse(arguments).filter(|(k, _)| k == name).map(|(_, v)| v);
    match (values.next(), values.next()) {
        (None, _) => Found::Nothing,
        (Some(value), None) => Found::One(Cow::Owned(value.into_owned().into_bytes())),
        (Some(_), Some(_)) => Found::Several,
    }
}

/// The forms of a body in which a key can stand.
#[derive(Clone, Copy)]
enum Form {
    Arguments,
    Json,
    Multipart,
}

impl Form {
    fn of(headers: &HeaderMap) -> Option<Form> {
        let media = headers.get(CONTENT_TYPE)?.to_str().ok()?.split(';').next()?.trim();
        match media.to_ascii_lowercase().as_str() {
            "application/x-www-form-urlencoded" => Some(Form::Arguments),
            "application/json" => Some(Form::Json),
            "multipart/form-data" => multipart::boundary(headers).map(|_| Form::Multipart),
            _ => None,
        }
    }
}

/// A body that could be read.
enum BodyFields {
    Arguments(String),
    Json(serde_json::Map<String, Value>),
    Multipart { boundary: String, body: Bytes },
}

impl BodyFields {
    fn of(exchange: &Exchange) -> Option<Self> {
        let body = exchange.body.whole()?;
        match Form::of(&exchange.request.headers)? {
            Form::Arguments => str::from_utf8(body).ok().map(|text| BodyFields::Arguments(text.to_owned())),
            Form::Json => serde_json::from_slice(body).ok().map(BodyFields::Json),
            Form::Multipart => {
                let boundary = multipart::boundary(&exchange.request.headers)?.to_owned();
                Some(BodyFields::Multipart { boundary, body: body.clone() })
            }
        }
    }

    fn find(&self, name: &str) -> Found<'_> {
        match self {
            BodyFields::Arguments(text) => in_arguments(text.as_bytes(), name),
            BodyFields::Json(members) => match members.get(name) {
                Some(Value::String(key)) => Found::One(Cow::Borrowed(key.as_bytes())),
                Some(Value::Array(_) | Value::Object(_)) => Found::Several,
                _ => Found::Nothing,
            },
            BodyFields::Multipart { boundary, body } => {
                match multipart::values(boundary, body, name).unwrap_or_default()[..] {
                    [] => Found::Nothing,
                    [key] => Found::One(Cow::Borrowed(key)),
                    _ => Found::Several,
                }
            }
        }
    }

    /// The body without the field, or nothing when it has none of that name.
    fn without(self, name: &str) -> Option<Bytes> {
        if matches!(self.find(name), Found::Nothing) {
            return None;
        }
        match self {
            BodyFields::Arguments(text) => Some(arguments::without(&text, name).into()),
            BodyFields::Json(mut members) => {
                members.shift_remove(name);
                serde_json::to_vec(&members).ok().map(Bytes::from)
            }
            BodyFields::Multipart { boundary, body } => multipart::without(&boundary, &body, name).map(Bytes::from),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::bench::*;
    use super::*;

    fn run(config: &str, target: &str, headers: &[(&str, &str)], body: &'static str) -> (String, Exchange) {
        let plugin = plugin("key-auth", config, &identities(Vec::new()));
        let mut exchange = Exchange::for_test("POST", target, headers);
        if plugin.body_limit(&exchange).is_some() {
            exchange.body = RequestBody::Whole(Bytes::from_static(body.as_bytes()));
        }
        (answer(&plugin, &mut exchange), exchange)
    }

    fn verdict(config: &str, target: &str, headers: &[(&str, &str)], body: &'static str) -> String {
        run(config, target, headers, body).0
    }

    const FORM: (&str, &str) = ("content-type", "application/x-www-form-urlencoded; charset=utf-8");
    const JSON: (&str, &str) = ("content-type", "application/json");
    const MISSING: &str = "401 No API key found in request [Key]";
    const DUPLICATE: &str = "401 Duplicate API key found [Key]";
    const WRONG: &str = "401 Unauthorized [Key]";

    #[test]
    fn keys_are_exact() {
        assert_eq!(verdict("{}", "/", &[("apikey", "bob-key")], ""), "continue");
        assert_eq!(verdict("{}", "/?apikey=bob-key", &[], ""), "continue");
        assert_eq!(verdict("{}", "/?apikey=bob%2Dkey", &[], ""), "continue");
        for key in ["bob-ke", "bob-keys", "BOB-KEY", "bob-key,alice-key", "bob-key, bob-key", "\u{fffd}", "*"] {
            let headers = [("apikey", key)];
            assert_eq!(verdict("{}", "/", &headers, ""), WRONG, "{key}");
        }
        assert_eq!(verdict("{}", "/", &[], ""), MISSING);
        assert_eq!(verdict("{}", "/", &[("apikey", "")], ""), MISSING);
        assert_eq!(verdict("{}", "/?apikey=", &[], ""), MISSING);
        assert_eq!(verdict("{}", "/?apikey", &[], ""), MISSING);
        assert_eq!(verdict("{}", "/?APIKEY=bob-key", &[], ""), MISSING);
        assert_eq!(verdict("{}", "/?apikey[]=bob-key", &[], ""), MISSING);
    }

    #[test]
    fn bytes_beyond_utf8_are_just_a_wrong_key() {
        let plugin = plugin("key-auth", "{}", &identities(Vec::new()));
        let mut exchange = Exchange::for_test("GET", "/", &[]);
        exchange.request.headers.insert("apikey", HeaderValue::from_bytes(b"\xff\xfe").expect("header"));
        assert_eq!(answer(&plugin, &mut exchange), WRONG);
    }

    #[test]
    fn duplicates_are_refused_even_when_one_is_good() {
        let twice = [("apikey", "bob-key"), ("apikey", "bad")];
        assert_eq!(verdict("{}", "/", &twice, ""), DUPLICATE);
        assert_eq!(verdict("{}", "/?apikey=bob-key&apikey=bob-key", &[], ""), DUPLICATE);
        let body = "key_in_body: true";
        assert_eq!(verdict(body, "/", &[FORM], "apikey=bob-key&apikey=bob-key"), DUPLICATE);
        assert_eq!(verdict(body, "/", &[JSON], r#"{"apikey":["bob-key"]}"#), DUPLICATE);
    }

    #[test]
    fn the_header_goes_before_the_query_and_the_query_before_the_body() {
        let all = "key_in_body: true";
        assert_eq!(verdict(all, "/?apikey=bob-key", &[("apikey", "bad"), FORM], "apikey=bob-key"), WRONG);
        assert_eq!(verdict(all, "/?apikey=bad", &[FORM], "apikey=bob-key"), WRONG);
        assert_eq!(verdict(all, "/", &[FORM], "apikey=bob-key"), "continue");
        assert_eq!(verdict(all, "/", &[JSON], r#"{"apikey":"bob-key"}"#), "continue");
        assert_eq!(verdict(all, "/", &[JSON], r#"{"apikey":7}"#), MISSING);
        assert_eq!(verdict(all, "/", &[JSON], "[]"), MISSING);
        assert_eq!(verdict(all, "/", &[], "apikey=bob-key"), MISSING);
        assert_eq!(verdict("{}", "/", &[FORM], "apikey=bob-key"), MISSING);
        let names = "key_names: [x-one, two]";
        assert_eq!(verdict(names, "/?two=bob-key", &[], ""), "continue");
        assert_eq!(verdict(names, "/?two=bob-key", &[("x-one", "bad")], ""), WRONG);
    }

    #[test]
    fn multipart_fields_hold_keys() {
        let form = ("content-type", "multipart/form-data; boundary=B");
        let hide = "{key_in_body: true, hide_credentials: true}";
        let body = "--B\r\nContent-Disposition: form-data; name=\"apikey\"\r\n\r\nbob-key\r\n--B--\r\n";
        let (verdict, exchange) = run(hide, "/", &[form], body);
        assert_eq!(verdict, "continue");
        assert_eq!(exchange.body.whole().map(|b| &b[..]), Some(&b"--B--\r\n"[..]));
    }

    #[test]
    fn places_can_be_closed() {
        let none = "{key_in_header: false, key_in_query: false}";
        assert_eq!(verdict(none, "/?apikey=bob-key", &[("apikey", "bob-key")], ""), MISSING);
        let query = "{key_in_header: false}";
        assert_eq!(verdict(query, "/?apikey=bob-key", &[("apikey", "bad")], ""), "continue");
    }

    #[test]
    fn a_hidden_key_leaves_no_trace_upstream() {
        let hide = "{hide_credentials: true, key_in_body: true}";
        let headers = [("apikey", "bob-key"), FORM, ("content-length", "24")];
        let (verdict, exchange) = run(hide, "/p?c=1&apikey=x&a=valu%653", &headers, "a=1&apikey=bob-key&b=%20");
        assert_eq!(verdict, "continue");
        assert_eq!(upstream(&exchange, "apikey"), None);
        assert_eq!(exchange.query.as_deref(), Some("c=1&a=value3"));
        assert_eq!(exchange.body.whole().map(|b| &b[..]), Some(&b"a=1&b=%20"[..]));
        assert_eq!(upstream(&exchange, "content-length"), Some("9"));
        let (_, exchange) = run(hide, "/p?apikey=bob-key", &[JSON], r#"{"z":1,"apikey":"y","a":2}"#);
        assert_eq!(exchange.query, None);
        assert_eq!(exchange.body.whole().map(|b| &b[..]), Some(&br#"{"z":1,"a":2}"#[..]));
        let (_, exchange) = run("{}", "/p?apikey=bob-key", &[], "");
        assert_eq!(exchange.query.as_deref(), Some("apikey=bob-key"));
    }

    #[test]
    fn the_log_never_sees_a_key() {
        for key in ["bob-key", "wrong"] {
            let (_, exchange) = run("{}", &format!("/p?a=1&apikey={key}"), &[], "");
            assert_eq!(exchange.raw_uri, "/p?a=1&apikey=REDACTED");
        }
    }

    #[test]
    fn the_body_is_held_only_when_a_key_can_be_in_it() {
        let limit = |config: &str, headers: &[(&str, &str)]| {
            plugin("key-auth", config, &identities(Vec::new())).body_limit(&Exchange::for_test("POST", "/", headers))
        };
        assert_eq!(limit("{}", &[FORM]), None);
        assert_eq!(limit("key_in_body: true", &[FORM]), Some(BODY_BYTES_MAX));
        assert_eq!(limit("key_in_body: true", &[("content-type", "text/plain")]), None);
    }

    #[test]
    fn wrong_configuration_has_a_place() {
        assert!(
            problems("key-auth", "key_names: [ok, 'a b']").contains("k.yml:1:17: error: `a b` is not a header name")
        );
        assert!(problems("key-auth", "key_names: []").contains("`key_names` is empty"));
        assert!(problems("key-auth", "key_name: [a]").contains("did you mean `key_names`?"));
        assert!(problems("key-auth", "hide_credentials: 'yes'").contains("expected: true or false"));
    }
}
