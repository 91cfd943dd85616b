//! Every trap from invented facts: a healthy host has none, and each change brings exactly its own.

use super::*;
use crate::edge::{Fallback, link::OnInterface};

fn policy() -> Policy {
    Policy { interfaces: vec!["eth0".into()], ports: vec![8000], ..Policy::default() }
}

fn host() -> Host {
    Host {
        kernel: (6, 12),
        capabilities: u64::MAX,
        jit: Some(1),
        unprivileged_bpf: Some(2),
        statistics: Some(0),
        syncookies: Some(1),
        first_free_port: Some(1024),
        rp_filter: Some(2),
        memlock: None,
        cpus: 4,
        captures: 0,
        pins: Some(PinFolder {
            path: "/sys/fs/bpf/gateway/edge".into(),
            is_on_bpffs: true,
            is_writable: true,
            silent_s: Some(1),
        }),
    }
}

fn link() -> Description {
    Description {
        name: "eth0".into(),
        is_ethernet: true,
        is_up: true,
        has_carrier: true,
        mtu: 1_500,
        ..Description::default()
    }
}

fn interface() -> Interface {
    Interface {
        name: "eth0".into(),
        link: Some(link()),
        driver: Some("mlx5_core".into()),
        xdp_features: Some(0x23),
        channels: Some(Channels { combined: 4, combined_max: 8, ..Channels::default() }),
        rp_filter: Some(0),
        ..Interface::default()
    }
}

/// The problems, and that each has a remedy and a reason.
fn problems(policy: &Policy, host: &Host, interface: &Interface) -> Vec<&'static str> {
    let findings = findings(policy, host, std::slice::from_ref(interface));
    for one in &findings {
        assert!(one.detail.len() > 10 && one.remedy.len() > 5, "{one:?}");
    }
    findings.into_iter().map(|finding| finding.problem).collect()
}

fn of_host(change: impl FnOnce(&mut Host)) -> Vec<&'static str> {
    let mut host = host();
    change(&mut host);
    problems(&policy(), &host, &interface())
}

fn of_policy(change: impl FnOnce(&mut Policy)) -> Vec<&'static str> {
    let mut policy = policy();
    change(&mut policy);
    problems(&policy, &host(), &interface())
}

fn of_interface(change: impl FnOnce(&mut Interface)) -> Vec<&'static str> {
    let mut interface = interface();
    change(&mut interface);
    problems(&policy(), &host(), &interface)
}

fn of_link(change: impl FnOnce(&mut Description)) -> Vec<&'static str> {
    of_interface(|interface| change(interface.link.as_mut().unwrap()))
}

#[test]
fn a_healthy_host_has_no_trap() {
    assert_eq!(problems(&policy(), &host(), &interface()), Vec::<&str>::new());
    // A host of which nothing can be read is not accused.
    let unknown = Host { kernel: (6, 12), capabilities: u64::MAX, cpus: 1, ..Host::default() };
    let bare = Interface { name: "eth0".into(), link: Some(link()), ..Interface::default() };
    assert_eq!(problems(&policy(), &unknown, &bare), Vec::<&str>::new());
}

#[test]
fn traps_of_the_host() {
    assert_eq!(of_host(|h| h.kernel = (5, 15)), ["kernel_too_old"]);
    assert_eq!(of_host(|h| h.kernel = (6, 1)), ["no_tcx"]);
    assert_eq!(of_host(|h| h.capabilities = 1 << 39 | 1 << 38), ["capability_missing"]);
    assert_eq!(of_host(|h| h.capabilities = 1 << 12), ["capability_missing"]);
    assert_eq!(of_host(|h| h.capabilities = 1 << 12 | 1 << 21), Vec::<&str>::new());
    assert_eq!(of_host(|h| h.capabilities = 1 << 12 | 1 << 39), ["perfmon_missing"]);
    assert_eq!(of_host(|h| h.pins.as_mut().unwrap().is_on_bpffs = false), ["no_bpffs"]);
    assert_eq!(of_host(|h| h.pins.as_mut().unwrap().is_writable = false), ["pins_not_writable"]);
    assert_eq!(of_host(|h| h.pins.as_mut().unwrap().silent_s = Some(60)), ["pins_left"]);
    assert_eq!(of_host(|h| h.jit = Some(0)), ["jit_off"]);
    assert_eq!(of_host(|h| h.unprivileged_bpf = Some(0)), ["unprivileged_bpf"]);
    assert_eq!(of_host(|h| h.statistics = Some(1)), ["statistics_on"]);
    assert_eq!(of_host(|h| h.syncookies = Some(0)), ["syncookies_off"]);
    assert_eq!(of_host(|h| h.captures = 2), ["packet_capture"]);
    assert_eq!(of_host(|h| (h.kernel, h.memlock) = ((5, 10), Some(65_536))), ["kernel_too_old", "memlock"]);
    assert_eq!(of_host(|h| h.memlock = Some(65_536)), Vec::<&str>::new());
}

