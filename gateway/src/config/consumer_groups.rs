//! Kong's `consumer_groups`: their names, who is in them and the plugins that are nested in them. A membership may stand with
//! the group, with the consumer, or at top level.

use http::HeaderValue;

use super::compile::duplicate;
use super::ids;
use crate::document::{Fields, Node, Place, Report, Value};
use crate::identity::{ConsumerGroup, ConsumerIndex, GroupIndex, Identities};

/// What was read before the consumers are known.
#[derive(Default)]
pub struct Draft<'a> {
    /// Nested plugins with their group.
    pub plugins: Vec<(&'a Node, GroupIndex)>,
    /// References to consumers, with the group.
    members: Vec<(&'a Node, GroupIndex)>,
}

/// Reads the groups themselves.
pub fn read<'a>(root: &Fields<'a>, identities: &mut Identities) -> Draft<'a> {
    let mut draft = Draft::default();
    let mut places: Vec<Place> = Vec::new();
    for node in root.list("consumer_groups").unwrap_or_default() {
        let Some(f) = Fields::of(node, "consumer_group", root.report) else { continue };
        let name = f.required_string("name");
        let id = ids::of_entity(&f, "consumer_groups", name.as_deref()).to_string();
        let members = f.list("consumers").unwrap_or_default();
        let plugins = f.list("plugins").unwrap_or_default();
        let Some(name) = name else { continue };
        if let Some(first) = identities.group_named(&name).or_else(|| identities.group_named(&id)) {
            let first = places.get(first as usize).copied();
            duplicate(root.report, f.place(), "consumer_groups", ("name", &name), first);
        }
        let index = identities.consumer_groups.len() as GroupIndex;
        identities.consumer_groups.push(ConsumerGroup { id, name });
        places.push(f.place());
        draft.members.extend(members.iter().map(|node| (node, index)));
        draft.plugins.extend(plugins.iter().map(|node| (node, index)));
    }
    draft
}

/// Puts the consumers into their groups; `own` are the `groups` of single consumers.
pub fn join(root: &Fields<'_>, members: Draft<'_>, own: Vec<(&Node, ConsumerIndex)>, identities: &mut Identities) {
    let report = root.report;
    let mut found: Vec<(ConsumerIndex, GroupIndex)> = Vec::new();
    for (node, group) in members.members {
        found.extend(consumer_of(node, identities, report).map(|consumer| (consumer, group)));
    }
    for (node, consumer) in own {
        found.extend(group_of(node, identities, report).map(|group| (consumer, group)));
    }
    for node in root.list("consumer_group_consumers").unwrap_or_default() {
        let Some(f) = Fields::of(node, "consumer_group_consumer", report) else { continue };
        ids::skip_common(&f);
        f.skip("id");
        let (given, group) = (f.node("consumer"), f.node("consumer_group"));
        if !(f.require("consumer") && f.require("consumer_group")) {
            continue;
        }
        let consumer = given.and_then(|node| consumer_of(node, identities, report));
        found.extend(consumer.zip(group.and_then(|node| group_of(node, identities, report))));
    }
    found.sort_unstable();
    found.dedup();
    for (consumer, group) in found {
        if let Some(consumer) = identities.consumers.get_mut(consumer as usize) {
            consumer.member_of.push(group);
        }
    }
    let groups = &identities.consumer_groups;
    for consumer in identities.consumers.iter_mut().filter(|consumer| !consumer.member_of.is_empty()) {
        let names: Vec<&str> = consumer.member_of.iter().map(|group| groups[*group as usize].name.as_str()).collect();
        consumer.member_of_header = HeaderValue::from_str(&names.join(", ")).ok();
    }
}

/// A consumer by name; ids of nested references are made up, so that names come first.
fn consumer_of(node: &Node, identities: &Identities, report: &Report) -> Option<ConsumerIndex> {
    let name = name_in(node, &["username", "name", "id"]);
    let found = name.and_then(|name| identities.consumer_named(name));
    lost(found, node, ("consumer", name, "consumers"), report)
}

fn group_of(node: &Node, identities: &Identities, report: &Report) -> Option<GroupIndex> {
    let name = name_in(node, &["name", "id"]);
    let found = name.and_then(|name| identities.group_named(name));
    lost(found, node, ("consumer_group", name, "consumer_groups"), report)
}

fn name_in<'n>(node: &'n Node, keys: &[&str]) -> Option<&'n str> {
    match &node.value {
        Value::Str(name) => Some(name),
        _ => keys.iter().find_map(|key| node.some(key)).and_then(Node::text),
    }
}

fn lost(found: Option<u32>, node: &Node, what: (&str, Option<&str>, &str), report: &Report) -> Option<u32> {
    if found.is_none() {
        let (key, name, plural) = what;
        let name = name.unwrap_or_default();
        report.error(node.place, format!("invalid reference '{key}: {name}' (no such entry in '{plural}')"));
    }
    found
}
