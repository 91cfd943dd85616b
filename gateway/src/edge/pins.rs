//! What outlives the process: the links and the maps under a folder of a bpffs, so that a restart, a crash and an upgrade
//! leave no unfiltered packet. It must not know what the maps mean, nor attach anything.
//!
//! `FOLDER/MARK` says who wrote the rest and in which layout, `FOLDER/maps/NAME` are the maps, `FOLDER/xdp_IF` and
//! `FOLDER/tc_IF` the links. The mark comes last and goes first: without it the maps are not taken over.

use std::{
    fs, io,
    os::unix::fs::{DirBuilderExt as _, MetadataExt as _},
    path::{Path, PathBuf},
};

use aya::{
    Ebpf, Pod,
    maps::{Array, HashMap, Map, MapData, MapError},
    pin::PinError,
};
use gateway_common::{
    Reason, Source,
    map::{
        ABI, Allowance, Cell, Counter, Cut, FLOWS_MAX, Flow, LIST_ENTRIES_MAX, LISTENERS_WORDS, NEIGHBOURHOOD_CELLS,
        PULSE_WORDS, Payer, Pressure, STANDINGS_MAX, Sent, Settings, Spent, Standing, Verdict, Verified, name,
    },
    reason,
};
use nix::{
    mount::{MsFlags, mount},
    sys::statfs::{BPF_FS_MAGIC, statfs},
};

use super::attach::{Sizes, Trouble};

/// Where systems mount the bpffs.
const BPFFS: &str = "/sys/fs/bpf";
const MARK: &str = "MARK";
/// The mark's words.
const WORD_LAYOUT: u32 = 0;
const WORD_CELLS: u32 = 1;
const WORD_VERDICTS: u32 = 2;
const WORD_OWNER: u32 = 3;
const WORD_VERIFIED: u32 = 4;
const WORD_EGRESS: u32 = 5;
const WORD_CONSUMERS: u32 = 6;
const WORD_PAYERS: u32 = 7;
const WORDS: u32 = 8;

/// Where on an interface a program stands.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Hook {
    Xdp,
    Tc,
}

impl Hook {
    fn prefix(self) -> &'static str {
        match self {
            Self::Xdp => "xdp_",
            Self::Tc => "tc_",
        }
    }
}

/// What decides whether maps can be taken over as they are.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Shape {
    /// Of everything that the keys and values mean.
    layout: u64,
    sizes: Sizes,
}

impl Shape {
    pub fn new(sizes: Sizes) -> Self {
        Self { layout: layout(), sizes }
    }
}

/// What an earlier process left.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Found {
    Nothing,
    /// Maps that can be taken over.
    Same,
    /// Maps of other sizes: their verdicts can be read.
    Resized,
    /// Maps of another version, or half of what there should be.
    Other,
}

pub(super) struct Pins {
    folder: PathBuf,
    shape: Shape,
    pub found: Found,
    mark: Option<Array<MapData, u64>>,
    token: u64,
}

impl Pins {
    /// Makes the folder ready and tells whoever owned it that it is taken over.
    pub fn claim(folder: &Path, shape: Shape, token: u64) -> Result<Self, Trouble> {
        make_folder(folder)?;
        let mut mark = open_mark(&folder.join(MARK));
        let found = match &mark {
            Some(mark) => compare(mark, shape),
            None if is_empty(folder) => Found::Nothing,
            None => Found::Other,
        };
        if let Some(mark) = &mut mark {
            // A mark that cannot be written belongs to nobody who could read it either.
            let _ = mark.set(WORD_OWNER, token, 0);
        }
        Ok(Self { folder: folder.to_owned(), shape, found, mark, token })
    }

    /// The folder.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// The maps that are to be taken over, by name.
    pub fn maps(&self) -> Vec<(String, PathBuf)> {
        if self.found != Found::Same {
            return Vec::new();
        }
        names(&self.folder.join("maps")).into_iter().map(|name| (name.clone(), self.map(&name))).collect()
    }

    /// Verdicts of maps that cannot be taken over themselves.
    pub fn verdicts(&self) -> Vec<(Source, Verdict)> {
        if self.found != Found::Resized {
            return Vec::new();
        }
        let open = |path: PathBuf| HashMap::<_, Source, Verdict>::try_from(map_of(&path)?);
        open(self.map(name::VERDICTS)).map(|verdicts| verdicts.iter().flatten().collect()).unwrap_or_default()
    }

    /// The maps were no good after all.
    pub fn disown(&mut self) {
        self.found = Found::Other;
    }

    /// Pins what is not pinned yet; the program's events are of its own run and are not.
    pub fn keep(&mut self, ebpf: &Ebpf) -> Result<(), Trouble> {
        self.keep_maps(ebpf).map_err(|error| {
            let remedy = "the folder must be writable by the gateway's user, and the user needs CAP_BPF";
            trouble("not_pinned", format!("{}: {error}", self.folder.display()), remedy)
        })
    }

