//! From texts to one tree in plain form: variables filled in, dialects and old spellings rewritten, files merged, ids
//! given. What comes after reads the current format alone. This room must not know what entities do.

mod deck;
mod ids;
mod merge;
mod paths;
mod renamed;
mod substitute;
mod vault;

use std::collections::HashMap;

use crate::document::{Node, Place, Report, Value, tree};

pub use ids::derived;

use super::sources::Bundle;

/// How texts are read, besides what stands in them.
#[derive(Clone, Debug, Default)]
pub struct Dialect {
    /// Whether `${VAR}` and `$VAR` are filled in.
    pub env_subst: bool,
    /// The process's environment.
    pub variables: HashMap<String, String>,
}

/// Arrays of entities, wherever they stand.
pub const KINDS: &[&str] = &[
    "services",
    "routes",
    "upstreams",
    "targets",
    "consumers",
    "consumer_groups",
    "plugins",
    "certificates",
    "snis",
    "ca_certificates",
    "vaults",
    "keys",
    "key_sets",
    "keyauth_credentials",
    "jwt_secrets",
    "basicauth_credentials",
    "hmacauth_credentials",
    "mtls_auth_credentials",
    "header_cert_auth_credentials",
    "oauth2_credentials",
    "oauth2_tokens",
    "acls",
    "filter_chains",
];

/// Makes the tree; with `resolve`, references to secrets are replaced by them.
#[must_use]
pub fn tree(bundle: &Bundle, dialect: &Dialect, resolve: bool, report: &Report) -> Option<Node> {
    let mut roots = Vec::with_capacity(bundle.0.len());
    for (number, text) in bundle.0.iter().enumerate() {
        let file = u16::try_from(number).unwrap_or(u16::MAX);
        let filled = substitute::fill(&text.text, dialect, |line, column, words| {
            report.error(Place { file, line, column }, words);
        })?;
        match tree::parse_file(&filled, file) {
            Ok(mut root) => {
                deck::rewrite(&mut root, report);
                paths::migrate(&mut root);
                roots.push(root);
            }
            Err((place, words)) => report.error(place, words),
        }
    }
    if roots.len() < bundle.0.len() {
        return None;
    }
    let mut root = merge::merge(roots, report)?;
    renamed::rewrite(&mut root, report);
    if resolve {
        vault::resolve(&mut root, &dialect.variables, report);
    }
    ids::assign(&mut root);
    Some(root)
}

/// Calls `each` with the kind of every entity below `node`, parents first; `config` of plugins holds none.
pub fn each_entity(node: &mut Node, each: &mut impl FnMut(&str, &mut Node)) {
    let Value::Map(entries) = &mut node.value else { return };
    for (key, value) in entries.iter_mut() {
        if !KINDS.contains(&key.name.as_str()) {
            continue;
        }
        let Value::Seq(items) = &mut value.value else { continue };
        for item in items.iter_mut().filter(|item| matches!(item.value, Value::Map(_))) {
            each(&key.name, item);
            each_entity(item, each);
        }
    }
}
