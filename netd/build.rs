//! Compiles the eBPF programs into one object, which `bpf::object` embeds.
//!
//! This is the one place that knows the command. It needs a `rustc` that ships `core` for
//! `bpfel-unknown-none`, and `bpf-linker`; `cargo xtask setup` installs both.
//! `HAWSER_SKIP_EBPF=1` embeds an empty object instead, which the loader refuses.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::{env, fs};

const TARGET: &str = "bpfel-unknown-none";
/// The distribution's compiler: rustup's has no prebuilt `core` for the target.
const RUSTC: &str = "/usr/bin/rustc";
/// `--btf` keeps type information: verifier logs quote source lines.
const RUSTFLAGS: &str = "-Clinker=bpf-linker -Clink-arg=--btf -Ctarget-cpu=generic";

/// What Cargo sets for this build and must not reach the inner one: flags and wrappers (Clippy's
/// among them) of the host's compiler.
const SCRUBBED: [&str; 9] = [
    "CARGO_BUILD_TARGET",
    "CARGO_ENCODED_RUSTFLAGS",
    "CARGO_TARGET_DIR",
    "RUSTC_LINKER",
    "RUSTC_WORKSPACE_WRAPPER",
    "RUSTC_WRAPPER",
    "RUSTDOC",
    "RUSTFLAGS",
    "RUSTUP_TOOLCHAIN",
];

fn main() {
    // Of this run: the script itself may have been built for another checkout.
    let manifest = env::var_os("CARGO_MANIFEST_DIR").expect("Cargo sets CARGO_MANIFEST_DIR");
    let ebpf = Path::new(&manifest).join("../ebpf");
    println!("cargo::rerun-if-changed={}", ebpf.display());
    println!("cargo::rerun-if-env-changed=HAWSER_SKIP_EBPF");
    let out = PathBuf::from(env::var_os("OUT_DIR").expect("Cargo sets OUT_DIR"));
    let object = out.join("programs.o");
    if env::var_os("HAWSER_SKIP_EBPF").is_some_and(|value| value != "0") {
        fs::write(&object, b"").unwrap_or_else(|error| panic!("{}: {error}", object.display()));
        return;
    }
    let built = compile(&ebpf.join("programs"), &out.join("ebpf"));
    fs::copy(&built, &object).unwrap_or_else(|error| panic!("{}: {error}", built.display()));
}

fn compile(programs: &Path, target_dir: &Path) -> PathBuf {
    let mut cargo = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    for name in SCRUBBED {
        cargo.env_remove(name);
    }
    cargo
        .args(["build", "--release", "--target", TARGET, "--manifest-path"])
        .arg(programs.join("Cargo.toml"))
        .arg("--target-dir")
        .arg(target_dir)
        .env("RUSTC", RUSTC)
        // The target is tier 3: its flags count as unstable.
        .env("RUSTC_BOOTSTRAP", "1")
        .env("RUSTFLAGS", RUSTFLAGS)
        .env("CARGO_PROFILE_RELEASE_DEBUG", "2")
        .env("CARGO_PROFILE_RELEASE_PANIC", "abort")
        .env("CARGO_PROFILE_RELEASE_LTO", "true")
        .env("CARGO_PROFILE_RELEASE_CODEGEN_UNITS", "1");
    let hint = "run `cargo xtask setup` to install the eBPF toolchain, \
                or set HAWSER_SKIP_EBPF=1 to build without the data plane";
    match cargo.status() {
        Ok(status) if status.success() => target_dir.join(TARGET).join("release/programs"),
        Ok(status) => panic!("compiling the eBPF programs: {status}; {hint}"),
        Err(error) => panic!("starting cargo for the eBPF programs: {error}; {hint}"),
    }
}
