//! What is no Rust: shell scripts, and Vagrant's machines.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use super::Tally;
use crate::process;
use crate::workspace;

pub(super) fn run() -> Result<Tally> {
    let shellcheck = &mut Command::new("shellcheck");
    shellcheck
        .current_dir(workspace::root())
        // Guests include files of their disk.
        .arg("--exclude=SC1091")
        .args(scripts()?);
    process::run(shellcheck)?;
    // It writes to its home, and beside the file that it reads.
    let scratch = tempfile::tempdir().context("scratch directory")?;
    let vagrant = &mut Command::new("vagrant");
    vagrant
        .current_dir(workspace::root().join("vagrant"))
        .env("VAGRANT_HOME", scratch.path())
        .env("VAGRANT_DOTFILE_PATH", scratch.path())
        // Providers are what a machine has installed.
        .args(["validate", "--ignore-provider"]);
    process::run(vagrant)?;
    Ok(Tally {
        passed: 2,
        ..Tally::default()
    })
}

/// Every script of the tree, whatever its name.
fn scripts() -> Result<Vec<PathBuf>> {
    let mut scripts = workspace::files()?;
    scripts.retain(|path| {
        let is_named = path.extension().is_some_and(|extension| extension == "sh");
        is_named || is_script(&workspace::root().join(path))
    });
    Ok(scripts)
}

/// Whether its first line names a shell, or says for which one it is written.
fn is_script(path: &Path) -> bool {
    let text = std::fs::read_to_string(path).unwrap_or_default();
    let first = text.lines().next().unwrap_or_default();
    first.starts_with("# shellcheck shell=") || (first.starts_with("#!") && first.ends_with("sh"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scripts_are_found_by_their_first_lines_too() {
        let scripts = scripts().unwrap();
        for path in [
            ".ci/run",
            "vagrant/provision.sh",
            "kernel-tests/guests/ping.sh",
        ] {
            assert!(
                scripts.contains(&PathBuf::from(path)),
                "{path} of {scripts:?}"
            );
        }
        assert!(!scripts.contains(&PathBuf::from("README.md")));
    }
}
