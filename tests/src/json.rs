//! Finding values in JSON by dotted paths (`post_data.params.foo`; list places count from 1, as in
//! Lua), and comparing them as loosely as headers and forms need.

use serde_json::Value;

/// The value at `path`, `None` where there is none.
pub fn at<'a>(value: &'a Value, path: &str) -> Option<&'a Value> {
    path.split('.').try_fold(value, |value, step| match value {
        Value::Array(items) => items.get(step.parse::<usize>().ok()?.checked_sub(1)?),
        other => other.get(step),
    })
}

/// Equal, where a number and its text are the same.
pub fn same(left: &Value, right: &Value) -> bool {
    match (left, right) {
        (Value::Array(left), Value::Array(right)) => {
            left.len() == right.len() && left.iter().zip(right).all(|(l, r)| same(l, r))
        }
        (Value::Object(left), Value::Object(right)) => {
            left.len() == right.len() && left.iter().all(|(key, l)| right.get(key).is_some_and(|r| same(l, r)))
        }
        // Lua has one empty table for both.
        (Value::Object(empty), Value::Array(items)) | (Value::Array(items), Value::Object(empty)) => {
            empty.is_empty() && items.is_empty()
        }
        (left, right) => left == right || plain(left) == plain(right),
    }
}

/// A scalar as text.
pub fn plain(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}
