//! Kong's ids: given ones as they are, others UUIDv5 of the entity's kind and key, so that a reload keeps them. The key is
//! made as Kong makes it (`get_key_for_uuid_gen`, workspace `*`); where Kong would draw a random id (API keys,
//! certificates, nameless routes) it is made of the content, which is as unique and stays.

use std::collections::{HashMap, HashSet};

use uuid::Uuid;

use super::KINDS;
use crate::document::{Node, Value};
use crate::identity::digest;

/// Kong's root namespace.
const ROOT: Uuid = Uuid::from_u128(0xfd02_801f_0957_4a15_a55a_c8d9_606f_30b5);

/// The id of `key` among the entities of `kind`.
#[must_use]
pub fn derived(kind: &str, key: &str) -> Uuid {
    Uuid::new_v5(&Uuid::new_v5(&ROOT, kind.as_bytes()), key.as_bytes())
}

/// Gives an id to every entity of the tree that has none.
pub fn assign(root: &mut Node) {
    let mut ids = Ids { namespaces: HashMap::new(), taken: HashSet::new() };
    ids.below(root, None);
}

struct Ids {
    namespaces: HashMap<String, Uuid>,
    /// Ids that were made of the content: twins get another.
    taken: HashSet<Uuid>,
}

impl Ids {
    /// The entities within `node`, whose own kind and id are `parent`.
    fn below(&mut self, node: &mut Node, parent: Option<(&str, &str)>) {
        let Value::Map(entries) = &mut node.value else { return };
        for (key, value) in entries.iter_mut() {
            let Some(kind) = KINDS.iter().find(|kind| **kind == key.name) else { continue };
            let Value::Seq(items) = &mut value.value else { continue };
            for item in items.iter_mut().filter(|item| matches!(item.value, Value::Map(_))) {
                if item.some("id").is_none() {
                    let id = self.id_of(kind, item, parent).to_string();
                    match item.member_mut("id") {
                        Some(null) => null.value = Value::Str(id),
                        None => item.insert("id", Value::Str(id)),
                    }
                }
                let id = item.some("id").and_then(Node::text).unwrap_or_default().to_owned();
                self.below(item, Some((singular(kind), &id)));
            }
        }
    }

    fn id_of(&mut self, kind: &str, item: &Node, parent: Option<(&str, &str)>) -> Uuid {
        let namespace = *self.namespaces.entry(kind.to_owned()).or_insert_with(|| Uuid::new_v5(&ROOT, kind.as_bytes()));
        if let Some(key) = key_of(kind, item, parent) {
            return Uuid::new_v5(&namespace, key.as_bytes());
        }
        let content = format!("{}:{}", parent.map_or("", |(_, id)| id), item.to_json());
        let digest = digest(content.as_bytes());
        let mut twin = 0_u32;
        loop {
            let id = Uuid::new_v5(&namespace, &[digest.as_slice(), &twin.to_be_bytes()].concat());
            if self.taken.insert(id) {
                return id;
            }
            twin += 1;
        }
    }
}

fn singular(kind: &str) -> &str {
    kind.strip_suffix('s').unwrap_or(kind)
}

/// The key that Kong derives an id from: the entity's name, or the parts that are unique together.
fn key_of(kind: &str, item: &Node, parent: Option<(&str, &str)>) -> Option<String> {
    let text = |field: &str| item.member(field).and_then(Node::text);
    let part = |field: &str| match parent {
        Some((owner, id)) if owner == field => id.to_owned(),
        _ => text(field).unwrap_or_default().to_owned(),
    };
    let joined = |fields: &[&str]| {
        let parts: Vec<String> = fields.iter().map(|field| part(field)).collect();
        Some(format!("{kind}:*:{}", parts.join(":")))
    };
    match kind {
        "services" | "routes" | "upstreams" | "snis" | "consumer_groups" => text("name").map(str::to_owned),
        "consumers" => text("username").map(str::to_owned),
        "plugins" if text("name").is_some() && !part("consumer_group").is_empty() => {
            joined(&["name", "route", "service", "consumer", "consumer_group"])
        }
        "plugins" if text("name").is_some() => joined(&["name", "route", "service", "consumer"]),
        "targets" if text("target").is_some() => joined(&["upstream", "target"]),
        "acls" if text("group").is_some() => joined(&["consumer", "group"]),
        "basicauth_credentials" | "hmacauth_credentials" if text("username").is_some() => joined(&["username"]),
        "keyauth_credentials" | "jwt_secrets" if text("key").is_some() => joined(&["key"]),
        "vaults" if text("prefix").is_some() => joined(&["prefix"]),
        "keys" if text("kid").is_some() => joined(&["kid", "set"]),
        "key_sets" if text("name").is_some() => joined(&["name"]),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::document::tree::parse;

    fn id<'a>(node: &'a Node, path: &[&str]) -> &'a str {
        let found = path.iter().fold(node, |node, step| match step.parse::<usize>() {
            Ok(index) => &node.items()[index],
            Err(_) => node.member(step).expect("member"),
        });
        found.member("id").and_then(Node::text).expect("id")
    }

    #[test]
    fn names_give_kongs_ids() {
        // The id that Kong's documentation shows for a service of this name.
        assert_eq!(derived("services", "my-service").to_string(), "0855b320-0dd2-547d-891d-601e9b38647f");
    }

    #[test]
    fn ids_stay_and_twins_differ() {
        let text = "services:\n- name: s\n  routes:\n  - paths: [/a]\n  - paths: [/a]\n  plugins: [{name: cors}]\n\
                    plugins: [{name: cors}]\nconsumers: [{username: u, id: null, acls: [{group: g}]}]\n";
        let tree = || {
            let mut tree = parse(text).expect("parses");
            assign(&mut tree);
            tree
        };
        let (one, two) = (tree(), tree());
        for path in
            [["services", "0", "routes", "0"], ["services", "0", "routes", "1"], ["consumers", "0", "acls", "0"]]
        {
            assert_eq!(id(&one, &path), id(&two, &path));
        }
        assert_ne!(id(&one, &["services", "0", "routes", "0"]), id(&one, &["services", "0", "routes", "1"]));
        let service = id(&one, &["services", "0"]);
        let nested = derived("plugins", &format!("plugins:*:cors::{service}:")).to_string();
        assert_eq!(id(&one, &["services", "0", "plugins", "0"]), nested);
        assert_eq!(id(&one, &["plugins", "0"]), derived("plugins", "plugins:*:cors:::").to_string());
    }
}
