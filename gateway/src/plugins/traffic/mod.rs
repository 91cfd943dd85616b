//! Plugins that limit, refuse or divert traffic. They decide by what the exchange and shared counters say; they must not
//! know sockets, pools or routers.

pub mod circuit_breaker;
pub mod concurrency_limiting;
pub mod quota;
pub mod rate_limiting;
pub mod rate_limiting_advanced;
pub mod redirect;
pub mod request_size_limiting;
pub mod request_termination;
pub mod response_ratelimiting;
