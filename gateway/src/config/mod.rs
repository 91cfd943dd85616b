//! From the text of a file to the immutable snapshot that requests run on. Every error is collected with its place; a
//! snapshot exists only when there is none.

pub mod bounds;
mod certificates;
mod compile;
mod consumers;
mod ids;
mod migrate;
mod plugins;
mod routes;
pub mod running;
mod services;
pub mod settings;
pub mod snapshot;

pub use compile::{Compiled, compile};
pub use running::{Reload, Running};
pub use settings::{Environment, Listen, Settings};
pub use snapshot::Snapshot;
