//! Upstreams that are not there: one refuses connections, one never answers a handshake. Both hold their port, so that
//! no other test can be given it.

use std::net::SocketAddr;

/// An address of loopback that refuses connections for as long as the value lives: bound, not
/// listening, so that no other test can be given the port.
pub struct Refusing(SocketAddr, #[expect(dead_code, reason = "holds the port")] tokio::net::TcpSocket);

impl Refusing {
    pub fn new() -> Self {
        let socket = tokio::net::TcpSocket::new_v4().expect("sockets can be made");
        socket.bind(SocketAddr::from(([127, 0, 0, 1], 0))).expect("loopback has a free port");
        Self(socket.local_addr().expect("the socket is bound"), socket)
    }

    pub fn address(&self) -> SocketAddr {
        self.0
    }
}

impl Default for Refusing {
    fn default() -> Self {
        Self::new()
    }
}

/// An address of loopback that never completes a handshake: its accept queue is full.
pub struct Deaf {
    address: SocketAddr,
    _runtime: tokio::runtime::Runtime,
    _listener: tokio::net::TcpListener,
    _queue: Vec<tokio::net::TcpStream>,
}

impl Deaf {
    pub fn new() -> Self {
        let runtime =
            tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime can be built");
        let (listener, queue) = runtime.block_on(async {
            let socket = tokio::net::TcpSocket::new_v4().expect("sockets can be made");
            socket.bind(SocketAddr::from(([127, 0, 0, 1], 0))).expect("loopback has a free port");
            let listener = socket.listen(1).expect("the socket can listen");
            let to = listener.local_addr().expect("the listener is bound");
            let mut queue = Vec::new();
            // Connects until the kernel stops answering, which shows that the queue is full.
            let limit = std::time::Duration::from_millis(300);
            while let Ok(Ok(stream)) = tokio::time::timeout(limit, tokio::net::TcpStream::connect(to)).await {
                queue.push(stream);
                assert!(queue.len() < 64, "the accept queue does not fill");
            }
            (listener, queue)
        });
        let address = listener.local_addr().expect("the listener is bound");
        Self { address, _runtime: runtime, _listener: listener, _queue: queue }
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }
}

impl Default for Deaf {
    fn default() -> Self {
        Self::new()
    }
}
