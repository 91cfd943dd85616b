//! What may stand in a file, as data: entities by a table, plugins and the gateway's own block by asking their readers.
//! For editors (JSON Schema), for the admin API (Kong's form) and to fill in defaults. Must not judge files.

mod json;
mod kong;
mod outlines;
mod table;

pub use json::document;
pub use kong::{entity as kong_entity, plugin as kong_plugin};
pub use table::ENTITIES;

/// One kind of entity.
#[derive(Debug)]
pub struct Entity {
    /// The name of its list.
    pub name: &'static str,
    /// The field that names an entity in URLs and references, besides `id`.
    pub endpoint: &'static str,
    /// Its own fields, without those that all have.
    pub fields: &'static [Field],
    /// Lists that may be nested in it.
    pub children: &'static [&'static str],
}

/// One field of an entity.
#[derive(Debug)]
pub struct Field {
    /// Its name.
    pub name: &'static str,
    /// What it holds.
    pub kind: Kind,
    /// Its default as JSON; empty for none.
    pub default: &'static str,
    /// Whether it must be given.
    pub required: bool,
    /// For people.
    pub about: &'static str,
}

/// What a field holds.
#[derive(Clone, Copy, Debug)]
pub enum Kind {
    /// A string.
    Text,
    /// A boolean.
    Boolean,
    /// An integer from … to ….
    Integer(i64, i64),
    /// One of the words.
    OneOf(&'static [&'static str]),
    /// One of the numbers.
    OneOfNumbers(&'static [i64]),
    /// A list of strings.
    Texts,
    /// A list of words.
    Words(&'static [&'static str]),
    /// A list of anything.
    List,
    /// A map.
    Map,
    /// An entity of this kind, by name or id.
    To(&'static str),
}

/// The kind of entities named `name`.
#[must_use]
pub fn entity(name: &str) -> Option<&'static Entity> {
    ENTITIES.iter().find(|entity| entity.name == name)
}

impl Entity {
    /// The singular, which is also the field by which its children refer to it.
    #[must_use]
    pub fn singular(&self) -> &'static str {
        self.name.strip_suffix('s').unwrap_or(self.name)
    }
}

impl Field {
    /// The default, or null.
    #[must_use]
    pub fn default_json(&self) -> serde_json::Value {
        serde_json::from_str(self.default).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::config::compile::read_only;
    use crate::document::{Report, tree};

    const EVERY_KIND: &str = "
_format_version: '3.0'
services: [{name: s, host: h, routes: [{name: r, paths: [/]}], plugins: [{name: cors}]}]
upstreams: [{name: u, targets: [{target: 'a:1'}]}]
consumers: [{username: c, keyauth_credentials: [{key: k}], jwt_secrets: [{key: k, secret: s}], acls: [{group: g}],
  mtls_auth_credentials: [{subject_name: s}], header_cert_auth_credentials: [{subject_name: s}]}]
certificates: [{cert: x, key: y, snis: [{name: a.test}]}]
snis: [{name: b.test, certificate: x}]
ca_certificates: [{cert: x}]
keys: [{kid: k, jwk: '{}'}]
key_sets: [{name: n}]
vaults: [{name: env, prefix: p}]
";

    #[test]
    fn the_table_knows_every_field_that_the_readers_ask() {
        let tree = tree::parse(EVERY_KIND).expect("parses");
        let report = Report::remembering("k.yml");
        read_only(&tree, &crate::plugins::fixture::shared(), &report);
        let asked = report.asked();
        let common: BTreeSet<&str> = ["id", "tags", "created_at", "updated_at", "_comment", "_ignore"].into();
        let mut checked = 0;
        for entity in ENTITIES {
            let Some(names) = asked.get(entity.singular()).or_else(|| asked.get(entity.name)) else { continue };
            let known: BTreeSet<&str> = entity
                .fields
                .iter()
                .map(|f| f.name)
                .chain(entity.children.iter().copied())
                .chain(common.clone())
                .collect();
            // Fields of other editions are asked for only to refuse them by name.
            let foreign = ["groups", "consumer_group", "ordering", "condition", "partials"];
            let lost: Vec<_> =
                names.iter().filter(|n| !known.contains(n.as_str()) && !foreign.contains(&n.as_str())).collect();
            assert!(lost.is_empty(), "{} lacks {lost:?}", entity.name);
            checked += 1;
        }
        assert!(checked >= 14, "{checked} kinds of {:?}", asked.keys());
        assert!(ENTITIES.iter().flat_map(|e| e.fields).all(|f| f.default.is_empty() || !f.default_json().is_null()));
    }

    #[test]
    fn every_plugin_and_the_gateways_block_are_in_the_schema() {
        let schema = document();
        let text = schema.to_string();
        for kind in crate::plugins::REGISTRY {
            assert!(text.contains(&format!("\"const\":\"{}\"", kind.name)), "{}", kind.name);
        }
        let gateway = &schema["properties"]["gateway"]["properties"];
        assert!(gateway["edge"]["properties"]["ladder"].is_object(), "{gateway}");
        assert_eq!(gateway["workers"]["maximum"], 1024);
        let key_auth = kong_plugin("key-auth").expect("known").to_string();
        assert!(key_auth.contains("key_names") && key_auth.contains("hide_credentials"), "{key_auth}");
    }
}
