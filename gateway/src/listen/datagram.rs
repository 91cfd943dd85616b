//! A socket that takes datagrams of many clients (stream routes of protocol `udp`): each client has a session, which the
//! first datagram begins and silence ends. What has no session and can have none is dropped.

use std::cell::RefCell;
use std::collections::HashMap;
use std::io::{self, IoSlice, IoSliceMut};
use std::net::{IpAddr, SocketAddr, SocketAddrV6};
use std::os::fd::AsRawFd;
use std::rc::Rc;
use std::time::Duration;

use nix::sys::socket::{
    ControlMessage, ControlMessageOwned, MsgFlags, SockaddrStorage, recvmsg, sendmsg, setsockopt, sockopt,
};
use tokio::io::Interest;
use tokio::net::UdpSocket;
use tokio::sync::mpsc;

use super::worker::admit;
use crate::clock;
use crate::drain::Drained;
use crate::edge::Standings;
use crate::proxy::carry::Carried;
use crate::proxy::datagrams::{self, BYTES_MAX};
use crate::proxy::presence::Presence;
use crate::proxy::registry::Order;
use crate::proxy::worker::Worker;
use crate::router::stream::{Carriage, StreamFacts};

/// Datagrams that may wait for a session, while the name of its target is resolved.
const WAITING_MAX: usize = 16;

/// Of the connections that a worker may hold, sessions may be a part: whoever forges senders of datagrams must not keep
/// others from connecting.
const SHARE: u64 = 4;

/// How long it waits when reading fails.
const BACK_OFF: Duration = Duration::from_millis(50);

/// A client, and the address that it sent to.
type Key = (SocketAddr, SocketAddr);

/// The sessions of a worker.
#[derive(Default)]
pub struct Sessions(RefCell<HashMap<Key, mpsc::Sender<Box<[u8]>>>>);

/// Takes datagrams until the worker ends. While it drains none begins a session.
pub async fn serve(worker: Rc<Worker>, socket: std::net::UdpSocket, sessions: Rc<Sessions>, drained: Drained) {
    let door = match Door::new(socket) {
        Ok(door) => Rc::new(door),
        Err(error) => return tracing::error!(%error, "cannot take datagrams"),
    };
    let mut buffer = vec![0; BYTES_MAX];
    loop {
        match door.receive(&mut buffer).await {
            Ok((count, key)) => {
                let datagram = &buffer[..count];
                if !sessions.pass(&key, datagram) && !drained.now() {
                    begin(&worker, &door, &sessions, key, datagram, &drained);
                }
            }
            Err(error) => {
                tracing::debug!(%error, "cannot read datagrams");
                tokio::time::sleep(BACK_OFF).await;
            }
        }
    }
}

impl Sessions {
    /// Hands a datagram to the session that it belongs to; false when there is none. A session that has too many waiting
    /// loses it, as a network would.
    fn pass(&self, key: &Key, datagram: &[u8]) -> bool {
        let sessions = self.0.borrow();
        let Some(session) = sessions.get(key) else { return false };
        if let Ok(place) = session.try_reserve() {
            place.send(datagram.into());
        }
        true
    }
}

/// Begins a session with its first datagram, if there is a route for it and room.
fn begin(worker: &Rc<Worker>, door: &Rc<Door>, sessions: &Rc<Sessions>, key: Key, datagram: &[u8], drained: &Drained) {
    let (source, destination) = key;
    let local = worker.local();
    let facts = StreamFacts { carriage: Carriage::Udp, source, destination, sni: None };
    let Some(route) = local.snapshot.stream.find(&facts) else {
        return tracing::debug!(%source, why = "no route", "datagram dropped");
    };
    let settings = &local.snapshot.settings;
    let most = settings.limits.connections.div_ceil(settings.workers as u64 * SHARE);
    if sessions.0.borrow().len() as u64 >= most {
        return worker.count_refused("sessions");
    }
    let seat = match admit(worker, source.ip(), Standings::admit_connection) {
        Ok(seat) => seat,
        Err(reason) => return worker.count_refused(reason),
    };
    worker.count_accepted();
    let (sender, inbox) = mpsc::channel(WAITING_MAX);
    // There is room for the first.
    let _ = sender.try_send(datagram.into());
    sessions.0.borrow_mut().insert(key, sender);
    let (worker, door, drained) = (Rc::clone(worker), Rc::clone(door), drained.clone());
    let listed = Listed { sessions: Rc::clone(sessions), key };
    tokio::task::spawn_local(async move {
        let presence = Presence::new(clock::monotonic_ns());
        presence.carry();
        let registered = worker.registry.add(&presence, source, destination);
        let back = |datagram: &[u8]| door.answer(&key, datagram);
        let carried = Carried { local: &local, route, source };
        registered.entry.until(Order::Cut, datagrams::run(&worker, carried, inbox, back, drained)).await;
        drop((listed, seat));
    });
}

