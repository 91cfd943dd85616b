//! Sampled drops as a capture file that Wireshark and tcpdump read (pcapng, draft-ietf-opsawg-pcapng), each with its
//! reason as a comment. Bounded: a full file becomes `FILE.1` and the next one begins. It must not decide anything.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Write as _},
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
};

use gateway_common::map::EVENT_HEAD_BYTES;

use super::events::Sample;

const SECTION_HEADER: u32 = 0x0a0d_0d0a;
const INTERFACE_DESCRIPTION: u32 = 1;
const ENHANCED_PACKET: u32 = 6;
const BYTE_ORDER: u32 = 0x1a2b_3c4d;
const LINKTYPE_ETHERNET: u16 = 1;
const OPT_COMMENT: u16 = 1;
const IF_NAME: u16 = 2;
const SHB_USERAPPL: u16 = 4;
const IF_TSRESOL: u16 = 9;
/// 10⁻⁹ seconds.
const NANOSECONDS: u8 = 9;

/// A capture file in the making.
pub(super) struct Capture {
    path: PathBuf,
    bytes_max: u64,
    file: Option<File>,
    /// Bytes of the present file.
    pub bytes: u64,
    pub packets: u64,
    pub failure: Option<String>,
}

impl Capture {
    pub fn open(path: &Path, bytes_max: u64) -> Self {
        let mut capture = Self { path: path.to_owned(), bytes_max, file: None, bytes: 0, packets: 0, failure: None };
        if let Err(error) = capture.begin() {
            capture.fail(&error);
        }
        capture
    }

    pub fn is_of(&self, path: &Path, bytes_max: u64) -> bool {
        self.path == path && self.bytes_max == bytes_max
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// One dropped packet; `unix_ns` is when it was dropped. After a failure nothing more is written: a full disk is
    /// not helped by trying.
    pub fn write(&mut self, sample: &Sample, head: &[u8], unix_ns: u64) {
        let Some(file) = &mut self.file else { return };
        let block = packet(sample, head, unix_ns);
        match file.write_all(&block) {
            Ok(()) => {
                self.packets += 1;
                self.bytes += block.len() as u64;
            }
            Err(error) => return self.fail(&error),
        }
        if self.bytes >= self.bytes_max
            && let Err(error) = self.turn()
        {
            self.fail(&error);
        }
    }

    fn turn(&mut self) -> io::Result<()> {
        let mut older = self.path.clone().into_os_string();
        older.push(".1");
        fs::rename(&self.path, older)?;
        self.begin()
    }

    /// A file that is there already is continued with a section of its own.
    fn begin(&mut self) -> io::Result<()> {
        let mut options = OpenOptions::new();
        // What was dropped may hold what somebody sent in the clear.
        options.create(true).append(true).mode(0o600).custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK);
        let mut file = options.open(&self.path)?;
        if !file.metadata()?.is_file() {
            return Err(io::Error::other("is no regular file"));
        }
        let start = [section(), interface()].concat();
        file.write_all(&start)?;
        self.bytes = file.metadata()?.len();
        self.file = Some(file);
        Ok(())
    }

    fn fail(&mut self, error: &io::Error) {
        tracing::warn!(path = %self.path.display(), %error, "the capture of drops cannot be written; it ends here");
        self.failure = Some(error.to_string());
        self.file = None;
    }
}

/// A block's length stands before and behind its body.
fn block(kind: u32, body: &[u8]) -> Vec<u8> {
    let length = (12 + body.len().next_multiple_of(4)) as u32;
    let mut out = Vec::with_capacity(length as usize);
    out.extend(kind.to_ne_bytes());
    out.extend(length.to_ne_bytes());
    out.extend(padded(body));
    out.extend(length.to_ne_bytes());
    out
}

fn padded(bytes: &[u8]) -> Vec<u8> {
    let mut out = bytes.to_vec();
    out.resize(out.len().next_multiple_of(4), 0);
    out
}

/// One option and the end of options.
fn options(list: &[(u16, &[u8])]) -> Vec<u8> {
    let mut out = Vec::new();
    for (code, value) in list {
        out.extend(code.to_ne_bytes());
        out.extend((value.len() as u16).to_ne_bytes());
        out.extend(padded(value));
    }
    out.extend([0; 4]);
    out
}

fn section() -> Vec<u8> {
    let mut body = BYTE_ORDER.to_ne_bytes().to_vec();
    body.extend(1u16.to_ne_bytes());
    body.extend(0u16.to_ne_bytes());
    // The section's length is not known.
    body.extend(u64::MAX.to_ne_bytes());
    body.extend(options(&[(SHB_USERAPPL, b"gateway")]));
    block(SECTION_HEADER, &body)
}

