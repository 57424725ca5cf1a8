//! How the command line starts a shim: the arguments and the report that comes back.
//!
//! The shim's standard output is the report pipe: one JSON line `{"listening":SOCKET}` as soon as
//! clients can connect, then one of `{"started":PID}` and `{"error":TEXT,"exit_code":N}`. Its
//! standard error carries warnings to the user until then. After that it holds neither.

use std::env;
use std::ffi::OsString;
use std::io::{self, BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::thread;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::cgroup;

/// Overrides where the shim's program is.
pub const SHIM_ENV: &str = "HAWSER_SHIM";
const SHIM: &str = "hawser-shim";

/// Docker's exit codes of a container that could not be started.
pub const EXIT_DAEMON: i32 = 125;
pub const EXIT_NOT_EXECUTABLE: i32 = 126;
pub const EXIT_NOT_FOUND: i32 = 127;

#[derive(Debug, thiserror::Error)]
pub enum LaunchError {
    #[error(
        "cannot find hawser-shim beside this program or in PATH; install it there or name it by \
         HAWSER_SHIM"
    )]
    NoShim,
    #[error("cannot run {}: {source}", shim.display())]
    Run { shim: PathBuf, source: io::Error },
    #[error("the shim ended without a report{reason}")]
    NoReport { reason: String },
    /// The container could not be started; everything is as before.
    #[error("{message}")]
    Refused { message: String, exit_code: i32 },
}

impl LaunchError {
    /// The exit code of `hawser run` and `hawser start -a`.
    pub fn exit_code(&self) -> i32 {
        match self {
            Self::Refused { exit_code, .. } => *exit_code,
            _ => EXIT_DAEMON,
        }
    }
}

/// One line of the report pipe.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub(crate) enum Report {
    Listening { listening: PathBuf },
    Started { started: u32 },
    Failed { error: String, exit_code: i32 },
}

/// Where things are: what a shim is told by flags.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Places {
    /// `STATE/containers/ID`.
    pub container_dir: PathBuf,
    pub run_dir: PathBuf,
    /// The daemon's socket.
    pub socket: PathBuf,
    pub plugin_dir: PathBuf,
    pub cni_bin_dir: PathBuf,
}

impl Places {
    pub(crate) fn arguments(&self) -> Vec<OsString> {
        let mut host = OsString::from("unix://");
        host.push(&self.socket);
        let flags: [(&str, OsString); 5] = [
            ("--container-dir", self.container_dir.clone().into()),
            ("--run-dir", self.run_dir.clone().into()),
            ("--host", host),
            ("--plugin-dir", self.plugin_dir.clone().into()),
            ("--cni-bin", self.cni_bin_dir.clone().into()),
        ];
        flags
            .into_iter()
            .flat_map(|(flag, value)| [OsString::from(flag), value])
            .collect()
    }
}

/// The shim's program: `HAWSER_SHIM`, else beside this program, else in `PATH`.
///
/// # Errors
/// [`LaunchError::NoShim`].
pub fn find_shim() -> Result<PathBuf, LaunchError> {
    if let Some(named) = env::var_os(SHIM_ENV).filter(|named| !named.is_empty()) {
        return Ok(named.into());
    }
    let beside = env::current_exe()
        .ok()
        .map(|program| program.with_file_name(SHIM));
    let path = env::var_os("PATH").unwrap_or_default();
    beside
        .into_iter()
        .chain(env::split_paths(&path).map(|dir| dir.join(SHIM)))
        .find(|candidate| candidate.is_file())
        .ok_or(LaunchError::NoShim)
}

/// Starts a shim and waits until clients can connect to it.
///
/// With `wait_attach` the container is prepared but not run until a client sends
/// [`crate::stream::Control::Start`], so that no output is lost; if this process ends before that,
/// the start is undone.
///
/// # Errors
/// [`LaunchError`].
pub fn start(shim: &Path, places: &Places, wait_attach: bool) -> Result<Starting, LaunchError> {
    cgroup::expect_moves();
    let mut command = Command::new(shim);
    command.arg("run").args(places.arguments());
    if wait_attach {
        command.arg("--wait-attach");
    }
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .map_err(|source| LaunchError::Run {
            shim: shim.to_owned(),
            source,
        })?;
    let Some(stdout) = child.stdout.take() else {
        return Err(LaunchError::NoReport {
            reason: String::new(),
        });
    };
    let mut starting = Starting {
        child,
        report: BufReader::new(stdout),
        socket: PathBuf::new(),
    };
    match starting.next_report()? {
        Report::Listening { listening } => starting.socket = listening,
        Report::Failed { error, exit_code } => {
            return Err(LaunchError::Refused {
                message: error,
                exit_code,
            });
        }
        Report::Started { .. } => {
            return Err(LaunchError::NoReport {
                reason: ": it ran too early".to_owned(),
            });
        }
    }
    Ok(starting)
}

