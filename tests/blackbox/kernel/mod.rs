//! The kernel program as it is checked in: judged frame by frame, and attached in namespaces of the tests' own.

mod abuse;
mod cells;
mod differential;
mod frames;
mod loaded;
mod netns;
mod scene;
mod table;
