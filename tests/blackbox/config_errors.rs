//! Broken files: every fault is reported in one run, at its line and column, with the word that helps.
//!
//! In the texts `§` stands where a fault begins; it is taken out before the file is written, and the
//! words below are expected at those places in that order.

use std::fs;

use gateway_tests::gateway::command;

mod dialects;
mod entities;

/// One broken file.
struct Case {
    what: &'static str,
    text: &'static str,
    words: &'static [&'static str],
}

/// The text without marks, and where they stood.
fn places(text: &str) -> (String, Vec<(usize, usize)>) {
    let mut places = Vec::new();
    let mut out = String::new();
    for (line, content) in text.split_inclusive('\n').enumerate() {
        for piece in content.split_inclusive('§') {
            let plain = piece.trim_end_matches('§');
            out.push_str(plain);
            if piece.ends_with('§') {
                let start = out.rfind('\n').map_or(0, |at| at + 1);
                places.push((line + 1, out[start..].chars().count() + 1));
            }
        }
    }
    (out, places)
}

/// The reports of one place: everything from its line to the next report.
fn report_at(stderr: &str, file: &str, place: (usize, usize)) -> Option<String> {
    let prefix = format!("{file}:{}:{}: ", place.0, place.1);
    let mut out = String::new();
    let mut inside = false;
    for line in stderr.lines() {
        if line.starts_with(&format!("{file}:")) {
            inside = line.starts_with(&prefix);
        }
        if inside {
            out.push_str(line);
            out.push('\n');
        }
    }
    (!out.is_empty()).then_some(out)
}

#[test]
fn every_fault_is_told_at_its_place() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("kong.yml");
    let name = file.to_str().unwrap();
    let mut wrong = Vec::new();
    for case in entities::CASES.iter().chain(dialects::CASES) {
        let (text, places) = places(case.text);
        assert_eq!(places.len(), case.words.len(), "the marks of {:?}", case.what);
        fs::write(&file, text).unwrap();
        let exit = command(&["check", name]);
        if exit.code != Some(2) {
            wrong.push(format!("{}: exit {:?}\n{}", case.what, exit.code, exit.stderr));
            continue;
        }
        let told = exit.stderr.lines().filter(|line| line.contains(": error: ")).count();
        if told != places.len() {
            wrong.push(format!("{}: {told} errors told for {} faults:\n{}", case.what, places.len(), exit.stderr));
        }
        for (place, word) in places.iter().zip(case.words) {
            // What does not parse has one place, which readers of YAML choose differently.
            let told = if case.words == [""] {
                exit.stderr.contains(&format!("{name}:")).then(|| exit.stderr.clone())
            } else {
                report_at(&exit.stderr, name, *place)
            };
            match told {
                Some(report) if report.contains(word) => {}
                other => wrong.push(format!(
                    "{}: {}:{} should say {word:?}, says {other:?} in\n{}",
                    case.what, place.0, place.1, exit.stderr
                )),
            }
        }
    }
    assert!(wrong.is_empty(), "{} of the places:\n{}", wrong.len(), wrong.join("\n"));
}

#[test]
fn an_error_has_its_form_and_hides_secrets() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("kong.yml");
    let text = r#"_format_version: "3.0"
consumers:
- username: ann
  keyauth_credentials: [{ key: very-secret-key }]
  jwt_secrets: [{ key: k, secret: { very-secret: very-secret } }]
- username: bob
  keyauth_credentials: [{ key: very-secret-key }]
"#;
    fs::write(&file, text).unwrap();
    let exit = command(&["check", file.to_str().unwrap()]);
    assert_eq!(exit.code, Some(2));
    let form = regex::Regex::new(r"(?m)^.*kong\.yml:5:35: error: .+$").unwrap();
    assert!(form.is_match(&exit.stderr), "{}", exit.stderr);
    assert!(!exit.stderr.contains("very-secret-key"), "{}", exit.stderr);
}

#[test]
fn bombs_are_refused_in_time() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("kong.yml");
    let mut laughs = String::from("_format_version: \"3.0\"\n_comment:\n- &a0 [x, x, x, x, x, x, x, x, x]\n");
    for at in 1..12 {
        let of = format!("*a{}", at - 1);
        laughs.push_str(&format!("- &a{at} [{}]\n", [of.as_str(); 9].join(", ")));
    }
    let deep = format!("_format_version: \"3.0\"\n_comment: {}\n", "[".repeat(100_000));
    for (what, text) in [("aliases", laughs), ("depth", deep)] {
        fs::write(&file, text).unwrap();
        let exit = command(&["check", file.to_str().unwrap()]);
        assert_eq!(exit.code, Some(2), "{what}: {}", exit.stderr);
    }
}
