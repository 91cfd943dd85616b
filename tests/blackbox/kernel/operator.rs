//! What whoever operates the edge sees of it while packets are dropped.

use std::{fs, process::Command};

use gateway_tests::{deadline::skip, eventually, gateway::command};

use super::stage::Stage;

#[test]
fn sampled_drops_are_a_capture_that_others_read() {
    let test = "kernel::operator::sampled_drops_are_a_capture_that_others_read";
    let Some(stage) = Stage::new(test) else { return };
    let folder = tempfile::tempdir().expect("a temporary folder can be made");
    let file = folder.path().join("drops.pcapng");
    let gateway = stage.start(&format!("pcap: {}\npcap_bytes_max: 65536", file.display()));
    let _sender = stage.send_from(3);
    eventually("samples are written", || stage.edge(&gateway)["pcap"]["packets"].as_u64() > Some(20));
    let bytes = fs::read(&file).expect("the file is there");
    assert_eq!(bytes[..4], 0x0a0d_0d0a_u32.to_ne_bytes(), "pcapng begins so");
    let deny = b"deny, decision 0";
    assert!(bytes.windows(deny.len()).filter(|text| text == deny).count() > 10);
    // tcpdump would give root up, and the file is root's alone.
    match Command::new("tcpdump").args(["-Z", "root", "-n", "-c", "5", "-r"]).arg(&file).output() {
        Err(_) => skip(test, "the command `tcpdump` is missing"),
        Ok(output) => {
            let text = String::from_utf8_lossy(&output.stdout).into_owned();
            let line = format!("IP {}.", stage.address(3));
            assert!(text.lines().count() == 5 && text.lines().all(|packet| packet.contains(&line)), "{output:?}");
        }
    }
    eventually("the file turns at its bound", || folder.path().join("drops.pcapng.1").exists());
}

#[test]
fn top_shows_who_is_dropped_and_why() {
    let Some(stage) = Stage::new("kernel::operator::top_shows_who_is_dropped_and_why") else { return };
    let gateway = stage.start("");
    let sender = stage.send_from(3);
    eventually("the sender sends", || sender.sent() > 100);
    let admin = gateway.admin_url();
    let exit = stage.server.run(|| command(&["edge", "top", "--admin", &admin, "--interval", "1.5"]));
    assert_eq!(exit.code, Some(0), "{exit:?}");
    let row =
        |word: &str| exit.stdout.lines().find(|line| line.starts_with(word)).unwrap_or_else(|| panic!("{exit:?}"));
    let rate: f64 = row("deny").split_whitespace().nth(1).and_then(|rate| rate.parse().ok()).expect("a rate");
    assert!(rate > 10.0, "{}", exit.stdout);
    assert!(row("edge:").contains("native"), "{}", exit.stdout);
    assert!(row(&stage.address(3).to_string()).contains("deny"), "{}", exit.stdout);
    assert!(!exit.stdout.contains('\u{1b}'), "no terminal, no escapes");
}

#[test]
fn an_address_is_explained_within_fifty_milliseconds() {
    let test = "kernel::operator::an_address_is_explained_within_fifty_milliseconds";
    let Some(stage) = Stage::new(test) else { return };
    let gateway = stage.start("ladder: { degrade_after: 1, degrade_window: 60s, gate_for: 10m }");
    eventually("the abuser is gated", || {
        stage.ask(stage.address(4));
        stage.why(&gateway, stage.address(4))["in_kernel"] == true
    });
    let mut took = Vec::new();
    for _ in 0..20 {
        let begun = std::time::Instant::now();
        let why = stage.why(&gateway, stage.address(4));
        took.push(begun.elapsed());
        assert_eq!(why["cause"]["plugin"], "rate-limiting", "{why:#}");
        assert!(why["cause"]["request_id"].as_str().is_some_and(|id| id.len() > 8), "{why:#}");
    }
    took.sort_unstable();
    assert!(took[10].as_millis() < 50, "{took:?}");
    eprintln!("{test}: p50 {:?}, worst {:?}", took[10], took[19]);
}
