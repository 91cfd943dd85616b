//! A server and a client that speak HTTP/2 the way gRPC does: bodies of messages in both directions, the outcome in
//! trailers. They know nothing of the gateway.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::thread;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Request, Response};
use http_body_util::BodyExt;
use hyper::body::{Body, Frame, Incoming};
use hyper::client::conn::http2 as client;
use hyper::server::conn::http2 as server;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;

use crate::tls::{self, Pair};

const WITHIN: Duration = Duration::from_secs(20);

/// A body whose frames are handed over one by one.
pub struct Frames(mpsc::UnboundedReceiver<Frame<Bytes>>);

/// The other end of [`Frames`]; the body ends when it is dropped.
pub type Sender = mpsc::UnboundedSender<Frame<Bytes>>;

pub fn frames() -> (Sender, Frames) {
    let (sender, receiver) = mpsc::unbounded_channel();
    (sender, Frames(receiver))
}

impl Body for Frames {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        self.0.poll_recv(cx).map(|frame| frame.map(Ok))
    }

    fn is_end_stream(&self) -> bool {
        self.0.is_closed() && self.0.is_empty()
    }
}

/// A call as the server saw it.
#[derive(Clone, Debug)]
pub struct Call {
    pub method: String,
    pub path: String,
    pub authority: String,
    pub headers: HeaderMap,
}

#[derive(Default)]
struct State {
    calls: Mutex<Vec<Call>>,
    connections: AtomicUsize,
    /// Calls that the other side gave up.
    cancelled: AtomicUsize,
    cut: Mutex<Vec<tokio::task::AbortHandle>>,
    stopped: AtomicBool,
}

/// A running server; its methods are the paths' last segments:
/// `Unary` gives the message back, `Stream` sends each `;`-separated part of it as a message of its own, `Chat` gives each
/// frame back as it comes, `Fails` has its outcome in the head, `Hang` never answers, `Breaks` resets after one message,
/// `Large` sends 4 MiB.
pub struct GrpcServer {
    address: SocketAddr,
    state: Arc<State>,
    stop: Option<tokio::sync::oneshot::Sender<()>>,
}

impl GrpcServer {
    /// In the clear, with prior knowledge.
    pub fn start() -> Self {
        Self::with(None, None)
    }

    /// By TLS with ALPN.
    pub fn secure(pair: &Pair) -> Self {
        let mut config = rustls::ServerConfig::clone(&pair.server());
        config.alpn_protocols = vec![b"h2".to_vec()];
        Self::with(Some(Arc::new(config)), None)
    }

    /// Allows so many calls at once on a connection.
    pub fn narrow(streams_max: u32) -> Self {
        Self::with(None, Some(streams_max))
    }

    fn with(tls: Option<Arc<rustls::ServerConfig>>, streams_max: Option<u32>) -> Self {
        let state = Arc::new(State::default());
        let (stop, stopped) = tokio::sync::oneshot::channel();
        let (tell, told) = std::sync::mpsc::channel();
        let kept = Arc::clone(&state);
        thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            runtime.expect("a runtime can be built").block_on(async {
                let listener = TcpListener::bind("127.0.0.1:0").await.expect("loopback has a free port");
                tell.send(listener.local_addr().expect("the listener is bound")).expect("somebody waits");
                tokio::select! {
                    () = accept(listener, kept, tls, streams_max) => {}
                    _ = stopped => {}
                }
            });
        });
        Self { address: told.recv().expect("the server starts"), state, stop: Some(stop) }
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    pub fn connections(&self) -> usize {
        self.state.connections.load(Ordering::SeqCst)
    }

    pub fn cancelled(&self) -> usize {
        self.state.cancelled.load(Ordering::SeqCst)
    }

    /// The latest call.
    #[track_caller]
    pub fn last(&self) -> Call {
        let calls = self.state.calls.lock().unwrap_or_else(PoisonError::into_inner);
        calls.last().cloned().expect("the server was called")
    }

    pub fn count(&self) -> usize {
        self.state.calls.lock().unwrap_or_else(PoisonError::into_inner).len()
    }

    /// Closes every connection that is open now.
    pub fn cut_connections(&self) {
        for task in self.state.cut.lock().unwrap_or_else(PoisonError::into_inner).drain(..) {
            task.abort();
        }
    }
}

