//! Kong's `consumers` and their credentials.

use std::collections::HashMap;
use std::sync::Arc;

use http::HeaderValue;

use super::compile::{duplicate, reference};
use super::{consumer_groups, ids};
use crate::document::{Fields, Node, Place, Report, Value};
use crate::identity::certificate::{Authority, CertificateCredential, Shown};
use crate::identity::verifier::verifier;
use crate::identity::{
    ApiKey, BasicCredential, Consumer, ConsumerIndex, GroupIndex, HmacCredential, Identities, JwtAlgorithm, JwtSecret,
    password_digest,
};

/// Identities, and the plugins that were nested in consumers.
#[derive(Default)]
pub struct Read<'a> {
    /// Consumers and credentials.
    pub identities: Identities,
    /// Nested plugins with their consumer.
    pub plugins: Vec<(&'a Node, ConsumerIndex)>,
    /// Plugins that were nested in consumer groups.
    pub group_plugins: Vec<(&'a Node, GroupIndex)>,
}

/// Credentials of plugins that are not built yet; each names its plugin.
const NOT_BUILT: &[&str] = &["oauth2_credentials"];

/// Credentials that are read.
const BUILT: [&str; 7] = [
    "jwt_secrets",
    "keyauth_credentials",
    "basicauth_credentials",
    "hmacauth_credentials",
    "mtls_auth_credentials",
    "header_cert_auth_credentials",
    "acls",
];

/// Reads the consumers with all that is nested, then the top-level credentials.
pub fn read<'a>(root: &Fields<'a>, authorities: HashMap<String, Arc<Authority>>) -> Read<'a> {
    let report = root.report;
    // `_transform: false` says that secrets stand in the file in the form in which they are stored.
    let stored = root.node("_transform").is_some_and(|node| matches!(node.value, Value::Bool(false)));
    let mut read = Read::default();
    read.identities.authorities = authorities;
    let mut members = consumer_groups::read(root, &mut read.identities);
    read.group_plugins = std::mem::take(&mut members.plugins);
    let mut own_groups: Vec<(&Node, ConsumerIndex)> = Vec::new();
    let mut groups: HashMap<ConsumerIndex, Vec<String>> = HashMap::new();
    let mut custom_ids: HashMap<String, Place> = HashMap::new();
    let mut places: Vec<Place> = Vec::new();
    let mut nested: Vec<(&'a str, &'a Node, Option<ConsumerIndex>)> = Vec::new();
    for node in root.list("consumers").unwrap_or_default() {
        let Some(f) = Fields::of(node, "consumer", report) else { continue };
        let Some(consumer) = read_consumer(&f) else { continue };
        if let Some(name) = &consumer.username
            && let Some(first) = read.identities.consumer_named(name)
        {
            duplicate(report, f.place(), "consumers", ("username", name), places.get(first as usize).copied());
        } else if let Some(first) = read.identities.consumer_named(&consumer.id) {
            duplicate(report, f.place(), "consumers", ("id", &consumer.id), places.get(first as usize).copied());
        }
        if let Some(custom) = &consumer.custom_id
            && let Some(first) = custom_ids.insert(custom.clone(), f.place())
        {
            duplicate(report, f.place(), "consumers", ("custom_id", custom), Some(first));
        }
        places.push(f.place());
        let index = read.identities.add_consumer(consumer);
        for kind in BUILT.into_iter().chain(NOT_BUILT.iter().copied()) {
            nested.extend(f.list(kind).unwrap_or_default().iter().map(|n| (kind, n, Some(index))));
        }
        read.plugins.extend(f.list("plugins").unwrap_or_default().iter().map(|n| (n, index)));
        own_groups.extend(f.list("groups").unwrap_or_default().iter().map(|n| (n, index)));
    }
    consumer_groups::join(root, members, own_groups, &mut read.identities);
    for kind in BUILT.into_iter().chain(NOT_BUILT.iter().copied()) {
        nested.extend(root.list(kind).unwrap_or_default().iter().map(|n| (kind, n, None)));
    }
    for (kind, node, owner) in nested {
        credential(kind, node, owner, report, &mut read.identities, &mut groups, stored);
    }
    for (index, names) in groups {
        let header = HeaderValue::from_str(&names.join(", ")).ok();
        if let Some(consumer) = read.identities.consumers.get_mut(index as usize) {
            consumer.groups = names;
            consumer.groups_header = header;
        }
    }
    read
}

