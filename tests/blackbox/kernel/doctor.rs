//! `gateway edge doctor` in namespaces that have the traps it names: each one is made, found with its remedy, and where
//! the remedy is a command of this namespace it is carried out and the trap is gone.

use std::{fs, os::fd::AsRawFd as _, process::Command};

use gateway_tests::{deadline::skip, gateway::command, netns::Space};
use serde_json::Value;

use super::{privileges, stage::Stage};

/// What the doctor says of an interface in a namespace, and whether something blocks.
fn examine(space: &Space, more: &[&str]) -> (Vec<Value>, bool) {
    let arguments: Vec<&str> = ["edge", "doctor", "--json"].iter().chain(more).copied().collect();
    let exit = space.run(|| command(&arguments));
    assert!(matches!(exit.code, Some(0 | 1)), "{exit:?}");
    let findings: Value = serde_json::from_str(&exit.stdout).unwrap_or_else(|error| panic!("{error}: {exit:?}"));
    (findings.as_array().cloned().unwrap_or_default(), exit.code == Some(1))
}

fn remedy(findings: &[Value], problem: &str) -> String {
    let found = findings.iter().find(|finding| finding["problem"] == problem);
    let found = found.unwrap_or_else(|| panic!("{problem} is not among {findings:#?}"));
    found["remedy"].as_str().unwrap_or_default().to_owned()
}

fn has(findings: &[Value], problem: &str) -> bool {
    findings.iter().any(|finding| finding["problem"] == problem)
}

/// A sysctl of the namespace's network.
fn sysctl(space: &Space, name: &str, value: &str) {
    let path = format!("/proc/sys/net/{name}");
    space.run(|| fs::write(&path, value)).unwrap_or_else(|error| panic!("{path}: {error}"));
}

#[test]
fn a_healthy_interface_is_not_blocked() {
    let Some(stage) = Stage::new("kernel::doctor::a_healthy_interface_is_not_blocked") else { return };
    sysctl(&stage.server, "ipv4/conf/all/rp_filter", "2");
    let (findings, blocks) = examine(&stage.server, &["-i", &stage.near.interface]);
    assert!(!blocks, "{findings:#?}");
    for problem in ["generic_only", "mtu_too_big", "rp_filter_off", "interface_down", "foreign_program"] {
        assert!(!has(&findings, problem), "{findings:#?}");
    }
    let exit = stage.server.run(|| command(&["edge", "doctor", "-i", &stage.near.interface]));
    assert!(exit.stdout.contains("0 block"), "{exit:?}");
}

#[test]
fn traps_of_an_interface_are_named_with_their_remedies() {
    let test = "kernel::doctor::traps_of_an_interface_are_named_with_their_remedies";
    let Some(stage) = Stage::new(test) else { return };
    let (space, name) = (&stage.server, stage.near.interface.as_str());
    let (findings, blocks) = examine(space, &["-i", "nowhere0"]);
    assert!(blocks && remedy(&findings, "no_interface").contains("ip -br link"));

    space.ip(&["link", "set", name, "down"]).expect("ip");
    let (findings, _) = examine(space, &["-i", name]);
    assert_eq!(remedy(&findings, "interface_down"), format!("`ip link set dev {name} up`"));
    space.ip(&["link", "set", name, "up"]).expect("ip");
    stage.client.ip(&["link", "set", &stage.far.interface, "down"]).expect("ip");
    assert!(has(&examine(space, &["-i", name]).0, "no_carrier"));
    stage.client.ip(&["link", "set", &stage.far.interface, "up"]).expect("ip");

    let foreign = stage.foreign_program();
    let (findings, blocks) = examine(space, &["-i", name]);
    // The program is of the same object, so its name is a gateway's.
    assert!(!blocks && has(&findings, "gateway_program"), "{findings:#?}");
    drop(foreign);
    assert!(!has(&examine(space, &["-i", name]).0, "gateway_program"));

    let (findings, _) = examine(space, &["-i", "lo"]);
    assert!(remedy(&findings, "generic_only").contains("fallback: tc"));

    sysctl(space, &format!("ipv6/conf/{name}/disable_ipv6"), "1");
    assert!(remedy(&examine(space, &["-i", name]).0, "ipv6_disabled").contains("disable_ipv6=0"));
    sysctl(space, &format!("ipv6/conf/{name}/disable_ipv6"), "0");
    assert!(!has(&examine(space, &["-i", name]).0, "ipv6_disabled"));

    sysctl(space, "ipv4/conf/all/rp_filter", "0");
    sysctl(space, &format!("ipv4/conf/{name}/rp_filter"), "0");
    assert_eq!(
        remedy(&examine(space, &["-i", name]).0, "rp_filter_off").split(' ').nth(2),
        Some(format!("net.ipv4.conf.{name}.rp_filter=2`").as_str())
    );
}

#[test]
fn a_program_of_another_name_is_foreign() {
    let test = "kernel::doctor::a_program_of_another_name_is_foreign";
    let Some(stage) = Stage::new(test) else { return };
    let (space, name) = (&stage.server, stage.near.interface.as_str());
    let guard = stage.strange_program();
    let (findings, blocks) = examine(space, &["-i", name]);
    assert!(!blocks, "TC ingress stands in: {findings:#?}");
    assert!(remedy(&findings, "foreign_program").contains(&format!("ip link set dev {name} xdp off")));
    drop(guard);
}

