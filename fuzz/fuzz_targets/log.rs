//! Logs in files, whole and damaged. See `launcher/src/fuzz.rs`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| launcher::fuzz::log(bytes));