fn read_consumer(f: &Fields<'_>) -> Option<Consumer> {
    let username = f.string("username");
    let custom_id = f.string("custom_id");
    let id = ids::of_entity(f, "consumers", username.as_deref()).to_string();
    if username.is_none() && custom_id.is_none() {
        f.report.mismatch(f.place(), "consumer has no name", "`username`, `custom_id` or both");
        return None;
    }
    let header = |text: &Option<String>| text.as_ref().and_then(|t| HeaderValue::from_bytes(t.as_bytes()).ok());
    Some(Consumer {
        id_header: HeaderValue::from_str(&id).ok()?,
        username_header: header(&username),
        custom_id_header: header(&custom_id),
        groups_header: None,
        id,
        username,
        custom_id,
        groups: Vec::new(),
        member_of: Vec::new(),
        member_of_header: None,
    })
}

/// Reads one credential; at top level its consumer is a reference, nested it must not be named again.
fn credential(
    kind: &str,
    node: &Node,
    owner: Option<ConsumerIndex>,
    report: &Report,
    identities: &mut Identities,
    groups: &mut HashMap<ConsumerIndex, Vec<String>>,
    stored: bool,
) {
    if NOT_BUILT.contains(&kind) {
        report.unsupported(node.place, format!("`{kind}`"), None);
        return;
    }
    let Some(f) = Fields::of(node, kind, report) else { return };
    // Known whatever becomes of the owner: the rest of a credential without one is not judged.
    known_of(kind).iter().for_each(|key| f.skip(key));
    ids::skip_common(&f);
    let given = f.node("consumer");
    let index = match (owner, given) {
        (Some(_), Some(_)) => {
            report.mismatch(f.place_of("consumer"), "`consumer` inside of a consumer", "value must be null");
            return;
        }
        (Some(index), None) => index,
        (None, given) => {
            let name = given.and_then(reference).unwrap_or_default();
            match identities.consumer_named(&name) {
                Some(index) => index,
                None => {
                    report.error(
                        f.place_of("consumer"),
                        format!("invalid reference 'consumer: {name}' (no such entry in 'consumers')"),
                    );
                    return;
                }
            }
        }
    };
    match kind {
        "acls" => acl(&f, index, groups),
        "keyauth_credentials" => api_key(&f, index, identities),
        "basicauth_credentials" => basic(&f, index, identities, stored),
        "hmacauth_credentials" => hmac(&f, index, identities),
        "mtls_auth_credentials" => certificate(&f, kind, Shown::InHandshake, index, identities),
        "header_cert_auth_credentials" => certificate(&f, kind, Shown::InHeader, index, identities),
        _ => jwt_secret(&f, index, identities),
    }
}

fn known_of(kind: &str) -> &'static [&'static str] {
    match kind {
        "acls" => &["group"],
        "keyauth_credentials" => &["key", "ttl"],
        "basicauth_credentials" => &["username", "password"],
        "hmacauth_credentials" => &["username", "secret"],
        "mtls_auth_credentials" | "header_cert_auth_credentials" => &["subject_name", "ca_certificate"],
        _ => &["key", "secret", "algorithm", "rsa_public_key"],
    }
}

fn acl(f: &Fields<'_>, index: ConsumerIndex, groups: &mut HashMap<ConsumerIndex, Vec<String>>) {
    ids::of_entity(f, "acls", None);
    let Some(group) = f.required_string("group") else { return };
    let names = groups.entry(index).or_default();
    if names.contains(&group) {
        duplicate(f.report, f.place(), "acls", ("group", &group), None);
    } else {
        names.push(group);
    }
}

fn api_key(f: &Fields<'_>, index: ConsumerIndex, identities: &mut Identities) {
    let key = f.string("key");
    let id = ids::of_entity(f, "keyauth_credentials", key.as_deref()).to_string();
    f.integer("ttl", 0..=100_000_000);
    let Some(key) = key else {
        f.report.warn(
            f.place(),
            "keyauth_credentials without `key`: Kong makes one up that nobody knows, so it opens nothing",
        );
        return;
    };
    if key.is_empty() || !identities.add_key(&key, ApiKey { id, consumer: index }) {
        f.report.error(
            f.place_of("key"),
            "uniqueness violation: 'keyauth_credentials' entity with this key already declared, or empty",
        );
    }
}

