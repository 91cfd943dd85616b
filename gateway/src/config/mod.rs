//! From the text of a file to the immutable snapshot that requests run on. Every error is collected with its place; a
//! snapshot exists only when there is none.

mod balancing;
mod certificates;
mod compile;
mod consumers;
mod edge;
mod ids;
pub mod marks;
mod migrate;
mod plugins;
mod routes;
pub mod running;
mod services;
pub mod settings;
pub mod snapshot;
mod stream;

pub use compile::{Compiled, compile};
pub use running::{Reload, Running};
pub use settings::{Environment, Listen, Settings};
pub use snapshot::Snapshot;
