//! Kong's `session`: whoever was recognised once is recognised by a cookie from then on. It runs before the authentication
//! plugins, which with `anonymous` leave whoever is known alone; the cookie is the whole session, sealed.

mod cookies;
mod read;

use std::sync::Arc;

use http::StatusCode;
use http::header::{CONTENT_TYPE, COOKIE, SET_COOKIE};

use self::cookies::Attributes;
use self::read::{Logout, compile};
use super::{conceal, name_consumer};
use crate::identity::keyring::Keyring;
use crate::identity::marks::Mark;
use crate::identity::session::{Held, Sealer, TEXT_BYTES_MAX, Ticket, Times};
use crate::identity::{ConsumerIndex, Identities, digest};
use crate::plugins::{Flow, Kind, Plugin};
use crate::proxy::exchange::{Authenticated, Exchange, Put, Response};
use crate::proxy::reply::Reply;

/// Kong's `session`.
pub const KIND: Kind = Kind { name: "session", priority: 1900, consumer_scope: false, compile };

/// The longest body that is searched for the logout argument, bytes.
const BODY_BYTES_MAX: usize = 64 << 10;

struct Session {
    identities: Arc<Identities>,
    keyring: Arc<Keyring>,
    sealer: Sealer,
    cookie_name: String,
    times: Times,
    attributes: Attributes,
    remember: Option<Remember>,
    logout: Logout,
}

/// The second cookie, which the browser keeps when it is closed.
struct Remember {
    cookie_name: String,
    times: Times,
}

impl Plugin for Session {
    fn conceal(&self, exchange: &mut Exchange) {
        conceal(&mut exchange.request.headers, &COOKIE);
    }

    fn body_limit(&self, exchange: &Exchange) -> Option<usize> {
        let may_end = self.logout.post_argument.is_some() && self.logout.is_method(&exchange.request.method);
        let has_one = || cookies::values(&exchange.request.headers, &self.cookie_name).next().is_some();
        (may_end && has_one() && is_form(exchange)).then_some(BODY_BYTES_MAX)
    }

    fn on_request(&self, exchange: &mut Exchange) -> Flow {
        let now_s = exchange.started_unix_ns / 1_000_000_000;
        let found = self.find(exchange, now_s);
        // It opens what the gateway guards: nobody behind it needs it.
        let names = [Some(self.cookie_name.as_str()), self.remember.as_ref().map(|other| other.cookie_name.as_str())];
        let names: Vec<&str> = names.into_iter().flatten().collect();
        cookies::remove(&mut exchange.request.headers, &names);
        let Some((held, consumer)) = found else { return Flow::Continue };
        if self.logout.is_asked(exchange) {
            for value in names.iter().filter_map(|name| self.attributes.forget(name)) {
                exchange.response_headers.push((SET_COOKIE, value, Put::Append));
            }
            return Reply::empty(KIND.name, StatusCode::OK).into();
        }
        if let Some(consumer) = self.identities.consumer(consumer) {
            name_consumer(&mut exchange.request.headers, consumer);
        }
        let groups = (!held.ticket.groups.is_empty()).then(|| Arc::new(held.ticket.groups.clone()));
        let credential = Some(Arc::from(held.ticket.credential.as_str()));
        exchange.authenticated = Some(Authenticated { consumer: Some(consumer), credential, groups });
        exchange.session = Some(Box::new(held));
        Flow::Continue
    }

    fn on_response(&self, exchange: &mut Exchange, response: &mut Response) {
        let now_s = exchange.started_unix_ns / 1_000_000_000;
        let Some(ticket) = self.ticket(exchange, now_s) else { return };
        let held = exchange.session.take().filter(|held| is_same(&held.ticket, &ticket));
        let (session, remembered) = match held.map(|held| *held) {
            Some(held) => (held.is_new.then_some(held.ticket), held.remembered),
            None => (Some(ticket.clone()), self.remember.as_ref().map(|_| ticket)),
        };
        let mut put = |name: &str, ticket: &Ticket, max_age_s| {
            let text = self.sealer.seal(name, ticket).filter(|text| text.len() + name.len() < TEXT_BYTES_MAX);
            match text.and_then(|text| self.attributes.set(name, &text, max_age_s)) {
                Some(value) => drop(response.headers.append(SET_COOKIE, value)),
                None => tracing::warn!(consumer = ticket.consumer, "a session is too large for a cookie"),
            }
        };
        if let Some(session) = session {
            put(&self.cookie_name, &session, None);
        }
        if let (Some(ticket), Some(remember)) = (remembered, &self.remember) {
            put(&remember.cookie_name, &ticket, Some(remember.left_s(&ticket, now_s)));
        }
    }
}

