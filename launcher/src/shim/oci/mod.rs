//! The OCI runtime that the shim drives: libcontainer behind runc's command line.
//!
//! It runs in a copy of the shim ([`sys::copy`]) for three reasons. libcontainer clones raw copies
//! of its caller and changes the caller's `oom_score_adj`, dumpable flag and working directory
//! (`ContainerBuilderImpl::run_container`, `NotifyListener::new`); the shim that stays for the
//! container's whole life must keep none of it, nor the memory; and any other runtime that
//! understands `create`, `start` and `delete` fits in the same place.

pub(crate) mod command;
mod device;
mod exec;
pub(crate) mod hook;
pub(crate) mod mounts;
mod scope;
mod update;
mod users;

use std::error::Error;
use std::ffi::OsString;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use libcontainer::container::Container;
use libcontainer::container::builder::ContainerBuilder;
use libcontainer::error::LibcontainerError;
use libcontainer::oci_spec::runtime::{LinuxNamespaceType, Spec};
use libcontainer::syscall::syscall::SyscallType;
use serde_json::{Value, json};

use crate::cgroup::limit::SettingError;
use crate::cli::run::resource::ResourceError;
use crate::shim::arguments::{Arguments, Grammar, UsageError};
use crate::shim::exec::joining::{JoinError, confined};
use crate::shim::executor::{Confinement, Workload};
use crate::shim::filter::{self, Filter};
use crate::shim::loopback;
use crate::shim::spec::INIT_ANNOTATION;
use crate::shim::stage::{Stage, StageError};
use crate::shim::title;
use mounts::Mounts;

const GRAMMAR: Grammar = Grammar {
    options: &[
        "--root",
        "--log",
        "--log-format",
        "--bundle",
        "--pid-file",
        "--console-socket",
        "--stage",
    ],
    switches: &["--force"],
};

