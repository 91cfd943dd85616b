//! Listening sockets: one a worker on the same address, so that the kernel spreads connections (SO_REUSEPORT).

use std::net::{SocketAddr, TcpListener};

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
}

/// The sockets of one listen address.
#[derive(Debug)]
pub struct Bound {
    /// The address, with the real port.
    pub address: SocketAddr,
    /// What is spoken.
    pub port: Port,
    /// One socket for each worker.
    pub sockets: Vec<TcpListener>,
}

/// Binds `count` sockets to a listen address, which must be free unless they are to stand `beside` another gateway's.
///
/// # Errors
/// The system's, with the address.
pub fn bind(listen: &Listen, stream: bool, count: usize, beside: bool) -> anyhow::Result<Bound> {
    let mut address = listen.address;
    if !beside {
        refuse_a_taken_address(address).map_err(|e| anyhow::anyhow!("cannot listen on {address}: {e}"))?;
    }
    let mut sockets = Vec::with_capacity(count);
    for _ in 0..count {
        let socket = open(address).map_err(|e| anyhow::anyhow!("cannot listen on {address}: {e}"))?;
        address = socket.local_addr()?;
        sockets.push(socket);
    }
    Ok(Bound { address, port: Port { tls: listen.tls, stream, proxy_protocol: listen.proxy_protocol }, sockets })
}

/// SO_REUSEPORT would let a second gateway take half of the connections of the first, by mistake. Without it the address
/// must be free.
fn refuse_a_taken_address(address: SocketAddr) -> std::io::Result<()> {
    socket(address)?.bind(&address.into())
}

fn socket(address: SocketAddr) -> std::io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    if address.is_ipv6() {
        socket.set_only_v6(false)?;
    }
    socket.set_reuse_address(true)?;
    Ok(socket)
}

fn open(address: SocketAddr) -> std::io::Result<TcpListener> {
    let socket = socket(address)?;
    socket.set_reuse_port(true)?;
    socket.set_nonblocking(true)?;
    // Accepted sockets inherit it. Without it small answers wait for acknowledgements.
    socket.set_tcp_nodelay(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}
