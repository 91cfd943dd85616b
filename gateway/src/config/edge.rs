//! What of an edge's lists contradicts itself, each with its place: found when the file is checked, not when somebody is
//! locked out. It must not look at the machine.

use std::path::PathBuf;

use ipnet::IpNet;

use super::settings::network;
use crate::document::{Fields, Node, Place, Value};
use crate::edge::{FleetPolicy, LIST_ENTRIES_MAX, Policy};
use crate::fleet;
use crate::plugins::traffic::quota::redis;

/// Entries of a list that are compared with those of another: the kernel's lists hold fewer.
const COMPARED_MAX: usize = 8_192;
/// Bytes of a gateway's name.
const NAME_BYTES_MAX: usize = 64;

/// Reports what is wrong with the policy that was read from `edge`; networks that are none are reported already.
pub fn check(edge: &Fields<'_>, policy: &Policy) {
    let (deny, spared) = (nets(edge.node("deny")), nets(edge.node("never_drop")));
    let never: Vec<IpNet> = policy.never_drop.iter().chain(&policy.trusted).copied().collect();
    // What is far too long is not compared with itself as well.
    if deny.len().max(never.len()) > COMPARED_MAX {
        length(edge, "deny", &policy.deny);
        length(edge, "never_drop", &never);
        edge.report.error(edge.place(), format!("a list of the edge has more than {COMPARED_MAX} entries"));
        return;
    }
    for (place, net, text) in &deny {
        if net.prefix_len() == 0 {
            edge.report.error(*place, format!("`deny`: {text} denies everybody"));
            continue;
        }
        host_bits(edge, "deny", *place, *net, text);
        contradiction(edge, *place, *net, &policy.never_drop, "which is never dropped (`never_drop`)");
        contradiction(
            edge,
            *place,
            *net,
            &policy.trusted,
            "which is a trusted proxy (`trusted_ips`): all its clients would be denied",
        );
    }
    for (place, net, text) in &spared {
        host_bits(edge, "never_drop", *place, *net, text);
        if net.prefix_len() == 0 {
            edge.report.warn(*place, format!("`never_drop`: with {text} nothing can ever be dropped"));
        }
    }
    repeated(edge, "deny", &deny);
    repeated(edge, "never_drop", &spared);
    length(edge, "deny", &policy.deny);
    length(edge, "never_drop", &never);
    interfaces(edge, policy);
    if policy.keep && policy.pin.is_none() {
        edge.report.warn(edge.place_of("keep"), "`keep` needs `pin`: what is not pinned dies with the process");
    }
}

/// Reads `fleet`: where the gateways meet whose verdicts hold at all of them.
pub fn fleet(edge: &Fields<'_>) -> Option<fleet::Settings> {
    let block = edge.fields("fleet")?;
    block.require("redis");
    let server = redis::read_advanced(&block, true)?;
    let channel = block.string("channel").filter(|name| !name.is_empty()).unwrap_or_else(|| "gateway:edge".to_owned());
    let name = block.string("name").filter(|name| !name.is_empty()).unwrap_or_else(hostname);
    if name.len() > NAME_BYTES_MAX || name.chars().any(char::is_control) {
        let message = format!("`name` is no name of at most {NAME_BYTES_MAX} bytes");
        block.report.mismatch(block.place_of("name"), message, "a short name");
    }
    let bounds = FleetPolicy {
        name: name.into(),
        verdicts_max: block.integer("verdicts_max", 1..=1_048_576).unwrap_or(10_000) as u32,
        per_second: block.integer("per_second", 1..=100_000).unwrap_or(1_000) as u32,
    };
    block.given("redis").then_some(fleet::Settings { server, channel, bounds })
}

pub fn pcap(edge: &Fields<'_>) -> Option<(PathBuf, u64)> {
    const BYTES_DEFAULT: i64 = 16 << 20;
    let bytes_max = edge.integer("pcap_bytes_max", 65_536..=1 << 40).unwrap_or(BYTES_DEFAULT);
    let path = edge.string_or_off("pcap").filter(|text| text != "off" && !text.is_empty())?;
    Some((PathBuf::from(path), bytes_max as u64))
}

fn hostname() -> String {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    if name.trim().is_empty() { "gateway".to_owned() } else { name.trim().to_owned() }
}

fn nets(list: Option<&Node>) -> Vec<(Place, IpNet, &str)> {
    let Some(Value::Seq(items)) = list.map(|node| &node.value) else { return Vec::new() };
    let mut nets = Vec::with_capacity(items.len());
    for item in items {
        if let Value::Str(text) = &item.value
            && let Some(net) = network(text)
        {
            nets.push((item.place, net, text.as_str()));
        }
    }
    nets
}

fn host_bits(edge: &Fields<'_>, list: &str, place: Place, net: IpNet, text: &str) {
    if net.trunc() != net {
        edge.report.warn(
            place,
            format!("`{list}`: {text} names a host in the middle of its network; {} is meant", net.trunc()),
        );
    }
}

fn contradiction(edge: &Fields<'_>, place: Place, denied: IpNet, spared: &[IpNet], what: &str) {
    if let Some(other) = spared.iter().find(|other| denied.contains(*other) || other.contains(&denied)) {
        edge.report.error(place, format!("`deny`: {denied} overlaps with {other}, {what}"));
    }
}

fn repeated(edge: &Fields<'_>, list: &str, nets: &[(Place, IpNet, &str)]) {
    // Long lists come from tools; who reads warnings about them?
    const WARNED_MAX: usize = 256;
    for (at, (place, net, text)) in nets.iter().enumerate().take(WARNED_MAX) {
        let earlier = nets[..at].iter().find(|(_, other, _)| other.contains(net));
        if let Some((_, other, _)) = earlier {
            edge.report.warn(*place, format!("`{list}`: {text} is in {other} already"));
        }
    }
}

fn length(edge: &Fields<'_>, list: &str, nets: &[IpNet]) {
    let count = IpNet::aggregate(&nets.to_vec()).len();
    if count > LIST_ENTRIES_MAX as usize {
        let with = if list == "deny" { "" } else { " (with `trusted_ips`)" };
        let message = format!("`{list}` has {count} networks{with}; the kernel's list holds {LIST_ENTRIES_MAX}");
        edge.report.mismatch(edge.place_of(list), message, "fewer or wider networks");
    }
}

fn interfaces(edge: &Fields<'_>, policy: &Policy) {
    for (at, name) in policy.interfaces.iter().enumerate() {
        if policy.interfaces[..at].contains(name) {
            edge.report.warn(edge.place_of("interfaces"), format!("`interfaces` names {name} twice"));
        }
    }
}
