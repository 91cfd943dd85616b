//! Listening sockets: one a worker on the same address, so that the kernel spreads connections, and datagrams by their
//! sender (SO_REUSEPORT).

use std::net::{SocketAddr, TcpListener, UdpSocket};

use socket2::{Domain, Protocol, Socket, Type};

use crate::config::Listen;

/// Connections that may wait to be accepted, each socket.
const BACKLOG: i32 = 4096;

/// What is spoken on a listen address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Port {
    /// TLS.
    pub tls: bool,
    /// Bytes of stream routes, and not HTTP.
    pub stream: bool,
    /// The PROXY protocol before anything else.
    pub proxy_protocol: bool,
    /// In datagrams.
    pub udp: bool,
}

/// One worker's socket of a listen address.
#[derive(Debug)]
pub enum Listening {
    /// It takes connections.
    Connections(TcpListener),
    /// It takes datagrams.
    Datagrams(UdpSocket),
}

/// The sockets of one listen address.
#[derive(Debug)]
pub struct Bound {
    /// The address, with the real port.
    pub address: SocketAddr,
    /// What is spoken.
    pub port: Port,
    /// One socket for each worker.
    pub sockets: Vec<Listening>,
}

/// Binds `count` sockets to a listen address, which must be free unless they are to stand `beside` another gateway's.
///
/// # Errors
/// The system's, with the address.
pub fn bind(listen: &Listen, stream: bool, count: usize, beside: bool) -> anyhow::Result<Bound> {
    let mut address = listen.address;
    let port = Port { tls: listen.tls, stream, proxy_protocol: listen.proxy_protocol, udp: listen.udp };
    if !beside {
        refuse_a_taken_address(address, port).map_err(|e| anyhow::anyhow!("cannot listen on {address}: {e}"))?;
    }
    let mut sockets = Vec::with_capacity(count);
    for _ in 0..count {
        let socket = open(address, port).map_err(|e| anyhow::anyhow!("cannot listen on {address}: {e}"))?;
        address = socket.local_addr()?.as_socket().unwrap_or(address);
        sockets.push(if port.udp {
            Listening::Datagrams(socket.into())
        } else {
            Listening::Connections(socket.into())
        });
    }
    Ok(Bound { address, port, sockets })
}

/// SO_REUSEPORT would let a second gateway take half of the connections of the first, by mistake. Without it the address
/// must be free.
fn refuse_a_taken_address(address: SocketAddr, port: Port) -> std::io::Result<()> {
    socket(address, port)?.bind(&address.into())
}

fn socket(address: SocketAddr, port: Port) -> std::io::Result<Socket> {
    let (kind, protocol) = if port.udp { (Type::DGRAM, Protocol::UDP) } else { (Type::STREAM, Protocol::TCP) };
    let socket = Socket::new(Domain::for_address(address), kind, Some(protocol))?;
    if address.is_ipv6() {
        socket.set_only_v6(false)?;
    }
    // For datagrams it would let anybody share the address.
    if !port.udp {
        socket.set_reuse_address(true)?;
    }
    Ok(socket)
}

fn open(address: SocketAddr, port: Port) -> std::io::Result<Socket> {
    let socket = socket(address, port)?;
    socket.set_reuse_port(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    if !port.udp {
        // Accepted sockets inherit it. Without it small answers wait for acknowledgements.
        socket.set_tcp_nodelay(true)?;
        socket.listen(BACKLOG)?;
    }
    Ok(socket)
}
