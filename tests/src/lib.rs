//! The harness of the black-box tests: the real binary, an upstream that remembers, a client that
//! sends exactly what it is told. A scenario is four lines: upstream, gateway, client, assertion.
//! It knows the gateway only by its command line, its files and its sockets.

#![allow(missing_docs, reason = "a harness that only the tests beside it use")]

pub mod absent;
pub mod authority;
pub mod bar;
pub mod client;
pub mod deadline;
pub mod directory;
pub mod echo;
pub mod fleet;
pub mod floods;
pub mod gateway;
pub mod grpc;
pub mod h2;
pub mod h2frames;
pub mod issuer;
pub mod json;
pub mod jwt;
pub mod lean;
pub mod listeners;
pub mod load;
pub mod message;
pub mod netns;
pub mod process;
pub mod redis;
pub mod signer;
pub mod strict;
pub mod tls;
pub mod upstream;
pub mod visitor;
pub mod wire;

pub use client::{Client, Request, send};
pub use deadline::{eventually, fresh_minute, skip};
pub use gateway::{Gateway, Setup};
pub use message::Reply;
pub use redis::Redis;
pub use upstream::{Answer, Seen, Upstream};
pub use visitor::Visitor;
