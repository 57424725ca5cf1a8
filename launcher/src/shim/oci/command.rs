//! The OCI runtime command line, as runc has it, for podman, containerd, docker and whoever else
//! drives a runtime by bundle.
//!
//! What it starts belongs to its caller: no shim stays, and none of what `hawser` knows is touched.

use std::env;
use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use clap::error::ErrorKind;
use clap::{ArgAction, Args, Parser, Subcommand};
use libcontainer::container::{Container, ContainerStatus};
use libcontainer::oci_spec::runtime::VERSION;
use libcontainer::signal::Signal;
use rustix::process::{Pid, PidfdFlags, pidfd_open};
use serde_json::{Value, json};

use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;

use super::exec::{self, Exec};
use super::update::{self, Update};
use super::users::{Staged, is_hosts_root};
use super::{Bundle, OciError, container, device, explain, failed};
use crate::cgroup::{Cgroups, Group};
use crate::cli::run::limit;

const ROOT: &str = "/run/hawser/oci";
/// Where the library, like the D-Bus specification ("Well-known Message Bus Instances"), looks for it.
const BUS: &str = "/var/run/dbus/system_bus_socket";

#[derive(Debug, Parser)]
#[command(
    name = "hawser-shim",
    about = "An OCI runtime: containers from bundles",
    disable_version_flag = true
)]
struct Line {
    /// Where states are kept
    #[arg(long, value_name = "DIR", default_value = ROOT)]
    root: PathBuf,
    /// File for errors, besides standard error
    #[arg(long, value_name = "FILE")]
    log: Option<PathBuf>,
    /// Taken for other runtimes' sake: errors are JSON in the file
    #[arg(long, value_name = "FORMAT", default_value = "json")]
    log_format: String,
    /// Taken for other runtimes' sake: there are no debugging messages
    #[arg(long)]
    debug: bool,
    /// Make control groups through systemd, where they are of version 2 alone
    #[arg(long)]
    systemd_cgroup: bool,
    /// Print the version
    #[arg(short, long, action = ArgAction::SetTrue)]
    version: bool,
    #[command(subcommand)]
    verb: Option<Verb>,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Make a container, whose process waits for start
    Create(Create),
    /// Let the process of a created container run
    Start { id: String },
    /// Print the state of a container
    State { id: String },
    /// Send a signal to a container's process
    Kill(Kill),
    /// Forget a container that has ended
    Delete {
        /// End it first, and mind no missing one
        #[arg(short, long)]
        force: bool,
        id: String,
    },
    /// Run one more process in a container
    Exec(Exec),
    /// Stop all processes of a container where they are
    Pause { id: String },
    /// Let the processes of a paused container go on
    Resume { id: String },
    /// Print the process ids in a container
    Ps {
        /// table or json
        #[arg(short, long, value_name = "FORMAT", default_value = "table")]
        format: String,
        id: String,
    },
    /// Change the limits of a container
    Update(Update),
    /// Print what this runtime can do
    Features,
}

#[derive(Debug, Args)]
struct Create {
    /// Directory with config.json
    #[arg(short, long, value_name = "DIR", default_value = ".")]
    bundle: PathBuf,
    /// Socket that gets the terminal
    #[arg(long, value_name = "SOCKET")]
    console_socket: Option<PathBuf>,
    /// File for the process id
    #[arg(long, value_name = "FILE")]
    pid_file: Option<PathBuf>,
    /// Do not pivot_root(2): for root file systems in an initramfs
    #[arg(long)]
    no_pivot: bool,
    /// Taken for other runtimes' sake: there is no keyring of its own
    #[arg(long)]
    no_new_keyring: bool,
    /// How many descriptors above 2 to pass on
    #[arg(long, value_name = "N", default_value_t = 0)]
    preserve_fds: i32,
    id: String,
}

#[derive(Debug, Args)]
struct Kill {
    /// Send it to all processes of the container
    #[arg(short, long)]
    all: bool,
    id: String,
    #[arg(default_value = "TERM")]
    signal: String,
}

/// Whether these arguments are of this command line: an option of all verbs, or a verb of its own,
/// comes first.
pub(crate) fn is_meant(first: &str) -> bool {
    let verbs = [
        "create", "start", "state", "kill", "delete", "exec", "pause", "resume", "ps", "update",
        "features", "help",
    ];
    verbs.contains(&first) || first.starts_with('-')
}

/// The program; returns its exit code.
pub(crate) fn main(arguments: impl IntoIterator<Item = std::ffi::OsString>) -> i32 {
    let name = std::ffi::OsString::from("hawser-shim");
    let line = match Line::try_parse_from(std::iter::once(name).chain(arguments)) {
        Ok(line) => line,
        Err(error) => {
            let is_help = matches!(error.kind(), ErrorKind::DisplayHelp);
            // Where it goes may be closed.
            drop(error.print());
            return i32::from(!is_help);
        }
    };
    if line.version {
        return say(&format!(
            "hawser-shim version {}\nspec: {VERSION}",
            env!("CARGO_PKG_VERSION")
        ));
    }
    run(&line).unwrap_or_else(|error| {
        if let Some(log) = &line.log {
            explain(Some(log.clone()), &error);
        }
        eprintln!("hawser-shim: {error}");
        1
    })
}

