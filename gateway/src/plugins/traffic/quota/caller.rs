//! Whose requests share a counter, where several things may be taken together (Kong's `identifier`, `compound_identifier`).
//! Must not count them.

use std::hash::{Hash, Hasher};

use smallvec::SmallVec;

use super::by::{self, By};
use crate::document::{Fields, Place};
use crate::identity::Identities;
use crate::proxy::exchange::Exchange;

/// Between the parts of an identifier: a byte that no header's value, id or address has.
const SEPARATOR: u8 = 0x1f;

/// What identifies a caller: each part falls back to the client's address.
pub struct Caller {
    parts: SmallVec<[By; 1]>,
    ipv6_prefix: u8,
}

#[derive(Clone, Copy)]
enum Word {
    Consumer,
    Credential,
    Ip,
    Service,
    Route,
    Header,
    Path,
    Group,
}

const WORDS: [(&str, Word); 8] = [
    ("consumer", Word::Consumer),
    ("credential", Word::Credential),
    ("ip", Word::Ip),
    ("service", Word::Service),
    ("route", Word::Route),
    ("header", Word::Header),
    ("path", Word::Path),
    ("consumer-group", Word::Group),
];

impl Caller {
    /// Reads it from the field `one`, or the list `several` if that is given, with the fields that some choices need; `group`
    /// is the consumer group that the plugin is configured for, or empty.
    pub fn read(fields: &Fields<'_>, one: &'static str, several: &'static str, group: &str) -> Option<Caller> {
        let header = fields.string("header_name").and_then(|name| by::header_name(fields, name));
        let path = by::path(fields);
        let ipv6_prefix = fields.integer("ipv6_prefix", 1..=128).map_or(128, |bits| bits as u8);
        let chosen = fields.choice(one, &WORDS);
        let wrong = chosen.is_none() && fields.node(one).is_some();
        let mut words: SmallVec<[(Place, Word); 1]> =
            SmallVec::from_iter([(fields.place_of(one), chosen.unwrap_or(Word::Consumer))]);
        let names: Vec<&str> = WORDS.iter().map(|(name, _)| *name).collect();
        let mut sound = !wrong;
        if let Some(list) = fields.strings(several).filter(|list| !list.is_empty()) {
            words.clear();
            for (place, name) in list {
                match WORDS.iter().find(|(known, _)| *known == name) {
                    Some((_, word)) => words.push((place, *word)),
                    None => {
                        fields.report.unknown(place, format!("`{several}` has `{name}`"), &name, &names);
                        sound = false;
                    }
                }
            }
        }
        let mut parts = SmallVec::new();
        for (place, word) in words {
            parts.push(match word {
                Word::Consumer => By::Consumer,
                Word::Credential => By::Credential,
                Word::Ip => By::Ip,
                Word::Service => By::Service,
                Word::Route => By::Route,
                Word::Header => {
                    fields.require("header_name");
                    By::Header(header.clone()?)
                }
                Word::Path => {
                    fields.require("path");
                    By::Path(path.clone()?)
                }
                Word::Group if group.is_empty() => {
                    let message = "`consumer-group` counts the requests of a group, and the plugin is of none";
                    fields.report.mismatch(place, message, "the plugin in a consumer group");
                    return None;
                }
                Word::Group => By::Group(group.to_owned()),
            });
        }
        sound.then_some(Caller { parts, ipv6_prefix })
    }

    /// Whether each recognised caller is counted alone.
    #[must_use]
    pub fn is_recognised(&self) -> bool {
        self.parts.iter().any(|by| matches!(by, By::Consumer | By::Credential))
    }

    /// Takes the identifier of a request into a hash.
    pub fn hash(&self, exchange: &Exchange, identities: &Identities, hasher: &mut impl Hasher) {
        for by in &self.parts {
            match by.known(exchange, identities) {
                Some(known) => known.hash(hasher),
                None => by::address(exchange.client.ip, self.ipv6_prefix).hash(hasher),
            }
        }
    }

    /// Appends the identifier of a request as text.
    pub fn write(&self, exchange: &Exchange, identities: &Identities, out: &mut Vec<u8>) {
        for (at, by) in self.parts.iter().enumerate() {
            if at > 0 {
                out.push(SEPARATOR);
            }
            match by.known(exchange, identities) {
                Some(known) => out.extend_from_slice(known),
                None => {
                    out.extend_from_slice(by::address(exchange.client.ip, self.ipv6_prefix).to_string().as_bytes());
                }
            }
        }
    }
}
