//! An upstream for measurements: a few fixed answers, nothing remembered. `…/large` is 8 MiB, anything else two bytes.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::thread;

use crate::upstream::response;
use crate::wire::{Wire, head, values};

const LARGE_BYTES: usize = 8 << 20;

/// A running upstream; it ends with the process.
pub struct Lean(SocketAddr);

impl Lean {
    pub fn start() -> io::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let address = listener.local_addr()?;
        thread::spawn(move || {
            for socket in listener.incoming().flatten() {
                // A connection that breaks has done what it was to do.
                thread::spawn(move || drop(serve(socket)));
            }
        });
        Ok(Self(address))
    }

    /// `text` with `@UP@` replaced by this upstream's URL.
    pub fn fill(&self, text: &str) -> String {
        text.replace("@UP@", &format!("http://{}", self.0))
    }
}

fn serve(socket: TcpStream) -> io::Result<()> {
    socket.set_nodelay(true)?;
    let (small, large) = (response(200, &[], b"ok"), response(200, &[], &vec![b'x'; LARGE_BYTES]));
    let mut wire = Wire::new(socket);
    while let Some(bytes) = wire.until(b"\r\n\r\n")? {
        let (start, headers) = head(&bytes);
        if !values(&headers, "transfer-encoding").is_empty() {
            wire.chunked()?;
        } else if let Some(length) = values(&headers, "content-length").first() {
            skip(&mut wire, length.parse().map_err(io::Error::other)?)?;
        }
        let is_large = start.split(' ').nth(1).is_some_and(|target| target.contains("/large"));
        wire.stream.write_all(if is_large { &large } else { &small })?;
    }
    Ok(())
}

fn skip<S: Read>(wire: &mut Wire<S>, mut left: usize) -> io::Result<()> {
    while left > 0 {
        let piece = left.min(64 << 10);
        wire.take(piece)?;
        left -= piece;
    }
    Ok(())
}
