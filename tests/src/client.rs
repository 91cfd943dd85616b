//! A blocking HTTP/1.1 client over one connection: keep-alive when asked twice, raw bytes when told.
//! It adds nothing to a request but `Host` and the framing that the body needs.

use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpStream};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustls::ClientConfig;
use socket2::{Domain, Socket, Type};

use crate::message::Reply;
use crate::tls;
use crate::wire::{Wire, head, values};

/// No answer takes longer than this in a test that does not say so.
const ANSWER_WITHIN: Duration = Duration::from_secs(20);

/// A byte stream to the gateway.
pub trait Transport: Read + Write + Send {}
impl<T: Read + Write + Send> Transport for T {}

/// A request, to be written as it is.
#[derive(Debug, Clone, Default)]
pub struct Request {
    pub method: String,
    pub target: String,
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
    /// Send the body in chunks of this many bytes.
    pub chunks_of: Option<usize>,
}

impl Request {
    pub fn new(method: &str, target: &str) -> Self {
        Self { method: method.into(), target: target.into(), ..Self::default() }
    }

    pub fn get(target: &str) -> Self {
        Self::new("GET", target)
    }

    pub fn post(target: &str, body: impl Into<Vec<u8>>) -> Self {
        Self { body: body.into(), ..Self::new("POST", target) }
    }

    pub fn header(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.into(), value.into()));
        self
    }

    pub fn host(self, host: &str) -> Self {
        self.header("Host", host)
    }

    pub fn chunked(mut self, size: usize) -> Self {
        self.chunks_of = Some(size);
        self
    }

    fn has(&self, name: &str) -> bool {
        !values(&self.headers, name).is_empty()
    }

    /// The head as it goes over the wire.
    pub fn head_bytes(&self) -> Vec<u8> {
        let mut out = format!("{} {} HTTP/1.1\r\n", self.method, self.target);
        if !self.has("host") {
            out.push_str("Host: gateway.test\r\n");
        }
        for (name, value) in &self.headers {
            out.push_str(&format!("{name}: {value}\r\n"));
        }
        let bodied = !self.body.is_empty() || matches!(&*self.method, "POST" | "PUT" | "PATCH");
        if self.chunks_of.is_some() {
            out.push_str("Transfer-Encoding: chunked\r\n");
        } else if bodied && !self.has("content-length") {
            out.push_str(&format!("Content-Length: {}\r\n", self.body.len()));
        }
        out.push_str("\r\n");
        out.into_bytes()
    }

    /// The body as it goes over the wire.
    pub fn body_bytes(&self) -> Vec<u8> {
        let Some(size) = self.chunks_of else {
            return self.body.clone();
        };
        let mut out = Vec::new();
        for chunk in self.body.chunks(size.max(1)) {
            out.extend_from_slice(format!("{:x}\r\n", chunk.len()).as_bytes());
            out.extend_from_slice(chunk);
            out.extend_from_slice(b"\r\n");
        }
        out.extend_from_slice(b"0\r\n\r\n");
        out
    }
}

/// One connection.
pub struct Client {
    wire: Wire<Box<dyn Transport>>,
    socket: TcpStream,
    pub certificate: Option<Vec<u8>>,
}

impl Client {
    /// Connects in the clear.
    #[track_caller]
    pub fn connect(to: SocketAddr) -> Self {
        Self::connect_from(to, Ipv4Addr::LOCALHOST)
    }

    /// Connects in the clear from another address of the loopback network.
    #[track_caller]
    pub fn connect_from(to: SocketAddr, from: Ipv4Addr) -> Self {
        Self::try_connect_from(to, from).unwrap_or_else(|error| panic!("connect to {to}: {error}"))
    }

    /// As [`Client::connect_from`] where a refusal is an outcome.
    pub fn try_connect_from(to: SocketAddr, from: Ipv4Addr) -> io::Result<Self> {
        Self::try_connect_within(to, from, ANSWER_WITHIN)
    }

    /// As [`Client::try_connect_from`] where silence is an outcome.
    pub fn try_connect_within(to: SocketAddr, from: Ipv4Addr, limit: Duration) -> io::Result<Self> {
        let socket = if from == Ipv4Addr::LOCALHOST {
            TcpStream::connect_timeout(&to, limit)?
        } else {
            connect_bound(to, from, limit)?
        };
        socket.set_read_timeout(Some(ANSWER_WITHIN))?;
        socket.set_write_timeout(Some(ANSWER_WITHIN))?;
        socket.set_nodelay(true)?;
        let transport: Box<dyn Transport> = Box::new(socket.try_clone()?);
        Ok(Self { wire: Wire::new(transport), socket, certificate: None })
    }

    /// Connects by TLS with the server name `sni`, offering HTTP/1.1 only.
    #[track_caller]
    pub fn connect_tls(to: SocketAddr, sni: &str) -> Self {
        Self::try_connect_tls(to, sni, tls::client_config(&[b"http/1.1"]))
            .unwrap_or_else(|error| panic!("TLS to {to} as {sni}: {error}"))
    }

    /// As [`Client::connect_tls`] with a configuration of one's own, where a refusal is an outcome.
    #[track_caller]
    pub fn try_connect_tls(to: SocketAddr, sni: &str, config: Arc<ClientConfig>) -> io::Result<Self> {
        Self::over_tls(Self::connect(to), sni, config)
    }

    /// As [`Client::connect_tls`], with bytes in the clear before it.
    #[track_caller]
    pub fn connect_tls_behind(to: SocketAddr, sni: &str, first: &[u8]) -> Self {
        let mut plain = Self::connect(to);
        plain.write(first).expect("the connection is new");
        Self::over_tls(plain, sni, tls::client_config(&[b"http/1.1"]))
            .unwrap_or_else(|error| panic!("TLS to {to} as {sni}: {error}"))
    }

