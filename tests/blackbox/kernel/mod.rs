//! The kernel program as it is checked in: judged frame by frame, and attached in namespaces of the tests' own.

mod abuse;
mod bandwidth;
// The benchmark uses the rest of it.
#[allow(dead_code)]
mod bare;
mod cells;
mod differential;
mod doctor;
mod egress;
mod fallback;
mod frames;
mod handshake;
mod loaded;
mod measured;
mod netns;
mod operator;
mod pins;
mod plans;
mod pressure;
mod privileges;
mod real;
mod scene;
mod stage;
mod table;
mod taken_off;
