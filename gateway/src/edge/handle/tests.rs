//! The edge as a whole: its loop, its workers' side, and a kernel program on a loopback of the test's own.

use std::{
    net::{SocketAddr, TcpListener, TcpStream},
    process::Command,
    thread,
    time::Instant,
};

use gateway_common::Reason;
use nix::sched::{CloneFlags, unshare};
use tokio::sync::oneshot;

use super::*;
use crate::edge::{Admission, Good, Mode, Offence, OffenceKind, Standing};

const DEADLINE: Duration = Duration::from_secs(20);
const PATIENCE: Duration = Duration::from_millis(300);
const CLIENT: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 7));
const LOOPBACK: IpAddr = IpAddr::V4(std::net::Ipv4Addr::LOCALHOST);

/// An edge with its loop on a thread of its own.
struct Running {
    edge: Arc<Edge>,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<thread::JoinHandle<()>>,
}

impl Running {
    fn start(policy: Policy) -> Self {
        let edge = Arc::new(Edge::start(policy));
        let (stop, stopped) = oneshot::channel::<()>();
        let own = edge.clone();
        let thread = thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(own.run(async {
                let _ = stopped.await;
            }));
        });
        Self { edge, stop: Some(stop), thread: Some(thread) }
    }

    fn stop(&mut self) {
        if let Some(stop) = self.stop.take() {
            let _ = stop.send(());
        }
        if let Some(thread) = self.thread.take() {
            thread.join().unwrap();
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if !thread::panicking() {
            self.stop();
        }
    }
}

fn enforce() -> Policy {
    Policy { mode: Mode::Enforce, cells: 1_024, verdicts_max: 1_024, ..Policy::default() }
}

fn offend(reporter: &mut Reporter, source: IpAddr, identity: Identity, times: u32) {
    for _ in 0..times {
        let kind = OffenceKind::RateLimited { retry_after: Duration::from_secs(60) };
        let offence = Offence {
            source,
            peer: None,
            identity,
            kind,
            plugin: "rate-limiting",
            route: "orders",
            request_id: "req-1",
        };
        reporter.offence(monotonic_ns(), &offence);
    }
}

fn until(what: &str, mut holds: impl FnMut() -> bool) -> Duration {
    let start = Instant::now();
    while !holds() {
        assert!(start.elapsed() < DEADLINE, "{what}: not within {DEADLINE:?}");
        thread::yield_now();
    }
    start.elapsed()
}

/// Runs the test in a network namespace of its own, where the loopback is the only interface; or says why not.
fn alone(test: &str, work: impl FnOnce() + Send) {
    thread::scope(|scope| {
        let space = scope.spawn(|| {
            if let Err(error) = unshare(CloneFlags::CLONE_NEWNET) {
                eprintln!("SKIP {test}: no network namespace can be made: {error}");
                return;
            }
            match Command::new("ip").args(["link", "set", "lo", "up"]).status() {
                Ok(status) if status.success() => work(),
                other => eprintln!("SKIP {test}: the loopback cannot be brought up: {other:?}"),
            }
        });
        if let Err(panic) = space.join() {
            std::panic::resume_unwind(panic);
        }
    });
}

fn in_force(edge: &Edge) -> String {
    edge.status()["mode"]["in_force"].as_str().unwrap().to_owned()
}

fn on_loopback(port: u16) -> Policy {
    let fallback = crate::edge::Fallback::None;
    Policy { interfaces: vec!["lo".to_owned()], allow_generic: true, fallback, ports: vec![port], ..enforce() }
}

fn listener() -> (TcpListener, SocketAddr) {
    let listener = TcpListener::bind((LOOPBACK, 0)).unwrap();
    let address = listener.local_addr().unwrap();
    (listener, address)
}

fn connects(address: SocketAddr) -> bool {
    TcpStream::connect_timeout(&address, PATIENCE).is_ok()
}

#[test]
fn the_loop_and_the_reporters_may_move_between_threads() {
    fn is_send<T: Send>(_: &T) {}

    let edge = Arc::new(Edge::start(Policy::default()));
    is_send(&edge.reporter());
    is_send(&edge.standings());
    is_send(&edge.run(std::future::ready(())));
}

