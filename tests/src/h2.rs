//! HTTP/2 as real clients speak it, in the clear (prior knowledge) and by TLS with ALPN.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;

use crate::client::Request;
use crate::message::Reply;
use crate::tls;

const ANSWER_WITHIN: Duration = Duration::from_secs(20);

/// Sends all requests at once on one connection in the clear; the answers in the same order.
#[track_caller]
pub fn send_clear(to: SocketAddr, requests: &[Request]) -> Vec<Reply> {
    block_on(async {
        let stream = TcpStream::connect(to).await?;
        exchange(stream, "http", requests).await
    })
}

/// As [`send_clear`] by TLS with the server name `sni`; panics if ALPN does not choose `h2`.
#[track_caller]
pub fn send_tls(to: SocketAddr, sni: &str, requests: &[Request]) -> Vec<Reply> {
    send_tls_with(to, sni, tls::client_config(&[b"h2", b"http/1.1"]), requests)
}

/// The same with a configuration of one's own.
#[track_caller]
pub fn send_tls_with(to: SocketAddr, sni: &str, config: Arc<ClientConfig>, requests: &[Request]) -> Vec<Reply> {
    block_on(async {
        let stream = TcpStream::connect(to).await?;
        let name = ServerName::try_from(sni.to_owned())?;
        let stream = tokio_rustls::TlsConnector::from(config).connect(name, stream).await?;
        let chosen = stream.get_ref().1.alpn_protocol().map(<[u8]>::to_vec);
        anyhow::ensure!(chosen.as_deref() == Some(b"h2"), "ALPN chose {chosen:?}");
        exchange(stream, "https", requests).await
    })
}

#[track_caller]
fn block_on<T>(future: impl Future<Output = anyhow::Result<T>>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.expect("a runtime can be built");
    runtime
        .block_on(async { tokio::time::timeout(ANSWER_WITHIN, future).await })
        .expect("an answer in time")
        .unwrap_or_else(|error| panic!("HTTP/2: {error:#}"))
}

async fn exchange<S>(stream: S, scheme: &str, requests: &[Request]) -> anyhow::Result<Vec<Reply>>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (sender, connection) = http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await?;
    let driver = tokio::spawn(connection);
    let mut tasks = Vec::new();
    for request in requests {
        let mut sender: http2::SendRequest<Full<Bytes>> = sender.clone();
        let request = Arc::new(request.clone());
        let scheme = scheme.to_owned();
        tasks.push(tokio::spawn(async move {
            sender.ready().await?;
            let response = sender.send_request(translate(&request, &scheme)?).await?;
            read(response).await
        }));
    }
    drop(sender);
    let mut replies = Vec::new();
    for task in tasks {
        replies.push(task.await??);
    }
    driver.abort();
    Ok(replies)
}

fn translate(request: &Request, scheme: &str) -> anyhow::Result<http::Request<Full<Bytes>>> {
    let host = request.headers.iter().find(|(name, _)| name.eq_ignore_ascii_case("host"));
    let host = host.map_or("gateway.test", |(_, value)| value.as_str());
    let mut out =
        http::Request::builder().method(request.method.as_str()).uri(format!("{scheme}://{host}{}", request.target));
    for (name, value) in &request.headers {
        if !name.eq_ignore_ascii_case("host") {
            out = out.header(name, value);
        }
    }
    Ok(out.body(Full::new(Bytes::from(request.body.clone())))?)
}

async fn read(response: http::Response<hyper::body::Incoming>) -> anyhow::Result<Reply> {
    let (head, body) = response.into_parts();
    let text = |value: &http::HeaderValue| String::from_utf8_lossy(value.as_bytes()).into_owned();
    let headers = head.headers.iter().map(|(name, value)| (name.to_string(), text(value)));
    let headers = headers.collect();
    let body = body.collect().await?;
    let trailers =
        body.trailers().map(|trailers| trailers.iter().map(|(name, value)| (name.to_string(), text(value))).collect());
    Ok(Reply {
        status: head.status.as_u16(),
        start: format!("{:?}", head.version),
        headers,
        trailers: trailers.unwrap_or_default(),
        body: body.to_bytes().to_vec(),
        interim: Vec::new(),
    })
}
