//! Debian's podman with storage, state and configuration of its own.

use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::sync::Arc;

use anyhow::{Context, Result};

use crate::{Host, program};

/// Dropping it removes the control groups that podman makes once and never removes.
#[derive(Debug)]
pub struct Podman {
    host: Arc<Host>,
    dir: PathBuf,
}

impl Podman {
    /// Keeps everything in `dir`, which the caller removes; `settings` are tables of
    /// `containers.conf`.
    ///
    /// # Errors
    /// When the files cannot be written.
    pub fn new(host: Arc<Host>, dir: PathBuf, settings: &str) -> Result<Self> {
        let engine = "[engine]\ncgroup_manager = \"cgroupfs\"\nevents_logger = \"none\"\n";
        fs::create_dir_all(&dir).with_context(|| dir.display().to_string())?;
        let file = dir.join("containers.conf");
        fs::write(&file, format!("{engine}{settings}"))
            .with_context(|| file.display().to_string())?;
        Ok(Self { host, dir })
    }

    /// `podman`, without arguments of its own yet.
    pub fn command(&self) -> Command {
        let mut command = self.host.command("podman");
        command
            .env("CONTAINERS_CONF", self.dir.join("containers.conf"))
            .args(["--runtime", "runc", "--storage-driver", "vfs"])
            .args(["--log-level", "error"]);
        for (flag, name) in [
            ("--root", "root"),
            ("--runroot", "run"),
            ("--tmpdir", "tmp"),
        ] {
            command.arg(flag).arg(self.dir.join(name));
        }
        command
    }

    /// `podman run`, with limits that a host without the capability to raise any allows.
    pub fn run(&self, flags: &[&str]) -> Command {
        let mut command = self.command();
        let limits = ["nofile=1024:1024", "nproc=1024:1024"];
        command.args(["run", "--ulimit", limits[0], "--ulimit", limits[1]]);
        command.args(flags);
        command
    }

    /// Runs `podman WORDS`, which must succeed; returns its standard output.
    ///
    /// # Errors
    /// When it fails.
    pub fn say(&self, words: &str) -> Result<String> {
        program::output(self.command().args(words.split_whitespace()))
    }
}

impl Drop for Podman {
    fn drop(&mut self) {
        let hierarchies = fs::read_dir("/sys/fs/cgroup");
        for hierarchy in hierarchies.into_iter().flatten().flatten() {
            let parent = hierarchy.path().join("libpod_parent");
            // Only empty ones go: those in use are those of somebody else's podman.
            for group in [parent.join("conmon"), parent] {
                drop(fs::remove_dir(group));
            }
        }
    }
}
