//! What an operator sees: the whole edge, or one address. It only reads.

use std::{net::IpAddr, sync::atomic::Ordering};

use gateway_common::{
    Address, Source,
    map::{Counter, Verdict, rung},
    reason::Outcome,
};
use serde_json::{Map, Value, json};

use super::{
    attach::Trouble,
    control::Control,
    events::{Sample, is_of},
    ladder::Decision,
    report::Identity,
    userspace::Prefix,
};
use crate::clock::unix_ns;

mod accounts;

/// Verdicts, decisions and samples shown; the rest is counted.
const SHOWN_MAX: usize = 100;
const SHOWN_OF_ONE_MAX: usize = 10;
/// Accounts read for the status: each costs a system call or two.
const SENT_READ_MAX: usize = 4_096;

pub(super) fn status(control: &Control, now_ns: u64) -> Value {
    let clock = Clock::new(now_ns);
    let policy = &control.policy;
    let kernel = control.kernel.as_ref();
    let attached = kernel.map(|kernel| {
        let one = |attached: &super::attach::Attached| {
            let instead = attached.instead.as_ref().map(trouble);
            json!({"name": attached.interface, "mode": attached.guard.name(), "why_not_native": instead})
        };
        kernel.attached.iter().map(one).collect::<Vec<_>>()
    });
    json!({
        "mode": {
            "wanted": policy.mode.name(),
            "in_force": control.in_force().name(),
            "why": control.troubles().map(trouble).collect::<Vec<_>>(),
            "advice": control.advice().map(trouble).collect::<Vec<_>>(),
            "kill_switch": control.standings.is_killed(),
            "judges_connections": control.standings.executes(),
            "needs_restart": control.needs_restart,
        },
        "interfaces": { "wanted": policy.interfaces, "attached": attached.unwrap_or_default() },
        "pins": {
            "wanted": policy.pin,
            "in_force": kernel.and_then(super::attach::Kernel::pinned),
            "why": control.pin_trouble().map(trouble),
            "stay_after_a_stop": policy.keep || policy.hold,
            "verdicts_inherited": control.inherited,
        },
        "ports": policy.ports,
        "cells": super::tables::cells(policy.cells),
        "verdicts": verdicts(control, &clock),
        "fleet": fleet(control),
        "cut_connections": control.writer.cuts().len(),
        "raised_sources": control.writer.raised().len(),
        "pressure": pressure(control, &clock),
        "sent": sent(control),
        "sent_to_consumers": accounts::sent(control),
        "packets": packets(control),
        "connections": connections(control),
        "ladder": {
            "offences": control.ladder.offences,
            "good": control.ladder.goods,
            "watched": control.ladder.watched(),
            "unwatched": control.ladder.unwatched,
            "lost_offences": control.desk.lost_offences.load(Ordering::Relaxed),
            "lost_good": control.desk.lost_goods.load(Ordering::Relaxed),
            "decisions": control.decisions,
        },
        "decisions": control.history.iter().rev().take(SHOWN_MAX).map(|one| decision(one, &clock)).collect::<Vec<_>>(),
        "events": control.events.latest().take(SHOWN_MAX).map(|one| sample(one, &clock)).collect::<Vec<_>>(),
        "pcap": control.capture.as_ref().map(|capture| json!({
            "file": capture.path(),
            "bytes": capture.bytes,
            "packets": capture.packets,
            "failure": capture.failure,
        })),
        "map_failures": { "count": control.writer.failures, "last": control.writer.last_failure },
    })
}

pub(super) fn why(control: &Control, ip: IpAddr, now_ns: u64) -> Value {
    let clock = Clock::new(now_ns);
    let source = control.source(ip);
    let policy = &control.policy;
    let desired = control.writer.desired().get(&source).filter(|verdict| verdict.expiry_ns > now_ns);
    let applied = control.writer.applied().get(&source);
    let cause = desired.and_then(|verdict| control.history.iter().rev().find(|one| one.id == verdict.decision));
    let is_inherited = desired.is_some() && cause.is_none();
    let on = |nets: &[ipnet::IpNet]| nets.iter().any(|net| Prefix::new(net).holds(Address::from(ip)));
    let of_source = |one: &&Sample| is_of(one, source, policy.v6_prefix);
    json!({
        "address": ip.to_string(),
        "source": name(source, policy.v6_prefix),
        "mode": policy.mode.name(),
        "in_force": control.in_force().name(),
        "verdict": desired.map(|verdict| shown(source, verdict, &clock)),
        "in_kernel": applied.is_some(),
        "handshake_completed": control.writer.kernel().and_then(|kernel| kernel.verified_at_ns(source))
            .map(|at_ns| clock.text(at_ns)),
        "sent": control.writer.kernel().and_then(|kernel| kernel.sent_to(source))
            .map(|sent| json!({ "bytes": sent.bytes, "packets": sent.packets })),
        "ceilings_raised_until": control.writer.raised().get(&source).map(|one| clock.text(one.expiry_ns)),
        "ceilings_raised_times": control.writer.raised().get(&source).map(|one| 1_u64 << one.raise.min(63)),
        "cause": cause.map(|one| decision(one, &clock)),
        "inherited": is_inherited,
        "lists": {
            "never_drop": on(&policy.never_drop),
            "trusted": on(&policy.trusted),
            "deny": on(&policy.deny),
            "host": on(&control.vital),
            "kernel_eligible": !control.is_spared(source),
        },
        "standing": standing(control, source, now_ns, &clock),
        "decisions": control.history.iter().rev().filter(|one| one.source == source).take(SHOWN_OF_ONE_MAX)
            .map(|one| decision(one, &clock)).collect::<Vec<_>>(),
        "events": control.events.latest().filter(of_source).take(SHOWN_OF_ONE_MAX)
            .map(|one| sample(one, &clock)).collect::<Vec<_>>(),
    })
}

