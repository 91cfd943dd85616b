//! Real handshakes under pressure: who completed one is known, and a stranger beyond the budget gets in by a SYN cookie
//! that the program gave in the host's place.

use std::{
    fs::{self, File},
    io::{Read as _, Write as _},
    net::{IpAddr, SocketAddr, TcpListener, TcpStream},
    os::fd::OwnedFd,
    time::{Duration, Instant},
};

use aya::programs::{CgroupAttachMode, SockOps, Xdp, XdpMode};
use gateway_common::{
    Ceiling,
    map::{Gate, HAS_GATE, PULSE_HEARTBEAT, PULSE_PRESSURE, name},
};
use gateway_tests::netns::{End, Lab, Space};

use super::{
    bare::{self, Program},
    loaded::{Loaded, now_ns},
};

const SECOND: u64 = 1_000_000_000;
const PATIENCE: Duration = Duration::from_millis(700);
const DEADLINE: Duration = Duration::from_secs(10);

struct Scene {
    loaded: Loaded,
    listener: TcpListener,
    client: Space,
    server: Space,
    near: End,
    far: End,
    /// Without it the client's end would take nothing that the program sends.
    _peer: OwnedFd,
    _lab: Lab,
}

impl Scene {
    fn new(test: &str) -> Option<Self> {
        let mut lab = Lab::new(test)?;
        let server = lab.space("server").expect("a namespace");
        let client = lab.space("client").expect("a namespace");
        let (near, far) = lab.join(&server, &client).expect("a veth pair");
        let listener = server.run(|| TcpListener::bind("[::]:0")).expect("a listener");
        let port = listener.local_addr().expect("it is bound").port();
        let peer = client.run(|| Program::load(bare::PASS).and_then(|pass| pass.attach(&far.interface)));
        let mut loaded = server.run(|| guard(&near.interface, port));
        loaded.settings.lists |= HAS_GATE;
        loaded.settings.stale_ns = 0;
        loaded.apply();
        let peer = peer.expect("the peer takes a program");
        Some(Self { loaded, listener, client, server, near, far, _peer: peer, _lab: lab })
    }

    /// From now on a stranger is let in once, and then asked for cookies.
    fn press(&mut self, cookies: &str) {
        let once = Ceiling::new(1, 1);
        self.loaded.settings.gate = Gate { syns: once, packets: once, hold_ns: SECOND, ..Gate::OPEN };
        self.loaded.apply();
        self.server.run(|| fs::write("/proc/sys/net/ipv4/tcp_syncookies", cookies)).expect("a namespace's own setting");
        self.loaded.pulse(PULSE_PRESSURE, now_ns() + 600 * SECOND);
    }

    /// Connects, and says something in both directions.
    fn talk(&self, to: IpAddr) -> bool {
        let address = SocketAddr::new(to, self.listener.local_addr().expect("it is bound").port());
        let Ok(mut client) = self.client.run(|| TcpStream::connect_timeout(&address, PATIENCE)) else { return false };
        self.listener.set_nonblocking(true).expect("a socket takes a flag");
        let start = Instant::now();
        let mut server = loop {
            match self.listener.accept() {
                Ok((server, _)) => break server,
                Err(_) if start.elapsed() < PATIENCE => std::thread::yield_now(),
                Err(_) => return false,
            }
        };
        server.set_nonblocking(false).expect("a socket takes a flag");
        for stream in [&client, &server] {
            stream.set_read_timeout(Some(DEADLINE)).expect("a socket takes a timeout");
        }
        let long = vec![7; 100_000];
        let sent = std::thread::spawn(move || {
            client.write_all(&long).and_then(|()| {
                let mut heard = [0; 5];
                client.read_exact(&mut heard).map(|()| heard)
            })
        });
        let mut heard = vec![0; 100_000];
        server.read_exact(&mut heard).expect("what was sent arrives");
        server.write_all(b"hello").expect("the connection lives");
        sent.join().expect("no panic").expect("the answer arrives") == *b"hello"
    }
}

