//! The kernel program as it is checked in: judged frame by frame, and attached in namespaces of the tests' own.

mod cells;
mod differential;
mod doctor;
mod fallback;
mod frames;
mod loaded;
mod netns;
mod operator;
mod pins;
mod privileges;
mod stage;
mod table;
