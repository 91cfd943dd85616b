//! Bodies of `multipart/form-data` (RFC 7578): reading fields and editing them. Parts that no edit touches keep their bytes.
//! A body that is not read to its closing delimiter is left alone.

use std::borrow::Cow;

use http::header::{CONTENT_TYPE, HeaderMap};
use memchr::memmem;

use super::Edits;

/// Parts of a body at most; one with more is left alone.
const PARTS_MAX: usize = 1000;

/// One part: the name of its field, its head without the empty line, its content.
struct Part<'a> {
    name: Cow<'a, str>,
    head: Cow<'a, [u8]>,
    content: Cow<'a, [u8]>,
}

/// The boundary that a `multipart/form-data` message announces.
#[must_use]
pub fn boundary(headers: &HeaderMap) -> Option<&str> {
    let mut parameters = headers.get(CONTENT_TYPE)?.to_str().ok()?.split(';').map(str::trim);
    if !parameters.next()?.eq_ignore_ascii_case("multipart/form-data") {
        return None;
    }
    let named = parameters.filter_map(|parameter| parameter.split_once('='));
    let (_, value) = { named }.find(|(name, _)| name.eq_ignore_ascii_case("boundary"))?;
    let value = value.strip_prefix('"').map_or(value, |quoted| quoted.trim_end_matches('"'));
    // RFC 2046 §5.1.1.
    (1..=70).contains(&value.len()).then_some(value)
}

/// The contents of the fields named `name`; nothing when the body is broken.
#[must_use]
pub fn values<'a>(boundary: &str, body: &'a [u8], name: &str) -> Option<Vec<&'a [u8]>> {
    let parts = parse(boundary, body)?;
    let named = parts.into_iter().filter(|part| part.name == name);
    Some(
        named.filter_map(|part| if let Cow::Borrowed(content) = part.content { Some(content) } else { None }).collect(),
    )
}

/// The body without the fields named `name`; nothing when the body is broken.
#[must_use]
pub fn without(boundary: &str, body: &[u8], name: &str) -> Option<Vec<u8>> {
    let mut parts = parse(boundary, body)?;
    parts.retain(|part| part.name != name);
    Some(write(boundary, &parts))
}

/// The body with the edits made: renamed before removed, and nothing appended (Kong's rules for this type). Nothing when
/// the body is broken.
#[must_use]
pub fn edit(edits: &Edits<String, String>, boundary: &str, body: &[u8]) -> Option<Vec<u8>> {
    let mut parts = if body.is_empty() { Vec::new() } else { parse(boundary, body)? };
    for (old, new) in &edits.rename {
        parts.iter_mut().filter(|part| part.name == *old).for_each(|part| part.rename(new));
    }
    parts.retain(|part| !edits.remove.iter().any(|name| *name == part.name));
    for (name, value) in &edits.replace {
        for part in parts.iter_mut().filter(|part| part.name == *name) {
            part.content = Cow::Owned(value.as_bytes().to_vec());
        }
    }
    for (name, value) in &edits.add {
        if !parts.iter().any(|part| part.name == *name) {
            parts.push(Part::new(name, value));
        }
    }
    Some(write(boundary, &parts))
}

impl<'a> Part<'a> {
    fn new(name: &str, value: &str) -> Self {
        let mut part =
            Part { name: Cow::Borrowed(""), head: Cow::Borrowed(b""), content: Cow::Owned(value.as_bytes().to_vec()) };
        part.rename(name);
        part
    }

    /// Reads what stands between two delimiters, line ends included.
    fn read(text: &'a [u8]) -> Option<Self> {
        let text = text.strip_prefix(b"\r\n")?;
        let (head, content) = match memmem::find(text, b"\r\n\r\n") {
            Some(at) => (&text[..at], &text[at + 4..]),
            None => (&b""[..], text.strip_prefix(b"\r\n")?),
        };
        let shown = str::from_utf8(head).ok()?;
        let disposition = shown
            .split("\r\n")
            .find(|line| line.get(..20).is_some_and(|start| start.eq_ignore_ascii_case("content-disposition:")));
        let name = disposition.and_then(|line| line.split_once(" name=\"")).map(|(_, rest)| rest);
        let name = name.and_then(|rest| rest.split('"').next()).unwrap_or_default();
        Some(Part { name: Cow::Borrowed(name), head: Cow::Borrowed(head), content: Cow::Borrowed(content) })
    }

    /// A field of that name; what else the part's head said (a file name, a type) goes.
    fn rename(&mut self, name: &str) {
        // RFC 7578 §4.2 with the escapes of WHATWG's form encoding.
        let shown = name.replace('"', "%22").replace('\r', "%0D").replace('\n', "%0A");
        self.head = Cow::Owned(format!("Content-Disposition: form-data; name=\"{shown}\"").into_bytes());
        self.name = Cow::Owned(name.to_owned());
    }
}