fn fleet(control: &Control) -> Value {
    let Some(fleet) = &control.fleet else { return Value::Null };
    let counts = &fleet.counts;
    json!({
        "name": fleet.name(),
        "linked": fleet.linked,
        "told": counts.told,
        "untold": counts.untold,
        "lost": control.desk.lost_notices.load(Ordering::Relaxed),
        "verdicts_of_others": fleet.foreign.len(),
        "heard": counts.heard().into_iter().map(|(word, count)| (word.to_owned(), json!(count))).collect::<Map<_, _>>(),
    })
}

/// The sources to whom most was sent.
fn sent(control: &Control) -> Value {
    let Some(kernel) = control.writer.kernel().filter(|_| control.policy.egress.is_some()) else {
        return Value::Null;
    };
    let mut all: Vec<_> = kernel.sent().take(SENT_READ_MAX).collect();
    all.sort_unstable_by_key(|(source, sent)| (std::cmp::Reverse(sent.bytes), *source));
    let one = |(source, sent): &(Source, super::maps::SentTo)| {
        json!({
            "source": name(*source, control.policy.v6_prefix),
            "bytes": sent.bytes,
            "packets": sent.packets,
        })
    };
    json!({
        "sources": all.len(),
        "bytes": all.iter().map(|(_, sent)| sent.bytes).sum::<u64>(),
        "most": all.iter().take(SHOWN_OF_ONE_MAX).map(one).collect::<Vec<_>>(),
    })
}

fn pressure(control: &Control, clock: &Clock) -> Value {
    let (pressure, gate) = (&control.pressure, control.policy.gate.as_ref());
    json!({
        "gate": gate.is_some(),
        "under_pressure": pressure.since_ns.is_some(),
        "since": pressure.since_ns.map(|since_ns| clock.text(since_ns)),
        "entered": pressure.entered,
        "begins_at_syns_per_second": gate.map(|gate| gate.syns),
        "ends_at_syns_per_second": gate.map(|gate| gate.syns / 2),
        "always_cookies": pressure.always_cookies,
        "handshakes_told_by": if gate.is_none() {
            "nobody"
        } else if control.hears_sockets() {
            "kernel"
        } else {
            "workers"
        },
        "lost_arrivals": control.standings.lost_arrivals.load(Ordering::Relaxed),
    })
}

/// What a consumer was sent, and what is known of every source at which one of its identities was seen.
pub(super) fn why_consumer(control: &Control, consumer: u128, identities: &[Identity], now_ns: u64) -> Value {
    let mut sources = control.ladder.sources_of(identities);
    // Whoever stands under a verdict first.
    sources.sort_by_key(|source| std::cmp::Reverse(control.writer.desired().get(source).map(|verdict| verdict.rung)));
    let shown = sources.iter().take(SHOWN_OF_ONE_MAX).map(|source| why(control, source.ip(), now_ns));
    json!({
        "sent": accounts::sent_to(control, consumer),
        "sources": sources.len(),
        "shown": shown.collect::<Vec<_>>(),
    })
}

fn standing(control: &Control, source: Source, now_ns: u64, clock: &Clock) -> Value {
    let Some(known) = control.ladder.known(source, now_ns) else {
        return json!({ "rung": rung::OBSERVE, "name": "observe", "seen": false });
    };
    json!({
        "rung": known.rung.number(),
        "name": known.rung.name(),
        "seen": true,
        "until": (known.until_ns > 0).then(|| clock.text(known.until_ns)),
        "strikes": known.strikes,
        "failures": known.failures,
        "gated_before": known.repeats,
        "neighbours": { "identities": known.identities, "clean": known.clean_identities },
        "recent_requests": { "seen": known.recent, "good": known.recent_good },
    })
}

