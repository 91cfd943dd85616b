//! The L7 proxy: one request in, one answer out. `path` is the whole way on one screen.

pub mod body;
pub mod exchange;
pub mod h1;
pub mod reply;
