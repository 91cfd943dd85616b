//! decK's dialect: what means the same is rewritten in Kong's words, the rest is refused by name. Must not know what the
//! entities are for.

use std::collections::HashMap;

use super::each_entity;
use crate::document::{Fields, Key, Node, Report, Value};

/// Takes decK's keys out of a file's root and does what they say.
pub fn rewrite(root: &mut Node, report: &Report) {
    let Value::Map(entries) = &mut root.value else { return };
    let mut taken: HashMap<String, (Key, Node)> = HashMap::new();
    for name in ["_info", "_workspace", "_plugin_configs"] {
        if let Some(index) = entries.iter().position(|(k, _)| k.name == name) {
            taken.insert(name.to_owned(), entries.remove(index));
        }
    }
    if let Some((_, workspace)) = taken.get("_workspace")
        && !matches!(&workspace.value, Value::Null)
        && workspace.text() != Some("default")
    {
        report.mismatch(workspace.place, "`_workspace` names an enterprise workspace", "`default`");
    }
    if let Some((_, info)) = taken.get("_info") {
        rewrite_info(root, info, report);
    }
    let shared = taken.get("_plugin_configs").map(|(_, node)| node);
    share_configs(root, shared, report);
}

/// `_info`: tags that all entities of the file get, and defaults of four kinds.
fn rewrite_info(root: &mut Node, info: &Node, report: &Report) {
    let Some(f) = Fields::of(info, "`_info`", report) else { return };
    let tags: Vec<String> = f.strings("select_tags").unwrap_or_default().into_iter().map(|(_, tag)| tag).collect();
    if f.node("default_lookup_tags").is_some() {
        report.error(f.place_of("default_lookup_tags"), "`default_lookup_tags` looks up entities outside of the file");
    }
    let defaults = f.fields("defaults");
    let of_kind: HashMap<&str, &Node> =
        [("services", "service"), ("routes", "route"), ("upstreams", "upstream"), ("targets", "target")]
            .into_iter()
            .filter_map(|(kind, key)| Some((kind, defaults.as_ref()?.node(key)?)))
            .collect();
    drop(defaults);
    each_entity(root, &mut |kind, entity| {
        if let Some(defaults) = of_kind.get(kind) {
            fill(entity, defaults, kind == "services" && entity.some("url").is_some());
        }
        if !tags.is_empty() {
            tag(entity, &tags);
        }
    });
}

/// Adds the members that an entity lacks; a `url` stands for four of them.
fn fill(entity: &mut Node, defaults: &Node, by_url: bool) {
    for (key, value) in defaults.entries() {
        let meant = by_url && matches!(key.name.as_str(), "protocol" | "host" | "port" | "path");
        if !meant && entity.member(&key.name).is_none() {
            entity.insert(&key.name, value.value.clone());
        }
    }
}

fn tag(entity: &mut Node, tags: &[String]) {
    let place = entity.place;
    let known: Vec<String> = entity
        .member("tags")
        .map(|t| t.items().iter().filter_map(Node::text).map(str::to_owned).collect())
        .unwrap_or_default();
    let new = tags.iter().filter(|t| !known.contains(t)).map(|t| Node { place, value: Value::Str(t.clone()) });
    match entity.member_mut("tags") {
        Some(Node { value: Value::Seq(items), .. }) => items.extend(new),
        Some(other) if matches!(other.value, Value::Null) => other.value = Value::Seq(new.collect()),
        Some(_) => {}
        None => {
            let list = Value::Seq(new.collect());
            entity.insert("tags", list);
        }
    }
}

/// `_config: NAME` of a plugin: the shared configuration under its own.
fn share_configs(root: &mut Node, shared: Option<&Node>, report: &Report) {
    each_entity(root, &mut |kind, entity| {
        if kind != "plugins" {
            return;
        }
        let Value::Map(entries) = &mut entity.value else { return };
        let Some(index) = entries.iter().position(|(k, _)| k.name == "_config") else { return };
        let (_, name) = entries.remove(index);
        let named = name.text().and_then(|name| shared?.member(name));
        let Some(base) = named else {
            let known: Vec<&str> =
                shared.map_or(&[][..], |s| s.entries()).iter().map(|(k, _)| k.name.as_str()).collect();
            let name_text = name.text().unwrap_or_default();
            report.unknown(
                name.place,
                format!("`_config`: `{name_text}` is not in `_plugin_configs`"),
                name_text,
                &known,
            );
            return;
        };
        match entity.member_mut("config") {
            Some(own) if matches!(own.value, Value::Map(_)) => under(own, base),
            Some(own) => own.value = base.value.clone(),
            None => entity.insert("config", base.value.clone()),
        }
    });
}

/// Adds what `base` has and `own` has not, map by map.
fn under(own: &mut Node, base: &Node) {
    for (key, value) in base.entries() {
        match own.member_mut(&key.name) {
            Some(mine) if matches!((&mine.value, &value.value), (Value::Map(_), Value::Map(_))) => under(mine, value),
            Some(_) => {}
            None => own.insert(&key.name, value.value.clone()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::document::tree::parse;

    fn rewritten(text: &str) -> (serde_json::Value, String) {
        let mut tree = parse(text).expect("parses");
        let report = Report::new("k.yml", false);
        rewrite(&mut tree, &report);
        (tree.to_json(), report.to_string())
    }

    #[test]
    fn defaults_tags_and_shared_configs_are_written_out() {
        let (tree, report) = rewritten(
            "_workspace: default\n_info:\n  select_tags: [team]\n  defaults: {service: {retries: 2, port: 9}, route: {strip_path: false}}\n\
             _plugin_configs: {limit: {minute: 5, policy: local}}\n\
             services:\n- {name: a, host: h, tags: [x], routes: [{name: r, strip_path: true}]}\n- {name: b, url: 'http://b'}\n\
             plugins: [{name: rate-limiting, _config: limit, config: {minute: 7}}]\n",
        );
        assert_eq!(report, "");
        assert_eq!(tree["services"][0]["retries"], 2);
        assert_eq!(tree["services"][0]["port"], 9);
        assert_eq!(tree["services"][0]["tags"], serde_json::json!(["x", "team"]));
        assert_eq!(tree["services"][0]["routes"][0]["strip_path"], true);
        assert!(tree["services"][1].get("port").is_none());
        assert_eq!(tree["plugins"][0]["config"], serde_json::json!({ "minute": 7, "policy": "local" }));
        assert!(tree.get("_info").is_none());
    }

    #[test]
    fn what_means_something_else_is_refused() {
        let (_, report) = rewritten("_workspace: other\nplugins: [{name: cors, _config: nothing}]\n");
        assert!(report.contains("1:13: error: `_workspace`"), "{report}");
        assert!(report.contains("`nothing` is not in"), "{report}");
    }
}
