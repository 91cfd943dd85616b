//! Traps of one interface, one small function each.

use super::{Finding, Host, Interface, Severity, finding};
use crate::edge::{
    link::Description,
    policy::{Fallback, Policy},
};

/// linux/netdev.h: the driver runs programs natively, and takes frames in several parts.
const NETDEV_XDP_ACT_BASIC: u64 = 1;
const NETDEV_XDP_ACT_RX_SG: u64 = 1 << 5;
/// A page less the room that drivers keep before and behind the frame.
const MTU_ONE_PAGE: u32 = 3_498;
/// Native XDP on bonds.
const KERNEL_BOND: (u32, u32) = (5, 15);
/// Drivers that keep as many queues for XDP's own sending as for receiving.
const HALVING_DRIVERS: &[&str] = &["ena", "gve"];

type Check = fn(&Policy, &Host, &Interface) -> Option<Finding>;

pub(super) const CHECKS: &[Check] = &[
    no_interface,
    interface_down,
    no_ethernet,
    foreign_program,
    vlan_interface,
    bond_on_an_old_kernel,
    bond_member,
    generic_only,
    mtu_too_big,
    lro_on,
    gro_hw_on,
    queues_above_half,
    virtio_queues,
    one_queue,
    rp_filter_off,
    ipv6_disabled,
];

fn link(interface: &Interface) -> Option<&Description> {
    interface.link.as_ref()
}

/// What happens where XDP cannot be had.
fn instead(policy: &Policy) -> (Severity, &'static str) {
    match (policy.allow_generic, policy.fallback) {
        (true, _) => (Severity::Degrades, "generic mode judges instead"),
        (false, Fallback::Tc) => (Severity::Degrades, "TC ingress judges instead"),
        (false, Fallback::None) => (Severity::Blocks, "only the workers judge"),
    }
}

fn no_interface(_: &Policy, _: &Host, interface: &Interface) -> Option<Finding> {
    if interface.link.is_some() {
        return None;
    }
    let detail = format!("there is no interface {} in this network namespace", interface.name);
    finding(
        Severity::Blocks,
        "no_interface",
        detail,
        "`ip -br link` lists them; one that comes later is guarded then".into(),
    )
}

fn interface_down(_: &Policy, _: &Host, interface: &Interface) -> Option<Finding> {
    let link = link(interface)?;
    let name = &interface.name;
    if !link.is_up {
        return finding(
            Severity::Degrades,
            "interface_down",
            format!("{name} is down"),
            format!("`ip link set dev {name} up`"),
        );
    }
    if !link.has_carrier {
        return finding(
            Severity::Degrades,
            "no_carrier",
            format!("{name} is up and has no carrier"),
            "see to the cable, or the other end".into(),
        );
    }
    None
}

fn no_ethernet(_: &Policy, _: &Host, interface: &Interface) -> Option<Finding> {
    let link = link(interface).filter(|link| !link.is_ethernet)?;
    let kind = link.kind.as_deref().unwrap_or("a device");
    let detail = format!("{} is {kind} without Ethernet headers: its packets pass unjudged", interface.name);
    finding(Severity::Blocks, "no_ethernet", detail, "name the interface that the tunnel's packets come in by".into())
}

fn foreign_program(policy: &Policy, _: &Host, interface: &Interface) -> Option<Finding> {
    let xdp = link(interface)?.xdp?;
    let (name, id) = (&interface.name, xdp.program);
    let (program, is_ours) = interface.program.clone().unwrap_or_else(|| ("without a name".to_owned(), false));
    if is_ours {
        let detail = format!("a gateway's program (id {id}) is on {name} already");
        return finding(Severity::Advice, "gateway_program", detail, "nothing to do if that gateway is meant".into());
    }
    let (severity, instead) = instead(&Policy { allow_generic: false, ..policy.clone() });
    let detail =
        format!("somebody else's XDP program {program} (id {id}) is on {name}; it is never replaced: {instead}");
    let remedy =
        format!("`bpftool net show dev {name}` names its owner; if nobody needs it: `ip link set dev {name} xdp off`");
    finding(severity, "foreign_program", detail, remedy)
}

fn vlan_interface(policy: &Policy, _: &Host, interface: &Interface) -> Option<Finding> {
    link(interface).filter(|link| link.kind.as_deref() == Some("vlan"))?;
    let parent = interface.parent.as_deref().unwrap_or("its parent");
    let detail =
        format!("{} is a VLAN of {parent}, and VLANs have no native XDP: {}", interface.name, instead(policy).1);
    finding(instead(policy).0, "vlan_interface", detail, format!("name {parent} instead: tags are looked through"))
}

fn bond_on_an_old_kernel(policy: &Policy, host: &Host, interface: &Interface) -> Option<Finding> {
    link(interface).filter(|link| link.kind.as_deref() == Some("bond") && host.kernel < KERNEL_BOND)?;
    let detail =
        format!("{} is a bond, and this kernel has no native XDP for bonds: {}", interface.name, instead(policy).1);
    finding(instead(policy).0, "old_bond", detail, "boot Linux 5.15 or later, or name the bond's members".into())
}

fn bond_member(_: &Policy, _: &Host, interface: &Interface) -> Option<Finding> {
    link(interface).filter(|link| link.slave_kind.as_deref() == Some("bond"))?;
    let bond = interface.master.as_deref().unwrap_or("its bond");
    let detail =
        format!("{} is a member of {bond}: what comes in by the other members passes unjudged", interface.name);
    finding(Severity::Degrades, "bond_member", detail, format!("name {bond} instead, or every member"))
}

