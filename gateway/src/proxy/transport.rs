//! A connection to an upstream: TCP, perhaps with TLS on it, and the worker's pool of idle ones.

use std::cell::RefCell;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll};

use rustc_hash::FxHashMap;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::Instant;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::h1::{Connection, Home, Limits};

/// The bytes below HTTP.
pub enum Transport {
    /// Plain TCP.
    Plain(TcpStream),
    /// TLS; boxed, since it is large and moved a few times.
    Tls(Box<TlsStream<TcpStream>>),
}

impl Transport {
    /// The socket.
    #[must_use]
    pub fn tcp(&self) -> &TcpStream {
        match self {
            Transport::Plain(tcp) => tcp,
            Transport::Tls(tls) => tls.get_ref().0,
        }
    }

    fn inner(&mut self) -> Pin<&mut dyn Stream> {
        match self {
            Transport::Plain(tcp) => Pin::new(tcp),
            Transport::Tls(tls) => Pin::new(&mut **tls),
        }
    }
}

trait Stream: AsyncRead + AsyncWrite + Unpin {}
impl<T: AsyncRead + AsyncWrite + Unpin> Stream for T {}

impl AsyncRead for Transport {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        self.inner().poll_read(cx, buf)
    }
}

impl AsyncWrite for Transport {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.inner().poll_write(cx, buf)
    }
    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.inner().poll_write_vectored(cx, bufs)
    }
    fn is_write_vectored(&self) -> bool {
        true
    }
    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.inner().poll_flush(cx)
    }
    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.inner().poll_shutdown(cx)
    }
}

/// What makes two connections interchangeable.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Endpoint {
    /// Where it leads.
    pub address: SocketAddr,
    /// With TLS: the name that was asked for, and whether the certificate was verified.
    pub tls: Option<(Rc<str>, bool)>,
}

struct Idle {
    connection: Connection<Transport>,
    since_ns: u64,
}

/// Idle connections of one endpoint at most (Kong `upstream_keepalive_pool_size`).
const IDLE_MAX: usize = 512;
/// Requests on one connection at most (Kong `upstream_keepalive_max_requests`).
const SERVED_MAX: u64 = 10_000;
/// How long a connection may stay idle (Kong `upstream_keepalive_idle_timeout`).
const IDLE_NS: u64 = 60_000_000_000;

type List = Rc<RefCell<Vec<Idle>>>;

/// A worker's idle connections, newest first.
#[derive(Default)]
pub struct Pool(RefCell<FxHashMap<Endpoint, List>>);

/// The place of an endpoint's idle connections: where one comes from, and goes back to when its answer is complete.
#[derive(Clone)]
pub struct Berth {
    list: List,
    now_ns: u64,
}

impl Berth {
    /// The newest idle connection that is still alive.
    #[must_use]
    pub fn take(&self) -> Option<Connection<Transport>> {
        let mut list = self.list.borrow_mut();
        while let Some(mut last) = list.pop() {
            if !last.connection.is_stale() {
                return Some(last.connection);
            }
        }
        None
    }
}

impl Home<Transport> for Berth {
    fn take_back(self, connection: Connection<Transport>) {
        let mut list = self.list.borrow_mut();
        if connection.served() < SERVED_MAX && list.len() < IDLE_MAX {
            list.push(Idle { connection, since_ns: self.now_ns });
        }
    }
}

impl Pool {
    /// The berth of `endpoint`.
    #[must_use]
    pub fn berth(&self, endpoint: &Endpoint, now_ns: u64) -> Berth {
        let mut lists = self.0.borrow_mut();
        let list = match lists.get(endpoint) {
            Some(list) => Rc::clone(list),
            None => Rc::clone(lists.entry(endpoint.clone()).or_default()),
        };
        Berth { list, now_ns }
    }

    /// Closes what has been idle for too long.
    pub fn sweep(&self, now_ns: u64) {
        self.0.borrow_mut().retain(|_, list| {
            let mut idle = list.borrow_mut();
            idle.retain_mut(|i| now_ns.saturating_sub(i.since_ns) < IDLE_NS && !i.connection.is_stale());
            !idle.is_empty() || Rc::strong_count(list) > 1
        });
    }

