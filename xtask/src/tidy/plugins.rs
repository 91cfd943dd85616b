//! Every plugin of the registry has a page and a black-box test. The registry is read as text, so that this needs no
//! build of the gateway: each entry is `room::rate_limiting::KIND`, a file named after the plugin `rate-limiting`.

use super::House;

const REGISTRY: &str = "gateway/src/plugins/mod.rs";
const TESTS: &str = "tests/blackbox/main.rs";

pub fn undocumented(house: &House) -> Vec<String> {
    let text = |wanted: &str| house.texts.iter().find(|(name, _)| name == wanted).map(|(_, text)| text.as_str());
    let files = files_of(text(REGISTRY).unwrap_or_default());
    if files.is_empty() {
        return vec![format!("{REGISTRY}: no plugin was found in REGISTRY")];
    }
    let tests = text(TESTS).unwrap_or_default();
    let mut faults = Vec::new();
    for file in files {
        let page = format!("docs/plugins/{}.md", file.replace('_', "-"));
        if text(&page).is_none() {
            faults.push(format!("{REGISTRY}: `{file}` has no {page}"));
        }
        if !tests.lines().any(|line| line.trim() == format!("mod {file};")) {
            faults.push(format!("{REGISTRY}: `{file}` is no module of {TESTS}"));
        }
    }
    faults
}

/// The plugins' modules, from the entries of the list.
fn files_of(text: &str) -> Vec<String> {
    let list = text.split_once("REGISTRY: ").map_or("", |(_, rest)| rest);
    let list = list.split("];").next().unwrap_or_default();
    list.lines()
        .filter_map(|line| line.trim().strip_suffix("::KIND,"))
        .filter_map(|path| path.rsplit("::").next())
        .map(str::to_owned)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_registry_is_read() {
        let text =
            "pub const REGISTRY: &[Kind] = &[\n    // Why.\n    auth::key_auth::KIND,\n    cors::KIND,\n];\nx::KIND,";
        assert_eq!(files_of(text), ["key_auth", "cors"]);
    }

    #[test]
    fn a_plugin_without_page_or_test_is_named_twice() {
        let registry = "REGISTRY: x = [\n    auth::key_auth::KIND,\n];".to_owned();
        let mut house = House { sources: Vec::new(), texts: vec![(REGISTRY.to_owned(), registry)] };
        assert_eq!(undocumented(&house).len(), 2);
        house.texts.push(("docs/plugins/key-auth.md".to_owned(), String::new()));
        house.texts.push((TESTS.to_owned(), "mod key_auth;\n".to_owned()));
        assert_eq!(undocumented(&house), Vec::<String>::new());
    }
}