impl Drop for GrpcServer {
    fn drop(&mut self) {
        self.state.stopped.store(true, Ordering::SeqCst);
        // Whoever is not there any more needs no word.
        let _ = self.stop.take().map(|stop| stop.send(()));
    }
}

async fn accept(
    listener: TcpListener,
    state: Arc<State>,
    tls: Option<Arc<rustls::ServerConfig>>,
    streams_max: Option<u32>,
) {
    loop {
        let Ok((stream, _)) = listener.accept().await else { continue };
        state.connections.fetch_add(1, Ordering::SeqCst);
        // Nagle's wait would show up as the gateway's latency.
        let _ = stream.set_nodelay(true);
        let (kept, tls) = (Arc::clone(&state), tls.clone());
        let task = tokio::spawn(async move {
            match tls {
                None => connection(stream, kept, streams_max).await,
                Some(config) => {
                    if let Ok(stream) = tokio_rustls::TlsAcceptor::from(config).accept(stream).await {
                        connection(stream, kept, streams_max).await;
                    }
                }
            }
        });
        state.cut.lock().unwrap_or_else(PoisonError::into_inner).push(task.abort_handle());
    }
}

async fn connection<S>(stream: S, state: Arc<State>, streams_max: Option<u32>)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let service = service_fn(move |request| answer(request, Arc::clone(&state)));
    let mut builder = server::Builder::new(TokioExecutor::new());
    if let Some(max) = streams_max {
        builder.max_concurrent_streams(max);
    }
    // How a connection ends is the other side's business.
    let _ = builder.serve_connection(TokioIo::new(stream), service).await;
}

/// Counts a call that is dropped before its end.
struct Watch(Arc<State>, bool);

impl Drop for Watch {
    fn drop(&mut self) {
        if !self.1 {
            self.0.cancelled.fetch_add(1, Ordering::SeqCst);
        }
    }
}

async fn answer(request: Request<Incoming>, state: Arc<State>) -> Result<Response<Frames>, Infallible> {
    let (head, mut body) = request.into_parts();
    state.calls.lock().unwrap_or_else(PoisonError::into_inner).push(Call {
        method: head.method.to_string(),
        path: head.uri.path_and_query().map(ToString::to_string).unwrap_or_default(),
        authority: head.uri.authority().map(ToString::to_string).unwrap_or_default(),
        headers: head.headers.clone(),
    });
    let mut watch = Watch(state, false);
    let (sender, frames) = frames();
    let mut response = Response::new(frames);
    response.headers_mut().insert("content-type", HeaderValue::from_static("application/grpc"));
    match head.uri.path().rsplit('/').next().unwrap_or_default() {
        "Fails" => {
            watch.1 = true;
            response.headers_mut().insert("grpc-status", HeaderValue::from_static("5"));
            response.headers_mut().insert("grpc-message", HeaderValue::from_static("no such thing"));
        }
        "Hang" => {
            // Reads until the other side gives up.
            while let Some(Ok(_)) = body.frame().await {}
            std::future::pending::<()>().await;
        }
        method => {
            let method = method.to_owned();
            tokio::spawn(async move { serve(&method, body, sender, watch).await });
        }
    }
    Ok(response)
}

