//! What outlives the process: a restart, a crash and an upgrade leave no unfiltered packet, and a clean stop leaves
//! nothing. A denied address sends all the while, and a socket behind the filter counts what arrives.

use std::{fs, path::Path, time::Duration};

use aya::maps::{Array, Map, MapData};
use gateway_common::map::PULSE_KILL;
use gateway_tests::{Gateway, Request, Setup, bar, deadline::holds_within, eventually};
use serde_json::Value;

use super::{
    scene::Regular,
    stage::{PORT, Sender, Stage},
};

/// Longer than a clean stop takes.
const STOP: Duration = Duration::from_secs(10);
/// The heartbeat is stale after five seconds.
const STALE: Duration = Duration::from_secs(6);

fn stop(mut gateway: Gateway) {
    gateway.sigterm();
    assert!(gateway.wait(STOP).is_some_and(|status| status.success()), "{}", gateway.stderr());
}

/// Waits until the sender has sent this many more.
fn sends(sender: &Sender, more: u64) {
    let aim = sender.sent() + more;
    eventually("the sender sends", || sender.sent() >= aim);
}

fn dropped(edge: &Value) -> u64 {
    edge["packets"]["deny"]["packets"].as_u64().unwrap_or(0)
}

fn keep(stage: &Stage, more: &str) -> String {
    format!("pin: {}\nkeep: true\n{more}", stage.bpffs.pins().display())
}

#[test]
fn a_clean_stop_leaves_nothing() {
    let Some(stage) = Stage::new("kernel::pins::a_clean_stop_leaves_nothing") else { return };
    let sender = stage.send_from(3);
    eventually("without a gateway everything arrives", || stage.came_through(3) > 0);
    let gateway = stage.start(&format!("pin: {}", stage.bpffs.pins().display()));
    assert_eq!(stage.in_force(&gateway), "native");
    let edge = stage.edge(&gateway);
    assert_eq!(edge["pins"]["in_force"], stage.bpffs.pins().display().to_string(), "{edge:#}");
    assert!(stage.bpffs.pins().join("maps/VERDICTS").exists() && stage.has_xdp());
    sends(&sender, 200);
    let before = stage.came_through(3);
    sends(&sender, 200);
    assert_eq!(stage.came_through(3), before, "denied");
    stop(gateway);
    assert!(!stage.has_xdp(), "the program is gone");
    assert!(!stage.bpffs.pins().exists(), "and so are the pins: {:?}", names(stage.bpffs.path()));
    eventually("what is sent arrives again", || stage.came_through(3) > before);
}

fn names(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).expect("the folder is there");
    entries.map(|entry| entry.expect("it can be read").file_name().to_string_lossy().into_owned()).collect()
}

/// Restarts the gateway in one way and checks that not one packet of the denied address came through.
fn without_a_gap(test: &str, restart: impl FnOnce(&Stage, Gateway) -> Gateway) {
    let Some(stage) = Stage::new(test) else { return };
    let first = stage.start(&keep(&stage, ""));
    assert_eq!(stage.in_force(&first), "native", "{:#}", stage.edge(&first));
    let sender = stage.send_from(3);
    sends(&sender, 200);
    let before = dropped(&stage.edge(&first));
    let second = restart(&stage, first);
    sends(&sender, 200);
    let edge = stage.edge(&second);
    assert_eq!(edge["mode"]["in_force"], "native", "{edge:#}");
    assert_eq!(stage.came_through(3), 0, "of {} packets", sender.sent());
    assert!(dropped(&edge) >= before + 200, "counters survive: {before}, then {edge:#}");
    let how = test.rsplit("::").next().unwrap_or(test).trim_end_matches("_lets_no_packet_through").replace('_', " ");
    let words = format!("{how}: packets of a denied source that came through, of {}", sender.sent());
    bar::at_most("R12", &words, stage.came_through(3) as f64, 0.0, "");
    drop(sender);
    stop(second);
    assert!(stage.has_xdp(), "kept for the next start");
}

