//! Edits of a header map. It knows no plugin and no direction.

use http::HeaderMap;
use http::header::{HeaderName, HeaderValue};

use super::Edits;

/// Makes the edits in Kong's order.
pub fn edit(edits: &Edits<HeaderName, HeaderValue>, headers: &mut HeaderMap) {
    for name in &edits.remove {
        headers.remove(name);
    }
    for (old, new) in &edits.rename {
        rename(headers, old, new);
    }
    for (name, value) in &edits.replace {
        if headers.contains_key(name) {
            headers.insert(name.clone(), value.clone());
        }
    }
    for (name, value) in &edits.add {
        if !headers.contains_key(name) {
            headers.insert(name.clone(), value.clone());
        }
    }
    for (name, value) in &edits.append {
        headers.append(name.clone(), value.clone());
    }
}

/// All values of `old` take the place of those of `new`; nothing happens when `old` is not there.
fn rename(headers: &mut HeaderMap, old: &HeaderName, new: &HeaderName) {
    if old == new || !headers.contains_key(old) {
        return;
    }
    let values: Vec<HeaderValue> = headers.get_all(old).iter().cloned().collect();
    headers.remove(old);
    headers.remove(new);
    for value in values {
        headers.append(new.clone(), value);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(text: &str) -> HeaderName {
        HeaderName::try_from(text).expect("name")
    }

    fn value(text: &str) -> HeaderValue {
        HeaderValue::try_from(text).expect("value")
    }

    fn all(headers: &HeaderMap, of: &str) -> Vec<String> {
        headers.get_all(of).iter().map(|v| v.to_str().expect("text").to_owned()).collect()
    }

    #[test]
    fn edits_are_made_in_order() {
        let mut headers = HeaderMap::new();
        for (n, v) in [("gone", "1"), ("old", "a"), ("old", "b"), ("new", "c"), ("here", "1"), ("kept", "1")] {
            headers.append(name(n), value(v));
        }
        let edits = Edits {
            remove: vec![name("gone")],
            rename: vec![(name("old"), name("new")), (name("none"), name("kept")), (name("kept"), name("kept"))],
            replace: vec![(name("here"), value("2")), (name("absent"), value("2"))],
            add: vec![(name("kept"), value("2")), (name("gone"), value("back"))],
            append: vec![(name("new"), value("d")), (name("fresh"), value("e"))],
        };
        edit(&edits, &mut headers);
        assert_eq!(all(&headers, "new"), ["a", "b", "d"]);
        assert_eq!(all(&headers, "here"), ["2"]);
        assert_eq!(all(&headers, "kept"), ["1"]);
        assert_eq!(all(&headers, "gone"), ["back"]);
        assert_eq!(all(&headers, "fresh"), ["e"]);
        assert!(!headers.contains_key("old") && !headers.contains_key("absent"));
    }
}
