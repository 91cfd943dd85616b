//! Where a configuration comes from: one text, several files, folders of files. Reads and bounds them; must not know what
//! they mean.

use std::path::{Path, PathBuf};

use anyhow::{Context, ensure};

use crate::identity::digest;

/// Bytes of a configuration at most, all files together.
pub const TEXT_MAX: u64 = 64 << 20;

/// Files of a configuration at most.
const FILES_MAX: usize = 4096;

/// Folders within folders at most.
const DEPTH_MAX: usize = 8;

/// One text and what errors call it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Text {
    /// Path of the file, or where it was posted.
    pub name: String,
    /// As written, nothing replaced in it.
    pub text: String,
}

/// The texts of one configuration, in the order in which they are read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Bundle(pub Vec<Text>);

impl Bundle {
    /// A configuration of one text.
    #[must_use]
    pub fn of(name: &str, text: &str) -> Self {
        Bundle(vec![Text { name: name.to_owned(), text: text.to_owned() }])
    }

    /// Names for errors, as `Place::file` counts.
    #[must_use]
    pub fn names(&self) -> Vec<String> {
        self.0.iter().map(|t| t.name.clone()).collect()
    }

    /// SHA-256 in hexadecimal: of the text when there is one, else of all names and texts.
    #[must_use]
    pub fn hash(&self) -> String {
        let bytes = match self.0.as_slice() {
            [only] => digest(only.text.as_bytes()),
            several => {
                let all: String = several.iter().flat_map(|t| [&t.name, "\0", &t.text, "\0"]).collect();
                digest(all.as_bytes())
            }
        };
        bytes.iter().map(|b| format!("{b:02x}")).collect()
    }
}

/// Reads files, and of folders every `.yml`, `.yaml` and `.json` in the order of their paths; what begins with a dot is
/// left out.
///
/// # Errors
/// The system's words with the path; too many or too large files; a folder without any.
pub fn read(paths: &[PathBuf]) -> anyhow::Result<Bundle> {
    let mut files = Vec::new();
    for path in paths {
        if path.is_dir() {
            let before = files.len();
            list(path, DEPTH_MAX, &mut files)?;
            ensure!(files.len() > before, "{} holds no .yml, .yaml or .json file", path.display());
        } else {
            files.push(path.clone());
        }
    }
    ensure!(files.len() <= FILES_MAX, "more than {FILES_MAX} configuration files");
    let mut bundle = Bundle::default();
    let mut rest = TEXT_MAX;
    for file in files {
        let text = read_text(&file, rest)?;
        rest -= text.len() as u64;
        bundle.0.push(Text { name: file.display().to_string(), text });
    }
    Ok(bundle)
}

fn list(folder: &Path, depth: usize, files: &mut Vec<PathBuf>) -> anyhow::Result<()> {
    let shown = folder.display();
    ensure!(depth > 0, "{shown}: folders are nested too deeply");
    let entries = std::fs::read_dir(folder).with_context(|| format!("cannot read {shown}"))?;
    let mut entries: Vec<_> = entries.collect::<Result<_, _>>().with_context(|| format!("cannot read {shown}"))?;
    entries.sort_by_key(std::fs::DirEntry::file_name);
    for entry in entries {
        if entry.file_name().to_string_lossy().starts_with('.') {
            continue;
        }
        let path = entry.path();
        // A link to a folder is not followed: it may lead in a circle. One to a file is: Kubernetes mounts files so.
        if entry.file_type()?.is_dir() {
            list(&path, depth - 1, files)?;
        } else if path.is_file()
            && path.extension().is_some_and(|e| ["yml", "yaml", "json"].iter().any(|known| e == *known))
        {
            files.push(path);
        }
    }
    Ok(())
}

fn read_text(path: &Path, bytes_max: u64) -> anyhow::Result<String> {
    let shown = path.display();
    let length = std::fs::metadata(path).with_context(|| format!("cannot read {shown}"))?.len();
    ensure!(length <= bytes_max, "{shown}: the configuration is larger than {} MiB", TEXT_MAX >> 20);
    let text = std::fs::read_to_string(path).with_context(|| format!("cannot read {shown}"))?;
    ensure!(text.len() as u64 <= bytes_max, "{shown}: the configuration is larger than {} MiB", TEXT_MAX >> 20);
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn folders_are_read_in_order_and_without_hidden_files() {
        let folder = tempfile::tempdir().expect("folder");
        for (name, text) in [("b.yml", "b"), ("a.json", "a"), (".hidden.yml", "x"), ("notes.txt", "x"), ("c.yaml", "c")]
        {
            std::fs::write(folder.path().join(name), text).expect("write");
        }
        let bundle = read(&[folder.path().to_owned()]).expect("reads");
        let texts: Vec<&str> = bundle.0.iter().map(|t| t.text.as_str()).collect();
        assert_eq!(texts, ["a", "b", "c"]);
        assert!(read(&[folder.path().join("none.yml")]).is_err());
    }

    #[test]
    fn the_hash_of_one_text_is_that_of_its_bytes() {
        assert_eq!(Bundle::of("x", "").hash(), "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
    }
}
