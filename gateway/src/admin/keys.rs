//! API keys for outsiders, in the shape of Kong's `/consumers/{consumer}/key-auth`: made, changed, rotated and taken back while
//! the gateway runs. A key is told once, in the answer that makes it. Keys of the file are the file's.

use std::sync::Arc;

use aws_lc_rs::rand::{SecureRandom, SystemRandom};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use http::{Method, StatusCode};
use http_body_util::{BodyExt, Limited};
use hyper::body::Incoming;
use serde_json::{Map, Value, json};

use super::{Answer, Control, json_of, message};
use crate::clock;
use crate::identity::digest;
use crate::identity::keyring::log::Record;
use crate::identity::keyring::{Fault, IssuedKey, Keyring};

/// Bytes of an order at most.
const ORDER_BYTES_MAX: usize = 64 << 10;
/// Bytes of a key of the caller's own choice at most; tags and tiers.
const KEY_BYTES_MAX: usize = 1024;
const TEXT_BYTES_MAX: usize = 128;
const TAGS_MAX: usize = 32;
/// The longest time to live, seconds, as Kong has it.
const TTL_S_MAX: u64 = 100_000_000;

/// What is asked for.
#[derive(Debug, PartialEq, Eq)]
pub enum Order {
    /// A new key for a consumer.
    Make(String),
    /// Other tags, tier or end of a key.
    Change(Named),
    /// A new key in place of one.
    Rotate(Named),
    /// No more of a key.
    Revoke(Named),
}

/// A key by its id, perhaps by way of its consumer.
#[derive(Debug, PartialEq, Eq)]
pub struct Named {
    consumer: Option<String>,
    id: String,
}

impl Order {
    /// The order of a request.
    #[must_use]
    pub fn of(method: &Method, path: &str) -> Option<Self> {
        let parts = super::parts(path);
        let parts: Vec<&str> = parts.iter().map(String::as_str).collect();
        let named =
            |consumer: Option<&str>, id: &str| Named { consumer: consumer.map(str::to_owned), id: id.to_owned() };
        let (named, rest) = match parts[..] {
            ["consumers", consumer, "key-auth"] if method == Method::POST => {
                return Some(Order::Make(consumer.to_owned()));
            }
            ["consumers", consumer, "key-auth", id] => (named(Some(consumer), id), None),
            ["consumers", consumer, "key-auth", id, rest] => (named(Some(consumer), id), Some(rest)),
            ["key-auths", id] => (named(None, id), None),
            ["key-auths", id, rest] => (named(None, id), Some(rest)),
            _ => return None,
        };
        match (method, rest) {
            (&Method::DELETE, None) => Some(Order::Revoke(named)),
            (&Method::PATCH, None) => Some(Order::Change(named)),
            (&Method::POST, Some("rotate")) => Some(Order::Rotate(named)),
            _ => None,
        }
    }

    /// What its body may say.
    fn fields(&self) -> &'static [&'static str] {
        match self {
            Order::Make(_) => &["key", "ttl", "tags", "tier"],
            Order::Change(_) => &["ttl", "tags", "tier"],
            Order::Rotate(_) => &["key", "ttl", "tags", "tier", "overlap"],
            Order::Revoke(_) => &[],
        }
    }
}

/// A refusal.
type Refused = Box<Answer>;

/// Carries an order out. What was begun on the disk is carried through even when nobody waits for the answer any more.
pub async fn answer<C: Control + 'static>(control: &Arc<C>, order: Order, request: http::Request<Incoming>) -> Answer {
    match carry_out(control, order, request).await {
        Ok(answer) => answer,
        Err(refused) => *refused,
    }
}

async fn carry_out<C: Control + 'static>(
    control: &Arc<C>,
    order: Order,
    request: http::Request<Incoming>,
) -> Result<Answer, Refused> {
    let now_s = clock::unix_ns() / 1_000_000_000;
    let wishes = Wishes::of(request, order.fields()).await?;
    let own = Arc::clone(control);
    match order {
        Order::Make(consumer) => {
            let consumer = consumer_id(&**control, &consumer)?;
            let (key, record) = wishes.record(&**control, consumer, now_s)?;
            let made = on_disk(move || own.keyring().add(record, now_s)).await?;
            Ok(told(&made, &key, now_s, None))
        }
        Order::Change(named) => {
            let id = known(&**control, &named, now_s)?.record.id.clone();
            let put_on = move |record: &mut Record| wishes.put_on(record, now_s);
            let changed = on_disk(move || own.keyring().update(&id, now_s, put_on)).await?;
            Ok(json_of(StatusCode::OK, &entity(&changed.record, now_s)))
        }
        Order::Rotate(named) => {
            let old = known(&**control, &named, now_s)?;
            let (key, fresh) = wishes.record(&**control, old.record.consumer.clone(), now_s)?;
            let end_s = (wishes.overlap_s > 0).then_some(now_s + wishes.overlap_s);
            let id = old.record.id.clone();
            let made = on_disk(move || {
                let made = own.keyring().replace(&old.record.id, now_s, end_s, |old| wishes.inherit(fresh, old))?;
                if end_s.is_none() {
                    own.revoke([&*old.credential].into_iter().collect());
                }
                Ok(made)
            })
            .await?;
            Ok(told(&made, &key, now_s, Some(&id)))
        }
        Order::Revoke(named) => {
            let known = known(&**control, &named, now_s)?;
            on_disk(move || {
                let outcome = own.keyring().revoke(&known.record.id);
                // It is out of force even where the disk did not take it.
                own.revoke([&*known.credential].into_iter().collect());
                outcome
            })
            .await?;
            let mut answer = Answer::default();
            *answer.status_mut() = StatusCode::NO_CONTENT;
            Ok(answer)
        }
    }
}

