//! Asks the machine for the facts. It must not judge them: what cannot be read is left out.

use std::{fs, path::Path};

use aya::{
    maps::{Array, Map, MapData},
    programs::loaded_programs,
};
use gateway_common::map::{PULSE_HEARTBEAT, name};
use nix::{
    net::if_::if_nametoindex,
    sys::resource::{RLIM_INFINITY, Resource, getrlimit},
    unistd::{AccessFlags, access},
};

use super::{Host, Interface, PinFolder, ethtool};
use crate::{
    clock::monotonic_ns,
    edge::{link, pins, policy::Policy},
};

/// linux/if_ether.h: every frame.
const ETH_P_ALL: &str = "0003";

pub(super) fn host(policy: &Policy) -> Host {
    Host {
        kernel: kernel(),
        capabilities: capabilities(),
        pins: policy.pin.as_deref().map(pin_folder),
        jit: number("/proc/sys/net/core/bpf_jit_enable"),
        unprivileged_bpf: number("/proc/sys/kernel/unprivileged_bpf_disabled"),
        statistics: number("/proc/sys/kernel/bpf_stats_enabled"),
        syncookies: number("/proc/sys/net/ipv4/tcp_syncookies"),
        first_free_port: number("/proc/sys/net/ipv4/ip_unprivileged_port_start"),
        rp_filter: number("/proc/sys/net/ipv4/conf/all/rp_filter"),
        memlock: getrlimit(Resource::RLIMIT_MEMLOCK).ok().map(|(soft, _)| soft).filter(|soft| *soft != RLIM_INFINITY),
        cpus: std::thread::available_parallelism().map_or(1, std::num::NonZero::get),
        captures: captures(&read("/proc/thread-self/net/packet")),
    }
}

pub(super) fn interface(name: &str) -> Interface {
    let mut facts = Interface { name: name.to_owned(), ..Interface::default() };
    let Ok(index) = if_nametoindex(name) else { return facts };
    let Ok(description) = link::describe(index) else { return facts };
    let name_of = |index: Option<u32>| index.and_then(|index| link::describe(index).ok()).map(|other| other.name);
    facts.master = name_of(description.master);
    facts.parent = name_of(description.parent);
    facts.program = description.xdp.and_then(|xdp| program(xdp.program));
    facts.link = Some(description);
    facts.driver = driver(name);
    facts.xdp_features = ethtool::xdp_features(index).ok();
    facts.channels = ethtool::channels(index).ok();
    facts.offloads = ethtool::offloads(index).unwrap_or_default();
    facts.rp_filter = number(&format!("/proc/sys/net/ipv4/conf/{name}/rp_filter"));
    facts.is_without_ipv6 = number(&format!("/proc/sys/net/ipv6/conf/{name}/disable_ipv6")) == Some(1);
    facts
}

/// `utsname.release` begins with two numbers.
fn kernel() -> (u32, u32) {
    let release = read("/proc/sys/kernel/osrelease");
    version(&release)
}

fn version(release: &str) -> (u32, u32) {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map(|word| word.parse().unwrap_or(0));
    (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0))
}

fn capabilities() -> u64 {
    let status = read("/proc/thread-self/status");
    let effective = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    effective.and_then(|text| u64::from_str_radix(text.trim(), 16).ok()).unwrap_or(0)
}

fn pin_folder(path: &Path) -> PinFolder {
    let nearest = path.ancestors().find(|ancestor| ancestor.exists());
    PinFolder {
        path: path.display().to_string(),
        is_on_bpffs: pins::is_on_bpffs(path),
        is_writable: nearest.is_some_and(|path| access(path, AccessFlags::W_OK | AccessFlags::X_OK).is_ok()),
        silent_s: heartbeat_ns(path).map(|at_ns| monotonic_ns().saturating_sub(at_ns) / 1_000_000_000),
    }
}

fn heartbeat_ns(folder: &Path) -> Option<u64> {
    let pulse = MapData::from_pin(folder.join("maps").join(name::PULSE)).and_then(Map::from_map_data).ok()?;
    Array::<_, u64>::try_from(pulse).ok()?.get(&PULSE_HEARTBEAT, 0).ok()
}

/// The program's name, which only a privileged user can ask for.
fn program(id: u32) -> Option<(String, bool)> {
    let info = loaded_programs().flatten().find(|info| info.id() == id)?;
    let text = info.name_as_str()?.to_owned();
    let is_ours = text == name::PROGRAM;
    Some((text, is_ours))
}

/// A device of a driver; the folder shows the namespace that it was mounted in, which is the host's as a rule.
fn driver(interface: &str) -> Option<String> {
    let path = fs::read_link(format!("/sys/class/net/{interface}/device/driver")).ok()?;
    Some(path.file_name()?.to_str()?.to_owned())
}

/// packet(7)'s table: sk, references, type, protocol in hexadecimal, …
fn captures(table: &str) -> usize {
    table.lines().skip(1).filter(|line| line.split_whitespace().nth(3) == Some(ETH_P_ALL)).count()
}

fn number(path: &str) -> Option<u64> {
    read(path).trim().parse().ok()
}

fn read(path: &str) -> String {
    fs::read_to_string(path).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_and_tables_are_read() {
        assert_eq!(version("6.18.44-fc+\n"), (6, 18));
        assert_eq!(version("5.4"), (5, 4));
        assert_eq!(version(""), (0, 0));
        let table = "sk RefCnt Type Proto Iface R Rmem User Inode\n\
                     00000000 3 3 0003 0 1 0 0 10423\n00000000 3 2 0800 2 1 0 0 10424\n";
        assert_eq!(captures(table), 1);
    }
}
