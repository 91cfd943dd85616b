//! The entities of a configuration as flat lists with ids, defaults and references, as Kong's admin API shows them.
//! References to secrets stay references. Must not know who asks.

use std::collections::HashMap;

use serde_json::{Map, Value, json};

use super::prepare::{self, Dialect, derived};
use super::schema::{ENTITIES, Entity, Kind, entity};
use super::services;
use super::sources::Bundle;
use crate::document::{Node, Report};

/// All entities of one configuration.
#[derive(Debug, Default)]
pub struct Entities {
    lists: HashMap<&'static str, Vec<Value>>,
    /// Places by kind and id or name.
    places: HashMap<&'static str, HashMap<String, usize>>,
}

impl Entities {
    /// Reads the texts again, without resolving references to secrets. Faults are not told: the texts were checked before.
    #[must_use]
    pub fn read(bundle: &Bundle, dialect: &Dialect) -> Self {
        let report = Report::of_files(bundle.names(), true);
        prepare::tree(bundle, dialect, false, &report).map_or_else(Self::default, |tree| Self::of(&tree))
    }

    /// Makes the lists of a prepared tree.
    #[must_use]
    pub fn of(root: &Node) -> Self {
        let mut entities = Entities::default();
        entities.below(root, None);
        entities.link();
        entities
    }

    /// The entities of a kind, in file order, nested ones after their parents.
    #[must_use]
    pub fn list(&self, kind: &str) -> &[Value] {
        self.lists.get(kind).map_or(&[], Vec::as_slice)
    }

    /// The entity of a kind by id or name.
    #[must_use]
    pub fn find(&self, kind: &str, name: &str) -> Option<&Value> {
        let place = self.places.get(kind)?.get(name)?;
        self.list(kind).get(*place)
    }

    /// Kinds with the entities of each, in the order of the table.
    pub fn all(&self) -> impl Iterator<Item = (&'static Entity, &[Value])> {
        ENTITIES.iter().map(|entity| (entity, self.list(entity.name)))
    }

    fn below(&mut self, node: &Node, parent: Option<(&'static Entity, &str)>) {
        for (key, value) in node.entries() {
            let Some(kind) = entity(&key.name) else { continue };
            // Routes have a field of the same name as a kind.
            if parent.is_some_and(|(owner, _)| !owner.children.contains(&kind.name)) {
                continue;
            }
            for item in value.items() {
                self.add(kind, item, parent);
            }
        }
    }

    fn add(&mut self, kind: &'static Entity, item: &Node, parent: Option<(&'static Entity, &str)>) {
        let mut json = match item.text() {
            // A name of a certificate.
            Some(name) => named(kind, name),
            None => full(kind, item),
        };
        if let Some((owner, id)) = parent {
            let field = if owner.name == "key_sets" { "set" } else { owner.singular() };
            json.insert(field.to_owned(), json!({ "id": id }));
        }
        let id = json.get("id").and_then(Value::as_str).unwrap_or_default().to_owned();
        let list = self.lists.entry(kind.name).or_default();
        let places = self.places.entry(kind.name).or_default();
        if let Some(name) = json.get(kind.endpoint).and_then(Value::as_str) {
            places.insert(name.to_owned(), list.len());
        }
        places.insert(id.clone(), list.len());
        list.push(Value::Object(json));
        self.below(item, Some((kind, &id)));
    }

    /// Turns references by name into `{"id": …}`.
    fn link(&mut self) {
        let places = std::mem::take(&mut self.places);
        let mut ids: HashMap<&str, HashMap<String, String>> = HashMap::new();
        for (kind, names) in &places {
            let list = self.list(kind);
            let id = |place: &usize| list.get(*place).and_then(|e| e["id"].as_str()).unwrap_or_default().to_owned();
            ids.insert(kind, names.iter().map(|(name, place)| (name.clone(), id(place))).collect());
        }
        for kind in ENTITIES {
            for field in kind.fields {
                let Kind::To(target) = field.kind else { continue };
                for json in self.lists.get_mut(kind.name).into_iter().flatten() {
                    let slot = &mut json[field.name];
                    let name =
                        slot.as_str().or_else(|| ["id", "name", "username"].iter().find_map(|k| slot.get(k)?.as_str()));
                    if let Some(id) = name.and_then(|name| ids.get(target)?.get(name)) {
                        *slot = json!({ "id": id });
                    }
                }
            }
        }
        self.places = places;
    }
}