fn generic_only(policy: &Policy, _: &Host, interface: &Interface) -> Option<Finding> {
    let link = link(interface).filter(|link| link.kind.as_deref() != Some("vlan"))?;
    interface.xdp_features.filter(|features| features & NETDEV_XDP_ACT_BASIC == 0)?;
    let driver =
        interface.driver.as_deref().or(link.kind.as_deref()).map(|name| format!(" ({name})")).unwrap_or_default();
    let (severity, instead) = instead(policy);
    let detail = format!("the driver of {}{driver} has no native XDP: {instead}", interface.name);
    finding(
        severity,
        "generic_only",
        detail,
        "`fallback: tc` (the default) or `allow_generic: true`; both cost about twice as much a packet".into(),
    )
}

fn mtu_too_big(policy: &Policy, _: &Host, interface: &Interface) -> Option<Finding> {
    let link = link(interface).filter(|link| link.mtu > MTU_ONE_PAGE)?;
    interface
        .xdp_features
        .filter(|features| features & (NETDEV_XDP_ACT_BASIC | NETDEV_XDP_ACT_RX_SG) == NETDEV_XDP_ACT_BASIC)?;
    let (severity, instead) = instead(policy);
    let detail =
        format!("the MTU of {} is {}, and its driver gives XDP one page a frame: {instead}", interface.name, link.mtu);
    finding(
        severity,
        "mtu_too_big",
        detail,
        format!("`ip link set dev {} mtu {MTU_ONE_PAGE}`, or a driver with multi-buffer XDP", interface.name),
    )
}

fn has_offload(interface: &Interface, name: &str) -> bool {
    interface.offloads.iter().any(|offload| offload == name)
}

fn lro_on(policy: &Policy, _: &Host, interface: &Interface) -> Option<Finding> {
    if !has_offload(interface, "rx-lro") {
        return None;
    }
    let detail =
        format!("LRO is on at {}: drivers refuse XDP with it, or join packets before they are judged", interface.name);
    finding(instead(policy).0, "lro_on", detail, format!("`ethtool -K {} lro off`", interface.name))
}

fn gro_hw_on(policy: &Policy, _: &Host, interface: &Interface) -> Option<Finding> {
    if !has_offload(interface, "rx-gro-hw") {
        return None;
    }
    let detail = format!("GRO in hardware is on at {}: virtio_net and others refuse XDP with it", interface.name);
    let remedy = format!(
        "`ethtool -K {} rx-gro-hw off`; if that is \"fixed\", take guest_tso4, guest_tso6 and guest_ufo from the virtual machine's card",
        interface.name
    );
    finding(instead(policy).0, "gro_hw_on", detail, remedy)
}

fn queues_above_half(policy: &Policy, _: &Host, interface: &Interface) -> Option<Finding> {
    let driver = interface.driver.as_deref().filter(|driver| HALVING_DRIVERS.contains(driver))?;
    let channels = interface.channels?;
    let (used, max) = channels.receiving();
    if used <= max / 2 {
        return None;
    }
    let half = (max / 2).max(1);
    let detail =
        format!("{} uses {used} of {max} queues, and {driver} takes XDP with at most half of them", interface.name);
    finding(instead(policy).0, "queues_above_half", detail, format!("`ethtool -L {} combined {half}`", interface.name))
}

fn virtio_queues(_: &Policy, host: &Host, interface: &Interface) -> Option<Finding> {
    interface.driver.as_deref().filter(|driver| *driver == "virtio_net")?;
    let (used, max) = interface.channels?.receiving();
    if used as usize + host.cpus <= max as usize {
        return None;
    }
    let detail = format!(
        "virtio_net will log \"request {} queues but max is {max}\": it has none for XDP's own sending",
        used as usize + host.cpus
    );
    finding(Severity::Advice, "virtio_queues", detail, "harmless: the program passes or drops and never sends".into())
}

fn one_queue(_: &Policy, host: &Host, interface: &Interface) -> Option<Finding> {
    let (used, max) = interface.channels?.receiving();
    if used != 1 || max < 2 || host.cpus < 2 {
        return None;
    }
    let wanted = (max as usize).min(host.cpus);
    let detail = format!("{} receives by one queue: one of {} cores judges all packets", interface.name, host.cpus);
    finding(Severity::Advice, "one_queue", detail, format!("`ethtool -L {} combined {wanted}`", interface.name))
}

fn rp_filter_off(_: &Policy, host: &Host, interface: &Interface) -> Option<Finding> {
    // The stricter of the two holds.
    if host.rp_filter?.max(interface.rp_filter?) > 0 || interface.name == "lo" {
        return None;
    }
    let detail = format!("{} takes packets with sources that have no route back", interface.name);
    finding(
        Severity::Advice,
        "rp_filter_off",
        detail,
        format!(
            "`sysctl -w net.ipv4.conf.{}.rp_filter=2` (1 where routes are symmetric)",
            interface.name.replace('.', "/")
        ),
    )
}

fn ipv6_disabled(policy: &Policy, _: &Host, interface: &Interface) -> Option<Finding> {
    if !interface.is_without_ipv6 {
        return None;
    }
    let severity = if policy.allow_generic { Severity::Degrades } else { Severity::Advice };
    let detail =
        format!("IPv6 is disabled on {}: some kernels refuse generic mode with EAFNOSUPPORT then", interface.name);
    finding(
        severity,
        "ipv6_disabled",
        detail,
        format!(
            "`sysctl -w net.ipv6.conf.{}.disable_ipv6=0`, or leave generic mode off",
            interface.name.replace('.', "/")
        ),
    )
}
