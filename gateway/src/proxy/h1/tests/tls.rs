//! Over TLS: writes are flushed, the connection serves again, and a cut stream is not a clean end.

use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderMap, Method};
use http_body_util::{BodyExt, Full};
use rustls::pki_types::{PrivateKeyDer, ServerName};
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};
use tokio_rustls::{TlsAcceptor, TlsConnector, client, server};

use super::super::{Connection, Limits, Reply};
use super::script::{Nest, head};

type Client = Box<client::TlsStream<DuplexStream>>;

async fn pair() -> (Connection<Client>, server::TlsStream<DuplexStream>) {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let made = rcgen::generate_simple_self_signed(vec!["up.test".to_owned()]).unwrap();
    let key = PrivateKeyDer::try_from(made.signing_key.serialize_der()).unwrap();
    let server = rustls::ServerConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![made.cert.der().clone()], key)
        .unwrap();
    let mut roots = rustls::RootCertStore::empty();
    roots.add(made.cert.der().clone()).unwrap();
    let client = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let (near, far) = tokio::io::duplex(1 << 14);
    let name = ServerName::try_from("up.test").unwrap();
    let (near, far) = tokio::join!(
        TlsConnector::from(Arc::new(client)).connect(name, near),
        TlsAcceptor::from(Arc::new(server)).accept(far),
    );
    (Connection::new(Box::new(near.unwrap()), Limits::default()), far.unwrap())
}

/// One exchange with a 100 kB body; the peer answers `response` when it has all of it.
async fn post(
    connection: Connection<Client>,
    peer: &mut server::TlsStream<DuplexStream>,
    response: &[u8],
) -> (Reply<Client, Full<Bytes>, Nest<Client>>, Nest<Client>) {
    let headers = HeaderMap::new();
    let nest = Nest::new();
    let body = Full::new(Bytes::from(vec![b'a'; 100_000]));
    let exchange = connection.exchange(&head(&Method::POST, &headers), body, nest.clone());
    let serve = async {
        let mut request = Vec::new();
        while !request.ends_with(b"\r\n\r\n") {
            request.push(peer.read_u8().await.unwrap());
        }
        let mut body = vec![0; 100_000];
        peer.read_exact(&mut body).await.unwrap();
        assert!(body.iter().all(|b| *b == b'a'));
        peer.write_all(response).await.unwrap();
        peer.flush().await.unwrap();
    };
    let (reply, ()) = tokio::join!(exchange, serve);
    (reply.unwrap(), nest)
}

#[tokio::test]
async fn a_tls_connection_serves_again_until_the_peer_says_goodbye() {
    let (mut connection, mut peer) = pair().await;
    for _ in 0..3 {
        assert!(!connection.is_stale(), "session tickets are not a response");
        let (reply, nest) = post(connection, &mut peer, b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi").await;
        let Reply::Response(_, body) = reply else { panic!("no response") };
        assert_eq!(body.collect().await.unwrap().to_bytes(), "hi");
        connection = nest.take().expect("reusable");
    }
    peer.shutdown().await.unwrap();
    assert!(connection.is_stale());
}

#[tokio::test]
async fn a_body_until_close_needs_the_goodbye() {
    for goodbye in [true, false] {
        let (connection, mut peer) = pair().await;
        let (reply, nest) = post(connection, &mut peer, b"HTTP/1.1 200 OK\r\n\r\nhi").await;
        if goodbye {
            peer.shutdown().await.unwrap();
        }
        drop(peer);
        let Reply::Response(_, body) = reply else { panic!("no response") };
        let result = body.collect().await.map(|whole| whole.to_bytes()).map_err(|failure| failure.reason.word());
        assert_eq!(result, if goodbye { Ok(Bytes::from_static(b"hi")) } else { Err("read") });
        assert!(nest.take().is_none());
    }
}
