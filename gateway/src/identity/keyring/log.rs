//! The log of issued keys: one line a change, each with a checksum, on disk before the change counts. The last line may be
//! torn by a crash and is then cut off, since nobody was told of it; any other damage is an error, since a lost line may be a
//! revocation. Rewritten when most lines are history.

use std::collections::HashMap;
use std::fs::{File, OpenOptions};
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use nix::fcntl::{Flock, FlockArg};
use serde::{Deserialize, Serialize};

use crate::identity::digest;

/// Lines below which a log is never rewritten.
const LINES_MIN: usize = 1000;
/// The first line, which says what the file is.
const HEAD: &str = "gateway keys 1";

/// What is known of an issued key.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// UUID.
    pub id: String,
    /// SHA-256 of the key in hexadecimal.
    sha256: String,
    /// Id of the consumer whose it is.
    pub consumer: String,
    /// When it was made, seconds since 1970.
    pub created_s: u64,
    /// From when it holds no more, seconds since 1970.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub expires_s: Option<u64>,
    /// Tags.
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub tags: Vec<String>,
    /// The plan that it was sold under.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub tier: Option<String>,
}

impl Record {
    /// A key without an end, tags or tier.
    #[must_use]
    pub fn new(id: String, digest: &[u8; 32], consumer: String, created_s: u64) -> Self {
        let sha256 = digest.iter().map(|byte| format!("{byte:02x}")).collect();
        Record { id, sha256, consumer, created_s, expires_s: None, tags: Vec::new(), tier: None }
    }

    /// Whether it is in force.
    #[must_use]
    pub fn holds(&self, now_s: u64) -> bool {
        self.expires_s.is_none_or(|expires_s| now_s < expires_s)
    }

    /// The key's SHA-256.
    #[must_use]
    pub fn digest(&self) -> [u8; 32] {
        let mut out = [0; 32];
        for (at, byte) in out.iter_mut().enumerate() {
            let digits = self.sha256.get(2 * at..2 * at + 2).unwrap_or_default();
            *byte = u8::from_str_radix(digits, 16).unwrap_or_default();
        }
        out
    }

    fn is_whole(&self) -> bool {
        self.sha256.len() == 64 && self.sha256.bytes().all(|b| b.is_ascii_hexdigit())
    }
}

/// One change.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Entry {
    /// A key is made or changed.
    Put(Record),
    /// A key is taken back.
    Del {
        /// Its id.
        id: String,
    },
}

/// The file.
pub struct Log {
    path: PathBuf,
    file: File,
    lines: usize,
    bytes: u64,
    _lock: Flock<File>,
}

impl Log {
    /// Opens or makes the file, and reads what is in force.
    ///
    /// # Errors
    /// The file cannot be had, another process has it, or it is damaged.
    pub fn open(path: &Path) -> Result<(Self, Vec<Record>), String> {
        let shown = path.display();
        let lock = opened(&path.with_added_extension("lock")).map_err(|error| format!("{shown}.lock: {error}"))?;
        let lock = Flock::lock(lock, FlockArg::LockExclusiveNonblock)
            .map_err(|_| format!("{shown}: another process has this log of keys"))?;
        let mut file = opened(path).map_err(|error| format!("{shown}: {error}"))?;
        let mut text = Vec::new();
        file.read_to_end(&mut text).map_err(|error| format!("{shown}: {error}"))?;
        let (records, lines, bytes) = read(&text).map_err(|line| format!("{shown}:{line}: the record is damaged"))?;
        let mut log = Log { path: path.to_owned(), file, lines, bytes, _lock: lock };
        if bytes < text.len() as u64 {
            tracing::warn!(path = %shown, "the last record was not written whole and is dropped");
        }
        log.cut().and_then(|()| log.begin()).map_err(|error| format!("{shown}: {error}"))?;
        Ok((log, records.into_values().collect()))
    }

    /// Puts changes on disk, all or none.
    ///
    /// # Errors
    /// The system's; the file is then as before.
    pub fn append(&mut self, entries: &[Entry]) -> Result<(), String> {
        let text: String = entries.iter().map(line_of).collect();
        let written = self.file.write_all(text.as_bytes()).and_then(|()| self.file.sync_data());
        if let Err(error) = written {
            let cut = self.cut();
            return Err(format!("{}: {error}{}", self.path.display(), if cut.is_err() { ", twice" } else { "" }));
        }
        self.lines += entries.len();
        self.bytes += text.len() as u64;
        Ok(())
    }

