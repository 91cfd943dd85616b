//! Where a Redis server is and how one presents oneself there. Opens a stream to it; must not know what is said on it.

use std::fmt;
use std::hash::Hash;
use std::io;
use std::net::SocketAddr;
use std::sync::LazyLock;
use std::time::Duration;

use socket2::{SockRef, TcpKeepalive};
use tokio::time::Instant;

use crate::proxy::transport::{self, TlsClients, Transport};

/// A connection that was quiet for so long is probed, at this pause, so often, before it is given up.
const QUIET_MAX: Duration = Duration::from_secs(15);
const PROBE_PAUSE: Duration = Duration::from_secs(5);
const PROBES: u32 = 3;

/// TLS towards Redis; made when a configuration first names it, so that no worker opens the file of roots.
static TLS: LazyLock<TlsClients> = LazyLock::new(TlsClients::new);

/// A Redis server (Kong's block `redis`). Two that are equal share a worker's connection.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Server {
    /// Name or address.
    pub host: String,
    /// TCP port.
    pub port: u16,
    /// Number of the database.
    pub database: i64,
    /// User of an access control list; the default user when absent.
    pub username: Option<String>,
    /// Password; no `AUTH` when absent.
    pub password: Option<String>,
    /// TLS, when asked for.
    pub tls: Option<Tls>,
    /// Longest time for a call, connecting included.
    pub timeout: Duration,
}

/// TLS towards a server.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Tls {
    /// Whether the certificate is verified against the system's roots.
    pub verify: bool,
    /// The name to ask for and to verify; the host when absent.
    pub server_name: Option<String>,
}

impl fmt::Debug for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

impl fmt::Display for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}/{}", self.host, self.port, self.database)
    }
}

impl Server {
    /// Loads what its connections will need; to be called off the request path.
    pub fn prepare(&self) {
        if self.tls.is_some() {
            LazyLock::force(&TLS);
        }
    }

    /// Opens a stream to the first of its addresses that answers, each of which has its part of the time.
    ///
    /// # Errors
    /// The resolver's, the system's or the handshake's.
    pub async fn open(&self) -> io::Result<Transport> {
        let begun = Instant::now();
        let addresses: Vec<SocketAddr> = tokio::net::lookup_host((self.host.as_str(), self.port)).await?.collect();
        let stream = self.open_first(&addresses, begun + self.timeout).await?;
        // Who went away without a word is noticed while nobody asks.
        let keepalive = TcpKeepalive::new().with_time(QUIET_MAX).with_interval(PROBE_PAUSE).with_retries(PROBES);
        SockRef::from(stream.tcp()).set_tcp_keepalive(&keepalive)?;
        Ok(stream)
    }

    async fn open_first(&self, addresses: &[SocketAddr], until: Instant) -> io::Result<Transport> {
        let tls = self.tls.as_ref().map(|tls| (tls.server_name.as_deref().unwrap_or(&self.host), tls.verify));
        transport::open_first(addresses, until, async |address| match tls {
            Some(tls) => transport::open(address, Some(tls), &TLS).await,
            None => transport::open_plain(address).await,
        })
        .await
    }
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    fn server(port: u16, tls: Option<Tls>) -> Server {
        let timeout = Duration::from_millis(400);
        Server { host: "127.0.0.1".to_owned(), port, database: 0, username: None, password: None, tls, timeout }
    }

    fn listener() -> (TcpListener, SocketAddr) {
        let listener = TcpListener::bind("127.0.0.1:0").expect("loopback has a free port");
        let address = listener.local_addr().expect("it is bound");
        (listener, address)
    }

    #[tokio::test]
    async fn an_address_that_hangs_leaves_time_for_the_next() {
        // A handshake that nobody answers; then a port at which nobody listens.
        let ((_deaf, deaf), (gone, refusing)) = (listener(), listener());
        drop(gone);
        let server = server(deaf.port(), Some(Tls { verify: false, server_name: None }));
        let (addresses, begun) = ([deaf, refusing], Instant::now());
        let opened = server.open_first(&addresses, begun + server.timeout);
        let end = tokio::time::timeout(server.timeout, opened).await.expect("both were tried in time");
        assert_eq!(end.err().map(|error| error.kind()), Some(io::ErrorKind::ConnectionRefused));
    }

    #[tokio::test]
    async fn a_quiet_connection_is_probed() {
        let (_listening, address) = listener();
        let stream = server(address.port(), None).open().await.expect("connects");
        let socket = SockRef::from(stream.tcp());
        assert!(socket.keepalive().expect("readable"));
        assert_eq!(socket.tcp_keepalive_time().expect("readable"), QUIET_MAX);
    }
}