    /// Number of idle connections.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.borrow().values().map(|list| list.borrow().len()).sum()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// TLS towards upstreams: verified against the system's roots, or not at all, as Kong's `tls_verify` says.
pub struct TlsClients {
    /// Unverified, verified.
    plain: [TlsConnector; 2],
    /// The same for whoever speaks HTTP/2 alone.
    h2: [TlsConnector; 2],
}

impl TlsClients {
    /// Loads the system's roots.
    #[must_use]
    pub fn new() -> Self {
        let mut roots = rustls::RootCertStore::empty();
        let found = rustls_native_certs::load_native_certs();
        roots.add_parsable_certificates(found.certs);
        let builder = rustls::ClientConfig::builder();
        let verified = builder.with_root_certificates(roots).with_no_client_auth();
        let unverified = rustls::ClientConfig::builder()
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(unverified::AnyCertificate::default()))
            .with_no_client_auth();
        let h2 = [&unverified, &verified].map(|config| {
            let mut config = rustls::ClientConfig::clone(config);
            config.alpn_protocols = vec![b"h2".to_vec()];
            Arc::new(config).into()
        });
        TlsClients { plain: [unverified, verified].map(|config| Arc::new(config).into()), h2 }
    }
}

impl Default for TlsClients {
    fn default() -> Self {
        Self::new()
    }
}

/// Opens a connection.
///
/// # Errors
/// The system's or the handshake's.
pub async fn connect(endpoint: &Endpoint, clients: &TlsClients) -> io::Result<Connection<Transport>> {
    let tls = endpoint.tls.as_ref().map(|(name, verify)| (&**name, *verify));
    Ok(Connection::new(open(endpoint.address, tls, clients).await?, Limits::default()))
}

/// Opens what is below HTTP; `tls` is the name to ask for, and whether the certificate is verified.
///
/// # Errors
/// The system's or the handshake's.
pub async fn open(address: SocketAddr, tls: Option<(&str, bool)>, clients: &TlsClients) -> io::Result<Transport> {
    open_with(address, tls, &clients.plain).await
}

/// Opens what is below HTTP to the first of `addresses` that can be had; `open` has for each its part of the time until
/// `end`.
///
/// # Errors
/// That of the last one.
pub async fn open_first<F: Future<Output = io::Result<Transport>>>(
    addresses: &[SocketAddr],
    end: Instant,
    open: impl Fn(SocketAddr) -> F,
) -> io::Result<Transport> {
    let mut last = io::Error::new(io::ErrorKind::NotFound, "its name has no address");
    for (at, address) in addresses.iter().enumerate() {
        let parts = u32::try_from(addresses.len() - at).unwrap_or(u32::MAX);
        let part = end.saturating_duration_since(Instant::now()) / parts;
        match tokio::time::timeout(part, open(*address)).await {
            Ok(Ok(transport)) => return Ok(transport),
            Ok(Err(error)) => last = error,
            Err(_) => last = io::ErrorKind::TimedOut.into(),
        }
    }
    Err(last)
}

/// Opens what is below HTTP/2, which TLS offers alone.
///
/// # Errors
/// The system's or the handshake's; the peer chose something else.
pub async fn open_h2(endpoint: &Endpoint, clients: &TlsClients) -> io::Result<Transport> {
    let tls = endpoint.tls.as_ref().map(|(name, verify)| (&**name, *verify));
    let transport = open_with(endpoint.address, tls, &clients.h2).await?;
    if let Transport::Tls(tls) = &transport
        && tls.get_ref().1.alpn_protocol().is_some_and(|chosen| chosen != b"h2")
    {
        return Err(io::Error::other("the upstream does not speak HTTP/2"));
    }
    Ok(transport)
}

async fn open_with(
    address: SocketAddr,
    tls: Option<(&str, bool)>,
    connectors: &[TlsConnector; 2],
) -> io::Result<Transport> {
    let tcp = open_tcp(address).await?;
    match tls {
        None => Ok(Transport::Plain(tcp)),
        Some(tls) => with_tls(tcp, tls, connectors).await,
    }
}

