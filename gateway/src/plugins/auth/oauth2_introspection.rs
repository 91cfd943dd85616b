//! Kong's `oauth2-introspection`: asks the authorization server what an access token is worth (RFC 7662), and remembers the
//! answer. The worker asks, once for a token, bounded in time and number; what was asked lately is known at once.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use form_urlencoded::Serializer;
use http::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue, WWW_AUTHENTICATE};
use http::{Method, StatusCode, Uri};
use serde_json::{Map, Value, json};
use tokio::sync::Semaphore;
use tokio::time::Instant;

use super::issued::{By, checked, named};
use super::{CREDENTIAL_IDENTIFIER, Gate, Proven, arguments, challenge, conceal, header_name};
use crate::calls::{Calls, Question, shown};
use crate::clock;
use crate::document::{Fields, Value as Node};
use crate::identity::digest;
use crate::identity::remote::answers::{Answers, Dated, Slot};
use crate::plugins::{Flow, Kind, Plugin, Setup};
use crate::proxy::exchange::Exchange;
use crate::proxy::reply::Reply;

/// Kong's `oauth2-introspection`.
pub const KIND: Kind = Kind { name: "oauth2-introspection", priority: 1700, consumer_scope: false, compile };

/// The query argument of a token (RFC 6750 §2.3).
const ARGUMENT: &str = "access_token";
/// The longest token that is asked about, and the longest answer, bytes.
const TOKEN_BYTES_MAX: usize = 8 << 10;
const ANSWER_BYTES_MAX: usize = 64 << 10;
/// Questions of one plugin at the same time.
const QUESTIONS_MAX: usize = 128;
/// How long a failure to ask is remembered, so that a dead server is not asked by every request.
const FAILURE_NS: u64 = 1_000_000_000;

/// What an answer takes of the memory besides what the server says, about.
const SLOT_BYTES: usize = 128;

const PATH: HeaderName = HeaderName::from_static("x-request-path");
const METHOD: HeaderName = HeaderName::from_static("x-request-http-method");

/// Members of an answer (RFC 7662 §2.2) and the headers by which the upstream is told.
const TOLD: [(&str, HeaderName); 10] = [
    ("scope", HeaderName::from_static("x-credential-scope")),
    ("client_id", HeaderName::from_static("x-credential-client-id")),
    ("token_type", HeaderName::from_static("x-credential-token-type")),
    ("exp", HeaderName::from_static("x-credential-exp")),
    ("iat", HeaderName::from_static("x-credential-iat")),
    ("nbf", HeaderName::from_static("x-credential-nbf")),
    ("sub", HeaderName::from_static("x-credential-sub")),
    ("aud", HeaderName::from_static("x-credential-aud")),
    ("iss", HeaderName::from_static("x-credential-iss")),
    ("jti", HeaderName::from_static("x-credential-jti")),
];

struct Oauth2Introspection(Arc<Inner>);

struct Inner {
    gate: Gate,
    calls: Arc<Calls>,
    answers: Answers<Worth>,
    permits: Semaphore,
    at: Uri,
    /// `at` without its query.
    shown: String,
    headers: HeaderMap,
    token_type_hint: Option<String>,
    ttl_ns: u64,
    timeout: Duration,
    verify: bool,
    introspect_request: bool,
    hide_credentials: bool,
    consumer_by: By,
    custom: Vec<(String, HeaderName)>,
    missing: Option<HeaderValue>,
    invalid: Option<HeaderValue>,
}

/// What the server says of a token.
enum Worth {
    Active(Map<String, Value>),
    Inactive,
    Unknown,
}

