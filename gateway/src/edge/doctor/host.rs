//! Traps of the host as a whole, one small function each.

use ipnet::IpNet;

use super::{Finding, Host, Severity, finding};
use crate::edge::policy::{Fallback, Policy};

/// linux/capability.h.
const NET_BIND_SERVICE: u32 = 10;
const NET_ADMIN: u32 = 12;
const SYS_ADMIN: u32 = 21;
const PERFMON: u32 = 38;
const BPF: u32 = 39;

/// `bpf_xdp_load_bytes`.
const KERNEL_MIN: (u32, u32) = (5, 18);
/// tcx links.
const KERNEL_TCX: (u32, u32) = (6, 6);
/// From here on maps are charged to the memory control group.
const KERNEL_MEMCG: (u32, u32) = (5, 11);
/// Maps of the usual sizes.
const MEMLOCK_BYTES_MIN: u64 = 64 << 20;
/// The heartbeat is older than that in a process that is gone.
const SILENT_S_MAX: u64 = 5;

pub(super) const CHECKS: &[fn(&Policy, &Host) -> Option<Finding>] = &[
    kernel_too_old,
    kernel_without_tcx,
    capability_missing,
    perfmon_missing,
    low_port,
    no_bpffs,
    pins_not_writable,
    pins_left,
    jit_off,
    unprivileged_bpf,
    statistics_on,
    memlock,
    syncookies_off,
    everybody_spared,
    denied_and_spared,
    packet_capture,
    no_interface_named,
];

fn has(host: &Host, capability: u32) -> bool {
    host.capabilities & (1 << capability) != 0
}

fn kernel_too_old(_: &Policy, host: &Host) -> Option<Finding> {
    let ((major, minor), (major_min, minor_min)) = (host.kernel, KERNEL_MIN);
    if host.kernel >= KERNEL_MIN {
        return None;
    }
    let detail = format!("this is Linux {major}.{minor}; the program needs {major_min}.{minor_min}");
    finding(Severity::Blocks, "kernel_too_old", detail, "boot a newer kernel; until then the workers judge".into())
}

fn kernel_without_tcx(policy: &Policy, host: &Host) -> Option<Finding> {
    if policy.fallback == Fallback::None || host.kernel >= KERNEL_TCX || host.kernel < KERNEL_MIN {
        return None;
    }
    let detail = format!(
        "Linux {}.{} has no tcx links: where XDP cannot be had, nothing stands in",
        host.kernel.0, host.kernel.1
    );
    finding(Severity::Advice, "no_tcx", detail, "boot Linux 6.6 or later if an interface needs the fallback".into())
}

fn capability_missing(policy: &Policy, host: &Host) -> Option<Finding> {
    let may_load = has(host, BPF) || has(host, SYS_ADMIN);
    if policy.interfaces.is_empty() || may_load && has(host, NET_ADMIN) {
        return None;
    }
    let missing: Vec<&str> = [(may_load, "CAP_BPF"), (has(host, NET_ADMIN), "CAP_NET_ADMIN")]
        .iter()
        .filter(|(has, _)| !has)
        .map(|(_, name)| *name)
        .collect();
    let remedy = "AmbientCapabilities=CAP_BPF CAP_NET_ADMIN CAP_PERFMON CAP_NET_BIND_SERVICE in the unit, \
                  --cap-add for a container, or `setcap cap_bpf,cap_net_admin,cap_perfmon,cap_net_bind_service+ep \
                  $(command -v gateway)`";
    finding(Severity::Blocks, "capability_missing", format!("this user lacks {}", missing.join(" and ")), remedy.into())
}

fn perfmon_missing(policy: &Policy, host: &Host) -> Option<Finding> {
    if policy.interfaces.is_empty() || !has(host, BPF) || has(host, PERFMON) || has(host, SYS_ADMIN) {
        return None;
    }
    let detail = "without CAP_PERFMON the kernel puts barriers against speculation into the program".to_owned();
    finding(Severity::Degrades, "perfmon_missing", detail, "add CAP_PERFMON: a packet costs a fifth then".into())
}

fn low_port(policy: &Policy, host: &Host) -> Option<Finding> {
    let first_free = host.first_free_port?;
    let port = policy.ports.iter().find(|port| **port != 0 && u64::from(**port) < first_free)?;
    if has(host, NET_BIND_SERVICE) {
        return None;
    }
    let detail = format!("port {port} is below {first_free}, and this user lacks CAP_NET_BIND_SERVICE");
    finding(
        Severity::Blocks,
        "low_port",
        detail,
        format!("add CAP_NET_BIND_SERVICE, or `sysctl -w net.ipv4.ip_unprivileged_port_start={port}`"),
    )
}

