//! What stands in the way of the edge on this host, each trap with its exact remedy. The examination is pure: facts in,
//! findings out; `collect` alone asks the machine.

mod collect;
mod ethtool;
mod host;
mod interface;

use serde_json::{Value, json};

use super::{link::Description, policy::Policy};
pub(super) use ethtool::Channels;

/// How bad it is.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Severity {
    /// The edge does not work with it.
    Blocks,
    /// The edge works, slower or with less than was asked for.
    Degrades,
    /// Worth knowing.
    Advice,
}

impl Severity {
    /// The word for it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Blocks => "blocks",
            Self::Degrades => "degrades",
            Self::Advice => "advice",
        }
    }
}

/// A trap, and the way out of it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Finding {
    /// How bad it is.
    pub severity: Severity,
    /// One word.
    pub problem: &'static str,
    /// The interface, if it is one's.
    pub interface: Option<String>,
    /// What was found.
    pub detail: String,
    /// What to do, as a command wherever there is one.
    pub remedy: String,
}

impl Finding {
    /// As the commands print it with `--json`.
    #[must_use]
    pub fn json(&self) -> Value {
        json!({
            "severity": self.severity.name(),
            "problem": self.problem,
            "interface": self.interface,
            "detail": self.detail,
            "remedy": self.remedy,
        })
    }
}

/// What was found out about the host. What could not be read is none, and nothing is said of it.
#[derive(Clone, Debug, Default)]
struct Host {
    /// Major and minor.
    kernel: (u32, u32),
    /// Effective, as in `/proc/self/status`.
    capabilities: u64,
    pins: Option<PinFolder>,
    /// `net.core.bpf_jit_enable`.
    jit: Option<u64>,
    /// `kernel.unprivileged_bpf_disabled`.
    unprivileged_bpf: Option<u64>,
    /// `kernel.bpf_stats_enabled`.
    statistics: Option<u64>,
    /// `net.ipv4.tcp_syncookies`.
    syncookies: Option<u64>,
    /// `net.ipv4.ip_unprivileged_port_start`.
    first_free_port: Option<u64>,
    /// `net.ipv4.conf.all.rp_filter`.
    rp_filter: Option<u64>,
    /// Bytes of the soft limit; none is no limit.
    memlock: Option<u64>,
    cpus: usize,
    /// Sockets that see every frame.
    captures: usize,
}

/// The folder of `edge.pin`.
#[derive(Clone, Debug, Default)]
struct PinFolder {
    path: String,
    is_on_bpffs: bool,
    is_writable: bool,
    /// Seconds since the heartbeat of whoever pinned what is there.
    silent_s: Option<u64>,
}

/// What was found out about an interface.
#[derive(Clone, Debug, Default)]
struct Interface {
    name: String,
    /// None: there is no such interface.
    link: Option<Description>,
    master: Option<String>,
    parent: Option<String>,
    driver: Option<String>,
    /// The name of the program on it, and whether it is a gateway's.
    program: Option<(String, bool)>,
    /// `NETDEV_A_DEV_XDP_FEATURES` (Linux 6.3).
    xdp_features: Option<u64>,
    channels: Option<Channels>,
    /// Names of the offloads that are on.
    offloads: Vec<String>,
    rp_filter: Option<u64>,
    is_without_ipv6: bool,
}

/// Asks the host and examines the answers; the worst first.
#[must_use]
pub fn examine(policy: &Policy) -> Vec<Finding> {
    let host = collect::host(policy);
    let interfaces: Vec<Interface> = policy.interfaces.iter().map(|name| collect::interface(name)).collect();
    findings(policy, &host, &interfaces)
}

fn findings(policy: &Policy, host: &Host, interfaces: &[Interface]) -> Vec<Finding> {
    let mut findings: Vec<Finding> = host::CHECKS.iter().filter_map(|check| check(policy, host)).collect();
    for interface in interfaces {
        let own = interface::CHECKS.iter().filter_map(|check| check(policy, host, interface));
        findings.extend(own.map(|finding| Finding { interface: Some(interface.name.clone()), ..finding }));
    }
    findings.sort_by_key(|finding| finding.severity);
    findings
}

fn finding(severity: Severity, problem: &'static str, detail: String, remedy: String) -> Option<Finding> {
    Some(Finding { severity, problem, interface: None, detail, remedy })
}

#[cfg(test)]
mod tests;