fn say(text: &str) -> i32 {
    i32::from(writeln!(io::stdout().lock(), "{text}").is_err())
}

fn run(line: &Line) -> Result<i32, OciError> {
    let root = &line.root;
    match &line.verb {
        None => Err(OciError::NoVerb),
        Some(Verb::Create(create)) => make(root, create, line.systemd_cgroup).map(|()| 0),
        Some(Verb::Start { id }) => {
            find(root, id)?;
            super::start(root, id).map(|()| 0)
        }
        Some(Verb::State { id }) => Ok(say(&format!("{:#}", state(&find(root, id)?)))),
        Some(Verb::Kill(kill)) => signal(find(root, &kill.id)?, kill).map(|()| 0),
        Some(Verb::Delete { force, id }) => delete(root, id, *force).map(|()| 0),
        Some(Verb::Exec(asked)) => exec::run(root, &find(root, asked.id())?, asked),
        Some(Verb::Pause { id }) => find(root, id)?
            .pause()
            .map(|()| 0)
            .map_err(container("pause")),
        Some(Verb::Resume { id }) => {
            let resumed = find(root, id)?.resume();
            resumed.map(|()| 0).map_err(container("resume"))
        }
        Some(Verb::Ps { format, id }) => Ok(say(&processes(&find(root, id)?, format)?)),
        Some(Verb::Update(asked)) => {
            update::run(asked, init_of(&find(root, &asked.id)?)?).map(|()| 0)
        }
        Some(Verb::Features) => Ok(say(&format!("{:#}", features()))),
    }
}

/// Ids name directories: runc takes these signs only.
fn check_id(id: &str) -> Result<(), OciError> {
    let is_sign = |byte: u8| byte.is_ascii_alphanumeric() || b"_+-.".contains(&byte);
    let is_name = !id.is_empty() && id.bytes().all(is_sign) && id != "." && id != "..";
    match is_name {
        true => Ok(()),
        false => Err(OciError::Id { id: id.to_owned() }),
    }
}

fn find(root: &Path, id: &str) -> Result<Container, OciError> {
    check_id(id)?;
    let state = root.join(id);
    if !state.exists() {
        return Err(OciError::NotThere { id: id.to_owned() });
    }
    Container::load(state).map_err(container("load"))
}

fn make(root: &Path, create: &Create, systemd: bool) -> Result<(), OciError> {
    check_id(&create.id)?;
    if systemd {
        check_systemd()?;
    }
    let absolute = |path: &Path| std::path::absolute(path).map_err(failed("find", path));
    fs::create_dir_all(root).map_err(failed("create", root))?;
    if root.join(&create.id).exists() {
        return Err(OciError::Exists {
            id: create.id.clone(),
        });
    }
    let asked = Bundle {
        path: absolute(&create.bundle)?,
        pid_file: create.pid_file.as_deref().map(absolute).transpose()?,
        console_socket: create.console_socket.as_deref().map(absolute).transpose()?,
        no_pivot: create.no_pivot,
        preserved: create.preserve_fds,
        ends_with_parent: false,
        systemd,
    };
    let create_it = || {
        let _staged = Staged::enter(&asked.path, &create.id)?;
        super::create(&asked, root, &create.id)?;
        // Elsewhere the kernel takes no such program, and lets nobody make a device node either.
        if is_hosts_root() {
            device::restrict(&asked.path, init_of(&find(root, &create.id)?)?)?;
        }
        Ok(())
    };
    create_it().inspect_err(|_cause| {
        // The cause is what the caller must know.
        drop(super::delete(root, &create.id));
    })
}

/// On other hosts the library takes the name of a scope for the path of a directory, where nobody
/// would find the processes again (`create_cgroup_manager` in libcgroups). Without a bus it asks
/// systemd directly, which waits for more when it reads the end of the handshake and the question at
/// once (`bus_socket_read_auth` in sd-bus): more than a minute would pass, for nothing.
fn check_systemd() -> Result<(), OciError> {
    let cgroups = Cgroups::observe().map_err(failed("look at", Path::new("/sys/fs/cgroup")))?;
    // sd_booted(3).
    let is_booted = Path::new("/run/systemd/system").is_dir();
    let has_bus =
        env::var_os("DBUS_SYSTEM_BUS_ADDRESS").is_some() || UnixStream::connect(BUS).is_ok();
    match (is_booted, cgroups) {
        (true, Cgroups::Unified) if has_bus => Ok(()),
        (true, Cgroups::Unified) => Err(OciError::Systemd("no system bus listens on this host")),
        (false, _) => Err(OciError::Systemd("systemd does not run this host")),
        (true, Cgroups::Split(_)) => Err(OciError::Systemd(
            "this host has control groups of version 1, which are made directly",
        )),
    }
}

