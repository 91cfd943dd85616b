//! Kong's `openid-connect` for bearers of access tokens: the issuer's discovery document leads to its keys, the token's
//! signature, times, audience, scopes and groups are checked here. No logins, no sessions, no calls while a request waits.

use std::sync::Arc;
use std::time::Duration;

use http::StatusCode;
use http::header::{AUTHORIZATION, HeaderMap, HeaderName, HeaderValue, WWW_AUTHENTICATE};
use serde_json::{Map, Value, json};

use super::issued::{ClaimPath, Issued, Lack, People, Required, Rules, at, checked, resumed, texts};
use super::{AUTHENTICATED_GROUPS, Gate, Proven, arguments, challenge, conceal, header_name, jwt_token};
use crate::document::Fields;
use crate::identity::remote::source::Publisher;
use crate::plugins::{Flow, Kind, Plugin, Setup};
use crate::proxy::exchange::{Exchange, is_identity};
use crate::proxy::reply::Reply;

/// Kong's `openid-connect`.
pub const KIND: Kind = Kind { name: "openid-connect", priority: 1050, consumer_scope: false, compile };

const DISCOVERY: &str = "/.well-known/openid-configuration";
/// The query argument of a token (RFC 6750 §2.3).
const ARGUMENT: &str = "access_token";

struct OpenidConnect(Arc<Inner>);

struct Inner {
    gate: Gate,
    issued: Issued,
    in_header: bool,
    in_query: bool,
    hide_credentials: bool,
    /// Claims that the upstream is told, and as which header.
    upstream: Vec<(String, HeaderName)>,
    groups: ClaimPath,
    unauthorized: String,
    forbidden: String,
    missing: Option<HeaderValue>,
    invalid: Option<HeaderValue>,
}

fn compile(fields: &Fields<'_>, setup: &Setup<'_>) -> Option<Arc<dyn Plugin>> {
    let gate = Gate::read(KIND.name, fields, setup);
    let bearer_only = bearer_only(fields);
    let places = texts(fields, "bearer_token_param_type");
    let place = |name: &str| places.is_empty() || places.iter().any(|place| place == name);
    let text = |name, default: &str| fields.string(name).unwrap_or_else(|| default.to_owned());
    // Of other ways to log in than this one.
    for unused in ["client_id", "client_secret", "scopes"] {
        fields.skip(unused);
    }
    let upstream = upstream_headers(fields);
    let groups = texts(fields, "authenticated_groups_claim");
    let hide_credentials = fields.boolean("hide_credentials").unwrap_or(false);
    let unauthorized = text("unauthorized_error_message", "Unauthorized");
    let forbidden = text("forbidden_error_message", "Forbidden");
    let realm = super::realm(fields);
    let issued = issued(fields, setup)?;
    let issuer = fields.string("issuer").unwrap_or_default();
    let host = issuer.parse::<http::Uri>().ok().and_then(|uri| uri.host().map(str::to_owned));
    let realm = realm.or(host);
    let plugin = Inner {
        gate,
        issued,
        in_header: place("header"),
        in_query: place("query"),
        hide_credentials,
        upstream: upstream?,
        groups,
        unauthorized,
        forbidden,
        missing: challenge("Bearer", realm.as_deref(), None),
        invalid: challenge("Bearer", realm.as_deref(), Some("error=\"invalid_token\"")),
    };
    bearer_only.then(|| Arc::new(OpenidConnect(Arc::new(plugin))) as Arc<dyn Plugin>)
}

/// Kong's default are all methods; here only one is built, which must be asked for.
fn bearer_only(fields: &Fields<'_>) -> bool {
    let methods = fields.strings("auth_methods");
    let place = fields.place_of("auth_methods");
    match methods.as_deref() {
        Some([(_, only)]) if only == "bearer" => true,
        _ => {
            fields.report.unsupported(place, "openid-connect with another `auth_methods` than [bearer]", None);
            false
        }
    }
}