    fn keep_maps(&mut self, ebpf: &Ebpf) -> Result<(), PinError> {
        if self.found != Found::Same {
            self.forget_maps();
            self.mark = None;
        }
        let of_run = |map: &str| map == name::EVENTS || map == name::EVENTS_TAT || map.starts_with('.');
        for (map, data) in ebpf.maps().filter(|(map, _)| !of_run(map)) {
            let path = self.map(map);
            if !path.exists() {
                data.pin(path)?;
            }
        }
        if self.mark.is_none() {
            self.mark = Some(self.new_mark()?);
        }
        Ok(())
    }

    fn new_mark(&self) -> Result<Array<MapData, u64>, PinError> {
        let unknown = |error: MapError| PinError::NoFd { name: format!("{MARK}: {error}") };
        let mut mark = Array::<MapData, u64>::create(WORDS, 0).map_err(unknown)?;
        let words = [
            (WORD_LAYOUT, self.shape.layout),
            (WORD_CELLS, self.shape.sizes.cells.into()),
            (WORD_VERDICTS, self.shape.sizes.verdicts.into()),
            (WORD_VERIFIED, self.shape.sizes.verified.into()),
            (WORD_EGRESS, self.shape.sizes.egress.into()),
            (WORD_CONSUMERS, self.shape.sizes.consumers.into()),
            (WORD_PAYERS, self.shape.sizes.payers.into()),
            (WORD_OWNER, self.token),
        ];
        for (word, value) in words {
            mark.set(word, value, 0).map_err(unknown)?;
        }
        // Pinning takes the handle away: the file gives it back.
        mark.pin(self.folder.join(MARK))?;
        open_mark(&self.folder.join(MARK)).ok_or_else(|| PinError::NoFd { name: MARK.to_owned() })
    }

    /// Whether nobody has taken the folder over.
    pub fn is_ours(&self) -> bool {
        self.mark.as_ref().is_none_or(|mark| mark.get(&WORD_OWNER, 0).is_ok_and(|owner| owner == self.token))
    }

    /// Where the link of an interface belongs.
    pub fn link(&self, hook: Hook, interface: &str) -> PathBuf {
        self.folder.join(format!("{}{}", hook.prefix(), escape(interface)))
    }

    /// Removes the links of all other interfaces, which detaches them.
    pub fn leave_all_but(&self, interfaces: &[String]) {
        let wanted: Vec<PathBuf> = interfaces
            .iter()
            .flat_map(|interface| [self.link(Hook::Xdp, interface), self.link(Hook::Tc, interface)])
            .collect();
        let is_link = |name: &str| [Hook::Xdp, Hook::Tc].iter().any(|hook| name.starts_with(hook.prefix()));
        for path in names(&self.folder).iter().filter(|name| is_link(name)).map(|name| self.folder.join(name)) {
            if !wanted.contains(&path) {
                remove(&path);
            }
        }
    }

    /// Removes everything, unless somebody else has taken it over.
    pub fn remove(mut self) {
        if !self.is_ours() {
            return;
        }
        self.leave_all_but(&[]);
        self.mark = None;
        self.forget_maps();
        // Somebody else's file in the folder keeps the folder.
        let _ = fs::remove_dir(self.folder.join("maps"));
        let _ = fs::remove_dir(&self.folder);
    }

    fn forget_maps(&self) {
        remove(&self.folder.join(MARK));
        for name in names(&self.folder.join("maps")) {
            remove(&self.map(&name));
        }
    }

    fn map(&self, name: &str) -> PathBuf {
        self.folder.join("maps").join(name)
    }
}

/// Removing what is not there is no failure.
pub(super) fn remove(path: &Path) {
    if let Err(error) = fs::remove_file(path)
        && error.kind() != io::ErrorKind::NotFound
    {
        tracing::warn!(path = %path.display(), %error, "a pin of the edge cannot be removed");
    }
}

/// Whether the path lies (or would lie) on a bpffs.
pub(super) fn is_on_bpffs(path: &Path) -> bool {
    path.ancestors().find(|ancestor| ancestor.exists()).is_some_and(is_bpffs)
}

fn is_bpffs(path: &Path) -> bool {
    statfs(path).is_ok_and(|of| of.filesystem_type() == BPF_FS_MAGIC)
}

fn make_folder(folder: &Path) -> Result<(), Trouble> {
    if !is_on_bpffs(folder) {
        mount_bpffs(folder)?;
    }
    let mut builder = fs::DirBuilder::new();
    builder.recursive(true).mode(0o700).create(folder.join("maps")).map_err(|error| {
        let remedy = "make the folder's parent and give it to the gateway's user: `install -d -o USER PARENT` as root";
        trouble("not_pinned", format!("{}: {error}", folder.display()), remedy)
    })?;
    match folder.join("maps").ancestors().find(|part| !is_safe(part)) {
        None => Ok(()),
        Some(part) => {
            let remedy = "the folder and all above it must belong to root or to the gateway's user, and nobody else may \
                          write to them";
            Err(trouble("not_pinned", format!("{} can be changed by others", part.display()), remedy))
        }
    }
}

