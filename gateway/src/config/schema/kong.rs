//! The same knowledge in the form of Kong's admin API, `/schemas/…`: a list of fields, each a map of its name.

use serde_json::{Value, json};

use super::{Field, Kind, outlines};
use crate::document::{Outline, Shape};

/// `/schemas/{entity}`.
#[must_use]
pub fn entity(name: &str) -> Option<Value> {
    let entity = super::entity(name)?;
    let common = [
        json!({ "id": { "type": "string", "uuid": true, "auto": true } }),
        json!({ "created_at": { "type": "integer", "timestamp": true, "auto": true } }),
        json!({ "updated_at": { "type": "integer", "timestamp": true, "auto": true } }),
        json!({ "tags": { "type": "set", "elements": { "type": "string" } } }),
    ];
    // `url` is a shorthand, no field.
    let own = entity.fields.iter().filter(|f| f.name != "url").map(of_field);
    Some(json!({ "fields": common.into_iter().chain(own).collect::<Vec<_>>() }))
}

/// `/schemas/plugins/{name}`.
#[must_use]
pub fn plugin(name: &str) -> Option<Value> {
    let kind = crate::plugins::kind(name)?;
    let words = ["grpc", "grpcs", "http", "https"];
    let mut fields = vec![
        json!({ "protocols": { "type": "set", "default": words, "elements": { "type": "string", "one_of": words } } }),
        json!({ "config": record(&outlines::plugin(kind)) }),
    ];
    if !kind.consumer_scope {
        fields.insert(0, json!({ "consumer": { "type": "foreign", "reference": "consumers", "eq": null } }));
    }
    Some(json!({ "fields": fields }))
}

fn of_field(field: &Field) -> Value {
    let mut shape = match field.kind {
        Kind::Text => json!({ "type": "string" }),
        Kind::Boolean => json!({ "type": "boolean" }),
        Kind::Integer(from, to) => json!({ "type": "integer", "between": [from, to] }),
        Kind::OneOf(words) => json!({ "type": "string", "one_of": words }),
        Kind::OneOfNumbers(numbers) => json!({ "type": "integer", "one_of": numbers }),
        Kind::Texts => json!({ "type": "array", "elements": { "type": "string" } }),
        Kind::Words(words) => json!({ "type": "set", "elements": { "type": "string", "one_of": words } }),
        Kind::List => json!({ "type": "set", "elements": { "type": "record" } }),
        Kind::Map => json!({ "type": "map" }),
        Kind::To(entity) => json!({ "type": "foreign", "reference": entity }),
    };
    if field.required {
        shape["required"] = true.into();
    }
    if !field.default.is_empty() {
        shape["default"] = field.default_json();
    }
    json!({ field.name: shape })
}

fn record(outline: &Outline) -> Value {
    let fields: Vec<Value> = outline
        .fields()
        .into_iter()
        .map(|asked| {
            let mut shape = match &asked.shape {
                Shape::Any => json!({ "type": "any" }),
                Shape::Text => json!({ "type": "string" }),
                Shape::Boolean => json!({ "type": "boolean" }),
                Shape::Integer(range) => json!({ "type": "integer", "between": [range.start(), range.end()] }),
                Shape::Number(_) | Shape::Duration => json!({ "type": "number" }),
                Shape::OneOf(words) => json!({ "type": "string", "one_of": words }),
                Shape::List => json!({ "type": "array" }),
                Shape::Texts => json!({ "type": "array", "elements": { "type": "string" } }),
                Shape::Map(outline) => record(outline),
            };
            if asked.required {
                shape["required"] = true.into();
            }
            let mut named = serde_json::Map::new();
            named.insert(asked.name, shape);
            Value::Object(named)
        })
        .collect();
    json!({ "type": "record", "required": true, "fields": fields })
}
