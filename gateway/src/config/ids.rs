//! Kong's ids: given ones as they are, others UUIDv5 of the entity's kind and key, so that a reload keeps them.

use uuid::Uuid;

use crate::document::Fields;

/// Kong's root namespace (`kong.db.declarative` auto ids).
const ROOT: Uuid = Uuid::from_u128(0xfd02_801f_0957_4a15_a55a_c8d9_606f_30b5);

/// The id of `key` among the entities of `kind`.
#[must_use]
pub fn derived(kind: &str, key: &str) -> Uuid {
    Uuid::new_v5(&Uuid::new_v5(&ROOT, kind.as_bytes()), key.as_bytes())
}

/// Marks the fields that all entities have as known, for an entity that will not be read to its end.
pub fn skip_common(fields: &Fields<'_>) {
    for common in ["id", "tags", "created_at", "updated_at", "_comment", "_ignore"] {
        fields.skip(common);
    }
}

/// The `id` field, else the derived one, else a random one. Marks the fields that all entities have as known.
pub fn of_entity(fields: &Fields<'_>, kind: &str, key: Option<&str>) -> Uuid {
    skip_common(fields);
    let _ = fields.strings("tags");
    if let Some(text) = fields.string("id") {
        match Uuid::parse_str(&text) {
            Ok(id) => return id,
            Err(_) => fields.report.mismatch(fields.place_of("id"), "`id` is no UUID", "a valid UUID"),
        }
    }
    key.map_or_else(Uuid::new_v4, |key| derived(kind, key))
}
