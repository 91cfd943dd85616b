//! The whole format as JSON Schema (draft 2020-12), for editors and CI. It follows the table and the readers; what they
//! check beyond types stays with `gateway check`.

use serde_json::{Map, Value, json};

use super::{ENTITIES, Entity, Field, Kind, outlines};
use crate::document::{Outline, Shape};
use crate::plugins::REGISTRY;

/// The schema of a file.
#[must_use]
pub fn document() -> Value {
    let mut properties = Map::new();
    properties.insert("_format_version".into(), json!({ "enum": ["1.1", "2.1", "3.0"] }));
    properties.insert("_transform".into(), json!({ "type": "boolean" }));
    properties.insert("_comment".into(), json!({ "type": ["string", "null"] }));
    properties.insert("_ignore".into(), json!({ "type": "array" }));
    properties.insert("_workspace".into(), json!({ "const": "default" }));
    properties.insert("_info".into(), info());
    properties.insert("_plugin_configs".into(), json!({ "type": "object" }));
    properties.insert("gateway".into(), of_outline(&outlines::gateway()));
    let mut definitions = Map::new();
    for entity in ENTITIES {
        properties.insert(entity.name.into(), list_of(entity.name));
        definitions.insert(entity.singular().into(), of_entity(entity));
    }
    json!({
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "Kong declarative configuration, with the gateway's own block",
        "type": "object",
        "required": ["_format_version"],
        "properties": properties,
        "additionalProperties": false,
        "$defs": definitions,
    })
}

fn info() -> Value {
    let texts = json!({ "type": "array", "items": { "type": "string" } });
    let defaults: Map<String, Value> = ["service", "route", "upstream", "target"]
        .map(|kind| (kind.to_owned(), json!({ "type": "object" })))
        .into_iter()
        .collect();
    json!({
        "type": "object",
        "properties": { "select_tags": texts, "defaults": { "type": "object", "properties": defaults } },
    })
}

fn list_of(entity: &str) -> Value {
    let singular = entity.strip_suffix('s').unwrap_or(entity);
    let item = json!({ "$ref": format!("#/$defs/{singular}") });
    // Certificates list names as strings too.
    let item = if entity == "snis" { json!({ "anyOf": [{ "type": "string" }, item] }) } else { item };
    json!({ "type": ["array", "null"], "items": item })
}

fn of_entity(entity: &Entity) -> Value {
    let mut properties = Map::new();
    properties.insert("id".into(), json!({ "type": "string", "format": "uuid" }));
    for field in entity.fields {
        properties.insert(field.name.into(), of_field(field));
    }
    for child in entity.children {
        properties.insert((*child).into(), list_of(child));
    }
    let texts = json!({ "type": ["array", "null"], "items": { "type": "string" } });
    properties.insert("tags".into(), texts);
    for time in ["created_at", "updated_at"] {
        properties.insert(time.into(), json!({ "type": "integer" }));
    }
    properties.insert("_comment".into(), json!({ "type": ["string", "null"] }));
    properties.insert("_ignore".into(), json!({ "type": "array" }));
    let required: Vec<&str> = entity.fields.iter().filter(|f| f.required).map(|f| f.name).collect();
    let mut schema = json!({
        "type": "object", "properties": properties, "required": required, "additionalProperties": false,
    });
    if entity.name == "plugins" {
        schema["properties"]["_config"] = json!({ "type": "string" });
        // Editors offer what is built; what is not is `gateway check`'s to refuse.
        let names: Vec<&str> = REGISTRY.iter().map(|kind| kind.name).collect();
        schema["properties"]["name"] = json!({ "anyOf": [{ "enum": names }, { "type": "string" }] });
        schema["allOf"] = configs();
    }
    schema
}

/// For each plugin: the schema of its `config`.
fn configs() -> Value {
    let of_kind = |kind: &crate::plugins::Kind| {
        json!({
            "if": { "properties": { "name": { "const": kind.name } }, "required": ["name"] },
            "then": { "properties": { "config": of_outline(&outlines::plugin(kind)) } },
        })
    };
    Value::Array(REGISTRY.iter().map(of_kind).collect())
}

fn of_field(field: &Field) -> Value {
    let mut schema = match field.kind {
        Kind::Text => json!({ "type": ["string", "null"] }),
        Kind::Boolean => json!({ "type": ["boolean", "null"] }),
        Kind::Integer(from, to) => json!({ "type": ["integer", "null"], "minimum": from, "maximum": to }),
        Kind::OneOf(words) => json!({ "enum": words }),
        Kind::OneOfNumbers(numbers) => json!({ "enum": numbers }),
        Kind::Texts => json!({ "type": ["array", "null"], "items": { "type": "string" } }),
        Kind::Words(words) => json!({ "type": ["array", "null"], "items": { "enum": words } }),
        Kind::List => json!({ "type": ["array", "null"] }),
        Kind::Map => json!({ "type": ["object", "null"] }),
        Kind::To(_) => json!({ "type": ["string", "object", "null"] }),
    };
    if !field.default.is_empty() {
        schema["default"] = field.default_json();
    }
    if !field.about.is_empty() {
        schema["description"] = field.about.into();
    }
    schema
}

fn of_outline(outline: &Outline) -> Value {
    let mut properties = Map::new();
    for asked in outline.fields() {
        properties.insert(asked.name, of_shape(&asked.shape));
    }
    json!({ "type": ["object", "null"], "properties": properties, "additionalProperties": false })
}

fn of_shape(shape: &Shape) -> Value {
    match shape {
        Shape::Any => json!({}),
        Shape::Text => json!({ "type": ["string", "null"] }),
        Shape::Boolean => json!({ "type": ["boolean", "null"] }),
        Shape::Integer(range) if *range.end() == i64::MAX => {
            json!({ "type": ["integer", "null"], "minimum": range.start() })
        }
        Shape::Integer(range) => {
            json!({ "type": ["integer", "null"], "minimum": range.start(), "maximum": range.end() })
        }
        Shape::Number(range) => {
            let mut schema = json!({ "type": ["number", "null"] });
            if range.start().is_finite() {
                schema["minimum"] = json!(range.start());
            }
            if range.end().is_finite() {
                schema["maximum"] = json!(range.end());
            }
            schema
        }
        Shape::OneOf(words) => json!({ "enum": words }),
        Shape::List => json!({ "type": ["array", "object", "null"] }),
        Shape::Texts => json!({ "type": ["array", "null"], "items": { "type": "string" } }),
        Shape::Duration => {
            json!({ "type": ["number", "string", "null"], "description": "Seconds, or 250ms, 10s, 5m, 1h" })
        }
        Shape::Map(outline) => of_outline(outline),
    }
}
