//! Drives an OCI runtime by its command line: `create`, `start`, `delete --force`. It is our own,
//! or another one ([`super::foreign`]).

use std::ffi::OsString;
use std::fs;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::ExitStatus;

use rustix::fs::{Mode, OFlags};
use serde::Deserialize;

use super::foreign::{Chosen, UnknownRuntime};
use super::streams::remove_stale;
use super::{foreign, oci};
use crate::container::Record;

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
    pub(crate) stdin: OwnedFd,
    pub(crate) stdout: OwnedFd,
    pub(crate) stderr: OwnedFd,
}

impl Stdio3 {
    pub(crate) fn null() -> io::Result<Self> {
        Ok(Self {
            stdin: null()?,
            stdout: null()?,
            stderr: null()?,
        })
    }
}

/// `/dev/null`, to read nothing from and to write what nobody wants.
pub(crate) fn null() -> io::Result<OwnedFd> {
    let flags = OFlags::RDWR | OFlags::CLOEXEC;
    Ok(rustix::fs::open("/dev/null", flags, Mode::empty())?)
}

/// What is to be there before the runtime is called.
#[derive(Debug)]
pub(crate) struct Staged<'a> {
    /// The file that says so.
    pub(crate) plan: PathBuf,
    /// The root file system, if it is mounted nowhere yet.
    pub(crate) root: Option<BorrowedFd<'a>>,
}

/// One container of the runtime.
#[derive(Debug)]
pub(crate) struct Runtime {
    /// Where the runtime keeps its state.
    pub(crate) root: PathBuf,
    /// The shim's boot-scoped directory: pid file and error log.
    pub(crate) scratch: PathBuf,
    pub(crate) id: String,
    /// Another one's program.
    pub(crate) program: Option<PathBuf>,
}

impl Runtime {
    /// The one that the container asks for.
    pub(crate) fn of(
        record: &Record,
        run_dir: &Path,
        scratch: &Path,
    ) -> Result<Self, UnknownRuntime> {
        let chosen = match &record.runtime_program {
            Some(program) => Chosen::Foreign(program.clone()),
            None => foreign::choose(&record.host_config.runtime)?,
        };
        let (root, program) = match chosen {
            Chosen::Own => ("libcontainer", None),
            Chosen::Foreign(program) => ("runtimes", Some(program)),
        };
        Ok(Self {
            root: run_dir.join(root),
            scratch: scratch.to_owned(),
            id: record.id.to_string(),
            program,
        })
    }

    /// Whether it makes containers on a [`super::stage`].
    pub(crate) fn has_stage(&self) -> bool {
        self.program.is_none()
    }

    /// Prepares the container and returns the pid of its first process, which waits for `start`.
    pub(crate) fn create(
        &self,
        bundle: &Path,
        stdio: &Stdio3,
        console_socket: Option<&Path>,
        stage: Option<&Staged<'_>>,
    ) -> Result<u32, RuntimeError> {
        let pid_file = self.scratch.join("init.pid");
        let mut flags: Vec<OsString> = vec![
            "--bundle".into(),
            bundle.into(),
            "--pid-file".into(),
            pid_file.clone().into(),
        ];
        if let Some(socket) = console_socket {
            flags.extend(["--console-socket".into(), socket.into()]);
        }
        if let Some(stage) = stage {
            flags.extend(["--stage".into(), stage.plan.clone().into()]);
        }
        let root = stage.and_then(|stage| stage.root);
        self.call("create", flags, stdio, root)?;
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
        if self.program.is_some() {
            return self.call_quietly("start", Vec::new());
        }
        // No copy is needed: the library only visits another working directory meanwhile.
        oci::start(&self.root, &self.id).map_err(|error| RuntimeError::Refused {
            message: error.to_string(),
        })
    }

    /// Forgets a container that has left no process and no control group.
    pub(crate) fn forget(&self) -> Result<(), RuntimeError> {
        match fs::remove_dir_all(self.root.join(&self.id)) {
            Err(source) if source.kind() != io::ErrorKind::NotFound => Err(RuntimeError::Run {
                verb: "delete",
                source,
            }),
            _ => Ok(()),
        }
    }

    /// Kills what is left of the container and removes its cgroups. Nothing there is success.
    pub(crate) fn delete(&self) -> Result<(), RuntimeError> {
        if !self.root.join(&self.id).exists() {
            return Ok(());
        }
        self.call_quietly("delete", vec!["--force".into()])
    }

    fn call_quietly(&self, verb: &'static str, flags: Vec<OsString>) -> Result<(), RuntimeError> {
        let stdio = Stdio3::null().map_err(|source| RuntimeError::Run { verb, source })?;
        self.call(verb, flags, &stdio, None)
    }

    fn call(
        &self,
        verb: &'static str,
        flags: Vec<OsString>,
        stdio: &Stdio3,
        handed: Option<BorrowedFd<'_>>,
    ) -> Result<(), RuntimeError> {
        let failed = |source| RuntimeError::Run { verb, source };
        // A line of an earlier failure must not explain this one.
        remove_stale(&self.log()).map_err(failed)?;
        let mut arguments: Vec<OsString> = vec![
            "--root".into(),
            self.root.clone().into(),
            "--log".into(),
            self.log().into(),
            "--log-format".into(),
            "json".into(),
            verb.into(),
        ];
        arguments.extend(flags);
        arguments.push(self.id.clone().into());
        let streams = [&stdio.stdin, &stdio.stdout, &stdio.stderr].map(OwnedFd::as_fd);
        let status = match &self.program {
            None => sys::copy::run(streams, handed, oci::main, arguments),
            Some(program) => {
                arguments.insert(0, program.into());
                sys::copy::run(streams, handed, foreign::main, arguments)
            }
        };
        let status = status.map_err(failed)?;
        if status.success() {
            return Ok(());
        }
        Err(RuntimeError::Refused {
            message: last_words(&self.log(), verb, status),
        })
    }

    fn log(&self) -> PathBuf {
        self.scratch.join("runtime.log")
    }
}

/// What a runtime that has failed wrote to its log.
pub(crate) fn last_words(log: &Path, verb: &str, status: ExitStatus) -> String {
    #[derive(Deserialize)]
    struct Line {
        level: String,
        msg: String,
    }
    let log = fs::read_to_string(log).unwrap_or_default();
    let mut lines = log
        .lines()
        .filter_map(|line| serde_json::from_str::<Line>(line).ok());
    let last = lines.rfind(|line| line.level == "error");
    last.map_or_else(|| format!("{verb} ended with {status}"), |line| line.msg)
}
