//! Edits of the top-level members of a JSON object. What is not a JSON object stays as it is, byte for byte.

use serde_json::{Map, Value};

use super::Edits;

/// The object of `body` with the edits made, or nothing when it is no object. An empty body is taken as `{}`, to which
/// values are only added (Kong's rule).
#[must_use]
pub fn edit<V: Clone + Into<Value>>(edits: &Edits<String, V>, body: &[u8]) -> Option<Vec<u8>> {
    let mut object: Map<String, Value> = if body.is_empty() {
        if edits.add.is_empty() && edits.append.is_empty() {
            return None;
        }
        Map::new()
    } else {
        serde_json::from_slice(body).ok()?
    };
    apply(edits, &mut object);
    serde_json::to_vec(&object).ok()
}

fn apply<V: Clone + Into<Value>>(edits: &Edits<String, V>, object: &mut Map<String, Value>) {
    for name in &edits.remove {
        object.shift_remove(name);
    }
    for (old, new) in &edits.rename {
        if let Some(value) = object.get(old).filter(|_| old != new).cloned() {
            object.shift_remove(old);
            object.insert(new.clone(), value);
        }
    }
    for (name, value) in &edits.replace {
        if let Some(slot) = object.get_mut(name) {
            *slot = value.clone().into();
        }
    }
    for (name, value) in &edits.add {
        object.entry(name).or_insert_with(|| value.clone().into());
    }
    for (name, value) in &edits.append {
        append(object.entry(name).or_insert(Value::Null), value.clone().into());
    }
}

/// Kong's `append_value`: a string and the value become a list, a list grows, other scalars give way to a list of the
/// value alone. An object stays: it has no order to append to.
fn append(slot: &mut Value, value: Value) {
    match slot {
        Value::Array(list) => list.push(value),
        Value::String(_) => *slot = Value::Array(vec![slot.take(), value]),
        Value::Object(_) => {}
        Value::Null | Value::Bool(_) | Value::Number(_) => *slot = Value::Array(vec![value]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pair(name: &str, value: &str) -> (String, String) {
        (name.into(), value.into())
    }

    fn edits() -> Edits<String, String> {
        Edits {
            remove: vec!["gone".into()],
            rename: vec![pair("old", "new"), pair("none", "kept"), pair("kept", "kept")],
            replace: vec![pair("here", "2"), pair("absent", "2")],
            add: vec![pair("kept", "2"), pair("fresh", "3")],
            append: vec![pair("list", "x"), pair("text", "x"), pair("number", "x"), pair("map", "x"), pair("nil", "x")],
        }
    }

    fn edited(edits: &Edits<String, String>, body: &str) -> Option<String> {
        edit(edits, body.as_bytes()).map(|b| String::from_utf8(b).expect("UTF-8"))
    }

    #[test]
    fn only_top_level_members_change_and_their_order_stays() {
        let body =
            r#"{"z":{"gone":1},"gone":1,"old":[],"here":false,"kept":1.50,"list":[1],"text":"a","number":1,"map":{}}"#;
        let expected = concat!(
            r#"{"z":{"gone":1},"here":"2","kept":1.5,"list":[1,"x"],"text":["a","x"],"number":["x"],"map":{},"#,
            r#""new":[],"fresh":"3","nil":["x"]}"#
        );
        assert_eq!(edited(&edits(), body).as_deref(), Some(expected));
    }

    #[test]
    fn what_is_no_object_is_left_alone() {
        for body in ["malformed", "[1]", "\"a\"", "null", "{\"a\":1} x", "\u{1f}"] {
            assert_eq!(edited(&edits(), body), None, "{body}");
        }
        assert_eq!(edited(&edits(), &"[".repeat(100_000)), None);
        assert_eq!(edit(&edits(), b"{\"a\":\"\xff\"}"), None);
    }

    #[test]
    fn an_empty_body_becomes_what_is_added() {
        let mut edits = edits();
        edits.append.clear();
        assert_eq!(edited(&edits, "").as_deref(), Some(r#"{"kept":"2","fresh":"3"}"#));
        edits.add.clear();
        assert_eq!(edited(&edits, ""), None);
    }
}
