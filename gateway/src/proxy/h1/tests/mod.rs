//! Tests of the client against scripted peers; see `script` for the peer.

mod chunks;
mod life;
mod responses;
mod script;
mod sending;
mod strictness;
