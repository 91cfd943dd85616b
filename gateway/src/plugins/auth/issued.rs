//! Tokens that the key of an issuer has signed: which keys, what is demanded of the claims, whose they are. For `jwt` with
//! `jwks_uri` and for `openid-connect`; how a token is found and what a refusal looks like is theirs.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use http::header::{HeaderValue, WWW_AUTHENTICATE};
use http::{StatusCode, Uri};
use serde_json::{Map, Value, json};

use super::Proven;
use super::jwt_token::Token;
use crate::calls::address;
use crate::document::Fields;
use crate::identity::remote::source::{Publisher, Source};
use crate::identity::{ConsumerIndex, Identities};
use crate::plugins::{Flow, Setup};
use crate::proxy::exchange::Exchange;
use crate::proxy::reply::Reply;

/// Where a value stands within the claims: names from the outside in.
pub(super) type ClaimPath = Vec<String>;

/// Keys of issuers, and what they may vouch for.
pub(super) struct Issued {
    pub sources: Vec<Arc<Source>>,
    pub rules: Rules,
    pub people: People,
}

/// What is demanded of the claims.
pub(super) struct Rules {
    /// `iss` must be one of these; empty for any.
    pub issuers: Vec<String>,
    /// One of these must be met whole; empty for none.
    pub required: Vec<Required>,
    /// How far clocks may differ, seconds.
    pub leeway_s: f64,
}

/// Values of which a claim must hold all of one alternative.
pub(super) struct Required {
    pub claim: ClaimPath,
    pub alternatives: Vec<Vec<String>>,
    /// The scopes are missing: 403 (RFC 6750 §3.1), not 401.
    pub is_grant: bool,
}

/// Which consumer a token belongs to.
pub(super) struct People {
    /// Empty: nobody of the file.
    pub claim: ClaimPath,
    pub by: Vec<By>,
    pub optional: bool,
}

/// What the claim names a consumer by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum By {
    Id,
    Username,
    CustomId,
}

/// Why a token is not accepted.
pub(super) enum Lack {
    /// Its key may be there in a moment.
    Wait(Pin<Box<dyn Future<Output = ()>>>),
    /// No keys could be fetched yet.
    Keys,
    /// What is wrong with it, in words for the client.
    Invalid(&'static str),
    /// A claim that does not hold.
    Claim(&'static str, &'static str),
    /// It is good, and grants too little.
    Grant,
    /// It belongs to nobody of the file.
    Stranger,
}

impl Lack {
    /// The answer; `challenge` is the plugin's for invalid tokens.
    pub fn reply(self, plugin: &'static str, challenge: &Option<HeaderValue>) -> Box<Reply> {
        let unauthorized = |body: Value| {
            let reply = Reply::json(plugin, StatusCode::UNAUTHORIZED, body);
            match challenge {
                Some(challenge) => reply.with(WWW_AUTHENTICATE, challenge.clone()),
                None => reply,
            }
        };
        Box::new(match self {
            Lack::Wait(_) | Lack::Keys => {
                let body = json!({ "message": "The keys of the issuer are not available" });
                Reply::json(plugin, StatusCode::SERVICE_UNAVAILABLE, body).retry_after(1)
            }
            Lack::Invalid(message) => unauthorized(json!({ "message": message })),
            Lack::Claim(claim, words) => unauthorized(json!({ claim: words })),
            Lack::Grant => {
                let reply = Reply::json(plugin, StatusCode::FORBIDDEN, json!({ "message": "Forbidden" }));
                reply.with(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer error=\"insufficient_scope\""))
            }
            Lack::Stranger => Reply::json(plugin, StatusCode::FORBIDDEN, json!({ "message": "Forbidden" })),
        })
    }
}

/// Goes on with `then` when `renewal` is over.
pub(super) fn resumed(
    renewal: Pin<Box<dyn Future<Output = ()>>>,
    then: impl FnOnce(&mut Exchange) -> Flow + 'static,
) -> Flow {
    Flow::Wait(Box::pin(async move {
        renewal.await;
        Box::new(then) as crate::plugins::Resume
    }))
}

