//! Where XDP cannot be had the same judgement stands at TC ingress, and the status says so.

use std::net::UdpSocket;

use gateway_tests::{bar, eventually};

use super::stage::{PORT, Stage};

#[test]
fn behind_a_foreign_program_the_classifier_judges_until_the_place_is_free() {
    let test = "kernel::fallback::behind_a_foreign_program_the_classifier_judges_until_the_place_is_free";
    let Some(stage) = Stage::new(test) else { return };
    let foreign = stage.foreign_program();
    let gateway = stage.start("");
    let edge = stage.edge(&gateway);
    assert_eq!(edge["mode"]["in_force"], "tc", "{edge:#}");
    let attached = &edge["interfaces"]["attached"][0];
    assert_eq!(attached["mode"], "tc");
    assert_eq!(attached["why_not_native"]["problem"], "foreign_program", "{edge:#}");
    let sender = stage.send_from(3);
    eventually("what is denied is dropped", || stage.edge(&gateway)["packets"]["deny"]["packets"].as_u64() > Some(500));
    assert_eq!(stage.came_through(3), 0);
    assert_eq!(stage.ask(stage.address(4)), Some(200), "and the rest is served");
    assert_eq!(stage.ask(stage.address(3)), None);
    drop(foreign);
    eventually("XDP takes over when its place is free", || stage.in_force(&gateway) == "native");
    let aim = sender.sent() + 200;
    eventually("the sender sends on", || sender.sent() > aim);
    assert_eq!(stage.came_through(3), 0, "of {} packets", sender.sent());
    let words = "behind a foreign program TC judges and says why, until the place is free";
    bar::holds("R10", words, "never replaced", format!("0 of {} packets came through", sender.sent()), true);
}

#[test]
fn jumbo_frames_are_judged_natively() {
    let test = "kernel::fallback::jumbo_frames_are_judged_natively";
    let Some(stage) = Stage::new(test) else { return };
    for (space, end) in [(&stage.server, &stage.near), (&stage.client, &stage.far)] {
        space.ip(&["link", "set", &end.interface, "mtu", "9000"]).expect("a veth takes it");
    }
    let gateway = stage.start("");
    let edge = stage.edge(&gateway);
    assert_eq!(edge["mode"]["in_force"], "native", "{edge:#}");
    let send = |host: u8| {
        let socket = UdpSocket::bind((stage.address(host), 0)).expect("the address is the namespace's");
        socket.send_to(&[7; 8_900], (stage.near.v4, PORT)).expect("one frame")
    };
    let sent: usize = stage.client.run(|| (0..10).map(|_| send(3) + send(4)).sum());
    assert_eq!(sent, 20 * 8_900);
    eventually("frames of others arrive", || stage.came_through(4) == 10);
    assert_eq!(stage.came_through(3), 0);
    let deny = stage.edge(&gateway)["packets"]["deny"].clone();
    assert!(deny["packets"] == 10 && deny["bytes"].as_u64() > Some(89_000), "whole frames: {deny}");
}

#[test]
fn a_restart_at_tc_ingress_lets_no_packet_through_either() {
    let test = "kernel::fallback::a_restart_at_tc_ingress_lets_no_packet_through_either";
    let Some(stage) = Stage::new(test) else { return };
    let _foreign = stage.foreign_program();
    let pins = format!("pin: {}\nkeep: true", stage.bpffs.pins().display());
    let first = stage.start(&pins);
    assert_eq!(stage.in_force(&first), "tc");
    let sender = stage.send_from(3);
    eventually("the sender sends", || sender.sent() > 100);
    drop(first);
    let second = stage.start(&pins);
    assert_eq!(stage.in_force(&second), "tc");
    let aim = sender.sent() + 200;
    eventually("the sender sends on", || sender.sent() > aim);
    assert_eq!(stage.came_through(3), 0, "of {} packets", sender.sent());
}

#[test]
fn without_a_fallback_the_workers_judge_connections() {
    let Some(stage) = Stage::new("kernel::fallback::without_a_fallback_the_workers_judge_connections") else { return };
    let _foreign = stage.foreign_program();
    let gateway = stage.start("fallback: none");
    let edge = stage.edge(&gateway);
    assert_eq!(edge["mode"]["in_force"], "userspace");
    assert_eq!(edge["mode"]["why"][0]["problem"], "foreign_program", "{edge:#}");
    assert_eq!(stage.ask(stage.address(3)), None, "a denied address is not served either way");
}
