//! An upstream for measurements: two fixed answers, nothing remembered, one thread for all connections. `…/large` is 8 MiB,
//! anything else two bytes.

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::rc::Rc;
use std::thread;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::upstream::response;
use crate::wire::{find, head, values};

const LARGE_BYTES: usize = 8 << 20;

/// A running upstream; it ends with the process.
pub struct Lean(SocketAddr);

struct Answers {
    small: Vec<u8>,
    large: Vec<u8>,
}

impl Lean {
    pub fn start() -> io::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let address = listener.local_addr()?;
        listener.set_nonblocking(true)?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        thread::spawn(move || tokio::task::LocalSet::new().block_on(&runtime, accept(listener)));
        Ok(Self(address))
    }

    pub fn url(&self) -> String {
        format!("http://{}", self.0)
    }
}

async fn accept(listener: TcpListener) -> io::Result<()> {
    let listener = tokio::net::TcpListener::from_std(listener)?;
    let answers =
        Rc::new(Answers { small: response(200, &[], b"ok"), large: response(200, &[], &vec![b'x'; LARGE_BYTES]) });
    loop {
        // Out of descriptors: some will be free.
        let Ok((socket, _)) = listener.accept().await else {
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
            continue;
        };
        let answers = Rc::clone(&answers);
        // A connection that breaks has done what it was to do.
        tokio::task::spawn_local(async move { drop(serve(socket, &answers).await) });
    }
}

async fn serve(mut socket: TcpStream, answers: &Answers) -> io::Result<()> {
    socket.set_nodelay(true)?;
    let mut read = Vec::new();
    loop {
        let end = until(&mut socket, &mut read, b"\r\n\r\n").await?;
        let (start, headers) = head(&read[..end]);
        read.drain(..end);
        if !values(&headers, "transfer-encoding").is_empty() {
            let end = until(&mut socket, &mut read, b"0\r\n\r\n").await?;
            read.drain(..end);
        } else if let Some(length) = values(&headers, "content-length").first() {
            let mut left: usize = length.parse().map_err(io::Error::other)?;
            while left > 0 {
                if read.is_empty() {
                    more(&mut socket, &mut read).await?;
                }
                let piece = left.min(read.len());
                read.drain(..piece);
                left -= piece;
            }
        }
        let is_large = start.split(' ').nth(1).is_some_and(|target| target.contains("/large"));
        socket.write_all(if is_large { &answers.large } else { &answers.small }).await?;
    }
}

/// Reads on until `mark` has come; where it ends.
async fn until(socket: &mut TcpStream, read: &mut Vec<u8>, mark: &[u8]) -> io::Result<usize> {
    loop {
        if let Some(at) = find(read, mark) {
            return Ok(at + mark.len());
        }
        more(socket, read).await?;
    }
}

async fn more(socket: &mut TcpStream, read: &mut Vec<u8>) -> io::Result<()> {
    match socket.read_buf(read).await? {
        0 => Err(io::ErrorKind::UnexpectedEof.into()),
        _ => Ok(()),
    }
}
