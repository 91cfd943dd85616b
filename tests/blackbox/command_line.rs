//! The command line: run, check, why, help; Kong's environment variables; exit codes.

use std::fs;

use gateway_tests::gateway::command;
use gateway_tests::{Setup, Upstream, eventually};

const CONFIG: &str = r#"_format_version: "3.0"
services:
- name: s
  url: @UP@
  routes: [{ name: r, paths: [/one] }]
"#;

#[test]
fn help_names_the_commands() {
    let exit = command(&["--help"]);
    assert_eq!(exit.code, Some(0));
    for word in ["run", "check", "why", "edge"] {
        assert!(exit.stdout.contains(word), "{word} in {}", exit.stdout);
    }
    let exit = command(&["--version"]);
    assert_eq!(exit.code, Some(0));
    assert!(exit.stdout.contains("0.1.0"), "{}", exit.stdout);
    assert_ne!(command(&["no-such-command"]).code, Some(0));
}

#[test]
fn check_says_yes_or_where() {
    let folder = tempfile::tempdir().unwrap();
    let good = folder.path().join("good.yml");
    fs::write(&good, CONFIG.replace("@UP@", "http://127.0.0.1:9")).unwrap();
    assert_eq!(command(&["check", good.to_str().unwrap()]).code, Some(0));
    assert_eq!(command(&["check", "-c", good.to_str().unwrap()]).code, Some(0));
    let bad = folder.path().join("bad.yml");
    fs::write(&bad, CONFIG.replace("@UP@", "ftp://x")).unwrap();
    let exit = command(&["check", bad.to_str().unwrap()]);
    assert_eq!(exit.code, Some(2));
    assert!(exit.stderr.contains(&format!("{}:4:", bad.display())), "{}", exit.stderr);
    let missing = folder.path().join("missing.yml");
    let exit = command(&["check", missing.to_str().unwrap()]);
    assert_ne!(exit.code, Some(0));
    assert!(exit.stderr.contains("missing.yml"), "{}", exit.stderr);
}

#[test]
fn check_warns_of_what_will_not_work_as_meant() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("edge.yml");
    let edge = r#"gateway:
  edge:
    interfaces: [nowhere0]
    keep: true
    deny: [10.1.2.3/8, 10.9.0.0/16]
    never_drop: [192.0.2.7, 192.0.2.7]
"#;
    fs::write(&file, format!("{}{edge}", CONFIG.replace("@UP@", "http://127.0.0.1:9"))).unwrap();
    let exit = command(&["check", file.to_str().unwrap()]);
    assert_eq!(exit.code, Some(0), "{exit:?}");
    for word in [
        "warning: `interfaces`: this host has no nowhere0 now",
        "`keep` needs `pin`",
        "10.0.0.0/8 is meant",
        "10.9.0.0/16 is in 10.1.2.3/8 already",
        "192.0.2.7 is in 192.0.2.7/32 already",
    ] {
        assert!(exit.stderr.contains(word), "{word}: {}", exit.stderr);
    }
    let text = fs::read_to_string(&file).unwrap();
    let line = 1 + text.lines().position(|line| line.contains("nowhere0")).unwrap();
    let place = format!("edge.yml:{line}:18: warning: `interfaces`");
    assert!(exit.stderr.contains(&place), "{place}: {}", exit.stderr);
    let many: Vec<String> = (0..1_100).map(|n| format!("10.{}.{}.1", n / 256, n % 256)).collect();
    let edge = format!("gateway: {{ edge: {{ deny: [{}] }} }}\n", many.join(", "));
    fs::write(&file, format!("{}{edge}", CONFIG.replace("@UP@", "http://127.0.0.1:9"))).unwrap();
    let exit = command(&["check", file.to_str().unwrap()]);
    assert_eq!(exit.code, Some(2), "{exit:?}");
    assert!(exit.stderr.contains("1100 networks"), "{}", exit.stderr);
}

#[test]
fn run_with_a_bad_file_says_the_same() {
    let exit = Setup::new(&CONFIG.replace("@UP@", "http://a\n  pth: /x")).refuse();
    assert_eq!(exit.code, Some(2));
    assert!(exit.stderr.contains("pth"), "{}", exit.stderr);
    assert!(exit.stderr.contains("did you mean `path`?"), "{}", exit.stderr);
}

#[test]
fn kongs_environment_is_enough() {
    let upstream = Upstream::echo();
    let gateway = Setup::by_environment(&upstream.fill(CONFIG)).start();
    gateway.get("/one").expect(200);
    gateway.admin_get("/status").expect(200);
    let off = Setup::by_environment(&upstream.fill(CONFIG)).env("KONG_ADMIN_LISTEN", "off").start();
    off.get("/one").expect(200);
    assert!(!off.has_admin());
    // A database is not what this is.
    let exit = Setup::by_environment(&upstream.fill(CONFIG)).env("KONG_DATABASE", "postgres").refuse();
    assert!(exit.stderr.contains("KONG_DATABASE"), "{}", exit.stderr);
}

#[test]
fn a_port_that_is_taken_is_named() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let text = format!("{CONFIG}gateway:\n  listen: [\"{address}\"]\n").replace("@UP@", "http://127.0.0.1:9");
    let exit = Setup::new(&text).refuse();
    assert_ne!(exit.code, Some(0));
    assert!(exit.stderr.contains(&address), "{}", exit.stderr);
}

#[test]
fn why_explains_an_address() {
    let upstream = Upstream::echo();
    let text = format!("{}gateway:\n  edge: {{ mode: shadow }}\n", upstream.fill(CONFIG));
    let gateway = Setup::new(&text).start();
    let exit = command(&["why", "192.0.2.7", "--admin", &gateway.admin_url()]);
    assert_eq!(exit.code, Some(0), "{exit:?}");
    assert!(exit.stdout.contains("192.0.2.7"), "{}", exit.stdout);
    let exit = command(&["why", "nonsense", "--admin", &gateway.admin_url()]);
    assert_ne!(exit.code, Some(0));
}

#[test]
fn logs_have_two_forms() {
    let upstream = Upstream::echo();
    let gateway = Setup::new(&upstream.fill(CONFIG)).argument("--log-format").argument("json").start();
    eventually("something is logged", || !gateway.stderr().is_empty());
    for line in gateway.stderr().lines() {
        serde_json::from_str::<serde_json::Value>(line).unwrap_or_else(|error| panic!("{error}: {line}"));
    }
    let gateway = Setup::new(&upstream.fill(CONFIG)).start();
    eventually("something is logged", || !gateway.stderr().is_empty());
}
