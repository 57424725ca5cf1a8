//! The description in a volume's export, and members behind it. Needs root, as the import does.
#![no_main]

use std::path::PathBuf;
use std::sync::LazyLock;

static SCRATCH: LazyLock<PathBuf> = LazyLock::new(|| {
    let path = std::env::temp_dir().join(format!("fuzz-volume-{}", std::process::id()));
    std::fs::create_dir(&path).expect("a scratch directory");
    path
});

libfuzzer_sys::fuzz_target!(|text: &[u8]| storaged::fuzz::volume(&SCRATCH, text));
