//! Services and routes of an OpenAPI 3 or Swagger 2 document: one service, one route an operation. What a gateway cannot
//! take from the document stands in the result as a comment.

use std::fmt::Write as _;

use anyhow::{bail, ensure};
use serde_json::Value;

use crate::document::tree;

const METHODS: &[&str] = &["get", "put", "post", "delete", "options", "head", "patch", "trace"];

/// Converts a document to a configuration, as YAML with comments.
///
/// # Errors
/// When it is no such document, or names no server and none is given.
pub fn convert(text: &str, upstream: Option<&str>) -> anyhow::Result<String> {
    let document =
        tree::parse(text).map_err(|(place, words)| anyhow::anyhow!("{}:{}: {words}", place.line, place.column))?;
    let document = document.to_json();
    ensure!(
        document["openapi"].as_str().is_some_and(|v| v.starts_with("3.")) || document["swagger"] == "2.0",
        "no OpenAPI 3 or Swagger 2 document"
    );
    let Some(paths) = document["paths"].as_object() else { bail!("the document has no `paths`") };
    let url = upstream.map(str::to_owned).or_else(|| server(&document));
    let Some(url) = url else { bail!("the document names no absolute server: give --upstream URL") };
    let title = document["info"]["title"].as_str().unwrap_or("api");
    let base = url
        .split_once("://")
        .and_then(|(_, rest)| rest.find('/').map(|at| rest[at..].trim_end_matches('/').to_owned()));
    let mut out = String::new();
    let _ = writeln!(out, "# Made of the OpenAPI document `{}`.", one_line(title));
    out.push_str("# Paths with parameters are regular expressions; each route matches whole paths.\n_format_version: \"3.0\"\n\nservices:\n");
    let _ = writeln!(out, "- name: {}\n  url: {}", quoted(&slug(title)), quoted(&url));
    let _ = writeln!(out, "  routes:");
    let mut names = std::collections::HashSet::new();
    let mut any = false;
    for (path, item) in paths {
        for method in METHODS.iter().filter(|m| item[**m].is_object()) {
            let name = unique(&mut names, route_name(title, path, method, &item[*method]));
            route(&mut out, &name, path, method, &item[*method]);
            any = true;
        }
    }
    ensure!(any, "the document has no operation");
    if let Some(base) = base.filter(|base| !base.is_empty()) {
        let _ = writeln!(out, "  # The server's base path {base} is put before each path on the way to the upstream.");
    }
    security(&mut out, &document);
    Ok(out)
}

/// The first absolute server; variables get their defaults.
fn server(document: &Value) -> Option<String> {
    if document["swagger"] == "2.0" {
        let scheme = document["schemes"].as_array().and_then(|s| s.iter().find(|s| *s == "https").or(s.first()));
        let host = document["host"].as_str()?;
        let base = document["basePath"].as_str().unwrap_or_default().trim_end_matches('/');
        return Some(format!("{}://{host}{base}", scheme.and_then(Value::as_str).unwrap_or("https")));
    }
    let server =
        document["servers"].as_array()?.iter().find(|s| s["url"].as_str().is_some_and(|u| u.contains("://")))?;
    let mut url = server["url"].as_str()?.to_owned();
    for (name, variable) in server["variables"].as_object().into_iter().flatten() {
        url = url.replace(&format!("{{{name}}}"), variable["default"].as_str().unwrap_or_default());
    }
    Some(url.trim_end_matches('/').to_owned())
}

fn route(out: &mut String, name: &str, path: &str, method: &str, operation: &Value) {
    let _ = writeln!(out, "  - name: {}", quoted(name));
    if let Some(summary) = operation["summary"].as_str() {
        let _ = writeln!(out, "    # {}", one_line(summary));
    }
    let _ = writeln!(out, "    methods: [{}]", method.to_uppercase());
    let (pattern, parameters) = pattern(path);
    let _ = writeln!(out, "    paths: [{}]", quoted(&pattern));
    // A path without parameters is the more special one.
    let _ = writeln!(out, "    regex_priority: {}", if parameters { 100 } else { 200 });
    out.push_str("    strip_path: false\n");
}

/// The path as a regular expression to its end; a parameter takes one segment.
fn pattern(path: &str) -> (String, bool) {
    let mut pattern = String::from("~");
    let mut rest = path;
    let mut parameters = false;
    while let Some((before, after)) = rest.split_once('{') {
        let Some((name, after)) = after.split_once('}') else { break };
        pattern.push_str(&regex::escape(before));
        let word: String = name.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '_' }).collect();
        let word = if word.starts_with(|c: char| c.is_ascii_alphabetic()) { word } else { format!("p{word}") };
        // A name may be captured once.
        let group =
            if pattern.contains(&format!("(?<{word}>")) { "[^#?/]+".to_owned() } else { format!("(?<{word}>[^#?/]+)") };
        pattern.push_str(&group);
        parameters = true;
        rest = after;
    }
    pattern.push_str(&regex::escape(rest));
    pattern.push('$');
    (pattern, parameters)
}

