//! What a certificate says of its subject, and when it holds (RFC 5280 §4.1.2.5, §4.1.2.6, §4.2.1.6). Reads only: whether it
//! is to be believed is for others.

use std::net::IpAddr;

use crate::ber::{self, Elements};
use crate::identity::dn;

/// Tags of a certificate's parts that are numbered.
const EXTENSIONS: u8 = 0xa3;
const VERSION: u8 = 0xa0;

/// id-ce-subjectAltName.
const SUBJECT_ALT_NAME: &[u8] = &[0x55, 0x1d, 0x11];
/// id-ce-basicConstraints.
const BASIC_CONSTRAINTS: &[u8] = &[0x55, 0x1d, 0x13];

/// The most alternative names that are looked at.
const NAMES_MAX: usize = 256;

/// A subject.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Names {
    /// The distinguished name (RFC 4514).
    pub subject: String,
    /// The same as it stands in the certificate.
    pub subject_der: Vec<u8>,
    /// The issuer's, as it stands there.
    pub issuer_der: Vec<u8>,
    /// The first common name.
    pub common_name: Option<String>,
    /// Alternative names that are text: host names, mail addresses, URIs; and IP addresses.
    pub alternatives: Vec<String>,
    /// Whether it is one of an authority.
    pub is_authority: bool,
    /// Seconds since 1970 of `notBefore` and `notAfter`; both are included.
    pub valid_s: (u64, u64),
}

impl Names {
    /// Reads a certificate; nothing when it is none.
    #[must_use]
    pub fn of(der: &[u8]) -> Option<Self> {
        let mut body = Elements::of(der).enter(ber::SEQUENCE)?.enter(ber::SEQUENCE)?;
        let _ = body.read(VERSION);
        body.read(ber::INTEGER)?;
        body.read(ber::SEQUENCE)?;
        let issuer = body.read(ber::SEQUENCE)?;
        let mut validity = body.enter(ber::SEQUENCE)?;
        let valid_s = (time(validity.next()?)?, time(validity.next()?)?);
        let subject_der = body.read(ber::SEQUENCE)?;
        let (subject, common_name) = dn::read(subject_der)?;
        let extensions = body.find(|part| part.tag == EXTENSIONS);
        let (alternatives, is_authority) = match extensions {
            Some(extensions) => read_extensions(extensions.content)?,
            None => Default::default(),
        };
        Some(Names {
            subject,
            subject_der: subject_der.to_vec(),
            issuer_der: issuer.to_vec(),
            common_name: common_name.filter(|name| !name.is_empty()),
            alternatives,
            is_authority,
            valid_s,
        })
    }

    /// The names by which a consumer may be meant, in the order in which they count: alternative ones, then the common name.
    pub fn all(&self) -> impl Iterator<Item = &str> {
        self.alternatives.iter().chain(&self.common_name).map(String::as_str)
    }

    /// Whether it holds at this time, seconds since 1970.
    #[must_use]
    pub fn holds_at(&self, now_s: u64) -> bool {
        (self.valid_s.0..=self.valid_s.1).contains(&now_s)
    }
}

/// Alternative names, and whether it is an authority's.
fn read_extensions(extensions: &[u8]) -> Option<(Vec<String>, bool)> {
    let mut list = Elements::of(extensions).enter(ber::SEQUENCE)?;
    let (mut alternatives, mut is_authority) = (Vec::new(), false);
    while let Some(mut extension) = list.enter(ber::SEQUENCE) {
        let kind = extension.read(ber::OID)?;
        let value = extension.find(|part| part.tag == ber::OCTETS)?.content;
        let mut inside = Elements::of(value);
        if kind == SUBJECT_ALT_NAME {
            let names = inside.enter(ber::SEQUENCE)?;
            let names = names.take(NAMES_MAX);
            alternatives = names.filter_map(|name| name_of(name.tag, name.content)).collect();
        } else if kind == BASIC_CONSTRAINTS {
            is_authority = inside.enter(ber::SEQUENCE)?.read(ber::BOOLEAN) == Some(&[0xff]);
        }
    }
    Some((alternatives, is_authority))
}