impl Issued {
    /// Our additions to Kong's `jwt`; nothing without them, and `None` within `Option` when they are wrong.
    pub fn of_jwt(fields: &Fields<'_>, setup: &Setup<'_>) -> Option<Option<Self>> {
        let at = fields.string("jwks_uri");
        let issuer = fields.string("issuer");
        let audience = texts(fields, "audience");
        let scopes = texts(fields, "scopes");
        let verify = fields.boolean("jwks_ssl_verify").unwrap_or(true);
        let refresh = fields.duration("jwks_refresh").unwrap_or(Duration::from_secs(300));
        let refetch = fields.duration("jwks_refetch").unwrap_or(Duration::from_secs(30));
        let people = People::read(fields);
        let rules = Rules {
            issuers: issuer.into_iter().collect(),
            required: [
                Required::of(&["aud"], audience.into_iter().map(|one| vec![one]).collect(), false),
                Required::of(&["scope"], if scopes.is_empty() { Vec::new() } else { vec![scopes] }, true),
            ]
            .into_iter()
            .flatten()
            .collect(),
            leeway_s: 0.0,
        };
        let Some(at) = at else {
            let bare = rules.issuers.is_empty() && rules.required.is_empty();
            return Some((!bare).then_some(Issued { sources: Vec::new(), rules, people }));
        };
        let at = checked(fields, "jwks_uri", &at)?;
        let timeout = Duration::from_secs(10);
        let publisher = Publisher { at, issuer: None, verify, timeout, refresh, refetch };
        Some(Some(Issued { sources: vec![setup.shared.remote.sources.of(publisher)], rules, people }))
    }

    /// Whether a token is good, and whose it is. `may_wait`: a key that is not known may be fetched first.
    pub fn judge(
        &self,
        token: &Token<'_>,
        identities: &Identities,
        exchange: &Exchange,
        may_wait: bool,
    ) -> Result<Proven, Lack> {
        self.verify(token, exchange.started_ns, may_wait)?;
        let now_s = exchange.started_unix_ns / 1_000_000_000;
        self.rules.hold(&token.claims, now_s)?;
        self.rules.demands(&token.claims)?;
        let consumer = self.people.of(&token.claims, identities)?;
        let text = |name: &str| token.claims.get(name).and_then(Value::as_str).unwrap_or_default();
        let subject = text("sub");
        Ok(Proven {
            consumer,
            credential: Arc::from(format!("{} {subject}", text("iss"))),
            identifier: HeaderValue::from_str(subject).ok().filter(|subject| !subject.is_empty()),
        })
    }

    fn verify(&self, token: &Token<'_>, now_ns: u64, may_wait: bool) -> Result<(), Lack> {
        let kid = token.header.get("kid").and_then(Value::as_str);
        let mut lack = Lack::Invalid("Unknown key");
        let mut unknown = true;
        for source in &self.sources {
            let keys = source.keys();
            match keys.verify(kid, token.algorithm, token.signed, &token.signature) {
                Some(true) => return Ok(()),
                Some(false) => lack = Lack::Invalid("Invalid signature"),
                None if keys.has(kid) => lack = Lack::Invalid("Invalid algorithm"),
                None => continue,
            }
            // A token without `kid` may mean a key that was published since.
            unknown &= kid.is_none();
        }
        if !unknown || self.sources.is_empty() {
            return Err(lack);
        }
        Err(match may_wait.then(|| self.renewal(kid, now_ns)).flatten() {
            Some(renewal) => Lack::Wait(renewal),
            None if self.sources.iter().any(|source| source.is_known()) => lack,
            None => Lack::Keys,
        })
    }

    /// Asks every source that may be asked again. Over when one of them has the key, or all have answered.
    fn renewal(&self, kid: Option<&str>, now_ns: u64) -> Option<Pin<Box<dyn Future<Output = ()>>>> {
        let mut renewals: FuturesUnordered<_> = self.sources.iter().filter_map(|s| s.renewal(now_ns)).collect();
        let (sources, kid) = (self.sources.clone(), kid.map(str::to_owned));
        let is_there = move || kid.is_some() && sources.iter().any(|source| source.keys().has(kid.as_deref()));
        let any = !renewals.is_empty();
        any.then(|| Box::pin(async move { while renewals.next().await.is_some() && !is_there() {} }) as Pin<Box<_>>)
    }
}

impl Rules {
    /// The times: `exp` must be there, `nbf` must hold when it is there.
    pub fn hold(&self, claims: &Map<String, Value>, now_s: u64) -> Result<(), Lack> {
        let now = now_s as f64;
        match claims.get("exp").map(Value::as_f64) {
            Some(Some(exp)) if exp + self.leeway_s > now => {}
            Some(Some(_)) => return Err(Lack::Claim("exp", "token expired")),
            _ => return Err(Lack::Claim("exp", "must be a number")),
        }
        match claims.get("nbf").map(Value::as_f64) {
            None => Ok(()),
            Some(Some(nbf)) if nbf - self.leeway_s <= now => Ok(()),
            Some(Some(_)) => Err(Lack::Claim("nbf", "token not valid yet")),
            Some(None) => Err(Lack::Claim("nbf", "must be a number")),
        }
    }

