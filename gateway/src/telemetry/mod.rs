//! What is told to the outside: access log, log files, metrics. Fed by workers without locks; written by threads of its own.

pub mod access;
pub mod metrics;
pub mod record;
pub mod writer;
