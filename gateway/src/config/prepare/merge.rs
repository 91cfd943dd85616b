//! Several files as one: lists of entities are joined, everything else may stand in one file only or must say the same.

use crate::document::{Key, Node, Report, Value};

/// Merges the roots of files in their order.
pub fn merge(roots: Vec<Node>, report: &Report) -> Option<Node> {
    let mut roots = roots.into_iter();
    let mut merged = roots.next()?;
    for root in roots {
        let Value::Map(entries) = root.value else {
            report.mismatch(root.place, format!("the file is {}", root.kind()), "a map");
            continue;
        };
        let Value::Map(into) = &mut merged.value else { continue };
        for (key, value) in entries {
            add(into, key, value, report);
        }
    }
    Some(merged)
}

fn add(into: &mut Vec<(Key, Node)>, key: Key, value: Node, report: &Report) {
    // Versions may differ: each file was brought to the current form by itself.
    if matches!(key.name.as_str(), "_comment" | "_ignore" | "_format_version")
        && into.iter().any(|(k, _)| k.name == key.name)
    {
        return;
    }
    let Some((first, known)) = into.iter_mut().find(|(k, _)| k.name == key.name) else {
        into.push((key, value));
        return;
    };
    match (&mut known.value, value.value) {
        (Value::Seq(known), Value::Seq(more)) => known.extend(more),
        (_, Value::Null) => {}
        (slot @ Value::Null, given) => *slot = given,
        (_, given) => {
            let given = Node { place: value.place, value: given };
            let same = !matches!(given.value, Value::Map(_)) && given.to_json() == known.to_json();
            if !same {
                let first = report.at(first.place);
                report.error(key.place, format!("`{}` stands in two files (first at {first})", key.name));
            }
        }
    }
}
