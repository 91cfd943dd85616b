//! Whose requests share a counter. Must not count them.

use std::borrow::Cow;
use std::net::{IpAddr, Ipv6Addr};

use http::HeaderMap;
use http::header::{HeaderName, HeaderValue};

use crate::document::Fields;
use crate::identity::Identities;
use crate::proxy::exchange::Exchange;

/// What identifies a counter within a plugin's scope; all fall back to the client's address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum By {
    /// The consumer, or else the credential.
    Consumer,
    /// The credential.
    Credential,
    /// The client's address.
    Ip,
    /// The service of the route.
    Service,
    /// A request header's first value.
    Header(HeaderName),
    /// One exact path.
    Path(String),
    /// The route.
    Route,
    /// The consumer group that the plugin is configured for: its id.
    Group(String),
}

impl By {
    /// The identifier of a request, unless it is the client's address.
    pub fn known<'a>(&'a self, exchange: &'a Exchange, identities: &'a Identities) -> Option<&'a [u8]> {
        let credential = || exchange.credential().map(|c| c.as_bytes());
        match self {
            By::Ip => None,
            By::Consumer => match exchange.consumer().and_then(|c| identities.consumer(c)) {
                Some(consumer) => Some(consumer.id.as_bytes()),
                None => credential(),
            },
            By::Credential => credential(),
            By::Service => exchange.route.as_ref()?.service.as_ref().map(|s| s.id.as_bytes()),
            By::Header(name) => first(&exchange.request.headers, name),
            By::Path(path) => (exchange.path == *path).then_some(path.as_bytes()),
            By::Route => exchange.route.as_ref().map(|route| route.id.as_bytes()),
            By::Group(id) => Some(id.as_bytes()),
        }
    }
}

/// A rule for identifiers.
#[derive(Clone, Debug)]
pub struct Who {
    /// What is looked at.
    pub by: By,
    /// Leading bits of an IPv6 address that count; 128 is the whole address.
    pub ipv6_prefix: u8,
}

#[derive(Clone, Copy)]
enum Word {
    Consumer,
    Credential,
    Ip,
    Service,
    Header,
    Path,
}

const WORDS: [(&str, Word); 6] = [
    ("consumer", Word::Consumer),
    ("credential", Word::Credential),
    ("ip", Word::Ip),
    ("service", Word::Service),
    ("header", Word::Header),
    ("path", Word::Path),
];

impl Who {
    /// Reads the choice from `name` with the fields that some choices need, and the own key `ipv6_prefix`. The first
    /// `choices` of consumer, credential, ip, service, header, path are known.
    pub fn read(fields: &Fields<'_>, name: &'static str, choices: usize) -> Option<Who> {
        let all = choices == WORDS.len();
        let header = all.then(|| fields.string("header_name").and_then(|name| header_name(fields, name))).flatten();
        let path = all.then(|| path(fields)).flatten();
        let prefix = fields.integer("ipv6_prefix", 1..=128);
        let given = fields.node(name).is_some();
        let by = match fields.choice(name, &WORDS[..choices]) {
            None if given => return None,
            None | Some(Word::Consumer) => By::Consumer,
            Some(Word::Credential) => By::Credential,
            Some(Word::Ip) => By::Ip,
            Some(Word::Service) => By::Service,
            Some(Word::Header) => {
                fields.require("header_name");
                By::Header(header?)
            }
            Some(Word::Path) => {
                fields.require("path");
                By::Path(path?)
            }
        };
        Some(Who { by, ipv6_prefix: prefix.map_or(128, |bits| bits as u8) })
    }

    /// The identifier of a request, as Kong writes it in its keys.
    pub fn identifier<'a>(&'a self, exchange: &'a Exchange, identities: &'a Identities) -> Cow<'a, [u8]> {
        match self.known(exchange, identities) {
            Some(known) => Cow::Borrowed(known),
            None => Cow::Owned(self.address(exchange.client.ip).to_string().into_bytes()),
        }
    }

    /// The identifier, unless it is the client's address.
    pub fn known<'a>(&'a self, exchange: &'a Exchange, identities: &'a Identities) -> Option<&'a [u8]> {
        self.by.known(exchange, identities)
    }

    /// The address that counts for a client.
    #[must_use]
    pub fn address(&self, ip: IpAddr) -> IpAddr {
        address(ip, self.ipv6_prefix)
    }
}

/// The address that counts for a client, of which so many leading bits count if it is IPv6.
pub(super) fn address(ip: IpAddr, ipv6_prefix: u8) -> IpAddr {
    match ip.to_canonical() {
        IpAddr::V6(v6) if ipv6_prefix < 128 => {
            let mask = !(u128::MAX >> ipv6_prefix);
            Ipv6Addr::from_bits(v6.to_bits() & mask).into()
        }
        other => other,
    }
}

fn first<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Option<&'a [u8]> {
    headers.get(name).map(HeaderValue::as_bytes)
}

pub(super) fn header_name(fields: &Fields<'_>, name: String) -> Option<HeaderName> {
    let parsed = HeaderName::try_from(&name).ok();
    if parsed.is_none() {
        fields.report.mismatch(fields.place_of("header_name"), format!("`{name}` is no header name"), "a header name");
    }
    parsed
}

pub(super) fn path(fields: &Fields<'_>) -> Option<String> {
    fields.string("path").filter(|path| {
        let sound = path.starts_with('/');
        if !sound {
            fields.report.mismatch(fields.place_of("path"), "`path` does not begin with `/`", "a path");
        }
        sound
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_ipv6_prefix_makes_neighbours_one() {
        let address = |prefix, ip: &str| Who { by: By::Ip, ipv6_prefix: prefix }.address(ip.parse().expect("address"));
        assert_eq!(address(64, "2001:db8::1"), address(64, "2001:db8::ffff:1"));
        assert_ne!(address(64, "2001:db8::1"), address(64, "2001:db8:0:1::1"));
        assert_ne!(address(128, "2001:db8::1"), address(128, "2001:db8::2"));
        assert_ne!(address(1, "192.0.2.1"), address(1, "192.0.2.2"), "IPv4 is whole");
        assert_eq!(address(64, "::ffff:192.0.2.1"), address(64, "192.0.2.1"));
    }
}
