//! References to secrets, `{vault://env/NAME}`: replaced by what the environment holds. A reference that leads nowhere
//! becomes a value that nobody can guess, never the empty string and never its own text. Must not know which fields are
//! secret.

use std::collections::HashMap;

use crate::document::{Node, Place, Report, Value};

/// What may stand before the name: backends by prefix.
#[derive(Debug, Default)]
pub struct Vaults {
    /// Prefix of the entity → what its `config.prefix` puts before names; only of the `env` backend.
    env: HashMap<String, String>,
}

impl Vaults {
    /// Reads the `vaults` of a root.
    #[must_use]
    pub fn of(root: &Node) -> Self {
        let mut env = HashMap::from([("env".to_owned(), String::new())]);
        for vault in root.member("vaults").map(Node::items).unwrap_or_default() {
            let text = |name: &str| vault.member(name).and_then(Node::text);
            if let (Some("env"), Some(prefix)) = (text("name"), text("prefix")) {
                let before = vault.member("config").and_then(|c| c.member("prefix")).and_then(Node::text);
                env.insert(prefix.to_owned(), before.unwrap_or_default().to_owned());
            }
        }
        Vaults { env }
    }

    /// The value of a reference, which is the text between `{vault://` and `}`.
    ///
    /// # Errors
    /// Why there is none; the first is fatal: no such vault.
    fn value(&self, reference: &str, variables: &HashMap<String, String>) -> Result<Option<String>, String> {
        let path = reference.split('?').next().unwrap_or_default();
        let mut parts = path.splitn(3, '/');
        let (vault, name, key) = (parts.next().unwrap_or_default(), parts.next().unwrap_or_default(), parts.next());
        let Some(before) = self.env.get(vault) else {
            return Err(format!("no vault `{vault}`: only `env` and `vaults` of that name are there"));
        };
        if name.is_empty() {
            return Err("the reference names no variable".to_owned());
        }
        let variable = format!("{before}{name}").to_uppercase().replace('-', "_");
        let Some(value) = variables.get(&variable) else { return Ok(None) };
        let Some(key) = key.filter(|key| !key.is_empty()) else { return Ok(Some(value.clone())) };
        let member = serde_json::from_str::<serde_json::Value>(value).ok().and_then(|json| {
            Some(match json.get(key)? {
                serde_json::Value::String(text) => text.clone(),
                other => other.to_string(),
            })
        });
        Ok(member)
    }
}

/// Replaces every reference of the tree.
pub fn resolve(root: &mut Node, variables: &HashMap<String, String>, report: &Report) {
    let vaults = Vaults::of(root);
    root.walk_mut(&mut |node| {
        let place = node.place;
        let Value::Str(text) = &mut node.value else { return };
        let Some(reference) = text.strip_prefix("{vault://").and_then(|rest| rest.strip_suffix('}')) else { return };
        *text = found(&vaults, reference, variables, place, report);
    });
}

fn found(
    vaults: &Vaults,
    reference: &str,
    variables: &HashMap<String, String>,
    place: Place,
    report: &Report,
) -> String {
    match vaults.value(reference, variables) {
        Ok(Some(value)) => return value,
        Ok(None) => report.warn(
            place,
            format!("`{{vault://{reference}}}` is not set here: in its place stands a value that nobody knows"),
        ),
        Err(words) => report.error(place, format!("`{{vault://{reference}}}`: {words}")),
    }
    format!("{:032x}{:032x}", rand::random::<u128>(), rand::random::<u128>())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::document::tree::parse;

    #[test]
    fn references_are_resolved_and_the_lost_ones_told() {
        let text = "vaults: [{name: env, prefix: mine, config: {prefix: APP_}}]\n\
                    a: '{vault://env/my-key}'\nb: '{vault://mine/pair/user?ttl=5}'\nc: '{vault://env/none}'\nd: '{vault://aws/x}'\ne: 'x{vault://env/my-key}'\n";
        let mut tree = parse(text).expect("parses");
        let variables = HashMap::from([
            ("MY_KEY".to_owned(), "k".to_owned()),
            ("APP_PAIR".to_owned(), "{\"user\": \"u\"}".to_owned()),
        ]);
        let report = Report::new("k.yml", false);
        resolve(&mut tree, &variables, &report);
        let of = |name: &str| tree.member(name).and_then(Node::text).unwrap_or_default().to_owned();
        assert_eq!((of("a").as_str(), of("b").as_str()), ("k", "u"));
        assert_eq!(of("c").len(), 64);
        assert_eq!(of("e"), "x{vault://env/my-key}");
        let told = report.to_string();
        assert!(told.contains("4:4: warning") && told.contains("5:4: error"), "{told}");
    }
}
