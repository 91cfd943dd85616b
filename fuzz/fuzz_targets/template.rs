//! The target of one parser; what must hold for it is in `src/lib.rs`, and nothing else belongs here.

#![no_main]
libfuzzer_sys::fuzz_target!(|data: &[u8]| gateway_fuzz::template(data));