    fn over_tls(plain: Self, sni: &str, config: Arc<ClientConfig>) -> io::Result<Self> {
        let stream = tls::client_with(plain.wire.into_parts().0, sni, config)?;
        let certificate = tls::peer_certificate(&stream.conn);
        Ok(Self { wire: Wire::new(Box::new(stream)), socket: plain.socket, certificate })
    }

    /// Sends the request and reads its answer.
    #[track_caller]
    pub fn send(&mut self, request: &Request) -> Reply {
        self.try_send(request).unwrap_or_else(|error| panic!("{} {}: {error}", request.method, request.target))
    }

    #[track_caller]
    pub fn get(&mut self, target: &str) -> Reply {
        self.send(&Request::get(target))
    }

    /// As [`Client::send`] where a cut connection is an outcome.
    pub fn try_send(&mut self, request: &Request) -> io::Result<Reply> {
        let mut bytes = request.head_bytes();
        bytes.extend_from_slice(&request.body_bytes());
        self.write(&bytes)?;
        self.read_reply(&request.method)
    }

    pub fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.wire.stream.write_all(bytes)?;
        self.wire.stream.flush()
    }

    /// How long a read may take from now on.
    pub fn patience(&mut self, limit: Duration) {
        self.socket.set_read_timeout(Some(limit)).expect("the limit is not zero");
    }

    /// Reads one complete final response to a request with `method`.
    pub fn read_reply(&mut self, method: &str) -> io::Result<Reply> {
        let mut interim = Vec::new();
        loop {
            let mut reply = self.read_head()?;
            if reply.status == 101 || reply.status >= 200 {
                reply.interim = interim;
                self.read_body(&mut reply, method)?;
                return Ok(reply);
            }
            interim.push(reply.status);
        }
    }

    /// Reads one response head, interim ones too.
    pub fn read_head(&mut self) -> io::Result<Reply> {
        let bytes = self
            .wire
            .until(b"\r\n\r\n")?
            .ok_or_else(|| io::Error::new(io::ErrorKind::UnexpectedEof, "closed without an answer"))?;
        let (start, headers) = head(&bytes);
        let status = start.split(' ').nth(1).and_then(|text| text.parse().ok());
        let status = status.ok_or_else(|| io::Error::other(format!("status line {start:?}")))?;
        Ok(Reply { status, start, headers, ..Reply::default() })
    }

    /// Reads the body that `reply`'s head announces.
    pub fn read_body(&mut self, reply: &mut Reply, method: &str) -> io::Result<()> {
        if method == "HEAD" || matches!(reply.status, 101 | 204 | 304) {
            return Ok(());
        }
        if reply.header("transfer-encoding").is_some() {
            let chunked = self.wire.chunked()?;
            reply.body = chunked.body;
            reply.trailers = chunked.trailers;
        } else if let Some(length) = reply.header("content-length") {
            let length = length.parse().map_err(io::Error::other)?;
            reply.body = self.wire.take(length)?;
        } else {
            reply.body = self.wire.rest()?;
        }
        Ok(())
    }

    /// Exactly `count` bytes, as after an upgrade.
    pub fn read_exact(&mut self, count: usize) -> io::Result<Vec<u8>> {
        self.wire.take(count)
    }

    /// True if the other side ends the connection within `limit` and sends nothing more before.
    pub fn closes_within(&mut self, limit: Duration) -> bool {
        self.patience(limit);
        self.wire.buffered().is_empty()
            && match self.wire.fill() {
                Ok(count) => count == 0,
                Err(error) => !is_timeout(&error),
            }
    }

    /// True if the other side resets the connection within `limit`, whatever it sends before.
    pub fn is_reset_within(&mut self, limit: Duration) -> bool {
        self.patience(limit);
        loop {
            match self.wire.fill() {
                Ok(1..) => {}
                Ok(_) => return false,
                Err(error) => return error.kind() == io::ErrorKind::ConnectionReset,
            }
        }
    }

    /// Waits for a byte as long as [`Client::patience`] says; false if none came.
    pub fn await_byte(&mut self) -> bool {
        !self.wire.buffered().is_empty() || matches!(self.wire.fill(), Ok(1..))
    }

    /// Everything until the other side closes, or until nothing has come for `idle`; whether it closed.
    pub fn drain(&mut self, idle: Duration) -> (Vec<u8>, bool) {
        self.patience(idle);
        let end = Instant::now() + ANSWER_WITHIN;
        let closed = loop {
            match self.wire.fill() {
                Ok(0) => break true,
                Ok(_) if Instant::now() < end => {}
                Ok(_) => break false,
                Err(error) => break !is_timeout(&error),
            }
        };
        (self.wire.buffered().to_vec(), closed)
    }

    /// Ends the sending direction.
    pub fn finish(&self) {
        // Already closed by the other side is as good.
        let _ = self.socket.shutdown(Shutdown::Write);
    }

    /// The client's own address.
    pub fn local(&self) -> SocketAddr {
        self.socket.local_addr().expect("the socket is connected")
    }
}

/// Sends one request on a connection of its own.
#[track_caller]
pub fn send(to: SocketAddr, request: &Request) -> Reply {
    Client::connect(to).send(request)
}

fn is_timeout(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut)
}

/// std cannot bind before it connects.
pub(crate) fn connect_bound(to: SocketAddr, from: Ipv4Addr, limit: Duration) -> io::Result<TcpStream> {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
    socket.bind(&SocketAddr::from((from, 0)).into())?;
    socket.connect_timeout(&to.into(), limit)?;
    Ok(socket.into())
}
