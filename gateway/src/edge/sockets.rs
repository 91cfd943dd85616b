//! The program that learns who completed a handshake, on the cgroup of this process: its listeners' sockets are in it,
//! and nobody else's. It must not know what is done with the knowledge.

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
};

use aya::{
    Ebpf,
    programs::{CgroupAttachMode, SockOps, links::FdLink},
};
use gateway_common::map::name;

use super::attach::Trouble;

const REMEDY: &str = "mount cgroup2 at /sys/fs/cgroup; until then accepted connections are told by the workers";

/// Attaches it; what is returned detaches it when it is dropped, or when the process ends.
pub(super) fn attach(ebpf: &mut Ebpf) -> Result<FdLink, Trouble> {
    let path = own_cgroup().ok_or_else(|| trouble("no_cgroup", "this process is in no mounted cgroup2".to_owned()))?;
    try_attach(ebpf, &path).map_err(|detail| trouble("no_sock_ops", format!("{}: {detail}", path.display())))
}

fn trouble(problem: &'static str, detail: String) -> Trouble {
    Trouble { interface: None, problem, detail, remedy: REMEDY }
}

fn try_attach(ebpf: &mut Ebpf, path: &Path) -> Result<FdLink, String> {
    let text = |error: &dyn std::error::Error| error.to_string();
    let cgroup = File::open(path).map_err(|error| text(&error))?;
    let program = ebpf.program_mut(name::SOCKETS).ok_or_else(|| format!("{} is not in the object", name::SOCKETS))?;
    let program: &mut SockOps = program.try_into().map_err(|error| text(&error))?;
    program.load().map_err(|error| text(&error))?;
    // A link always stands beside the programs of others, and the kernel refuses the flag that says so.
    let id = program.attach(cgroup, CgroupAttachMode::Single).map_err(|error| text(&error))?;
    let link = program.take_link(id).map_err(|error| text(&error))?;
    FdLink::try_from(link).map_err(|error| text(&error))
}

/// The directory of this process's cgroup in the unified hierarchy.
fn own_cgroup() -> Option<PathBuf> {
    let mount = mount_point(&fs::read_to_string("/proc/self/mountinfo").ok()?)?;
    let own = path_in_cgroup(&fs::read_to_string("/proc/self/cgroup").ok()?)?;
    let path = mount.join(own.trim_start_matches('/'));
    // In a container the path may be the host's, and the mount the container's own root.
    if path.is_dir() { Some(path) } else { Some(mount) }
}

/// proc_pid_mountinfo(5): … root, mount point, …, `-`, type, …
fn mount_point(mountinfo: &str) -> Option<PathBuf> {
    let line = mountinfo.lines().find(|line| line.contains(" - cgroup2 "))?;
    line.split(' ').nth(4).map(PathBuf::from)
}

/// cgroups(7): `0::/path`.
fn path_in_cgroup(cgroup: &str) -> Option<String> {
    cgroup.lines().find_map(|line| line.strip_prefix("0::")).map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_unified_hierarchy_is_found_among_others() {
        let mounts = "30 24 0:26 / /sys/fs/cgroup rw,nosuid - tmpfs tmpfs rw\n\
                      31 30 0:27 / /sys/fs/cgroup/unified rw,relatime shared:9 - cgroup2 cgroup2 rw\n";
        assert_eq!(mount_point(mounts), Some("/sys/fs/cgroup/unified".into()));
        assert_eq!(mount_point("31 30 0:27 / /proc rw - proc proc rw\n"), None);
        let cgroup = "12:memory:/a\n0::/system.slice/gateway.service\n";
        assert_eq!(path_in_cgroup(cgroup).as_deref(), Some("/system.slice/gateway.service"));
    }
}