/// `stored`: the password is Kong's digest of it already.
fn basic(f: &Fields<'_>, index: ConsumerIndex, identities: &mut Identities, stored: bool) {
    let username = f.required_string("username");
    let id = ids::of_entity(f, "basicauth_credentials", username.as_deref()).to_string();
    let password = f.required_string("password");
    let (Some(username), Some(password)) = (username, password) else { return };
    let consumer = identities.consumer(index).map_or("", |consumer| consumer.id.as_str());
    let digest = if stored { sha1_of(&password) } else { Some(password_digest(&password, consumer)) };
    let Some(password) = digest else {
        f.report.mismatch(
            f.place_of("password"),
            "`password` with `_transform: false`",
            "40 hexadecimal digits: SHA-1 of the password and the consumer's id",
        );
        return;
    };
    if !identities.add_basic(&username, BasicCredential { id, consumer: index, password }) {
        duplicate(f.report, f.place_of("username"), "basicauth_credentials", ("username", &username), None);
    }
}

fn hmac(f: &Fields<'_>, index: ConsumerIndex, identities: &mut Identities) {
    let username = f.required_string("username");
    let id = ids::of_entity(f, "hmacauth_credentials", username.as_deref()).to_string();
    let secret = f.string("secret").filter(|secret| !secret.is_empty());
    let Some(username) = username else { return };
    let Some(secret) = secret else {
        let words = "hmacauth_credentials without `secret`: Kong makes one up that nobody knows, so it opens nothing";
        f.report.warn(f.place(), words);
        return;
    };
    let secret = secret.into_bytes().into_boxed_slice();
    if !identities.add_hmac(&username, HmacCredential { id, consumer: index, secret }) {
        duplicate(f.report, f.place_of("username"), "hmacauth_credentials", ("username", &username), None);
    }
}

fn certificate(f: &Fields<'_>, kind: &str, shown: Shown, consumer: ConsumerIndex, identities: &mut Identities) {
    let subject = f.required_string("subject_name");
    let id = ids::of_entity(f, kind, None).to_string();
    let given = f.node("ca_certificate").map(|node| (node.place, reference(node).unwrap_or_default()));
    let authority = match given {
        None => None,
        Some((place, name)) => {
            let id = uuid::Uuid::parse_str(&name).map_or(name, |id| id.to_string());
            if !identities.authorities.contains_key(&id) {
                let words = format!("invalid reference 'ca_certificate: {id}' (no such entry in 'ca_certificates')");
                return f.report.error(place, words);
            }
            Some(id)
        }
    };
    let Some(subject) = subject else { return };
    if !identities.add_certificate(shown, &subject, CertificateCredential { id, consumer, authority }) {
        duplicate(f.report, f.place_of("subject_name"), kind, ("subject_name", &subject), None);
    }
}

fn sha1_of(text: &str) -> Option<[u8; 20]> {
    let mut digest = [0; 20];
    let digits = text.len() == 40 && text.bytes().all(|b| b.is_ascii_hexdigit());
    for (i, byte) in digest.iter_mut().enumerate().filter(|_| digits) {
        *byte = u8::from_str_radix(&text[2 * i..2 * i + 2], 16).ok()?;
    }
    digits.then_some(digest)
}

fn jwt_secret(f: &Fields<'_>, index: ConsumerIndex, identities: &mut Identities) {
    let key = f.string("key");
    let id = ids::of_entity(f, "jwt_secrets", key.as_deref()).to_string();
    let algorithm = f.choice("algorithm", JwtAlgorithm::NAMES).unwrap_or(JwtAlgorithm::HS256);
    let secret = f.string("secret");
    let public_key = f.string("rsa_public_key");
    let Some(key) = key else {
        f.report.warn(f.place(), "jwt_secrets without `key`: Kong makes one up that nobody knows, so it opens nothing");
        return;
    };
    let shared = matches!(algorithm, JwtAlgorithm::HS256 | JwtAlgorithm::HS384 | JwtAlgorithm::HS512);
    if !shared && public_key.is_none() {
        f.report.mismatch(
            f.place(),
            format!("jwt_secrets with {} lacks `rsa_public_key`", algorithm.name()),
            "a PEM public key",
        );
        return;
    }
    if shared && secret.is_none() {
        f.report
            .warn(f.place(), "jwt_secrets without `secret`: Kong makes one up that nobody knows, so it opens nothing");
        return;
    }
    let credential = JwtSecret { id, consumer: index, key: key.clone(), algorithm, secret, public_key };
    if let Err(what) = verifier(&credential) {
        f.report.error(f.place(), format!("jwt_secrets: {what}"));
    } else if !identities.add_jwt(credential) {
        duplicate(f.report, f.place_of("key"), "jwt_secrets", ("key", &key), None);
    }
}
