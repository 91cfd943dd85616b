//! Upstreams: which target a request goes to, whether its circuit is closed, and what its name resolves to.

pub mod circuit;
