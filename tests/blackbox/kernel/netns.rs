//! The program attached to a real interface, with real connections through it.

use std::{
    io::{BufRead as _, BufReader},
    net::{IpAddr, SocketAddr, TcpListener, TcpStream},
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use aya::programs::{Xdp, XdpMode};
use gateway_common::{
    Ceiling,
    map::{PULSE_HEARTBEAT, PULSE_KILL, Verdict, name, rung},
};
use gateway_tests::netns::{End, Lab, Space};

use super::loaded::{Loaded, now_ns};

/// Tells the copy of this program that holds an attachment which interface and port to guard.
const HOLD: &str = "GATEWAY_TESTS_HOLD";
const SECOND: u64 = 1_000_000_000;
/// A SYN that is not answered within this time was dropped: the veth pair answers in microseconds.
const PATIENCE: Duration = Duration::from_millis(300);
const DEADLINE: Duration = Duration::from_secs(10);

/// A server's namespace, a client's, and a listener that the kernel serves without anybody accepting.
struct Scene {
    _lab: Lab,
    server: Space,
    client: Space,
    near: End,
    far: End,
    listener: TcpListener,
}

impl Scene {
    fn new(test: &str) -> Option<Self> {
        let mut lab = Lab::new(test)?;
        let server = lab.space("server").expect("a namespace");
        let client = lab.space("client").expect("a namespace");
        let (near, far) = lab.join(&server, &client).expect("a veth pair");
        let listener = server.run(|| TcpListener::bind("[::]:0")).expect("a listener");
        Some(Self { _lab: lab, server, client, near, far, listener })
    }

    fn port(&self) -> u16 {
        self.listener.local_addr().expect("it is bound").port()
    }

    fn connects_to(&self, address: IpAddr) -> bool {
        let address = SocketAddr::new(address, self.port());
        self.client.run(|| TcpStream::connect_timeout(&address, PATIENCE)).is_ok()
    }

    fn connects(&self) -> bool {
        self.connects_to(self.near.v4.into())
    }

    fn attach(&self, mode: XdpMode) -> Loaded {
        self.server.run(|| guard(&self.near.interface, self.port(), mode))
    }

    fn verdict(&self, seconds: u64) -> Verdict {
        let expiry_ns = now_ns() + seconds * SECOND;
        Verdict { expiry_ns, decision: 1, rung: rung::DROPPED, spare: 0, packets: Ceiling::UNLIMITED }
    }
}

fn guard(interface: &str, port: u16, mode: XdpMode) -> Loaded {
    let mut loaded = Loaded::new(1_024, port);
    let program: &mut Xdp = loaded.ebpf.program_mut(name::PROGRAM).expect("it is there").try_into().expect("it is XDP");
    program.attach(interface, mode).expect("it attaches");
    loaded
}

fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let start = Instant::now();
    while !holds() {
        assert!(start.elapsed() < DEADLINE, "{what}: not within {DEADLINE:?}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn verdicts_work(test: &str, mode: XdpMode) {
    let Some(scene) = Scene::new(test) else { return };
    assert!(scene.connects(), "before anything is attached");
    let mut loaded = scene.attach(mode);
    assert!(scene.connects(), "no verdict yet");
    let far = scene.far.v4.to_string();
    loaded.judge(&far, scene.verdict(2));
    assert!(!scene.connects(), "under a verdict");
    assert!(scene.connects_to(scene.near.v6.into()), "another source is not meant");
    // The heartbeat is fresh for five seconds and the verdict is shorter: expiry ends it, not staleness.
    until("the verdict expires", || scene.connects());
    assert!(loaded.packets("drop") >= 1);
    assert_eq!(loaded.packets("stale"), 0);

    loaded.pulse(PULSE_HEARTBEAT, now_ns());
    loaded.judge(&scene.far.v6.to_string(), scene.verdict(60));
    assert!(!scene.connects_to(scene.near.v6.into()), "an IPv6 source by its prefix");
    let thrown = Instant::now();
    loaded.pulse(PULSE_KILL, 1);
    assert!(scene.connects_to(scene.near.v6.into()), "the kill switch passes everything");
    assert!(thrown.elapsed() < PATIENCE);
    loaded.pulse(PULSE_KILL, 0);
    assert!(!scene.connects_to(scene.near.v6.into()));
    loaded.pulse(PULSE_HEARTBEAT, now_ns() - 6 * SECOND);
    assert!(scene.connects_to(scene.near.v6.into()), "a stale heartbeat passes everything");
    loaded.pulse(PULSE_HEARTBEAT, now_ns());
    assert!(!scene.connects_to(scene.near.v6.into()));
    drop(loaded);
    assert!(scene.connects_to(scene.near.v6.into()), "detached");
}

#[test]
fn verdicts_hold_expire_and_yield_natively() {
    verdicts_work("kernel::netns::verdicts_hold_expire_and_yield_natively", XdpMode::Driver);
}

#[test]
fn verdicts_hold_expire_and_yield_in_generic_mode() {
    verdicts_work("kernel::netns::verdicts_hold_expire_and_yield_in_generic_mode", XdpMode::Skb);
}

#[test]
fn the_gate_keeps_an_open_connection_alive() {
    use std::io::{Read as _, Write as _};

    let Some(scene) = Scene::new("kernel::netns::the_gate_keeps_an_open_connection_alive") else { return };
    let mut loaded = scene.attach(XdpMode::Driver);
    let address = SocketAddr::new(scene.near.v4.into(), scene.port());
    let mut client = scene.client.run(|| TcpStream::connect_timeout(&address, PATIENCE)).expect("no verdict yet");
    let (mut server, _) = scene.listener.accept().expect("the connection waits");
    loaded.judge(&scene.far.v4.to_string(), Verdict { rung: rung::GATED, ..scene.verdict(60) });
    // 1 in 64 SYNs is a probe, and a client that waits 300 ms sends one: four in a row all pass once in 16 million.
    assert!((0..4).any(|_| !scene.connects()), "new connections are dropped");
    server.set_read_timeout(Some(DEADLINE)).expect("a socket takes a timeout");
    client.write_all(b"still here").expect("the connection lives");
    let mut heard = [0; 10];
    server.read_exact(&mut heard).expect("the connection lives");
    assert_eq!(&heard, b"still here");
    assert!(loaded.packets("gate") >= 1 && loaded.packets("gate_established") >= 1);
}

/// Not a test by itself: the process that holds an attachment until it is killed.
#[test]
fn holder() {
    let Some(task) = std::env::var_os(HOLD) else { return };
    let task = task.into_string().expect("the test wrote it");
    let [interface, port, banned] = task.split(' ').collect::<Vec<_>>()[..] else { panic!("{task}") };
    let mut loaded = guard(interface, port.parse().expect("a port"), XdpMode::Driver);
    loaded.settings.stale_ns = 0;
    let expiry_ns = now_ns() + 600 * SECOND;
    let verdict = Verdict { expiry_ns, decision: 1, rung: rung::DROPPED, spare: 0, packets: Ceiling::UNLIMITED };
    loaded.judge(banned, verdict);
    eprintln!("holding");
    loop {
        std::thread::park();
    }
}

#[test]
fn what_dies_by_kill_nine_drops_no_more() {
    let Some(scene) = Scene::new("kernel::netns::what_dies_by_kill_nine_drops_no_more") else { return };
    let task = format!("{} {} {}", scene.near.interface, scene.port(), scene.far.v4);
    let mut command = Command::new(std::env::current_exe().expect("this program has a path"));
    command.args(["kernel::netns::holder", "--exact", "--nocapture"]).env(HOLD, task);
    command.stdout(Stdio::null()).stderr(Stdio::piped());
    let mut holder = scene.server.spawn(&mut command).expect("a copy of this program");
    let mut said = BufReader::new(holder.stderr.take().expect("it is piped")).lines();
    let holds = said.by_ref().map_while(Result::ok).any(|line| line == "holding");
    let banned = !scene.connects();
    holder.kill().expect("it is ours");
    holder.wait().expect("it is ours");
    assert!(holds && banned, "holds: {holds}, banned: {banned}");
    until("the attachment is gone with its process", || scene.connects());
}