fn parse<'a>(boundary: &str, body: &'a [u8]) -> Option<Vec<Part<'a>>> {
    let delimiter = format!("\r\n--{boundary}");
    let finder = memmem::Finder::new(delimiter.as_bytes());
    // The first delimiter may stand at the very beginning, without a line end before it.
    let first = &delimiter.as_bytes()[2..];
    let mut rest = match body.strip_prefix(first) {
        Some(rest) => rest,
        None => &body[finder.find(body)? + delimiter.len()..],
    };
    let mut parts = Vec::new();
    while !rest.starts_with(b"--") {
        let end = finder.find(rest)?;
        if parts.len() == PARTS_MAX {
            return None;
        }
        parts.push(Part::read(&rest[..end])?);
        rest = &rest[end + delimiter.len()..];
    }
    Some(parts)
}

fn write(boundary: &str, parts: &[Part<'_>]) -> Vec<u8> {
    let mut out = Vec::new();
    for part in parts {
        out.extend_from_slice(format!("--{boundary}\r\n").as_bytes());
        out.extend_from_slice(&part.head);
        out.extend_from_slice(b"\r\n\r\n");
        out.extend_from_slice(&part.content);
        out.extend_from_slice(b"\r\n");
    }
    out.extend_from_slice(format!("--{boundary}--\r\n").as_bytes());
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    const BODY: &str = "--B\r\nContent-Disposition: form-data; name=\"a\"\r\n\r\n1\r\n--B\r\n\
        content-disposition: form-data; name=\"f\"; filename=\"x.bin\"\r\nContent-Type: image/png\r\n\r\n\r\n--C\r\n\r\n--B--\r\n";

    fn pair(name: &str, value: &str) -> (String, String) {
        (name.into(), value.into())
    }

    #[test]
    fn boundaries_are_read() {
        let of = |text: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(CONTENT_TYPE, text.parse().expect("value"));
            boundary(&headers).map(str::to_owned)
        };
        assert_eq!(of("multipart/form-data; boundary=B").as_deref(), Some("B"));
        assert_eq!(of("Multipart/Form-Data; charset=x; Boundary=\"a b\"").as_deref(), Some("a b"));
        for none in
            ["multipart/form-data", "multipart/mixed; boundary=B", "multipart/form-data; boundary=", "text/plain"]
        {
            assert_eq!(of(none), None, "{none}");
        }
    }

    #[test]
    fn fields_are_found_and_taken_out() {
        assert_eq!(values("B", BODY.as_bytes(), "a"), Some(vec![&b"1"[..]]));
        assert_eq!(values("B", BODY.as_bytes(), "f"), Some(vec![&b"\r\n--C\r\n"[..]]));
        assert_eq!(values("B", BODY.as_bytes(), "x"), Some(vec![]));
        let rest = without("B", BODY.as_bytes(), "a").expect("parsed");
        assert_eq!(values("B", &rest, "f"), Some(vec![&b"\r\n--C\r\n"[..]]));
        assert!(rest.starts_with(b"--B\r\ncontent-disposition: form-data; name=\"f\"; filename=\"x.bin\"\r\n"));
    }

    #[test]
    fn edits_are_made_in_kongs_order() {
        let edits = Edits {
            remove: vec!["b".into()],
            rename: vec![pair("a", "b\"")],
            replace: vec![pair("f", "new")],
            add: vec![pair("c", "3"), pair("f", "no")],
            append: vec![pair("d", "4")],
        };
        let edited = edit(&edits, "B", BODY.as_bytes()).expect("parsed");
        let text = String::from_utf8(edited).expect("text");
        assert_eq!(
            text,
            "--B\r\nContent-Disposition: form-data; name=\"b%22\"\r\n\r\n1\r\n--B\r\n\
             content-disposition: form-data; name=\"f\"; filename=\"x.bin\"\r\nContent-Type: image/png\r\n\r\nnew\r\n\
             --B\r\nContent-Disposition: form-data; name=\"c\"\r\n\r\n3\r\n--B--\r\n"
        );
    }

    #[test]
    fn broken_bodies_are_left_alone() {
        for body in
            ["", "x", "--B", "--B\r\n", "--B\r\nhead\r\n\r\nbody\r\n", "--Bx\r\n\r\n\r\n--B--", "\r\n--B\r\nx\r\n--B--"]
        {
            assert!(parse("B", body.as_bytes()).is_none(), "{body:?}");
        }
        assert_eq!(parse("B", b"preamble\r\n--B\r\n\r\nx\r\n--B--").map(|parts| parts.len()), Some(1));
    }
}