fn no_bpffs(_: &Policy, host: &Host) -> Option<Finding> {
    let pins = host.pins.as_ref().filter(|pins| !pins.is_on_bpffs)?;
    let detail = format!("`pin` is {}, which is on no bpffs: a restart leaves a gap", pins.path);
    let remedy = "`mount -t bpf bpf /sys/fs/bpf`, and in /etc/fstab: `bpf /sys/fs/bpf bpf nosuid,nodev,noexec 0 0`";
    finding(Severity::Degrades, "no_bpffs", detail, remedy.into())
}

fn pins_not_writable(_: &Policy, host: &Host) -> Option<Finding> {
    let pins = host.pins.as_ref().filter(|pins| pins.is_on_bpffs && !pins.is_writable)?;
    let parent = std::path::Path::new(&pins.path).parent()?.display();
    let detail = format!("this user may not write to {}", pins.path);
    finding(
        Severity::Degrades,
        "pins_not_writable",
        detail,
        format!("as root: `install -d -m 0700 -o USER -g GROUP {parent}`"),
    )
}

fn pins_left(_: &Policy, host: &Host) -> Option<Finding> {
    let pins = host.pins.as_ref()?;
    let silent_s = pins.silent_s.filter(|silent_s| *silent_s > SILENT_S_MAX)?;
    let detail = format!("{} holds what a gateway pinned that has been silent for {silent_s} s", pins.path);
    finding(
        Severity::Advice,
        "pins_left",
        detail,
        format!("the next start takes it over; to detach it: `rm -r {}`", pins.path),
    )
}

fn jit_off(_: &Policy, host: &Host) -> Option<Finding> {
    host.jit.filter(|jit| *jit == 0)?;
    let detail = "the kernel interprets the program instead of compiling it".to_owned();
    finding(Severity::Degrades, "jit_off", detail, "`sysctl -w net.core.bpf_jit_enable=1`".into())
}

fn unprivileged_bpf(_: &Policy, host: &Host) -> Option<Finding> {
    host.unprivileged_bpf.filter(|disabled| *disabled == 0)?;
    let detail = "every user of the host may load programs".to_owned();
    finding(Severity::Advice, "unprivileged_bpf", detail, "`sysctl -w kernel.unprivileged_bpf_disabled=2`".into())
}

fn statistics_on(_: &Policy, host: &Host) -> Option<Finding> {
    host.statistics.filter(|enabled| *enabled != 0)?;
    let detail = "the kernel takes the time of every run of a program, which costs more than the program".to_owned();
    finding(Severity::Degrades, "statistics_on", detail, "`sysctl -w kernel.bpf_stats_enabled=0`".into())
}

fn memlock(_: &Policy, host: &Host) -> Option<Finding> {
    let limit = host.memlock.filter(|bytes| host.kernel < KERNEL_MEMCG && *bytes < MEMLOCK_BYTES_MIN)?;
    let detail = format!("maps count against a limit of {limit} bytes of locked memory");
    finding(Severity::Blocks, "memlock", detail, "LimitMEMLOCK=infinity in the unit, or `ulimit -l unlimited`".into())
}

fn syncookies_off(_: &Policy, host: &Host) -> Option<Finding> {
    host.syncookies.filter(|enabled| *enabled == 0)?;
    let detail = "a flood of SYNs fills the listeners' queues".to_owned();
    finding(Severity::Degrades, "syncookies_off", detail, "`sysctl -w net.ipv4.tcp_syncookies=1`".into())
}

fn everybody_spared(policy: &Policy, _: &Host) -> Option<Finding> {
    let all = policy.never_drop.iter().chain(&policy.trusted).find(|net| net.prefix_len() == 0)?;
    let detail = format!("{all} is trusted or never dropped: nothing can ever be dropped");
    finding(
        Severity::Blocks,
        "everybody_spared",
        detail,
        "name the proxies in front of the gateway, not everybody".into(),
    )
}

fn denied_and_spared(policy: &Policy, _: &Host) -> Option<Finding> {
    let overlaps = |spared: &IpNet| policy.deny.iter().any(|denied| denied.contains(spared) || spared.contains(denied));
    let both = policy.never_drop.iter().chain(&policy.trusted).find(|spared| overlaps(spared))?;
    let detail = format!("{both} is trusted or never dropped, and `deny` covers (some of) it");
    finding(Severity::Blocks, "denied_and_spared", detail, "take it off one of the lists".into())
}

fn packet_capture(_: &Policy, host: &Host) -> Option<Finding> {
    if host.captures == 0 {
        return None;
    }
    let detail = format!("{} socket(s) see every frame that passes (a capture, a DHCP client)", host.captures);
    finding(
        Severity::Advice,
        "packet_capture",
        detail,
        "`ss -0 -p` names them; under a flood they cost more than the filter".into(),
    )
}

fn no_interface_named(policy: &Policy, _: &Host) -> Option<Finding> {
    if !policy.interfaces.is_empty() {
        return None;
    }
    let detail = "no interface is named: the workers judge connections, nothing judges packets".to_owned();
    finding(
        Severity::Advice,
        "no_interface_named",
        detail,
        "gateway: { edge: { interfaces: [NAME] } }; `ip -br link` lists them".into(),
    )
}
