//! Public files: those that an open-source loader loads must load here, with what is not built yet set aside; those that
//! it refuses must be refused.

use std::fs;
use std::path::PathBuf;

use gateway_tests::gateway::command;

use super::{End, account, open};

#[test]
fn verdicts() {
    let Some(folder) = open("files::verdicts") else { return };
    let index = fs::read_to_string(folder.join("INDEX.tsv")).unwrap();
    let mut lines = index.lines().map(|line| line.split('\t').collect::<Vec<_>>());
    let names = lines.next().unwrap();
    let verdict = names.iter().position(|name| *name == "verdict").unwrap();
    let cases: Vec<(String, (PathBuf, String))> = lines
        .map(|row| {
            (format!("files/{}", row[0]), (folder.join(format!("files/{}.yml", row[0])), row[verdict].to_owned()))
        })
        .filter(|(_, (path, _))| path.exists())
        .collect();
    account("files", &cases, |(path, verdict)| {
        let path = path.to_str().unwrap();
        let loads = verdict == "load";
        let exit = if loads { command(&["check", path, "--allow-unsupported"]) } else { command(&["check", path]) };
        match (loads, exit.code) {
            (true, Some(0)) | (false, Some(2)) => End::Passed,
            (_, code) => End::Failed(format!("{verdict}, but exit {code:?}: {}", exit.stderr.trim())),
        }
    });
}
