//! Kong's read endpoints: lists, single entities by id or name, children of an entity, tags, schemas, health. There is no
//! database, so nothing can be written here but a whole configuration.

use bytes::Bytes;
use http::{Method, StatusCode};
use http_body_util::Full;
use serde_json::{Value, json};

use super::health::{self, Addresses};
use super::page::Page;
use super::{json_of, message};
use crate::clock;
use crate::config::Snapshot;
use crate::config::entities::Entities;
use crate::config::schema;
use crate::plugins::REGISTRY;

/// Lists by their address, where it differs from the entity's name.
const ALIASES: &[(&str, &str)] = &[
    ("key-auths", "keyauth_credentials"),
    ("jwts", "jwt_secrets"),
    ("basic-auths", "basicauth_credentials"),
    ("hmac-auths", "hmacauth_credentials"),
    ("mtls-auths", "mtls_auth_credentials"),
    ("header-cert-auths", "header_cert_auth_credentials"),
    ("oauth2", "oauth2_credentials"),
    ("key-sets", "key_sets"),
    ("key-auth", "keyauth_credentials"),
    ("jwt", "jwt_secrets"),
    ("basic-auth", "basicauth_credentials"),
    ("hmac-auth", "hmacauth_credentials"),
    ("mtls-auth", "mtls_auth_credentials"),
    ("header-cert-auth", "header_cert_auth_credentials"),
];

/// Singular addresses of the entity that another refers to.
const PARENTS: &[(&str, &str)] = &[
    ("service", "services"),
    ("route", "routes"),
    ("consumer", "consumers"),
    ("consumer_group", "consumer_groups"),
    ("upstream", "upstreams"),
    ("certificate", "certificates"),
    ("set", "key_sets"),
];

/// A request for entities.
pub struct Asked<'a> {
    /// Its method.
    pub method: &'a Method,
    /// Its path.
    pub path: &'a str,
    /// Its query.
    pub query: &'a str,
    /// The addresses that an answer about health needs.
    pub addresses: &'a Addresses,
}

/// Answers a request for entities.
pub fn answer(
    snapshot: &Snapshot,
    issued: Vec<Value>,
    asked: &Asked<'_>,
    node: &str,
    loaded_unix_s: u64,
) -> http::Response<Full<Bytes>> {
    let Asked { method, path, query, addresses } = *asked;
    let parts = super::parts(path);
    let parts: Vec<&str> = parts.iter().map(String::as_str).collect();
    let known = parts.first().is_some_and(|first| kind(first).is_some());
    let target_of = |id: &str| {
        let entities = snapshot.entities(clock::monotonic_ns());
        entities.find("targets", id).and_then(|target| target["target"].as_str().map(str::to_owned))
    };
    if let Some(answer) = health::put(snapshot, method, &parts, target_of) {
        return answer;
    }
    if *method != Method::GET && *method != Method::HEAD {
        return if known { unwritable(parts[0]) } else { message(StatusCode::NOT_FOUND, "Not found") };
    }
    let entities = snapshot.entities(clock::monotonic_ns());
    let view = View { snapshot, addresses, entities: &entities, issued, path, query, node, loaded_unix_s };
    match view.read(&parts) {
        Ok(Some(value)) => json_of(StatusCode::OK, &value),
        Ok(None) => message(StatusCode::NOT_FOUND, "Not found"),
        Err(fields) => json_of(
            StatusCode::BAD_REQUEST,
            &json!({ "code": 2, "name": "schema violation", "message": "schema violation", "fields": fields }),
        ),
    }
}

/// Kong's words for a write without a database.
pub fn unwritable(list: &str) -> http::Response<Full<Bytes>> {
    let kind = kind(list).unwrap_or(list);
    let text = format!(
        "cannot create, update or delete '{kind}' entities when not using a database; POST /config takes a whole configuration"
    );
    json_of(StatusCode::METHOD_NOT_ALLOWED, &json!({ "code": 12, "name": "operation unsupported", "message": text }))
}

fn kind(list: &str) -> Option<&'static str> {
    let alias = ALIASES.iter().find(|(alias, _)| *alias == list).map(|(_, kind)| *kind);
    alias.or_else(|| schema::entity(list).map(|entity| entity.name))
}

struct View<'a> {
    snapshot: &'a Snapshot,
    addresses: &'a Addresses,
    entities: &'a Entities,
    /// API keys that are made while it runs.
    issued: Vec<Value>,
    path: &'a str,
    query: &'a str,
    node: &'a str,
    loaded_unix_s: u64,
}

type Answer = Result<Option<Value>, Value>;