async fn serve(method: &str, mut body: Incoming, sender: Sender, mut watch: Watch) {
    // A receiver that is gone has given up.
    let send = |bytes: Bytes| sender.send(Frame::data(bytes)).is_ok();
    let mut whole = Vec::new();
    while let Some(frame) = body.frame().await {
        let Ok(frame) = frame else { return };
        let Ok(data) = frame.into_data() else { continue };
        if method == "Chat" {
            if !send(data) {
                return;
            }
        } else {
            whole.extend_from_slice(&data);
        }
    }
    let sent = match method {
        "Stream" => whole.split(|byte| *byte == b';').all(|part| send(Bytes::copy_from_slice(part))),
        "Large" => (0..64).all(|_| send(Bytes::from(vec![b'x'; 64 * 1024]))),
        "Chat" => true,
        _ => send(whole.into()),
    };
    if !sent {
        return;
    }
    let mut trailers = HeaderMap::new();
    trailers.insert("grpc-status", HeaderValue::from_static("0"));
    trailers.insert("x-outcome", HeaderValue::from_static("done"));
    watch.1 = sender.send(Frame::trailers(trailers)).is_ok();
}

/// A client's connection with a runtime of its own.
pub struct GrpcClient {
    runtime: tokio::runtime::Handle,
    sender: client::SendRequest<Frames>,
    scheme: &'static str,
    authority: String,
    /// Ends the thread that drives the connection.
    _stop: tokio::sync::oneshot::Sender<()>,
}

/// What a call gave.
#[derive(Debug, Default)]
pub struct Outcome {
    pub status: u16,
    pub headers: HeaderMap,
    pub messages: Vec<Bytes>,
    pub trailers: HeaderMap,
    /// The answer broke off.
    pub broken: bool,
}

impl Outcome {
    /// `grpc-status`, wherever it stands.
    pub fn code(&self) -> Option<&str> {
        let found = self.trailers.get("grpc-status").or_else(|| self.headers.get("grpc-status"));
        found.and_then(|value| value.to_str().ok())
    }

    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.messages.concat()).into_owned()
    }
}

impl GrpcClient {
    /// In the clear, with prior knowledge.
    #[track_caller]
    pub fn connect(to: SocketAddr) -> Self {
        Self::with(to, None)
    }

    /// By TLS with the server name `sni`.
    #[track_caller]
    pub fn connect_tls(to: SocketAddr, sni: &str) -> Self {
        Self::with(to, Some(sni.to_owned()))
    }

    #[track_caller]
    fn with(to: SocketAddr, sni: Option<String>) -> Self {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let owner = runtime.expect("a runtime can be built");
        let runtime = owner.handle().clone();
        let (stop, stopped) = tokio::sync::oneshot::channel();
        thread::spawn(move || owner.block_on(stopped));
        let scheme = if sni.is_some() { "https" } else { "http" };
        let sender = runtime.block_on(async {
            let stream = TcpStream::connect(to).await.expect("the gateway accepts");
            match sni {
                None => handshake(stream).await,
                Some(sni) => {
                    let name = ServerName::try_from(sni).expect("a host name");
                    let connector = tokio_rustls::TlsConnector::from(tls::client_config(&[b"h2"]));
                    handshake(connector.connect(name, stream).await.expect("a handshake")).await
                }
            }
        });
        Self { runtime, sender, scheme, authority: "grpc.test".to_owned(), _stop: stop }
    }

    /// Calls under another name from here on.
    pub fn authority(mut self, authority: &str) -> Self {
        self.authority = authority.to_owned();
        self
    }

    fn request(&self, path: &str, headers: &[(&str, &str)], body: Frames) -> Request<Frames> {
        let mut request = Request::post(format!("{}://{}{path}", self.scheme, self.authority))
            .header("content-type", "application/grpc")
            .header("te", "trailers");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        request.body(body).expect("the parts are sound")
    }

    /// Calls `path` with one message and waits for the end.
    #[track_caller]
    pub fn call(&self, path: &str, message: &str) -> Outcome {
        self.call_with(path, &[], message)
    }

    #[track_caller]
    pub fn call_with(&self, path: &str, headers: &[(&str, &str)], message: &str) -> Outcome {
        let mut all = self.calls(path, headers, &[message]);
        all.pop().expect("one outcome")
    }

