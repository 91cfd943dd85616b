//! Paths of format 1.1 and 2.1 in the form of 3.0: what was a regex then says so with `~` now.

use crate::document::{Node, Value};

/// Rewrites the paths of a file that declares an older format (Kong migrates the paths of top-level routes and of routes
/// within services).
pub fn migrate(root: &mut Node) {
    if !matches!(root.member("_format_version").and_then(Node::text), Some("1.1" | "2.1")) {
        return;
    }
    super::each_entity(root, &mut |kind, entity| {
        let paths = if kind == "routes" { entity.member_mut("paths") } else { None };
        let Some(Node { value: Value::Seq(items), .. }) = paths else { return };
        for item in items {
            if let Value::Str(text) = &mut item.value {
                *text = path(text);
            }
        }
    });
}

fn path(text: &str) -> String {
    let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_' | b'~' | b'/' | b'%');
    if text.starts_with('~') || text.bytes().all(plain) { text.to_owned() } else { format!("~{text}") }
}

#[cfg(test)]
mod tests {
    #[test]
    fn only_regexes_get_the_mark() {
        assert_eq!(super::path("/pets"), "/pets");
        assert_eq!(super::path("/pets/(?<id>\\d+)$"), "~/pets/(?<id>\\d+)$");
    }
}
