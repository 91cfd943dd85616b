//! Memory of connections that were served once and say nothing more.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use nix::sys::resource::{Resource, getrlimit, setrlimit};

use super::duty::Duty;
use super::peers::{Peer, Stage};

/// Connections that are opened: with those to the upstream within the descriptors that a root shell has.
pub const CONNECTIONS: u32 = 9_000;
/// Time for a server to let go of what an idle connection does not need.
const SETTLED_AFTER: Duration = Duration::from_secs(3);
/// Bar: KiB of a connection.
pub const KIB_MOST: f64 = 12.0;

pub struct Cost {
    pub peer: Peer,
    pub connections: u32,
    pub kib: f64,
}

/// Opens the connections to a new server, asks once over each, and says what the server grew by for each.
///
/// # Errors
/// The server did not start, or refused a connection.
pub fn run(stage: &Stage<'_>, peer: Peer) -> Result<Cost> {
    let (_, most) = getrlimit(Resource::RLIMIT_NOFILE)?;
    ensure!(most > u64::from(CONNECTIONS) + 500, "{most} descriptors are too few: ulimit -n");
    setrlimit(Resource::RLIMIT_NOFILE, most, most)?;
    let server = stage.start(peer, Duty::PLAIN)?;
    let ask = || -> Result<TcpStream> {
        let mut stream = TcpStream::connect(server.address)?;
        stream.set_read_timeout(Some(Duration::from_secs(5)))?;
        stream.write_all(b"GET /api/x HTTP/1.1\r\nHost: bench\r\n\r\n")?;
        let mut answer = [0; 1024];
        let length = stream.read(&mut answer)?;
        ensure!(answer[..length].starts_with(b"HTTP/1.1 200"), "an answer that is none");
        Ok(stream)
    };
    // What the first connections bring in is no cost of a connection.
    let _warm: Vec<TcpStream> = (0..100).map(|_| ask()).collect::<Result<_>>()?;
    let before = server.resident_kib();
    let open: Vec<TcpStream> =
        (0..CONNECTIONS).map(|_| ask()).collect::<Result<_>>().with_context(|| peer.name().to_owned())?;
    std::thread::sleep(SETTLED_AFTER);
    let grown = server.resident_kib().saturating_sub(before);
    drop(open);
    Ok(Cost { peer, connections: CONNECTIONS, kib: grown as f64 / f64::from(CONNECTIONS) })
}
