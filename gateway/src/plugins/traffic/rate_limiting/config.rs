//! Reads the `config` of `rate-limiting`. It must not count.

use std::sync::Arc;
use std::time::Duration;

use super::{Limit, Store};
use crate::document::Fields;
use crate::limits::store::exact::lifetime_s;
use crate::limits::store::lease::{OnLoss, Terms};
use crate::limits::store::slice;
use crate::limits::window::Period;
use crate::plugins::traffic::quota::headers::Named;
use crate::plugins::traffic::quota::{periods, redis};

/// The limits, shortest period first.
pub(super) fn limits(fields: &Fields<'_>) -> Option<Vec<Limit>> {
    let named = |(period, requests): (Period, u64)| Limit {
        period,
        requests,
        named: Named::new(period.name(), requests, lifetime_s(period)),
    };
    Some(periods::read(fields, "rate-limiting")?.into_iter().map(named).collect())
}

/// Whether what counts can hold the limits; where it cannot, that is told.
pub(super) fn holds(fields: &Fields<'_>, limits: &[Limit], store: &Store) -> bool {
    let from = match store {
        Store::Local => 0,
        Store::Redis { terms: None, .. } => return true,
        Store::Redis { from, .. } => *from,
    };
    let counted = limits.iter().map(|limit| (limit.period, limit.requests)).filter(|(_, requests)| *requests >= from);
    match store {
        Store::Local => periods::all_fit(fields, counted, "policy `local`", Period::count_max),
        Store::Redis { .. } => periods::all_fit(fields, counted, "`lease` or `sync_rate`", |_| slice::LIMIT_MAX),
    }
}

#[derive(Clone, Copy, PartialEq)]
enum Policy {
    Local,
    Cluster,
    Redis,
}

/// The policy and where Redis is.
pub(super) fn store(fields: &Fields<'_>) -> Option<Store> {
    let choices = [("local", Policy::Local), ("cluster", Policy::Cluster), ("redis", Policy::Redis)];
    let given = fields.node("policy").is_some();
    let policy = fields.choice("policy", &choices);
    let server = redis::read(fields, policy == Some(Policy::Redis));
    let (interval, lease) = (sync_rate(fields), lease(fields));
    if policy != Some(Policy::Redis) && lease.is_some() && fields.given("lease") {
        fields.report.mismatch(fields.place_of("lease"), "`lease` divides a limit among gateways", "`policy: redis`");
    }
    if let (Some(_), Some(_), true) = (&interval, &lease, fields.given("lease")) {
        let message = "`lease` and `sync_rate` are two ways of asking Redis less often";
        fields.report.mismatch(fields.place_of("lease"), message, "one of them");
    }
    match policy {
        Some(Policy::Cluster) => {
            fields.report.mismatch(
                fields.place_of("policy"),
                "rate-limiting policy `cluster` needs a database, and there is none",
                "`local` or `redis`",
            );
            None
        }
        Some(Policy::Redis) => {
            let server = server?;
            let terms = |lease: Lease| Terms {
                server: Arc::clone(&server),
                refresh: lease.refresh,
                on_loss: lease.on_loss,
                nodes: lease.nodes,
                counts: lease.counts,
            };
            let lease = interval.or(lease);
            let from = lease.as_ref().map_or(u64::MAX, |lease| lease.from);
            let terms = lease.map(|lease| Arc::new(terms(lease)));
            Some(Store::Redis { server, terms, from })
        }
        Some(Policy::Local) => Some(Store::Local),
        None => (!given).then_some(Store::Local),
    }
}

/// How Redis is asked less often than for every request.
struct Lease {
    from: u64,
    refresh: Duration,
    on_loss: OnLoss,
    nodes: u64,
    counts: bool,
}

/// Kong's `sync_rate`: -1 asks Redis for every request, from 0.02 s on counts are brought together at that interval.
fn sync_rate(fields: &Fields<'_>) -> Option<Lease> {
    let seconds = fields.number("sync_rate", -1.0..=86_400.0)?;
    if seconds < 0.02 {
        if seconds != -1.0 {
            let message = format!("`sync_rate` is {seconds}");
            fields.report.mismatch(fields.place_of("sync_rate"), message, "-1, or a number of seconds from 0.02");
        }
        return None;
    }
    let refresh = Duration::from_secs_f64(seconds);
    Some(Lease { from: 0, refresh, on_loss: OnLoss::Share, nodes: 1, counts: true })
}

/// The own key `lease`: large limits are taken from slices of their window.
fn lease(fields: &Fields<'_>) -> Option<Lease> {
    let block = fields.fields("lease")?;
    let choices = [("share", OnLoss::Share), ("open", OnLoss::Open), ("closed", OnLoss::Closed)];
    let refresh = block.number("refresh", 0.02..=10.0).unwrap_or(0.1);
    Some(Lease {
        from: block.integer("from", 1..=i64::MAX).unwrap_or(1000) as u64,
        refresh: Duration::from_secs_f64(refresh),
        on_loss: block.choice("on_loss", &choices).unwrap_or(OnLoss::Share),
        nodes: block.integer("nodes", 1..=10_000).unwrap_or(1) as u64,
        counts: false,
    })
}