#[test]
fn without_a_kernel_program_the_workers_gate_and_drop() {
    let running = Running::start(enforce());
    let (mut reporter, standings) = (running.edge.reporter(), running.edge.standings());
    assert_eq!(in_force(&running.edge), "userspace");
    assert_eq!(standings.of(CLIENT, monotonic_ns()), Standing::Clear);
    offend(&mut reporter, CLIENT, Identity::UserAgent(1), 21);
    until("degraded", || standings.of(CLIENT, monotonic_ns()) == Standing::Degraded);
    assert_eq!(standings.admit_connection(CLIENT, monotonic_ns()), Admission::Admit);

    offend(&mut reporter, CLIENT, Identity::UserAgent(1), 20);
    let took = until("gated", || standings.of(CLIENT, monotonic_ns()) == Standing::Gated);
    assert!(took < Duration::from_secs(1), "{took:?}");
    let refused = (0..6_400)
        .filter(|_| standings.admit_connection(CLIENT, monotonic_ns()) == Admission::Refuse(Reason::Gate))
        .count();
    assert!((6_200..6_400).contains(&refused), "{refused}");

    offend(&mut reporter, CLIENT, Identity::UserAgent(1), 50);
    until("dropped", || standings.of(CLIENT, monotonic_ns()) == Standing::Dropped);
    assert_eq!(standings.admit_connection(CLIENT, monotonic_ns()), Admission::Refuse(Reason::Drop));
    assert_eq!(standings.admit_connection(LOOPBACK, monotonic_ns()), Admission::Admit);

    let why = running.edge.why(CLIENT);
    assert_eq!(why["verdict"]["rung"], 5, "{why}");
    assert_eq!(why["cause"]["request_id"], "req-1");
    assert_eq!(why["standing"]["name"], "dropped");
    let clean = running.edge.why("198.51.100.1".parse().unwrap());
    assert!(clean["verdict"].is_null() && clean["standing"]["seen"] == false, "{clean}");
    assert!(running.edge.metrics().iter().any(|metric| {
        metric.name == "gateway_edge_connections_total" && metric.labels == [("reason", "gate".to_owned())]
    }));
}

#[test]
fn a_neighbour_with_a_credential_keeps_the_door_open() {
    let running = Running::start(enforce());
    let (mut reporter, standings) = (running.edge.reporter(), running.edge.standings());
    for _ in 0..5 {
        let good = Good { source: CLIENT, identity: Identity::Credential(2), quota: 0 };
        reporter.good(monotonic_ns(), &good);
    }
    for _ in 0..20 {
        offend(&mut reporter, CLIENT, Identity::Credential(1), 100);
    }
    until("all were heard", || running.edge.status()["ladder"]["offences"] == 2_000);
    assert_eq!(standings.of(CLIENT, monotonic_ns()), Standing::Degraded);
}

#[test]
fn shadow_records_and_refuses_nobody() {
    let policy = Policy { mode: Mode::Shadow, deny: vec!["192.0.2.0/24".parse().unwrap()], ..enforce() };
    let running = Running::start(policy);
    let (mut reporter, standings) = (running.edge.reporter(), running.edge.standings());
    offend(&mut reporter, CLIENT, Identity::None, 41);
    until("a decision", || running.edge.why(CLIENT)["verdict"]["rung"] == 4);
    assert_eq!(standings.of(CLIENT, monotonic_ns()), Standing::Clear);
    assert_eq!(standings.admit_connection("192.0.2.9".parse().unwrap(), monotonic_ns()), Admission::Admit);
    assert_eq!(running.edge.status()["connections"]["shadow_deny"], 1);
}

#[test]
fn connections_above_the_ceiling_are_refused_and_spared_addresses_never() {
    let mut policy = enforce();
    policy.ceilings.connections = Some(crate::edge::Rate { per_second: 1, burst: 5 });
    policy.never_drop = vec!["198.51.100.0/24".parse().unwrap()];
    let running = Running::start(policy.clone());
    let standings = running.edge.standings();
    let admitted = |ip: IpAddr, now_ns: u64| {
        (0..100).filter(|_| standings.admit_connection(ip, now_ns) == Admission::Admit).count()
    };
    let now_ns = monotonic_ns();
    assert_eq!(admitted(CLIENT, now_ns), 5);
    assert_eq!(admitted("198.51.100.7".parse().unwrap(), now_ns), 100);
    // A reload keeps the cells.
    running.edge.update(policy);
    assert_eq!(admitted(CLIENT, now_ns), 0);
    assert_eq!(admitted(CLIENT, now_ns + 2_000_000_000), 2);
}

