//! A connection that is not HTTP: finds its route, ends TLS if asked, and hands it over to be carried.

use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use rustls::server::Acceptor;
use tokio::net::TcpStream;
use tokio_rustls::TlsAcceptor;

use super::socket::Port;
use super::wire::Wire;
use crate::clock;
use crate::proxy::carry::{self, Carried};
use crate::proxy::presence::Presence;
use crate::proxy::registry::Order;
use crate::proxy::worker::Worker;
use crate::router::stream::{Carriage, StreamFacts};

/// Bytes of a ClientHello that are looked at.
const HELLO_BYTES_MAX: usize = 16 << 10;

/// What a connection begins with.
#[derive(Debug, PartialEq, Eq)]
enum Opening {
    /// A ClientHello, with the name that it asks for.
    Hello(Option<String>),
    /// Something else.
    Other,
}

/// Serves a connection between these addresses to its end.
pub async fn serve(worker: Rc<Worker>, tcp: TcpStream, (peer, destination): (SocketAddr, SocketAddr), port: Port) {
    let source = SocketAddr::new(peer.ip().to_canonical(), peer.port());
    let presence = Presence::new(clock::monotonic_ns());
    presence.carry();
    let registered = worker.registry.add(&presence, source, destination);
    let wire = Wire::new(tcp, &presence);
    registered.entry.until(Order::Cut, route(worker, wire, (source, destination), port)).await;
}

/// Finds the route and follows it.
async fn route(worker: Rc<Worker>, wire: Wire, (source, destination): (SocketAddr, SocketAddr), port: Port) {
    let local = worker.local();
    let router = &local.snapshot.stream;
    let limit = local.snapshot.settings.timeouts.header;
    let find = |carriage, sni: Option<&str>| router.find(&StreamFacts { carriage, source, destination, sni });
    // A protocol in which the server speaks first must not wait for the client's first byte.
    let plain = if port.tls { None } else { find(Carriage::Tcp, None) };
    if let Some(route) = plain {
        return carry::run(&worker, Carried { local: &local, route, source }, wire).await;
    }
    if !port.tls && !router.carries(Carriage::Passthrough) {
        return refuse(source, "no route");
    }
    let Ok(opening) = tokio::time::timeout(limit, opening(wire.tcp())).await else { return refuse(source, "silence") };
    let Opening::Hello(sni) = opening else { return refuse(source, "no TLS") };
    if let Some(route) = find(Carriage::Passthrough, sni.as_deref()) {
        return carry::run(&worker, Carried { local: &local, route, source }, wire).await;
    }
    let Some(route) = find(Carriage::Tls, sni.as_deref()).filter(|_| port.tls) else {
        return refuse(source, "no route");
    };
    let Some(config) = local.snapshot.stream_tls.clone() else { return refuse(source, "no certificate") };
    let handshake = Box::pin(TlsAcceptor::from(config).accept(wire));
    let Ok(Ok(stream)) = tokio::time::timeout(limit, handshake).await else { return refuse(source, "handshake") };
    carry::run(&worker, Carried { local: &local, route, source }, stream).await;
}

fn refuse(source: SocketAddr, why: &str) {
    tracing::debug!(%source, why, "stream connection refused");
}

/// Looks at the first bytes without taking them.
async fn opening(tcp: &TcpStream) -> Opening {
    let mut bytes = vec![0; HELLO_BYTES_MAX];
    let mut known = 0;
    loop {
        let Ok(()) = tcp.readable().await else { return Opening::Other };
        match tcp.peek(&mut bytes).await {
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
            Ok(0) | Err(_) => return Opening::Other,
            // The rest is under way; the caller's limit ends the wait.
            Ok(count) if count == known => tokio::time::sleep(Duration::from_millis(5)).await,
            Ok(count) => {
                known = count;
                if let Some(opening) = judge(&bytes[..count]) {
                    return opening;
                }
                if count == bytes.len() {
                    return Opening::Other;
                }
            }
        }
    }
}

/// What the bytes are, or nothing while they are too few.
fn judge(mut bytes: &[u8]) -> Option<Opening> {
    let mut acceptor = Acceptor::default();
    while !bytes.is_empty() {
        if acceptor.read_tls(&mut bytes).is_err() {
            return Some(Opening::Other);
        }
        match acceptor.accept() {
            Ok(None) => {}
            Ok(Some(accepted)) => {
                let name = accepted.client_hello().server_name().map(str::to_ascii_lowercase);
                return Some(Opening::Hello(name));
            }
            Err(_) => return Some(Opening::Other),
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hello(name: &'static str) -> Vec<u8> {
        crate::crypto::install();
        let roots = rustls::RootCertStore::empty();
        let config = rustls::ClientConfig::builder().with_root_certificates(roots).with_no_client_auth();
        let name = rustls::pki_types::ServerName::try_from(name).expect("name");
        let mut client = rustls::ClientConnection::new(std::sync::Arc::new(config), name).expect("client");
        let mut bytes = Vec::new();
        client.write_tls(&mut bytes).expect("bytes");
        bytes
    }

    #[test]
    fn the_name_is_read_however_the_bytes_come() {
        let bytes = hello("a.example.com");
        assert_eq!(judge(&bytes), Some(Opening::Hello(Some("a.example.com".into()))));
        assert!((1..bytes.len()).all(|end| judge(&bytes[..end]).is_none()));
        assert_eq!(judge(&hello("127.0.0.1")), Some(Opening::Hello(None)));
    }

    #[test]
    fn other_bytes_are_seen_at_once() {
        for text in ["GET / HTTP/1.1\r\n\r\n", "SSH-2.0-x\r\n"] {
            assert_eq!(judge(text.as_bytes()), Some(Opening::Other), "{text:?}");
        }
    }
}
