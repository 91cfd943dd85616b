//! Plugins that watch: ids, metrics, logs. They never change what the upstream decides.

pub mod correlation_id;
pub mod file_log;
pub mod prometheus;
