//! The edge's metrics. Their words are the reasons' words.

use std::sync::atomic::Ordering;

use gateway_common::reason::Outcome;

use super::{
    control::{Control, InForce},
    ladder::Rung,
};

/// One value for the metrics page.
#[derive(Clone, PartialEq, Debug)]
pub struct Metric {
    /// `gateway_edge_…`; a name that ends in `_total` is a counter, any other a gauge.
    pub name: &'static str,
    /// What it counts.
    pub help: &'static str,
    /// Label names and values.
    pub labels: Vec<(&'static str, String)>,
    /// The value.
    pub value: f64,
}

pub(super) fn metrics(control: &Control) -> Vec<Metric> {
    let mut out = Vec::new();
    packets(control, &mut out);
    connections(control, &mut out);
    figures(control, &mut out);
    out
}

fn packets(control: &Control, out: &mut Vec<Metric>) {
    let counters = control.writer.kernel().map(|kernel| kernel.counters()).unwrap_or_default();
    for (index, counter) in counters.iter().enumerate() {
        let Some(outcome) = Outcome::of_counter(index as u32) else { continue };
        // A shadow twin of a reason that passes cannot happen.
        if outcome.shadow && !outcome.reason.drops() {
            continue;
        }
        let labels = vec![("reason", outcome.name().to_owned())];
        out.push(Metric {
            name: "gateway_edge_packets_total",
            help: "Packets by how they left the kernel program",
            labels: labels.clone(),
            value: counter.packets as f64,
        });
        out.push(Metric {
            name: "gateway_edge_bytes_total",
            help: "Bytes of frames by how they left the kernel program",
            labels,
            value: counter.bytes as f64,
        });
    }
}

fn connections(control: &Control, out: &mut Vec<Metric>) {
    for (index, count) in control.standings.outcomes().enumerate() {
        let Some(outcome) = Outcome::of_counter(index as u32) else { continue };
        if count == 0 {
            continue;
        }
        out.push(Metric {
            name: "gateway_edge_connections_total",
            help: "Connections by how the user-space executor judged them",
            labels: vec![("reason", outcome.name().to_owned())],
            value: count as f64,
        });
    }
}

fn figures(control: &Control, out: &mut Vec<Metric>) {
    let mut put = |name, help, labels: &[(&'static str, &str)], value: f64| {
        let labels = labels.iter().map(|(label, text)| (*label, (*text).to_owned())).collect();
        out.push(Metric { name, help, labels, value });
    };
    let in_force = control.in_force();
    for mode in [InForce::Off, InForce::Userspace, InForce::Partly, InForce::Tc, InForce::Generic, InForce::Native] {
        let value = f64::from(u8::from(mode == in_force));
        put("gateway_edge_in_force", "Who carries the edge's decisions out", &[("mode", mode.name())], value);
    }
    for rung in [Rung::Degraded, Rung::Cut, Rung::Gated, Rung::Dropped] {
        let count = control.writer.desired().values().filter(|verdict| verdict.rung == rung.number()).count();
        put("gateway_edge_verdicts", "Sources under a verdict", &[("rung", rung.name())], count as f64);
    }
    put("gateway_edge_cut_connections", "Connections that are cut", &[], control.writer.cuts().len() as f64);
    put("gateway_edge_raised_sources", "Sources with raised ceilings", &[], control.writer.raised().len() as f64);
    let pressed = f64::from(u8::from(control.pressure.since_ns.is_some()));
    put("gateway_edge_pressure", "Whether strangers share one budget of new connections", &[], pressed);
    put("gateway_edge_pressure_entered_total", "Times that it began", &[], control.pressure.entered as f64);
    if let Some(fleet) = &control.fleet {
        let linked = f64::from(u8::from(fleet.linked));
        put("gateway_edge_fleet_linked", "Whether other gateways can be reached", &[], linked);
        put("gateway_edge_fleet_verdicts", "Verdicts of other gateways", &[], fleet.foreign.len() as f64);
        let counts = &fleet.counts;
        for (end, count) in [("told", counts.told), ("untold", counts.untold)] {
            put("gateway_edge_fleet_told_total", "Notices for other gateways", &[("end", end)], count as f64);
        }
        let lost = control.desk.lost_notices.load(Ordering::Relaxed);
        for (end, count) in counts.heard().into_iter().chain([("lost", lost)]) {
            put("gateway_edge_fleet_heard_total", "Notices of other gateways", &[("end", end)], count as f64);
        }
    }
    let desk = &control.desk;
    let lost = [
        ("offence", desk.lost_offences.load(Ordering::Relaxed)),
        ("good", desk.lost_goods.load(Ordering::Relaxed)),
        ("recognised", desk.lost_recognised.load(Ordering::Relaxed)),
    ];
    for (kind, count) in lost {
        put("gateway_edge_reports_lost_total", "Reports that found the desk full", &[("kind", kind)], count as f64);
    }
    let accounts = control.writer.accounts();
    put("gateway_edge_consumers", "Consumers with an account", &[], accounts.open().count() as f64);
    put("gateway_edge_consumers_refused_total", "Times that a consumer found none left", &[], accounts.refused as f64);
    let kill = f64::from(u8::from(control.standings.is_killed()));
    put("gateway_edge_kill_switch", "Whether everything passes by order", &[], kill);
    put("gateway_edge_decisions_total", "Decisions of the ladder", &[], control.decisions as f64);
    put("gateway_edge_offences_total", "Offences that the ladder heard of", &[], control.ladder.offences as f64);
    put("gateway_edge_sources_watched", "Sources that the ladder watches", &[], control.ladder.watched() as f64);
    put(
        "gateway_edge_sources_unwatched_total",
        "Reports of sources that found no place",
        &[],
        control.ladder.unwatched as f64,
    );
    put("gateway_edge_events_total", "Samples of drops that the kernel sent", &[], control.events.seen as f64);
    put("gateway_edge_map_failures_total", "Writes to a map that failed", &[], control.writer.failures as f64);
}
