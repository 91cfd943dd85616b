//! Faults by entity, as `POST /config?flatten_errors=1` gives them (Kong's flat form): each entity with what is wrong in
//! it. Must not know how faults are found.

use std::collections::HashMap;

use serde_json::{Value, json};

use super::schema::{Entity, entity};
use crate::document::{Node, Place, Report, Severity};

struct Owner<'a> {
    kind: &'static Entity,
    node: &'a Node,
    errors: Vec<Value>,
}

/// The faults of a tree that was refused.
#[must_use]
pub fn flatten(root: &Node, report: &Report) -> Value {
    let mut owners: Vec<Owner<'_>> = Vec::new();
    let mut places: HashMap<Place, (usize, String)> = HashMap::new();
    gather(root, None, &mut owners, &mut places);
    for problem in report.problems().into_iter().filter(|p| p.severity != Severity::Warning) {
        let Some((owner, field)) = places.get(&problem.place) else { continue };
        let help = problem.expected.or(problem.help).map(|words| format!("; {words}")).unwrap_or_default();
        let message = format!("{}{help} ({})", problem.message, report.at(problem.place));
        owners[*owner].errors.push(match field.as_str() {
            "" => json!({ "type": "entity", "message": message }),
            field => json!({ "type": "field", "field": field, "message": message }),
        });
    }
    owners.iter().filter(|owner| !owner.errors.is_empty()).map(shown).collect()
}

fn shown(owner: &Owner<'_>) -> Value {
    let of = |name: &str| owner.node.some(name).map(Node::to_json);
    json!({
        "entity_type": owner.kind.singular(),
        "entity_id": of("id"),
        "entity_name": of("name").or_else(|| of(owner.kind.endpoint)),
        "entity_tags": of("tags"),
        "entity": owner.node.to_json(),
        "errors": owner.errors,
    })
}

/// Which entity, and which field of it, stands at which place.
fn gather<'a>(
    node: &'a Node,
    parent: Option<&'static Entity>,
    owners: &mut Vec<Owner<'a>>,
    places: &mut HashMap<Place, (usize, String)>,
) {
    for (key, value) in node.entries() {
        let Some(kind) = entity(&key.name) else { continue };
        if parent.is_some_and(|owner| !owner.children.contains(&kind.name)) {
            continue;
        }
        for item in value.items() {
            let index = owners.len();
            owners.push(Owner { kind, node: item, errors: Vec::new() });
            fields(item, kind, "", index, places);
            gather(item, Some(kind), owners, places);
            // After its fields: a map and its first key may begin at one place, and what lacks is the map's.
            places.insert(item.place, (index, String::new()));
        }
    }
}

fn fields(node: &Node, kind: &Entity, path: &str, owner: usize, places: &mut HashMap<Place, (usize, String)>) {
    for (key, value) in node.entries() {
        if path.is_empty() && kind.children.contains(&key.name.as_str()) {
            continue;
        }
        let path = if path.is_empty() { key.name.clone() } else { format!("{path}.{}", key.name) };
        places.insert(key.place, (owner, path.clone()));
        places.insert(value.place, (owner, path.clone()));
        for (i, item) in value.items().iter().enumerate() {
            places.insert(item.place, (owner, format!("{path}.{}", i + 1)));
        }
        fields(value, kind, &path, owner, places);
    }
}
