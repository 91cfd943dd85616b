//! The gateway as a library: rooms in the order in which a request meets them (docs/ARCHITECTURE.md).

pub mod clock;
pub mod edge;
pub mod proxy;
