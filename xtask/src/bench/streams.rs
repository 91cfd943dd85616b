//! Streams that are held open through a measurement, a WebSocket and one of HTTP/2, and the upstream that they talk to.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

/// Something comes at least so often.
const DRIP: Duration = Duration::from_millis(200);

/// An upstream: a WebSocket echoes bytes, any other request gets an answer that never ends. A thread a connection.
///
/// # Errors
/// No port is free.
pub fn talker() -> Result<SocketAddr> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let address = listener.local_addr()?;
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            // The gateway closes it when the measurement is over.
            std::thread::spawn(move || drop(talk(stream)));
        }
    });
    Ok(address)
}

fn talk(mut stream: TcpStream) -> io::Result<()> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        stream.read_exact(&mut byte)?;
        head.push(byte[0]);
    }
    if String::from_utf8_lossy(&head).to_ascii_lowercase().contains("upgrade: websocket") {
        stream.write_all(b"HTTP/1.1 101 Switching\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n")?;
        let mut piece = [0; 256];
        loop {
            let count = stream.read(&mut piece)?;
            if count == 0 {
                return Ok(());
            }
            stream.write_all(&piece[..count])?;
        }
    }
    stream.write_all(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")?;
    loop {
        stream.write_all(b"5\r\ndrip\n\r\n")?;
        std::thread::sleep(DRIP);
    }
}

/// An open stream; a thread of its own sees to it that bytes come.
pub struct Held {
    count: Arc<AtomicU64>,
}

impl Held {
    /// A WebSocket on which bytes go back and forth.
    ///
    /// # Errors
    /// It is not opened.
    pub fn websocket(to: SocketAddr, path: &str) -> Result<Self> {
        let mut stream = connect(to)?;
        let head = format!(
            "GET {path} HTTP/1.1\r\nHost: bench.test\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
             Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
        );
        stream.write_all(head.as_bytes())?;
        let mut answer = [0; 2048];
        let count = stream.read(&mut answer)?;
        if !answer[..count].starts_with(b"HTTP/1.1 101") {
            bail!("no WebSocket: {}", String::from_utf8_lossy(&answer[..count]));
        }
        Ok(Self::keep(move || {
            // A frame of text, masked with zeroes.
            stream.write_all(&[0x81, 0x84, 0, 0, 0, 0, b'p', b'i', b'n', b'g'])?;
            std::thread::sleep(DRIP);
            stream.read_exact(&mut [0; 10])
        }))
    }

    /// A stream of HTTP/2, in the clear with prior knowledge, whose answer never ends.
    ///
    /// # Errors
    /// It is not opened.
    pub fn h2(to: SocketAddr, path: &str) -> Result<Self> {
        let mut stream = connect(to)?;
        stream.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")?;
        stream.write_all(&frame(4, 0, 0, &[]))?;
        // :method GET and :scheme http by index; :path and :authority as literals (RFC 7541 §6.2.2).
        let mut block = vec![0x82, 0x86];
        for (name, value) in [(4, path), (1, "bench.test")] {
            block.extend([name, u8::try_from(value.len()).context("a short value")?]);
            block.extend(value.as_bytes());
        }
        stream.write_all(&frame(1, 0x05, 1, &block))?;
        Ok(Self::keep(move || {
            loop {
                let (kind, flags, payload) = read_frame(&mut stream)?;
                match kind {
                    0 if flags & 1 == 0 => {
                        let grow = u32::try_from(payload.len()).unwrap_or(0).to_be_bytes();
                        if !payload.is_empty() {
                            stream.write_all(&[frame(8, 0, 0, &grow), frame(8, 0, 1, &grow)].concat())?;
                        }
                        return Ok(());
                    }
                    4 if flags & 1 == 0 => stream.write_all(&frame(4, 1, 0, &[]))?,
                    // The end of the stream, its reset, or the connection's farewell.
                    0 | 3 | 7 => return Err(io::ErrorKind::ConnectionAborted.into()),
                    _ => {}
                }
            }
        }))
    }

    fn keep(mut step: impl FnMut() -> io::Result<()> + Send + 'static) -> Self {
        let count = Arc::new(AtomicU64::new(0));
        let counted = Arc::clone(&count);
        std::thread::spawn(move || {
            while step().is_ok() {
                counted.fetch_add(1, Ordering::Relaxed);
            }
        });
        Held { count }
    }

    /// Whether bytes still come.
    #[must_use]
    pub fn is_open(&self) -> bool {
        let before = self.count.load(Ordering::Relaxed);
        let deadline = Instant::now() + Duration::from_secs(5);
        while Instant::now() < deadline {
            if before > 0 && self.count.load(Ordering::Relaxed) > before {
                return true;
            }
            std::thread::sleep(DRIP);
        }
        false
    }
}

fn connect(to: SocketAddr) -> Result<TcpStream> {
    let stream = TcpStream::connect(to)?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(Duration::from_secs(10)))?;
    Ok(stream)
}

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap_or(0).to_be_bytes();
    let mut bytes = vec![length[1], length[2], length[3], kind, flags];
    bytes.extend(stream.to_be_bytes());
    bytes.extend(payload);
    bytes
}

fn read_frame(stream: &mut TcpStream) -> io::Result<(u8, u8, Vec<u8>)> {
    let mut head = [0; 9];
    stream.read_exact(&mut head)?;
    let length = usize::from(head[0]) << 16 | usize::from(head[1]) << 8 | usize::from(head[2]);
    let mut payload = vec![0; length];
    stream.read_exact(&mut payload)?;
    Ok((head[3], head[4], payload))
}
