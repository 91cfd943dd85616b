//! The corpus: inputs and expected answers of Kong's own tests, and public files, kept beside the project and not in it.
//! Where it is absent every test here says so and is counted as skipped.
//!
//! `corpus_expected.txt` names the cases that are known not to pass, each with its reason. A case outside the list that
//! fails is a failure, and so is a case of the list that passes.

mod cases;
mod files;
mod judge;
mod paths;
mod router;
mod stream;
mod tokens;

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use gateway_tests::deadline::say;
use gateway_tests::skip;

const EXPECTED: &str = include_str!("corpus_expected.txt");

/// Cases of one file that run at the same time.
const AT_ONCE: usize = 3;

/// How a case ended.
pub enum End {
    Passed,
    /// What was wrong.
    Failed(String),
    /// Why it cannot run here.
    Skipped(String),
}

/// Where the corpus is: `GATEWAY_CORPUS`, or beside the workspace.
fn folder() -> Option<PathBuf> {
    let path = std::env::var_os("GATEWAY_CORPUS")
        .map_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/corpus"), PathBuf::from);
    path.is_dir().then_some(path)
}

/// The corpus's folder; says the skip of the test `name` if there is none.
pub fn open(name: &str) -> Option<PathBuf> {
    let found = folder();
    if found.is_none() {
        skip(&format!("corpus::{name}"), "no corpus");
    }
    found
}

/// Runs `run` on every case, compares the ends with the list of known failures, prints the sums.
pub fn account<T: Sync>(name: &str, cases: &[(String, T)], run: impl Fn(&T) -> End + Sync) {
    let known: HashMap<&str, &str> = EXPECTED
        .lines()
        .filter(|line| !line.trim().is_empty() && !line.starts_with('#'))
        .filter_map(|line| line.split_once(' '))
        .collect();
    let next = AtomicUsize::new(0);
    let ends = Mutex::new(BTreeMap::new());
    thread::scope(|scope| {
        for _ in 0..AT_ONCE {
            scope.spawn(|| {
                while let Some((id, case)) = cases.get(next.fetch_add(1, Ordering::SeqCst)) {
                    let end = run(case);
                    ends.lock().unwrap().insert(id, end);
                }
            });
        }
    });
    let ends = ends.into_inner().unwrap();
    let mut passed = 0;
    let mut known_failures = 0;
    let mut wrong = Vec::new();
    let mut skipped: BTreeMap<String, usize> = BTreeMap::new();
    for (id, end) in &ends {
        match (end, known.get(id.as_str())) {
            (End::Passed, None) => passed += 1,
            (End::Passed, Some(reason)) => wrong.push(format!("{id} passes now, the list says: {reason}")),
            (End::Failed(_), Some(_)) => known_failures += 1,
            (End::Failed(what), None) => wrong.push(format!("{id} {what}")),
            (End::Skipped(reason), _) => *skipped.entry(reason.clone()).or_default() += 1,
        }
    }
    let total: usize = skipped.values().sum();
    say(&format!(
        "corpus {name}: {passed} passed, {} failed, {known_failures} known not to pass, {total} skipped",
        wrong.len()
    ));
    for (reason, count) in skipped {
        skip(&format!("corpus {name}"), &format!("{count} cases: {reason}"));
    }
    assert_eq!(ends.len(), cases.len(), "every case has a name of its own");
    assert!(wrong.is_empty(), "{name}:\n{}", wrong.join("\n"));
}
