//! From listening sockets to requests: accept, TLS, HTTP version, time limits of the client side, drain.

mod connection;
mod datagram;
mod introduced;
mod messages;
pub mod proxy_protocol;
mod socket;
mod stream;
mod watched;
mod wire;
mod worker;

pub use socket::{Bound, Port, bind};
pub use worker::{Command, Thread, Workers, spawn};
