//! What is sent: counted as the wire sees it, and held to its ceiling, over real connections.

use std::{
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpListener, TcpStream},
    time::{Duration, Instant},
};

use aya::{
    maps::HashMap,
    programs::{LinkOrder, SchedClassifier, TcAttachType, tc::TcAttachOptions},
};
use gateway_common::{
    Ceiling, Source,
    map::{HAS_EGRESS, RunMode, Standing, name},
};
use gateway_tests::netns::{End, Lab, Space};

use super::loaded::{Loaded, now_ns};

const DEADLINE: Duration = Duration::from_secs(30);
const HOUR: u64 = 3_600_000_000_000;
/// Ethernet, IPv4, TCP with timestamps.
const HEADERS: u64 = 14 + 20 + 32;
const SEGMENT: u64 = 1_448;

struct Scene {
    loaded: Loaded,
    listener: TcpListener,
    client: Space,
    near: End,
    far: End,
    _lab: Lab,
}

impl Scene {
    fn new(test: &str, ceiling: Ceiling) -> Option<Self> {
        let mut lab = Lab::new(test)?;
        let server = lab.space("server").expect("a namespace");
        let client = lab.space("client").expect("a namespace");
        let (near, far) = lab.join(&server, &client).expect("a veth pair");
        let listener = server.run(|| TcpListener::bind("0.0.0.0:0")).expect("a listener");
        let mut loaded = Loaded::new(1_024, listener.local_addr().expect("it is bound").port());
        loaded.settings.lists |= HAS_EGRESS;
        loaded.settings.stale_ns = 0;
        loaded.settings.sent = ceiling;
        loaded.apply();
        let attached = server.run(|| attach(&mut loaded, &near.interface));
        if let Err(error) = attached {
            eprintln!("SKIP {test}: {error}");
            return None;
        }
        Some(Self { loaded, listener, client, near, far, _lab: lab })
    }

    /// So many bytes to the client; how long it took.
    fn send(&self, bytes: usize) -> Duration {
        let address = SocketAddr::new(self.near.v4.into(), self.listener.local_addr().expect("it is bound").port());
        let mut client = self.client.run(|| TcpStream::connect(address)).expect("somebody listens");
        let (mut server, _) = self.listener.accept().expect("the connection waits");
        for stream in [&client, &server] {
            stream.set_read_timeout(Some(DEADLINE)).expect("a socket takes a timeout");
            stream.set_write_timeout(Some(DEADLINE)).expect("a socket takes a timeout");
        }
        let start = Instant::now();
        let sender = std::thread::spawn(move || server.write_all(&vec![7; bytes]));
        let mut heard = vec![0; bytes];
        client.read_exact(&mut heard).expect("what was sent arrives");
        sender.join().expect("no panic").expect("it was sent");
        start.elapsed()
    }

    /// Bytes and packets sent to the client.
    fn sent(&mut self) -> Option<[u64; 3]> {
        let map = self.loaded.ebpf.map(name::EGRESS).expect("the map exists");
        let map = HashMap::<_, Source, [u64; 3]>::try_from(map).expect("it is a hash");
        map.get(&Source::new(self.far.v4.into(), 64), 0).ok()
    }
}

fn attach(loaded: &mut Loaded, interface: &str) -> anyhow::Result<()> {
    let program: &mut SchedClassifier =
        loaded.ebpf.program_mut(name::EGRESS_PROGRAM).expect("it is there").try_into()?;
    program.load().expect("the verifier accepts it");
    let options = TcAttachOptions::TcxOrder(LinkOrder::default());
    program.attach_with_options(interface, TcAttachType::Egress, options)?;
    Ok(())
}

#[test]
fn every_byte_on_the_wire_is_counted_and_a_refused_stranger_opens_no_account() {
    let test = "kernel::egress::every_byte_on_the_wire_is_counted";
    let Some(mut scene) = Scene::new(test, Ceiling::UNLIMITED) else { return };
    let payload = 4_000_000_u64;
    // Nobody listens there: the host answers with a reset, which opens no account.
    let closed = SocketAddr::new(scene.near.v4.into(), 9);
    scene.loaded.protect(gateway_common::packet::TCP, 9);
    scene.client.run(|| TcpStream::connect_timeout(&closed, DEADLINE)).expect_err("nobody listens");
    assert_eq!(scene.sent(), None);
    scene.send(payload as usize);
    let [bytes, packets, _] = scene.sent().expect("there is an account");
    // Every segment has its headers on the wire, though the host hands many over as one packet. Segments that are not
    // full, acknowledgements and what is sent twice add a little.
    let least = payload + payload.div_ceil(SEGMENT) * HEADERS;
    assert!((least..least + least / 50).contains(&bytes), "{bytes} for {payload}, at least {least}");
    assert!(packets < payload / SEGMENT, "{packets}");
}

#[test]
fn a_source_is_sent_no_more_than_its_ceiling_and_more_in_good_standing() {
    let test = "kernel::egress::a_source_is_sent_no_more_than_its_ceiling";
    let (rate, burst) = (2_000_000, 200_000);
    let Some(mut scene) = Scene::new(test, Ceiling::new(rate, burst)) else { return };
    let start = Instant::now();
    scene.send(4_000_000);
    let [bytes, _, _] = scene.sent().expect("there is an account");
    let most = burst + rate * start.elapsed().as_millis() as u64 / 1_000;
    assert!(bytes <= most + most / 50, "{bytes} of {most}");
    assert!(scene.loaded.packets("bandwidth") > 0);
    assert!(start.elapsed() > Duration::from_millis(1_500), "{:?}", start.elapsed());

    let far = scene.far.v4.to_string();
    scene.loaded.raise(&far, Standing { expiry_ns: now_ns() + HOUR, raise: 10, spare: 0 });
    let took = scene.send(4_000_000);
    assert!(took < start.elapsed() / 2, "{took:?}");
}

#[test]
fn in_shadow_everything_is_sent_and_the_excess_counted() {
    let test = "kernel::egress::in_shadow_everything_is_sent";
    let Some(mut scene) = Scene::new(test, Ceiling::new(1, 131_072)) else { return };
    scene.loaded.settings.mode = RunMode::Shadow as u32;
    scene.loaded.apply();
    scene.send(2_000_000);
    assert!(scene.loaded.packets("shadow_bandwidth") > 0);
    assert!(scene.sent().expect("there is an account")[0] > 2_000_000);
}

#[test]
fn who_is_never_dropped_is_sent_everything() {
    let test = "kernel::egress::who_is_never_dropped_is_sent_everything";
    let Some(mut scene) = Scene::new(test, Ceiling::new(1, 131_072)) else { return };
    let far = scene.far.v4.to_string();
    scene.loaded.list(name::NEVER_DROP, &far, 128);
    scene.send(4_000_000);
    assert_eq!(scene.loaded.packets("bandwidth"), 0);
    assert!(scene.sent().expect("there is an account")[0] > 4_000_000);
}
