//! The rules that look at lines: sizes, openings, words and paths that must not stand there.

use super::House;
use super::source::{Line, Source};

const CODE_LINES_MAX: usize = 400;

/// Where `unsafe` may stand: the kernel programs, the map types that cross into the kernel, and test harnesses.
const UNSAFE_ALLOWED: &[&str] = &["gateway-ebpf/", "gateway-common/", "tests/"];

/// How far above an `unsafe` its reason may stand.
const SAFETY_LINES_ABOVE: usize = 4;

pub fn long_files(house: &House) -> Vec<String> {
    let too_long = |source: &Source| {
        let lines = source.code().count();
        (lines > CODE_LINES_MAX).then(|| format!("{}: {lines} code lines", source.name))
    };
    house.sources.iter().filter_map(too_long).collect()
}

pub fn unopened_files(house: &House) -> Vec<String> {
    let unopened = |source: &&Source| {
        !source.name.ends_with("/tests.rs") && source.lines.first().is_none_or(|line| !line.text.starts_with("//!"))
    };
    house.sources.iter().filter(unopened).map(|source| format!("{}:1: no `//!`", source.name)).collect()
}

pub fn unfinished(house: &House) -> Vec<String> {
    let words = ["todo!", "unimplemented!", "dbg!", "#[ignore"];
    each_line(house, |_, line| words.iter().find(|word| has_word(&line.code, word)).map(|word| (*word).to_owned()))
}

pub fn aya_elsewhere(house: &House) -> Vec<String> {
    house
        .under("gateway/src/")
        .filter(|source| !source.name.starts_with("gateway/src/edge/"))
        .flat_map(|source| {
            let uses = |line: &&Line| has_word(&line.code, "aya::") || has_word(&line.code, "use aya");
            source.code().filter(uses).map(|line| format!("{}: aya", source.at(line))).collect::<Vec<_>>()
        })
        .collect()
}

pub fn unsafe_elsewhere(house: &House) -> Vec<String> {
    each_line(house, |source, line| {
        if !has_word(&line.code, "unsafe") {
            return None;
        }
        if !UNSAFE_ALLOWED.iter().any(|folder| source.name.starts_with(folder)) {
            return Some("`unsafe` is not allowed here".to_owned());
        }
        // `unsafe fn` in a signature asks its caller; blocks and impls owe the reason.
        let owes = line.code.contains("unsafe {") || line.code.contains("unsafe impl");
        let above = line.number.saturating_sub(1 + SAFETY_LINES_ABOVE);
        let reason = source.lines[above..line.number].iter().any(|line| line.text.contains("SAFETY:"));
        (owes && !reason).then(|| "`unsafe` without `// SAFETY:`".to_owned())
    })
}

pub fn machine_paths(house: &House) -> Vec<String> {
    // Spelled in two pieces, so that this file does not break its own rule.
    let folders = [("/ro", "ot/"), ("/wo", "rk/"), ("/Us", "ers/"), ("/ho", "me/")].map(|(a, b)| format!("{a}{b}"));
    let mut faults = Vec::new();
    for (name, text) in house.texts.iter().filter(|(name, _)| !name.ends_with("Cargo.lock")) {
        for (index, line) in text.lines().enumerate() {
            let found = folders.iter().find(|folder| {
                // A path begins after something that is no part of a longer path or address.
                line.match_indices(folder.as_str())
                    .any(|(at, _)| !line[..at].ends_with(|c: char| c.is_alphanumeric() || "./-_~$}".contains(c)))
            });
            if let Some(folder) = found {
                faults.push(format!("{name}:{}: {folder}", index + 1));
            }
        }
    }
    faults
}

fn each_line(house: &House, rule: impl Fn(&Source, &Line) -> Option<String>) -> Vec<String> {
    let mut faults = Vec::new();
    for source in &house.sources {
        for line in &source.lines {
            if let Some(what) = rule(source, line) {
                faults.push(format!("{}: {what}", source.at(line)));
            }
        }
    }
    faults
}

/// Whether `word` stands in the code and is not the end of a longer word; a word that ends in a letter also has to end.
fn has_word(code: &str, word: &str) -> bool {
    let part = |c: char| c.is_alphanumeric() || c == '_';
    code.match_indices(word).any(|(at, _)| {
        let ends = !word.ends_with(part) || !code[at + word.len()..].starts_with(part);
        !code[..at].ends_with(part) && ends
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn house(name: &str, text: &str) -> House {
        House { sources: vec![Source::new(name, text)], texts: vec![(name.into(), text.into())] }
    }

    #[test]
    fn a_file_over_the_wall_without_an_opening_is_named_and_its_tests_do_not_count() {
        let body = "a();\n".repeat(400);
        let within = house("a.rs", &format!("//! A\n{body}#[cfg(test)]\nmod tests {{\n{body}}}\n"));
        assert_eq!((long_files(&within).len(), unopened_files(&within).len()), (0, 0));
        let over = house("a.rs", &format!("{body}b();\n"));
        assert_eq!((long_files(&over).len(), unopened_files(&over).len()), (1, 1));
    }

    #[test]
    fn words_are_looked_for_in_code_only() {
        let mark = ["to", "do!()"].concat();
        assert_eq!(unfinished(&house("a.rs", &format!("{mark};"))).len(), 1);
        assert_eq!(unfinished(&house("a.rs", &format!("// {mark}\nf(\"{mark}\"); my{mark}"))).len(), 0);
        assert_eq!(aya_elsewhere(&house("gateway/src/app.rs", "use aya::Ebpf;")).len(), 1);
        assert_eq!(aya_elsewhere(&house("gateway/src/edge/attach.rs", "use aya::Ebpf;")).len(), 0);
        assert_eq!(aya_elsewhere(&house("gateway/src/app.rs", "use maya::x;")).len(), 0);
    }

    #[test]
    fn unsafe_needs_a_place_and_a_reason() {
        let mark = ["uns", "afe"].concat();
        assert_eq!(unsafe_elsewhere(&house("gateway/src/a.rs", &format!("{mark} {{ f() }}"))).len(), 1);
        assert_eq!(unsafe_elsewhere(&house("tests/src/a.rs", &format!("{mark} {{ f() }}"))).len(), 1);
        assert_eq!(unsafe_elsewhere(&house("tests/src/a.rs", &format!("// SAFETY: x\n{mark} {{ f() }}"))).len(), 0);
    }

    #[test]
    fn a_path_of_a_machine_is_found_and_a_path_inside_another_is_not() {
        let path = ["/ro", "ot/x"].concat();
        assert_eq!(machine_paths(&house("README.md", &format!("see {path}"))).len(), 1);
        assert_eq!(machine_paths(&house("README.md", &format!("see http://h{path} and ./a{path}"))).len(), 0);
    }
}
