//! The load on a server: which program makes it, and what came of it.

use std::net::SocketAddr;

use anyhow::Result;

mod h2load;
mod wrk;

/// One run of a load generator.
#[derive(Debug, PartialEq)]
pub struct Run {
    pub requests: u64,
    pub seconds: f64,
    pub per_second: f64,
    /// Not known for h2load before version 1.60.
    pub p50_ms: f64,
    pub p99_ms: f64,
    /// Answers other than 2xx and 3xx.
    pub refused: u64,
    /// Socket errors.
    pub errors: u64,
}

/// How the clients ask.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Clients {
    /// HTTP/1.1, connections kept.
    Kept,
    /// A new connection for each request.
    New,
    /// HTTP/2, 8 connections with 8 streams each.
    Http2,
}

/// What is asked of whom.
pub struct Load<'a> {
    pub clients: Clients,
    pub tls: bool,
    pub path: &'a str,
    /// One more header, `Name: value`.
    pub header: Option<&'a str>,
    /// The core that the load generator runs on.
    pub core: usize,
}

/// Connections of a load over HTTP/1.1.
pub const CONNECTIONS: u32 = 64;

impl Load<'_> {
    /// Loads `target` from one thread.
    ///
    /// # Errors
    /// The load generator failed, or printed something else.
    pub fn run(&self, target: SocketAddr, seconds: u64) -> Result<Run> {
        match self.clients {
            Clients::Http2 => h2load::run(self, target, seconds),
            Clients::Kept | Clients::New => wrk::run(self, target, seconds),
        }
    }

    fn url(&self, target: SocketAddr) -> String {
        format!("{}://{target}{}", if self.tls { "https" } else { "http" }, self.path)
    }

    fn headers(&self) -> Vec<String> {
        let close = (self.clients == Clients::New).then(|| "Connection: close".to_owned());
        close.into_iter().chain(self.header.map(str::to_owned)).collect()
    }
}

/// `1.23ms`, `456.00us`, `2.00s`, `1.50m`.
fn milliseconds(text: &str) -> Result<f64> {
    let units = [("us", 0.001), ("ms", 1.0), ("s", 1000.0), ("m", 60_000.0)];
    for (unit, factor) in units {
        if let Some(number) = text.strip_suffix(unit) {
            return Ok(number.parse::<f64>()? * factor);
        }
    }
    anyhow::bail!("`{text}` is no duration")
}
