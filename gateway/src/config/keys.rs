//! Kong's `ca_certificates`, `keys`, `key_sets` and `vaults`: checked when the configuration is read and kept for whoever
//! verifies with them. References through vaults were replaced before.

use std::collections::HashMap;
use std::sync::Arc;

use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;

use super::compile::{duplicate, reference};
use super::ids;
use crate::clock;
use crate::document::{Fields, Place};
use crate::identity::certificate::Authority;
use crate::identity::digest;

/// What others verify with.
#[derive(Debug, Default)]
pub struct Keys {
    /// Public and private keys.
    pub keys: Vec<Key>,
}

/// Kong's `keys` entity.
pub struct Key {
    /// `kid`.
    pub kid: String,
    /// UUID of its set.
    pub set: Option<String>,
    /// A JSON Web Key, as text.
    pub jwk: Option<String>,
    /// A PEM public key.
    pub public_pem: Option<String>,
}

impl std::fmt::Debug for Key {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Key").field("kid", &self.kid).field("set", &self.set).finish_non_exhaustive()
    }
}

/// Reads the other three lists.
pub fn read(root: &Fields<'_>) -> Keys {
    vaults(root);
    let sets = key_sets(root);
    Keys { keys: keys(root, &sets) }
}

/// Reads `ca_certificates`, by UUID.
pub fn authorities(root: &Fields<'_>) -> HashMap<String, Arc<Authority>> {
    let mut found = HashMap::new();
    for node in root.list("ca_certificates").unwrap_or_default() {
        let Some(f) = Fields::of(node, "ca_certificate", root.report) else { continue };
        let id = ids::of_entity(&f, "ca_certificates", None).to_string();
        f.string("cert_digest");
        let Some(cert) = f.required_string("cert") else { continue };
        let certificates: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(cert.as_bytes()).collect();
        match certificates.as_deref() {
            Ok([only]) => match Authority::of(&id, only.clone()) {
                Ok(authority) => {
                    if !authority.names.holds_at(clock::unix_ns() / 1_000_000_000) {
                        let words =
                            "the ca_certificate has expired, or does not hold yet: nothing that it vouches for passes";
                        f.report.warn(f.place_of("cert"), words);
                    }
                    found.insert(id, Arc::new(authority));
                }
                Err(what) => f.report.error(f.place_of("cert"), format!("`cert` of a ca_certificate: {what}")),
            },
            _ => f.report.mismatch(f.place_of("cert"), "`cert` of a ca_certificate", "exactly one PEM certificate"),
        }
    }
    found
}

/// Ids of sets by name and id.
fn key_sets(root: &Fields<'_>) -> HashMap<String, String> {
    let mut sets = HashMap::new();
    for node in root.list("key_sets").unwrap_or_default() {
        let Some(f) = Fields::of(node, "key_set", root.report) else { continue };
        let name = f.string("name");
        let id = ids::of_entity(&f, "key_sets", name.as_deref()).to_string();
        sets.insert(id.clone(), id.clone());
        if let Some(name) = name
            && sets.insert(name.clone(), id).is_some()
        {
            duplicate(root.report, f.place(), "key_sets", ("name", &name), None);
        }
    }
    sets
}

