//! `cargo xtask build`: the five programs.

use std::path::PathBuf;

use anyhow::Result;

use crate::process;
use crate::setup::{self, Purpose};
use crate::workspace;

/// The package of the CNI plugins.
const PLUGINS: &str = "cni-plugins";

/// Package and binary of each program.
pub(crate) const PROGRAMS: [(&str, &str); 5] = [
    ("hawserd", "hawserd"),
    ("launcher", "hawser"),
    ("launcher", "hawser-shim"),
    (PLUGINS, "hawser-cni"),
    (PLUGINS, "hawser-cni-ipam"),
];

pub(crate) fn run(release: bool) -> Result<()> {
    setup::run(Purpose::Build)?;
    let dir = programs(release)?;
    for (_, program) in PROGRAMS {
        println!("{}", dir.join(program).display());
    }
    Ok(())
}

/// Builds the programs, and the program that runs the demo, the benches and the acceptance
/// daemon; returns the directory that holds them.
pub(crate) fn programs(release: bool) -> Result<PathBuf> {
    let mut cargo = workspace::cargo();
    cargo.args(["build", "--bins"]);
    if !release {
        // With the tests, so that crates have the same features and are built once.
        process::run(cargo.arg("--tests").args(workspace::EVERY_CRATE))?;
        return Ok(workspace::target_dir().join("debug"));
    }
    cargo.args(["--release", "--package", "kernel-tests"]);
    for (package, _) in PROGRAMS {
        cargo.args(["--package", package]);
    }
    process::run(&mut cargo)?;
    for (_, program) in PROGRAMS.iter().filter(|(package, _)| *package == PLUGINS) {
        link_statically(program)?;
    }
    Ok(workspace::target_dir().join("release"))
}

/// Links a CNI plugin once more, without shared libraries. One is started for every container, and
/// finding and mapping two libraries is half of what a start costs; besides, it then runs on hosts
/// and in images that have another C library.
fn link_statically(program: &str) -> Result<()> {
    let mut cargo = workspace::cargo();
    cargo
        .args(["rustc", "--release", "--package", PLUGINS, "--bin", program])
        // For the last crate alone: the others are the same either way.
        .args(["--", "-C", "target-feature=+crt-static"]);
    process::run(&mut cargo)
}
