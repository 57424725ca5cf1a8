//! Debian's containerd with directories of its own, and `ctr`.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};

use crate::{Host, program, wait};

const START_LIMIT: Duration = Duration::from_secs(30);

/// Ended when it is dropped.
#[derive(Debug)]
pub struct Containerd {
    host: Arc<Host>,
    process: Child,
    address: PathBuf,
}

impl Containerd {
    /// Keeps everything in `dir`, which the caller removes.
    ///
    /// # Errors
    /// When it does not start, in its last words.
    pub fn start(host: &Arc<Host>, dir: &Path) -> Result<Self> {
        fs::create_dir_all(dir).with_context(|| dir.display().to_string())?;
        let address = dir.join("containerd.sock");
        let config = format!(
            "version = 2\nroot = {root:?}\nstate = {state:?}\n\
             disabled_plugins = [\"io.containerd.grpc.v1.cri\", \
             \"io.containerd.snapshotter.v1.btrfs\", \"io.containerd.snapshotter.v1.zfs\", \
             \"io.containerd.snapshotter.v1.aufs\", \
             \"io.containerd.snapshotter.v1.devmapper\"]\n\
             [grpc]\naddress = {address:?}\n[ttrpc]\naddress = {ttrpc:?}\n",
            root = dir.join("root"),
            state = dir.join("state"),
            ttrpc = dir.join("containerd.sock.ttrpc"),
        );
        let file = dir.join("config.toml");
        fs::write(&file, config).context("configuration of containerd")?;
        let log = dir.join("log");
        let process = host
            .command("containerd")
            .arg("--config")
            .arg(&file)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(File::create(&log).context("log of containerd")?)
            .spawn()
            .context("containerd")?;
        let containerd = Self {
            host: Arc::clone(host),
            process,
            address,
        };
        let ready = wait::until(START_LIMIT, "containerd answers", || {
            program::output(containerd.ctr().arg("version")).ok()
        });
        ready.with_context(|| fs::read_to_string(log).unwrap_or_default())?;
        Ok(containerd)
    }

    /// `ctr`, without arguments of its own yet.
    pub fn ctr(&self) -> Command {
        let mut command = self.host.command("ctr");
        command.arg("--address").arg(&self.address);
        command
    }
}

impl Drop for Containerd {
    fn drop(&mut self) {
        // It may have ended already; waiting for it is what matters.
        drop(self.process.kill());
        drop(self.process.wait());
    }
}
