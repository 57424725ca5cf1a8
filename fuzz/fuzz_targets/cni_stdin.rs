//! Environment and standard input of a CNI plugin.
#![no_main]

#[path = "../../cni-plugins/tests/corpus/judge.rs"]
mod judge;

libfuzzer_sys::fuzz_target!(|data: &[u8]| judge::judge(data));