#[test]
fn a_decision_reaches_the_kernel_and_the_switch_undoes_it() {
    alone("edge::a_decision_reaches_the_kernel_and_the_switch_undoes_it", || {
        let (_listener, address) = listener();
        let mut running = Running::start(on_loopback(address.port()));
        if in_force(&running.edge) == "userspace" {
            eprintln!("SKIP edge::a_decision_reaches_the_kernel…: {}", running.edge.status()["mode"]["why"]);
            return;
        }
        assert_eq!(in_force(&running.edge), "generic");
        assert!(connects(address));
        let mut reporter = running.edge.reporter();
        offend(&mut reporter, LOOPBACK, Identity::None, 41 + 50);
        let took = until("in the kernel", || running.edge.why(LOOPBACK)["in_kernel"] == true);
        assert!(took < Duration::from_secs(1), "{took:?}");
        until("dropped", || running.edge.why(LOOPBACK)["verdict"]["rung"] == 5);
        assert!(!connects(address), "{:#}", running.edge.status());
        assert_eq!(running.edge.standings().admit_connection(LOOPBACK, monotonic_ns()), Admission::Admit);
        running.edge.kill_switch(true);
        assert!(connects(address), "everything passes by order");
        running.edge.update(Policy::default());
        running.edge.update(on_loopback(address.port()));
        assert!(connects(address), "the order outlives a reload");
        running.edge.kill_switch(false);
        assert!(!connects(address), "and the verdict outlives both");
        until("an event", || running.edge.why(LOOPBACK)["events"][0]["reason"] == "drop");
        let status = running.edge.status();
        assert!(status["packets"]["drop"]["packets"].as_u64() >= Some(1), "{status:#}");
        assert_eq!((&status["verdicts"]["desired"], &status["verdicts"]["in_kernel"]), (&1.into(), &1.into()));
        running.stop();
        assert!(connects(address), "a clean stop detaches");
        assert_eq!(crate::edge::link::xdp_program(1).unwrap(), None);
    });
}

#[test]
fn a_reload_changes_lists_and_mode_in_place() {
    alone("edge::a_reload_changes_lists_and_mode_in_place", || {
        let (_listener, address) = listener();
        let policy = on_loopback(address.port());
        let running = Running::start(policy.clone());
        if in_force(&running.edge) == "userspace" {
            eprintln!("SKIP edge::a_reload_changes_lists…: {}", running.edge.status()["mode"]["why"]);
            return;
        }
        let denied = Policy { deny: vec!["127.0.0.0/8".parse().unwrap()], ..policy.clone() };
        running.edge.update(denied.clone());
        assert!(!connects(address));
        running.edge.update(Policy { mode: Mode::Shadow, ..denied.clone() });
        assert!(connects(address));
        running.edge.update(Policy { never_drop: vec!["127.0.0.1/32".parse().unwrap()], ..denied.clone() });
        assert!(connects(address), "never-drop wins");
        running.edge.update(Policy { ports: vec![1], ..denied.clone() });
        assert!(connects(address), "not a port of ours");
        running.edge.update(denied);
        assert!(!connects(address));
        running.edge.update(policy);
        assert!(connects(address), "off the list");
        let packets = running.edge.status()["packets"].clone();
        for word in ["deny", "shadow_deny", "never_drop", "other_port", "clean"] {
            assert!(packets[word]["packets"].as_u64() >= Some(1), "{word}: {packets}");
        }
        running.edge.update(Policy::default());
        assert_eq!(in_force(&running.edge), "off");
        assert_eq!(crate::edge::link::xdp_program(1).unwrap(), None);
    });
}