/// A GeneralName that is text (rfc822Name, dNSName, uniformResourceIdentifier) or an address.
fn name_of(tag: u8, content: &[u8]) -> Option<String> {
    match tag {
        0x81 | 0x82 | 0x86 => str::from_utf8(content).ok().filter(|name| !name.is_empty()).map(str::to_owned),
        0x87 => {
            let v4 = <[u8; 4]>::try_from(content).map(IpAddr::from);
            let v6 = <[u8; 16]>::try_from(content).map(IpAddr::from);
            v4.or(v6).ok().map(|address| address.to_string())
        }
        _ => None,
    }
}

/// UTCTime or GeneralizedTime (RFC 5280 §4.1.2.5), in seconds since 1970; before that it is 0.
fn time(value: ber::Element<'_>) -> Option<u64> {
    let text = str::from_utf8(value.content).ok()?.strip_suffix('Z')?;
    if !text.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let (year, rest) = match (value.tag, text.len()) {
        (0x17, 12) => {
            let year: u64 = text[..2].parse().ok()?;
            (if year < 50 { 2000 + year } else { 1900 + year }, &text[2..])
        }
        (0x18, 14) => (text[..4].parse().ok()?, &text[4..]),
        _ => return None,
    };
    let number = |at: usize| rest[at..at + 2].parse::<u64>().ok();
    let (month, day) = (number(0)?, number(2)?);
    if !(1..=12).contains(&month) || !(1..=31).contains(&day) {
        return None;
    }
    let seconds = number(4)? * 3600 + number(6)? * 60 + number(8)?;
    let days = days_before(year, month)? + day - 1;
    Some(days * 86_400 + seconds)
}

/// Days from 1970 to the first of a month; nothing before 1970.
fn days_before(year: u64, month: u64) -> Option<u64> {
    const BEFORE: [u64; 12] = [0, 31, 59, 90, 120, 151, 181, 212, 243, 273, 304, 334];
    let leap = |year: u64| year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400));
    let leaps = |year: u64| (year - 1) / 4 - (year - 1) / 100 + (year - 1) / 400;
    let years = year.checked_sub(1970)?;
    let in_year = BEFORE[(month - 1) as usize] + u64::from(month > 2 && leap(year));
    Some(years * 365 + leaps(year) - leaps(1970) + in_year)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_seconds() {
        let at = |tag, text: &str| time(ber::Element { tag, content: text.as_bytes() });
        assert_eq!(at(0x17, "700101000000Z"), Some(0));
        assert_eq!(at(0x17, "231114221320Z"), Some(1_700_000_000));
        assert_eq!(at(0x18, "20231114221320Z"), Some(1_700_000_000));
        assert_eq!(at(0x18, "20240229000000Z"), Some(1_709_164_800));
        assert_eq!(at(0x18, "21000301000000Z"), Some(4_107_542_400));
        assert_eq!(at(0x18, "99991231235959Z"), Some(253_402_300_799));
        for (tag, text) in [(0x17, "7001010000Z"), (0x17, "701301000000Z"), (0x18, "2023111422132+Z"), (0x16, "x")] {
            assert_eq!(at(tag, text), None, "{text}");
        }
    }

    #[test]
    fn a_certificate_is_read() {
        use rcgen::{CertificateParams, DnType, KeyPair, SanType};
        let mut params = CertificateParams::new(vec!["a.test".to_owned()]).expect("a name");
        params.distinguished_name.push(DnType::CommonName, "ann");
        params.distinguished_name.push(DnType::OrganizationName, "Acme");
        params.subject_alt_names.push(SanType::Rfc822Name("ann@a.test".try_into().expect("ASCII")));
        params.subject_alt_names.push(SanType::URI("spiffe://a.test/ann".try_into().expect("ASCII")));
        params.subject_alt_names.push(SanType::IpAddress(IpAddr::from([192, 0, 2, 1])));
        let key = KeyPair::generate().expect("a key");
        let certificate = params.self_signed(&key).expect("a certificate");
        let names = Names::of(certificate.der()).expect("is read");
        assert_eq!(names.common_name.as_deref(), Some("ann"));
        assert!(names.subject == "O=Acme,CN=ann" || names.subject == "CN=ann,O=Acme", "{}", names.subject);
        assert_eq!(
            names.all().collect::<Vec<_>>(),
            ["a.test", "ann@a.test", "spiffe://a.test/ann", "192.0.2.1", "ann"]
        );
        assert_eq!(names.subject_der, names.issuer_der);
        assert!(names.holds_at(1_700_000_000));
        let der = certificate.der();
        for end in 0..der.len() {
            assert_eq!(Names::of(&der[..end]), None);
        }
    }
}
