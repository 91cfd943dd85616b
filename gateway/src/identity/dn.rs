//! Distinguished names: as the text of RFC 4514, from a certificate's DER; and values escaped so that they stay values.

use std::fmt::Write as _;

use crate::ber::{self, Elements};

/// OIDs of attribute types and the words for them (RFC 4514 §3, and those that OpenSSL knows besides).
const TYPES: &[(&[u8], &str)] = &[
    (&[0x55, 4, 3], "CN"),
    (&[0x55, 4, 4], "SN"),
    (&[0x55, 4, 5], "serialNumber"),
    (&[0x55, 4, 6], "C"),
    (&[0x55, 4, 7], "L"),
    (&[0x55, 4, 8], "ST"),
    (&[0x55, 4, 9], "STREET"),
    (&[0x55, 4, 10], "O"),
    (&[0x55, 4, 11], "OU"),
    (&[0x55, 4, 12], "title"),
    (&[0x55, 4, 42], "GN"),
    (&[0x09, 0x92, 0x26, 0x89, 0x93, 0xf2, 0x2c, 0x64, 1, 1], "UID"),
    (&[0x09, 0x92, 0x26, 0x89, 0x93, 0xf2, 0x2c, 0x64, 1, 25], "DC"),
    (&[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 9, 1], "emailAddress"),
];

/// The OID of `CN`.
const COMMON_NAME: &[u8] = &[0x55, 4, 3];

/// A value as it may stand in a distinguished name (RFC 4514 §2.4): nothing in it ends it or begins another one.
#[must_use]
pub fn escaped(value: &str) -> String {
    let mut out = String::with_capacity(value.len() + 8);
    let last = value.chars().count().saturating_sub(1);
    for (at, letter) in value.chars().enumerate() {
        match letter {
            '"' | '+' | ',' | ';' | '<' | '>' | '\\' | '=' => out.extend(['\\', letter]),
            '#' if at == 0 => out.push_str("\\#"),
            ' ' if at == 0 || at == last => out.push_str("\\ "),
            letter if letter.is_control() => {
                let mut bytes = [0; 4];
                for byte in letter.encode_utf8(&mut bytes).bytes() {
                    // Writing to a string does not fail.
                    let _ = write!(out, "\\{byte:02x}");
                }
            }
            letter => out.push(letter),
        }
    }
    out
}

/// The text of a name (RFC 4514 §2.1: the last part comes first) from the content of its SEQUENCE, and its first `CN`.
/// Nothing when it is no name.
#[must_use]
pub fn read(name: &[u8]) -> Option<(String, Option<String>)> {
    let mut parts = Vec::new();
    let mut common_name = None;
    let mut sets = Elements::of(name);
    while let Some(mut set) = sets.enter(ber::SET) {
        let mut values = Vec::new();
        while let Some(mut pair) = set.enter(ber::SEQUENCE) {
            let kind = pair.read(ber::OID)?;
            let value = pair.next()?;
            let text = text(value.tag, value.content);
            if kind == COMMON_NAME && common_name.is_none() {
                common_name.clone_from(&text);
            }
            values.push(pair_text(kind, text.as_deref(), value));
        }
        set.rest().is_empty().then(|| parts.push(values.join("+")))?;
    }
    parts.reverse();
    sets.rest().is_empty().then(|| (parts.join(","), common_name))
}

fn pair_text(kind: &[u8], text: Option<&str>, value: ber::Element<'_>) -> String {
    let word = TYPES.iter().find(|(oid, _)| *oid == kind).map(|(_, word)| *word);
    match (word, text) {
        (Some(word), Some(text)) => format!("{word}={}", escaped(text)),
        (word, _) => {
            let dotted = word.map_or_else(|| dotted(kind), str::to_owned);
            let der = ber::element(value.tag, &[value.content]);
            format!("{dotted}=#{}", der.iter().map(|byte| format!("{byte:02x}")).collect::<String>())
        }
    }
}

/// The characters of a DirectoryString or IA5String; nothing for what is none.
fn text(tag: u8, content: &[u8]) -> Option<String> {
    match tag {
        // UTF8String, PrintableString, IA5String, and NumericString.
        0x0c | 0x13 | 0x16 | 0x12 => str::from_utf8(content).ok().map(str::to_owned),
        // TeletexString, which in certificates is Latin-1.
        0x14 => Some(content.iter().map(|byte| char::from(*byte)).collect()),
        // BMPString.
        0x1e => {
            let units: Vec<u16> = content.chunks_exact(2).map(|unit| u16::from_be_bytes([unit[0], unit[1]])).collect();
            content.len().is_multiple_of(2).then(|| String::from_utf16(&units).ok())?
        }
        _ => None,
    }
}

fn dotted(oid: &[u8]) -> String {
    let mut numbers: Vec<u64> = Vec::new();
    let mut number = 0_u64;
    for byte in oid {
        number = number << 7 | u64::from(byte & 0x7f);
        if byte & 0x80 == 0 {
            numbers.push(number);
            number = 0;
        }
    }
    let first = numbers.first().copied().unwrap_or_default();
    let top = (first / 40).min(2);
    let all = [top, first - 40 * top].into_iter().chain(numbers.into_iter().skip(1));
    all.map(|number| number.to_string()).collect::<Vec<_>>().join(".")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_stays_a_value() {
        for (value, expected) in [
            ("ann", "ann"),
            ("a,ou=x", "a\\,ou\\=x"),
            ("#a#", "\\#a#"),
            ("  a b ", "\\  a b\\ "),
            (" ", "\\ "),
            ("a\0b", "a\\00b"),
            ("a\u{85}\n", "a\\c2\\85\\0a"),
            ("\\+\"<>;", "\\\\\\+\\\"\\<\\>\\;"),
            ("é", "é"),
        ] {
            assert_eq!(escaped(value), expected);
        }
    }

    fn part(oid: &[u8], tag: u8, value: &[u8]) -> Vec<u8> {
        let pair = ber::element(ber::SEQUENCE, &[&ber::element(ber::OID, &[oid]), &ber::element(tag, &[value])]);
        ber::element(ber::SET, &[&pair])
    }

    #[test]
    fn a_name_is_its_text() {
        let name = [
            part(&[0x55, 4, 6], 0x13, b"DE"),
            part(&[0x55, 4, 10], 0x0c, "Müller, KG".as_bytes()),
            part(COMMON_NAME, 0x14, b"f\xfcnf"),
            part(COMMON_NAME, 0x1e, b"\0a\0b"),
            part(&[0x2a, 3, 4], 0x0c, b"x"),
        ]
        .concat();
        let (text, common_name) = read(&name).expect("a name");
        assert_eq!(text, "1.2.3.4=#0c0178,CN=ab,CN=fünf,O=Müller\\, KG,C=DE");
        assert_eq!(common_name.as_deref(), Some("fünf"));
        assert_eq!(read(&[]), Some((String::new(), None)));
        assert_eq!(read(&name[..name.len() - 1]), None);
    }
}