    /// Lets every change from now on fail.
    #[cfg(test)]
    pub fn break_disk(&mut self) {
        self.file = File::open(&self.path).expect("opens");
    }

    /// Whether most lines are history.
    #[must_use]
    pub fn is_wasteful(&self, in_force: usize) -> bool {
        self.lines > LINES_MIN && self.lines / 2 > in_force
    }

    /// Writes the file anew with what is in force.
    ///
    /// # Errors
    /// The system's; the file is then as before.
    pub fn compact<'a>(&mut self, records: impl Iterator<Item = &'a Record>) -> Result<(), String> {
        let draft = self.path.with_added_extension("new");
        let mut text = line(HEAD);
        let mut lines = 1;
        for record in records {
            text += &line_of(&Entry::Put(record.clone()));
            lines += 1;
        }
        let write = || {
            let mut file = opened(&draft)?;
            file.set_len(0)?;
            file.write_all(text.as_bytes())?;
            file.sync_all()?;
            std::fs::rename(&draft, &self.path)?;
            sync_folder(&self.path)?;
            Ok::<_, std::io::Error>(file)
        };
        self.file = write().map_err(|error| error.to_string())?;
        (self.lines, self.bytes) = (lines, text.len() as u64);
        Ok(())
    }

    /// Cuts off what is behind the last whole line.
    fn cut(&mut self) -> std::io::Result<()> {
        self.file.set_len(self.bytes)?;
        self.file.seek(SeekFrom::End(0)).map(drop)
    }

    fn begin(&mut self) -> std::io::Result<()> {
        if self.bytes > 0 {
            return Ok(());
        }
        let head = line(HEAD);
        self.file.write_all(head.as_bytes())?;
        self.file.sync_all()?;
        (self.lines, self.bytes) = (1, head.len() as u64);
        sync_folder(&self.path)
    }
}

fn opened(path: &Path) -> std::io::Result<File> {
    OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).open(path)
}

fn sync_folder(path: &Path) -> std::io::Result<()> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    File::open(folder)?.sync_all()
}

fn line_of(entry: &Entry) -> String {
    line(&serde_json::to_string(entry).unwrap_or_default())
}

fn line(text: &str) -> String {
    format!("{} {text}\n", checksum(text.as_bytes()))
}

fn checksum(text: &[u8]) -> String {
    digest(text).iter().take(6).map(|byte| format!("{byte:02x}")).collect()
}

/// Records in force by id, lines and bytes that are whole; or the number of a damaged line.
fn read(text: &[u8]) -> Result<(HashMap<String, Record>, usize, u64), usize> {
    let mut records = HashMap::new();
    let (mut lines, mut bytes) = (0, 0);
    for piece in text.split_inclusive(|byte| *byte == b'\n') {
        let is_last = bytes + piece.len() == text.len();
        let entry = whole(piece).and_then(|json| if lines == 0 { head(json) } else { entry(json) });
        match entry {
            Some(Some(Entry::Put(record))) => drop(records.insert(record.id.clone(), record)),
            Some(Some(Entry::Del { id })) => drop(records.remove(&id)),
            Some(None) => {}
            None if is_last => break,
            None => return Err(lines + 1),
        }
        lines += 1;
        bytes += piece.len();
    }
    Ok((records, lines, bytes as u64))
}

/// The text of a line whose checksum is right.
fn whole(piece: &[u8]) -> Option<&str> {
    let (sum, text) = str::from_utf8(piece.strip_suffix(b"\n")?).ok()?.split_once(' ')?;
    (sum == checksum(text.as_bytes())).then_some(text)
}

fn head(text: &str) -> Option<Option<Entry>> {
    (text == HEAD).then_some(None)
}

fn entry(text: &str) -> Option<Option<Entry>> {
    let entry: Entry = serde_json::from_str(text).ok()?;
    match &entry {
        Entry::Put(record) if !record.is_whole() => None,
        _ => Some(Some(entry)),
    }
}