#[test]
fn what_cannot_be_attached_is_named_with_its_remedy() {
    alone("edge::what_cannot_be_attached_is_named_with_its_remedy", || {
        let (_listener, address) = listener();
        let refused = |edge: &Edge| edge.status()["mode"]["why"][0].clone();
        let native_only = Running::start(Policy { allow_generic: false, ..on_loopback(address.port()) });
        if refused(&native_only.edge)["problem"] == "not_permitted" {
            eprintln!("SKIP edge::what_cannot_be_attached…: {}", refused(&native_only.edge));
            return;
        }
        assert_eq!(refused(&native_only.edge)["problem"], "no_native_xdp");
        assert_eq!(in_force(&native_only.edge), "userspace");
        let nowhere = Running::start(Policy { interfaces: vec!["nowhere0".into()], ..enforce() });
        assert_eq!(refused(&nowhere.edge)["problem"], "no_interface");

        let many = (0..1_100).map(|n| format!("10.{}.{}.1/32", n / 256, n % 256).parse().unwrap()).collect();
        let crowded = Running::start(Policy { never_drop: many, ..on_loopback(address.port()) });
        assert_eq!(refused(&crowded.edge)["problem"], "list_too_long");
        assert_eq!(in_force(&crowded.edge), "userspace");

        let first = Running::start(on_loopback(address.port()));
        assert_eq!(in_force(&first.edge), "generic");
        let before = crate::edge::link::xdp_program(1).unwrap();
        let second = Running::start(on_loopback(address.port()));
        assert_eq!(refused(&second.edge)["problem"], "foreign_program");
        assert!(refused(&second.edge)["detail"].as_str().unwrap().contains("gateway"), "{}", refused(&second.edge));
        assert_eq!(crate::edge::link::xdp_program(1).unwrap(), before);
        assert_eq!(in_force(&first.edge), "generic");
    });
}

#[test]
fn an_interface_that_comes_later_is_guarded_then() {
    alone("edge::an_interface_that_comes_later_is_guarded_then", || {
        let running = Running::start(Policy { interfaces: vec!["late0".to_owned()], ..enforce() });
        let why = running.edge.status()["mode"]["why"][0]["problem"].clone();
        if why == "not_permitted" {
            eprintln!("SKIP edge::an_interface_that_comes_later…: {why}");
            return;
        }
        assert_eq!((why, in_force(&running.edge)), ("no_interface".into(), "userspace".to_owned()));
        let ip = |arguments: &[&str]| assert!(Command::new("ip").args(arguments).status().unwrap().success());
        ip(&["link", "add", "late0", "type", "veth", "peer", "name", "late1"]);
        // The loop's thread was born in this namespace and looks there.
        until("guarded", || in_force(&running.edge) == "native");
        ip(&["link", "del", "late0"]);
        until("noticed", || in_force(&running.edge) == "userspace");
    });
}

#[test]
fn a_decision_is_in_the_kernel_within_ten_milliseconds() {
    alone("edge::a_decision_is_in_the_kernel_within_ten_milliseconds", || {
        let running = Running::start(on_loopback(1));
        let (mut reporter, standings) = (running.edge.reporter(), running.edge.standings());
        let mut took = Vec::new();
        for n in 0..100 {
            let source = IpAddr::from([198, 51, 100, n]);
            offend(&mut reporter, source, Identity::None, 40);
            until("all but one were heard", || running.edge.status()["ladder"]["offences"] == 41 * u64::from(n) + 40);
            let start = Instant::now();
            offend(&mut reporter, source, Identity::None, 1);
            while standings.of(source, monotonic_ns()) != Standing::Gated {
                assert!(start.elapsed() < DEADLINE);
                std::hint::spin_loop();
            }
            // The batch is written under the lock that `why` takes.
            let in_kernel = running.edge.why(source)["in_kernel"] == true;
            took.push(start.elapsed());
            assert!(in_kernel || in_force(&running.edge) == "userspace");
        }
        took.sort_unstable();
        eprintln!("from the offence to the verdict in the map: p50 {:?}, p99 {:?}", took[50], took[98]);
        // A loaded machine schedules late; the median shows what the code needs.
        assert!(took[50] < Duration::from_millis(10), "{took:?}");
    });
}
