//! A hawserd with directories of its own, and the command line that talks to it.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use api::Client;
use rustix::process::{Pid, Signal, kill_process};

use crate::Host;
use crate::program::{self, Ran};
use crate::wait;

/// How long a daemon may take to answer its first request, and to end: long enough for a loaded
/// machine.
const START_LIMIT: Duration = Duration::from_secs(60);
const STOP_LIMIT: Duration = Duration::from_secs(20);

/// Everything a daemon keeps.
#[derive(Debug, Clone)]
pub struct Directories {
    root: PathBuf,
    run: PathBuf,
}

impl Directories {
    /// All below one directory.
    ///
    /// # Errors
    /// When the directories cannot be made.
    pub fn new(root: &Path) -> Result<Self> {
        Self::with_run(root, root.join("run"))
    }

    fn with_run(root: &Path, run: PathBuf) -> Result<Self> {
        let directories = Self {
            root: root.to_owned(),
            run,
        };
        let below = ["state", "plugins", "cni"].map(|dir| root.join(dir));
        for dir in below.iter().chain([&directories.run]) {
            fs::create_dir_all(dir).with_context(|| dir.display().to_string())?;
        }
        // A plugin's file has the name of its type.
        for (built, plugin) in [("hawser-cni", "hawser"), ("hawser-cni-ipam", "hawser-ipam")] {
            let plugin = root.join("cni").join(plugin);
            if !plugin.exists() {
                std::os::unix::fs::symlink(program::under_test(built)?, &plugin)
                    .with_context(|| plugin.display().to_string())?;
            }
        }
        let config = format!("cni-bin-dir = {:?}\n", root.join("cni"));
        fs::write(directories.config(), config).context("configuration of the daemon")?;
        Ok(directories)
    }

    pub fn root(&self) -> &Path {
        &self.root
    }

    pub fn state(&self) -> PathBuf {
        self.root.join("state")
    }

    pub fn socket(&self) -> PathBuf {
        self.run.join(api::path::SOCKET_NAME)
    }

    pub fn config(&self) -> PathBuf {
        self.root.join("hawserd.toml")
    }

    pub fn log(&self) -> PathBuf {
        self.root.join("hawserd.log")
    }

    fn arguments(&self) -> Vec<String> {
        [
            ("state-dir", self.state()),
            ("run-dir", self.run.clone()),
            ("plugin-dir", self.root.join("plugins")),
        ]
        .map(|(flag, dir)| format!("--{flag}={}", dir.display()))
        .into_iter()
        .chain([format!("--config={}", self.config().display())])
        .collect()
    }
}

/// Dropping it removes its containers, ends it, and removes what it made.
#[derive(Debug)]
pub struct Daemon {
    host: Arc<Host>,
    directories: Directories,
    process: Option<Child>,
    /// Where its programs are installed, unless they run from where they were built.
    programs: Option<PathBuf>,
    /// Everything has been removed already.
    is_clean: bool,
    /// Removed last.
    _scratch: Option<[tempfile::TempDir; 2]>,
}

impl Daemon {
    /// A daemon on `host` with fresh directories that go with it.
    ///
    /// # Errors
    /// When it does not start; the error has its log.
    pub fn start(host: Arc<Host>) -> Result<Self> {
        Self::configured(host, "")
    }

    /// A daemon on `host` with fresh directories and with `settings` in its configuration.
    ///
    /// # Errors
    /// As [`Daemon::start`].
    pub fn configured(host: Arc<Host>, settings: &str) -> Result<Self> {
        // A layer store belongs on a disk, which /tmp may not be; what goes with a boot is on a tmpfs,
        // as /run is: there, a transaction costs next to nothing.
        let scratch = |dir| {
            let mut builder = tempfile::Builder::new();
            let made = builder.prefix("hawser-test-").tempdir_in(dir);
            made.context("scratch directory")
        };
        let (scratch, run) = (scratch("/var/tmp")?, scratch("/dev/shm")?);
        let directories = Directories::with_run(scratch.path(), run.path().to_owned())?;
        let config = fs::read_to_string(directories.config()).context("configuration")?;
        fs::write(directories.config(), config + settings).context("configuration")?;
        let mut daemon = Self {
            host,
            directories,
            process: None,
            programs: None,
            is_clean: true,
            _scratch: Some([scratch, run]),
        };
        daemon.launch()?;
        Ok(daemon)
    }