fn named(kind: &Entity, name: &str) -> Map<String, Value> {
    let mut json = Map::new();
    json.insert("id".into(), derived(kind.name, name).to_string().into());
    json.insert("name".into(), name.into());
    json.insert("tags".into(), Value::Null);
    json
}

/// The entity with all its fields.
fn full(kind: &Entity, item: &Node) -> Map<String, Value> {
    let given = |name: &str| item.some(name).map(Node::to_json);
    let mut json = Map::new();
    json.insert("id".into(), given("id").unwrap_or_default());
    for field in kind.fields.iter().filter(|f| f.name != "url") {
        let value = match (given(field.name), field.name) {
            (Some(given), "healthchecks") => over(field.default_json(), given),
            (Some(given), _) => given,
            (None, "config") => json!({}),
            (None, _) => field.default_json(),
        };
        json.insert(field.name.into(), value);
    }
    match kind.name {
        "services" => expand(&mut json, item),
        "ca_certificates" if json["cert_digest"].is_null() => {
            let digest = json["cert"].as_str().and_then(super::keys::cert_digest);
            json.insert("cert_digest".into(), digest.into());
        }
        "routes" if json["expression"].is_null() => {
            json.remove("expression");
            json.remove("priority");
        }
        _ => {}
    }
    for common in ["tags", "created_at", "updated_at"] {
        json.insert(common.into(), given(common).unwrap_or_default());
    }
    json
}

/// What `url` stands for.
fn expand(json: &mut Map<String, Value>, item: &Node) {
    let Some(Ok(origin)) = item.some("url").and_then(Node::text).map(services::parse_url) else { return };
    json.insert("protocol".into(), origin.protocol.into());
    json.insert("host".into(), origin.host.into());
    json.insert("port".into(), origin.port.into());
    json.insert("path".into(), origin.path.into());
}

/// `given` over the defaults, map by map.
fn over(mut default: Value, given: Value) -> Value {
    match (&mut default, given) {
        (Value::Object(base), Value::Object(given)) => {
            for (key, value) in given {
                let below = base.remove(&key).unwrap_or_default();
                base.insert(key, over(below, value));
            }
            default
        }
        (_, Value::Null) => default,
        (_, given) => given,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entities_are_flat_linked_and_complete() {
        let text = "_format_version: '3.0'\n\
                    services: [{name: s, url: 'https://h/p', routes: [{name: r, paths: [/], snis: [a.test]}]}]\n\
                    plugins: [{name: cors, route: r}]\n\
                    upstreams: [{name: u, healthchecks: {active: {timeout: 3}}, targets: [{target: 'a:1'}]}]\n\
                    certificates: [{cert: x, key: '{vault://env/K}', snis: [a.test]}]\n\
                    consumers: [{username: c}]\nacls: [{consumer: c, group: g}]\n";
        let entities = Entities::read(&Bundle::of("k.yml", text), &Dialect::default());
        let service = entities.find("services", "s").expect("there");
        assert_eq!(
            (&service["protocol"], &service["port"], &service["path"]),
            (&json!("https"), &json!(443), &json!("/p"))
        );
        let route = entities.find("routes", "r").expect("there");
        assert_eq!(route["service"], json!({ "id": service["id"] }));
        assert_eq!(route["strip_path"], true);
        assert_eq!(entities.list("plugins")[0]["route"], json!({ "id": route["id"] }));
        let upstream = entities.find("upstreams", "u").expect("there");
        assert_eq!(upstream["healthchecks"]["active"]["timeout"], 3);
        assert_eq!(upstream["healthchecks"]["active"]["concurrency"], 10);
        assert_eq!(entities.list("targets")[0]["weight"], 100);
        assert_eq!(entities.list("snis").len(), 1, "a route's snis are no entities");
        assert_eq!(entities.list("certificates")[0]["key"], "{vault://env/K}");
        let consumer = entities.find("consumers", "c").expect("there");
        assert_eq!(entities.list("acls")[0]["consumer"], json!({ "id": consumer["id"] }));
    }
}
