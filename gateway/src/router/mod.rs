//! Which route a request takes, and which path its upstream sees. Pure: no clock, no socket, no configuration file.

pub mod expression;
mod index;
pub mod path;
pub mod pattern;
pub mod rules;
pub mod stream;
pub mod table;

pub use expression::{Expression, View};
pub use rules::{Routes, Rule};
pub use table::{Facts, Found, Matchers, Router};
