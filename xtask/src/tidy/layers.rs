//! The one-way order of the gateway's rooms: a file may use its own layer and those below. The table is the order of
//! docs/ARCHITECTURE.md; a room that is not in it is a fault, so that a new room gets its place on purpose.

use super::House;
use super::source::Source;

/// Module paths and their layers; the longest path that fits decides.
const LAYERS: &[(&str, u32)] = &[
    ("background", 0),
    ("ber", 0),
    ("clock", 0),
    ("crypto", 0),
    ("document", 0),
    ("drain", 0),
    ("limits", 0),
    ("privileges", 0),
    ("proxy::cookies", 0),
    ("proxy::h1", 0),
    ("proxy::h2", 0),
    ("proxy::line", 0),
    ("proxy::presence", 0),
    ("proxy::registry", 0),
    ("proxy::reply", 0),
    ("proxy::transport", 0),
    ("watch", 0),
    ("calls", 1),
    ("identity", 1),
    ("proxy::body", 1),
    ("proxy::exchange", 1),
    ("telemetry", 2),
    ("edge", 3),
    ("limits::store", 4),
    ("listen::tls", 4),
    ("plugins", 4),
    ("upstreams", 4),
    ("fleet", 5),
    ("router", 5),
    ("config", 6),
    ("proxy", 7),
    ("admin", 8),
    ("listen", 8),
    ("app", 9),
    ("cli", 10),
    ("main", 11),
];

/// Upward uses that are meant: the file's module, what it uses, and why.
const SEAMS: &[(&str, &str, &str)] =
    &[("telemetry::metrics", "plugins::MetricFlags", "a plugin chooses the families; flags without behaviour")];

pub fn upward_uses(house: &House) -> Vec<String> {
    let mut faults = Vec::new();
    for source in house.under("gateway/src/") {
        let module = module_of(&source.name);
        if module.is_empty() {
            continue; // lib.rs only lists the rooms.
        }
        let Some(own) = layer(&module) else {
            faults.push(format!("{}:1: module `{module}` has no layer in xtask/src/tidy/layers.rs", source.name));
            continue;
        };
        for (line, used) in uses(source, &module) {
            match layer(&used) {
                Some(theirs) if theirs > own && !is_seam(&module, &used) => {
                    faults.push(format!("{}:{line}: layer {own} uses `{used}` of layer {theirs}", source.name));
                }
                _ => {}
            }
        }
    }
    faults
}

fn is_seam(module: &str, used: &str) -> bool {
    SEAMS.iter().any(|(file, name, _)| *file == module && *name == used)
}

/// `gateway/src/proxy/h1/mod.rs` is `proxy::h1`; lib.rs is the empty path.
fn module_of(name: &str) -> String {
    let path = name.trim_start_matches("gateway/src/").trim_end_matches(".rs").trim_end_matches("/mod");
    if path == "lib" { String::new() } else { path.replace('/', "::") }
}

fn layer(path: &str) -> Option<u32> {
    let fits = |known: &str| path == known || path.strip_prefix(known).is_some_and(|rest| rest.starts_with("::"));
    LAYERS.iter().filter(|(known, _)| fits(known)).max_by_key(|(known, _)| known.len()).map(|(_, layer)| *layer)
}

/// The crate's own modules that a file's code names, with lines.
fn uses(source: &Source, module: &str) -> Vec<(usize, String)> {
    let code: String =
        source.lines.iter().map(|line| if line.test { "\n".to_owned() } else { format!("{}\n", line.code) }).collect();
    let parts: Vec<&str> = module.split("::").collect();
    let mut found = Vec::new();
    for prefix in ["crate::", "gateway::"] {
        for at in starts_of(&code, prefix) {
            expand("", &code[at + prefix.len()..], &mut |path| found.push((line_of(&code, at), path)));
        }
    }
    for at in starts_of(&code, "super::") {
        let line_start = code[..at].rfind('\n').map_or(0, |newline| newline + 1);
        // Deeper in the file `super` may be of an inline module; only the file's own imports are resolved.
        let own_import = matches!(code[line_start..at].trim_end(), "use" | "pub use" | "pub(crate) use");
        let ups = count_leading(&code[at..], "super::");
        if own_import && ups <= parts.len() {
            let base = parts[..parts.len() - ups].join("::");
            let rest = &code[at + ups * "super::".len()..];
            expand(&base, rest, &mut |path| found.push((line_of(&code, at), path)));
        }
    }
    found
}