/// Keeps a session in the table as long as it lives.
struct Listed {
    sessions: Rc<Sessions>,
    key: Key,
}

impl Drop for Listed {
    fn drop(&mut self) {
        self.sessions.0.borrow_mut().remove(&self.key);
    }
}

/// A socket that knows to which of the host's addresses each datagram came, and answers from there.
struct Door {
    socket: UdpSocket,
    local: SocketAddr,
}

impl Door {
    fn new(socket: std::net::UdpSocket) -> io::Result<Self> {
        let local = socket.local_addr()?;
        if local.ip().is_unspecified() {
            match local {
                SocketAddr::V4(_) => setsockopt(&socket, sockopt::Ipv4PacketInfo, &true)?,
                SocketAddr::V6(_) => setsockopt(&socket, sockopt::Ipv6RecvPacketInfo, &true)?,
            }
        }
        Ok(Door { socket: UdpSocket::from_std(socket)?, local })
    }

    /// The next datagram: its length, where it came from and where it came to.
    async fn receive(&self, buffer: &mut [u8]) -> io::Result<(usize, Key)> {
        let mut space = nix::cmsg_space!(libc::in6_pktinfo, libc::in_pktinfo);
        let read = || {
            let mut parts = [IoSliceMut::new(buffer)];
            let fd = self.socket.as_raw_fd();
            let message = recvmsg::<SockaddrStorage>(fd, &mut parts, Some(&mut space), MsgFlags::MSG_DONTWAIT)?;
            let source = message.address.as_ref().and_then(address).ok_or(io::ErrorKind::InvalidData)?;
            let came_to = message.cmsgs()?.find_map(|told| match told {
                ControlMessageOwned::Ipv4PacketInfo(info) => Some(IpAddr::from(info.ipi_addr.s_addr.to_ne_bytes())),
                ControlMessageOwned::Ipv6PacketInfo(info) => Some(IpAddr::from(info.ipi6_addr.s6_addr)),
                _ => None,
            });
            let came_to = came_to.unwrap_or(self.local.ip()).to_canonical();
            Ok((message.bytes, (source, SocketAddr::new(came_to, self.local.port()))))
        };
        self.socket.async_io(Interest::READABLE, read).await
    }

    /// Sends an answer to a client, from the address that it knows. What the system has no room for is lost.
    fn answer(&self, (source, from): &Key, datagram: &[u8]) {
        let parts = [IoSlice::new(datagram)];
        let to = match (self.local, source) {
            (SocketAddr::V6(_), SocketAddr::V4(v4)) => SocketAddr::new(v4.ip().to_ipv6_mapped().into(), v4.port()),
            _ => *source,
        };
        let to = SockaddrStorage::from(to);
        let send = |told: &[ControlMessage<'_>]| {
            sendmsg(self.socket.as_raw_fd(), &parts, told, MsgFlags::MSG_DONTWAIT, Some(&to))
        };
        let sent = match (self.local.ip().is_unspecified(), self.local, from.ip()) {
            (true, SocketAddr::V4(_), IpAddr::V4(ip)) => {
                let own = libc::in_addr { s_addr: u32::from_ne_bytes(ip.octets()) };
                let info = libc::in_pktinfo { ipi_ifindex: 0, ipi_spec_dst: own, ipi_addr: own };
                send(&[ControlMessage::Ipv4PacketInfo(&info)])
            }
            (true, SocketAddr::V6(_), ip) => {
                let ip = match ip {
                    IpAddr::V4(v4) => v4.to_ipv6_mapped(),
                    IpAddr::V6(v6) => v6,
                };
                let info = libc::in6_pktinfo { ipi6_addr: libc::in6_addr { s6_addr: ip.octets() }, ipi6_ifindex: 0 };
                send(&[ControlMessage::Ipv6PacketInfo(&info)])
            }
            _ => send(&[]),
        };
        if let Err(error) = sent {
            tracing::debug!(%source, %error, "an answer was lost");
        }
    }
}

/// The sender of a datagram; one of IPv4 is one, whatever the socket is.
fn address(storage: &SockaddrStorage) -> Option<SocketAddr> {
    if let Some(v4) = storage.as_sockaddr_in() {
        return Some(SocketAddr::new(v4.ip().into(), v4.port()));
    }
    let v6: SocketAddrV6 = (*storage.as_sockaddr_in6()?).into();
    Some(match v6.ip().to_ipv4_mapped() {
        Some(v4) => SocketAddr::new(v4.into(), v6.port()),
        None => v6.into(),
    })
}
