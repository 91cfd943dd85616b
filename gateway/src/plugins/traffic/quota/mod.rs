//! What the plugins that limit by number have in common: whose requests share a counter, where Redis is, and the headers
//! that tell a client where it stands. Nothing here counts.

pub mod by;
pub mod caller;
pub mod headers;
pub mod periods;
pub mod redis;
