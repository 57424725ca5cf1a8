//! `cargo xtask build`: the five programs.

use std::path::PathBuf;

use anyhow::Result;

use crate::process;
use crate::setup::{self, Purpose};
use crate::workspace;

/// Package and binary of each program.
pub(crate) const PROGRAMS: [(&str, &str); 5] = [
    ("hawserd", "hawserd"),
    ("launcher", "hawser"),
    ("launcher", "hawser-shim"),
    ("cni-plugins", "hawser-cni"),
    ("cni-plugins", "hawser-cni-ipam"),
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
    cargo.args(["build", "--bins", "--package", "kernel-tests"]);
    for (package, _) in PROGRAMS {
        cargo.args(["--package", package]);
    }
    if release {
        cargo.arg("--release");
    }
    process::run(&mut cargo)?;
    Ok(workspace::target_dir().join(if release { "release" } else { "debug" }))
}