fn compile(fields: &Fields<'_>, setup: &Setup<'_>) -> Option<Arc<dyn Plugin>> {
    let gate = Gate::read(KIND.name, fields, setup);
    let at = fields.required_string("introspection_url");
    let authorization = fields.required_string("authorization_value");
    let ttl_s = fields.number("ttl", 0.0..=86_400.0).unwrap_or(30.0);
    let timeout_ms = fields.integer("timeout", 1..=600_000).unwrap_or(10_000);
    // Connections are not kept.
    fields.integer("keepalive", 0..=i64::from(i32::MAX));
    let token_type_hint = fields.string("token_type_hint");
    let introspect_request = fields.boolean("introspect_request").unwrap_or(false);
    let hide_credentials = fields.boolean("hide_credentials").unwrap_or(false);
    let by = [("username", By::Username), ("client_id", By::CustomId)];
    let consumer_by = fields.choice("consumer_by", &by).unwrap_or(By::Username);
    let verify = fields.boolean("ssl_verify").unwrap_or(true);
    let custom: Vec<_> = fields
        .strings("custom_claims_forward")
        .unwrap_or_default()
        .into_iter()
        .map(|(place, claim)| Some((claim.clone(), header_name(fields, place, &format!("x-credential-{claim}"))?)))
        .collect();
    let headers = question_headers(fields, authorization.as_deref());
    let at = checked(fields, "introspection_url", &at?)?;
    Some(Arc::new(Oauth2Introspection(Arc::new(Inner {
        gate,
        calls: Arc::clone(&setup.shared.remote.calls),
        answers: Answers::default(),
        permits: Semaphore::new(QUESTIONS_MAX),
        shown: shown(&at),
        at,
        headers: headers?,
        token_type_hint,
        ttl_ns: (ttl_s * 1e9) as u64,
        timeout: Duration::from_millis(timeout_ms.unsigned_abs()),
        verify,
        introspect_request,
        hide_credentials,
        consumer_by,
        custom: custom.into_iter().collect::<Option<_>>()?,
        missing: challenge("Bearer", Some("service"), None),
        invalid: challenge("Bearer", Some("service"), Some("error=\"invalid_token\"")),
    }))))
}

/// `Authorization` and `custom_introspection_headers`.
fn question_headers(fields: &Fields<'_>, authorization: Option<&str>) -> Option<HeaderMap> {
    let mut headers = HeaderMap::new();
    headers.insert(ACCEPT, HeaderValue::from_static("application/json"));
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/x-www-form-urlencoded"));
    if let Some(custom) = fields.node("custom_introspection_headers") {
        let Node::Map(entries) = &custom.value else {
            fields.report.mismatch(custom.place, "`custom_introspection_headers` is no map", "header names and values");
            return None;
        };
        for (key, node) in entries {
            let name = header_name(fields, key.place, &key.name)?;
            let value = match &node.value {
                Node::Str(text) => HeaderValue::from_str(text).ok(),
                _ => None,
            };
            let Some(value) = value else {
                fields.report.mismatch(node.place, format!("`{}` is no header's value", key.name), "a string");
                return None;
            };
            headers.insert(name, value);
        }
    }
    let value = HeaderValue::from_str(authorization?);
    if value.is_err() {
        let place = fields.place_of("authorization_value");
        fields.report.mismatch(place, "`authorization_value` has control characters", "text that fits into a header");
    }
    let mut value = value.ok()?;
    value.set_sensitive(true);
    headers.insert(AUTHORIZATION, value);
    Some(headers)
}

impl Plugin for Oauth2Introspection {
    fn conceal(&self, exchange: &mut Exchange) {
        conceal(&mut exchange.request.headers, &AUTHORIZATION);
        if let Some(uri) = arguments::redacted(&exchange.raw_uri, &[ARGUMENT.to_owned()]) {
            exchange.raw_uri = uri;
        }
    }

    fn on_request(&self, exchange: &mut Exchange) -> Flow {
        let own = &self.0;
        if let Some(flow) = own.gate.skip(exchange) {
            return flow;
        }
        own.untell(&mut exchange.request.headers);
        let Some(token) = find(exchange) else {
            return own.refuse(exchange, &own.missing, "invalid_request", "The access token is missing");
        };
        let slot = own.answers.slot(&own.key(exchange, &token), exchange.started_ns);
        if let Some(worth) = slot.get(exchange.started_ns) {
            return own.conclude(exchange, worth);
        }
        own.wait(exchange, slot, token)
    }
}

impl Inner {
    /// What an answer is remembered by.
    fn key(&self, exchange: &Exchange, token: &str) -> [u8; 32] {
        if !self.introspect_request {
            return digest(token.as_bytes());
        }
        digest(format!("{token}\n{}\n{}", exchange.request.method, exchange.path).as_bytes())
    }