/// Waits for the disk away from the thread that answers everybody.
async fn on_disk<T: Send + 'static>(act: impl FnOnce() -> Result<T, Fault> + Send + 'static) -> Result<T, Refused> {
    let outcome = tokio::task::spawn_blocking(act).await;
    outcome.unwrap_or_else(|_| Err(Fault::Disk("the work broke off".to_owned()))).map_err(|fault| {
        Box::new(match fault {
            Fault::Taken => taken(),
            Fault::Unknown => message(StatusCode::NOT_FOUND, "Not found"),
            Fault::Full => message(StatusCode::INSUFFICIENT_STORAGE, "there are too many keys"),
            Fault::Closed(why) | Fault::Disk(why) => {
                tracing::error!(why, "a change of the keys could not be kept");
                message(StatusCode::INTERNAL_SERVER_ERROR, "the change could not be kept")
            }
        })
    })
}

fn consumer_id<C: Control>(control: &C, name: &str) -> Result<String, Refused> {
    let snapshot = control.running().current();
    let found = snapshot.identities.consumer_named(name).and_then(|index| snapshot.identities.consumer(index));
    found.map(|consumer| consumer.id.clone()).ok_or_else(|| Box::new(message(StatusCode::NOT_FOUND, "Not found")))
}

/// The issued key of a name; one of the file is refused by Kong's words for a write without a database.
fn known<C: Control>(control: &C, named: &Named, now_s: u64) -> Result<Arc<IssuedKey>, Refused> {
    let consumer = named.consumer.as_deref().map(|name| consumer_id(control, name)).transpose()?;
    let belongs = |key: &Arc<IssuedKey>| consumer.as_ref().is_none_or(|id| *id == key.record.consumer);
    if let Some(key) = control.keyring().named(&named.id, now_s).filter(belongs) {
        return Ok(key);
    }
    let entities = control.running().current().entities(clock::monotonic_ns());
    Err(Box::new(match entities.find("keyauth_credentials", &named.id) {
        Some(_) => super::entities::unwritable("keyauth_credentials"),
        None => message(StatusCode::NOT_FOUND, "Not found"),
    }))
}

/// What an order's body says.
#[derive(Default)]
struct Wishes {
    key: Option<String>,
    /// Seconds; 0 is for ever.
    ttl_s: Option<u64>,
    tags: Option<Vec<String>>,
    tier: Option<Option<String>>,
    overlap_s: u64,
}

impl Wishes {
    async fn of(request: http::Request<Incoming>, allowed: &[&str]) -> Result<Self, Refused> {
        let body = Limited::new(request.into_body(), ORDER_BYTES_MAX).collect().await;
        let body =
            body.map_err(|_| Box::new(message(StatusCode::PAYLOAD_TOO_LARGE, "the body is too large or broke off")))?;
        let body = body.to_bytes();
        if body.is_empty() {
            return Ok(Self::default());
        }
        match serde_json::from_slice(&body) {
            Ok(Value::Object(fields)) => {
                Self::read(&fields, allowed).map_err(|(name, words)| Box::new(violation(&name, words)))
            }
            _ => Err(Box::new(message(StatusCode::BAD_REQUEST, "Cannot parse JSON body"))),
        }
    }

