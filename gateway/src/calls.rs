//! Requests of the gateway's own: for the keys of an issuer, for what a server says of a token. One request a connection,
//! bounded in time and bytes; no redirects are followed. Must not know what the answers mean.

use std::net::SocketAddr;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use bytes::Bytes;
use http::header::{CONNECTION, HOST, HeaderMap, HeaderValue, USER_AGENT};
use http::uri::Scheme;
use http::{Method, StatusCode, Uri};
use http_body_util::{BodyExt, Full, Limited};
use hyper_util::rt::TokioIo;
use tokio::time::Instant;

use crate::proxy::transport::{self, TlsClients, Transport};

/// What is asked.
#[derive(Clone, Debug)]
pub struct Question {
    /// Where: an address that `address` let through.
    pub to: Uri,
    /// The method.
    pub method: Method,
    /// Its own headers; `Host` and the framing are added.
    pub headers: HeaderMap,
    /// The body.
    pub body: Bytes,
    /// Whether the server's certificate is verified.
    pub verify: bool,
    /// For all of it, from the name's resolution to the last byte.
    pub timeout: Duration,
    /// The longest answer that is read, bytes.
    pub answer_bytes_max: usize,
}

/// What came back.
#[derive(Debug)]
pub struct Answer {
    /// The status.
    pub status: StatusCode,
    /// The whole body.
    pub body: Bytes,
}

/// Why nothing came of it.
pub type Error = Box<dyn std::error::Error + Send + Sync>;

/// Asks other servers. Nothing is asked before it is told whom to trust.
#[derive(Default)]
pub struct Calls(OnceLock<Arc<TlsClients>>);

/// Reads the address of a server: `http` or `https`, a host, no user.
///
/// # Errors
/// What is wrong with it.
pub fn address(text: &str) -> Result<Uri, &'static str> {
    let uri: Uri = text.parse().map_err(|_| "it is no URL")?;
    match uri.scheme_str() {
        Some("http" | "https") => {}
        _ => return Err("its scheme is neither http nor https"),
    }
    match uri.authority() {
        Some(authority) if !authority.as_str().contains('@') && !authority.host().is_empty() => Ok(uri),
        _ => Err("it has no host, or a user beside it"),
    }
}

/// An address without its query, which may hold a secret: for logs and names.
#[must_use]
pub fn shown(at: &Uri) -> String {
    let authority = at.authority().map_or("", |authority| authority.as_str());
    format!("{}://{authority}{}", at.scheme_str().unwrap_or_default(), at.path())
}

impl Calls {
    /// Says whom to trust; the first time counts.
    pub fn trust(&self, clients: Arc<TlsClients>) {
        // A second telling would be the same roots.
        let _ = self.0.set(clients);
    }

    /// Asks.
    ///
    /// # Errors
    /// Why there is no answer, in words that hold nothing of the question but the host.
    pub async fn ask(&self, question: &Question) -> Result<Answer, String> {
        let host = question.to.host().unwrap_or_default();
        let end = Instant::now() + question.timeout;
        let asked = async { self.exchange(question, &resolved(&question.to).await?, end).await };
        match tokio::time::timeout_at(end, asked).await {
            Ok(answer) => answer.map_err(|error| format!("{host}: {error}")),
            Err(_) => Err(format!("{host}: no answer in {:?}", question.timeout)),
        }
    }

    /// Opens a connection to a host, by TLS when `tls` says whether its certificate is verified.
    ///
    /// # Errors
    /// Why there is none.
    pub async fn open(&self, host: &str, port: u16, tls: Option<bool>, end: Instant) -> Result<Transport, Error> {
        let clients = self.0.get().ok_or("nothing is asked yet")?;
        let at: Vec<SocketAddr> = tokio::net::lookup_host((host, port)).await?.collect();
        let tls = tls.map(|verify| (host, verify));
        Ok(transport::open_first(&at, end, |address| transport::open(address, tls, clients)).await?)
    }

    /// Puts TLS on a plain connection to a host.
    ///
    /// # Errors
    /// Those of the handshake.
    pub async fn secure(&self, plain: Transport, host: &str, verify: bool) -> Result<Transport, Error> {
        let clients = self.0.get().ok_or("nothing is asked yet")?;
        Ok(transport::secure(plain, (host, verify), clients).await?)
    }

