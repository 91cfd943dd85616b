//! Names of upstreams that stop to resolve and come back as another address: the last good answer serves meanwhile. The
//! gateway has a hosts file of its own, and a resolver that nobody answers.

use std::fs;
use std::net::SocketAddr;

use gateway_tests::load::{Load, Went};
use gateway_tests::{Setup, Upstream, eventually, skip};

#[test]
fn a_name_that_flaps_costs_nobody_an_answer() {
    if !nix::unistd::geteuid().is_root() {
        return skip("a_name_that_flaps_costs_nobody_an_answer", "mounting a hosts file needs root");
    }
    let pid = std::process::id();
    let at = |host: u8| -> SocketAddr {
        format!("127.{}.{}.{host}:18081", 100 + pid / 256 % 100, pid % 256).parse().unwrap()
    };
    let (first, second) = (Upstream::echo_at(at(21)).unwrap(), Upstream::echo_at(at(22)).unwrap());
    let folder = tempfile::tempdir().unwrap();
    let (hosts, resolver) = (folder.path().join("hosts"), folder.path().join("resolv.conf"));
    // What is mounted is the file and not its name: it is written in place.
    let names = |address: Option<SocketAddr>| {
        let line = address.map(|address| format!("{} flapping.test\n", address.ip())).unwrap_or_default();
        fs::write(&hosts, line).unwrap();
    };
    names(Some(first.address()));
    fs::write(&resolver, "nameserver 127.0.0.1\noptions timeout:1 attempts:1\n").unwrap();
    let script = format!(
        "mount --bind {} /etc/hosts && mount --bind {} /etc/resolv.conf && exec \"$@\"",
        hosts.display(),
        resolver.display()
    );
    let text =
        "_format_version: \"3.0\"\nservices:\n- { url: \"http://flapping.test:18081\", routes: [{ paths: [/] }] }\n";
    let gateway = Setup::new(text).through(&["unshare", "--mount", "sh", "-c", &script, "sh"]).start();
    gateway.get("/x").expect(200);
    assert_eq!((first.count(), second.count()), (1, 0));
    let load = Load::paced(gateway.proxy(), "/x", 2, std::time::Duration::from_millis(10));
    // Nobody knows the name for longer than an answer is fresh.
    names(None);
    let gone = std::time::Instant::now();
    eventually("answers are asked for again", || gone.elapsed() > std::time::Duration::from_secs(12));
    assert_eq!(second.count(), 0);
    names(Some(second.address()));
    eventually("the new address is used", || second.count() > 20);
    let Went { served, wrong, .. } = load.finish();
    assert!(served > 100 && wrong.is_empty(), "{served} {:?}", &wrong[..wrong.len().min(5)]);
}