fn guard(interface: &str, port: u16) -> Loaded {
    let mut loaded = Loaded::new(1_024, port);
    loaded.pulse(PULSE_HEARTBEAT, now_ns());
    let program: &mut Xdp = loaded.ebpf.program_mut(name::PROGRAM).expect("it is there").try_into().expect("it is XDP");
    program.attach(interface, XdpMode::Driver).expect("it attaches");
    loaded
}

/// The cgroup of this process in the unified hierarchy, if it is mounted.
fn own_cgroup() -> Option<File> {
    let mounts = fs::read_to_string("/proc/self/mountinfo").ok()?;
    let mount = mounts.lines().find(|line| line.contains(" - cgroup2 "))?.split(' ').nth(4)?.to_owned();
    let own = fs::read_to_string("/proc/self/cgroup").ok()?;
    let own = own.lines().find_map(|line| line.strip_prefix("0::"))?.to_owned();
    File::open(format!("{mount}{own}")).ok()
}

#[test]
fn a_completed_handshake_verifies_a_source_and_a_syn_does_not() {
    let test = "kernel::handshake::a_completed_handshake_verifies_a_source";
    let Some(mut scene) = Scene::new(test) else { return };
    let Some(cgroup) = own_cgroup() else {
        eprintln!("SKIP {test}: cgroup2 is not mounted");
        return;
    };
    let program = scene.loaded.ebpf.program_mut(name::SOCKETS).expect("it is there");
    let program: &mut SockOps = program.try_into().expect("it is for sockets");
    program.load().expect("the verifier accepts it");
    program.attach(cgroup, CgroupAttachMode::Single).expect("it attaches");
    let (v4, v6) = (scene.far.v4.to_string(), scene.far.v6.to_string());
    assert!(!scene.loaded.is_verified(&v4));
    assert!(scene.talk(scene.near.v4.into()));
    assert!(scene.loaded.is_verified(&v4), "over an IPv6 listener too");
    assert!(!scene.loaded.is_verified(&v6));
    assert!(scene.talk(scene.near.v6.into()));
    assert!(scene.loaded.is_verified(&v6));
    assert!(!scene.loaded.is_verified(&scene.near.v4.to_string()), "the other end is nobody's guest");
    // Verified before the pressure, it is no stranger under it.
    scene.press("0");
    for _ in 0..5 {
        assert!(scene.talk(scene.near.v4.into()));
    }
    assert_eq!(scene.loaded.packets("stranger") + scene.loaded.packets("strangers"), 0);
}

#[test]
fn a_stranger_beyond_the_budget_gets_in_by_a_cookie() {
    let Some(mut scene) = Scene::new("kernel::handshake::a_stranger_beyond_the_budget_gets_in_by_a_cookie") else {
        return;
    };
    scene.press("2");
    for round in 0..5 {
        for to in [scene.near.v4.into(), scene.near.v6.into()] {
            assert!(scene.talk(to), "round {round}, {to}: {:?}", scene.loaded.counted());
        }
    }
    let counted = scene.loaded.counted();
    assert!(scene.loaded.packets("challenged") >= 5, "{counted:?}");
    assert!(scene.loaded.packets("cookie") >= 5, "{counted:?}");
    assert!(scene.loaded.packets("stranger_connection") >= 5, "{counted:?}");
    assert_eq!(scene.loaded.packets("strangers"), 0, "{counted:?}");
}

#[test]
fn a_stranger_that_waits_gets_in_without_cookies_too() {
    let Some(mut scene) = Scene::new("kernel::handshake::a_stranger_that_waits") else { return };
    scene.press("0");
    let mut refused = 0;
    for _ in 0..3 {
        let start = Instant::now();
        while !scene.talk(scene.near.v4.into()) {
            refused += 1;
            assert!(start.elapsed() < DEADLINE, "{:?}", scene.loaded.counted());
        }
    }
    assert!(refused >= 1, "the budget of one a second was met");
    assert!(scene.loaded.packets("strangers") >= 1);
    assert_eq!(scene.loaded.packets("challenged"), 0);
}
