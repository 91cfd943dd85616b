//! The contract between the kernel programs and user space: what a packet is, whose it is, what may be decided about it
//! and how the decision is written down. No allocation, no clock, no map access: both sides bring their own.
#![no_std]

#[cfg(test)]
extern crate std;

pub mod charge;
pub mod clock;
pub mod egress;
pub mod gate;
pub mod gcra;
pub mod judge;
pub mod map;
pub mod packet;
pub mod reason;
pub mod source;

pub use gcra::Ceiling;
pub use reason::Reason;
pub use source::{Address, Source};