fn route_name(title: &str, path: &str, method: &str, operation: &Value) -> String {
    match operation["operationId"].as_str() {
        Some(id) => slug(&format!("{title}-{id}")),
        None => slug(&format!("{title}-{method}-{path}")),
    }
}

fn unique(names: &mut std::collections::HashSet<String>, name: String) -> String {
    let mut candidate = name.clone();
    let mut number = 2;
    while !names.insert(candidate.clone()) {
        candidate = format!("{name}-{number}");
        number += 1;
    }
    candidate
}

/// Plugins for the document's security schemes; those that need more than it says are comments.
fn security(out: &mut String, document: &Value) {
    let schemes = document["components"]["securitySchemes"].as_object().or(document["securityDefinitions"].as_object());
    let used = |name: &str| {
        let everywhere =
            document["security"].as_array().is_some_and(|list| list.iter().any(|need| need.get(name).is_some()));
        if everywhere { "" } else { "# " }
    };
    let mut plugins = String::new();
    for (name, scheme) in schemes.into_iter().flatten() {
        let mark = used(name);
        let kind = (scheme["type"].as_str().unwrap_or_default(), scheme["scheme"].as_str().unwrap_or_default());
        match kind {
            ("apiKey", _) if scheme["in"] != "cookie" => {
                let key = scheme["name"].as_str().unwrap_or("apikey");
                let _ = writeln!(plugins, "{mark}- name: key-auth\n{mark}  config: {{ key_names: [{}] }}", quoted(key));
            }
            ("http", "bearer") => {
                let _ = writeln!(plugins, "# - name: jwt   # for `{}`; consumers need jwt_secrets", one_line(name));
            }
            ("http" | "basic", _) => {
                let _ = writeln!(plugins, "# - name: basic-auth   # for `{}`", one_line(name));
            }
            (kind, _) => {
                let _ = writeln!(plugins, "# `{}` ({}) has no counterpart here", one_line(name), one_line(kind));
            }
        }
    }
    if plugins.is_empty() {
        return;
    }
    let any = plugins.lines().any(|line| !line.starts_with('#'));
    let _ = write!(out, "\n{}plugins:\n{plugins}", if any { "" } else { "# " });
}

fn slug(text: &str) -> String {
    let mut slug = String::new();
    for c in text.chars() {
        if c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '~') {
            slug.push(c.to_ascii_lowercase());
        } else if !slug.ends_with('-') && !slug.is_empty() {
            slug.push('-');
        }
    }
    let slug = slug.trim_end_matches('-');
    if slug.is_empty() { "api".to_owned() } else { slug.to_owned() }
}

/// A JSON string is a YAML string.
fn quoted(text: &str) -> String {
    Value::from(text).to_string()
}

fn one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    const PETS: &str = "openapi: 3.0.1\ninfo: {title: Pet Store}\nservers: [{url: 'https://{h}/v1/', variables: {h: {default: pets.test}}}]\n\
                        security: [{key: []}]\ncomponents: {securitySchemes: {key: {type: apiKey, in: header, name: X-Key}, o: {type: oauth2}}}\n\
                        paths:\n  /pets: {get: {operationId: list}, post: {operationId: list}}\n  /pets/{pet-id}/a.b: {get: {summary: 'one\n\n    pet'}}\n";

    #[test]
    fn operations_become_routes() {
        let out = convert(PETS, None).expect("converts");
        for line in [
            "  url: \"https://pets.test/v1\"",
            "  - name: \"pet-store-list\"",
            "  - name: \"pet-store-list-2\"",
            "    paths: [\"~/pets$\"]",
            "    paths: [\"~/pets/(?<pet_id>[^#?/]+)/a\\\\.b$\"]",
            "- name: key-auth",
            "    # one pet",
        ] {
            assert!(out.lines().any(|l| l == line), "{line}\n{out}");
        }
        assert!(tree::parse(&out).is_ok());
        assert!(convert("a: 1", None).is_err());
        assert!(convert("openapi: 3.0.0\npaths: {/: {get: {}}}", None).is_err());
    }

    #[test]
    fn swagger_2_has_its_own_servers() {
        let text = "swagger: '2.0'\nhost: a.test\nbasePath: /v2\nschemes: [http, https]\npaths: {/x: {get: {}}}\n";
        let out = convert(text, None).expect("converts");
        assert!(out.contains("url: \"https://a.test/v2\""), "{out}");
    }
}
