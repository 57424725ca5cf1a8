//! Everything a container needs around it, made in order and released in reverse.
//!
//! Each release is idempotent and each thing is named by the container's id, so that a release can
//! be repeated by the next start or by `rm` from what is on disk, whoever made the thing.

mod network;
mod owner;
mod root;
mod share;
mod volume;

use std::fs;
use std::io;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

use api::Client;
use api::client::ClientError;
use rustix::process::{Resource, getrlimit};

use super::daemon::{Daemon, is_away, patiently};
use super::device::{self, DeviceError, Node};
use super::etc::{self, EtcError, Known};
use super::executor::{exit_code_of, without_prefix};
use super::foreign::UnknownRuntime;
use super::freezer::Freezer;
use super::hold::Steering;
use super::launch::{EXIT_DAEMON, Places};
use super::log::LogError;
use super::rootfs::Rootfs;
use super::runtime::{Runtime, RuntimeError, Staged, Stdio3};
use super::spec::capability;
use super::spec::process::{HardLimits, working_dir};
use super::spec::user::{Accounts, User, UserError};
use super::spec::{EtcFiles, Input, Modules, NetworkNamespace, Security, SpecError, config};
use super::stage::{Stage, StageError, Users};
use super::streams::{DescriptorSocket, Streams, remove_stale};
use super::teller::Teller;
use crate::cgroup::limit::{self, SettingError};
use crate::cgroup::{self, Cgroups, Group};
use crate::cni::{Cni, CniError};
use crate::container::{DeviceRule, Record, Status};
use crate::link::{self, LinkError, Linked};
use crate::store::{ContainerDir, StoreError};
use crate::volume::{Plugins, VolumeError};
use root::Root;

