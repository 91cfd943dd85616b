//! Plugins that speak a protocol of the web on a service's behalf.

pub mod cors;
