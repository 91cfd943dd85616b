//! A connection that a load balancer introduces by the PROXY protocol: whose it is, once the header is read, and whether he may
//! have it. On a listener with `proxy_protocol` every connection begins so, as with nginx; the word of a peer that is not in
//! `trusted_ips` is read and passed over.

use std::io;
use std::net::SocketAddr;
use std::rc::Rc;

use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;

use super::proxy_protocol::{HEADER_BYTES_MAX, Malformed, Step, Told, read};
use super::worker::{admit, patience};
use crate::config::settings::RealIp;
use crate::drain::Drained;
use crate::edge::Standings;
use crate::proxy::worker::{Seat, Worker};

/// Bytes that are looked at before they are taken.
const WINDOW_BYTES: usize = 512;

/// Why a connection has no header.
pub enum Fault {
    /// It ends, or is to end, before there is one.
    Gone,
    /// A reason for the metric.
    Refused(&'static str),
}

/// Whose connection it is.
pub struct Introduced {
    /// The client as far as it is told, or else the peer.
    pub source: SocketAddr,
    /// Whether that is another one than the peer.
    pub told: bool,
    /// The place that the connection has.
    pub seat: Seat,
}

/// Reads the header of a connection from `peer`, within the time for a request's head. `always` takes a trusted peer's word
/// whatever `real_ip_header` is: streams have no headers.
///
/// # Errors
/// Why it is not to be served.
pub async fn introduce(
    worker: &Rc<Worker>,
    tcp: &mut TcpStream,
    (peer, seat): (SocketAddr, Seat),
    always: bool,
    drained: &mut Drained,
) -> Result<Introduced, Fault> {
    let taken = tokio::select! {
        biased;
        () = drained.wait() => return Err(Fault::Gone),
        taken = tokio::time::timeout(patience(worker).header, take(tcp)) => taken,
    };
    let told = match taken {
        Ok(Ok(told)) => told?,
        Ok(Err(_)) => return Err(Fault::Gone),
        Err(_) => return Err(Fault::Refused("first_byte")),
    };
    let local = worker.local();
    let settings = &local.snapshot.settings;
    let counts = (always || settings.real_ip == RealIp::ProxyProtocol) && settings.is_trusted(peer.ip());
    let Told::Source(source) = told else { return Ok(Introduced { source: peer, told: false, seat }) };
    if !counts {
        return Ok(Introduced { source: peer, told: false, seat });
    }
    // The place of the load balancer becomes the client's.
    drop(seat);
    let source = SocketAddr::new(source.ip().to_canonical(), source.port());
    let seat = admit(worker, source.ip(), Standings::admit_named).map_err(Fault::Refused)?;
    Ok(Introduced { source, told: true, seat })
}

impl From<Malformed> for Fault {
    fn from(_: Malformed) -> Self {
        Fault::Refused("proxy_protocol")
    }
}

/// Takes the header's bytes and no other: what follows may be TLS's.
async fn take(tcp: &mut TcpStream) -> io::Result<Result<Told, Malformed>> {
    let mut taken = Vec::new();
    let mut window = [0; WINDOW_BYTES];
    loop {
        let seen = tcp.peek(&mut window).await?;
        if seen == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let before = taken.len();
        taken.extend_from_slice(&window[..seen]);
        let step = read(&taken);
        let own = match step {
            Ok(Step::More) => seen,
            Ok(Step::Done(_, length)) => length - before,
            Err(malformed) => return Ok(Err(malformed)),
        };
        tcp.read_exact(&mut window[..own]).await?;
        if let Ok(Step::Done(told, _)) = step {
            return Ok(Ok(told));
        }
        debug_assert!(taken.len() <= HEADER_BYTES_MAX, "the parser refuses what is longer");
    }
}
