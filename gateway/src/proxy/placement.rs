//! Which target of a service a request goes to: what it is hashed by, and what is remembered of the targets that failed it.

use std::sync::Arc;

use http::header::{HeaderValue, SET_COOKIE};
use smallvec::SmallVec;

use super::cookies;
use super::exchange::{Exchange, Put};
use super::flight::Flight;
use crate::config::snapshot::{Service, Target};
use crate::identity::Identities;
use crate::upstreams::group::{Chance, Group, HashOn};
use crate::upstreams::health::Sign;
use crate::upstreams::member::Ride;
use crate::upstreams::ring;

/// The choice of targets for one request.
pub struct Placement {
    hash: Option<u32>,
    tried: SmallVec<[usize; 4]>,
    group: Option<Arc<Group>>,
}

impl Placement {
    /// Begins to choose; a client without the cookie that is hashed on gets one.
    pub fn new(exchange: &mut Exchange, service: &Service, identities: &Identities) -> Self {
        let group = service.group.clone();
        let hash = group.as_ref().and_then(|group| group.hash_on.iter().find_map(|on| hash(exchange, on, identities)));
        Placement { hash, tried: SmallVec::new(), group }
    }

    /// The next target. `id` numbers the service among the worker's turns.
    pub fn next<'a>(
        &mut self,
        flight: &mut Flight,
        id: usize,
        service: &'a Service,
        now_ns: u64,
    ) -> Option<&'a Target> {
        let Some(group) = &self.group else {
            return service.targets.first().filter(|only| only.weight > 0);
        };
        let random = if group.places.len() > 1 { rand::random() } else { 0 };
        let turns = (&flight.worker.turns, id);
        let chosen = group.choose(&Chance { turns, hash: self.hash, tried: &self.tried, random, now_ns })?;
        self.tried.push(chosen);
        flight.ride = Some(Ride::begin(&group.places[chosen].member));
        service.targets.get(chosen)
    }

    /// Takes note of what the last target did. `latency_ns` is the time to its answer.
    pub fn witness(&self, sign: Sign, latency_ns: Option<u64>, now_ns: u64) {
        let (Some(group), Some(last)) = (&self.group, self.tried.last()) else { return };
        group.witness(*last, sign);
        if let Some(latency_ns) = latency_ns {
            group.places[*last].member.measure(latency_ns, now_ns);
        }
    }
}

fn hash(exchange: &mut Exchange, on: &HashOn, identities: &Identities) -> Option<u32> {
    let of = |text: &str| Some(ring::hash(text.as_bytes()));
    match on {
        HashOn::Nothing => None,
        HashOn::Consumer => match exchange.consumer().and_then(|index| identities.consumer(index)) {
            Some(consumer) => of(&consumer.id),
            None => exchange.credential().and_then(|credential| of(credential)),
        },
        HashOn::Ip => of(&exchange.client.ip.to_string()),
        HashOn::Header(name) => {
            let values = exchange.request.headers.get_all(name).iter().map(HeaderValue::as_bytes);
            let joined = values.collect::<Vec<_>>().join(&b',');
            (!joined.is_empty()).then(|| ring::hash(&joined))
        }
        HashOn::Path => of(&exchange.path),
        HashOn::QueryArgument(name) => exchange.query_argument(name).and_then(|value| of(&value)),
        HashOn::UriCapture(name) => {
            exchange.captures.iter().find(|(captured, _)| captured == name).and_then(|(_, value)| of(value))
        }
        HashOn::Cookie(name, path) => {
            let given = cookie(exchange, name);
            let value = given.unwrap_or_else(|| {
                let fresh = uuid::Uuid::new_v4().to_string();
                if let Ok(set) = HeaderValue::from_str(&format!("{name}={fresh}; Path={path}; HttpOnly; SameSite=Lax"))
                {
                    exchange.response_headers.push((SET_COOKIE, set, Put::Append));
                }
                fresh
            });
            of(&value)
        }
    }
}

/// The value of a cookie; an empty one is none.
fn cookie(exchange: &Exchange, name: &str) -> Option<String> {
    let mut pairs = cookies::pairs(&exchange.request.headers);
    let found = pairs.find(|(key, value)| *key == name.as_bytes() && !value.is_empty());
    found.and_then(|(_, value)| str::from_utf8(value).ok()).map(str::to_owned)
}