fn status(container: &Container) -> &'static str {
    match container.status() {
        ContainerStatus::Creating => "creating",
        ContainerStatus::Created => "created",
        ContainerStatus::Running => "running",
        ContainerStatus::Stopped => "stopped",
        ContainerStatus::Paused => "paused",
    }
}

/// The specification's state; runc's `created` on top, which engines read.
fn state(container: &Container) -> Value {
    let is_over = container.status() == ContainerStatus::Stopped;
    let pid = container.pid().filter(|_| !is_over);
    let mut state = json!({
        "ociVersion": container.state.oci_version,
        "id": container.id(),
        "status": status(container),
        "pid": pid.map_or(0, |pid| pid.as_raw()),
        "bundle": container.bundle(),
        "created": container.created().map(|time| time.to_rfc3339()),
    });
    if let Some(annotations) = &container.state.annotations {
        state["annotations"] = json!(annotations);
    }
    state
}

/// The container's first process.
pub(super) fn init_of(found: &Container) -> Result<u32, OciError> {
    let is_over = found.status() == ContainerStatus::Stopped;
    let pid = found.pid().filter(|_| !is_over);
    let pid = pid.and_then(|pid| u32::try_from(pid.as_raw()).ok());
    pid.ok_or_else(|| OciError::NotRunning {
        id: found.id().to_owned(),
    })
}

fn processes(found: &Container, format: &str) -> Result<String, OciError> {
    let pid = init_of(found)?;
    let processes = Group::of_process(pid)
        .and_then(|group| group.processes())
        .map_err(failed(
            "read the control groups of process",
            Path::new(&pid.to_string()),
        ))?;
    match format {
        "json" => Ok(json!(processes).to_string()),
        "table" => {
            let lines = processes.iter().map(|pid| format!("\n{pid}"));
            Ok(std::iter::once("PID".to_owned()).chain(lines).collect())
        }
        other => Err(OciError::Format {
            text: other.to_owned(),
        }),
    }
}

fn signal(mut found: Container, kill: &Kill) -> Result<(), OciError> {
    let number = limit::signal(&kill.signal).map_err(|_unknown| OciError::Signal {
        text: kill.signal.clone(),
    })?;
    if kill.all {
        let known = Signal::try_from(number);
        let known = known.map_err(|_unknown| OciError::Signal {
            text: kill.signal.clone(),
        })?;
        return found.kill(known, true).map_err(container("kill"));
    }
    let pid = found.pid().filter(|_| found.can_kill());
    let pid = pid.and_then(|pid| Pid::from_raw(pid.as_raw()));
    let pid = pid.ok_or_else(|| OciError::NotRunning {
        id: kill.id.clone(),
    })?;
    let send = || {
        let process = pidfd_open(pid, PidfdFlags::empty())?;
        sys::signal::send(process.as_fd(), number)
    };
    send().map_err(|source| OciError::Kill {
        id: kill.id.clone(),
        source,
    })
}

fn delete(root: &Path, id: &str, force: bool) -> Result<(), OciError> {
    match find(root, id) {
        Err(OciError::NotThere { .. }) if force => Ok(()),
        Ok(found) if !force && !found.can_delete() => Err(OciError::Busy {
            id: id.to_owned(),
            status: status(&found),
        }),
        Err(error) if !force => Err(error),
        _ => super::delete(root, id),
    }
}

/// The specification's `features` structure (features.md).
fn features() -> Value {
    json!({
        "ociVersionMin": "1.0.0",
        "ociVersionMax": VERSION,
        "hooks": [
            "prestart", "createRuntime", "createContainer", "startContainer", "poststart",
            "poststop",
        ],
        "linux": {
            "namespaces": ["cgroup", "ipc", "mount", "network", "pid", "user", "uts"],
            "cgroup": {
                "v1": true, "v2": true, "systemd": true, "systemdUser": false, "rdma": false,
            },
            "seccomp": {
                "enabled": true,
                "actions": [
                    "SCMP_ACT_ALLOW", "SCMP_ACT_ERRNO", "SCMP_ACT_KILL", "SCMP_ACT_KILL_PROCESS",
                    "SCMP_ACT_KILL_THREAD", "SCMP_ACT_LOG", "SCMP_ACT_TRACE", "SCMP_ACT_TRAP",
                ],
                "operators": [
                    "SCMP_CMP_EQ", "SCMP_CMP_GE", "SCMP_CMP_GT", "SCMP_CMP_LE", "SCMP_CMP_LT",
                    "SCMP_CMP_MASKED_EQ", "SCMP_CMP_NE",
                ],
            },
        },
    })
}
