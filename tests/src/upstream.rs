//! An upstream server that answers as a test says and remembers every byte it was sent, with what a
//! strict reader of RFC 9112 would find wrong in it. It knows nothing of the gateway.

use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;

use rustls::ServerConfig;

use crate::echo;
use crate::strict::faults;
use crate::tls::{self, Pair};
use crate::wire::{Wire, head, values};

/// A request as the upstream saw it.
#[derive(Debug, Clone, Default)]
pub struct Seen {
    /// Which connection it came on, counted from 0.
    pub connection: usize,
    pub peer: Option<SocketAddr>,
    /// The head's bytes with the empty line.
    pub head: Vec<u8>,
    pub method: String,
    pub target: String,
    pub version: String,
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
    pub trailers: Vec<(String, String)>,
    /// The whole body came.
    pub complete: bool,
    /// What two servers could read differently.
    pub faults: Vec<String>,
}

impl Seen {
    pub fn header(&self, name: &str) -> Option<&str> {
        values(&self.headers, name).first().copied()
    }

    pub fn all(&self, name: &str) -> Vec<&str> {
        values(&self.headers, name)
    }
}

/// What the upstream does after a request.
pub enum Answer {
    /// These bytes; the connection stays.
    Bytes(Vec<u8>),
    /// These bytes, then the connection closes.
    Last(Vec<u8>),
    /// Nothing, until the other side gives up.
    Hang,
    /// These bytes, and then nothing.
    Stall(Vec<u8>),
    /// These bytes, then whatever comes is sent back.
    Tunnel(Vec<u8>),
}

impl Answer {
    /// A complete response with a `Content-Length`.
    pub fn reply(status: u16, headers: &[(&str, &str)], body: &[u8]) -> Self {
        Self::Bytes(response(status, headers, body))
    }
}

/// The bytes of a complete response with a `Content-Length`.
pub fn response(status: u16, headers: &[(&str, &str)], body: &[u8]) -> Vec<u8> {
    let mut out = format!("HTTP/1.1 {status} Answer\r\n");
    for (name, value) in headers {
        out.push_str(&format!("{name}: {value}\r\n"));
    }
    if !matches!(status, 204 | 304) {
        out.push_str(&format!("Content-Length: {}\r\n", body.len()));
    }
    out.push_str("\r\n");
    let mut out = out.into_bytes();
    out.extend_from_slice(body);
    out
}

type Behaviour = dyn Fn(&Seen) -> Answer + Send + Sync;

struct Shared {
    behaviour: Box<Behaviour>,
    seen: Mutex<Vec<Seen>>,
    sockets: Mutex<Vec<TcpStream>>,
    connections: AtomicUsize,
    stopped: AtomicBool,
    tls: Option<Arc<ServerConfig>>,
}

/// A running upstream; it ends when it is dropped.
pub struct Upstream {
    address: SocketAddr,
    shared: Arc<Shared>,
}

impl Upstream {
    /// Echoes requests as JSON (see [`echo`]).
    pub fn echo() -> Self {
        Self::new(echo::answer)
    }

    /// Echoes at an address of the caller's choice, for an upstream that goes and comes back.
    pub fn echo_at(address: SocketAddr) -> io::Result<Self> {
        Ok(Self::listen(TcpListener::bind(address)?, Box::new(echo::answer), None))
    }

    /// Answers every request with what `behaviour` says.
    pub fn new(behaviour: impl Fn(&Seen) -> Answer + Send + Sync + 'static) -> Self {
        Self::start(Box::new(behaviour), None)
    }

    /// Answers every request with the same bytes and closes.
    pub fn raw(bytes: &[u8]) -> Self {
        let bytes = bytes.to_vec();
        Self::new(move |_| Answer::Last(bytes.clone()))
    }

    /// Echoes by TLS.
    pub fn echo_tls(pair: &Pair) -> Self {
        Self::start(Box::new(echo::answer), Some(pair.server()))
    }

    /// As [`Upstream::new`], by TLS.
    pub fn new_tls(pair: &Pair, behaviour: impl Fn(&Seen) -> Answer + Send + Sync + 'static) -> Self {
        Self::start(Box::new(behaviour), Some(pair.server()))
    }

    fn start(behaviour: Box<Behaviour>, tls: Option<Arc<ServerConfig>>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("loopback has a free port");
        Self::listen(listener, behaviour, tls)
    }

