//! What of an edge's lists contradicts itself, each with its place: found when the file is checked, not when somebody is
//! locked out; and its ceilings of consumers, with whom they are for. It must not look at the machine.

use std::path::PathBuf;

use ipnet::IpNet;

use super::Settings;
use super::settings::{network, rate};
use crate::document::{Fields, Node, Place, Value};
use crate::edge::{ConsumersPolicy, EgressPolicy, FleetPolicy, LIST_ENTRIES_MAX, Member, Policy, Rate, Roll};
use crate::fleet;
use crate::identity::{Consumer, GroupIndex, Identities};
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

/// Reads the `egress` block; who the consumers are is told by [`enroll`].
pub fn egress(f: &Fields<'_>) -> EgressPolicy {
    let defaults = EgressPolicy::default();
    let consumers_max = f.integer("consumers_max", 1024..=4_194_304).map(|n| n as u32);
    let bytes = f.fields("consumer_bytes").and_then(|f| rate(&f));
    let mut groups = Vec::new();
    if let Some(of_groups) = f.node("groups").and_then(|node| Fields::of(node, "`groups`", f.report)) {
        for (name, node) in of_groups.all() {
            let rate = Fields::of(node, "a group's ceiling", f.report).and_then(|f| rate(&f));
            groups.extend(rate.map(|rate| (name.name.clone(), rate)));
        }
    }
    let is_asked = f.given("consumer_bytes") || f.given("groups") || consumers_max.is_some();
    let consumers_max = consumers_max.unwrap_or(ConsumersPolicy::default().consumers_max);
    EgressPolicy {
        bytes: f.fields("bytes").and_then(|f| rate(&f)),
        sources_max: f.integer("sources_max", 1024..=4_194_304).map_or(defaults.sources_max, |n| n as u32),
        consumers: is_asked.then(|| ConsumersPolicy { bytes, groups, consumers_max, ..ConsumersPolicy::default() }),
    }
}

/// Tells the edge who the consumers are and what each may be sent: what the first of its groups says that has an entry,
/// else what holds for all.
pub fn enroll(root: &Fields<'_>, settings: &mut Settings, identities: &Identities) {
    let egress = settings.edge.as_mut().and_then(|edge| edge.egress.as_mut());
    let Some(policy) = egress.and_then(|egress| egress.consumers.as_mut()) else { return };
    let given = ["edge", "egress"].iter().try_fold(root.node("gateway"), |node, key| Some(node?.member(key))).flatten();
    unknown_groups(root, given, identities);
    if identities.consumers.len() > policy.consumers_max as usize {
        let place = given.map_or(root.place(), |node| node.member("consumers_max").unwrap_or(node).place);
        let message =
            format!("there are {} consumers, and accounts for {}", identities.consumers.len(), policy.consumers_max);
        root.report.mismatch(place, message, "a greater `consumers_max`");
    }
    policy.roll = std::sync::Arc::new(roll(policy, identities));
}

fn unknown_groups(root: &Fields<'_>, egress: Option<&Node>, identities: &Identities) {
    let Some(Value::Map(entries)) = egress.and_then(|node| node.member("groups")).map(|node| &node.value) else {
        return;
    };
    let known: Vec<&str> = identities.consumer_groups.iter().map(|group| group.name.as_str()).collect();
    for (key, _) in entries.iter().filter(|(key, _)| identities.group_named(&key.name).is_none()) {
        root.report.unknown(
            key.place,
            format!("`groups`: no consumer group is named `{}`", key.name),
            &key.name,
            &known,
        );
    }
}

fn roll(policy: &ConsumersPolicy, identities: &Identities) -> Roll {
    let named = |(name, rate): &(String, Rate)| Some((identities.group_named(name)?, *rate));
    let groups: Vec<(GroupIndex, Rate)> = policy.groups.iter().filter_map(named).collect();
    let of_group = |group: &GroupIndex| groups.iter().find(|(named, _)| named == group).map(|(_, rate)| *rate);
    let member = |consumer: &Consumer| {
        let name = consumer.username.as_ref().or(consumer.custom_id.as_ref()).unwrap_or(&consumer.id);
        let rate = consumer.member_of.iter().find_map(of_group).or(policy.bytes);
        (consumer.number(), Member { name: name.as_str().into(), rate })
    };
    identities.consumers.iter().map(member).filter(|(number, _)| *number != 0).collect()
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
