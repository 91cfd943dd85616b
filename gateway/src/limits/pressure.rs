//! How near the process is to its memory limit. The control plane measures; workers read one number. Judging is pure.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering::Relaxed};

/// What is done about it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// Nothing.
    Calm,
    /// New requests are answered with 503 and their connections closed.
    Shed,
    /// New connections are closed at once, and slow ones have a tenth of their time.
    Shut,
}

/// Shares of the limit, per cent, from which a level holds, and below which it ends.
const SHED: (u64, u64) = (75, 70);
const SHUT: (u64, u64) = (85, 80);

/// Share of the limit that held bodies may have, as a divisor. Measuring comes too late for them: one worker can read
/// faster than anybody looks, so their bytes are counted before they are taken.
const HELD_PART: u64 = 8;

/// The level as workers read it, and the bytes that they hold.
#[derive(Debug, Default)]
pub struct Pressure {
    level: AtomicU8,
    /// Bytes of bodies held whole.
    held: AtomicU64,
    /// Bytes of them at most; 0 is no limit.
    held_max: AtomicU64,
}

impl Pressure {
    /// The level now.
    #[must_use]
    pub fn level(&self) -> Level {
        match self.level.load(Relaxed) {
            0 => Level::Calm,
            1 => Level::Shed,
            _ => Level::Shut,
        }
    }

    /// Sets the level from what is used of a limit, bytes; true when it changed. A limit of 0 is none.
    pub fn measure(&self, used: u64, limit: u64) -> bool {
        let before = self.level();
        let now = judge(before, used, limit);
        self.level.store(now as u8, Relaxed);
        self.held_max.store(limit / HELD_PART, Relaxed);
        before != now
    }

    /// Room for `bytes` more of a held body; false if there is none. What was given is to be released.
    #[must_use]
    pub fn reserve(&self, bytes: u64) -> bool {
        let max = self.held_max.load(Relaxed);
        let held = self.held.fetch_add(bytes, Relaxed) + bytes;
        if max > 0 && held > max {
            self.release(bytes);
            return false;
        }
        true
    }

    /// Gives room back.
    pub fn release(&self, bytes: u64) {
        self.held.fetch_sub(bytes, Relaxed);
    }
}

fn judge(before: Level, used: u64, limit: u64) -> Level {
    if limit == 0 {
        return Level::Calm;
    }
    let percent = used.saturating_mul(100) / limit;
    let holds = |level, (from, below)| percent >= if before >= level { below } else { from };
    if holds(Level::Shut, SHUT) {
        Level::Shut
    } else if holds(Level::Shed, SHED) {
        Level::Shed
    } else {
        Level::Calm
    }
}

/// Where this process's memory is limited and counted.
#[derive(Debug, Default)]
pub struct Gauge {
    group: Option<Group>,
    /// The limit of the configuration, bytes; 0 is none.
    pub own_limit: u64,
}

#[derive(Debug)]
struct Group {
    used: PathBuf,
    stat: PathBuf,
    /// Names in `stat` of the bytes that the kernel takes back before it kills.
    cache: [&'static str; 2],
    limit: u64,
}

impl Gauge {
    /// Looks for the control group (version 2, then 1) that limits this process.
    #[must_use]
    pub fn find(own_limit: u64) -> Self {
        let table = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
        Gauge { group: group(&table, Path::new("/sys/fs/cgroup")), own_limit }
    }

    /// The tightest limit, bytes; 0 is none.
    #[must_use]
    pub fn limit(&self) -> u64 {
        let group = self.group.as_ref().map_or(0, |group| group.limit);
        [self.own_limit, group].into_iter().filter(|limit| *limit > 0).min().unwrap_or(0)
    }

