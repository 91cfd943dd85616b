//! Datagrams of one client, both ways, to a target of its route's service. It must not know what they mean, nor which
//! socket the client sent them to.

use std::cell::RefCell;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::rc::Rc;
use std::time::Duration;

use smallvec::SmallVec;
use tokio::net::UdpSocket;
use tokio::sync::mpsc::Receiver;
use tokio::time::Instant;

use super::carry::{self, Carried};
use super::worker::Worker;
use crate::clock;
use crate::config::snapshot::Service;
use crate::drain::Drained;
use crate::upstreams::health::Sign;
use crate::upstreams::member::Ride;

/// Bytes of the longest datagram.
pub const BYTES_MAX: usize = 65_535;

/// When the gateway drains, a session in which nothing moves for so long ends.
const FAREWELL: Duration = Duration::from_secs(1);

/// Answers read in one go, so that one target does not hold the worker.
const ANSWERS_AT_ONCE: usize = 32;

thread_local! {
    /// One for all sessions of a worker: it is only used between two waits.
    static BUFFER: RefCell<Vec<u8>> = RefCell::new(vec![0; BYTES_MAX]);
}

/// The target of a session.
struct Target<'a> {
    socket: UdpSocket,
    /// Its place in the service's group.
    place: Option<usize>,
    service: &'a Service,
    _ride: Option<Ride>,
}

/// Carries what `inbox` brings to a target and its answers `back`, until nothing has moved for the service's read timeout
/// or the target cannot be reached.
pub async fn run(
    worker: &Rc<Worker>,
    carried: Carried<'_>,
    mut inbox: Receiver<Box<[u8]>>,
    back: impl Fn(&[u8]),
    mut drained: Drained,
) {
    let Some(service) = carry::service(&carried) else { return };
    let Some(target) = connect(worker, &carried, service).await else {
        return tracing::debug!(source = %carried.source, service = %service.info.id, "no target for datagrams");
    };
    let (mut idle_max, mut finishing) = (service.read_timeout, false);
    let mut moved = Instant::now();
    let mut due = std::pin::pin!(tokio::time::sleep_until(moved + idle_max));
    loop {
        let outcome = tokio::select! {
            datagram = inbox.recv() => match datagram {
                Some(datagram) => target.socket.send(&datagram).await.map(drop),
                None => return,
            },
            ready = target.socket.readable() => ready.and_then(|()| answer(&target.socket, &back)),
            () = drained.wait(), if !finishing => {
                (finishing, idle_max) = (true, idle_max.min(FAREWELL));
                due.as_mut().reset(Instant::now() + idle_max);
                continue;
            }
            () = due.as_mut() => {
                if moved.elapsed() >= idle_max {
                    return;
                }
                due.as_mut().reset(moved + idle_max);
                continue;
            }
        };
        if outcome.is_err() {
            return target.failed();
        }
        moved = Instant::now();
    }
}

impl Target<'_> {
    fn failed(&self) {
        if let (Some(group), Some(place)) = (&self.service.group, self.place) {
            group.witness(place, Sign::TcpFailure);
        }
    }
}

/// Hands on what the target sent.
fn answer(target: &UdpSocket, back: &impl Fn(&[u8])) -> io::Result<()> {
    BUFFER.with_borrow_mut(|buffer| {
        for _ in 0..ANSWERS_AT_ONCE {
            match target.try_recv(buffer) {
                Ok(count) => back(&buffer[..count]),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) => return Err(error),
            }
        }
        Ok(())
    })
}

async fn connect<'a>(worker: &Rc<Worker>, carried: &Carried<'_>, service: &'a Service) -> Option<Target<'a>> {
    let mut tried: SmallVec<[usize; 4]> = SmallVec::new();
    for _ in 0..=service.retries.min(carry::RETRIES_MAX) {
        let now_ns = clock::monotonic_ns();
        let (target, ride) = carry::choose(worker, carried, service, &mut tried, now_ns)?;
        let opened = async { open(carry::address(worker, &target, now_ns).await?).await };
        let place = tried.last().copied();
        if let Ok(Ok(socket)) = tokio::time::timeout(service.connect_timeout, opened).await {
            return Some(Target { socket, place, service, _ride: ride });
        }
        if let (Some(group), Some(place)) = (&service.group, place) {
            group.witness(place, Sign::TcpFailure);
        }
    }
    None
}

async fn open(to: SocketAddr) -> io::Result<UdpSocket> {
    let any: IpAddr = if to.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    let socket = UdpSocket::bind((any, 0)).await?;
    socket.connect(to).await?;
    Ok(socket)
}
