//! Black-box tests.

mod kernel;