fn issued(fields: &Fields<'_>, setup: &Setup<'_>) -> Option<Issued> {
    let issuer = fields.required_string("issuer");
    let seconds = |name, default: u64| {
        let given = fields.number(name, 0.0..=31_536_000.0);
        given.map_or(Duration::from_secs(default), Duration::from_secs_f64)
    };
    let timeout = fields.integer("timeout", 1..=600_000).unwrap_or(10_000).unsigned_abs();
    let refresh = seconds("cache_ttl", 3600).max(Duration::from_secs(1));
    let refetch = seconds("rediscovery_lifetime", 30);
    let verify = fields.boolean("ssl_verify").unwrap_or(true);
    let publisher =
        |at, issuer| Publisher { at, issuer, verify, timeout: Duration::from_millis(timeout), refresh, refetch };
    let more = texts(fields, "extra_jwks_uris");
    let allowed = texts(fields, "issuers_allowed");
    let leeway_s = fields.number("leeway", 0.0..=86_400.0).unwrap_or(0.0);
    let required = required(fields);
    let people = People::read(fields);
    let given = issuer?;
    let issuer = given.strip_suffix(DISCOVERY).unwrap_or(&given).to_owned();
    let at = checked(fields, "issuer", &format!("{}{DISCOVERY}", issuer.trim_end_matches('/')))?;
    let own = [issuer.clone(), format!("{}/", issuer.trim_end_matches('/')), issuer.trim_end_matches('/').to_owned()];
    let sources = &setup.shared.remote.sources;
    let mut found = vec![sources.of(publisher(at, Some(issuer)))];
    for at in more {
        found.push(sources.of(publisher(checked(fields, "extra_jwks_uris", &at)?, None)));
    }
    let issuers = if allowed.is_empty() { own.to_vec() } else { allowed };
    Some(Issued { sources: found, rules: Rules { issuers, required, leeway_s }, people })
}

/// Kong's `…_required` and `…_claim`: of several entries one is enough, the words within an entry are needed together.
fn required(fields: &Fields<'_>) -> Vec<Required> {
    let mut out = Vec::new();
    for (demanded, claim, default) in [
        ("audience_required", "audience_claim", "aud"),
        ("scopes_required", "scopes_claim", "scope"),
        ("groups_required", "groups_claim", "groups"),
        ("roles_required", "roles_claim", "roles"),
    ] {
        let words = texts(fields, demanded);
        let alternatives = words.iter().map(|all| all.split(' ').map(str::to_owned).collect()).collect();
        let path = texts(fields, claim);
        let path: Vec<&str> = if path.is_empty() { vec![default] } else { path.iter().map(String::as_str).collect() };
        out.extend(Required::of(&path, alternatives, true));
    }
    out
}

fn upstream_headers(fields: &Fields<'_>) -> Option<Vec<(String, HeaderName)>> {
    let claims = texts(fields, "upstream_headers_claims");
    let names = fields.strings("upstream_headers_names").unwrap_or_default();
    if claims.len() != names.len() {
        let place = fields.place_of("upstream_headers_names");
        fields.report.mismatch(
            place,
            "`upstream_headers_names` and `…_claims` differ in length",
            "a name for each claim",
        );
        return None;
    }
    claims
        .into_iter()
        .zip(names)
        .map(|(claim, (place, name))| Some((claim, header_name(fields, place, &name)?)))
        .collect()
}

impl Plugin for OpenidConnect {
    fn conceal(&self, exchange: &mut Exchange) {
        conceal(&mut exchange.request.headers, &AUTHORIZATION);
        if self.0.in_query
            && let Some(uri) = arguments::redacted(&exchange.raw_uri, &[ARGUMENT.to_owned()])
        {
            exchange.raw_uri = uri;
        }
    }

    fn on_request(&self, exchange: &mut Exchange) -> Flow {
        Inner::decide(&self.0, exchange, true)
    }
}

/// Why nobody is let through.
enum Fault {
    Missing,
    Bad,
    Issued(Lack),
}

impl Inner {
    fn decide(self: &Arc<Self>, exchange: &mut Exchange, may_wait: bool) -> Flow {
        self.untell(&mut exchange.request.headers);
        if let Some(flow) = self.gate.skip(exchange) {
            return flow;
        }
        match self.authenticate(exchange, may_wait) {
            Err(Fault::Issued(Lack::Wait(renewal))) => {
                let own = Arc::clone(self);
                resumed(renewal, move |exchange| own.decide(exchange, false))
            }
            Err(fault) => {
                self.tell(&Map::new(), &mut exchange.request.headers);
                self.gate.settle(exchange, Err(self.refuse(fault)))
            }
            Ok((proven, claims)) => {
                if self.hide_credentials {
                    self.hide(exchange);
                }
                let flow = self.gate.settle(exchange, Ok(proven));
                self.tell(&claims, &mut exchange.request.headers);
                flow
            }
        }
    }