#[test]
fn a_restart_lets_no_packet_through() {
    without_a_gap("kernel::pins::a_restart_lets_no_packet_through", |stage, first| {
        stop(first);
        stage.start(&keep(stage, ""))
    });
}

#[test]
fn a_crash_lets_no_packet_through() {
    without_a_gap("kernel::pins::a_crash_lets_no_packet_through", |stage, first| {
        // Dropping it kills it.
        drop(first);
        assert!(stage.has_xdp());
        stage.start(&keep(stage, ""))
    });
}

#[test]
fn an_upgrade_beside_the_old_process_lets_no_packet_through() {
    without_a_gap("kernel::pins::an_upgrade_beside_the_old_process_lets_no_packet_through", |stage, first| {
        let text = stage.config(&keep(stage, ""));
        let second = stage.server.run(|| Setup::new(&text).argument("--beside").start());
        eventually("the first one gives way", || stage.in_force(&first) == "userspace");
        let edge = stage.edge(&first);
        assert_eq!(edge["mode"]["why"][0]["problem"], "superseded", "{edge:#}");
        stop(first);
        second
    });
}

#[test]
fn an_upgrade_under_load_loses_no_good_request() {
    let test = "kernel::pins::an_upgrade_under_load_loses_no_good_request";
    let Some(stage) = Stage::new(test) else { return };
    let text = stage.config(&keep(&stage, "")).replace("minute: 2", "minute: 1000000");
    let mut gateway = stage.server.run(|| Setup::new(&text).start());
    let door = (stage.near.v4, PORT).into();
    let regulars: Vec<_> =
        (4..6).map(|host| Regular::start(&stage.client, door, stage.address(host), Request::get("/"))).collect();
    for turn in 1..=3 {
        let before: usize = regulars.iter().map(Regular::good).sum();
        let next = stage.server.run(|| Setup::new(&text).argument("--beside").start());
        eventually("the older one gives way", || stage.in_force(&gateway) == "userspace");
        stop(std::mem::replace(&mut gateway, next));
        let good = || regulars.iter().map(Regular::good).sum::<usize>();
        eventually(&format!("good requests go on after upgrade {turn}"), || good() > before + 200);
    }
    let (mut good, mut lost) = (0, Vec::new());
    for (more, missed) in regulars.into_iter().map(Regular::end) {
        good += more;
        lost.extend(missed);
    }
    let words = format!("three upgrades under load: good requests that failed, of {good}");
    bar::at_most("R12", &words, lost.len() as f64, 0.0, "");
    assert!(lost.is_empty(), "of {good}: {lost:?}");
}

#[test]
fn verdicts_and_cells_survive() {
    let Some(stage) = Stage::new("kernel::pins::verdicts_and_cells_survive") else { return };
    let more = "ladder: { degrade_after: 1, degrade_window: 60s, gate_for: 10m }\n\
                ceilings: { packets: { per_second: 1, burst: 100 } }";
    let first = stage.start(&keep(&stage, more));
    // Connects anew for each request; a few of them are over the quota.
    eventually("the abuser is gated", || {
        stage.ask(stage.address(4));
        stage.why(&first, stage.address(4))["in_kernel"] == true
    });
    let sender = stage.send_from(5);
    sends(&sender, 300);
    let under_the_ceiling = stage.came_through(5);
    assert!((1..=140).contains(&under_the_ceiling), "{under_the_ceiling}");
    let verdict = stage.why(&first, stage.address(4))["verdict"].clone();
    stop(first);
    let second = stage.start(&keep(&stage, more));
    let why = stage.why(&second, stage.address(4));
    assert_eq!((&why["in_kernel"], &why["inherited"]), (&true.into(), &true.into()), "{why:#}");
    assert_eq!(why["verdict"]["decision"], verdict["decision"]);
    assert_eq!(why["verdict"]["rung"], verdict["rung"]);
    assert!(why["verdict"]["expires_in_seconds"].as_u64() <= verdict["expires_in_seconds"].as_u64());
    sends(&sender, 300);
    let after = stage.came_through(5);
    // One a second; a cell that began anew would let a hundred through.
    assert!(after - under_the_ceiling < 50, "{under_the_ceiling}, then {after}");
}

