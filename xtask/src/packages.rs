//! Debian packages: installed, or only unpacked so that no service of theirs starts.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::process;
use crate::workspace;

/// Installs those of `packages` that are missing.
pub(crate) fn install(packages: &[&str]) -> Result<()> {
    let missing = missing(packages)?;
    if missing.is_empty() {
        return Ok(());
    }
    if !process::is_root()? {
        bail!(
            "not root, so these packages cannot be installed: {}; run `cargo xtask setup` as root",
            missing.join(" ")
        );
    }
    println!("setup: installing {}", missing.join(" "));
    let mut install = apt_get();
    install
        .args(["install", "--yes", "--no-install-recommends"])
        .args(&missing);
    if process::output(&mut install).is_ok() {
        return Ok(());
    }
    // A fresh host has no package lists, and old lists name versions that are gone.
    refresh_lists()?;
    process::output(&mut install).map(drop)
}

/// Unpacks `packages` below `target/packages/NAME/` without installing them and returns that
/// directory. What was unpacked from the same packages is left as it is.
pub(crate) fn unpack(name: &str, packages: &[&str]) -> Result<PathBuf> {
    let home = workspace::target_dir().join("packages");
    let done = home.join(name);
    let list = home.join(format!("{name}.list"));
    let wanted = packages.join("\n");
    if done.is_dir() {
        if std::fs::read_to_string(&list).is_ok_and(|unpacked| unpacked == wanted) {
            return Ok(done);
        }
        remove(&done)?;
    }
    println!("setup: unpacking {}", packages.join(" "));
    let staging = home.join(format!("{name}.part"));
    if staging.exists() {
        std::fs::remove_dir_all(&staging).with_context(|| staging.display().to_string())?;
    }
    let archives = staging.join("archives");
    std::fs::create_dir_all(&archives).with_context(|| archives.display().to_string())?;
    let mut download = apt_get();
    download
        .current_dir(&archives)
        .arg("download")
        .args(packages);
    if process::output(&mut download).is_err() {
        refresh_lists()?;
        process::output(&mut download)?;
    }
    let tree = staging.join("tree");
    for entry in std::fs::read_dir(&archives).with_context(|| archives.display().to_string())? {
        let archive = entry
            .with_context(|| archives.display().to_string())?
            .path();
        process::output(Command::new("dpkg-deb").arg("-x").arg(&archive).arg(&tree))?;
    }
    std::fs::write(&list, wanted).with_context(|| list.display().to_string())?;
    std::fs::rename(&tree, &done).with_context(|| done.display().to_string())?;
    remove(&staging)?;
    Ok(done)
}

fn remove(dir: &Path) -> Result<()> {
    std::fs::remove_dir_all(dir).with_context(|| dir.display().to_string())
}

fn refresh_lists() -> Result<()> {
    println!("setup: refreshing the package lists");
    process::output(apt_get().arg("update")).map(drop)
}

fn apt_get() -> Command {
    let mut apt = Command::new("apt-get");
    apt.arg("-qq").env("DEBIAN_FRONTEND", "noninteractive");
    // Downloads land in our own directory, which apt's sandbox user cannot write.
    apt.args(["-o", "APT::Sandbox::User=root", "-o", "Dpkg::Use-Pty=0"]);
    apt
}

fn missing<'a>(packages: &[&'a str]) -> Result<Vec<&'a str>> {
    let query = Command::new("dpkg-query")
        .args(["--show", "--showformat", "${Package} ${db:Status-Status}\n"])
        .args(packages)
        .output()
        .context("dpkg-query: set-up knows Debian and its derivatives only")?;
    // Unknown names make it fail, yet it prints the known ones.
    let known = String::from_utf8_lossy(&query.stdout).into_owned();
    Ok(not_listed(packages, &known))
}

fn not_listed<'a>(packages: &[&'a str], known: &str) -> Vec<&'a str> {
    let installed = |name: &str| {
        known
            .lines()
            .any(|line| line.split_once(' ') == Some((name, "installed")))
    };
    packages
        .iter()
        .copied()
        .filter(|name| !installed(name))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_state_installed_counts() {
        let known = "curl installed\nwrk config-files\n";
        assert_eq!(
            not_listed(&["curl", "wrk", "iperf3"], known),
            ["wrk", "iperf3"]
        );
    }
}