    /// A daemon on `host` in `directories`, which the caller removes after it is dropped.
    ///
    /// # Errors
    /// As [`Daemon::start`].
    pub fn start_in(host: Arc<Host>, directories: Directories) -> Result<Self> {
        let mut daemon = Self {
            host,
            directories,
            process: None,
            programs: None,
            is_clean: true,
            _scratch: None,
        };
        daemon.launch()?;
        Ok(daemon)
    }

    /// What [`Daemon::start_in`] does, after ending a daemon that already runs in `directories`:
    /// one whose owner died before it.
    ///
    /// # Errors
    /// As [`Daemon::start`].
    pub fn take_over(host: Arc<Host>, directories: Directories) -> Result<Self> {
        end_processes(&directories.root, |name| name == "hawserd")?;
        Self::start_in(host, directories)
    }

    /// Installs the programs into a directory of its own, as a package would: those that were there
    /// are removed, and what still runs of them has lost its file.
    ///
    /// # Errors
    /// When the programs have not been built, or cannot be copied.
    pub fn install(&mut self) -> Result<()> {
        let dir = self.directories.root().join("bin");
        if self.programs.is_some() {
            fs::remove_dir_all(&dir).with_context(|| dir.display().to_string())?;
        }
        fs::create_dir(&dir).with_context(|| dir.display().to_string())?;
        for name in ["hawserd", "hawser", "hawser-shim"] {
            let (built, installed) = (program::under_test(name)?, dir.join(name));
            fs::copy(&built, &installed).with_context(|| installed.display().to_string())?;
        }
        self.programs = Some(dir);
        Ok(())
    }

    fn program(&self, name: &str) -> Result<PathBuf> {
        match &self.programs {
            Some(dir) => Ok(dir.join(name)),
            None => program::under_test(name),
        }
    }

    /// Starts the process and waits until it answers.
    ///
    /// # Errors
    /// As [`Daemon::start`].
    pub fn launch(&mut self) -> Result<()> {
        self.spawn()?;
        self.wait_until_ready()
    }

