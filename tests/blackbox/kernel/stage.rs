//! A gateway in a namespace of its own behind a veth pair, a bpffs of its own, and somebody who sends and counts what
//! comes through: whoever is denied and gets one packet through has found a gap.

use std::{
    collections::HashMap,
    net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket},
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use aya::{
    Ebpf, EbpfLoader,
    programs::{Xdp, XdpMode},
};
use gateway_common::map::name;
use gateway_tests::{
    Client, Gateway, Request, Setup,
    netns::{End, Lab, Space},
};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use serde_json::Value;

use super::loaded::{Loaded, OBJECT};

/// The port that the gateway listens on: the namespace is the test's own.
pub const PORT: u16 = 8000;
/// Between two packets of a sender.
const PACE: Duration = Duration::from_micros(200);

/// A bpffs that is gone with the test.
pub struct Bpffs {
    folder: tempfile::TempDir,
}

impl Bpffs {
    fn new() -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder can be made");
        mount(Some("bpf"), folder.path(), Some("bpf"), MsFlags::empty(), None::<&str>).expect("root may mount a bpffs");
        Self { folder }
    }

    pub fn path(&self) -> &Path {
        self.folder.path()
    }

    /// Where the gateways of this test pin.
    pub fn pins(&self) -> PathBuf {
        self.path().join("gateway")
    }
}

impl Drop for Bpffs {
    fn drop(&mut self) {
        if let Err(error) = umount2(self.folder.path(), MntFlags::MNT_DETACH) {
            eprintln!("{}: {error}", self.folder.path().display());
        }
    }
}

pub struct Stage {
    pub server: Space,
    pub client: Space,
    pub near: End,
    pub far: End,
    pub bpffs: Bpffs,
    sink: Sink,
    // Last: the namespaces go when nobody is in them.
    _lab: Lab,
}

impl Stage {
    pub fn new(test: &str) -> Option<Self> {
        let mut lab = Lab::new(test)?;
        let server = lab.space("server").expect("a namespace");
        let client = lab.space("client").expect("a namespace");
        let (near, far) = lab.join(&server, &client).expect("a veth pair");
        for host in 3..6 {
            client.add_address(&far.interface, IpAddr::V4(neighbour(&far, host))).expect("an address");
        }
        let sink = Sink::new(&server, near.v4);
        Some(Self { server, client, near, far, bpffs: Bpffs::new(), sink, _lab: lab })
    }

    /// One of the client's further addresses, 3 to 5.
    pub fn address(&self, host: u8) -> Ipv4Addr {
        neighbour(&self.far, host)
    }

    /// A configuration in which .3 is denied; `edge` are further lines of the edge's block.
    pub fn config(&self, edge: &str) -> String {
        let lines: String = edge.lines().map(|line| format!("    {}\n", line.trim())).collect();
        format!(
            "_format_version: \"3.0\"\n\
             services:\n\
             - name: here\n  url: http://127.0.0.1:1\n  routes:\n  - name: all\n    paths: [/]\n    plugins:\n    \
             - {{ name: rate-limiting, config: {{ minute: 2 }} }}\n    \
             - {{ name: request-termination, config: {{ status_code: 200, message: here }} }}\n\
             \ngateway:\n  listen: [\"{}:{PORT}\"]\n  edge:\n    mode: enforce\n    interfaces: [{}]\n    \
             deny: [{}]\n{lines}",
            self.near.v4,
            self.near.interface,
            self.address(3)
        )
    }

    /// Starts a gateway in the server's namespace.
    pub fn start(&self, edge: &str) -> Gateway {
        let text = self.config(edge);
        self.server.run(|| Setup::new(&text).start())
    }

    /// The edge's status, as the admin API tells it.
    pub fn edge(&self, gateway: &Gateway) -> Value {
        self.server.run(|| gateway.admin_get("/edge").expect(200).json())
    }

    pub fn in_force(&self, gateway: &Gateway) -> String {
        self.edge(gateway)["mode"]["in_force"].as_str().unwrap_or_default().to_owned()
    }

    pub fn why(&self, gateway: &Gateway, address: Ipv4Addr) -> Value {
        self.server.run(|| gateway.admin_get(&format!("/edge/why?ip={address}")).expect(200).json())
    }

    /// One request from an address; none if there is no answer.
    pub fn ask(&self, from: Ipv4Addr) -> Option<u16> {
        let to = SocketAddr::from((self.near.v4, PORT));
        self.client.run(|| {
            let mut client = Client::try_connect_from(to, from).ok()?;
            client.patience(Duration::from_millis(500));
            client.try_send(&Request::get("/")).ok().map(|reply| reply.status)
        })
    }

    /// Starts to send datagrams to the gateway's port from one of the addresses, until the sender is dropped.
    pub fn send_from(&self, host: u8) -> Sender {
        Sender::new(&self.client, self.address(host), self.near.v4)
    }

