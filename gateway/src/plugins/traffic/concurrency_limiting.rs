//! `concurrency-limiting`, a kind of our own: at most so many requests of a caller under way at a time. A request holds its
//! slot until its answer, or its tunnel, is over; it must not know how it ends.

use std::borrow::Cow;
use std::hash::{BuildHasher, DefaultHasher, Hash, Hasher};
use std::sync::Arc;

use http::StatusCode;

use super::quota::caller::Caller;
use crate::document::Fields;
use crate::identity::Identities;
use crate::limits::slots::SLOTS_MAX;
use crate::plugins::{Flow, Kind, Plugin, Setup, Shared};
use crate::proxy::exchange::Exchange;
use crate::proxy::reply::Reply;

/// The kind. After the limits by time, so that what they refuse, or wait for, holds no slot.
pub const KIND: Kind = Kind { name: "concurrency-limiting", priority: 905, consumer_scope: true, compile };

/// Seconds after which one who was refused may come again: a slot may be free at any moment.
const RETRY_S: u64 = 1;

struct ConcurrencyLimiting {
    limit: u32,
    caller: Caller,
    /// Has taken in the plugin already, so that a reload finds what is under way.
    scope: DefaultHasher,
    identities: Arc<Identities>,
    shared: Arc<Shared>,
    refusal: Reply,
}

impl Plugin for ConcurrencyLimiting {
    fn on_request(&self, exchange: &mut Exchange) -> Flow {
        let mut hasher = self.scope.clone();
        self.caller.hash(exchange, &self.identities, &mut hasher);
        match self.shared.slots.take(hasher.finish(), self.limit) {
            Some(slot) => {
                exchange.slot = Some(slot);
                Flow::Continue
            }
            None => self.refusal.clone().into(),
        }
    }
}

fn compile(fields: &Fields<'_>, setup: &Setup<'_>) -> Option<Arc<dyn Plugin>> {
    fields.require("limit");
    let limit = fields.integer("limit", 1..=i64::from(SLOTS_MAX));
    let caller = Caller::read(fields, "limit_by", "compound_limit_by", setup.group);
    let status = fields.integer("error_code", 200..=599).unwrap_or(429);
    let message = fields.string("error_message").map_or("Too many requests in flight".into(), Cow::Owned);
    let hidden = fields.boolean("hide_client_headers").unwrap_or(false);
    let mut scope = setup.shared.hash_keys.build_hasher();
    (KIND.name, setup.id).hash(&mut scope);
    let status = StatusCode::from_u16(status as u16).unwrap_or(StatusCode::TOO_MANY_REQUESTS);
    let refusal = Reply::templated(KIND.name, status, message);
    Some(Arc::new(ConcurrencyLimiting {
        limit: limit? as u32,
        caller: caller?,
        scope,
        identities: Arc::clone(setup.identities),
        shared: Arc::clone(setup.shared),
        refusal: if hidden { refusal } else { refusal.retry_after(RETRY_S) },
    }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plugins::fixture::{bad, good, pass, reply};

    fn request() -> Exchange {
        Exchange::for_test("GET", "/a", &[])
    }

    #[test]
    fn a_request_holds_its_slot_as_long_as_it_lives() {
        let plugin = good(&KIND, "{limit: 2, limit_by: ip}");
        let (mut one, mut two) = (request(), request());
        pass(&plugin, &mut one);
        pass(&plugin, &mut two);
        let refused = reply(&plugin, &mut request());
        assert_eq!((refused.status.as_u16(), refused.retry_after_seconds()), (429, Some(1)));
        drop(one);
        pass(&plugin, &mut request());
        pass(&plugin, &mut request());
    }

    #[test]
    fn status_and_words_can_be_set() {
        let plugin =
            good(&KIND, "{limit: 1, limit_by: ip, error_code: 503, error_message: busy, hide_client_headers: true}");
        let mut one = request();
        pass(&plugin, &mut one);
        let refused = reply(&plugin, &mut request());
        assert_eq!((refused.status.as_u16(), refused.retry_after_seconds()), (503, None));
    }

    #[test]
    fn faulty_configurations_are_told_where() {
        for (config, words) in [
            ("limit_by: ip", "required field `limit`"),
            ("limit: 0", ":1:8: error: `limit` is 0"),
            ("limit: 1\nlimit_by: who", ":2:11: error: `limit_by` is `who`"),
            ("limit: 1\nlimit_by: header", "required field `header_name`"),
            ("limit: 1\nlimit_by: consumer-group", "of none"),
            ("limit: 1\nerror_code: 99", "an integer from 200 to 599"),
            ("limits: 1", "did you mean `limit`?"),
        ] {
            let report = bad(&KIND, config);
            assert!(report.contains(words), "{config}: {report}");
        }
    }
}