#[test]
fn traps_of_the_configuration() {
    assert_eq!(of_policy(|p| p.trusted = vec!["0.0.0.0/0".parse().unwrap()]), ["everybody_spared"]);
    let denied = of_policy(|p| {
        p.trusted = vec!["192.0.2.0/24".parse().unwrap()];
        p.deny = vec!["192.0.2.7/32".parse().unwrap()];
    });
    assert_eq!(denied, ["denied_and_spared"]);
    let poor = Host { capabilities: 1 << 12 | 1 << 38 | 1 << 39, ..host() };
    let low = Policy { ports: vec![0, 8000, 443], ..policy() };
    assert_eq!(problems(&low, &poor, &interface()), ["low_port"]);
    assert_eq!(findings(&Policy::default(), &host(), &[])[0].problem, "no_interface_named");
}

#[test]
fn traps_of_an_interface() {
    assert_eq!(of_interface(|i| i.link = None), ["no_interface"]);
    assert_eq!(of_link(|l| l.is_up = false), ["interface_down"]);
    assert_eq!(of_link(|l| l.has_carrier = false), ["no_carrier"]);
    assert_eq!(of_link(|l| l.is_ethernet = false), ["no_ethernet"]);
    let program = Some(OnInterface { program: 7, is_generic: false });
    assert_eq!(of_link(|l| l.xdp = program), ["foreign_program"]);
    let ours = of_interface(|i| {
        i.program = Some(("gateway".into(), true));
        i.link.as_mut().unwrap().xdp = program;
    });
    assert_eq!(ours, ["gateway_program"]);
    assert_eq!(of_link(|l| l.kind = Some("vlan".into())), ["vlan_interface"]);
    assert_eq!(of_link(|l| l.slave_kind = Some("bond".into())), ["bond_member"]);
    assert_eq!(of_interface(|i| i.xdp_features = Some(0)), ["generic_only"]);
    assert_eq!(of_link(|l| l.mtu = 9_000), Vec::<&str>::new(), "the driver takes frames in parts");
    let jumbo = of_interface(|i| {
        i.xdp_features = Some(3);
        i.link.as_mut().unwrap().mtu = 9_001;
    });
    assert_eq!(jumbo, ["mtu_too_big"]);
    assert_eq!(of_interface(|i| i.offloads = vec!["rx-lro".into()]), ["lro_on"]);
    assert_eq!(of_interface(|i| i.offloads = vec!["rx-gro-hw".into(), "rx-gro".into()]), ["gro_hw_on"]);
    assert_eq!(of_interface(|i| i.is_without_ipv6 = true), ["ipv6_disabled"]);
    let queues = |combined, combined_max| Some(Channels { combined, combined_max, ..Channels::default() });
    assert_eq!(of_interface(|i| (i.driver, i.channels) = (Some("ena".into()), queues(5, 8))), ["queues_above_half"]);
    assert_eq!(of_interface(|i| (i.driver, i.channels) = (Some("ena".into()), queues(4, 8))), Vec::<&str>::new());
    assert_eq!(of_interface(|i| (i.driver, i.channels) = (Some("virtio_net".into()), queues(4, 4))), ["virtio_queues"]);
    assert_eq!(of_interface(|i| i.channels = queues(1, 8)), ["one_queue"]);
    let spoofable = Host { rp_filter: Some(0), ..host() };
    assert_eq!(problems(&policy(), &spoofable, &interface()), ["rp_filter_off"]);
}

#[test]
fn an_old_bond_and_what_stands_in_decide_how_bad_it_is() {
    let mut bond = interface();
    bond.link.as_mut().unwrap().kind = Some("bond".into());
    let old = Host { kernel: (5, 14), ..host() };
    assert!(problems(&policy(), &old, &bond).contains(&"old_bond"));
    let mut generic = interface();
    generic.xdp_features = Some(0);
    let severity = |policy: &Policy| findings(policy, &host(), std::slice::from_ref(&generic))[0].severity;
    assert_eq!(severity(&policy()), Severity::Degrades);
    assert_eq!(severity(&Policy { fallback: Fallback::None, ..policy() }), Severity::Blocks);
}

#[test]
fn the_worst_comes_first() {
    let host = Host { captures: 1, jit: Some(0), kernel: (5, 4), ..host() };
    let order: Vec<Severity> = findings(&policy(), &host, &[]).iter().map(|finding| finding.severity).collect();
    assert_eq!(order, [Severity::Blocks, Severity::Degrades, Severity::Advice]);
}

#[test]
fn this_machine_can_be_examined() {
    let policy = Policy { interfaces: vec!["lo".into(), "nowhere0".into()], ..policy() };
    let findings = examine(&policy);
    assert!(findings.iter().any(|finding| finding.problem == "no_interface"), "{findings:?}");
}