    /// Datagrams that came through from an address.
    pub fn came_through(&self, host: u8) -> u64 {
        self.sink.of(self.address(host))
    }

    /// Somebody else's program on the gateway's interface, until it is dropped.
    pub fn foreign_program(&self) -> Loaded {
        self.server.run(|| {
            let mut loaded = Loaded::new(2, 9);
            let program: &mut Xdp =
                loaded.ebpf.program_mut(name::PROGRAM).expect("it is there").try_into().expect("it is XDP");
            program.attach(&self.near.interface, XdpMode::Driver).expect("the interface is free");
            loaded
        })
    }

    /// The same with a name that is no gateway's: the object under another symbol of the same length.
    pub fn strange_program(&self) -> Ebpf {
        let mut object = std::fs::read(OBJECT).expect("the object is checked in");
        let (ours, strange) = (b"\0gateway\0", b"\0strange\0");
        let places: Vec<usize> =
            object.windows(ours.len()).enumerate().filter(|(_, word)| word == ours).map(|(at, _)| at).collect();
        for at in places {
            object[at..at + strange.len()].copy_from_slice(strange);
        }
        self.server.run(|| {
            let mut ebpf = EbpfLoader::new().map_max_entries(name::CELLS, 2).load(&object).expect("the object loads");
            let program: &mut Xdp = ebpf.program_mut("strange").expect("it is there").try_into().expect("it is XDP");
            program.load().expect("the verifier accepts it");
            program.attach(&self.near.interface, XdpMode::Driver).expect("the interface is free");
            ebpf
        })
    }

    /// The program on the gateway's interface, as `ip` shows it.
    pub fn has_xdp(&self) -> bool {
        let ip = |arguments: &[&str]| {
            let output = std::process::Command::new("ip").args(["-n", self.server.name()]).args(arguments).output();
            String::from_utf8_lossy(&output.expect("`ip` runs").stdout).into_owned()
        };
        ip(&["link", "show", &self.near.interface]).contains("prog/xdp")
    }
}

fn neighbour(end: &End, host: u8) -> Ipv4Addr {
    let [a, b, c, _] = end.v4.octets();
    Ipv4Addr::new(a, b, c, host)
}

/// Counts the datagrams that reach the gateway's port.
struct Sink {
    counts: Arc<Mutex<HashMap<IpAddr, u64>>>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Sink {
    fn new(space: &Space, address: Ipv4Addr) -> Self {
        let socket = space.run(|| UdpSocket::bind((address, PORT))).expect("the namespace's port is free");
        socket.set_read_timeout(Some(Duration::from_millis(100))).expect("a socket takes a timeout");
        let (counts, stop) = (Arc::<Mutex<HashMap<_, _>>>::default(), Arc::<AtomicBool>::default());
        let (own_counts, own_stop) = (Arc::clone(&counts), Arc::clone(&stop));
        let thread = thread::spawn(move || {
            let mut buffer = [0; 64];
            while !own_stop.load(Ordering::Relaxed) {
                if let Ok((_, from)) = socket.recv_from(&mut buffer) {
                    *own_counts.lock().expect("nobody panics in between").entry(from.ip()).or_insert(0) += 1;
                }
            }
        });
        Self { counts, stop, thread: Some(thread) }
    }

    fn of(&self, address: Ipv4Addr) -> u64 {
        self.counts.lock().expect("nobody panics in between").get(&IpAddr::V4(address)).copied().unwrap_or(0)
    }
}

impl Drop for Sink {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            thread.join().expect("the sink does not panic");
        }
    }
}

/// Sends datagrams at a steady pace.
pub struct Sender {
    sent: Arc<AtomicU64>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Sender {
    fn new(space: &Space, from: Ipv4Addr, to: Ipv4Addr) -> Self {
        let socket = space.run(|| UdpSocket::bind((from, 0))).expect("the address is the namespace's");
        let (sent, stop) = (Arc::<AtomicU64>::default(), Arc::<AtomicBool>::default());
        let (own_sent, own_stop) = (Arc::clone(&sent), Arc::clone(&stop));
        let thread = thread::spawn(move || {
            while !own_stop.load(Ordering::Relaxed) {
                // A port that nobody listens on answers with ICMP, which the next send reports.
                if socket.send_to(b"is there a gap?", (to, PORT)).is_ok() {
                    own_sent.fetch_add(1, Ordering::Relaxed);
                }
                thread::sleep(PACE);
            }
        });
        Self { sent, stop, thread: Some(thread) }
    }

    pub fn sent(&self) -> u64 {
        self.sent.load(Ordering::Relaxed)
    }
}

impl Drop for Sender {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            thread.join().expect("the sender does not panic");
        }
    }
}