    /// Calls `path` once with each of the messages, all at the same time.
    #[track_caller]
    pub fn calls(&self, path: &str, headers: &[(&str, &str)], messages: &[&str]) -> Vec<Outcome> {
        let tasks: Vec<_> = messages
            .iter()
            .map(|message| {
                let (sender, body) = frames();
                sender.send(Frame::data(Bytes::from(message.to_string()))).expect("the body is there");
                let request = self.request(path, headers, body);
                let mut client = self.sender.clone();
                self.runtime.spawn(async move { finish(client.send_request(request).await).await })
            })
            .collect();
        let all = async {
            let mut outcomes = Vec::new();
            for task in tasks {
                outcomes.push(task.await.expect("no panic"));
            }
            outcomes
        };
        self.runtime.block_on(async { tokio::time::timeout(WITHIN, all).await }).expect("answers in time")
    }

    /// Begins a call whose messages go both ways.
    #[track_caller]
    pub fn open(&self, path: &str) -> Talk<'_> {
        let (sender, body) = frames();
        let request = self.request(path, &[], body);
        let mut client = self.sender.clone();
        let response = self.runtime.spawn(async move { client.send_request(request).await });
        Talk { client: self, sender: Some(sender), response: Some(response), body: None, head: None }
    }
}

/// A call in both directions; dropping it gives it up.
pub struct Talk<'a> {
    client: &'a GrpcClient,
    sender: Option<Sender>,
    response: Option<tokio::task::JoinHandle<hyper::Result<Response<Incoming>>>>,
    body: Option<Incoming>,
    head: Option<http::response::Parts>,
}

impl Drop for Talk<'_> {
    fn drop(&mut self) {
        // Its body would have a good end, which is not how a call is given up.
        std::mem::forget(self.sender.take());
    }
}

impl Talk<'_> {
    #[track_caller]
    pub fn say(&self, message: &str) {
        let sender = self.sender.as_ref().expect("not ended");
        sender.send(Frame::data(Bytes::from(message.to_owned()))).expect("the call is open");
    }

    /// Waits for the next message; nothing when the answer has ended or broken off.
    #[track_caller]
    pub fn hear(&mut self) -> Option<String> {
        self.wait();
        let body = self.body.as_mut()?;
        let frame = async { tokio::time::timeout(WITHIN, body.frame()).await };
        let frame = self.client.runtime.block_on(frame).expect("a message in time")?;
        let data = frame.ok()?.into_data().ok()?;
        Some(String::from_utf8_lossy(&data).into_owned())
    }

    /// Says that no more comes, and waits for the end.
    #[track_caller]
    pub fn end(mut self) -> Outcome {
        self.sender = None;
        self.wait();
        let response = self.head.take().zip(self.body.take()).map(|(head, body)| Response::from_parts(head, body));
        let Some(response) = response else { return Outcome { broken: true, ..Outcome::default() } };
        self.client
            .runtime
            .block_on(async { tokio::time::timeout(WITHIN, finish(Ok(response))).await })
            .expect("an end in time")
    }

    fn wait(&mut self) {
        let Some(response) = self.response.take() else { return };
        let response = async { tokio::time::timeout(WITHIN, response).await };
        let response = self.client.runtime.block_on(response).expect("a head in time").expect("no panic");
        if let Ok(response) = response {
            let (head, body) = response.into_parts();
            (self.head, self.body) = (Some(head), Some(body));
        }
    }
}

async fn handshake<S>(stream: S) -> client::SendRequest<Frames>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (sender, connection) =
        client::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.expect("a handshake of HTTP/2");
    tokio::spawn(connection);
    sender
}

async fn finish(response: hyper::Result<Response<Incoming>>) -> Outcome {
    let Ok(response) = response else { return Outcome { broken: true, ..Outcome::default() } };
    let (head, mut body) = response.into_parts();
    let mut outcome = Outcome { status: head.status.as_u16(), headers: head.headers, ..Outcome::default() };
    while let Some(frame) = body.frame().await {
        match frame.map(Frame::into_data) {
            Ok(Ok(data)) => outcome.messages.push(data),
            Ok(Err(frame)) => outcome.trailers.extend(frame.into_trailers().unwrap_or_default()),
            Err(_) => {
                outcome.broken = true;
                break;
            }
        }
    }
    outcome
}