    async fn exchange(&self, question: &Question, at: &[SocketAddr], end: Instant) -> Result<Answer, Error> {
        let clients = self.0.get().ok_or("nothing is asked yet")?;
        let to = &question.to;
        let tls = is_tls(to).then_some((bare_host(to), question.verify));
        let stream = transport::open_first(at, end, |address| transport::open(address, tls, clients)).await?;
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
        let mut request = http::Request::new(Full::new(question.body.clone()));
        *request.method_mut() = question.method.clone();
        *request.uri_mut() = to.path_and_query().map_or("/", |path| path.as_str()).parse()?;
        *request.headers_mut() = question.headers.clone();
        let authority = to.authority().map_or("", |authority| authority.as_str());
        let own = [(HOST, authority), (USER_AGENT, "gateway"), (CONNECTION, "close")];
        for (name, value) in own {
            request.headers_mut().insert(name, HeaderValue::from_str(value)?);
        }
        let asked = async {
            let response = sender.send_request(request).await?;
            let status = response.status();
            let body = Limited::new(response.into_body(), question.answer_bytes_max).collect().await?;
            Ok(Answer { status, body: body.to_bytes() })
        };
        // The connection is driven from here, so that it ends with the question.
        let mut connection = std::pin::pin!(connection);
        let mut asked = std::pin::pin!(asked);
        tokio::select! {
            answer = &mut asked => answer,
            _ = &mut connection => asked.await,
        }
    }
}

fn is_tls(to: &Uri) -> bool {
    to.scheme() == Some(&Scheme::HTTPS)
}

/// The host without the brackets of an IPv6 address.
fn bare_host(to: &Uri) -> &str {
    to.host().unwrap_or_default().trim_start_matches('[').trim_end_matches(']')
}

async fn resolved(to: &Uri) -> Result<Vec<SocketAddr>, Error> {
    let port = to.port_u16().unwrap_or(if is_tls(to) { 443 } else { 80 });
    Ok(tokio::net::lookup_host((bare_host(to), port)).await?.collect())
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    use super::*;

    #[test]
    fn a_query_is_not_shown() {
        for (text, expected) in
            [("https://a.test:8443/x?client_secret=y", "https://a.test:8443/x"), ("http://[::1]?y", "http://[::1]/")]
        {
            assert_eq!(shown(&address(text).expect("an address")), expected);
        }
    }

    #[test]
    fn only_web_servers_are_asked() {
        for good in ["http://a", "https://a.test:8443/x?y=z", "https://[::1]/"] {
            assert!(address(good).is_ok(), "{good}");
        }
        for bad in ["", "a", "/x", "ftp://a", "file:///etc/passwd", "https://u:p@a/", "https://", "http//a"] {
            assert!(address(bad).is_err(), "{bad}");
        }
    }

    #[tokio::test]
    async fn every_address_of_a_name_is_tried() {
        let (live, gone) = (TcpListener::bind("127.0.0.1:0").await, TcpListener::bind("127.0.0.1:0").await);
        let (live, gone) = (live.expect("binds"), gone.expect("binds"));
        let at = [&gone, &live].map(|listener| listener.local_addr().expect("an address"));
        drop(gone);
        let calls = Calls::default();
        calls.trust(Arc::new(TlsClients::new()));
        let question = Question {
            to: address("http://a.test/").expect("an address"),
            method: Method::GET,
            headers: HeaderMap::new(),
            body: Bytes::new(),
            verify: true,
            timeout: Duration::from_secs(10),
            answer_bytes_max: 100,
        };
        let served = async {
            let (mut stream, _) = live.accept().await.expect("a client");
            let mut head = [0; 16];
            stream.read_exact(&mut head).await.expect("reads");
            stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi").await.expect("writes");
            stream
        };
        let asked = calls.exchange(&question, &at, Instant::now() + question.timeout);
        let (answer, _) = tokio::join!(asked, served);
        assert_eq!(answer.expect("answers").body, "hi");
    }
}
