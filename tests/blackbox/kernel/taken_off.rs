//! What others do to the interface: it goes down and comes up, and root forces the program off it. The edge is there again
//! within seconds, and the gateway serves meanwhile.

use std::net::SocketAddr;
use std::process::Command;
use std::time::Duration;

use gateway_tests::{Client, eventually, skip};
use serde_json::Value;

use super::stage::{PORT, Stage};

/// A drop shows as silence: the first SYN is answered at once, or not.
const SILENCE: Duration = Duration::from_millis(700);

fn json(command: &mut Command) -> Value {
    let output = command.output().expect("it can be started");
    serde_json::from_slice(&output.stdout).unwrap_or_default()
}

/// The id of the program on the gateway's interface.
fn program(stage: &Stage) -> Option<u64> {
    let mut command = Command::new("ip");
    let shown = json(command.args(["-n", stage.server.name(), "-j", "link", "show", &stage.near.interface]));
    shown[0]["xdp"]["prog"]["id"].as_u64()
}

/// Whether the address gets no connection.
fn is_denied(stage: &Stage, host: u8) -> bool {
    let to = SocketAddr::from((stage.near.v4, PORT));
    stage.client.run(|| Client::try_connect_within(to, stage.address(host), SILENCE).is_err())
}

#[test]
fn a_program_that_is_forced_off_comes_back() {
    let test = "kernel::taken_off::a_program_that_is_forced_off_comes_back";
    if Command::new("bpftool").arg("version").output().is_err() {
        return skip(test, "the command `bpftool` is missing");
    }
    for edge in ["", "pin: PINS"] {
        let Some(stage) = Stage::new(test) else { return };
        let gateway = stage.start(&edge.replace("PINS", &stage.bpffs.pins().display().to_string()));
        assert_eq!(stage.in_force(&gateway), "native");
        assert!(is_denied(&stage, 3));
        let own = program(&stage).expect("a program is there");
        let links = json(Command::new("bpftool").args(["-j", "link", "show"]));
        let link =
            links.as_array().and_then(|all| all.iter().find(|link| link["prog_id"] == own && link["type"] == "xdp"));
        let Some(id) = link.and_then(|link| link["id"].as_u64()) else {
            return skip(test, "this bpftool does not show links of XDP");
        };
        let detached = Command::new("bpftool").args(["link", "detach", "id", &id.to_string()]).status();
        assert!(detached.is_ok_and(|status| status.success()));
        assert_eq!(stage.ask(stage.address(4)), Some(200), "meanwhile it serves");
        eventually("the program is back", || program(&stage).is_some());
        eventually("it judges", || is_denied(&stage, 3));
        assert_eq!(stage.in_force(&gateway), "native");
        assert_eq!(stage.ask(stage.address(5)), Some(200));
        assert!(gateway.stderr().contains("was taken off the interface"), "{}", gateway.stderr());
    }
}

#[test]
fn an_interface_that_goes_down_and_up_is_judged_as_before() {
    let test = "kernel::taken_off::an_interface_that_goes_down_and_up_is_judged_as_before";
    let Some(stage) = Stage::new(test) else { return };
    let mut gateway = stage.start("");
    let set = |state: &str| stage.server.ip(&["link", "set", &stage.near.interface, state]).expect("ip");
    for _ in 0..2 {
        set("down");
        assert!(is_denied(&stage, 4));
        set("up");
        eventually("it serves again", || !is_denied(&stage, 4));
        assert!(is_denied(&stage, 3), "and what is denied is not");
    }
    assert!(gateway.runs());
    assert_eq!(stage.in_force(&gateway), "native");
    // The same name, but another interface.
    stage.server.ip(&["link", "del", &stage.near.interface]).expect("ip");
    eventually("the loss is told", || stage.in_force(&gateway) != "native");
    let (near, far) = (&stage.near, &stage.far);
    stage
        .server
        .ip(&[
            "link",
            "add",
            &near.interface,
            "type",
            "veth",
            "peer",
            "name",
            &far.interface,
            "netns",
            stage.client.name(),
        ])
        .expect("ip");
    for (space, end) in [(&stage.server, near), (&stage.client, far)] {
        space.add_address(&end.interface, end.v4.into()).expect("ip");
        space.ip(&["link", "set", &end.interface, "up"]).expect("ip");
    }
    for host in 3..6 {
        stage.client.add_address(&far.interface, stage.address(host).into()).expect("ip");
    }
    eventually("the new one is guarded", || stage.in_force(&gateway) == "native");
    eventually("it serves", || !is_denied(&stage, 5));
    assert!(is_denied(&stage, 3));
}
