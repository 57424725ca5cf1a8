//! `hawser-shim join`: one more process in a running container.
//!
//! The caller's standard streams are the process's own, or are pumped through a terminal. The exit
//! status is the process's; what cannot be run gives 126 or 127 and one line.

pub(super) mod joining;
pub(super) mod terminal;

use std::fs;
use std::io::{self, PipeReader, Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use api::Client;
use api::owner::IdMaps;
use libcontainer::container::builder::ContainerBuilder;
use libcontainer::error::LibcontainerError;
use libcontainer::syscall::syscall::SyscallType;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{Mode, OFlags};
use rustix::process::{
    Pid, PidfdFlags, Signal, WaitOptions, getpid, pidfd_open, set_child_subreaper,
};
use rustix::stdio::{dup2_stderr, dup2_stdin, dup2_stdout};
use serde_json::{Value, json};

use super::arguments::Arguments;
use super::executor::{Workload, exit_code_of, without_prefix};
use super::foreign::UnknownRuntime;
use super::hold::reap;
use super::launch::{EXIT_DAEMON, Places};
use super::oci::{self, innermost};
use super::rootfs::Rootfs;
use super::runtime::{Runtime, last_words};
use super::spec::capability;
use super::spec::process::merge;
use super::spec::user::{Accounts, User, UserError};
use super::streams::{DescriptorSocket, remove_stale};
use crate::cli::run::detach::{self, DetachKeysError, Detector};
use crate::container::{ProcessId, Status};
use crate::event;

use crate::store::{ContainerDir, StoreError, is_alive};
use joining::{JoinError, member};

/// What timeout(1) ends with.
pub(super) const EXIT_TIMEOUT: i32 = 124;

#[derive(Debug, thiserror::Error)]
enum ExecError {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("container {id} is not running")]
    NotRunning { id: String },
    #[error("no command specified")]
    NoCommand,
    #[error("working directory {dir:?} is not an absolute path")]
    WorkingDir { dir: String },
    #[error(transparent)]
    User(#[from] UserError),
    #[error(transparent)]
    Joining(#[from] JoinError),
    #[error("{op} {}: {source}", path.display())]
    Io {
        op: &'static str,
        path: PathBuf,
        source: io::Error,
    },
    #[error("{} is damaged: {reason}", path.display())]
    Damaged { path: PathBuf, reason: String },
    #[error("{}", without_prefix(&innermost(source)))]
    Join { source: LibcontainerError },
    #[error(transparent)]
    UnknownRuntime(#[from] UnknownRuntime),
    #[error("{}", without_prefix(message))]
    Refused { message: String },
    #[error(transparent)]
    DetachKeys(#[from] DetachKeysError),
    #[error("wait for the process: {0}")]
    Wait(io::Error),
}

impl ExecError {
    fn exit_code(&self) -> i32 {
        match self {
            Self::Join { source } => exit_code_of(&innermost(source)),
            Self::Refused { message } => exit_code_of(message),
            // Docker's code for what the daemon refuses.
            Self::NotRunning { .. } | Self::Store(_) => 1,
            _ => EXIT_DAEMON,
        }
    }
}

pub(crate) fn main(places: &Places, arguments: &Arguments) -> i32 {
    let outcome = Exec::open(places, arguments).and_then(Exec::run);
    if let Ok(Some(code)) = &outcome
        && arguments.value("--timeout-ms").is_none()
    {
        tell_end(places, *code);
    }
    outcome.map_or_else(
        |error| {
            eprintln!("hawser: {error}");
            error.exit_code()
        },
        // What goes on has not failed.
        Option::unwrap_or_default,
    )
}

/// Of a command that somebody asked for; health checks are nobody's news.
fn tell_end(places: &Places, code: i32) {
    let record = ContainerDir::at(&places.container_dir).and_then(|dir| dir.record());
    if let Ok(record) = record {
        let told = event::of_container(&record, "exec_die").with("exitCode", code.to_string());
        event::tell(&Client::new(&places.socket), &told);
    }
}

struct Exec<'a> {
    arguments: &'a Arguments,
    id: String,
    init: ProcessId,
    /// Who the container's users are on the host, if they are others.
    maps: Option<IdMaps>,
    bundle_config: PathBuf,
    runtime: Runtime,
    /// Prefix of this process's own files.
    scratch: PathBuf,
}

impl<'a> Exec<'a> {
    fn open(places: &Places, arguments: &'a Arguments) -> Result<Self, ExecError> {
        let dir = ContainerDir::at(&places.container_dir)?;
        let state = dir.state()?;
        let init = match (state.status, state.init) {
            (Status::Running, Some(init)) => init,
            _ => {
                return Err(ExecError::NotRunning {
                    id: dir.id().to_string(),
                });
            }
        };
        if arguments.words().is_empty() {
            return Err(ExecError::NoCommand);
        }
        let containers = places.run_dir.join("containers").join(dir.id().short());
        let record = dir.record()?;
        Ok(Self {
            arguments,
            id: dir.id().to_string(),
            init,
            runtime: Runtime::of(&record, &places.run_dir, &containers)?,
            maps: record.id_maps,
            bundle_config: dir.bundle().join("config.json"),
            scratch: containers.join(format!("exec-{}", std::process::id())),
        })
    }

    /// None if it goes on without this process.
    fn run(self) -> Result<Option<i32>, ExecError> {
        self.enter().map_err(|error| match is_alive(self.init) {
            true => error,
            // Whatever could not be done, this is why.
            false => ExecError::NotRunning { id: self.id },
        })
    }

    fn enter(&self) -> Result<Option<i32>, ExecError> {
        let is_terminal = self.arguments.has("--tty");
        let (process, workload) = self.process()?;
        let console = if is_terminal {
            let path = self.scratch.with_extension("sock");
            Some(DescriptorSocket::bind(path.clone()).map_err(failed("listen at", &path))?)
        } else {
            None
        };
        self.redirect(is_terminal)?;
        let (pid, errors) = self.join(&process, workload, console.as_ref())?;
        let child = pidfd_open(pid, PidfdFlags::empty()).map_err(|errno| wait(errno.into()))?;
        let terminal = match console {
            Some(console) => Some(console.receive().map_err(wait)?),
            None => None,
        };
        if self.arguments.has("--detach") {
            return Ok(None);
        }
        match terminal {
            Some(terminal) => {
                let keys = self.arguments.value("--detach-keys");
                let keys = keys.unwrap_or(detach::DEFAULT);
                let detector = Detector::new(detach::parse(keys)?);
                terminal::pump(terminal, child.as_fd(), detector).map_err(wait)
            }
            None => {
                let ended = self.finish(child.as_fd(), errors);
                ended.map(Some).map_err(wait)
            }
        }
    }

    /// The exit code of a process that ends, in time if it has any. Meanwhile its errors are passed
    /// on, if they come here.
    fn finish(&self, child: BorrowedFd<'_>, mut errors: Option<PipeReader>) -> io::Result<i32> {
        let limit = self.arguments.value("--timeout-ms");
        let limit = limit.and_then(|text| text.parse().ok());
        let end = limit.map(|ms| Instant::now() + Duration::from_millis(ms));
        loop {
            let mut fds = vec![PollFd::from_borrowed_fd(child, PollFlags::IN)];
            fds.extend(errors.iter().map(|pipe| PollFd::new(pipe, PollFlags::IN)));
            let left = end.map(|end| end.saturating_duration_since(Instant::now()));
            let left = left.and_then(|left| Timespec::try_from(left).ok());
            let ready = rustix::io::retry_on_intr(|| poll(&mut fds, left.as_ref()))?;
            let has_ended = !fds[0].revents().is_empty();
            if errors.as_mut().is_some_and(|pipe| !pass_on(pipe)) {
                errors = None;
            }
            if ready == 0 {
                sys::signal::send(child, Signal::KILL.as_raw())?;
                reap(child)?;
                reap_others();
                return Ok(EXIT_TIMEOUT);
            }
            if has_ended {
                let code = reap(child)?;
                reap_others();
                return Ok(code);
            }
        }
    }

    /// The process as the OCI specification describes it, and what the executor has to do.
    fn process(&self) -> Result<(Value, Workload), ExecError> {
        let path = &self.bundle_config;
        let text = fs::read(path).map_err(failed("read", path))?;
        let config: Value = serde_json::from_slice(&text).map_err(|error| ExecError::Damaged {
            path: path.clone(),
            reason: error.to_string(),
        })?;
        let user = self.user()?;
        let process = process(&config["process"], &self.asked()?, user.as_ref());
        if self.runtime.program.is_some() {
            // Others do all of it themselves.
            return Ok((process, Workload::default()));
        }
        let filters = oci::filters(&self.runtime.root);
        let maps = self.maps.as_ref();
        Ok(member(process, &config, self.init.pid, maps, &filters)?)
    }

    fn asked(&self) -> Result<Asked<'_>, ExecError> {
        let workdir = self.arguments.value("--workdir");
        if let Some(dir) = workdir.filter(|dir| !dir.starts_with('/')) {
            return Err(ExecError::WorkingDir {
                dir: dir.to_owned(),
            });
        }
        let path = Path::new("/proc/self/status");
        let privileged = if self.arguments.has("--privileged") {
            let status = fs::read_to_string(path).map_err(failed("read", path))?;
            capability::all(capability::bounding(&status))
        } else {
            Vec::new()
        };
        Ok(Asked {
            command: self.arguments.words(),
            is_terminal: self.arguments.has("--tty"),
            privileged,
            env: self.arguments.values("--env").map(str::to_owned).collect(),
            workdir,
        })
    }

    fn user(&self) -> Result<Option<User>, ExecError> {
        let Some(user) = self.arguments.value("--user") else {
            return Ok(None);
        };
        let root = PathBuf::from(format!("/proc/{}/root", self.init.pid));
        let rootfs = Rootfs::open(&root).map_err(failed("open", &root))?;
        let read = |path: &'static str| rootfs.read(path).map_err(failed("read", Path::new(path)));
        let accounts = Accounts {
            passwd: read("/etc/passwd")?,
            group: read("/etc/group")?,
        };
        Ok(Some(accounts.resolve(user, &[])?))
    }

    /// Streams the process shall not inherit are empty.
    fn redirect(&self, is_terminal: bool) -> Result<(), ExecError> {
        let detach = self.arguments.has("--detach");
        let null = Path::new("/dev/null");
        let open = rustix::fs::open(null, OFlags::RDWR | OFlags::CLOEXEC, Mode::empty());
        let failed = |errno: rustix::io::Errno| failed("open", null)(errno.into());
        let fd: OwnedFd = open.map_err(failed)?;
        if detach || !(self.arguments.has("--interactive") || is_terminal) {
            dup2_stdin(&fd).map_err(failed)?;
        }
        if detach {
            dup2_stdout(&fd).map_err(failed)?;
            dup2_stderr(&fd).map_err(failed)?;
        }
        Ok(())
    }

    fn join(
        &self,
        process: &Value,
        workload: Workload,
        console: Option<&DescriptorSocket>,
    ) -> Result<(Pid, Option<PipeReader>), ExecError> {
        let path = self.scratch.with_extension("json");
        fs::write(&path, process.to_string()).map_err(failed("write", &path))?;
        let joined = match &self.runtime.program {
            None => {
                let joined = self.join_by_ours(&path, workload, console);
                joined.map(|pid| (pid, None))
            }
            Some(program) => self.join_by(program, &path, console),
        };
        fs::remove_file(&path).map_err(failed("remove", &path))?;
        joined
    }

    fn join_by_ours(
        &self,
        process: &Path,
        workload: Workload,
        console: Option<&DescriptorSocket>,
    ) -> Result<Pid, ExecError> {
        let joined = ContainerBuilder::new(self.id.clone(), SyscallType::default())
            .with_root_path(&self.runtime.root)
            .and_then(|builder| {
                builder
                    .with_console_socket(console.map(DescriptorSocket::path))
                    .with_executor(workload)
                    .as_tenant()
                    .with_detach(true)
                    .with_process(Some(process))
                    .build()
            });
        let pid = joined.map_err(|source| ExecError::Join { source })?;
        Pid::from_raw(pid.as_raw()).ok_or_else(no_pid)
    }

    /// Another runtime leaves the process behind, to the next subreaper. It may say on standard error,
    /// which is the process's too, why it fails, and nobody wants to read that twice: what comes
    /// there comes here first.
    fn join_by(
        &self,
        program: &Path,
        process: &Path,
        console: Option<&DescriptorSocket>,
    ) -> Result<(Pid, Option<PipeReader>), ExecError> {
        set_child_subreaper(Some(getpid())).map_err(|errno| wait(errno.into()))?;
        let [pid_file, log] = ["pid", "log"].map(|end| self.scratch.with_extension(end));
        let mut command = Command::new(program);
        command
            .arg("--root")
            .arg(&self.runtime.root)
            .arg("--log")
            .arg(&log)
            .args(["--log-format", "json", "exec", "--detach", "--pid-file"])
            .arg(&pid_file)
            .arg("--process")
            .arg(process);
        if let Some(console) = console {
            command.arg("--console-socket").arg(console.path());
        }
        let errors = if console.is_some() || self.arguments.has("--detach") {
            command.stderr(Stdio::null());
            None
        } else {
            let (errors, theirs) = io::pipe().map_err(wait)?;
            rustix::io::ioctl_fionbio(&errors, true).map_err(|errno| wait(errno.into()))?;
            command.stderr(theirs);
            Some(errors)
        };
        let ended = command.arg(&self.id).status();
        // It has the other end.
        drop(command);
        let ended = ended.map_err(failed("run", program))?;
        let joined = if ended.success() {
            let pid = fs::read_to_string(&pid_file).map_err(failed("read", &pid_file))?;
            let pid = pid.trim().parse().ok().and_then(Pid::from_raw);
            pid.map(|pid| (pid, errors)).ok_or_else(no_pid)
        } else {
            Err(ExecError::Refused {
                message: last_words(&log, "exec", ended),
            })
        };
        for file in [&pid_file, &log] {
            remove_stale(file).map_err(failed("remove", file))?;
        }
        joined
    }
}

/// Passes on what is there; false when no more comes, or nobody takes it.
fn pass_on(errors: &mut PipeReader) -> bool {
    let mut bytes = [0; 4096];
    loop {
        match errors.read(&mut bytes) {
            Ok(0) => return false,
            Ok(length) if io::stderr().write_all(&bytes[..length]).is_ok() => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return true,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            _ => return false,
        }
    }
}

/// What the join has left: a parent that waits for nobody else's children must not get them.
fn reap_others() {
    while let Ok(Some(_)) = rustix::process::wait(WaitOptions::NOHANG) {}
}

fn failed<'a>(op: &'static str, path: &'a Path) -> impl Fn(io::Error) -> ExecError + 'a {
    move |source| ExecError::Io {
        op,
        path: path.to_owned(),
        source,
    }
}

fn no_pid() -> ExecError {
    wait(io::Error::other("it has no pid"))
}

fn wait(error: io::Error) -> ExecError {
    ExecError::Wait(error)
}

/// What the command line says of the process.
struct Asked<'a> {
    command: &'a [String],
    is_terminal: bool,
    /// All capabilities there are, for `--privileged`.
    privileged: Vec<&'static str>,
    env: Vec<String>,
    workdir: Option<&'a str>,
}

/// The container's own process with what is asked for changed.
fn process(container: &Value, asked: &Asked<'_>, user: Option<&User>) -> Value {
    let mut process = container.clone();
    let mut env: Vec<String> = serde_json::from_value(container["env"].clone()).unwrap_or_default();
    if asked.is_terminal && !env.iter().any(|variable| variable.starts_with("TERM=")) {
        env.push("TERM=xterm".to_owned());
    }
    if let Some(user) = user {
        merge(&mut env, &[format!("HOME={}", user.home)]);
        process["user"] = user.to_json();
    }
    merge(&mut env, &asked.env);
    process["args"] = json!(asked.command);
    process["env"] = json!(env);
    process["terminal"] = json!(asked.is_terminal);
    if let Some(dir) = asked.workdir {
        process["cwd"] = json!(dir);
    }
    if !asked.privileged.is_empty() {
        process["capabilities"] = capability::to_json(&asked.privileged);
    }
    process
}

#[cfg(test)]
mod tests {
    use super::*;

    fn container() -> Value {
        json!({
            "terminal": false, "user": {"uid": 0, "gid": 0}, "args": ["sleep"], "cwd": "/",
            "env": ["PATH=/bin", "HOME=/root"], "capabilities": capability::to_json(&["CAP_KILL"])
        })
    }

    #[test]
    fn the_containers_process_is_the_base() {
        let user = User {
            uid: 33,
            gid: 34,
            groups: vec![4],
            home: "/srv".to_owned(),
        };
        let asked = Asked {
            command: &["id".to_owned()],
            is_terminal: true,
            privileged: Vec::new(),
            env: vec!["A=1".to_owned()],
            workdir: Some("/tmp"),
        };
        let process = process(&container(), &asked, Some(&user));
        assert_eq!(
            process["env"],
            json!(["PATH=/bin", "HOME=/srv", "TERM=xterm", "A=1"])
        );
        assert_eq!(
            process["user"],
            json!({"uid": 33, "gid": 34, "additionalGids": [4]})
        );
        assert_eq!(process["cwd"], "/tmp");
        assert_eq!(process["args"], json!(["id"]));
    }
}
