//! Ids of entities as their readers see them: every one was given before (`prepare`), and is checked here.

use uuid::Uuid;

use super::prepare::derived;
use crate::document::Fields;

/// Marks the fields that all entities have as known, for an entity that will not be read to its end.
pub fn skip_common(fields: &Fields<'_>) {
    for common in ["id", "tags", "created_at", "updated_at", "_comment", "_ignore"] {
        fields.skip(common);
    }
}

/// The `id` field; where it is no UUID, one of the entity's key. Marks the fields that all entities have as known.
pub fn of_entity(fields: &Fields<'_>, kind: &str, key: Option<&str>) -> Uuid {
    skip_common(fields);
    let _ = fields.strings("tags");
    for time in ["created_at", "updated_at"] {
        fields.integer(time, 0..=i64::MAX);
    }
    let text = fields.string("id").unwrap_or_default();
    match Uuid::parse_str(&text) {
        Ok(id) => id,
        Err(_) => {
            fields.report.mismatch(fields.place_of("id"), "`id` is no UUID", "a valid UUID");
            derived(kind, key.unwrap_or(&text))
        }
    }
}
