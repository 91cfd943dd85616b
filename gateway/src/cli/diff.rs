//! `gateway diff OLD NEW`: what changes, entity by entity and setting by setting. Secrets are named, never shown.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;
use serde_json::Value;

use super::{Reading, look};
use crate::config::entities::Entities;
use crate::config::schema::Entity;
use crate::config::{Snapshot, prepare};
use crate::document::Report;

/// Compares two configurations.
#[derive(Debug, Args)]
pub struct Diff {
    /// What runs now: a file or folder.
    old: PathBuf,
    /// What is to run: a file or folder.
    new: PathBuf,
    #[command(flatten)]
    reading: Reading,
}

/// Fields whose values are not repeated.
const SECRET: &[&str] =
    &["key", "secret", "password", "client_secret", "cert", "cert_alt", "key_alt", "jwk", "pem", "admin_token"];

impl Diff {
    /// Prints the differences: exit code 0 if there are none, 1 if there are some, 2 if a side cannot run.
    ///
    /// # Errors
    /// When nothing can be compiled at all.
    pub fn run(&self) -> anyhow::Result<ExitCode> {
        let (Some(old), Some(new)) = (
            look(std::slice::from_ref(&self.old), &self.reading)?,
            look(std::slice::from_ref(&self.new), &self.reading)?,
        ) else {
            return Ok(ExitCode::from(2));
        };
        let out = differences(&old, &new);
        write!(std::io::stdout(), "{out}")?;
        Ok(if out.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
    }
}

fn differences(old: &Snapshot, new: &Snapshot) -> String {
    let mut out = String::new();
    let sides = (old.entities(0), new.entities(0));
    for ((kind, before), (_, after)) in sides.0.all().zip(sides.1.all()) {
        entities(&mut out, kind, before, after, (&sides.0, &sides.1));
    }
    let (before, after) = (settings(old), settings(new));
    let mut changes = Vec::new();
    compare("gateway", &before, &after, &mut changes);
    for change in changes {
        let _ = writeln!(out, "~ {change}");
    }
    out
}

fn settings(snapshot: &Snapshot) -> Value {
    let report = Report::of_files(snapshot.bundle.names(), true);
    let tree = prepare::tree(&snapshot.bundle, &snapshot.load.dialect, false, &report);
    tree.and_then(|tree| tree.member("gateway").map(crate::document::Node::to_json)).unwrap_or_default()
}

fn entities(out: &mut String, kind: &Entity, before: &[Value], after: &[Value], sides: (&Entities, &Entities)) {
    let by_id = |list: &'_ [Value]| -> BTreeMap<String, usize> {
        list.iter().enumerate().map(|(i, e)| (e["id"].as_str().unwrap_or_default().to_owned(), i)).collect()
    };
    let (old_ids, new_ids) = (by_id(before), by_id(after));
    for entity in before.iter().filter(|e| !new_ids.contains_key(e["id"].as_str().unwrap_or_default())) {
        let _ = writeln!(out, "- {}", title(kind, entity, sides.0));
    }
    for entity in after {
        let Some(known) = old_ids.get(entity["id"].as_str().unwrap_or_default()) else {
            let _ = writeln!(out, "+ {}", title(kind, entity, sides.1));
            continue;
        };
        let mut changes = Vec::new();
        compare("", &before[*known], entity, &mut changes);
        if !changes.is_empty() {
            let _ = writeln!(out, "~ {}", title(kind, entity, sides.1));
            for change in changes {
                let _ = writeln!(out, "    {change}");
            }
        }
    }
}

/// What an entity is called: its kind and name, and whose it is.
fn title(kind: &Entity, entity: &Value, side: &Entities) -> String {
    let own = ["name", "username", "custom_id", "target", "group", "kid", "prefix"];
    let name = own.iter().find_map(|field| entity[*field].as_str()).or(entity["id"].as_str()).unwrap_or_default();
    let mut title = format!("{} {name}", kind.singular());
    let owners = [("route", "routes"), ("service", "services"), ("consumer", "consumers"), ("upstream", "upstreams")];
    for (field, list) in owners {
        let Some(id) = entity[field]["id"].as_str() else { continue };
        let owner = side.find(list, id);
        let name = owner.and_then(|o| o["name"].as_str().or(o["username"].as_str())).unwrap_or(id);
        let _ = write!(title, " of {field} {name}");
    }
    title
}

fn compare(path: &str, before: &Value, after: &Value, changes: &mut Vec<String>) {
    if before == after {
        return;
    }
    let below = |key: &str| if path.is_empty() { key.to_owned() } else { format!("{path}.{key}") };
    match (before, after) {
        (Value::Object(old), Value::Object(new)) => {
            for (key, value) in old {
                compare(&below(key), value, new.get(key).unwrap_or(&Value::Null), changes);
            }
            for (key, value) in new.iter().filter(|(key, _)| !old.contains_key(*key)) {
                compare(&below(key), &Value::Null, value, changes);
            }
        }
        (Value::Array(old), Value::Array(new)) if path.starts_with("gateway") => {
            for gone in old.iter().filter(|v| !new.contains(v)) {
                changes.push(format!("{path}: - {gone}"));
            }
            for come in new.iter().filter(|v| !old.contains(v)) {
                changes.push(format!("{path}: + {come}"));
            }
        }
        (Value::Null, Value::Object(new)) => {
            for (key, value) in new {
                compare(&below(key), &Value::Null, value, changes);
            }
        }
        _ => {
            let last = path.rsplit('.').next().unwrap_or_default();
            changes.push(if SECRET.contains(&last) {
                format!("{path}: changed (not shown)")
            } else {
                format!("{path}: {before} → {after}")
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn changes_name_their_fields_and_hide_secrets() {
        let mut changes = Vec::new();
        let before = json!({ "port": 80, "secret": "old", "config": { "minute": 5, "same": 1 } });
        let after = json!({ "port": 81, "secret": "new", "config": { "minute": 6, "same": 1, "hour": 9 } });
        compare("", &before, &after, &mut changes);
        assert_eq!(
            changes,
            ["port: 80 → 81", "secret: changed (not shown)", "config.minute: 5 → 6", "config.hour: null → 9"]
        );
        changes.clear();
        compare(
            "gateway",
            &json!({ "edge": { "deny": ["a", "b"] } }),
            &json!({ "edge": { "deny": ["b", "c"] } }),
            &mut changes,
        );
        assert_eq!(changes, ["gateway.edge.deny: - \"a\"", "gateway.edge.deny: + \"c\""]);
    }
}