    /// Starts the process and leaves it to itself.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn spawn(&mut self) -> Result<()> {
        ensure!(self.process.is_none(), "the daemon runs already");
        let path = self.directories.log();
        let log = File::options()
            .create(true)
            .append(true)
            .open(&path)
            .with_context(|| path.display().to_string())?;
        let child = self
            .host
            .command(self.program("hawserd")?)
            .args(self.directories.arguments())
            .stdin(Stdio::null())
            .stdout(log.try_clone().context("log of the daemon")?)
            .stderr(log)
            .spawn()
            .context("hawserd")?;
        self.process = Some(child);
        self.is_clean = false;
        Ok(())
    }

    /// Waits until the process answers.
    ///
    /// # Errors
    /// When it ends, or takes too long; the error has its log.
    pub fn wait_until_ready(&mut self) -> Result<()> {
        // One that is busy answers another time.
        let patience = wait::slowed(Duration::from_secs(1));
        let client = self.client().with_timeout(patience);
        let process = self.process.as_mut().context("the daemon was started")?;
        let limit = wait::slowed(START_LIMIT);
        let ready = wait::until(limit, "hawserd answers", || match process.try_wait() {
            Ok(None) => client.get_text(api::path::PING).ok().map(|_pong| true),
            _ended => Some(false),
        });
        if matches!(ready, Ok(true)) {
            return Ok(());
        }
        bail!("hawserd does not start:\n{}", self.log());
    }

    /// A client of the daemon's socket.
    pub fn client(&self) -> Client {
        Client::new(self.directories.socket())
    }

    pub fn directories(&self) -> &Directories {
        &self.directories
    }

    /// What the daemon logged.
    pub fn log(&self) -> String {
        fs::read_to_string(self.directories.log()).unwrap_or_default()
    }

    /// The words that start another daemon in the same directories.
    ///
    /// # Errors
    /// When the program has not been built.
    pub fn command_line(&self) -> Result<Vec<String>> {
        let program = program::under_test("hawserd")?.display().to_string();
        Ok([vec![program], self.directories.arguments()].concat())
    }

    /// The daemon's process id while it runs.
    pub fn pid(&self) -> Option<u32> {
        self.process.as_ref().map(Child::id)
    }

    /// `hawser ARGUMENTS`, not yet run.
    ///
    /// # Errors
    /// When the program has not been built.
    pub fn command(&self, arguments: &[&str]) -> Result<Command> {
        // nsenter keeps the environment.
        let mut command = self.host.command(self.program("hawser")?);
        let socket = format!("unix://{}", self.directories.socket().display());
        command.args(arguments).env(api::path::HOST_ENV, socket);
        Ok(command)
    }

    /// Runs `hawser ARGUMENTS` to its end.
    ///
    /// # Errors
    /// When the program cannot be started; its exit code is in the value.
    pub fn run(&self, arguments: &[&str]) -> Result<Ran> {
        program::run(&mut self.command(arguments)?)
    }

    /// Runs `hawser ARGUMENTS`, which must succeed; returns its standard output.
    ///
    /// # Errors
    /// When it fails.
    pub fn hawser(&self, arguments: &[&str]) -> Result<String> {
        self.run(arguments)?.success()
    }

    /// Ends the daemon as a power cut would: without warning.
    ///
    /// # Errors
    /// When it does not run.
    pub fn kill(&mut self) -> Result<()> {
        let mut process = self.process.take().context("the daemon does not run")?;
        process.kill().context("kill hawserd")?;
        process.wait().context("wait for hawserd").map(drop)
    }

    /// Ends the daemon as its service manager would.
    ///
    /// # Errors
    /// When it does not run, does not end in time, or does not end well.
    pub fn stop(&mut self) -> Result<()> {
        let mut process = self.process.take().context("the daemon does not run")?;
        signal(process.id(), Signal::TERM)?;
        let status = wait::until(STOP_LIMIT, "hawserd ends", || {
            process.try_wait().ok().flatten()
        });
        if status.is_err() {
            process.kill().context("kill hawserd")?;
        }
        ensure!(status?.success(), "hawserd ended badly:\n{}", self.log());
        Ok(())
    }

    /// Removes every container, service, network and volume, ends the daemon and removes what it put into
    /// the kernel. Goes on after a failure and returns the first.
    ///
    /// # Errors
    /// The first thing that could not be removed.
    pub fn clean(&mut self) -> Result<()> {
        let mut first = Ok(());
        let mut note = |result: Result<()>| {
            if first.is_ok() {
                first = result;
            }
        };
        // Nobody else knows how to remove containers, with their control groups.
        if self.process.is_none() && self.has_containers() {
            note(self.launch());
        }
        if self.process.is_some() {
            note(self.remove_objects());
            note(self.stop());
        }
        // A daemon that was restarted by somebody else is not our child, but still names them.
        note(end_processes(&self.directories.root, |_any| true));
        note(self.uninstall());
        note(self.unmount_all());
        self.is_clean = first.is_ok();
        first
    }

    /// The process that keeps the replicas of services, if there is one.
    pub fn agent(&self) -> Option<i32> {
        let lock = self.directories.state().join("agent/lock");
        fs::read_to_string(lock).ok()?.trim().parse().ok()
    }

    fn has_containers(&self) -> bool {
        let containers = fs::read_dir(self.directories.state().join("containers"));
        containers.is_ok_and(|mut containers| containers.next().is_some())
    }

    fn remove_objects(&self) -> Result<()> {
        // First of all, so that nobody starts containers again.
        for service in self.hawser(&["service", "ls", "--quiet"])?.lines() {
            self.hawser(&["service", "rm", service])?;
        }
        for id in self
            .hawser(&["ps", "--all", "--quiet", "--no-trunc"])?
            .lines()
        {
            self.hawser(&["rm", "--force", "--volumes", id])?;
        }
        let client = self.client();
        let endpoints: Vec<api::net::Attachment> = client.get(api::path::ENDPOINTS)?;
        for endpoint in endpoints {
            let container = api::client::escape(&endpoint.container_id);
            let ifname = endpoint.ifname;
            client.delete(&format!("{}/{container}/{ifname}", api::path::ENDPOINTS))?;
        }
        let networks: Vec<api::net::Network> = client.get(api::path::NETWORKS)?;
        let predefined = ["bridge", "host", "none"];
        for network in networks
            .iter()
            .filter(|n| !predefined.contains(&n.name.as_str()))
        {
            self.hawser(&["network", "rm", network.name.as_str()])?;
        }
        for volume in self.hawser(&["volume", "ls", "--quiet"])?.lines() {
            self.hawser(&["volume", "rm", volume])?;
        }
        Ok(())
    }

    fn uninstall(&self) -> Result<()> {
        let mut command = self.host.command(program::under_test("hawserd")?);
        program::output(
            command
                .args(self.directories.arguments())
                .arg("--uninstall"),
        )
        .map(drop)
    }

    fn unmount_all(&self) -> Result<()> {
        let table = self.host.output("cat", &["/proc/self/mountinfo"])?;
        let root = self.directories.root.display().to_string();
        let points = table.lines().filter_map(|line| line.split(' ').nth(4));
        let ours: Vec<&str> = points.filter(|point| point.starts_with(&root)).collect();
        // The last mounted is the first to go.
        for point in ours.iter().rev() {
            self.host.output("umount", &["--lazy", point])?;
        }
        Ok(())
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        if !self.is_clean
            && let Err(error) = self.clean()
        {
            eprintln!("clean-up: {error:#}");
        }
        if std::thread::panicking() {
            eprintln!("log of hawserd:\n{}", self.log());
        }
    }
}

