//! Every plugin of the registry has a page and a black-box test. The names are read from the registry's source, so
//! that this needs no build of the gateway.

use super::House;

const REGISTRY: &str = "gateway/src/plugins/mod.rs";

pub fn undocumented(house: &House) -> Vec<String> {
    let mut faults = Vec::new();
    for name in names(house) {
        let page = format!("docs/plugins/{name}.md");
        let test = format!("tests/blackbox/{}.rs", name.replace('-', "_"));
        for file in [page, test] {
            if !house.has(&file) {
                faults.push(format!("{REGISTRY}: plugin `{name}` has no {file}"));
            }
        }
    }
    faults
}

/// The plugins' names: the strings between `REGISTRY` and the end of its list.
fn names(house: &House) -> Vec<String> {
    let Some((_, text)) = house.texts.iter().find(|(name, _)| name == REGISTRY) else { return Vec::new() };
    let Some(start) = text.find("REGISTRY:") else { return Vec::new() };
    let list = text[start..].split("];").next().unwrap_or_default();
    list.split('"').skip(1).step_by(2).map(str::to_owned).collect()
}