fn count_leading(text: &str, word: &str) -> usize {
    let mut rest = text;
    let mut count = 0;
    while let Some(tail) = rest.strip_prefix(word) {
        (rest, count) = (tail, count + 1);
    }
    count
}

/// Where `word` begins as a path of its own.
fn starts_of<'a>(code: &'a str, word: &'a str) -> impl Iterator<Item = usize> {
    let part = |c: char| c.is_alphanumeric() || c == '_' || c == ':';
    code.match_indices(word).map(|(at, _)| at).filter(move |&at| !code[..at].ends_with(part))
}

fn line_of(code: &str, at: usize) -> usize {
    code[..at].matches('\n').count() + 1
}

/// Gives each path of `a::b`, `{a, b::{c, d}}` and their mixtures, below `base`.
fn expand(base: &str, text: &str, give: &mut impl FnMut(String)) {
    let text = text.trim_start();
    if let Some(inner) = text.strip_prefix('{') {
        for item in split_group(inner) {
            expand(base, item, give);
        }
        return;
    }
    let end = text.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(text.len());
    let (segment, rest) = text.split_at(end);
    let path = match (base.is_empty(), segment.is_empty() || segment == "self") {
        (_, true) => base.to_owned(),
        (true, false) => segment.to_owned(),
        (false, false) => format!("{base}::{segment}"),
    };
    match rest.strip_prefix("::") {
        Some(rest) if !segment.is_empty() => expand(&path, rest, give),
        _ => give(path),
    }
}

/// The items of a group up to its closing brace, split at the commas of its own level.
fn split_group(inner: &str) -> Vec<&str> {
    let (mut depth, mut start) = (0_i32, 0);
    let mut items = Vec::new();
    for (at, character) in inner.char_indices() {
        match character {
            '{' => depth += 1,
            '}' if depth == 0 => {
                items.push(&inner[start..at]);
                break;
            }
            '}' => depth -= 1,
            ',' if depth == 0 => {
                items.push(&inner[start..at]);
                start = at + 1;
            }
            _ => {}
        }
    }
    items.retain(|item| !item.trim().is_empty());
    items
}

#[cfg(test)]
mod tests {
    use super::*;

    fn faults(name: &str, text: &str) -> Vec<String> {
        let house = House { sources: vec![Source::new(name, text)], texts: Vec::new() };
        upward_uses(&house)
    }

    #[test]
    fn the_longest_path_decides_the_layer() {
        assert_eq!(layer("proxy::path"), Some(7));
        assert_eq!(layer("proxy::reply::Reason"), Some(0));
        assert_eq!(layer("limits::store"), Some(4));
        assert_eq!(layer("proxying"), None);
        assert_eq!(module_of("gateway/src/proxy/h1/mod.rs"), "proxy::h1");
    }

    #[test]
    fn upward_uses_are_found_in_every_spelling() {
        let upward = [
            "use crate::app::App;",
            "use crate::{clock, app};",
            "use crate::{\n    clock,\n    proxy::{path::Path, reply},\n};",
            "fn f() { crate::config::load() }",
        ];
        for text in upward {
            assert_eq!(faults("gateway/src/edge/mod.rs", text).len(), 1, "{text}");
        }
        assert_eq!(faults("gateway/src/proxy/reply.rs", "use super::path::Path;").len(), 1);
        assert_eq!(faults("gateway/src/edge/map/x.rs", "use super::super::super::app;").len(), 1);
    }

    #[test]
    fn downward_uses_and_tests_are_allowed() {
        let allowed = "//! x\nuse crate::{clock, edge::Policy, proxy::reply};\n// crate::app\n\
                       #[cfg(test)]\nmod tests { use crate::app::App; }\n";
        assert_eq!(faults("gateway/src/edge/mod.rs", allowed), Vec::<String>::new());
        assert_eq!(faults("gateway/src/main.rs", "use gateway::cli;"), Vec::<String>::new());
    }

    #[test]
    fn a_room_without_a_layer_is_a_fault() {
        assert_eq!(faults("gateway/src/attic.rs", "//! x").len(), 1);
    }
}