/// A shim on its way.
#[derive(Debug)]
pub struct Starting {
    child: Child,
    report: BufReader<ChildStdout>,
    socket: PathBuf,
}

impl Starting {
    /// Where [`crate::stream::Connection::open`] reaches it.
    pub fn socket(&self) -> &Path {
        &self.socket
    }

    /// Waits for the start and returns the pid of the container's first process. The shim lives on
    /// by itself.
    ///
    /// # Errors
    /// [`LaunchError::Refused`] when the container could not be started.
    pub fn finish(mut self) -> Result<u32, LaunchError> {
        self.await_start()
    }

    /// The same for a program that stays and does not forward signals, which the thread that reaps
    /// the shim would get: else what is left of its shims would stay with it.
    ///
    /// # Errors
    /// As [`Starting::finish`].
    pub fn finish_and_reap(mut self) -> Result<u32, LaunchError> {
        let started = self.await_start();
        let mut shim = self.child;
        drop(thread::Builder::new().spawn(move || shim.wait()));
        started
    }

    fn await_start(&mut self) -> Result<u32, LaunchError> {
        match self.next_report()? {
            Report::Started { started } => Ok(started),
            Report::Failed { error, exit_code } => Err(LaunchError::Refused {
                message: error,
                exit_code,
            }),
            Report::Listening { .. } => Err(LaunchError::NoReport {
                reason: ": it repeats itself".to_owned(),
            }),
        }
    }

    fn next_report(&mut self) -> Result<Report, LaunchError> {
        let mut line = String::new();
        let read = self.report.read_line(&mut line);
        match read.map(|_length| serde_json::from_str(&line)) {
            Ok(Ok(report)) => Ok(report),
            _ => {
                let reason = match self.child.wait() {
                    Ok(status) => format!(": {status}"),
                    Err(error) => format!(": {error}"),
                };
                Err(LaunchError::NoReport { reason })
            }
        }
    }
}

/// What `hawser exec` asks for.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Exec {
    pub tty: bool,
    /// Forward standard input; else it is empty.
    pub interactive: bool,
    pub detach: bool,
    pub privileged: bool,
    /// `USER[:GROUP]`; the container's own when absent.
    pub user: Option<String>,
    /// `KEY=VALUE`, over the container's environment.
    pub env: Vec<String>,
    /// The container's own when absent.
    pub workdir: Option<String>,
    /// The keys that leave a terminal, as `--detach-keys` has them; Docker's when absent.
    pub detach_keys: Option<String>,
    /// The command is killed after so long.
    pub timeout: Option<Duration>,
    pub command: Vec<String>,
}

impl Exec {
    /// The process to run with the caller's standard streams. Its exit status is the command's;
    /// 126, 127 and 125 when it could not be run, with one line on standard error.
    pub fn command(&self, shim: &Path, places: &Places) -> Command {
        let mut command = Command::new(shim);
        command.arg("join").args(places.arguments());
        let switches = [
            (self.tty, "--tty"),
            (self.interactive, "--interactive"),
            (self.detach, "--detach"),
            (self.privileged, "--privileged"),
        ];
        command.args(
            switches
                .iter()
                .filter(|(on, _)| *on)
                .map(|(_, switch)| switch),
        );
        if let Some(user) = &self.user {
            command.arg("--user").arg(user);
        }
        for variable in &self.env {
            command.arg("--env").arg(variable);
        }
        if let Some(workdir) = &self.workdir {
            command.arg("--workdir").arg(workdir);
        }
        if let Some(keys) = &self.detach_keys {
            command.arg("--detach-keys").arg(keys);
        }
        if let Some(timeout) = self.timeout {
            let milliseconds = timeout.as_millis().to_string();
            command.arg("--timeout-ms").arg(milliseconds);
        }
        command.arg("--").args(&self.command);
        command
    }
}
