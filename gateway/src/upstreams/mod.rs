//! Upstreams: which target a request goes to, whether it is healthy and its circuit closed, and what its name resolves to.

pub mod balance;
pub mod circuit;
pub mod group;
pub mod health;
pub mod member;
pub mod probe;
pub mod resolve;
pub mod ring;
