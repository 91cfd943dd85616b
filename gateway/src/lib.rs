//! The gateway as a library: rooms in the order in which a request meets them (docs/ARCHITECTURE.md).

pub mod admin;
pub mod app;
pub mod background;
pub mod ber;
pub mod calls;
pub mod cli;
pub mod clock;
pub mod config;
pub mod crypto;
pub mod document;
pub mod drain;
pub mod edge;
pub mod fleet;
pub mod identity;
pub mod limits;
pub mod listen;
pub mod plugins;
pub mod privileges;
pub mod proxy;
pub mod router;
pub mod telemetry;
pub mod upstreams;
mod watch;