impl Remember {
    /// How long the cookie is of use.
    fn left_s(&self, ticket: &Ticket, now_s: u64) -> u64 {
        let ends = [(ticket.renewed_s, self.times.rolling_s), (ticket.begun_s, self.times.absolute_s)];
        let ends = ends.into_iter().filter(|(_, limit_s)| *limit_s > 0);
        let left = ends.map(|(since_s, limit_s)| since_s.saturating_add(limit_s).saturating_sub(now_s)).min();
        // Browsers keep a cookie for 400 days at most.
        left.unwrap_or(400 * 86_400)
    }
}

impl Session {
    /// The session that a request has, and whose it is.
    fn find(&self, exchange: &Exchange, now_s: u64) -> Option<(Held, ConsumerIndex)> {
        let headers = &exchange.request.headers;
        let open = |name: &str, times: &Times| {
            cookies::values(headers, name).find_map(|text| {
                let ticket = self.sealer.open(name, text).filter(|ticket| times.hold(ticket, now_s))?;
                let consumer = self.whose(&ticket, now_s)?;
                Some((ticket, consumer))
            })
        };
        let remembered = self.remember.as_ref().and_then(|other| open(&other.cookie_name, &other.times));
        let due = |ticket: &Ticket| self.remember.as_ref().and_then(|other| other.times.due(ticket, now_s));
        if let Some((ticket, consumer)) = open(&self.cookie_name, &self.times) {
            let remembered = remembered.filter(|(other, _)| is_same(other, &ticket));
            let remembered = remembered.and_then(|(other, _)| due(&other));
            let renewed = self.times.due(&ticket, now_s);
            let is_new = renewed.is_some();
            return Some((Held { ticket: renewed.unwrap_or(ticket), is_new, remembered }, consumer));
        }
        let (other, consumer) = remembered?;
        let ticket = Ticket { begun_s: now_s, renewed_s: now_s, used_s: now_s, ..other.clone() };
        Some((Held { ticket, is_new: true, remembered: due(&other) }, consumer))
    }

    /// The consumer of a session, as long as the credential is what it was.
    fn whose(&self, ticket: &Ticket, now_s: u64) -> Option<ConsumerIndex> {
        let index = self.identities.consumer_named(&ticket.consumer)?;
        let is_it = self.identities.consumer(index).is_some_and(|consumer| consumer.id == ticket.consumer);
        (is_it && self.mark_of(&ticket.credential, now_s) == ticket.mark).then_some(index)
    }

    fn mark_of(&self, credential: &str, now_s: u64) -> Option<Mark> {
        let issued = || self.keyring.named(credential, now_s).map(|key| digest(&key.record.digest()));
        self.identities.mark_of(credential).or_else(issued)
    }

    /// The session of whoever was recognised, as if it began now.
    fn ticket(&self, exchange: &Exchange, now_s: u64) -> Option<Ticket> {
        let credential = exchange.credential()?;
        let consumer = self.identities.consumer(exchange.consumer()?)?;
        Some(Ticket {
            consumer: consumer.id.clone(),
            credential: credential.to_string(),
            mark: self.mark_of(credential, now_s),
            groups: exchange.groups().map(|groups| groups.to_vec()).unwrap_or_default(),
            begun_s: now_s,
            renewed_s: now_s,
            used_s: now_s,
        })
    }
}

fn is_same(a: &Ticket, b: &Ticket) -> bool {
    a.consumer == b.consumer && a.credential == b.credential && a.mark == b.mark
}

fn is_form(exchange: &Exchange) -> bool {
    let media = exchange.request.headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok());
    let media = media.and_then(|media| media.split(';').next()).unwrap_or_default().trim();
    media.eq_ignore_ascii_case("application/x-www-form-urlencoded") || media.eq_ignore_ascii_case("application/json")
}