async fn with_tls(
    tcp: TcpStream,
    (name, verify): (&str, bool),
    connectors: &[TlsConnector; 2],
) -> io::Result<Transport> {
    let name = ServerName::try_from(name.to_owned()).map_err(io::Error::other)?;
    Ok(Transport::Tls(Box::new(connectors[usize::from(verify)].connect(name, tcp).await?)))
}

/// Puts TLS on a plain connection; what has it stays as it is.
///
/// # Errors
/// The handshake's.
pub async fn secure(plain: Transport, tls: (&str, bool), clients: &TlsClients) -> io::Result<Transport> {
    match plain {
        Transport::Plain(tcp) => with_tls(tcp, tls, &clients.plain).await,
        tls @ Transport::Tls(_) => Ok(tls),
    }
}

/// Opens plain TCP.
///
/// # Errors
/// The system's.
pub async fn open_plain(address: SocketAddr) -> io::Result<Transport> {
    Ok(Transport::Plain(open_tcp(address).await?))
}

async fn open_tcp(address: SocketAddr) -> io::Result<TcpStream> {
    let tcp = TcpStream::connect(address).await?;
    tcp.set_nodelay(true)?;
    Ok(tcp)
}

mod unverified {
    //! Kong does not verify upstream certificates unless told to (`proxy_ssl_verify off`).

    use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
    use rustls::crypto::{WebPkiSupportedAlgorithms, aws_lc_rs, verify_tls12_signature, verify_tls13_signature};
    use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
    use rustls::{DigitallySignedStruct, Error, SignatureScheme};

    #[derive(Debug)]
    pub struct AnyCertificate(WebPkiSupportedAlgorithms);

    impl Default for AnyCertificate {
        fn default() -> Self {
            AnyCertificate(aws_lc_rs::default_provider().signature_verification_algorithms)
        }
    }

    impl ServerCertVerifier for AnyCertificate {
        fn verify_server_cert(
            &self,
            _: &CertificateDer<'_>,
            _: &[CertificateDer<'_>],
            _: &ServerName<'_>,
            _: &[u8],
            _: UnixTime,
        ) -> Result<ServerCertVerified, Error> {
            Ok(ServerCertVerified::assertion())
        }
        fn verify_tls12_signature(
            &self,
            message: &[u8],
            cert: &CertificateDer<'_>,
            dss: &DigitallySignedStruct,
        ) -> Result<HandshakeSignatureValid, Error> {
            verify_tls12_signature(message, cert, dss, &self.0)
        }
        fn verify_tls13_signature(
            &self,
            message: &[u8],
            cert: &CertificateDer<'_>,
            dss: &DigitallySignedStruct,
        ) -> Result<HandshakeSignatureValid, Error> {
            verify_tls13_signature(message, cert, dss, &self.0)
        }
        fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
            self.0.supported_schemes()
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[tokio::test]
    async fn every_address_has_its_part_of_the_time() {
        // One takes connections and says nothing, nobody is at the other.
        let silent = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("binds");
        let gone = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("binds");
        let addresses = [&silent, &gone].map(|listener| listener.local_addr().expect("an address"));
        drop(gone);
        let clients = TlsClients::new();
        let open = async |addresses: &[SocketAddr], tls| {
            let end = Instant::now() + Duration::from_millis(400);
            open_first(addresses, end, |address| open(address, tls, &clients))
                .await
                .map(drop)
                .map_err(|error| error.kind())
        };
        let tls = Some(("a.test", true));
        assert_eq!(open(&addresses, tls).await, Err(io::ErrorKind::ConnectionRefused), "the second is tried too");
        assert_eq!(open(&addresses[..1], tls).await, Err(io::ErrorKind::TimedOut));
        assert_eq!(open(&[addresses[1], addresses[0]], None).await, Ok(()));
        assert_eq!(open(&[], None).await, Err(io::ErrorKind::NotFound));
    }
}
