//! Tags, lengths and values of X.690, as far as certificates (DER) and messages of LDAP (BER) need them: tags of one byte,
//! definite lengths. Must not know what the values mean.

/// BOOLEAN.
pub const BOOLEAN: u8 = 0x01;
/// INTEGER.
pub const INTEGER: u8 = 0x02;
/// OCTET STRING.
pub const OCTETS: u8 = 0x04;
/// OBJECT IDENTIFIER.
pub const OID: u8 = 0x06;
/// ENUMERATED.
pub const ENUMERATED: u8 = 0x0a;
/// SEQUENCE.
pub const SEQUENCE: u8 = 0x30;
/// SET.
pub const SET: u8 = 0x31;

/// The bytes that a length takes at most, besides the first; beyond it nothing is read.
const LENGTH_BYTES_MAX: usize = 4;

/// Elements, one after the other.
#[derive(Clone, Copy, Debug)]
pub struct Elements<'a>(&'a [u8]);

/// One element.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Element<'a> {
    /// The first byte.
    pub tag: u8,
    /// What is in it.
    pub content: &'a [u8],
}

impl<'a> Elements<'a> {
    /// The elements that `bytes` are.
    #[must_use]
    pub fn of(bytes: &'a [u8]) -> Self {
        Elements(bytes)
    }

    /// The content of the next element, which must have this tag.
    pub fn read(&mut self, tag: u8) -> Option<&'a [u8]> {
        let ahead = self.clone().next().filter(|element| element.tag == tag)?;
        self.next();
        Some(ahead.content)
    }

    /// The elements within the next one, which must have this tag.
    pub fn enter(&mut self, tag: u8) -> Option<Elements<'a>> {
        self.read(tag).map(Elements)
    }

    /// What was not read yet.
    #[must_use]
    pub fn rest(&self) -> &'a [u8] {
        self.0
    }
}

impl<'a> Iterator for Elements<'a> {
    type Item = Element<'a>;

    /// The next element; nothing at the end, or where what follows is none.
    fn next(&mut self) -> Option<Element<'a>> {
        let (tag, rest) = self.0.split_first()?;
        // Numbers above 30 take more bytes; nobody here has them.
        let (length, header) = (*tag & 0x1f != 0x1f).then(|| length(rest))??;
        let content = rest.get(header..header.checked_add(length)?)?;
        self.0 = &rest[header + length..];
        Some(Element { tag: *tag, content })
    }
}

/// A length and how many bytes it takes; nothing where there is none, or one that is not definite.
fn length(bytes: &[u8]) -> Option<(usize, usize)> {
    let first = *bytes.first()?;
    if first < 0x80 {
        return Some((usize::from(first), 1));
    }
    let count = usize::from(first & 0x7f);
    if count == 0 || count > LENGTH_BYTES_MAX {
        return None;
    }
    let digits = bytes.get(1..=count)?;
    Some((digits.iter().fold(0, |sum, digit| sum << 8 | usize::from(*digit)), 1 + count))
}

/// How many bytes the element takes that `bytes` begin with; nothing while that cannot be told.
///
/// # Errors
/// What begins is no element that this reads.
pub fn size(bytes: &[u8]) -> Result<Option<usize>, &'static str> {
    let Some((tag, rest)) = bytes.split_first() else { return Ok(None) };
    if tag & 0x1f == 0x1f {
        return Err("a tag of several bytes");
    }
    match (length(rest), rest.first()) {
        (Some((length, header)), _) => Ok(Some(1 + header + length)),
        (None, Some(0x80)) => Err("an indefinite length"),
        (None, Some(first)) if usize::from(first & 0x7f) > LENGTH_BYTES_MAX => Err("a length of many bytes"),
        (None, _) => Ok(None),
    }
}

/// An element of these parts.
#[must_use]
pub fn element(tag: u8, parts: &[&[u8]]) -> Vec<u8> {
    let length: usize = parts.iter().map(|part| part.len()).sum();
    let mut out = Vec::with_capacity(length + 6);
    out.push(tag);
    match u8::try_from(length) {
        Ok(short) if short < 0x80 => out.push(short),
        _ => {
            let digits: Vec<u8> = length.to_be_bytes().into_iter().skip_while(|digit| *digit == 0).collect();
            // A length has eight bytes at most.
            out.push(0x80 | digits.len() as u8);
            out.extend_from_slice(&digits);
        }
    }
    parts.iter().for_each(|part| out.extend_from_slice(part));
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read() {
        for length in [0, 1, 0x7f, 0x80, 0xff, 0x100, 0x1_0000] {
            let content = vec![7; length];
            let written = element(OCTETS, &[&content]);
            assert_eq!(size(&written), Ok(Some(written.len())));
            assert!((0..written.len().min(6)).all(|end| match size(&written[..end]) {
                Ok(told) => told.is_none_or(|told| told == written.len()),
                Err(_) => false,
            }));
            let two = [written.clone(), element(INTEGER, &[&[1]])].concat();
            let mut elements = Elements::of(&two);
            assert_eq!(elements.read(INTEGER), None, "another tag is not taken");
            assert_eq!(elements.read(OCTETS), Some(content.as_slice()));
            assert_eq!(elements.next(), Some(Element { tag: INTEGER, content: &[1] }));
            assert_eq!(elements.next(), None);
            assert!(written.len() == 2 || Elements::of(&written[..written.len() - 1]).next().is_none());
        }
    }

    #[test]
    fn other_lengths_and_tags_are_nothing() {
        for bytes in [&[0x30, 0x80, 0, 0][..], &[0x30, 0x85, 1, 1, 1, 1, 1], &[0x3f, 0x81, 0x01, 0x00]] {
            assert_eq!(Elements::of(bytes).next(), None, "{bytes:02x?}");
            assert!(size(bytes).is_err(), "{bytes:02x?}");
        }
        assert_eq!(Elements::of(&[0x30, 0x84, 0xff, 0xff, 0xff, 0xff, 1]).next(), None, "longer than what is there");
    }
}
