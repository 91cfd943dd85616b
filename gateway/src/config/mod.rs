//! From the texts of a configuration to the immutable snapshot that requests run on. Every error is collected with its
//! place; a snapshot exists only when there is none.

mod balancing;
pub mod bounds;
mod certificates;
mod compile;
mod consumer_groups;
mod consumers;
mod edge;
pub mod entities;
mod flatten;
pub mod handshake;
mod ids;
mod keys;
mod listens;
pub mod marks;
mod parts;
mod plugins;
pub mod prepare;
mod routes;
pub mod running;
pub mod schema;
mod services;
pub mod settings;
pub mod snapshot;
pub mod sources;
mod stream;

pub use compile::{Compiled, Load, compile};
pub use flatten::flatten;
pub use listens::Listen;
pub use running::{Refused, Reload, Running};
pub use settings::{Environment, Settings};
pub use snapshot::Snapshot;
pub use sources::Bundle;