fn verdicts(control: &Control, clock: &Clock) -> Value {
    let list = |verdicts: &std::collections::HashMap<Source, Verdict>| {
        let mut all: Vec<_> = verdicts.iter().collect();
        all.sort_unstable_by_key(|(source, verdict)| (std::cmp::Reverse(verdict.decision), **source));
        all.into_iter().take(SHOWN_MAX).map(|(source, verdict)| shown(*source, verdict, clock)).collect::<Vec<_>>()
    };
    let (desired, applied) = (control.writer.desired(), control.writer.applied());
    json!({
        "desired": desired.len(),
        "desired_in_kernel": control.writer.kernel_wanted(),
        "in_kernel": applied.len(),
        "max": control.policy.verdicts_max,
        "shown_desired": list(desired),
        "shown_in_kernel": list(applied),
    })
}

fn shown(source: Source, verdict: &Verdict, clock: &Clock) -> Value {
    json!({
        "source": source.ip().to_string(),
        "rung": verdict.rung,
        "decision": verdict.decision,
        "expires": clock.text(verdict.expiry_ns),
        "expires_in_seconds": clock.seconds_until(verdict.expiry_ns),
        "expires_in_ms": verdict.expiry_ns.saturating_sub(clock.now_ns) / 1_000_000,
    })
}

fn decision(decision: &Decision, clock: &Clock) -> Value {
    json!({
        "id": decision.id,
        "source": decision.source.ip().to_string(),
        "rung": decision.rung.number(),
        "name": decision.rung.name(),
        "cut": decision.flow.map(|flow| json!({ "client_port": flow.client_port, "port": flow.port })),
        "held": decision.held.map(|held| held.name()),
        "origin": decision.origin,
        "plugin": &*decision.cause.plugin,
        "route": &*decision.cause.route,
        "request_id": &*decision.cause.request_id,
        "evidence": { "kind": decision.kind.name(), "strikes": decision.strikes, "gated_before": decision.repeats },
        "since": clock.text(decision.since_ns),
        "expires": clock.text(decision.expires_ns),
    })
}

fn sample(sample: &Sample, clock: &Clock) -> Value {
    json!({
        "at": clock.text(sample.at_ns),
        "source": sample.ip.to_string(),
        "reason": sample.outcome.name(),
        "decision": sample.decision,
        "protocol": sample.protocol,
        "port": sample.port,
        "bytes": sample.frame_bytes,
    })
}

fn trouble(trouble: &Trouble) -> Value {
    json!({
        "interface": trouble.interface,
        "problem": trouble.problem,
        "detail": trouble.detail,
        "remedy": trouble.remedy,
    })
}

/// By the outcome's word; what never happened is left out.
fn packets(control: &Control) -> Value {
    let counters = control.writer.kernel().map(|kernel| kernel.counters()).unwrap_or_default();
    let mut out = Map::new();
    for (index, Counter { packets, bytes }) in counters.into_iter().enumerate() {
        if let Some(outcome) = Outcome::of_counter(index as u32).filter(|_| packets > 0) {
            out.insert(outcome.name().to_owned(), json!({ "packets": packets, "bytes": bytes }));
        }
    }
    Value::Object(out)
}

fn connections(control: &Control) -> Value {
    let mut out = Map::new();
    for (index, count) in control.standings.outcomes().enumerate() {
        if let Some(outcome) = Outcome::of_counter(index as u32).filter(|_| count > 0) {
            out.insert(outcome.name().to_owned(), json!(count));
        }
    }
    Value::Object(out)
}

fn name(source: Source, v6_prefix: u8) -> String {
    match source.ip() {
        IpAddr::V4(v4) => v4.to_string(),
        IpAddr::V6(v6) => format!("{v6}/{v6_prefix}"),
    }
}

/// Turns the monotonic clock's times into those on the wall.
struct Clock {
    now_ns: u64,
    unix_ns: u64,
}

impl Clock {
    fn new(now_ns: u64) -> Self {
        Self { now_ns, unix_ns: unix_ns() }
    }

    /// RFC 3339, to the second.
    fn text(&self, at_ns: u64) -> String {
        let unix_ns = i128::from(self.unix_ns) + i128::from(at_ns) - i128::from(self.now_ns);
        rfc3339(u64::try_from(unix_ns / 1_000_000_000).unwrap_or(0))
    }

    fn seconds_until(&self, at_ns: u64) -> u64 {
        at_ns.saturating_sub(self.now_ns).div_ceil(1_000_000_000)
    }
}

/// Days to a date by Howard Hinnant's `civil_from_days`.
fn rfc3339(unix_s: u64) -> String {
    let (days, second) = (unix_s / 86_400 + 719_468, unix_s % 86_400);
    let era = days / 146_097;
    let day_of_era = days % 146_097;
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted + 2) / 5 + 1;
    let month = if shifted < 10 { shifted + 3 } else { shifted - 9 };
    let year = year_of_era + era * 400 + u64::from(month <= 2);
    let (hour, minute, second) = (second / 3_600, second / 60 % 60, second % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}Z")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_read_as_dates() {
        assert_eq!(rfc3339(0), "1970-01-01T00:00:00Z");
        assert_eq!(rfc3339(951_826_554), "2000-02-29T12:15:54Z");
        assert_eq!(rfc3339(4_102_444_799), "2099-12-31T23:59:59Z");
    }
}