fn signal(pid: u32, signal: Signal) -> Result<()> {
    let pid = i32::try_from(pid)
        .ok()
        .and_then(Pid::from_raw)
        .context("a process id")?;
    kill_process(pid, signal).with_context(|| format!("signal process {pid:?}"))
}

/// Ends what a failed test may have left running: every process with a fitting name that was
/// started with `dir` on its command line.
fn end_processes(dir: &Path, fits: impl Fn(&str) -> bool) -> Result<()> {
    let pids = processes_naming(dir, fits)?;
    for pid in &pids {
        // One that has ended in between is what we want.
        drop(signal(*pid, Signal::KILL));
    }
    wait::until(STOP_LIMIT, "processes of the daemon end", || {
        pids.iter().all(|pid| !is_alive(*pid)).then_some(())
    })
}

/// A process that has ended and waits for its parent is not alive (`Z`, proc_pid_stat(5)).
fn is_alive(pid: u32) -> bool {
    fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| {
        !stat
            .rsplit(')')
            .next()
            .is_some_and(|rest| rest.starts_with(" Z"))
    })
}

fn processes_naming(dir: &Path, fits: impl Fn(&str) -> bool) -> Result<Vec<u32>> {
    let dir = dir.display().to_string();
    let own = std::process::id();
    let mut pids = Vec::new();
    for entry in fs::read_dir("/proc")
        .context("/proc")?
        .filter_map(Result::ok)
    {
        let Ok(pid) = entry.file_name().to_string_lossy().parse() else {
            continue;
        };
        let Ok(name) = fs::read_to_string(entry.path().join("comm")) else {
            continue;
        };
        let Ok(line) = fs::read(entry.path().join("cmdline")) else {
            continue;
        };
        if pid != own && fits(name.trim()) && String::from_utf8_lossy(&line).contains(&dir) {
            pids.push(pid);
        }
    }
    Ok(pids)
}
