//! Edits of `a=b&c=d` texts: queries and form bodies. Pairs that no edit touches keep their bytes.

use std::borrow::Cow;

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};

use super::Edits;

/// What stays as it is in a written pair (RFC 3986 §2.3).
const UNRESERVED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// One pair: its decoded name and its text.
struct Pair<'a> {
    name: Cow<'a, str>,
    text: Cow<'a, str>,
}

impl<'a> Pair<'a> {
    fn read(text: &'a str) -> Self {
        let name = text.split('=').next().unwrap_or_default();
        // The parser sees a name alone, so that a `&` or `=` in the value cannot mislead it.
        let name = form_urlencoded::parse(name.as_bytes()).next().map_or(Cow::Borrowed(""), |(name, _)| name);
        Pair { name, text: Cow::Borrowed(text) }
    }

    fn write(name: &str, value: &str) -> Self {
        Pair { name: Cow::Owned(name.to_owned()), text: Cow::Owned(format!("{}={}", encoded(name), encoded(value))) }
    }

    fn renamed(&self, name: &str) -> Self {
        let value = self.text.split_once('=').map(|(_, value)| value);
        let text = value.map_or_else(|| encoded(name), |value| format!("{}={value}", encoded(name)));
        Pair { name: Cow::Owned(name.to_owned()), text: Cow::Owned(text) }
    }
}

fn encoded(text: &str) -> String {
    utf8_percent_encode(text, UNRESERVED).to_string()
}

/// `text` with the edits made; nothing when they change nothing.
#[must_use]
pub fn edit(edits: &Edits<String, String>, text: &str) -> Option<String> {
    if edits.is_empty() {
        return None;
    }
    let mut pairs: Vec<Pair<'_>> = text.split('&').filter(|pair| !pair.is_empty()).map(Pair::read).collect();
    apply(edits, &mut pairs);
    let edited = pairs.iter().map(|pair| &*pair.text).collect::<Vec<_>>().join("&");
    (edited != text).then_some(edited)
}

fn apply(edits: &Edits<String, String>, pairs: &mut Vec<Pair<'_>>) {
    pairs.retain(|pair| !edits.remove.iter().any(|name| *name == pair.name));
    for (old, new) in &edits.rename {
        if old != new && has(pairs, old) {
            pairs.retain(|pair| pair.name != *new);
            pairs.iter_mut().filter(|pair| pair.name == *old).for_each(|pair| *pair = pair.renamed(new));
        }
    }
    for (name, value) in &edits.replace {
        if let Some(first) = pairs.iter().position(|pair| pair.name == *name) {
            pairs[first] = Pair::write(name, value);
            let mut index = 0;
            pairs.retain(|pair| {
                index += 1;
                index <= first + 1 || pair.name != *name
            });
        }
    }
    for (name, value) in &edits.add {
        if !has(pairs, name) {
            pairs.push(Pair::write(name, value));
        }
    }
    pairs.extend(edits.append.iter().map(|(name, value)| Pair::write(name, value)));
}

fn has(pairs: &[Pair<'_>], name: &str) -> bool {
    pairs.iter().any(|pair| pair.name == name)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pair(name: &str, value: &str) -> (String, String) {
        (name.into(), value.into())
    }

    fn none() -> Edits<String, String> {
        Edits { remove: vec![], rename: vec![], replace: vec![], add: vec![], append: vec![] }
    }

    #[test]
    fn edits_are_made_in_order_and_the_rest_keeps_its_bytes() {
        let edits = Edits {
            remove: vec!["gone".into()],
            rename: vec![pair("old", "n w"), pair("none", "kept"), pair("flag", "f")],
            replace: vec![pair("here", "2"), pair("absent", "2")],
            add: vec![pair("kept", "2"), pair("u[a][1]", "é&=")],
            append: vec![pair("here", "3")],
        };
        let text = "gone=1&a=$,/:;?@&g%6fne=2&old=x+y&n+w=0&here=1&flag&here=0&kept&a=%zz";
        assert_eq!(
            edit(&edits, text).as_deref(),
            Some("a=$,/:;?@&n%20w=x+y&here=2&f&kept&a=%zz&u%5Ba%5D%5B1%5D=%C3%A9%26%3D&here=3")
        );
    }

    #[test]
    fn nothing_to_do_is_nothing_done() {
        assert_eq!(edit(&none(), "a=1&&b"), None);
        assert_eq!(edit(&Edits { remove: vec!["x".into()], ..none() }, "a=1&b"), None);
        assert_eq!(edit(&Edits { add: vec![pair("a", "b")], ..none() }, "").as_deref(), Some("a=b"));
        assert_eq!(edit(&Edits { remove: vec!["a".into()], ..none() }, "a=1").as_deref(), Some(""));
    }
}
