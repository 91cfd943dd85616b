//! Tests of the client against scripted peers; see `script` for the peer.

#![allow(clippy::unwrap_used)]

mod chunks;
mod life;
mod responses;
mod script;
mod sending;
mod strictness;
mod tls;