    fn wait(self: &Arc<Self>, exchange: &Exchange, slot: Arc<Slot<Worth>>, token: String) -> Flow {
        let own = Arc::clone(self);
        let question = self.question(exchange, &token);
        let end = Instant::now() + self.timeout;
        Flow::Wait(Box::pin(async move {
            // Whoever waits for another's answer may have to ask himself at last; his time is what it was.
            let _ = tokio::time::timeout_at(end, slot.ask(own.ask(&question, end))).await;
            Box::new(move |exchange: &mut Exchange| match slot.latest() {
                Some(worth) => own.conclude(exchange, worth),
                None => own.conclude(exchange, &Worth::Unknown),
            }) as crate::plugins::Resume
        }))
    }

    fn question(&self, exchange: &Exchange, token: &str) -> Question {
        let mut form = Serializer::new(String::new());
        form.append_pair("token", token);
        if let Some(hint) = &self.token_type_hint {
            form.append_pair("token_type_hint", hint);
        }
        let mut headers = self.headers.clone();
        if self.introspect_request {
            for (name, text) in [(PATH, exchange.path.as_str()), (METHOD, exchange.request.method.as_str())] {
                if let Ok(value) = HeaderValue::from_str(text) {
                    headers.insert(name, value);
                }
            }
        }
        Question {
            to: self.at.clone(),
            method: Method::POST,
            headers,
            body: Bytes::from(form.finish()),
            verify: self.verify,
            timeout: self.timeout,
            answer_bytes_max: ANSWER_BYTES_MAX,
        }
    }

    async fn ask(&self, question: &Question, end: Instant) -> Dated<Worth> {
        let asked = async {
            let _permit = self.permits.acquire().await.map_err(|_| "closed".to_owned())?;
            self.calls.ask(question).await
        };
        let answer = match tokio::time::timeout_at(end, asked).await {
            Ok(Ok(answer)) if answer.status == StatusCode::OK => {
                serde_json::from_slice::<Value>(&answer.body).map_err(|_| "the answer is no JSON".to_owned())
            }
            Ok(Ok(answer)) => Err(format!("status {}", answer.status.as_u16())),
            Ok(Err(error)) => Err(error),
            Err(_) => Err("no answer in time".to_owned()),
        };
        let now_ns = clock::monotonic_ns();
        match answer {
            Ok(Value::Object(claims)) => self.dated(claims, now_ns, clock::unix_ns()),
            Ok(_) => Dated { answer: Worth::Unknown, until_ns: now_ns + FAILURE_NS, bytes: SLOT_BYTES },
            Err(error) => {
                tracing::warn!(at = self.shown, error, "a token cannot be introspected");
                Dated { answer: Worth::Unknown, until_ns: now_ns + FAILURE_NS, bytes: SLOT_BYTES }
            }
        }
    }

    /// The worth of a token and how long it holds: `ttl`, and never beyond its `exp`.
    fn dated(&self, claims: Map<String, Value>, now_ns: u64, unix_ns: u64) -> Dated<Worth> {
        let left_ns = match claims.get("exp").and_then(Value::as_f64) {
            Some(exp) => ((exp * 1e9) as u64).saturating_sub(unix_ns),
            None => u64::MAX,
        };
        let until_ns = now_ns.saturating_add(self.ttl_ns.min(left_ns));
        let active = claims.get("active") == Some(&Value::Bool(true)) && left_ns > 0;
        if !active {
            return Dated { answer: Worth::Inactive, until_ns, bytes: SLOT_BYTES };
        }
        let bytes = SLOT_BYTES + weight_of(&claims);
        Dated { answer: Worth::Active(claims), until_ns, bytes }
    }

    fn conclude(&self, exchange: &mut Exchange, worth: &Worth) -> Flow {
        match worth {
            Worth::Active(claims) => {
                if self.hide_credentials {
                    hide(exchange);
                }
                let flow = self.gate.settle(exchange, Ok(self.proven(claims)));
                self.tell(claims, &mut exchange.request.headers);
                flow
            }
            Worth::Inactive => {
                let words = "The access token is invalid or has expired";
                self.refuse(exchange, &self.invalid, "invalid_token", words)
            }
            Worth::Unknown => {
                let body = json!({ "message": "The access token cannot be checked now" });
                let reply = Reply::json(KIND.name, StatusCode::SERVICE_UNAVAILABLE, body).retry_after(1);
                self.gate.settle(exchange, Err(Box::new(reply)))
            }
        }
    }