fn keys(root: &Fields<'_>, sets: &HashMap<String, String>) -> Vec<Key> {
    let mut found: Vec<Key> = Vec::new();
    let mut places: HashMap<(String, Option<String>), Place> = HashMap::new();
    for node in root.list("keys").unwrap_or_default() {
        let Some(f) = Fields::of(node, "key", root.report) else { continue };
        f.string("name");
        ids::of_entity(&f, "keys", None);
        let set = f.node("set").map(|node| (node.place, reference(node).unwrap_or_default()));
        let set = set.and_then(|(place, name)| {
            let id = sets.get(&name).cloned();
            if id.is_none() {
                f.report.error(place, format!("invalid reference 'set: {name}' (no such entry in 'key_sets')"));
            }
            id
        });
        let jwk = f.string("jwk");
        let pem = f.fields("pem");
        let public_pem = pem.as_ref().and_then(|pem| {
            pem.string("private_key");
            pem.string("public_key")
        });
        if jwk.is_some() == pem.is_some() {
            f.report.mismatch(f.place(), "key", "either `jwk` or `pem`");
        }
        if let Some(jwk) = &jwk
            && !serde_json::from_str::<serde_json::Value>(jwk).is_ok_and(|key| key["kty"].is_string())
        {
            f.report.mismatch(f.place_of("jwk"), "`jwk` is no JSON Web Key", "a JSON object with `kty`, as a string");
        }
        let Some(kid) = f.required_string("kid") else { continue };
        if let Some(first) = places.insert((kid.clone(), set.clone()), f.place()) {
            duplicate(root.report, f.place(), "keys", ("kid", &kid), Some(first));
        }
        found.push(Key { kid, set, jwk, public_pem });
    }
    found
}

fn vaults(root: &Fields<'_>) {
    let mut places: HashMap<String, Place> = HashMap::new();
    for node in root.list("vaults").unwrap_or_default() {
        let Some(f) = Fields::of(node, "vault", root.report) else { continue };
        ids::of_entity(&f, "vaults", None);
        f.string("description");
        let prefix = f.required_string("prefix");
        let name = f.required_string("name");
        let config = f.node("config");
        match name.as_deref() {
            Some("env") => {
                if let Some(config) = config.and_then(|node| Fields::of(node, "config", root.report)) {
                    config.string("prefix");
                    for time in ["ttl", "neg_ttl", "resurrect_ttl", "base64_decode"] {
                        config.skip(time);
                    }
                }
            }
            Some(other @ ("aws" | "gcp" | "hcv" | "azure" | "conjur")) => {
                f.report.error(f.place_of("name"), format!("`{other}` is a vault of Kong's enterprise edition"));
            }
            Some(other) => f.report.unknown(f.place_of("name"), format!("unknown vault `{other}`"), other, &["env"]),
            None => {}
        }
        let Some(prefix) = prefix else { continue };
        let sound = prefix.starts_with(|c: char| c.is_ascii_lowercase())
            && prefix.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-');
        if !sound || prefix == "env" {
            f.report.mismatch(
                f.place_of("prefix"),
                "`prefix` of a vault",
                "lower-case letters, digits and `-`; not `env`",
            );
        }
        if let Some(first) = places.insert(prefix.clone(), f.place()) {
            duplicate(root.report, f.place(), "vaults", ("prefix", &prefix), Some(first));
        }
    }
}

/// SHA-256 of a PEM certificate's content, as Kong's `cert_digest`.
#[must_use]
pub fn cert_digest(pem: &str) -> Option<String> {
    let der = CertificateDer::pem_slice_iter(pem.as_bytes()).next()?.ok()?;
    Some(digest(&der).iter().map(|b| format!("{b:02x}")).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::document::Report;
    use crate::document::tree::parse;

    #[test]
    fn faults_of_keys_and_vaults_are_told() {
        let text = "keys:\n- {id: 3b0a7c9e-0000-4000-8000-000000000001, kid: a, jwk: '{}'}\n\
                    - {id: 3b0a7c9e-0000-4000-8000-000000000002, kid: b, set: none, pem: {public_key: x}}\n\
                    vaults:\n- {id: 3b0a7c9e-0000-4000-8000-000000000003, name: aws, prefix: x}\n\
                    - {id: 3b0a7c9e-0000-4000-8000-000000000004, name: env, prefix: X}\n";
        let tree = parse(text).expect("parses");
        let report = Report::new("k.yml", false);
        {
            let f = Fields::of(&tree, "the file", &report).expect("map");
            assert_eq!(read(&f).keys.len(), 2);
        }
        let told = report.to_string();
        for words in ["no JSON Web Key", "no such entry in 'key_sets'", "enterprise", "`prefix` of a vault"] {
            assert!(told.contains(words), "{words}: {told}");
        }
    }
}