    /// Bytes used and the limit that they count against; the tighter one of the two limits decides.
    #[must_use]
    pub fn read(&self) -> (u64, u64) {
        let own = if self.own_limit > 0 { (resident(), self.own_limit) } else { (0, 0) };
        let Some(group) = &self.group else { return own };
        let theirs = (group.used(), group.limit);
        let share = |(used, limit): (u64, u64)| used.saturating_mul(1000) / limit.max(1);
        if share(own) > share(theirs) { own } else { theirs }
    }
}

impl Group {
    fn used(&self) -> u64 {
        let number = |path| fs::read_to_string(path).ok()?.trim().parse::<u64>().ok();
        let stat = fs::read_to_string(&self.stat).unwrap_or_default();
        let cached = stat.lines().filter_map(|line| line.split_once(' ')).filter(|(name, _)| self.cache.contains(name));
        let cached: u64 = cached.filter_map(|(_, bytes)| bytes.parse::<u64>().ok()).sum();
        number(&self.used).unwrap_or(0).saturating_sub(cached)
    }
}

/// The nearest group with a limit, upwards from the process's own.
fn group(table: &str, root: &Path) -> Option<Group> {
    for line in table.lines() {
        let mut parts = line.splitn(3, ':').skip(1);
        let (controllers, path) = (parts.next()?, parts.next()?);
        let (base, limit, used, cache) = match controllers {
            "" => (root.to_owned(), "memory.max", "memory.current", ["active_file", "inactive_file"]),
            "memory" => {
                let cache = ["total_active_file", "total_inactive_file"];
                (root.join("memory"), "memory.limit_in_bytes", "memory.usage_in_bytes", cache)
            }
            _ => continue,
        };
        let own = base.join(path.trim_start_matches('/'));
        for folder in own.ancestors().take_while(|folder| folder.starts_with(&base)) {
            let text = fs::read_to_string(folder.join(limit)).unwrap_or_default();
            // Version 1 says "no limit" by a number near 2^63.
            let given = text.trim().parse::<u64>().ok().filter(|bytes| *bytes < 1 << 60);
            if let Some(limit) = given {
                return Some(Group { used: folder.join(used), stat: folder.join("memory.stat"), cache, limit });
            }
        }
    }
    None
}

/// Resident bytes of this process (`VmRSS`).
fn resident() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok()).unwrap_or(0) * 1024
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn levels_rise_and_fall_with_a_gap_between() {
        let pressure = Pressure::default();
        let levels: Vec<Level> = [74, 75, 71, 69, 85, 81, 79, 70, 0, 100]
            .into_iter()
            .map(|percent| {
                pressure.measure(percent, 100);
                pressure.level()
            })
            .collect();
        use Level::{Calm, Shed, Shut};
        assert_eq!(levels, [Calm, Shed, Shed, Calm, Shut, Shut, Shed, Shed, Calm, Shut]);
        assert!(pressure.measure(1, 0) && pressure.level() == Calm, "no limit");
    }

    #[test]
    fn held_bodies_have_a_part_of_the_limit() {
        let pressure = Pressure::default();
        assert!(pressure.reserve(1 << 40), "no limit, no bound");
        pressure.release(1 << 40);
        pressure.measure(0, 800);
        assert!(pressure.reserve(60) && !pressure.reserve(41) && pressure.reserve(40));
        pressure.release(100);
        assert!(pressure.reserve(100));
    }

    #[test]
    fn the_nearest_group_with_a_limit_counts() {
        let root = tempfile::tempdir().expect("a folder");
        let own = root.path().join("memory/outer/inner");
        fs::create_dir_all(&own).expect("folders");
        let write = |folder: &Path, name: &str, text: &str| fs::write(folder.join(name), text).expect("written");
        write(&own, "memory.limit_in_bytes", "9223372036854771712\n");
        let outer = own.parent().expect("a parent").to_owned();
        write(&outer, "memory.limit_in_bytes", "1000\n");
        write(&outer, "memory.usage_in_bytes", "700\n");
        write(&outer, "memory.stat", "cache 5\ntotal_active_file 100\ntotal_inactive_file 50\n");
        let found = group("4:memory:/outer/inner\n0::/\n", root.path()).expect("a group");
        assert_eq!((found.used(), found.limit), (550, 1000));
        let gauge = Gauge { group: Some(found), own_limit: 0 };
        assert_eq!(gauge.read(), (550, 1000));
    }

    #[test]
    fn the_own_limit_counts_resident_memory() {
        let (used, limit) = Gauge { group: None, own_limit: 1 << 40 }.read();
        assert!(used > 1 << 20 && limit == 1 << 40, "{used}");
    }
}