    fn listen(listener: TcpListener, behaviour: Box<Behaviour>, tls: Option<Arc<ServerConfig>>) -> Self {
        let address = listener.local_addr().expect("the listener is bound");
        let shared = Arc::new(Shared {
            behaviour,
            seen: Mutex::default(),
            sockets: Mutex::default(),
            connections: AtomicUsize::new(0),
            stopped: AtomicBool::new(false),
            tls,
        });
        let accepting = Arc::clone(&shared);
        thread::spawn(move || accepting.accept(&listener));
        Self { address, shared }
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    pub fn port(&self) -> u16 {
        self.address.port()
    }

    /// `text` with `@UP@` replaced by this upstream's URL and `@PORT@` by its port.
    pub fn fill(&self, text: &str) -> String {
        let scheme = if self.shared.tls.is_some() { "https" } else { "http" };
        text.replace("@UP@", &format!("{scheme}://{}", self.address)).replace("@PORT@", &self.port().to_string())
    }

    /// Every request so far.
    pub fn seen(&self) -> Vec<Seen> {
        self.shared.seen().clone()
    }

    /// How many requests came so far.
    pub fn count(&self) -> usize {
        self.shared.seen().len()
    }

    /// The latest request.
    #[track_caller]
    pub fn last(&self) -> Seen {
        self.shared.seen().last().cloned().expect("the upstream was asked")
    }

    /// How many connections were accepted.
    pub fn connections(&self) -> usize {
        self.shared.connections.load(Ordering::SeqCst)
    }

    /// Closes every connection that is open now; new ones are accepted.
    pub fn cut_connections(&self) {
        for socket in self.shared.sockets().drain(..) {
            // Already closed is as good.
            let _ = socket.shutdown(Shutdown::Both);
        }
    }
}

impl Drop for Upstream {
    fn drop(&mut self) {
        self.shared.stopped.store(true, Ordering::SeqCst);
        // Wakes the accepting thread, which then sees the flag.
        let _ = TcpStream::connect(self.address);
        self.cut_connections();
    }
}

impl Shared {
    fn seen(&self) -> MutexGuard<'_, Vec<Seen>> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn sockets(&self) -> MutexGuard<'_, Vec<TcpStream>> {
        self.sockets.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn accept(self: Arc<Self>, listener: &TcpListener) {
        for socket in listener.incoming() {
            if self.stopped.load(Ordering::SeqCst) {
                return;
            }
            let Ok(socket) = socket else { continue };
            let Ok(kept) = socket.try_clone() else {
                continue;
            };
            self.sockets().push(kept);
            let number = self.connections.fetch_add(1, Ordering::SeqCst);
            let shared = Arc::clone(&self);
            thread::spawn(move || shared.connection(socket, number));
        }
    }

    fn connection(&self, socket: TcpStream, number: usize) {
        // Nagle's wait would show up as the gateway's latency.
        let _ = socket.set_nodelay(true);
        let peer = socket.peer_addr().ok();
        let ending = socket.try_clone();
        // An error ends this connection; what was seen before it is recorded.
        let _ = match &self.tls {
            None => self.serve(socket, number, peer),
            Some(config) => tls::server(socket, config).and_then(|stream| self.serve(stream, number, peer)),
        };
        if let Ok(socket) = ending {
            let _ = socket.shutdown(Shutdown::Both);
        }
    }

    fn serve<S>(&self, stream: S, connection: usize, peer: Option<SocketAddr>) -> io::Result<()>
    where
        S: Read + Write,
    {
        let mut wire = Wire::new(stream);
        while let Some(bytes) = wire.until(b"\r\n\r\n")? {
            let (start, headers) = head(&bytes);
            let mut words = start.splitn(3, ' ').map(str::to_owned);
            let mut seen = Seen {
                connection,
                peer,
                method: words.next().unwrap_or_default(),
                target: words.next().unwrap_or_default(),
                version: words.next().unwrap_or_default(),
                faults: faults(&bytes, &headers),
                head: bytes,
                headers,
                ..Seen::default()
            };
            let at = self.record(seen.clone());
            let read = read_body(&mut wire, &mut seen);
            seen.complete = read.is_ok();
            if let Err(error) = &read {
                seen.faults.push(format!("body: {error}"));
            }
            self.seen()[at] = seen.clone();
            read?;
            match (self.behaviour)(&seen) {
                Answer::Bytes(bytes) => write(&mut wire, &bytes)?,
                Answer::Last(bytes) => return write(&mut wire, &bytes),
                Answer::Hang => return wire.rest().map(drop),
                Answer::Stall(bytes) => {
                    write(&mut wire, &bytes)?;
                    return wire.rest().map(drop);
                }
                Answer::Tunnel(bytes) => {
                    write(&mut wire, &bytes)?;
                    return send_back(wire);
                }
            }
        }
        Ok(())
    }

    fn record(&self, seen: Seen) -> usize {
        let mut all = self.seen();
        all.push(seen);
        all.len() - 1
    }
}

fn write<S: Write>(wire: &mut Wire<S>, bytes: &[u8]) -> io::Result<()> {
    wire.stream.write_all(bytes)?;
    wire.stream.flush()
}

fn send_back<S: Read + Write>(wire: Wire<S>) -> io::Result<()> {
    let (mut stream, early) = wire.into_parts();
    stream.write_all(&early)?;
    let mut piece = [0u8; 4096];
    loop {
        stream.flush()?;
        let count = stream.read(&mut piece)?;
        if count == 0 {
            return Ok(());
        }
        stream.write_all(&piece[..count])?;
    }
}

fn read_body<S: Read + Write>(wire: &mut Wire<S>, seen: &mut Seen) -> io::Result<()> {
    let expects = seen.header("expect").is_some_and(|value| value.contains("100-continue"));
    if expects {
        write(wire, b"HTTP/1.1 100 Continue\r\n\r\n")?;
    }
    if seen.header("transfer-encoding").is_some() {
        let chunked = wire.chunked()?;
        seen.body = chunked.body;
        seen.trailers = chunked.trailers;
    } else if let Some(length) = seen.header("content-length") {
        let length = length.parse().map_err(io::Error::other)?;
        seen.body = wire.take(length)?;
    }
    Ok(())
}
