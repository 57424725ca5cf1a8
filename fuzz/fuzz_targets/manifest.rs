//! Manifests, indexes and configurations that a registry answers with. See `launcher/src/fuzz.rs`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| launcher::fuzz::manifest(bytes));
