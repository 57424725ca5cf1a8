//! dockerd from Debian's package, unpacked and never installed.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use crate::{Host, image, program, wait};

/// Names the directory where `cargo xtask` has unpacked the packages of peers.
pub const PEERS_ENV: &str = "HAWSER_PEERS";

const START_LIMIT: Duration = Duration::from_secs(30);
const STOP_LIMIT: Duration = Duration::from_secs(30);
/// The image of both sides is the same archive.
pub const TOOLS: &str = "tools";

/// A daemon that is ended when this is dropped, with its containers.
#[derive(Debug)]
pub struct Docker {
    host: Arc<Host>,
    process: Child,
    client: PathBuf,
    directory: tempfile::TempDir,
}

/// A file of the unpacked peers.
///
/// # Errors
/// When it is not there.
pub fn peer(path: &str) -> Result<PathBuf> {
    let root = std::env::var_os(PEERS_ENV)
        .with_context(|| format!("{PEERS_ENV} is not set; run this through `cargo xtask`"))?;
    let file = Path::new(&root).join(path);
    ensure!(file.exists(), "{} does not exist", file.display());
    Ok(file)
}

impl Docker {
    /// Starts dockerd on `host` with directories of its own and the image [`TOOLS`].
    ///
    /// # Errors
    /// When it does not start, in its last words.
    pub fn start(host: Arc<Host>) -> Result<Self> {
        let directory = tempfile::Builder::new()
            .prefix("hawser-peer-")
            .tempdir_in("/var/tmp")
            .context("directory of dockerd")?;
        let root = directory.path();
        let process = spawn(&host, root)?;
        let client = peer("usr/bin/docker")?;
        let mut docker = Self {
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

    /// Ends the daemon and starts it again with what it has on its disk.
    ///
    /// # Errors
    /// When it does not end, or does not start.
    pub fn restart(&mut self) -> Result<()> {
        self.end()?;
        self.process = spawn(&self.host, self.directory.path())?;
        self.wait_until_ready()
    }

    /// `docker ARGUMENTS`, not yet run.
    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(&self.client);
        let socket = self.directory.path().join("docker.sock");
        command
            .arg("--host")
            .arg(format!("unix://{}", socket.display()))
            .args(arguments);
        command
    }

    /// Runs `docker ARGUMENTS`, which must succeed.
    ///
    /// # Errors
    /// When it fails.
    pub fn output(&self, arguments: &[&str]) -> Result<String> {
        program::output(&mut self.command(arguments))
    }

    /// Its process.
    pub fn pid(&self) -> u32 {
        self.process.id()
    }

    /// Where dockerd keeps everything.
    pub fn directory(&self) -> &Path {
        self.directory.path()
    }

    pub fn host(&self) -> &Arc<Host> {
        &self.host
    }

    fn stop(&mut self) -> Result<()> {
        let containers = self.output(&["ps", "--all", "--quiet"])?;
        if !containers.is_empty() {
            let ids = containers.lines();
            self.output(&["rm", "--force"].into_iter().chain(ids).collect::<Vec<_>>())?;
        }
        self.end()
    }

    fn end(&mut self) -> Result<()> {
        program::output(Command::new("kill").arg(self.process.id().to_string()))?;
        let status = wait::until(STOP_LIMIT, "dockerd ends", || {
            self.process.try_wait().ok().flatten()
        })?;
        ensure!(status.success(), "dockerd ended badly: {status}");
        Ok(())
    }
}

fn spawn(host: &Host, root: &Path) -> Result<Child> {
    let mut log = File::options();
    let log = log.create(true).append(true).open(root.join("log"));
    let log = log.context("log of dockerd")?;
    host.command(peer("usr/sbin/dockerd")?)
        .arg("--data-root")
        .arg(root.join("data"))
        .arg("--exec-root")
        .arg(root.join("exec"))
        .arg("--add-runtime")
        .arg(format!(
            "hawser={}",
            program::under_test("hawser-shim")?.display()
        ))
        .arg("--pidfile")
        .arg(root.join("pid"))
        .arg("--host")
        .arg(format!("unix://{}", root.join("docker.sock").display()))
        .env("PATH", search_path()?)
        .stdin(Stdio::null())
        .stdout(log.try_clone().context("log of dockerd")?)
        .stderr(log)
        .spawn()
        .context("dockerd")
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
