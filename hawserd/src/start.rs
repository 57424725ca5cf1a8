//! Opens the daemon: directories, locks, database, subsystems, sockets, in this order.
//!
//! **Invariant:** a client that can connect is answered by a daemon that is whole. The sockets come
//! last, and what an earlier step refuses leaves nothing behind but directories.

use std::fs::{self, DirBuilder};
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use api::path::{AGENT_DIR, AGENT_LOCK, AGENT_SOCKET};
use netd::Netd;
use redb::Database;
use storaged::Storaged;
use tokio::runtime::Handle;

use crate::cgroup::{self, Hierarchy};
use crate::config::Config;
use crate::daemon::Daemon;
use crate::database::{self, OpenDatabaseError, Opened};
use crate::events::Events;
use crate::listen::{self, ListenError, Socket};
use crate::lock::{Lock, LockError};
use crate::metrics::Metrics;
use crate::swarm::{self, Clustering};
use crate::turns::Turns;

const PLUGIN_SOCKET: &str = "hawser.sock";

#[derive(Debug, thiserror::Error)]
pub(crate) enum StartError {
    #[error("hawserd makes interfaces and mounts and must run as root: try sudo, or systemd")]
    NotRoot,
    #[error("cannot make {what} {}: {source}", path.display())]
    Directory {
        what: &'static str,
        path: PathBuf,
        source: io::Error,
    },
    #[error("cannot remove {}: {source}", path.display())]
    Agent { path: PathBuf, source: io::Error },
    #[error(transparent)]
    Lock(#[from] LockError),
    #[error(transparent)]
    Database(#[from] OpenDatabaseError),
    #[error("cannot read the list of mounts: {0}; is /proc mounted?")]
    Mounts(#[source] io::Error),
    #[error("storage: {0}")]
    Storage(#[from] storaged::OpenError),
    #[error("userns-remap: {0}")]
    Remap(#[from] storaged::OwnerError),
    #[error("network: {0}")]
    Network(#[from] netd::OpenError),
    #[error("cluster: {0}")]
    Cluster(#[source] cluster::swarm::SwarmError),
    #[error("records of networks: {0}")]
    Records(#[from] netd::StoreError),
    #[error(transparent)]
    Listen(#[from] ListenError),
    #[error("cannot start the event loop: {0}")]
    Runtime(#[source] io::Error),
}

/// The directories are ours and the database is open.
#[derive(Debug)]
pub(crate) struct Claim {
    database: Arc<Database>,
    /// The database is older than the directories.
    adopt: bool,
    hierarchy: Arc<Hierarchy>,
    // Last: the database is closed before another daemon may open it.
    _locks: [Lock; 2],
}

/// Both listening sockets.
#[derive(Debug)]
pub(crate) struct Sockets {
    pub(crate) api: Socket,
    pub(crate) plugin: Socket,
}

impl Claim {
    /// # Errors
    /// [`StartError`]: not root, or another daemon has the directories.
    pub(crate) fn take(config: &Config) -> Result<Self, StartError> {
        Self::take_with(config, database::open)
    }

    /// Sets the database aside and makes one from what is on disk. Returns what there is now.
    ///
    /// # Errors
    /// [`StartError`]; calling again starts over.
    pub(crate) fn rebuild(config: &Config) -> Result<String, StartError> {
        let claim = Self::take_with(config, database::rebuild)?;
        let networks = netd::adopt(&claim.database, &config.state_dir)?;
        let storaged = claim.open_storage(config)?;
        Ok(format!(
            "{} layers, {} images, {} volumes, {networks} networks",
            storaged.layers().len(),
            storaged.images().len(),
            storaged.volumes().len()
        ))
    }

    fn take_with(
        config: &Config,
        open: fn(&Path) -> Result<Opened, OpenDatabaseError>,
    ) -> Result<Self, StartError> {
        if !rustix::process::geteuid().is_root() {
            return Err(StartError::NotRoot);
        }
        // Root file systems below are reached through the state directory by processes of any
        // user, so that it can be passed through but not listed.
        make("state directory", &config.state_dir, 0o711)?;
        make("run directory", &config.run_dir, 0o755)?;
        let locks = [
            Lock::acquire("state-dir", &config.state_dir)?,
            Lock::acquire("run-dir", &config.run_dir)?,
        ];
        let Opened {
            database,
            is_older: adopt,
        } = open(&config.state_dir)?;
        Ok(Self {
            database: Arc::new(database),
            adopt,
            hierarchy: Arc::new(Hierarchy::detect().map_err(StartError::Mounts)?),
            _locks: locks,
        })
    }

    fn network_options(&self, config: &Config) -> netd::Options {
        netd::Options {
            database: Arc::clone(&self.database),
            state_dir: config.state_dir.clone(),
            run_dir: config.run_dir.clone(),
            pin_dir: config.pin_dir.clone(),
            cgroup: self.hierarchy.path(),
            instance: config.instance.clone(),
            config: config.network.clone(),
        }
    }

    /// Opens the subsystems, which adopt whatever they find.
    ///
    /// # Errors
    /// [`StartError`] of the subsystem that cannot work on this host.
    pub(crate) fn open(&self, config: &Config, runtime: Handle) -> Result<Daemon, StartError> {
        let storaged = self.open_storage(config)?;
        storaged.check_remap()?;
        if self.adopt
            && let Err(error) = netd::adopt(&self.database, &config.state_dir)
        {
            tracing::warn!(%error, "networks and services are those of the older copy");
        }
        let netd = Netd::open(self.network_options(config), runtime.clone())?;
        database::keep_copy(&self.database, &config.state_dir);
        let events = Arc::new(Events::new());
        let (networks, told) = (Arc::clone(&netd), Arc::clone(&events));
        let cluster = Clustering::open(config, &self.database, networks, told, runtime)?;
        Ok(Daemon {
            config: Arc::new(config.clone()),
            netd,
            cluster: Arc::new(cluster),
            storaged: Arc::new(storaged),
            hierarchy: Arc::clone(&self.hierarchy),
            metrics: Arc::new(Metrics::new()),
            events,
            turns: Turns::new(),
        })
    }

    fn open_storage(&self, config: &Config) -> Result<Storaged, StartError> {
        Ok(Storaged::open(storaged::Options {
            state_dir: config.state_dir.clone(),
            database: Arc::clone(&self.database),
            config: config.storage.clone(),
            adopt: self.adopt,
        })?)
    }

    /// Removes what the data plane left in the kernel, and the sockets of a killed daemon. Returns
    /// what was removed.
    ///
    /// # Errors
    /// [`StartError`] of what stays; calling again goes on from there.
    pub(crate) fn uninstall(&self, config: &Config) -> Result<Vec<String>, StartError> {
        let mut removed = Netd::uninstall(&self.network_options(config))?;
        for path in [api_socket(config), plugin_socket(config)] {
            if listen::remove_stale(&path)? {
                removed.push(path.display().to_string());
            }
        }
        // The agent goes with its lock: nobody else can tell it that there will be no daemon any more.
        let lock = config.state_dir.join(AGENT_DIR).join(AGENT_LOCK);
        for path in [lock, config.run_dir.join(AGENT_SOCKET)] {
            match fs::remove_file(&path) {
                Ok(()) => removed.push(path.display().to_string()),
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(source) => return Err(StartError::Agent { path, source }),
            }
        }
        removed.extend(swarm::uninstall(config).map_err(StartError::Cluster)?);
        let groups = cgroup::remove_empty_groups().map_err(StartError::Mounts)?;
        removed.extend(groups.iter().map(|group| group.display().to_string()));
        Ok(removed)
    }
}

impl Sockets {
    /// # Errors
    /// [`StartError::Directory`] or [`StartError::Listen`].
    pub(crate) fn bind(config: &Config) -> Result<Self, StartError> {
        make("plugin directory", &config.plugin_dir, 0o755)?;
        // A host without the group keeps the socket to root.
        let group = listen::group(&config.group);
        Ok(Self {
            api: Socket::bind(&api_socket(config), group, "run-dir")?,
            plugin: Socket::bind(&plugin_socket(config), None, "plugin-dir")?,
        })
    }
}

fn api_socket(config: &Config) -> PathBuf {
    config.run_dir.join(api::path::SOCKET_NAME)
}

fn plugin_socket(config: &Config) -> PathBuf {
    config.plugin_dir.join(PLUGIN_SOCKET)
}

/// Makes a directory and those above it; one that exists keeps its mode.
fn make(what: &'static str, path: &Path, mode: u32) -> Result<(), StartError> {
    let failed = |source| StartError::Directory {
        what,
        path: path.to_owned(),
        source,
    };
    if let Some(parent) = path.parent() {
        fs::create_dir_all(parent).map_err(failed)?;
    }
    match DirBuilder::new().mode(mode).create(path) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists && path.is_dir() => Ok(()),
        made => made.map_err(failed),
    }
}
