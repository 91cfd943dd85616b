//! A client that comes again: it keeps its connection while it may and connects anew whenever it was closed, as browsers
//! and tools do. It judges no answer.

use std::io::ErrorKind;
use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use crate::client::{Client, Request};
use crate::message::Reply;

/// A SYN is answered by the other side's kernel, whatever its programs are busy with.
const CONNECTED_WITHIN: Duration = Duration::from_millis(500);

/// One client, at one address, with one request.
pub struct Visitor {
    to: SocketAddr,
    from: Ipv4Addr,
    request: Request,
    patience: Duration,
    connection: Option<Client>,
}

impl Visitor {
    pub fn new(to: SocketAddr, from: Ipv4Addr, request: Request) -> Self {
        Self { to, from, request, patience: Duration::from_secs(5), connection: None }
    }

    /// How long it waits for an answer over a connection that it has.
    pub fn patience(mut self, limit: Duration) -> Self {
        self.patience = limit;
        self
    }

    /// Connects, if it is not connected; false if nobody answers.
    pub fn connect(&mut self) -> bool {
        if self.connection.is_none() {
            self.connection = Client::try_connect_within(self.to, self.from, CONNECTED_WITHIN).ok();
            if let Some(client) = &mut self.connection {
                client.patience(self.patience);
            }
        }
        self.connection.is_some()
    }

    /// Leaves its connection.
    pub fn hang_up(&mut self) {
        self.connection = None;
    }

    /// One request; `None` if it was not answered. A connection that the other side closed meanwhile is not held
    /// against it: then it asks once more.
    pub fn ask(&mut self) -> Option<Reply> {
        let was_kept = self.connection.is_some();
        match self.try_ask() {
            Err(error) if was_kept && !matches!(error, ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                self.try_ask().ok()
            }
            result => result.ok(),
        }
    }

    fn try_ask(&mut self) -> Result<Reply, ErrorKind> {
        if !self.connect() {
            return Err(ErrorKind::NotConnected);
        }
        let client = self.connection.as_mut().expect("it has just connected");
        let reply = client.try_send(&self.request);
        if reply.as_ref().map_or(true, is_last) {
            self.hang_up();
        }
        reply.map_err(|error| error.kind())
    }
}

/// Whether the answer says that its connection closes.
pub fn is_last(reply: &Reply) -> bool {
    reply.header("connection").is_some_and(|value| value.eq_ignore_ascii_case("close"))
}