#[derive(Debug, thiserror::Error)]
pub(super) enum OciError {
    #[error(transparent)]
    Usage(#[from] UsageError),
    #[error("{op}: {}", innermost(source))]
    Container {
        op: &'static str,
        source: Box<LibcontainerError>,
    },
    #[error("{op} {}: {source}", path.display())]
    Io {
        op: &'static str,
        path: PathBuf,
        source: io::Error,
    },
    #[error(transparent)]
    Stage(#[from] StageError),
    #[error(transparent)]
    Mounts(#[from] mounts::MountsError),
    #[error("create: {0}")]
    Unmade(String),
    #[error("empty the signal mask: {0}")]
    SignalMask(io::Error),
    #[error("rename the init process: {0}")]
    Title(io::Error),
    #[error("bring up the loopback device: {0}")]
    Loopback(io::Error),
    #[error("no command: see hawser-shim --help")]
    NoVerb,
    #[error("--systemd-cgroup: {0}; use the manager cgroupfs")]
    Systemd(&'static str),
    #[error("invalid container id {id:?}: expected letters, digits, _, +, - and .")]
    Id { id: String },
    #[error("container {id:?} does not exist")]
    NotThere { id: String },
    #[error("container with given ID already exists: {id:?}")]
    Exists { id: String },
    #[error("container {id:?} is not running")]
    NotRunning { id: String },
    #[error("cannot delete container {id:?} that is not stopped: it is {status}; see --force")]
    Busy { id: String, status: &'static str },
    #[error("unknown signal {text:?}: see signal(7)")]
    Signal { text: String },
    #[error("send a signal to container {id:?}: {source}")]
    Kill { id: String, source: io::Error },
    #[error("wait for a process in container {id:?}: {source}")]
    Wait { id: String, source: io::Error },
    #[error(transparent)]
    Joining(#[from] JoinError),
    #[error("invalid --format {text:?}: expected table or json")]
    Format { text: String },
    #[error(transparent)]
    Flag(#[from] ResourceError),
    #[error(transparent)]
    Setting(#[from] SettingError),
    #[error("a limit of memory and swap together needs the limit of memory beside it")]
    SwapAlone,
    #[error("no command to run: give one, or --process")]
    NoCommand,
    #[error("invalid --user {text:?}: expected UID[:GID] by number")]
    User { text: String },
}

/// libcontainer's outer errors only say that something failed.
pub(super) fn innermost(error: &LibcontainerError) -> String {
    let mut reason: &dyn Error = error;
    let mut texts = vec![reason.to_string()];
    while let Some(source) = reason.source() {
        reason = source;
        let text = reason.to_string();
        // Transparent errors repeat their source's text.
        if texts.last().is_none_or(|last| !last.ends_with(&text)) {
            texts.push(text);
        }
    }
    texts.join(": ")
}

fn failed<'a>(op: &'static str, path: &'a Path) -> impl Fn(io::Error) -> OciError + 'a {
    move |source| OciError::Io {
        op,
        path: path.to_owned(),
        source,
    }
}

fn read_json(path: &Path) -> Result<Value, OciError> {
    let text = fs::read(path).map_err(failed("read", path))?;
    serde_json::from_slice(&text).map_err(|error| failed("understand", path)(error.into()))
}

fn container(op: &'static str) -> impl Fn(LibcontainerError) -> OciError {
    move |source| OciError::Container {
        op,
        source: Box::new(source),
    }
}

/// `--root DIR --log FILE create|delete … ID`; returns the exit code.
pub(crate) fn main(arguments: Vec<OsString>) -> i32 {
    let arguments = match Arguments::parse(arguments, GRAMMAR) {
        Ok(arguments) => arguments,
        Err(error) => return explain(None, &error.into()),
    };
    // The shim blocks signals that its container must get.
    let outcome = sys::signal::unblock_all()
        .map_err(OciError::SignalMask)
        .and_then(|()| run(&arguments));
    match outcome {
        Ok(()) => 0,
        Err(error) => explain(arguments.path("--log").ok(), &error),
    }
}

fn explain(log: Option<PathBuf>, error: &OciError) -> i32 {
    let line = json!({ "level": "error", "msg": error.to_string() }).to_string();
    let logged = log.is_some_and(|log| fs::write(log, format!("{line}\n")).is_ok());
    if !logged {
        eprintln!("{error}");
    }
    1
}

fn run(arguments: &Arguments) -> Result<(), OciError> {
    let root = arguments.path("--root")?;
    match arguments.words() {
        [verb, id] if verb == "create" => {
            // Not of the command line that runtimes have in common.
            if let Some(stage) = arguments.value("--stage") {
                Stage::read(Path::new(stage))?.enter()?;
            }
            create(&bundle(arguments)?, &root, id)
        }
        [verb, id] if verb == "delete" => delete(&root, id),
        _ => Err(UsageError::Words {
            expected: "create or delete and an id",
        }
        .into()),
    }
}

/// What a container is made of.
#[derive(Debug)]
struct Bundle {
    path: PathBuf,
    pid_file: Option<PathBuf>,
    console_socket: Option<PathBuf>,
    no_pivot: bool,
    /// How many descriptors above 2 it inherits.
    preserved: i32,
    ends_with_parent: bool,
    /// Its control groups are made by systemd.
    systemd: bool,
}

fn bundle(arguments: &Arguments) -> Result<Bundle, OciError> {
    Ok(Bundle {
        path: arguments.path("--bundle")?,
        pid_file: Some(arguments.path("--pid-file")?),
        console_socket: arguments.value("--console-socket").map(PathBuf::from),
        no_pivot: false,
        preserved: 0,
        ends_with_parent: true,
        systemd: false,
    })
}

/// Below a runtime's directory, by a name that no container has: programs of filters.
pub(super) fn filters(root: &Path) -> PathBuf {
    root.join("~filters")
}

fn create(bundle: &Bundle, root: &Path, id: &str) -> Result<(), OciError> {
    let changed = Changed::of(&bundle.path, root, id)?;
    let path = changed.as_ref().map_or(&*bundle.path, |it| &it.path);
    let mounts = changed.as_ref().and_then(|it| it.mounts.as_ref());
    let failed = |error| match mounts.and_then(Mounts::failure) {
        Some(message) => OciError::Unmade(message),
        None => container("create")(error),
    };
    let spec = spec_of(path)?;
    let is_init = wants_init(&spec);
    if is_init {
        name_init(&spec).map_err(OciError::Title)?;
    }
    let executor = Workload {
        ends_with_parent: bundle.ends_with_parent,
        is_init,
        confinement: changed.as_ref().and_then(|it| it.confinement.clone()),
        joins: None,
    };
    let mut created = ContainerBuilder::new(id.to_owned(), SyscallType::default())
        .with_root_path(root)
        .map_err(&failed)?
        .with_pid_file(bundle.pid_file.clone())
        .map_err(&failed)?
        .with_console_socket(bundle.console_socket.clone())
        .with_preserved_fds(bundle.preserved)
        .with_executor(executor)
        .as_init(path)
        .with_no_pivot(bundle.no_pivot)
        .with_systemd(bundle.systemd)
        .build()
        .map_err(&failed)?;
    if changed.is_some() {
        created.state.bundle.clone_from(&bundle.path);
        created.save().map_err(&failed)?;
    }
    if bundle.systemd {
        scope::note(&created, &root.join(id))?;
    }
    if has_own_network(&spec)
        && let Some(pid) = created
            .pid()
            .and_then(|pid| u32::try_from(pid.as_raw()).ok())
    {
        loopback::bring_up(pid).map_err(OciError::Loopback)?;
    }
    Ok(())
}

/// A bundle without what libcontainer is not to do: its filter, which is left to the executor, and its
/// mounts where [`mounts`] makes them. Dropping it removes the files.
#[derive(Debug)]
struct Changed {
    path: PathBuf,
    confinement: Option<Confinement>,
    mounts: Option<Mounts>,
}

impl Changed {
    /// None for a bundle that libcontainer can be given as it is.
    fn of(bundle: &Path, root: &Path, id: &str) -> Result<Option<Self>, OciError> {
        let mut config = read_json(&bundle.join("config.json"))?;
        let seccomp = &config["linux"]["seccomp"];
        let is_confined = !seccomp.is_null() && !filter::asks_somebody(seccomp);
        let has_mounts = !sys::owner::sets_attributes();
        if !is_confined && !has_mounts {
            return Ok(None);
        }
        let mut changed = Self {
            path: root.join(format!("~{id}")),
            confinement: None,
            mounts: None,
        };
        if is_confined {
            let seccomp = config["linux"]["seccomp"].take();
            let filter = Filter::of(&seccomp, &filters(root)).map_err(JoinError::from)?;
            let (process, confinement) =
                confined(config["process"].take(), Some(filter)).map_err(JoinError::from)?;
            config["process"] = process;
            changed.confinement = Some(confinement);
        }
        // Another directory's, if it is relative.
        if let Some(rootfs) = config["root"]["path"].as_str() {
            config["root"]["path"] = json!(bundle.join(rootfs));
        }
        hook::tell_of(bundle, &mut config);
        if has_mounts {
            changed.mounts = Some(Mounts::take_over(&mut config)?);
        }
        let path = &changed.path;
        fs::create_dir_all(path).map_err(failed("create", path))?;
        let config = config.to_string();
        let file = path.join("config.json");
        fs::write(&file, config).map_err(failed("write", &file))?;
        Ok(Some(changed))
    }
}

impl Drop for Changed {
    fn drop(&mut self) {
        // The next container of this id replaces what is left of it.
        drop(fs::remove_dir_all(&self.path));
    }
}

fn spec_of(bundle: &Path) -> Result<Spec, OciError> {
    Spec::load(bundle.join("config.json"))
        .map_err(|error| container("read config.json")(error.into()))
}

fn wants_init(spec: &Spec) -> bool {
    let mut annotations = spec.annotations().iter().flatten();
    annotations.any(|(key, value)| key == INIT_ANNOTATION && value == "true")
}

/// The first process is a copy of this one, and looks like Docker's.
fn name_init(spec: &Spec) -> io::Result<()> {
    let process = spec.process().as_ref();
    let command = process.and_then(|process| process.args().as_deref());
    let command = command.unwrap_or_default().iter().map(String::as_str);
    let words: Vec<&str> = ["/sbin/docker-init", "--"]
        .into_iter()
        .chain(command)
        .collect();
    title::set(&words)
}

fn has_own_network(spec: &Spec) -> bool {
    let namespaces = spec
        .linux()
        .iter()
        .flat_map(|linux| linux.namespaces().iter().flatten());
    namespaces.clone().any(|namespace| {
        namespace.typ() == LinuxNamespaceType::Network && namespace.path().is_none()
    })
}

pub(super) fn start(root: &Path, id: &str) -> Result<(), OciError> {
    let failed = container("start");
    Container::load(root.join(id))
        .and_then(|mut container| container.start())
        .map_err(failed)
}

/// Ends what is left of the container and forgets it. One that is not there is no error.
fn delete(root: &Path, id: &str) -> Result<(), OciError> {
    let state = root.join(id);
    if !state.exists() {
        return Ok(());
    }
    let loaded = Container::load(state.clone()).map_err(container("delete"));
    let deleted = loaded.and_then(|mut found| {
        scope::end(&mut found, &state)?;
        let hooks = hook::exchange_last(&state, None);
        if let Err(error) = found.delete(true) {
            // The next attempt has to run them.
            hook::exchange_last(&state, hooks);
            return Err(container("delete")(error));
        }
        hook::run_last(hooks.unwrap_or_default(), &found);
        Ok(())
    });
    if let Err(error) = deleted {
        // A create that was cut short leaves a state that cannot be loaded; nothing runs from it.
        if !state.join("state.json").exists() {
            return fs::remove_dir_all(&state).map_err(|source| OciError::Io {
                op: "remove",
                path: state,
                source,
            });
        }
        return Err(error);
    }
    Ok(())
}