    /// Issuer, audience, scopes and whatever else is asked for.
    pub fn demands(&self, claims: &Map<String, Value>) -> Result<(), Lack> {
        let issuer = claims.get("iss").and_then(Value::as_str).unwrap_or_default();
        if !self.issuers.is_empty() && !self.issuers.iter().any(|one| one == issuer) {
            return Err(Lack::Claim("iss", "not the issuer"));
        }
        match self.required.iter().find(|required| !required.is_met(claims)) {
            None => Ok(()),
            Some(required) if required.is_grant => Err(Lack::Grant),
            Some(_) => Err(Lack::Claim("aud", "not for this audience")),
        }
    }
}

impl Required {
    pub fn of(claim: &[&str], alternatives: Vec<Vec<String>>, is_grant: bool) -> Option<Self> {
        let claim = claim.iter().map(|name| (*name).to_owned()).collect();
        (!alternatives.is_empty()).then_some(Required { claim, alternatives, is_grant })
    }

    fn is_met(&self, claims: &Map<String, Value>) -> bool {
        // Azure and Okta give scopes in `scp`.
        let value = at(claims, &self.claim).or_else(|| claims.get("scp").filter(|_| self.claim == ["scope"]));
        let held: Vec<&str> = match value {
            Some(Value::String(text)) if self.is_grant => text.split(' ').collect(),
            Some(Value::String(text)) => vec![text],
            Some(Value::Array(items)) => items.iter().filter_map(Value::as_str).collect(),
            _ => Vec::new(),
        };
        self.alternatives.iter().any(|all| all.iter().all(|one| held.contains(&one.as_str())))
    }
}

impl People {
    /// Reads Kong's `consumer_claim`, `consumer_by`, `consumer_optional`.
    pub fn read(fields: &Fields<'_>) -> Self {
        let by = fields.strings("consumer_by").map(|words| {
            words
                .iter()
                .filter_map(|(place, word)| match word.as_str() {
                    "id" => Some(By::Id),
                    "username" => Some(By::Username),
                    "custom_id" => Some(By::CustomId),
                    _ => {
                        let known = ["id", "username", "custom_id"];
                        fields.report.unknown(*place, format!("`consumer_by` has `{word}`"), word, &known);
                        None
                    }
                })
                .collect()
        });
        People {
            claim: texts(fields, "consumer_claim"),
            by: by.unwrap_or_else(|| vec![By::Username, By::CustomId]),
            optional: fields.boolean("consumer_optional").unwrap_or(false),
        }
    }

    fn of(&self, claims: &Map<String, Value>, identities: &Identities) -> Result<Option<ConsumerIndex>, Lack> {
        if self.claim.is_empty() {
            return Ok(None);
        }
        let name = at(claims, &self.claim).and_then(Value::as_str).filter(|name| !name.is_empty());
        let found = name.and_then(|name| self.by.iter().find_map(|by| named(identities, *by, name)));
        if found.is_none() && !self.optional { Err(Lack::Stranger) } else { Ok(found) }
    }
}

/// The consumer that `name` means.
pub(super) fn named(identities: &Identities, by: By, name: &str) -> Option<ConsumerIndex> {
    let of = |index: &ConsumerIndex| identities.consumer(*index);
    match by {
        By::Id => identities.consumer_named(name).filter(|index| of(index).is_some_and(|c| c.id == name)),
        By::Username => {
            let is = |index: &ConsumerIndex| of(index).is_some_and(|c| c.username.as_deref() == Some(name));
            identities.consumer_named(name).filter(is)
        }
        By::CustomId => identities.consumer_of_custom_id(name),
    }
}

/// The value at `path`.
pub(super) fn at<'v>(claims: &'v Map<String, Value>, path: &[String]) -> Option<&'v Value> {
    let (first, rest) = path.split_first()?;
    rest.iter().try_fold(claims.get(first)?, |value, name| value.get(name))
}

/// A list of strings, empty when it is absent.
pub(super) fn texts<'a>(fields: &Fields<'a>, name: &'a str) -> Vec<String> {
    fields.strings(name).unwrap_or_default().into_iter().map(|(_, text)| text).collect()
}

/// The address in the field `name`; reports one that cannot be asked.
pub(super) fn checked(fields: &Fields<'_>, name: &str, text: &str) -> Option<Uri> {
    let found = address(text);
    if let Err(what) = found {
        fields.report.mismatch(fields.place_of(name), format!("`{name}`: {what}"), "https://host/path");
    }
    found.ok()
}
