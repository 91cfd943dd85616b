//! An HTTP/1.1 client for one upstream connection, driven inline by the task that serves the client's request: no
//! connection task, no channel. It frames requests itself, reads responses strictly (RFC 9112) and never reads a clock:
//! time limits belong to the caller, and dropping any of its futures closes the connection. It must not know routes,
//! pools or plugins.
//!
//! Life of a connection: [`Connection::new`] → [`Connection::exchange`] → [`Reply::Response`] with a [`ResponseBody`],
//! which gives the connection to its [`Home`] as soon as the last byte of a clean and reusable response was read, or
//! closes it. [`Reply::Upgraded`] ends the HTTP life of the connection.

mod body;
mod buffer;
mod chunked;
mod connection;
mod encode;
mod exchange;
mod failure;
mod parse;
mod send;
mod upgraded;

#[cfg(test)]
mod tests;

pub use body::ResponseBody;
pub use connection::{Connection, Home, Limits};
pub use encode::RequestHead;
pub use exchange::{Exchange, Reply};
pub use failure::{BoxError, Failure, Reason, Side};
pub use upgraded::Upgraded;