    fn proven(&self, claims: &Map<String, Value>) -> Proven {
        let text = |name: &str| claims.get(name).and_then(Value::as_str).unwrap_or_default();
        let name = text(if self.consumer_by == By::Username { "username" } else { "client_id" });
        let consumer = Some(name).filter(|name| !name.is_empty());
        let holder = [text("username"), text("sub"), text("client_id")].into_iter().find(|one| !one.is_empty());
        Proven {
            consumer: consumer.and_then(|name| named(&self.gate.identities, self.consumer_by, name)),
            credential: Arc::from(format!("{} {}", self.shown, holder.unwrap_or_default())),
            identifier: HeaderValue::from_str(text("username")).ok().filter(|name| !name.is_empty()),
        }
    }

    fn tell(&self, claims: &Map<String, Value>, headers: &mut HeaderMap) {
        for (claim, name) in TOLD.iter().map(|(claim, name)| (*claim, name)).chain(self.custom()) {
            let text = match claims.get(claim) {
                None | Some(Value::Null) => continue,
                Some(Value::String(text)) => text.clone(),
                Some(other) => other.to_string(),
            };
            if let Ok(value) = HeaderValue::from_str(&text)
                && *name != CREDENTIAL_IDENTIFIER
            {
                headers.insert(name, value);
            }
        }
    }

    /// A client's own copies never pass.
    fn untell(&self, headers: &mut HeaderMap) {
        for name in TOLD.iter().map(|(_, name)| name).chain(self.custom().map(|(_, name)| name)) {
            headers.remove(name);
        }
    }

    fn custom(&self) -> impl Iterator<Item = (&str, &HeaderName)> {
        self.custom.iter().map(|(claim, name)| (claim.as_str(), name))
    }

    fn refuse(
        &self,
        exchange: &mut Exchange,
        challenge: &Option<HeaderValue>,
        error: &'static str,
        description: &'static str,
    ) -> Flow {
        let body = json!({ "error": error, "error_description": description });
        let reply = Reply::json(KIND.name, StatusCode::UNAUTHORIZED, body);
        let reply = match challenge {
            Some(challenge) => reply.with(WWW_AUTHENTICATE, challenge.clone()),
            None => reply,
        };
        self.gate.settle(exchange, Err(Box::new(reply)))
    }
}

/// The bytes of members in memory, about; a list of small things takes many times its text.
fn weight_of(members: &Map<String, Value>) -> usize {
    members.iter().map(|(name, value)| size_of::<(String, Value)>() + name.len() + weight(value)).sum()
}

fn weight(value: &Value) -> usize {
    match value {
        Value::Null | Value::Bool(_) | Value::Number(_) => 0,
        Value::String(text) => text.len(),
        Value::Array(items) => items.iter().map(|item| size_of::<Value>() + weight(item)).sum(),
        Value::Object(members) => weight_of(members),
    }
}

/// The one token: two different ones are none, since the upstream may believe the other one.
fn find(exchange: &Exchange) -> Option<String> {
    let mut values = exchange.request.headers.get_all(AUTHORIZATION).iter();
    let first = values.next().and_then(|value| super::jwt::bearer(value.as_bytes()));
    let mut found = first.and_then(|token| str::from_utf8(token).ok()).map(str::to_owned);
    if values.next().is_some() {
        return None;
    }
    let query = exchange.query.as_deref().unwrap_or_default();
    for (_, value) in form_urlencoded::parse(query.as_bytes()).filter(|(name, _)| name == ARGUMENT) {
        if found.as_deref().is_some_and(|known| known != value) {
            return None;
        }
        found = Some(value.into_owned());
    }
    found.filter(|token| !token.is_empty() && token.len() <= TOKEN_BYTES_MAX)
}

fn hide(exchange: &mut Exchange) {
    exchange.request.headers.remove(AUTHORIZATION);
    if let Some(query) = exchange.query.take() {
        exchange.query = Some(arguments::without(&query, ARGUMENT)).filter(|query| !query.is_empty());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_weighs_what_it_takes() {
        let weigh = |value: Value| weight(&value);
        assert_eq!(weigh(json!("12345678")), 8);
        assert!(weigh(json!(vec![0; 1000])) >= 1000 * size_of::<Value>());
        assert!(weigh(json!({ "a": { "name": ["text", "text"] } })) > 2 * size_of::<(String, Value)>() + 8);
    }
}
