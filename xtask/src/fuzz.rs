//! `cargo xtask fuzz TARGET`: libFuzzer with the nightly compiler, and nothing else to install.
//!
//! What it learns stays below the target directory; only an input that broke something belongs into
//! `fuzz/corpus`, where the unit tests replay it, under a name that says what it is.

use std::fs;
use std::process::Command;

use anyhow::{Context, Result};

use crate::process;
use crate::workspace;

const HOST: &str = "x86_64-unknown-linux-gnu";
/// Coverage as libFuzzer reads it, and the address sanitizer.
const RUSTFLAGS: &str = "-Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 \
     -Cllvm-args=-sanitizer-coverage-inline-8bit-counters \
     -Cllvm-args=-sanitizer-coverage-pc-table -Cllvm-args=-sanitizer-coverage-trace-compares \
     --cfg fuzzing -Zsanitizer=address -Ccodegen-units=4 -Cdebug-assertions";
/// Configurations and queries are shorter; longer ones only take time.
const MAX_LEN: u32 = 4096;

pub(crate) fn run(target: &str, seconds: u32) -> Result<()> {
    let fuzz = workspace::root().join("fuzz");
    // Other flags mean other files: not among those of the other builds.
    let built = workspace::target_dir().join("fuzz");
    let mut cargo = Command::new("cargo");
    cargo
        .args(["+nightly", "build", "--release", "--target", HOST])
        .args(["--bin", target])
        .current_dir(&fuzz)
        .env("CARGO_TARGET_DIR", &built)
        .env("RUSTFLAGS", RUSTFLAGS)
        // No target loads a program.
        .env("HAWSER_SKIP_EBPF", "1");
    process::run(&mut cargo)?;
    let learned = built.join("corpus").join(target);
    fs::create_dir_all(&learned).with_context(|| learned.display().to_string())?;
    let mut fuzzer = Command::new(built.join(HOST).join("release").join(target));
    fuzzer
        .arg(format!("-max_total_time={seconds}"))
        .arg(format!("-max_len={MAX_LEN}"))
        .arg("-print_final_stats=1")
        .args([&learned, &fuzz.join("corpus").join(target)])
        .current_dir(&built)
        // Worlds that live as long as the process are no leaks.
        .env("ASAN_OPTIONS", "detect_leaks=0");
    process::run(&mut fuzzer)
}
