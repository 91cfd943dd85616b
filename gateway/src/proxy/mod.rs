//! The path of a request to its upstream and of the answer back.

pub mod h1;
