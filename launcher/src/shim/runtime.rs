//! Drives an OCI runtime by its command line: `create`, `start`, `delete --force`.

use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};

use serde::Deserialize;

#[derive(Debug, thiserror::Error)]
pub(crate) enum RuntimeError {
    #[error("run the container runtime for {verb}: {source}")]
    Run {
        verb: &'static str,
        source: io::Error,
    },
    #[error("container runtime: {message}")]
    Refused { message: String },
    #[error("read {}: {source}", path.display())]
    PidFile { path: PathBuf, source: io::Error },
}

/// What a container's process is given as its standard streams.
#[derive(Debug)]
pub(crate) struct Stdio3 {
    pub(crate) stdin: Stdio,
    pub(crate) stdout: Stdio,
    pub(crate) stderr: Stdio,
}

impl Stdio3 {
    pub(crate) fn null() -> Self {
        Self {
            stdin: Stdio::null(),
            stdout: Stdio::null(),
            stderr: Stdio::null(),
        }
    }

    pub(crate) fn pipes(stdin: Option<OwnedFd>, stdout: OwnedFd, stderr: OwnedFd) -> Self {
        Self {
            stdin: stdin.map_or_else(Stdio::null, Stdio::from),
            stdout: stdout.into(),
            stderr: stderr.into(),
        }
    }
}

/// One container of the runtime.
#[derive(Debug)]
pub(crate) struct Runtime {
    /// Where the runtime keeps its state.
    pub(crate) root: PathBuf,
    /// The shim's boot-scoped directory: pid file and error log.
    pub(crate) scratch: PathBuf,
    pub(crate) id: String,
}

impl Runtime {
    /// Prepares the container and returns the pid of its first process, which waits for `start`.
    pub(crate) fn create(
        &self,
        bundle: &Path,
        stdio: Stdio3,
        console_socket: Option<&Path>,
    ) -> Result<u32, RuntimeError> {
        let pid_file = self.scratch.join("init.pid");
        let mut command = self.command("create");
        command
            .arg("--bundle")
            .arg(bundle)
            .arg("--pid-file")
            .arg(&pid_file);
        if let Some(socket) = console_socket {
            command.arg("--console-socket").arg(socket);
        }
        command
            .stdin(stdio.stdin)
            .stdout(stdio.stdout)
            .stderr(stdio.stderr);
        self.finish("create", command)?;
        let unreadable = |source| RuntimeError::PidFile {
            path: pid_file.clone(),
            source,
        };
        let text = fs::read_to_string(&pid_file).map_err(unreadable)?;
        text.trim()
            .parse()
            .map_err(|error| unreadable(io::Error::other(error)))
    }

    pub(crate) fn start(&self) -> Result<(), RuntimeError> {
        self.finish("start", self.quiet("start"))
    }

    /// Kills what is left of the container and removes its cgroups. Nothing there is success.
    pub(crate) fn delete(&self) -> Result<(), RuntimeError> {
        if !self.root.join(&self.id).exists() {
            return Ok(());
        }
        let mut command = self.quiet("delete");
        command.arg("--force");
        self.finish("delete", command)
    }

    fn quiet(&self, verb: &str) -> Command {
        let mut command = self.command(verb);
        command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        command
    }

    /// This very program, also when a newer one has replaced its file meanwhile.
    fn command(&self, verb: &str) -> Command {
        let mut command = Command::new("/proc/self/exe");
        command.arg("oci").arg("--root").arg(&self.root);
        command
            .arg("--log")
            .arg(self.log())
            .args(["--log-format", "json"]);
        command.arg(verb).arg(&self.id);
        command
    }

    fn log(&self) -> PathBuf {
        self.scratch.join("runtime.log")
    }

    fn finish(&self, verb: &'static str, mut command: Command) -> Result<(), RuntimeError> {
        // A line of an earlier failure must not explain this one.
        if let Err(source) = fs::remove_file(self.log())
            && source.kind() != io::ErrorKind::NotFound
        {
            return Err(RuntimeError::Run { verb, source });
        }
        let status = command
            .status()
            .map_err(|source| RuntimeError::Run { verb, source })?;
        if status.success() {
            return Ok(());
        }
        Err(RuntimeError::Refused {
            message: self.last_words(verb, status),
        })
    }

    fn last_words(&self, verb: &str, status: ExitStatus) -> String {
        #[derive(Deserialize)]
        struct Line {
            level: String,
            msg: String,
        }
        let log = fs::read_to_string(self.log()).unwrap_or_default();
        let mut lines = log
            .lines()
            .filter_map(|line| serde_json::from_str::<Line>(line).ok());
        let last = lines.rfind(|line| line.level == "error");
        last.map_or_else(|| format!("{verb} ended with {status}"), |line| line.msg)
    }
}