    fn read(fields: &Map<String, Value>, allowed: &[&str]) -> Result<Self, (String, &'static str)> {
        let mut wishes = Self::default();
        for (name, value) in fields {
            let wrong = |words| (name.clone(), words);
            if !allowed.contains(&name.as_str()) {
                return Err(wrong("not a field of this order"));
            }
            let seconds = || value.as_u64().filter(|s| *s <= TTL_S_MAX).ok_or(wrong("expected seconds"));
            let text = |value: &Value, bytes_max| {
                let text = value.as_str().filter(|text| !text.is_empty() && text.len() <= bytes_max);
                text.filter(|text| !text.chars().any(char::is_control)).map(str::to_owned)
            };
            match (name.as_str(), value) {
                ("ttl", Value::Null) => wishes.ttl_s = Some(0),
                ("tier", Value::Null) => wishes.tier = Some(None),
                ("tags", Value::Null) => wishes.tags = Some(Vec::new()),
                ("key", Value::Null) => {}
                ("ttl", _) => wishes.ttl_s = Some(seconds()?),
                ("overlap", _) => wishes.overlap_s = seconds()?,
                ("key", _) => wishes.key = Some(text(value, KEY_BYTES_MAX).ok_or(wrong("expected a string"))?),
                ("tier", _) => wishes.tier = Some(Some(text(value, TEXT_BYTES_MAX).ok_or(wrong("expected a string"))?)),
                ("tags", Value::Array(tags)) if tags.len() <= TAGS_MAX => {
                    let tags: Option<_> = tags.iter().map(|tag| text(tag, TEXT_BYTES_MAX)).collect();
                    wishes.tags = Some(tags.ok_or(wrong("expected a set of strings"))?);
                }
                ("tags", _) => return Err(wrong("expected a set of strings")),
                _ => return Err(wrong("unknown field")),
            }
        }
        Ok(wishes)
    }

    /// The key and its record.
    fn record<C: Control>(&self, control: &C, consumer: String, now_s: u64) -> Result<(String, Record), Refused> {
        let key = match &self.key {
            Some(key) => key.clone(),
            None => random_key()
                .ok_or_else(|| Box::new(message(StatusCode::INTERNAL_SERVER_ERROR, "An unexpected error occurred")))?,
        };
        if control.running().current().identities.api_key(key.as_bytes()).is_some() {
            return Err(Box::new(taken()));
        }
        let id = uuid::Uuid::new_v4().to_string();
        let mut record = Record::new(id, &digest(key.as_bytes()), consumer, now_s);
        self.put_on(&mut record, now_s);
        Ok((key, record))
    }

    /// The successor of `old`: what is not wished for is as it was.
    fn inherit(&self, mut fresh: Record, old: &Record) -> Record {
        if self.ttl_s.is_none() {
            fresh.expires_s = old.expires_s;
        }
        if self.tags.is_none() {
            fresh.tags.clone_from(&old.tags);
        }
        if self.tier.is_none() {
            fresh.tier.clone_from(&old.tier);
        }
        fresh
    }

    fn put_on(&self, record: &mut Record, now_s: u64) {
        if let Some(ttl_s) = self.ttl_s {
            record.expires_s = (ttl_s > 0).then_some(now_s + ttl_s);
        }
        if let Some(tags) = &self.tags {
            record.tags.clone_from(tags);
        }
        if let Some(tier) = &self.tier {
            record.tier.clone_from(tier);
        }
    }
}

/// 192 random bits in 32 letters.
fn random_key() -> Option<String> {
    let mut bytes = [0; 24];
    SystemRandom::new().fill(&mut bytes).ok()?;
    Some(URL_SAFE_NO_PAD.encode(bytes))
}

/// The issued keys as entities.
pub fn entities(keyring: &Keyring) -> Vec<Value> {
    let now_s = clock::unix_ns() / 1_000_000_000;
    keyring.all(now_s).iter().map(|key| entity(&key.record, now_s)).collect()
}

/// Kong's form of a key, without the key.
fn entity(record: &Record, now_s: u64) -> Value {
    json!({
        "id": record.id,
        "consumer": { "id": record.consumer },
        "key": null,
        "created_at": record.created_s,
        "ttl": record.expires_s.map(|expires_s| expires_s.saturating_sub(now_s)),
        "tags": (!record.tags.is_empty()).then_some(&record.tags),
        "tier": record.tier,
    })
}

/// The one answer that tells a key.
fn told(made: &IssuedKey, key: &str, now_s: u64, replaced: Option<&str>) -> Answer {
    let mut body = entity(&made.record, now_s);
    body["key"] = key.into();
    if let Some(id) = replaced {
        body["replaces"] = id.into();
    }
    json_of(StatusCode::CREATED, &body)
}

fn taken() -> Answer {
    let fields = json!({ "key": "already exists" });
    let body = json!({
        "code": 5, "name": "unique constraint violation", "message": "UNIQUE violation detected on 'key'", "fields": fields,
    });
    json_of(StatusCode::CONFLICT, &body)
}

fn violation(field: &str, words: &str) -> Answer {
    let body = json!({
        "code": 2, "name": "schema violation", "message": format!("schema violation ({field}: {words})"),
        "fields": { field: words },
    });
    json_of(StatusCode::BAD_REQUEST, &body)
}