/// The root of a bpffs is everybody's, with the sticky bit: whoever makes a folder there first could detach what is
/// pinned in it.
fn is_safe(part: &Path) -> bool {
    const STICKY: u32 = 0o1000;
    const OTHERS_WRITE: u32 = 0o022;
    let Ok(of) = fs::metadata(part) else { return false };
    let is_ours = of.uid() == 0 || of.uid() == nix::unistd::geteuid().as_raw();
    is_ours && (of.mode() & OTHERS_WRITE == 0 || of.mode() & STICKY != 0)
}

fn mount_bpffs(folder: &Path) -> Result<(), Trouble> {
    let remedy = "as root: `mount -t bpf bpf /sys/fs/bpf` (systemd does so at boot), and pin below it";
    if !folder.starts_with(BPFFS) {
        return Err(trouble("no_bpffs", format!("{} is on no bpffs", folder.display()), remedy));
    }
    mount(Some("bpf"), BPFFS, Some("bpf"), MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC, None::<&str>)
        .map_err(|error| trouble("no_bpffs", format!("no bpffs is mounted on {BPFFS}: {error}"), remedy))?;
    tracing::info!("mounted a bpffs on {BPFFS}");
    Ok(())
}

fn trouble(problem: &'static str, detail: String, remedy: &'static str) -> Trouble {
    Trouble { interface: None, problem, detail, remedy }
}

fn open_mark(path: &Path) -> Option<Array<MapData, u64>> {
    let mark = typed(path).ok()?;
    (mark.len() == WORDS).then_some(mark)
}

fn typed<V: Pod>(path: &Path) -> Result<Array<MapData, V>, MapError> {
    Array::try_from(map_of(path)?)
}

fn map_of(path: &Path) -> Result<Map, MapError> {
    Map::from_map_data(MapData::from_pin(path)?)
}

fn compare(mark: &Array<MapData, u64>, shape: Shape) -> Found {
    let word = |index| mark.get(&index, 0).ok();
    let Sizes { cells, verdicts, verified, egress, consumers, payers } = shape.sizes;
    let sizes = [
        (WORD_CELLS, cells),
        (WORD_VERDICTS, verdicts),
        (WORD_VERIFIED, verified),
        (WORD_EGRESS, egress),
        (WORD_CONSUMERS, consumers),
        (WORD_PAYERS, payers),
    ];
    if word(WORD_LAYOUT) != Some(shape.layout) {
        Found::Other
    } else if sizes.into_iter().all(|(index, size)| word(index) == Some(size.into())) {
        Found::Same
    } else {
        Found::Resized
    }
}

fn is_empty(folder: &Path) -> bool {
    names(folder) == ["maps"] && names(&folder.join("maps")).is_empty()
}

fn names(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let mut names: Vec<String> = entries.filter_map(|entry| entry.file_name().into_string().ok()).collect();
    names.sort_unstable();
    names
}

/// The bpffs reserves names with a dot, which VLAN interfaces have.
fn escape(interface: &str) -> String {
    interface.replace('%', "%25").replace('.', "%2e")
}

/// FNV-1a over what the maps' bytes mean: a counter's place is its reason's place.
fn layout() -> u64 {
    let sizes = [
        ABI as usize,
        size_of::<Settings>(),
        size_of::<Source>(),
        size_of::<Verdict>(),
        size_of::<Cell>(),
        size_of::<Counter>(),
        size_of::<Flow>(),
        size_of::<Cut>(),
        size_of::<Standing>(),
        size_of::<Verified>(),
        size_of::<Pressure>(),
        size_of::<Sent>(),
        size_of::<Payer>(),
        size_of::<Allowance>(),
        size_of::<Spent>(),
        FLOWS_MAX as usize,
        STANDINGS_MAX as usize,
        NEIGHBOURHOOD_CELLS as usize,
        reason::COUNTERS as usize,
        PULSE_WORDS as usize,
        LISTENERS_WORDS as usize,
        LIST_ENTRIES_MAX as usize,
    ];
    let bytes = sizes.iter().flat_map(|size| size.to_le_bytes());
    let words = Reason::ALL.iter().flat_map(|reason| reason.name().bytes());
    bytes.chain(words).fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_with_dots_are_pinned_under_names_without() {
        assert_eq!(escape("eth0.100"), "eth0%2e100");
        assert_ne!(escape("a%2e"), escape("a."));
    }

    #[test]
    fn a_folder_elsewhere_is_refused_with_what_to_do() {
        let folder = tempfile::tempdir().unwrap();
        let trouble = Pins::claim(
            &folder.path().join("pins"),
            Shape::new(Sizes { cells: 2, verdicts: 1, verified: 1, egress: 1, consumers: 1, payers: 1 }),
            1,
        )
        .err()
        .unwrap();
        assert_eq!(trouble.problem, "no_bpffs");
        assert!(trouble.remedy.contains("mount -t bpf"), "{trouble:?}");
        assert!(!folder.path().join("pins").exists());
    }
}
