//! Descriptions of images inside an archive, and the checks that they pass. See `launcher/src/fuzz.rs`.
#![no_main]

use std::path::PathBuf;
use std::sync::LazyLock;

static SCRATCH: LazyLock<PathBuf> = LazyLock::new(|| {
    let path = std::env::temp_dir().join(format!("fuzz-image-{}", std::process::id()));
    std::fs::create_dir(&path).expect("a scratch directory");
    path
});

libfuzzer_sys::fuzz_target!(|text: &[u8]| launcher::fuzz::image(&SCRATCH, text));
