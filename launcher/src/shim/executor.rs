//! The last steps inside the container: is the command there, and run it.
//!
//! Words and exit codes are those of Docker's users: not found is 127, not executable is 126.

use std::collections::HashMap;
use std::fmt;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use libcontainer::capabilities::drop_privileges;
use libcontainer::oci_spec::runtime::{LinuxCapabilities, Process, Spec};
use libcontainer::syscall::syscall::create_syscall;
use libcontainer::workload::{
    Executor, ExecutorError, ExecutorSetEnvsError, ExecutorValidationError,
};
use rustix::fs::{Access, Gid, Uid, access, fchown};
use rustix::io::Errno;
use rustix::process::{Signal, set_parent_process_death_signal};
use rustix::termios::isatty;
use rustix::thread::{
    LinkNameSpaceType, move_into_link_name_space, set_thread_groups, set_thread_res_gid,
    set_thread_res_uid,
};

use super::filter::Filter;
use super::init;
use super::launch::{EXIT_DAEMON, EXIT_NOT_EXECUTABLE, EXIT_NOT_FOUND};

/// Marks the part of an error that is about the command itself.
const MARK: &str = "exec: ";

/// What is still to be done when libcontainer has set up everything else.
#[derive(Debug, Clone, Default)]
pub(crate) struct Workload {
    /// The process ends with its parent: the shim, for a container's first process.
    pub(crate) ends_with_parent: bool,
    /// The process stays as an init and runs the command as its child.
    pub(crate) is_init: bool,
    /// The filter is loaded here, and not by libcontainer ([`super::filter`]).
    pub(crate) confinement: Option<Confinement>,
    /// Nor does it join a user namespace (`NAMESPACE_TYPES` of its `tenant_builder.rs`).
    pub(crate) joins: Option<Joins>,
}

/// A user namespace to join, and who to be in it.
#[derive(Debug, Clone)]
pub(crate) struct Joins {
    pub(crate) namespace: Arc<OwnedFd>,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    pub(crate) groups: Vec<u32>,
    /// Who that is on the host.
    pub(crate) on_host: (u32, u32),
}

impl Joins {
    /// The process is the host's root until then.
    fn join(&self) -> io::Result<()> {
        let (uid, gid) = (Uid::from_raw(self.on_host.0), Gid::from_raw(self.on_host.1));
        let stdin = rustix::stdio::stdin();
        if isatty(stdin) {
            fchown(stdin, Some(uid), Some(gid))?;
        }
        move_into_link_name_space(self.namespace.as_fd(), Some(LinkNameSpaceType::User))?;
        let groups: Vec<Gid> = self.groups.iter().copied().map(Gid::from_raw).collect();
        let (uid, gid) = (Uid::from_raw(self.uid), Gid::from_raw(self.gid));
        // This process has no other threads.
        set_thread_groups(&groups)?;
        set_thread_res_gid(gid, gid, gid)?;
        Ok(set_thread_res_uid(uid, uid, uid)?)
    }
}

/// The filter to load and the capabilities to keep after that; without any named, all.
#[derive(Debug, Clone)]
pub(crate) struct Confinement {
    pub(crate) filter: Option<Filter>,
    pub(crate) capabilities: Option<LinuxCapabilities>,
}

impl Executor for Workload {
    fn validate(&self, spec: &Spec) -> Result<(), ExecutorValidationError> {
        let (program, search_path) = program_of(spec);
        find(program, search_path)
            .map(drop)
            .map_err(|why| ExecutorValidationError::ArgValidationError(why.to_string()))
    }

    fn setup_envs(&self, envs: HashMap<String, String>) -> Result<(), ExecutorSetEnvsError> {
        // The environment is given to exec as it is; changing this process's own is not needed.
        drop(envs);
        Ok(())
    }

    fn exec(&self, spec: &Spec) -> Result<(), ExecutorError> {
        let error = self.replace_process(spec);
        if self.ends_with_parent {
            // The runtime has reported success already, so that only the container's own output
            // can carry the reason.
            eprintln!("{error}");
            std::process::exit(exit_code_of(&error.to_string()));
        }
        Err(ExecutorError::Execution(error))
    }
}

type AnyError = Box<dyn std::error::Error + Send + Sync>;

impl Workload {
    /// Does not return unless it fails.
    fn replace_process(&self, spec: &Spec) -> AnyError {
        if let Err(error) = self.confine() {
            return error;
        }
        let Some(process) = spec.process() else {
            return "the specification has no process".into();
        };
        let (program, search_path) = program_of(spec);
        match find(program, search_path) {
            Ok(path) if self.is_init => match init::run(command(process, &path)) {
                Ok(code) => std::process::exit(code),
                Err(error) => format!("{MARK}{program:?}: {error}").into(),
            },
            // std resets SIGPIPE, which it has made this program ignore.
            Ok(path) => format!("{MARK}{program:?}: {}", command(process, &path).exec()).into(),
            Err(why) => why.into(),
        }
    }

    fn confine(&self) -> Result<(), AnyError> {
        if self.ends_with_parent {
            set_parent_process_death_signal(Some(Signal::KILL))?;
        }
        if let Some(joins) = &self.joins {
            joins.join()?;
        }
        if let Some(confinement) = &self.confinement {
            // Before the drop: loading a filter needs CAP_SYS_ADMIN, or no_new_privs (seccomp(2)).
            if let Some(filter) = &confinement.filter {
                filter.load()?;
            }
            if let Some(capabilities) = &confinement.capabilities {
                drop_privileges(capabilities, &*create_syscall())?;
            }
        }
        Ok(())
    }
}