#[test]
fn maps_of_other_sizes_give_their_verdicts_and_the_program_is_replaced_in_one_step() {
    let test = "kernel::pins::maps_of_other_sizes_give_their_verdicts_and_the_program_is_replaced_in_one_step";
    let Some(stage) = Stage::new(test) else { return };
    let ladder = "ladder: { degrade_after: 1, degrade_window: 60s, gate_for: 10m }";
    let first = stage.start(&keep(&stage, ladder));
    eventually("the abuser is gated", || {
        stage.ask(stage.address(4));
        stage.why(&first, stage.address(4))["in_kernel"] == true
    });
    let sender = stage.send_from(3);
    sends(&sender, 100);
    stop(first);
    let second = stage.start(&keep(&stage, &format!("{ladder}\ncells: 2048\nverdicts_max: 2048")));
    sends(&sender, 200);
    assert_eq!(stage.came_through(3), 0, "of {} packets", sender.sent());
    let why = stage.why(&second, stage.address(4));
    assert_eq!((&why["in_kernel"], &why["inherited"]), (&true.into(), &true.into()), "{why:#}");
    assert!(second.stderr().contains("other sizes"), "it is said: {}", second.stderr());
}

#[test]
fn maps_of_another_version_are_not_used_and_the_program_is_replaced_in_one_step() {
    let test = "kernel::pins::maps_of_another_version_are_not_used_and_the_program_is_replaced_in_one_step";
    let Some(stage) = Stage::new(test) else { return };
    let first = stage.start(&keep(&stage, ""));
    let sender = stage.send_from(3);
    sends(&sender, 100);
    stop(first);
    let mark = MapData::from_pin(stage.bpffs.pins().join("MARK")).expect("the mark is there");
    let mut mark: Array<_, u64> = Map::from_map_data(mark).and_then(Array::try_from).expect("an array of words");
    mark.set(0, 1, 0).expect("the first word is the layout");
    let second = stage.start(&keep(&stage, ""));
    sends(&sender, 200);
    assert_eq!(stage.came_through(3), 0, "of {} packets", sender.sent());
    let edge = stage.edge(&second);
    assert!(dropped(&edge) < sender.sent(), "the counters begin anew");
    assert!(second.stderr().contains("another version"), "it is said: {}", second.stderr());
    // Half of what there should be is treated alike.
    stop(second);
    fs::remove_file(stage.bpffs.pins().join("MARK")).expect("the mark is there");
    let third = stage.start(&keep(&stage, ""));
    sends(&sender, 200);
    assert_eq!(stage.came_through(3), 0, "of {} packets", sender.sent());
    assert!(third.stderr().contains("another version"), "it is said: {}", third.stderr());
}