fn interface() -> Vec<u8> {
    let mut body = LINKTYPE_ETHERNET.to_ne_bytes().to_vec();
    body.extend([0; 2]);
    body.extend((EVENT_HEAD_BYTES as u32).to_ne_bytes());
    body.extend(options(&[(IF_NAME, b"edge"), (IF_TSRESOL, &[NANOSECONDS])]));
    block(INTERFACE_DESCRIPTION, &body)
}

fn packet(sample: &Sample, head: &[u8], unix_ns: u64) -> Vec<u8> {
    let mut body = 0u32.to_ne_bytes().to_vec();
    body.extend(((unix_ns >> 32) as u32).to_ne_bytes());
    body.extend((unix_ns as u32).to_ne_bytes());
    body.extend((head.len() as u32).to_ne_bytes());
    body.extend(sample.frame_bytes.max(head.len() as u32).to_ne_bytes());
    body.extend(padded(head));
    let comment = format!("{}, decision {}", sample.outcome.name(), sample.decision);
    body.extend(options(&[(OPT_COMMENT, comment.as_bytes())]));
    block(ENHANCED_PACKET, &body)
}

#[cfg(test)]
mod tests {
    use super::*;
    use gateway_common::{Reason, reason::Outcome};

    fn sample() -> Sample {
        Sample {
            at_ns: 1,
            ip: [192, 0, 2, 7].into(),
            outcome: Outcome { reason: Reason::Deny, shadow: false },
            decision: 42,
            protocol: 17,
            port: 8000,
            frame_bytes: 1_400,
        }
    }

    /// Kinds and bodies of all blocks; every length is checked.
    fn blocks(mut bytes: &[u8]) -> Vec<(u32, Vec<u8>)> {
        let word = |bytes: &[u8]| u32::from_ne_bytes(bytes[..4].try_into().unwrap());
        let mut out = Vec::new();
        while !bytes.is_empty() {
            let (kind, length) = (word(bytes), word(&bytes[4..]) as usize);
            assert_eq!(length % 4, 0);
            assert_eq!(word(&bytes[length - 4..]) as usize, length);
            out.push((kind, bytes[8..length - 4].to_vec()));
            bytes = &bytes[length..];
        }
        out
    }

    #[test]
    fn a_sample_is_a_packet_with_its_reason() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("drops.pcapng");
        let mut capture = Capture::open(&path, 1 << 20);
        capture.write(&sample(), &[7; 61], 5_000_000_001);
        let blocks = blocks(&fs::read(&path).unwrap());
        let kinds: Vec<u32> = blocks.iter().map(|(kind, _)| *kind).collect();
        assert_eq!(kinds, [SECTION_HEADER, INTERFACE_DESCRIPTION, ENHANCED_PACKET]);
        let body = &blocks[2].1;
        let word = |at: usize| u32::from_ne_bytes(body[at..at + 4].try_into().unwrap());
        assert_eq!((u64::from(word(4)) << 32) + u64::from(word(8)), 5_000_000_001);
        assert_eq!((word(12), word(16)), (61, 1_400));
        assert_eq!(body[20..81], [7; 61]);
        assert!(body.windows(17).any(|text| text == b"deny, decision 42"));
        use std::os::unix::fs::PermissionsExt as _;
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o077, 0, "nobody else's business");
    }

    #[test]
    fn it_turns_at_its_bound_and_never_takes_more_than_two_files() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("drops");
        let mut capture = Capture::open(&path, 4_096);
        for _ in 0..1_000 {
            capture.write(&sample(), &[7; 64], 1);
        }
        assert_eq!((capture.packets, &capture.failure), (1_000, &None));
        let sizes: Vec<u64> =
            fs::read_dir(folder.path()).unwrap().map(|e| e.unwrap().metadata().unwrap().len()).collect();
        assert_eq!(sizes.len(), 2);
        assert!(sizes.iter().all(|size| *size < 4_096 + 256), "{sizes:?}");
        blocks(&fs::read(folder.path().join("drops.1")).unwrap());
    }

    #[test]
    fn a_link_and_a_device_are_refused_and_said() {
        let folder = tempfile::tempdir().unwrap();
        let link = folder.path().join("link");
        std::os::unix::fs::symlink("/etc/passwd", &link).unwrap();
        assert!(Capture::open(&link, 4_096).failure.is_some());
        let mut full = Capture::open(Path::new("/dev/full"), 4_096);
        full.write(&sample(), &[], 1);
        assert!(full.failure.is_some() && full.packets == 0);
    }
}
