//! Upstreams: which target a request goes to, whether its circuit is closed, and what its name resolves to.

pub mod balance;
pub mod circuit;
pub mod resolve;