fn command(process: &Process, path: &Path) -> Command {
    let arguments = process.args().as_deref().unwrap_or_default();
    let mut command = Command::new(path);
    if let Some((name, rest)) = arguments.split_first() {
        command.arg0(name).args(rest);
    }
    command.env_clear();
    for variable in process.env().iter().flatten() {
        if let Some((name, value)) = variable.split_once('=') {
            command.env(name, value);
        }
    }
    command
}

fn program_of(spec: &Spec) -> (&str, &str) {
    let Some(process) = spec.process() else {
        return ("", "");
    };
    let program = process
        .args()
        .iter()
        .flatten()
        .next()
        .map_or("", String::as_str);
    let mut path = process.env().iter().flatten();
    let path = path
        .find_map(|variable| variable.strip_prefix("PATH="))
        .unwrap_or_default();
    (program, path)
}

/// Why a command cannot be run.
#[derive(Debug, PartialEq, Eq)]
struct NotRunnable {
    program: String,
    errno: Errno,
    searched: bool,
}

impl std::error::Error for NotRunnable {}

impl fmt::Display for NotRunnable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let reason = match self.errno {
            Errno::NOENT if self.searched => "executable file not found in $PATH",
            Errno::NOENT => "no such file or directory",
            Errno::ISDIR => "is a directory",
            Errno::ACCESS | Errno::PERM => "permission denied",
            errno => {
                return write!(f, "{MARK}{:?}: {}", self.program, io::Error::from(errno));
            }
        };
        write!(f, "{MARK}{:?}: {reason}", self.program)
    }
}

/// Looks the program up as execvp(3) does, with the credentials this process has now.
fn find(program: &str, search_path: &str) -> Result<PathBuf, NotRunnable> {
    let searched = !program.contains('/');
    let fail = |errno| NotRunnable {
        program: program.to_owned(),
        errno,
        searched,
    };
    if !searched {
        return is_runnable(Path::new(program))
            .map(|()| program.into())
            .map_err(fail);
    }
    let mut outcome = Errno::NOENT;
    for dir in search_path.split(':') {
        let candidate = Path::new(if dir.is_empty() { "." } else { dir }).join(program);
        match is_runnable(&candidate) {
            Ok(()) => return Ok(candidate),
            Err(Errno::NOENT | Errno::NOTDIR) => {}
            Err(errno) => outcome = errno,
        }
    }
    Err(fail(outcome))
}

fn is_runnable(path: &Path) -> Result<(), Errno> {
    let stat = rustix::fs::stat(path)?;
    if rustix::fs::FileType::from_raw_mode(stat.st_mode).is_dir() {
        return Err(Errno::ISDIR);
    }
    access(path, Access::EXEC_OK)
}

/// Docker's exit code for a runtime's error. Other OCI runtimes use the same words.
pub(crate) fn exit_code_of(error: &str) -> i32 {
    let Some((_, reason)) = error.split_once(MARK) else {
        return EXIT_DAEMON;
    };
    let says = |words: &str| reason.contains(words);
    if says("executable file not found") || says("no such file or directory") {
        EXIT_NOT_FOUND
    } else if says("permission denied") || says("is a directory") || says("exec format error") {
        EXIT_NOT_EXECUTABLE
    } else {
        EXIT_DAEMON
    }
}

/// The part of a runtime's error that is about the command, if any; else all of it.
pub(crate) fn without_prefix(error: &str) -> &str {
    error.find(MARK).map_or(error, |at| &error[at..])
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn what_cannot_run_says_why_with_dockers_code() {
        let dir = tempfile::tempdir().unwrap();
        let plain = dir.path().join("plain");
        fs::write(&plain, "").unwrap();
        fs::set_permissions(&plain, fs::Permissions::from_mode(0o644)).unwrap();
        fs::create_dir(dir.path().join("sub")).unwrap();
        let (search, at) = (dir.path().to_str().unwrap(), |name: &str| {
            dir.path().join(name).to_str().unwrap().to_owned()
        });
        for (program, words, code) in [
            (
                "nothing".to_owned(),
                "executable file not found in $PATH",
                127,
            ),
            (at("nothing"), "no such file or directory", 127),
            ("plain".to_owned(), "permission denied", 126),
            (at("plain"), "permission denied", 126),
            (at("sub"), "is a directory", 126),
            ("sub".to_owned(), "is a directory", 126),
        ] {
            let error = find(&program, search).unwrap_err().to_string();
            assert_eq!(error, format!("exec: {program:?}: {words}"));
            assert_eq!(exit_code_of(&format!("create: {error}")), code);
        }
        assert_eq!(
            find("true", "/nonexistent:/bin").unwrap(),
            Path::new("/bin/true")
        );
    }

    #[test]
    fn other_errors_are_the_launchers_own() {
        assert_eq!(
            exit_code_of("mount /x: no such file or directory"),
            EXIT_DAEMON
        );
        assert_eq!(
            without_prefix("a: b: exec: \"x\": is a directory"),
            "exec: \"x\": is a directory"
        );
    }
}
