//! The kernel program as it is checked in: judged frame by frame, and attached in namespaces of the tests' own.

// The benchmark uses the rest of it.
#[allow(dead_code)]
mod bare;
mod cells;
mod differential;
mod egress;
mod frames;
mod handshake;
mod loaded;
mod netns;
mod pressure;
mod table;
