//! dockerd from Debian's package, unpacked, on a throwaway host of its own.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use kernel_tests::{Host, Outside, image, program, wait};

use super::peer;

const START_LIMIT: Duration = Duration::from_secs(30);
const STOP_LIMIT: Duration = Duration::from_secs(30);
/// The image of both sides is the same archive.
pub(crate) const TOOLS: &str = "tools";

/// Dropped in this order: first the outside host, then the daemon by [`Drop`], then its host.
pub(crate) struct Docker {
    pub(crate) outside: Outside,
    host: Arc<Host>,
    process: Child,
    client: PathBuf,
    directory: tempfile::TempDir,
}

impl Docker {
    pub(crate) fn start() -> Result<Self> {
        let host = Arc::new(Host::throwaway()?);
        let outside = Outside::new(Arc::clone(&host))?;
        let directory = tempfile::Builder::new()
            .prefix("hawser-peer-")
            .tempdir_in("/var/tmp")
            .context("directory of dockerd")?;
        let root = directory.path();
        let log = File::create(root.join("log")).context("log of dockerd")?;
        let process = host
            .command(peer("usr/sbin/dockerd")?)
            .arg("--data-root")
            .arg(root.join("data"))
            .arg("--exec-root")
            .arg(root.join("exec"))
            .arg("--pidfile")
            .arg(root.join("pid"))
            .arg("--host")
            .arg(format!("unix://{}", root.join("docker.sock").display()))
            .env("PATH", search_path()?)
            .stdin(Stdio::null())
            .stdout(log.try_clone().context("log of dockerd")?)
            .stderr(log)
            .spawn()
            .context("dockerd")?;
        let client = peer("usr/bin/docker")?;
        let mut docker = Self {
            outside,
            host,
            process,
            client,
            directory,
        };
        docker.wait_until_ready()?;
        docker.import_tools()?;
        Ok(docker)
    }

    fn wait_until_ready(&mut self) -> Result<()> {
        let ready = wait::until(START_LIMIT, "dockerd answers", || {
            let ended = !matches!(self.process.try_wait(), Ok(None));
            (ended || self.output(&["version"]).is_ok()).then_some(!ended)
        });
        if matches!(ready, Ok(true)) {
            return Ok(());
        }
        let log = fs::read_to_string(self.directory.path().join("log")).unwrap_or_default();
        let last = log.lines().last().unwrap_or("it said nothing");
        anyhow::bail!("{last}")
    }

    fn import_tools(&self) -> Result<()> {
        let archive = self.directory.path().join("tools.tar");
        image::busybox(&archive)?;
        self.output(&["import", &archive.display().to_string(), TOOLS])
            .map(drop)
    }

    /// `docker ARGUMENTS`, not yet run.
    pub(crate) fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(&self.client);
        let socket = self.directory.path().join("docker.sock");
        command
            .arg("--host")
            .arg(format!("unix://{}", socket.display()))
            .args(arguments);
        command
    }

    /// Runs `docker ARGUMENTS`, which must succeed.
    pub(crate) fn output(&self, arguments: &[&str]) -> Result<String> {
        program::output(&mut self.command(arguments))
    }

    /// Its process.
    pub(crate) fn pid(&self) -> u32 {
        self.process.id()
    }

    /// Where dockerd keeps everything.
    pub(crate) fn directory(&self) -> &Path {
        self.directory.path()
    }

    pub(crate) fn host(&self) -> &Arc<Host> {
        &self.host
    }

    fn stop(&mut self) -> Result<()> {
        let containers = self.output(&["ps", "--all", "--quiet"])?;
        if !containers.is_empty() {
            let ids = containers.lines();
            self.output(&["rm", "--force"].into_iter().chain(ids).collect::<Vec<_>>())?;
        }
        program::output(Command::new("kill").arg(self.process.id().to_string()))?;
        let status = wait::until(STOP_LIMIT, "dockerd ends", || {
            self.process.try_wait().ok().flatten()
        })?;
        ensure!(status.success(), "dockerd ended badly: {status}");
        Ok(())
    }
}

/// The unpacked programs come first: dockerd starts containerd, runc and docker-proxy by name.
fn search_path() -> Result<std::ffi::OsString> {
    let own = [peer("usr/sbin")?, peer("usr/bin")?];
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::join_paths(own.into_iter().chain(std::env::split_paths(&path))).context("PATH")
}

impl Drop for Docker {
    fn drop(&mut self) {
        if let Err(error) = self.stop() {
            eprintln!("clean-up of dockerd: {error:#}");
            drop(self.process.kill());
            drop(self.process.wait());
        }
    }
}
