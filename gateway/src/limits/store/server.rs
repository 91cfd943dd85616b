//! Where a Redis server is and how one presents oneself there. Opens a stream to it; must not know what is said on it.

use std::fmt;
use std::hash::Hash;
use std::io;
use std::sync::LazyLock;
use std::time::Duration;

use crate::proxy::transport::{self, TlsClients, Transport};

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

    /// Opens a stream to the first of its addresses that answers.
    ///
    /// # Errors
    /// The resolver's, the system's or the handshake's.
    pub async fn open(&self) -> io::Result<Transport> {
        let tls = self.tls.as_ref().map(|tls| (tls.server_name.as_deref().unwrap_or(&self.host), tls.verify));
        let mut last = io::Error::new(io::ErrorKind::NotFound, "the host has no address");
        for address in tokio::net::lookup_host((self.host.as_str(), self.port)).await? {
            let opened = match tls {
                Some(tls) => transport::open(address, Some(tls), &TLS).await,
                None => transport::open_plain(address).await,
            };
            match opened {
                Ok(stream) => return Ok(stream),
                Err(error) => last = error,
            }
        }
        Err(last)
    }
}
