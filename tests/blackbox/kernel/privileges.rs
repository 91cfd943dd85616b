//! An ordinary user with four capabilities runs all of it, and the threads that meet the world have none of them.

use std::{collections::BTreeMap, fs, process::Command};

use gateway_tests::{Gateway, Setup, bar, eventually, skip};

use super::stage::Stage;

const NOBODY: u32 = 65_534;
/// linux/capability.h: CAP_NET_ADMIN 12, CAP_PERFMON 38, CAP_BPF 39.
const EDGE: u64 = 1 << 12 | 1 << 38 | 1 << 39;

/// `setpriv` as nobody with these capabilities, and none that could be had back.
pub fn setpriv(capabilities: &str) -> Vec<String> {
    let all = if capabilities.is_empty() { "-all".to_owned() } else { format!("-all,{capabilities}") };
    let user = NOBODY.to_string();
    [
        "setpriv".to_owned(),
        format!("--reuid={user}"),
        format!("--regid={user}"),
        "--clear-groups".to_owned(),
        "--no-new-privs".to_owned(),
        format!("--inh-caps={all}"),
        format!("--ambient-caps={all}"),
        format!("--bounding-set={all}"),
    ]
    .into()
}

fn start(stage: &Stage, text: &str, capabilities: &str) -> Gateway {
    let words = setpriv(capabilities);
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    stage.server.run(|| Setup::new(text).through(&words).start())
}

/// Permitted capabilities and name of each thread.
fn threads(pid: u32) -> BTreeMap<u32, (String, u64)> {
    let tasks = fs::read_dir(format!("/proc/{pid}/task")).expect("the process runs");
    let one = |task: fs::DirEntry| {
        let text = fs::read_to_string(task.path().join("status")).ok()?;
        let field = |name: &str| text.lines().find_map(|line| line.strip_prefix(name)).map(str::trim);
        let permitted = u64::from_str_radix(field("CapPrm:")?, 16).ok()?;
        Some((task.file_name().to_str()?.parse().ok()?, (field("Name:")?.to_owned(), permitted)))
    };
    tasks.flatten().filter_map(one).collect()
}

pub fn has_setpriv(test: &str) -> bool {
    let has = Command::new("setpriv").arg("--version").output().is_ok();
    if !has {
        skip(test, "the command `setpriv` (util-linux) is missing");
    }
    has
}

#[test]
fn four_capabilities_are_enough_and_the_workers_have_none() {
    let test = "kernel::privileges::four_capabilities_are_enough_and_the_workers_have_none";
    let Some(stage) = Stage::new(test).filter(|_| has_setpriv(test)) else { return };
    // The folder for pins belongs to the user, as the unit makes it.
    let pins = stage.bpffs.path().join("gateway");
    fs::create_dir(&pins).expect("root writes to the bpffs");
    std::os::unix::fs::chown(&pins, Some(NOBODY), Some(NOBODY)).expect("root may");
    let text = stage.config(&format!("pin: {}/edge\nkeep: true", pins.display())).replace(":8000", ":80");
    let gateway = start(&stage, &text, "+bpf,+net_admin,+perfmon,+net_bind_service");
    let edge = stage.edge(&gateway);
    assert_eq!(edge["mode"]["in_force"], "native", "{edge:#}");
    assert_eq!(edge["pins"]["why"], serde_json::Value::Null, "{edge:#}");
    assert_eq!(edge["mode"]["advice"], serde_json::json!([]), "{edge:#}");
    assert!(pins.join("edge/maps/VERDICTS").exists());

    let threads = threads(gateway.pid());
    let (main, others): (Vec<_>, Vec<_>) = threads.iter().partition(|(id, _)| **id == gateway.pid());
    assert_eq!(main[0].1.1, EDGE, "{threads:?}");
    assert!(others.len() >= 3 && others.iter().all(|(_, (_, permitted))| *permitted == 0), "{threads:?}");

    let words =
        "an ordinary user with CAP_BPF, CAP_NET_ADMIN, CAP_PERFMON and CAP_NET_BIND_SERVICE: native, pinned, port 80";
    bar::holds("R10", words, "in force", "native; workers without any capability", true);

    // What is left is enough for an interface that comes later, and for what a reload asks.
    let reloaded = text.replace("interfaces: [", "interfaces: [late0, ");
    stage.server.run(|| {
        gateway.reload(&reloaded, || gateway.admin_get("/edge").expect(200).text().contains("late0"));
    });
    stage.server.ip(&["link", "add", "late0", "type", "veth", "peer", "name", "late1"]).expect("a veth pair");
    eventually("the newcomer is guarded", || {
        let edge = stage.edge(&gateway);
        edge["interfaces"]["attached"].as_array().is_some_and(|attached| attached.len() == 2)
    });
    // A crash, and another process of the same user takes over.
    drop(gateway);
    let second = start(&stage, &text, "+bpf,+net_admin,+perfmon,+net_bind_service");
    let edge = stage.edge(&second);
    assert_eq!(edge["mode"]["in_force"], "native", "{edge:#}");
    assert!(second.stderr().contains("took over"), "{}", second.stderr());
}

#[test]
fn without_any_capability_it_serves_and_says_what_is_missing() {
    let test = "kernel::privileges::without_any_capability_it_serves_and_says_what_is_missing";
    let Some(stage) = Stage::new(test).filter(|_| has_setpriv(test)) else { return };
    let gateway = start(&stage, &stage.config(""), "");
    let edge = stage.edge(&gateway);
    assert_eq!(edge["mode"]["in_force"], "userspace", "{edge:#}");
    assert_eq!(edge["mode"]["why"][0]["problem"], "not_permitted", "{edge:#}");
    assert!(edge["mode"]["why"][0]["remedy"].as_str().is_some_and(|remedy| remedy.contains("CAP_BPF")), "{edge:#}");
    assert_eq!(stage.ask(stage.address(4)), Some(200));
    assert_eq!(stage.ask(stage.address(3)), None, "the workers judge");
    assert!(threads(gateway.pid()).values().all(|(_, permitted)| *permitted == 0));
}

#[test]
fn root_keeps_no_more_than_the_edge_and_its_files_need() {
    let test = "kernel::privileges::root_keeps_no_more_than_the_edge_and_its_files_need";
    let Some(stage) = Stage::new(test) else { return };
    let gateway = stage.start("");
    assert_eq!(stage.in_force(&gateway), "native");
    // CAP_DAC_OVERRIDE 1, CAP_DAC_READ_SEARCH 2.
    let files = 1 << 1 | 1 << 2;
    for (id, (name, permitted)) in threads(gateway.pid()) {
        let allowed = if id == gateway.pid() { EDGE | files } else { files };
        assert_eq!(permitted & !allowed, 0, "{name}: {permitted:x}");
        if name.starts_with("worker") {
            assert_eq!(permitted, 0, "{name}");
        }
    }
}
