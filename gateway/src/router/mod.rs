//! Which route a request takes, and which path its upstream sees. Pure: no clock, no socket, no configuration file.

pub mod path;
pub mod pattern;
pub mod stream;
pub mod table;

pub use table::{Facts, Found, Matchers, Router};