#[test]
fn interfaces_without_native_xdp_are_named() {
    let test = "kernel::doctor::interfaces_without_native_xdp_are_named";
    let Some(stage) = Stage::new(test) else { return };
    let (space, name) = (&stage.server, stage.near.interface.as_str());
    if space.ip(&["link", "add", "bridge0", "type", "bridge"]).is_ok() {
        let (findings, _) = examine(space, &["-i", "bridge0"]);
        assert!(has(&findings, "generic_only") && has(&findings, "interface_down"), "{findings:#?}");
    } else {
        skip(test, "this kernel makes no bridges");
    }
    if space.ip(&["link", "add", "link", name, "name", "tagged.5", "type", "vlan", "id", "5"]).is_ok() {
        let (findings, _) = examine(space, &["-i", "tagged.5"]);
        assert!(remedy(&findings, "vlan_interface").contains(name), "{findings:#?}");
    } else {
        skip(test, "this kernel makes no VLAN interfaces");
    }
    if space.ip(&["link", "add", "bond0", "type", "bond"]).is_ok() {
        space.ip(&["link", "set", name, "down"]).expect("ip");
        space.ip(&["link", "set", name, "master", "bond0"]).expect("ip");
        assert!(remedy(&examine(space, &["-i", name]).0, "bond_member").contains("bond0"));
    } else {
        skip(test, "this kernel makes no bonds");
    }
}

#[test]
fn traps_of_the_host_are_named_with_their_remedies() {
    let test = "kernel::doctor::traps_of_the_host_are_named_with_their_remedies";
    let Some(stage) = Stage::new(test) else { return };
    let (space, name) = (&stage.server, stage.near.interface.as_str());
    let folder = tempfile::tempdir().expect("a temporary folder can be made");
    let file = folder.path().join("kong.yml");
    let with_pin = |pin: &std::path::Path| {
        fs::write(&file, stage.config(&format!("pin: {}", pin.display()))).expect("the folder is ours");
        examine(space, &["-c", &file.display().to_string()]).0
    };
    assert!(remedy(&with_pin(&folder.path().join("pins")), "no_bpffs").contains("mount -t bpf bpf /sys/fs/bpf"));
    assert!(!has(&with_pin(&stage.bpffs.pins()), "no_bpffs"));

    sysctl(space, "ipv4/tcp_syncookies", "0");
    assert_eq!(remedy(&examine(space, &["-i", name]).0, "syncookies_off"), "`sysctl -w net.ipv4.tcp_syncookies=1`");
    sysctl(space, "ipv4/tcp_syncookies", "1");
    assert!(!has(&examine(space, &["-i", name]).0, "syncookies_off"));

    let capture = space.run(every_frame);
    assert!(has(&examine(space, &["-i", name]).0, "packet_capture"));
    drop(capture);
    assert!(!has(&examine(space, &["-i", name]).0, "packet_capture"));

    let none = examine(space, &[]).0;
    assert!(remedy(&none, "no_interface_named").contains("interfaces:"), "{none:#?}");
}

/// A socket that sees every frame, as a capture has.
fn every_frame() -> std::os::fd::OwnedFd {
    use nix::sys::socket::{AddressFamily, SockFlag, SockProtocol, SockType, socket};

    let socket = socket(AddressFamily::Packet, SockType::Raw, SockFlag::SOCK_CLOEXEC, SockProtocol::EthAll);
    let socket = socket.expect("root may");
    assert!(socket.as_raw_fd() > 2);
    socket
}

#[test]
fn what_a_dead_gateway_left_is_named() {
    let test = "kernel::doctor::what_a_dead_gateway_left_is_named";
    let Some(stage) = Stage::new(test) else { return };
    let edge = format!("pin: {}\nkeep: true\nhold: true", stage.bpffs.pins().display());
    drop(stage.start(&edge));
    let folder = tempfile::tempdir().expect("a temporary folder can be made");
    let file = folder.path().join("kong.yml");
    fs::write(&file, stage.config(&edge)).expect("the folder is ours");
    let file = file.display().to_string();
    let mut found = Vec::new();
    gateway_tests::eventually("the silence is noticed", || {
        found = examine(&stage.server, &["-c", &file]).0;
        has(&found, "pins_left")
    });
    assert!(stage.has_xdp());
    let command = remedy(&found, "pins_left");
    let command = command.split('`').nth(1).expect("a command");
    assert!(command.starts_with("rm -r /"), "{command}");
    fs::remove_dir_all(stage.bpffs.pins()).expect("what the remedy says");
    assert!(!stage.has_xdp(), "detached");
    assert!(!has(&examine(&stage.server, &["-c", &file]).0, "pins_left"));
}

#[test]
fn a_user_without_capabilities_is_told_which() {
    let test = "kernel::doctor::a_user_without_capabilities_is_told_which";
    let Some(stage) = Stage::new(test).filter(|_| privileges::has_setpriv(test)) else { return };
    let ask = |capabilities: &str| -> Vec<Value> {
        let words = privileges::setpriv(capabilities);
        let mut command = Command::new(&words[0]);
        command.args(&words[1..]).arg(gateway_tests::gateway::binary());
        command.args(["edge", "doctor", "--json", "-i", &stage.near.interface]);
        let output = stage.server.run(|| command.output()).expect("it runs");
        serde_json::from_slice(&output.stdout).expect("JSON")
    };
    let findings = ask("");
    assert!(remedy(&findings, "capability_missing").contains("AmbientCapabilities=CAP_BPF"), "{findings:#?}");
    let findings = ask("+bpf,+net_admin");
    assert!(!has(&findings, "capability_missing") && has(&findings, "perfmon_missing"), "{findings:#?}");
    let findings = ask("+bpf,+net_admin,+perfmon");
    assert!(!has(&findings, "perfmon_missing"), "{findings:#?}");
}
