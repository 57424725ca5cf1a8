//! `cargo xtask setup`: everything a fresh Debian 12 host lacks. Each step does nothing when its
//! result is there already, so that the other commands call it every time.

use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, bail};
use clap::ValueEnum;

use crate::packages;
use crate::process;
use crate::workspace;

/// What the machine is to be able to do; each includes the ones before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
pub(crate) enum Purpose {
    /// Build the programs.
    Build,
    /// Run the demo.
    Demo,
    /// Run the tests.
    Test,
    /// Run the benches with their peers.
    Bench,
}

/// Compilers and libraries. The eBPF compiler is Debian's `rustc-web`: it is the one stable
/// compiler that comes with a `core` for BPF (docs/adr/0001-ebpf-toolchain.md).
const BUILD: &[&str] = &[
    "build-essential",
    "clang",
    "libpolly-22-dev",
    "libprotobuf-dev",
    "libseccomp-dev",
    "libstd-rust-web-dev-bpf",
    "libzstd-dev",
    "llvm-22-dev",
    "pkg-config",
    "protobuf-compiler",
    "rustc-web",
    "zlib1g-dev",
];

/// What the demo's image is made of and what looks at the host from outside.
const DEMO: &[&str] = &[
    "busybox-static",
    "curl",
    "iproute2",
    "nftables",
    "tar",
    "util-linux",
];

/// What tests and acceptance scripts call.
const TEST: &[&str] = &[
    "bind9-dnsutils",
    "bpftool",
    "bsdutils",
    "btrfs-progs",
    "containerd",
    "containernetworking-plugins",
    "dbus-daemon",
    "debian-archive-keyring",
    "dnsmasq-base",
    "e2fsprogs",
    "firewalld",
    "git",
    "golang-github-appc-cni-dev",
    "golang-github-google-uuid-dev",
    "golang-github-opencontainers-runtime-tools-dev",
    "golang-go",
    "iptables",
    "jq",
    "libdevmapper1.02.1",
    "podman",
    "procps",
    "python3",
    "python3-scapy",
    "qemu-system-x86",
    "runc",
    "shellcheck",
    "strace",
    "vagrant",
    "xfsprogs",
    "xz-utils",
];

/// Load generators, and what peers need to be built and to run; they themselves are not installed.
const BENCH: &[&str] = &[
    "dnsperf",
    "iperf3",
    "iptables",
    "libevent-2.1-7",
    "libnghttp2-14",
    "libprotobuf-c1",
    "libpython3.11",
    "wrk",
];

/// The newest line that builds with the compiler the workspace asks for.
const BPF_LINKER: &str = "^0.13";
const LLVM_PREFIX: &str = "/usr/lib/llvm-22";
const NEXTEST: &str = "^0.9";

pub(crate) fn run(purpose: Purpose) -> Result<()> {
    let groups = [
        (Purpose::Build, BUILD),
        (Purpose::Demo, DEMO),
        (Purpose::Test, TEST),
        (Purpose::Bench, BENCH),
    ];
    let wanted: Vec<&str> = groups
        .iter()
        .filter(|(least, _)| *least <= purpose)
        .flat_map(|(_, names)| names.iter().copied())
        .collect();
    packages::install(&wanted)?;
    bpf_linker()?;
    if purpose >= Purpose::Test {
        nextest()?;
    }
    Ok(())
}

fn bpf_linker() -> Result<()> {
    if process::is_installed("bpf-linker") {
        return Ok(());
    }
    println!("setup: building bpf-linker (a minute or two)");
    process::output(
        Command::new("cargo")
            .args(["install", "bpf-linker", "--version", BPF_LINKER, "--locked"])
            .args(["--no-default-features", "--features", "llvm-22"])
            .args(["--target-dir".as_ref(), tools_dir().as_os_str()])
            .env("LLVM_PREFIX", LLVM_PREFIX),
    )?;
    expect_on_path("bpf-linker")
}

fn nextest() -> Result<()> {
    if process::is_installed("cargo-nextest") {
        return Ok(());
    }
    println!("setup: building cargo-nextest (some minutes)");
    process::output(
        Command::new("cargo")
            .args(["install", "cargo-nextest", "--version", NEXTEST, "--locked"])
            .args(["--target-dir".as_ref(), tools_dir().as_os_str()]),
    )?;
    expect_on_path("cargo-nextest")
}

/// Builds the program `name` of the crate registry below `root`; does nothing when it is there.
pub(crate) fn build_crate(name: &str, version: &str, root: &Path) -> Result<()> {
    if root.join("bin").join(name).is_file() {
        return Ok(());
    }
    println!("setup: building {name} (some minutes)");
    process::output(
        Command::new("cargo")
            .args(["install", name, "--version", version, "--locked"])
            .args(["--bin", name])
            .args(["--root".as_ref(), root.as_os_str()])
            .args(["--target-dir".as_ref(), tools_dir().as_os_str()]),
    )
    .map(drop)
}

/// Build output of tools: kept, so that an interrupted set-up goes on where it stopped.
fn tools_dir() -> std::path::PathBuf {
    workspace::target_dir().join("tools")
}

fn expect_on_path(program: &str) -> Result<()> {
    if process::is_installed(program) {
        return Ok(());
    }
    let home = std::env::var("HOME").context("HOME is not set")?;
    bail!("{program} was installed but is not on PATH; add {home}/.cargo/bin to it")
}
