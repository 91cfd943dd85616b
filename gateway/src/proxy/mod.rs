//! The L7 proxy: one request in, one answer out. `path` is the whole way on one screen.

pub mod answer;
pub mod attempt;
pub mod body;
pub mod carry;
pub mod cookies;
pub mod datagrams;
pub mod exchange;
pub mod flight;
pub mod forward;
pub mod grpc;
pub mod h1;
pub mod h2;
pub mod line;
pub mod path;
pub mod placement;
pub mod presence;
pub mod registry;
mod relay;
pub mod reply;
pub mod report;
pub mod sanitize;
pub mod timers;
pub mod transport;
pub mod tunnel;
pub mod worker;
