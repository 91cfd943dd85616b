//! `cargo xtask tidy`: the conventions that no compiler checks, read from the sources. Each rule is one check: it
//! gives a list of what breaks it, as `file:line: what`. It must not change anything.

use std::path::Path;
use std::process::ExitCode;

use anyhow::{Context, Result};

use crate::shell;
use crate::tally::Tally;

mod layers;
mod plugins;
mod source;
mod text;

use source::Source;

/// A rule's name and what breaks it.
type Rule = (&'static str, fn(&House) -> Vec<String>);

const RULES: &[Rule] = &[
    ("a file uses only its own layer and those below", layers::upward_uses),
    ("a file has at most 400 code lines", text::long_files),
    ("a file opens with what it does and must not know", text::unopened_files),
    ("nothing unfinished and no test is ignored", text::unfinished),
    ("only gateway/src/edge knows the kernel's loader", text::aya_elsewhere),
    ("unsafe only where it is allowed, with its SAFETY", text::unsafe_elsewhere),
    ("no path of a machine", text::machine_paths),
    ("every plugin has its page and its black-box test", plugins::undocumented),
];

/// What the rules read: every source file and every other text of the project.
pub struct House {
    sources: Vec<Source>,
    texts: Vec<(String, String)>,
}

impl House {
    /// # Errors
    /// The workspace could not be read.
    fn open(root: &Path) -> Result<Self> {
        let mut files = Vec::new();
        list(root, root, &mut files)?;
        files.sort();
        let mut house = Self { sources: Vec::new(), texts: Vec::new() };
        for name in files {
            // What is not UTF-8 is no text: the kernel object, images.
            let Ok(text) = std::fs::read_to_string(root.join(&name)) else { continue };
            if Path::new(&name).extension().is_some_and(|extension| extension == "rs") {
                house.sources.push(Source::new(&name, &text));
            }
            house.texts.push((name, text));
        }
        Ok(house)
    }

    /// The sources under a folder.
    fn under<'a>(&'a self, folder: &'a str) -> impl Iterator<Item = &'a Source> {
        self.sources.iter().filter(move |source| source.name.starts_with(folder))
    }
}

/// Runs every rule and prints what breaks it.
///
/// # Errors
/// The sources could not be read.
pub fn run() -> Result<ExitCode> {
    let tally = tally()?;
    println!("{}", tally.summary());
    Ok(if tally.failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Runs every rule, prints what breaks it, and counts.
///
/// # Errors
/// The sources could not be read.
pub fn tally() -> Result<Tally> {
    let house = House::open(&shell::root())?;
    let mut tally = Tally::default();
    for (name, rule) in RULES {
        let faults = rule(&house);
        println!("tidy: {name} ... {}", if faults.is_empty() { "ok" } else { "FAILED" });
        for fault in &faults {
            println!("    {fault}");
        }
        tally.check(&format!("tidy: {name}"), faults.is_empty());
    }
    Ok(tally)
}

/// The project's files, by names below `root`; what is built or belongs to git is left out.
fn list(root: &Path, folder: &Path, files: &mut Vec<String>) -> Result<()> {
    for entry in std::fs::read_dir(folder).with_context(|| format!("cannot read {}", folder.display()))? {
        let entry = entry?;
        let (path, kind) = (entry.path(), entry.file_type()?);
        let name = entry.file_name();
        if name == "target" || name == ".git" {
            continue;
        }
        if kind.is_dir() {
            list(root, &path, files)?;
        } else if kind.is_file()
            && let Ok(name) = path.strip_prefix(root)
        {
            files.push(name.to_string_lossy().into_owned());
        }
    }
    Ok(())
}
