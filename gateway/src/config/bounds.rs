//! `gateway.timeouts` and `gateway.limits`: how long and how much a client may ask of the gateway. Every default is safe on
//! an open network; docs/limits.md is the table of all of them.

use std::time::Duration;

use crate::document::Fields;
use crate::limits::pressure::Gauge;

/// Time limits of the client side.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timeouts {
    /// For the head of a request, the first byte and a TLS handshake included.
    pub header: Duration,
    /// For the next request on an idle connection.
    pub idle: Duration,
    /// For the next bytes of a request's body.
    pub body: Duration,
    /// For a whole request, its body included.
    pub request: Duration,
    /// For a client that takes nothing of an answer.
    pub write: Duration,
    /// For requests in flight when the gateway is told to stop.
    pub drain: Duration,
}

impl Default for Timeouts {
    fn default() -> Self {
        Timeouts {
            header: Duration::from_secs(10),
            idle: Duration::from_secs(60),
            body: Duration::from_secs(30),
            request: Duration::from_secs(300),
            write: Duration::from_secs(60),
            drain: Duration::from_secs(30),
        }
    }
}

impl Timeouts {
    /// Reads the block. `body` and `write` are never longer than `idle` unless they are given: who shortens the patience
    /// with idle clients does not mean the slow ones to keep theirs.
    pub fn read(fields: Option<&Fields<'_>>) -> Self {
        let defaults = Timeouts::default();
        let Some(given) = fields else { return defaults };
        let read = |name, default| match given.duration(name) {
            Some(d) if d.is_zero() => {
                given.report.mismatch(given.place_of(name), format!("`{name}` is zero"), "a time limit");
                default
            }
            Some(d) => d,
            None => default,
        };
        let idle = read("idle", defaults.idle);
        Timeouts {
            header: read("header", defaults.header),
            idle,
            body: read("body", defaults.body.min(idle)),
            request: read("request", defaults.request),
            write: read("write", defaults.write.min(idle)),
            drain: read("drain", defaults.drain),
        }
    }

    /// A tenth of the patience with clients, for when memory runs out.
    #[must_use]
    pub fn hurried(self) -> Self {
        Timeouts {
            header: self.header / 10,
            idle: self.idle / 10,
            body: self.body / 10,
            write: self.write / 10,
            ..self
        }
    }
}

/// Sizes and numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Client connections at most, over all workers.
    pub connections: u64,
    /// Client connections of one address at most, over all workers; 0 is no limit. Trusted peers have none.
    pub connections_per_source: u64,
    /// Bytes of a request's body at most; 0 is no limit.
    pub body_bytes: u64,
    /// Bytes of memory that the process may use; 0 is the control group's limit, if it has one.
    pub memory_bytes: u64,
}

impl Limits {
    /// Reads the block.
    pub fn read(fields: Option<&Fields<'_>>) -> Self {
        let number = |name, default| match fields.and_then(|f| f.integer(name, 0..=i64::MAX)) {
            Some(n) => n.unsigned_abs(),
            None => default,
        };
        let memory_bytes = number("memory_bytes", 0);
        Limits {
            connections: match number("connections", 0) {
                0 => connections_by_descriptors().min(connections_by_memory(memory_bytes)),
                n => n,
            },
            connections_per_source: number("connections_per_source", 0),
            body_bytes: number("body_bytes", 0),
            memory_bytes,
        }
    }
}

/// As many as the memory limit has room for when each is as busy as its buffers allow: looking at the memory that is used
/// comes too late when hundreds of them begin at once.
fn connections_by_memory(own_limit: u64) -> u64 {
    /// Both directions' buffers of a connection and of its upstream's.
    const CONNECTION_BYTES: u64 = 256 * 1024;
    match Gauge::find(own_limit).limit() {
        0 => u64::MAX,
        limit => (limit / CONNECTION_BYTES).max(16),
    }
}

/// Half of the descriptors, since a client's connection may need one to an upstream; 50 000 at most.
fn connections_by_descriptors() -> u64 {
    /// Kept for listeners, logs, the admin API and the edge.
    const RESERVE: u64 = 64;
    let limit = nix::sys::resource::getrlimit(nix::sys::resource::Resource::RLIMIT_NOFILE);
    let descriptors = limit.map_or(1024, |(soft, _)| soft);
    (descriptors.saturating_sub(RESERVE) / 2).clamp(16, 50_000)
}