    fn authenticate(&self, exchange: &Exchange, may_wait: bool) -> Result<(Proven, Map<String, Value>), Fault> {
        let text = self.find(exchange)?;
        let token = jwt_token::parse(&text).map_err(|_| Fault::Bad)?;
        let proven = self.issued.judge(&token, &self.gate.identities, exchange, may_wait).map_err(Fault::Issued)?;
        Ok((proven, token.claims))
    }

    /// The one token; two are refused, since the upstream may believe the other one.
    fn find(&self, exchange: &Exchange) -> Result<Vec<u8>, Fault> {
        let headers = &exchange.request.headers;
        let mut found: Option<Vec<u8>> = None;
        if self.in_header {
            let mut values = headers.get_all(AUTHORIZATION).iter();
            found = values.next().and_then(|value| super::jwt::bearer(value.as_bytes())).map(<[u8]>::to_vec);
            if values.next().is_some() {
                return Err(Fault::Bad);
            }
        }
        if self.in_query {
            let query = exchange.query.as_deref().unwrap_or_default();
            for (_, value) in form_urlencoded::parse(query.as_bytes()).filter(|(name, _)| name == ARGUMENT) {
                let value = value.into_owned().into_bytes();
                if found.as_ref().is_some_and(|known| *known != value) {
                    return Err(Fault::Bad);
                }
                found = Some(value);
            }
        }
        found.filter(|token| !token.is_empty()).ok_or(Fault::Missing)
    }

    fn hide(&self, exchange: &mut Exchange) {
        exchange.request.headers.remove(AUTHORIZATION);
        if let Some(query) = exchange.query.take() {
            exchange.query = Some(arguments::without(&query, ARGUMENT)).filter(|query| !query.is_empty());
        }
    }

    /// A client's own copies never pass, nor what an upstream that reads `_` as `-` takes for one. Those that say who
    /// somebody is were taken away before any plugin ran, and may be another plugin's word by now.
    fn untell(&self, headers: &mut HeaderMap) {
        let same = |(a, b): (u8, u8)| a == b || (matches!(a, b'-' | b'_') && matches!(b, b'-' | b'_'));
        let alike = |a: &str, b: &str| a.len() == b.len() && a.bytes().zip(b.bytes()).all(same);
        let own = |name: &&HeaderName| {
            let told = self.upstream.iter().any(|(_, told)| alike(told.as_str(), name.as_str()));
            told && !is_identity(name)
        };
        let copies: Vec<HeaderName> = headers.keys().filter(own).cloned().collect();
        for name in copies {
            headers.remove(name);
        }
    }

    /// Tells the upstream what was asked for.
    fn tell(&self, claims: &Map<String, Value>, headers: &mut HeaderMap) {
        for (claim, name) in &self.upstream {
            headers.remove(name);
            let text = match claims.get(claim) {
                None | Some(Value::Null) => continue,
                Some(Value::String(text)) => text.clone(),
                Some(other) => other.to_string(),
            };
            if let Ok(value) = HeaderValue::from_str(&text) {
                headers.insert(name, value);
            }
        }
        let groups: Vec<&str> = match at(claims, &self.groups) {
            Some(Value::Array(groups)) => groups.iter().filter_map(Value::as_str).collect(),
            Some(Value::String(groups)) => groups.split(' ').collect(),
            _ => return,
        };
        if let Ok(value) = HeaderValue::from_str(&groups.join(", ")) {
            headers.insert(AUTHENTICATED_GROUPS, value);
        }
    }

    /// Kong says no more than this; what is wrong with a token is its holder's to find out.
    fn refuse(&self, fault: Fault) -> Box<Reply> {
        let (status, message, challenge) = match fault {
            Fault::Missing => (StatusCode::UNAUTHORIZED, &self.unauthorized, &self.missing),
            Fault::Issued(lack @ (Lack::Wait(_) | Lack::Keys)) => return lack.reply(KIND.name, &None),
            Fault::Issued(Lack::Grant | Lack::Stranger) => (StatusCode::FORBIDDEN, &self.forbidden, &None),
            Fault::Bad | Fault::Issued(_) => (StatusCode::UNAUTHORIZED, &self.unauthorized, &self.invalid),
        };
        let reply = Reply::json(KIND.name, status, json!({ "message": message }));
        Box::new(match challenge {
            Some(challenge) => reply.with(WWW_AUTHENTICATE, challenge.clone()),
            None => reply,
        })
    }
}