#[test]
fn a_dead_proxy_passes_everything_after_a_while_unless_it_is_to_hold() {
    let test = "kernel::pins::a_dead_proxy_passes_everything_after_a_while_unless_it_is_to_hold";
    let Some(stage) = Stage::new(test) else { return };
    let gateway = stage.start(&keep(&stage, ""));
    let sender = stage.send_from(3);
    sends(&sender, 100);
    assert_eq!(stage.came_through(3), 0);
    drop(gateway);
    assert!(holds_within(STALE, || stage.came_through(3) > 0), "the heartbeat is stale");
    let gateway = stage.start(&keep(&stage, "hold: true"));
    sends(&sender, 100);
    let before = stage.came_through(3);
    drop(gateway);
    assert!(!holds_within(STALE, || stage.came_through(3) > before), "held");
    // The kill switch is one write to the map, and works with the proxy dead; the next one starts with it thrown.
    let pulse = MapData::from_pin(stage.bpffs.pins().join("maps/PULSE")).expect("the pulse is pinned");
    let mut pulse: Array<_, u64> = Map::from_map_data(pulse).and_then(Array::try_from).expect("an array of words");
    pulse.set(PULSE_KILL, 1, 0).expect("the word exists");
    assert!(holds_within(Duration::from_secs(1), || stage.came_through(3) > before), "everything passes by order");
    let gateway = stage.start(&keep(&stage, "hold: true"));
    eventually("the switch is noticed", || stage.edge(&gateway)["mode"]["kill_switch"] == true);
    let before = stage.came_through(3);
    eventually("and obeyed", || stage.came_through(3) > before);
    let armed = stage.server.run(|| gateway.admin_post("/edge/arm", "application/json", ""));
    armed.expect(200);
    let before = stage.came_through(3);
    sends(&sender, 100);
    assert!(stage.came_through(3) <= before + 2, "back to work, but for what was on its way");
    drop(gateway);
    let gateway = stage.start(&format!("pin: {}", stage.bpffs.pins().display()));
    stop(gateway);
    assert!(!stage.has_xdp() && !stage.bpffs.pins().exists(), "and cleaned up at last");
}

#[test]
fn without_a_bpffs_it_runs_unpinned_and_says_how_to_mount_one() {
    let test = "kernel::pins::without_a_bpffs_it_runs_unpinned_and_says_how_to_mount_one";
    let Some(stage) = Stage::new(test) else { return };
    let elsewhere = tempfile::tempdir().expect("a temporary folder can be made");
    let gateway = stage.start(&format!("pin: {}/pins", elsewhere.path().display()));
    let edge = stage.edge(&gateway);
    assert_eq!(edge["mode"]["in_force"], "native", "{edge:#}");
    assert_eq!(edge["pins"]["why"]["problem"], "no_bpffs");
    assert!(edge["pins"]["why"]["remedy"].as_str().is_some_and(|remedy| remedy.contains("mount -t bpf")), "{edge:#}");
    stop(gateway);
    assert!(!stage.has_xdp());
}

#[test]
fn a_folder_that_others_can_change_is_not_used() {
    let Some(stage) = Stage::new("kernel::pins::a_folder_that_others_can_change_is_not_used") else { return };
    // Anybody may make a folder in a bpffs, and whoever owns it could detach what is pinned there.
    let folder = stage.bpffs.pins();
    fs::create_dir(&folder).expect("root writes to the bpffs");
    std::os::unix::fs::chown(&folder, Some(12_345), None).expect("root may");
    let gateway = stage.start(&format!("pin: {}/edge", folder.display()));
    let edge = stage.edge(&gateway);
    assert_eq!(edge["mode"]["in_force"], "native", "{edge:#}");
    assert_eq!(edge["pins"]["why"]["problem"], "not_pinned", "{edge:#}");
    assert!(edge["pins"]["in_force"].is_null());
}

#[test]
fn root_mounts_the_bpffs_that_is_missing() {
    let Some(stage) = Stage::new("kernel::pins::root_mounts_the_bpffs_that_is_missing") else { return };
    let text = stage.config("pin: true");
    // In a mount namespace of its own, so that the machine's mounts stay as they are.
    let bare = "umount /sys/fs/bpf 2>/dev/null; exec \"$0\" \"$@\"";
    let through = ["unshare", "--mount", "--propagation", "private", "sh", "-c", bare];
    let gateway = stage.server.run(|| Setup::new(&text).through(&through).start());
    let edge = stage.edge(&gateway);
    assert_eq!(edge["pins"]["in_force"], "/sys/fs/bpf/gateway/edge", "{edge:#}");
    assert!(gateway.stderr().contains("mounted a bpffs"), "{}", gateway.stderr());
    stop(gateway);
}