impl View<'_> {
    fn read(&self, parts: &[&str]) -> Answer {
        match parts {
            ["endpoints"] => Ok(Some(endpoints())),
            ["plugins", "enabled"] => {
                Ok(Some(json!({ "enabled_plugins": REGISTRY.iter().map(|k| k.name).collect::<Vec<_>>() })))
            }
            ["plugins", "schema", name] | ["schemas", "plugins", name] => Ok(schema::kong_plugin(name)),
            ["schemas", name] => Ok(schema::kong_entity(name)),
            ["tags"] => self.page(self.tagged(None).iter()),
            ["tags", tag] => self.page(self.tagged(Some(tag)).iter()),
            ["upstreams", name, "health"] => self.health(name),
            ["upstreams", name, "targets", "all"] => self.children("upstreams", name, "targets"),
            [list] => match kind(list) {
                Some(kind) => self.page(self.list(kind)),
                None => Ok(None),
            },
            [list, name] => Ok(kind(list).and_then(|kind| self.find(kind, name)).map(|e| self.dated(e))),
            [list, name, child] => {
                let Some(kind) = kind(list) else { return Ok(None) };
                match PARENTS.iter().find(|(singular, _)| singular == child) {
                    Some((field, parent)) => {
                        let id = self.find(kind, name).and_then(|e| e[*field]["id"].as_str());
                        Ok(id.and_then(|id| self.entities.find(parent, id)).map(|e| self.dated(e)))
                    }
                    None => self.children(kind, name, child),
                }
            }
            // An entity by way of its parent.
            [list, name, child, own] => {
                let (Some(parent), Some(child)) = (kind(list), kind(child)) else { return Ok(None) };
                let (Some(parent), Some(entity)) = (self.find(parent, name), self.find(child, own)) else {
                    return Ok(None);
                };
                let belongs =
                    PARENTS.iter().any(|(field, _)| !parent["id"].is_null() && entity[*field]["id"] == parent["id"]);
                Ok(belongs.then(|| self.dated(entity)))
            }
            _ => Ok(None),
        }
    }

    /// The file's entities of a kind, then the issued ones.
    fn list(&self, kind: &str) -> impl Iterator<Item = &Value> {
        let issued = if kind == "keyauth_credentials" { &self.issued[..] } else { &[] };
        self.entities.list(kind).iter().chain(issued)
    }

    fn find(&self, kind: &str, name: &str) -> Option<&Value> {
        let issued = self.issued.iter().filter(|_| kind == "keyauth_credentials");
        self.entities.find(kind, name).or_else(|| issued.into_iter().find(|key| key["id"] == name))
    }

    /// Entities whose file says no time are as old as the configuration.
    fn dated(&self, entity: &Value) -> Value {
        let mut entity = entity.clone();
        for time in ["created_at", "updated_at"] {
            if entity.get(time).is_some_and(Value::is_null) {
                entity[time] = self.loaded_unix_s.into();
            }
        }
        entity
    }

    fn page<'b>(&self, list: impl Iterator<Item = &'b Value>) -> Answer {
        let mut page = Page::of(self.query)?.cut(list, self.path);
        if let Some(data) = page["data"].as_array_mut() {
            for entity in data {
                *entity = self.dated(entity);
            }
        }
        Ok(Some(page))
    }

    fn children(&self, parent: &str, name: &str, child: &str) -> Answer {
        let Some(entity) = schema::entity(parent) else { return Ok(None) };
        let Some(id) = self.entities.find(parent, name).map(|e| e["id"].clone()) else { return Ok(None) };
        let Some(child) = kind(child).filter(|child| entity.children.contains(child)) else { return Ok(None) };
        let field = entity.singular();
        self.page(self.list(child).filter(|e| e[field]["id"] == id))
    }

    fn tagged(&self, only: Option<&str>) -> Vec<Value> {
        let mut found = Vec::new();
        for (kind, list) in self.entities.all() {
            for entity in list {
                for tag in entity["tags"].as_array().into_iter().flatten() {
                    if only.is_none_or(|only| tag == only) {
                        found.push(json!({ "entity_name": kind.name, "entity_id": entity["id"], "tag": tag }));
                    }
                }
            }
        }
        found
    }

    /// Targets with their health, or with `balancer_health=1` that of the whole upstream.
    fn health(&self, name: &str) -> Answer {
        let Some(upstream) = self.entities.find("upstreams", name) else { return Ok(None) };
        let Some(group) = upstream["id"].as_str().and_then(|id| health::group(self.snapshot, id)) else {
            return Ok(None);
        };
        let mut query = form_urlencoded::parse(self.query.as_bytes());
        if query.any(|(key, value)| key == "balancer_health" && value == "1") {
            let data = json!({ "id": upstream["id"], "health": group.health() });
            return Ok(Some(json!({ "data": data, "next": null, "node_id": self.node })));
        }
        let targets = self.entities.list("targets").iter().filter(|t| t["upstream"]["id"] == upstream["id"]);
        let mut page = Page::of(self.query)?.cut(targets, self.path);
        for target in page["data"].as_array_mut().into_iter().flatten() {
            *target = self.dated(target);
            health::tell(target, group, self.addresses);
        }
        page["node_id"] = self.node.into();
        Ok(Some(page))
    }
}

fn endpoints() -> Value {
    let lists = schema::ENTITIES.iter().flat_map(|entity| {
        let own = format!("/{}", entity.name);
        [own.clone(), format!("{own}/{{{}}}", entity.name)]
    });
    let fixed = ["/", "/status", "/metrics", "/config", "/endpoints", "/tags", "/tags/{tags}", "/plugins/enabled"];
    let schemas = ["/schemas/{name}", "/schemas/plugins/{name}", "/upstreams/{upstreams}/health", "/edge", "/edge/why"];
    let mut data: Vec<String> = lists.chain(fixed.into_iter().chain(schemas).map(str::to_owned)).collect();
    data.sort();
    json!({ "data": data })
}
