//! Counting against limits: windows shared by all workers without a lock. Knows numbers and time; nothing of HTTP.

pub mod pressure;
pub mod slots;
pub mod span;
pub mod store;
pub mod window;

pub use pressure::{Level, Pressure};
pub use slots::Slots;
pub use span::Spans;
pub use window::{Period, Windows};
