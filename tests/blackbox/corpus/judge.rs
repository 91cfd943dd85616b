//! Compares an answer with what a case expects: status, headers, bodies, and the request that the upstream saw.

use gateway_tests::Reply;
use gateway_tests::json::{at, plain, same};
use regex::Regex;
use serde_json::Value;

/// What is not as expected.
pub fn complaints(expected: &Value, reply: &Reply) -> Vec<String> {
    let mut out = Vec::new();
    if let Some(status) = expected["status"].as_u64()
        && u64::from(reply.status) != status
    {
        out.push(format!("status {} not {status}: {}", reply.status, short(&reply.text())));
        return out;
    }
    let all = |name: &str| -> Option<Value> {
        let values = reply.all(name);
        match &values[..] {
            [] => None,
            [one] => Some((*one).into()),
            many => Some(many.iter().map(|&value| Value::from(value)).collect()),
        }
    };
    check("header", &expected["headers"], &all, &mut out);
    let body: Value = serde_json::from_slice(&reply.body).unwrap_or_default();
    check("body", &expected["body_json_fields"], &|path| at(&body, path).cloned(), &mut out);
    if let Some(json) = expected.get("body_json")
        && !same(json, &body)
    {
        out.push(format!("body {} not {json}", short(&reply.text())));
    }
    if let Some(text) = expected["body_text"].as_str()
        && reply.text() != text
    {
        out.push(format!("body {:?} not {text:?}", short(&reply.text())));
    }
    if let Some(text) = expected["body_contains"].as_str()
        && !reply.text().contains(text)
    {
        out.push(format!("body {:?} without {text:?}", short(&reply.text())));
    }
    upstream(&expected["upstream_request"], &body, &mut out);
    out
}

/// The part about the request that the upstream saw; `echo` is its description.
fn upstream(expected: &Value, echo: &Value, out: &mut Vec<String>) {
    let header = |name: &str| echo["headers"].get(name.to_ascii_lowercase()).cloned();
    check("upstream header", &expected["headers"], &header, out);
    check("upstream query", &expected["query"], &|name| echo["uri_args"].get(name).cloned(), out);
    let form = |name: &str| echo["post_data"]["params"].get(name).cloned();
    check("upstream form", &expected["form"], &form, out);
    let anywhere = |path: &str| match path {
        "data" => echo["post_data"].get("text").cloned(),
        path => at(echo, path).or_else(|| at(&echo["post_data"], path)).cloned(),
    };
    check("upstream", &expected["echo"], &anywhere, out);
}

/// The conditions `equal`, `not_equal`, `contains`, `lua_pattern`, `present`, `absent` on named values.
fn check(what: &str, conditions: &Value, find: &dyn Fn(&str) -> Option<Value>, out: &mut Vec<String>) {
    let named = |kind: &str| conditions[kind].as_object().cloned().unwrap_or_default();
    let listed = |kind: &str| conditions[kind].as_array().cloned().unwrap_or_default();
    let there = |name: &str| find(name).filter(|value| !value.is_null());
    let shown = |name: &str| there(name).map_or("absent".to_owned(), |value| short(&value.to_string()));
    for (name, value) in named("equal") {
        if value.get("$null").is_some() {
            if there(&name).is_some() {
                out.push(format!("{what} {name} is {} not null", shown(&name)));
            }
            continue;
        }
        if !there(&name).is_some_and(|found| equal(&found, &value)) {
            out.push(format!("{what} {name} is {} not {value}", shown(&name)));
        }
    }
    for (name, value) in named("not_equal") {
        if there(&name).is_some_and(|found| equal(&found, &value)) {
            out.push(format!("{what} {name} is {value}"));
        }
    }
    for (name, value) in named("contains") {
        if !there(&name).is_some_and(|found| plain(&found).contains(&plain(&value))) {
            out.push(format!("{what} {name} is {} without {value}", shown(&name)));
        }
    }
    for (name, value) in named("lua_pattern") {
        let pattern = pattern(value.as_str().unwrap_or_default());
        if !there(&name).is_some_and(|found| pattern.is_match(&plain(&found))) {
            out.push(format!("{what} {name} is {} not like {pattern}", shown(&name)));
        }
    }
    for name in listed("present").iter().filter_map(Value::as_str) {
        if there(name).is_none() {
            out.push(format!("{what} {name} is absent"));
        }
    }
    for name in listed("absent").iter().filter_map(Value::as_str) {
        if there(name).is_some() {
            out.push(format!("{what} {name} is {}", shown(name)));
        }
    }
}

/// Equal, where the product's own name stands for Kong's.
fn equal(found: &Value, wanted: &Value) -> bool {
    match wanted.as_str() {
        Some(text) if text.starts_with("kong/") => plain(found).starts_with("gateway/"),
        _ => same(found, wanted),
    }
}

/// A Lua pattern as a regular expression, as far as the cases use them.
fn pattern(lua: &str) -> Regex {
    let mut out = String::new();
    let mut letters = lua.chars();
    while let Some(letter) = letters.next() {
        match letter {
            '%' => match letters.next().unwrap_or_default() {
                'x' => out.push_str("[0-9a-fA-F]"),
                'd' => out.push_str("[0-9]"),
                other => out.push_str(&regex::escape(&other.to_string())),
            },
            '.' | '*' | '+' | '?' | '^' | '$' | '[' | ']' | '(' | ')' => out.push(letter),
            other => out.push_str(&regex::escape(&other.to_string())),
        }
    }
    Regex::new(&out).expect("the pattern was translated")
}

fn short(text: &str) -> String {
    text.chars().take(160).collect()
}
