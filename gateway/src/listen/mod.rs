//! From listening sockets to requests: accept, TLS, HTTP version, time limits of the client side, drain.

mod connection;
mod socket;
mod watched;
mod worker;

pub use socket::{Bound, bind};
pub use worker::{Command, Thread, spawn};