#[derive(Debug, thiserror::Error)]
pub(crate) enum SetupError {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Daemon(#[from] ClientError),
    #[error(transparent)]
    Volume(#[from] VolumeError),
    #[error(transparent)]
    Network(#[from] CniError),
    #[error(transparent)]
    Link(#[from] LinkError),
    #[error(transparent)]
    Etc(#[from] EtcError),
    #[error(transparent)]
    User(#[from] UserError),
    #[error(transparent)]
    Spec(#[from] SpecError),
    #[error(transparent)]
    Device(#[from] DeviceError),
    #[error(transparent)]
    Limit(#[from] SettingError),
    #[error(transparent)]
    Log(#[from] LogError),
    #[error(transparent)]
    UnknownRuntime(#[from] UnknownRuntime),
    #[error("{}", without_prefix(&source.to_string()))]
    Runtime {
        #[from]
        source: RuntimeError,
    },
    #[error("{op} {}: {source}", path.display())]
    Io {
        op: &'static str,
        path: PathBuf,
        source: io::Error,
    },
    #[error("mount {destination}: bind source path does not exist: {source_path}")]
    NoBindSource {
        destination: String,
        source_path: String,
    },
    #[error(
        "mount {destination}: bind-recursive=readonly needs Linux 5.12; use \
         bind-recursive=disabled to leave out what is mounted below"
    )]
    NotReadOnlyBelow { destination: String },
    #[error("user {uid} with group {gid} is none of the container's user namespace")]
    NoId { uid: u32, gid: u32 },
    #[error(transparent)]
    Stage(#[from] StageError),
    #[error("cannot join the {what} of container {key}: {reason}")]
    NoPeer {
        what: &'static str,
        key: String,
        reason: String,
    },
}

impl SetupError {
    /// What `hawser run` ends with when the container could not be started.
    pub(crate) fn exit_code(&self) -> i32 {
        match self {
            Self::Runtime { source } => exit_code_of(&source.to_string()),
            _ => EXIT_DAEMON,
        }
    }
}

fn failed<'a>(op: &'static str, path: &'a Path) -> impl Fn(io::Error) -> SetupError + 'a {
    move |source| SetupError::Io {
        op,
        path: path.to_owned(),
        source,
    }
}

/// How far a start has come: all up to and including this may exist.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Reached {
    Nothing,
    Rootfs,
    Volumes,
    Created,
    Networks,
}

/// A created container that waits for its start.
#[derive(Debug)]
pub(crate) struct Created {
    pub(crate) pid: u32,
    pub(crate) streams: Streams,
}

/// One container with the services it uses.
#[derive(Debug)]
pub(crate) struct Setup {
    pub(crate) dir: ContainerDir,
    pub(crate) record: Record,
    pub(crate) scratch: PathBuf,
    pub(crate) runtime: Runtime,
    daemon: Daemon,
    plugins: Plugins,
    cni: Cni,
    pub(crate) places: Places,
}

impl Setup {
    pub(crate) fn open(places: &Places) -> Result<Self, SetupError> {
        let dir = ContainerDir::at(&places.container_dir)?;
        let record = dir.record()?;
        let scratch = places.run_dir.join("containers").join(dir.id().short());
        let runtime = Runtime::of(&record, &places.run_dir, &scratch)?;
        for directory in [&scratch, &runtime.root] {
            fs::create_dir_all(directory).map_err(failed("create", directory))?;
        }
        Ok(Self {
            runtime,
            daemon: Daemon::new(Client::new(&places.socket), dir.id().as_str()),
            plugins: Plugins::new(&places.plugin_dir),
            cni: Cni::new(&places.cni_bin_dir),
            places: places.clone(),
            dir,
            record,
            scratch,
        })
    }

    /// Makes everything and creates the container. What was made is undone on failure.
    pub(crate) fn make(&self) -> Result<Created, SetupError> {
        let mut reached = Reached::Nothing;
        self.advance(&mut reached).inspect_err(|_cause| {
            // The cause is what the user must know; leftovers are found again by the next start.
            drop(self.release(reached));
        })
    }

    fn advance(&self, reached: &mut Reached) -> Result<Created, SetupError> {
        let network = self.network()?;
        let store = self.dir.store();
        link::check(&store, &self.record)?;
        let linked: Vec<Linked> = link::resolve(&store, &self.record).collect::<Result<_, _>>()?;
        let link_env: Vec<String> = linked
            .iter()
            .flat_map(|linked| linked.variables(&self.record.name))
            .collect();
        let options = self
            .record
            .host_config
            .security_opt
            .as_deref()
            .unwrap_or_default();
        let security = Security::parse(options, Modules::observe(), |path| fs::read(path))?;
        let devices = device::nodes(&self.record.host_config)?;
        self.check_bind_sources()?;
        // What a shim that was killed has left behind.
        self.runtime.delete()?;
        self.leave_networks()?;

        let root = self.take_root(|| *reached = Reached::Rootfs)?;
        let root_path = root.path.clone();
        let shared = self.share()?;
        let user = self.user(&root.files)?;
        self.make_working_dir(&root)?;

        *reached = Reached::Volumes;
        let volumes = self.mount_volumes()?;
        let etc = self.etc_files(&network)?;
        let known = Known::of(&self.record, linked, self.daemon.client())?;

        let own_status = own_status()?;
        let input = Input {
            record: &self.record,
            rootfs: root_path.as_deref(),
            user: &user,
            network,
            volumes: &volumes,
            link_env: &link_env,
            etc: &etc,
            limits: &hard_limits(&own_status, self.record.id_maps.is_some()),
            available: capability::bounding(&own_status),
            security: &security,
            cgroups: &Cgroups::observe().map_err(failed("read", Path::new("/sys/fs/cgroup")))?,
            devices: &devices,
            shared: &shared,
            read_only_below: self.read_only_below()?,
        };
        let stage = self.write_config(&input, &root)?;
        *reached = Reached::Created;
        let created = self.create(&user, stage.as_ref())?;
        // From here on it is the container's alone.
        drop(root);
        self.restrict(&devices)?;
        self.have_io_counted(created.pid);

        *reached = Reached::Networks;
        match &input.network {
            NetworkNamespace::New => {
                let joined = self.join_networks(created.pid)?;
                etc.write(&self.record, &joined, &known)
                    .map_err(failed("write", &etc.hosts))?;
                self.tell_linkers();
            }
            NetworkNamespace::Host => {
                etc.write_hosts_own(&self.record, &known)
                    .map_err(failed("write", &etc.hosts))?;
            }
            NetworkNamespace::At(_) => {}
        }
        Ok(created)
    }

    /// Holds the container to its limits and devices before it runs.
    fn restrict(&self, devices: &[Node]) -> Result<(), SetupError> {
        let (host, group) = (&self.record.host_config, self.group()?);
        for warning in limit::apply(&host.resources, &group)? {
            eprintln!("hawser: warning: {warning}");
        }
        // Version 1's policy is in the specification, and the runtime writes it.
        if host.privileged || !group.is_unified {
            return Ok(());
        }
        let asked = host.resources.device_cgroup_rules.iter().flatten();
        let asked = asked.filter_map(|text| DeviceRule::parse(text));
        let rules: Vec<DeviceRule> = devices.iter().map(Node::rule).chain(asked).collect();
        let attached = cgroup::device::restrict(&group, &rules);
        attached.map_err(failed("attach a device policy to", &group.dir("devices")))
    }

    /// Undoes everything up to `reached`, in reverse, and says what could not be undone; so does
    /// the file `leftovers`.
    pub(crate) fn release(&self, reached: Reached) -> Vec<SetupError> {
        let mut failures = Vec::new();
        let mut undo = |step: Reached, outcome: &dyn Fn() -> Result<(), SetupError>| {
            if reached >= step {
                failures.extend(outcome().err());
            }
        };
        undo(Reached::Networks, &|| self.leave_networks());
        undo(Reached::Created, &|| self.delete());
        undo(Reached::Volumes, &|| self.unmount_volumes());
        undo(Reached::Rootfs, &|| self.unshare());
        undo(Reached::Rootfs, &|| {
            Ok(patiently(is_away, || self.daemon.unmount_rootfs())?)
        });
        let lines: String = failures
            .iter()
            .map(|failure| format!("{failure}\n"))
            .collect();
        // If it cannot even be written, the directory stays for want of a better reason.
        let noted = if lines.is_empty() {
            remove_stale(&self.leftovers())
        } else {
            fs::write(self.leftovers(), lines)
        };
        failures.extend(noted.err().map(failed("write", &self.leftovers())));
        failures
    }

    /// Groups that go are empty; where they do not, the runtime ends what is in them.
    fn delete(&self) -> Result<(), SetupError> {
        if self.runtime.has_stage() && self.group()?.remove().is_ok() {
            return Ok(self.runtime.forget()?);
        }
        self.runtime.delete()?;
        // What the runtime does not know of: version 2's beside version 1.
        drop(self.group()?.remove());
        Ok(())
    }

    /// Removes the container for good: root file system, references to volumes, anonymous volumes,
    /// name, directory. May be repeated until it succeeds.
    pub(crate) fn remove(&self) -> Result<(), SetupError> {
        patiently(is_away, || self.daemon.remove_rootfs())?;
        self.leave_volumes()?;
        self.dir
            .store()
            .release_name(&self.record.name, self.dir.id())?;
        self.dir.remove()?;
        self.forget()
    }

    fn leftovers(&self) -> PathBuf {
        self.scratch.join("leftovers")
    }

    /// Removes the boot-scoped directory unless there are leftovers: without the directory nobody
    /// looks for something to undo.
    pub(crate) fn forget(&self) -> Result<(), SetupError> {
        if self.leftovers().exists() {
            return Ok(());
        }
        match fs::remove_dir_all(&self.scratch) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(failed("remove", &self.scratch)(error))
            }
            _ => Ok(()),
        }
    }

    fn network(&self) -> Result<NetworkNamespace, SetupError> {
        match self.record.host_config.network_mode.as_str() {
            "host" => Ok(NetworkNamespace::Host),
            mode => match mode.strip_prefix("container:") {
                Some(key) => {
                    let (_, pid) = self.peer("network", key)?;
                    Ok(NetworkNamespace::At(format!("/proc/{pid}/ns/net").into()))
                }
                None => Ok(NetworkNamespace::New),
            },
        }
    }

    /// The container's control groups.
    pub(crate) fn group(&self) -> Result<Group, SetupError> {
        Group::of(&self.record).map_err(failed("read", Path::new("/sys/fs/cgroup")))
    }

    pub(crate) fn teller(&self) -> Teller {
        Teller::new(self.daemon.client(), &self.dir, &self.record)
    }

    pub(crate) fn steering(&self) -> Result<Steering, SetupError> {
        Ok(Steering {
            freezer: Freezer::new(self.group()?, self.dir.clone(), &self.record),
            teller: self.teller(),
        })
    }

    /// The running container whose network, say, this one shares.
    fn peer(&self, what: &'static str, key: &str) -> Result<(ContainerDir, u32), SetupError> {
        let no_peer = |reason: String| SetupError::NoPeer {
            what,
            key: key.to_owned(),
            reason,
        };
        let peer = self
            .dir
            .store()
            .find(key)
            .map_err(|error| no_peer(error.to_string()))?;
        let state = peer.state()?;
        match (state.status, state.init) {
            (Status::Running, Some(init)) => Ok((peer, init.pid)),
            _ => Err(no_peer("it is not running; start it first".to_owned())),
        }
    }

    /// Has the names of this container follow it in those that are linked to it. What fails there
    /// is no reason not to start.
    fn tell_linkers(&self) {
        let told = self.dir.linkers().map_err(EtcError::from).and_then(|all| {
            for linker in all {
                if linker.state()?.status == Status::Running {
                    let _lock = linker.lock()?;
                    etc::refresh(&linker, self.daemon.client())?;
                }
            }
            Ok(())
        });
        if let Err(error) = told {
            eprintln!("hawser: warning: a container with a link to this one: {error}");
        }
    }

    /// The container whose network this one shares in the end: the other one may share a third
    /// one's.
    fn sandbox_owner(&self) -> Result<ContainerDir, SetupError> {
        let mut owner = self.dir.clone();
        let mut mode = self.record.host_config.network_mode.clone();
        // Every one is older than the one that shares its network, so this ends.
        while let Some(key) = mode.strip_prefix("container:") {
            owner = self.peer("network", key)?.0;
            mode = owner.record()?.host_config.network_mode;
        }
        Ok(owner)
    }

    fn user(&self, rootfs: &Rootfs) -> Result<User, SetupError> {
        let read = |path: &'static str| rootfs.read(path).map_err(failed("read", Path::new(path)));
        let accounts = Accounts {
            passwd: read("/etc/passwd")?,
            group: read("/etc/group")?,
        };
        let groups = self
            .record
            .host_config
            .group_add
            .as_deref()
            .unwrap_or_default();
        Ok(accounts.resolve(&self.record.config.user, groups)?)
    }

    fn make_working_dir(&self, root: &Root) -> Result<(), SetupError> {
        let dir = working_dir(&self.record.config)?;
        let make = || root.files.create_dir_all(dir);
        let made = if root.mapped {
            // The host's root has no id there.
            let user = self.on_host(&User::default())?;
            sys::owner::acting_as(user, make).flatten()
        } else {
            make()
        };
        made.map_err(failed("create working directory", Path::new(dir)))
    }

    /// The files for `/etc`: our own, or those of the container whose network is shared.
    fn etc_files(&self, network: &NetworkNamespace) -> Result<EtcFiles, SetupError> {
        if let NetworkNamespace::At(_) = network {
            return Ok(EtcFiles::of(self.sandbox_owner()?.path()));
        }
        let etc = EtcFiles::of(self.dir.path());
        etc.create()
            .map_err(failed("create files in", self.dir.path()))?;
        Ok(etc)
    }

    /// Returns the file that says what to do before the runtime creates the container, if anything.
    fn write_config<'a>(
        &self,
        input: &Input<'_>,
        root: &'a Root,
    ) -> Result<Option<Staged<'a>>, SetupError> {
        let (mut config, warnings) = config(input)?;
        for warning in warnings {
            // The user's terminal: standard error is inherited until the container runs.
            eprintln!("hawser: warning: {warning}");
        }
        let bundle = self.dir.bundle();
        fs::create_dir_all(&bundle).map_err(failed("create", &bundle))?;
        let joined = self.joined_users()?;
        let users = self.record.id_maps.as_ref().map(|maps| Users {
            maps,
            kept: self.kept_sources(input, root),
            joined: joined.as_deref(),
        });
        let stage = if users.is_some() || self.runtime.has_stage() {
            let plan = bundle.join("stage.json");
            let directory = self.scratch.join("stage");
            Stage::plan(&mut config, &directory, users.as_ref()).write(&plan)?;
            let root = root.path.is_none().then(|| root.files.as_fd());
            Some(Staged { plan, root })
        } else {
            None
        };
        let path = bundle.join("config.json");
        fs::write(&path, config.to_string()).map_err(failed("write", &path))?;
        Ok(stage)
    }

    fn create(&self, user: &User, stage: Option<&Staged<'_>>) -> Result<Created, SetupError> {
        let bundle = self.dir.bundle();
        if self.record.config.tty {
            let socket = self.scratch.join("console.sock");
            let console =
                DescriptorSocket::bind(socket.clone()).map_err(failed("listen at", &socket))?;
            let none = Stdio3::null().map_err(failed("open", Path::new("/dev/null")))?;
            let pid = self
                .runtime
                .create(&bundle, &none, Some(console.path()), stage)?;
            let streams = console
                .receive()
                .and_then(Streams::terminal)
                .map_err(failed("receive a terminal at", &socket))?;
            return Ok(Created { pid, streams });
        }
        let owner = self.on_host(user)?;
        let (streams, theirs) = Streams::pipes(self.record.config.open_stdin, owner)
            .map_err(failed("make pipes for", self.dir.path()))?;
        let pid = self.runtime.create(&bundle, &theirs, None, stage)?;
        Ok(Created { pid, streams })
    }
}

/// The limits that cannot be raised. With CAP_SYS_RESOURCE there are none, but nobody has that in a
/// user namespace, where the runtime sets them.
fn hard_limits(own_status: &str, in_user_namespace: bool) -> HardLimits {
    if !in_user_namespace
        && capability::all(capability::bounding(own_status)).contains(&"CAP_SYS_RESOURCE")
    {
        return HardLimits::new();
    }
    let limits = [
        ("core", Resource::Core),
        ("cpu", Resource::Cpu),
        ("data", Resource::Data),
        ("fsize", Resource::Fsize),
        ("locks", Resource::Locks),
        ("memlock", Resource::Memlock),
        ("msgqueue", Resource::Msgqueue),
        ("nice", Resource::Nice),
        ("nofile", Resource::Nofile),
        ("nproc", Resource::Nproc),
        ("rss", Resource::Rss),
        ("rtprio", Resource::Rtprio),
        ("rttime", Resource::Rttime),
        ("sigpending", Resource::Sigpending),
        ("stack", Resource::Stack),
    ];
    let hard = limits.map(|(name, resource)| (name, getrlimit(resource).maximum));
    hard.into_iter()
        .filter_map(|(name, limit)| limit.map(|limit| (name, limit)))
        .collect()
}

pub(crate) fn own_status() -> Result<String, SetupError> {
    let path = Path::new("/proc/self/status");
    fs::read_to_string(path).map_err(failed("read", path))
}
