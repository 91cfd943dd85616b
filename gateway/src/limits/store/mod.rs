//! Limits that several gateways share through Redis: the server and each worker's connection to it, counters that it
//! keeps, slices of windows leased from it, and denials that are remembered here. Knows keys and numbers; nothing of HTTP.

pub mod denied;
pub mod exact;
pub mod fleet;
pub mod lease;
mod link;
pub mod server;
pub mod shared_spans;
pub mod slice;

pub use fleet::Fleet;
pub use server::Server;

use std::fmt;

/// Why the store gave no answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fault {
    /// There is no connection, and the next attempt is not due.
    Down,
    /// No answer in time.
    Slow,
    /// As many calls as may be are under way.
    Full,
    /// The connection broke.
    Broken,
    /// The server said no: its words.
    Refused(String),
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Fault::Down => f.write_str("no connection"),
            Fault::Slow => f.write_str("no answer in time"),
            Fault::Full => f.write_str("too many calls under way"),
            Fault::Broken => f.write_str("the connection broke"),
            Fault::Refused(words) => write!(f, "refused: {words}"),
        }
    }
}
