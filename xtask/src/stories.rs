//! Starts `kernel-tests`, the program that drives the real binaries on this host.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::Result;

use crate::apt::Suite;
use crate::build;
use crate::packages;
use crate::process;
use crate::setup::{self, Purpose};
use crate::workspace;

/// The web server of the demo and of the benches: what the package nginx-light installs.
const WEB_SERVER: [&str; 2] = ["nginx", "nginx-common"];

/// What stories meet and benches measure against. dockerd and its parts are run from the unpacked tree, in
/// namespaces of their own.
const PEERS: [&str; 10] = [
    "buildah",
    "containerd",
    "containernetworking-plugins",
    "docker-registry",
    "docker.io",
    "etcd-server",
    "runc",
    "skopeo",
    "umoci",
    "unbound",
];

/// Peers that Debian has only in old versions, built from the crate registry.
const PEER_CRATES: [(&str, &str); 2] = [("aardvark-dns", "=2.1.0"), ("netavark", "=2.1.0")];

/// Unpacks the web server and returns the environment that says where.
pub(crate) fn web_server() -> Result<(&'static str, PathBuf)> {
    Ok((
        "HAWSER_WEB_SERVER",
        packages::unpack("web-server", &WEB_SERVER)?,
    ))
}

pub(crate) fn demo() -> Result<()> {
    process::require_root("the demo")?;
    setup::run(Purpose::Demo)?;
    let web_server = web_server()?;
    let bin = build::programs(true)?;
    process::run(
        Command::new(bin.join("kernel-tests"))
            .arg("demo")
            .envs([web_server]),
    )
}

pub(crate) fn bench(names: &[String], json: Option<&Path>, sizes: &[String]) -> Result<()> {
    process::require_root("the bench")?;
    setup::run(Purpose::Bench)?;
    let web_server = web_server()?;
    let peers = all_peers()?;
    let bin = build::programs(true)?;
    let mut command = Command::new(bin.join("kernel-tests"));
    command.arg("bench").args(names).args(sizes);
    command.envs([web_server, peers]);
    if let Some(json) = json {
        command.arg("--json").arg(std::path::absolute(json)?);
    }
    process::run(&mut command)
}

/// Unpacks the peers and returns the environment that says where.
pub(crate) fn peers() -> Result<(&'static str, PathBuf)> {
    Ok(("HAWSER_PEERS", packages::unpack("peers", &PEERS)?))
}

/// Where Debian keeps the checks of the runtime specification: its own package of them, of the suite
/// after the one with the compiler, has their sources only.
const CHECKS_OF_RUNTIMES: (&str, &str) = ("trixie", "golang-github-opencontainers-runtime-tools");

/// Unpacks the checks that the authors of the runtime specification keep for runtimes, and returns the
/// environment that says where.
pub(crate) fn runtime_tools() -> Result<(&'static str, PathBuf)> {
    let (suite, package) = CHECKS_OF_RUNTIMES;
    let home = workspace::target_dir().join("packages");
    let path = home.join("runtime-tools/src/github.com/opencontainers/runtime-tools");
    if !path.is_dir() {
        Suite::open_sources(&home, suite)?.unpack_source(package, &path)?;
    }
    Ok(("HAWSER_RUNTIME_TOOLS", home.join("runtime-tools")))
}

/// The tree of peers with those that are built. One that cannot be is missing in it, which its rows
/// then say.
fn all_peers() -> Result<(&'static str, PathBuf)> {
    let (name_of_variable, tree) = peers()?;
    for (name, version) in PEER_CRATES {
        if let Err(error) = setup::build_crate(name, version, &tree.join("usr/local")) {
            eprintln!("setup: {name} cannot be measured against: {error:#}");
        }
    }
    Ok((name_of_variable, tree))
}

/// The acceptance scripts of `dir` against a daemon of their own in the host's namespaces.
pub(crate) fn acceptance(bin: &Path, dir: &Path, pending: &Path) -> Result<bool> {
    let status = Command::new(bin.join("kernel-tests"))
        .arg("acceptance")
        .args([dir, pending])
        .status()?;
    Ok(status.success())
}

/// What of ours is on the host: one line an object.
pub(crate) fn leftovers() -> Result<Vec<String>> {
    let mut cargo = workspace::cargo();
    cargo.args([
        "run",
        "--quiet",
        "--package",
        "kernel-tests",
        "--",
        "leftovers",
    ]);
    Ok(process::output(&mut cargo)?
        .lines()
        .map(str::to_owned)
        .collect())
}
