//! Containers on disk: names, records, states (the layout is drawn in [`crate::container`]).
//!
//! Invariants: a file is replaced by rename, so that a reader sees the old content or the new one;
//! a name belongs to the container that made its reservation file with `O_EXCL`; a `running` state
//! is believed only while its shim lives.

mod identity;

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use api::id::{ContainerName, Id};
use rustix::fs::FlockOperation;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::container::{Attachments, ProcessId, Record, State, Status};

pub use identity::{is_alive, process_id};

#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    #[error("No such container: {key}")]
    NotFound { key: String },
    #[error("container id prefix {key} is ambiguous: it fits {}", ids.join(", "))]
    Ambiguous { key: String, ids: Vec<String> },
    #[error(
        "the container name {name} is already in use by container {holder}; remove or rename that \
         container to use the name again"
    )]
    NameTaken { name: ContainerName, holder: String },
    #[error("{op} {}: {source}", path.display())]
    Io {
        op: &'static str,
        path: PathBuf,
        source: io::Error,
    },
    #[error("{} is damaged: {source}", path.display())]
    Damaged {
        path: PathBuf,
        source: serde_json::Error,
    },
}

/// Whether a file must outlive a power cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Durability {
    /// Synced before the rename.
    Synced,
    /// For containers that are removed when they exit, and for what a reboot makes void.
    Volatile,
}

/// `STATE/containers`.
#[derive(Debug, Clone)]
pub struct Store {
    dir: PathBuf,
}

impl Store {
    /// The store below the daemon's state directory; made when missing.
    ///
    /// # Errors
    /// [`StoreError::Io`].
    pub fn open(state_dir: &Path) -> Result<Self, StoreError> {
        let dir = state_dir.join("containers");
        let names = dir.join("names");
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&names)
            .map_err(io_error("create", &names))?;
        Ok(Self { dir })
    }

    /// The directory of one container, which may not exist.
    pub fn container(&self, id: &Id) -> ContainerDir {
        ContainerDir {
            dir: self.dir.join(id.as_str()),
            id: id.clone(),
        }
    }

    /// Reserves a name. Reserving it again for the same container is no error.
    ///
    /// # Errors
    /// [`StoreError::NameTaken`] names the holder.
    pub fn reserve_name(&self, name: &ContainerName, id: &Id) -> Result<(), StoreError> {
        let path = self.name_path(name);
        // Written whole before it is visible: link(2) fails if the name exists.
        let staged = self.dir.join("names").join(format!(".{id}"));
        write_file(&staged, id.as_str().as_bytes(), Durability::Synced)?;
        let linked = fs::hard_link(&staged, &path);
        fs::remove_file(&staged).map_err(io_error("remove", &staged))?;
        match linked {
            Ok(()) => Ok(()),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                let holder = fs::read_to_string(&path).map_err(io_error("read", &path))?;
                if holder == id.as_str() {
                    return Ok(());
                }
                Err(StoreError::NameTaken {
                    name: name.clone(),
                    holder,
                })
            }
            Err(source) => Err(StoreError::Io {
                op: "link",
                path,
                source,
            }),
        }
    }

    /// Gives a name back if `id` holds it.
    ///
    /// # Errors
    /// [`StoreError::Io`].
    pub fn release_name(&self, name: &ContainerName, id: &Id) -> Result<(), StoreError> {
        match self.name_holder(name)? {
            Some(holder) if holder == id.as_str() => remove_if_there(&self.name_path(name)),
            _ => Ok(()),
        }
    }

    /// Makes the container's directory with its record and a `created` state.
    ///
    /// # Errors
    /// [`StoreError::Io`].
    pub fn create(&self, record: &Record) -> Result<ContainerDir, StoreError> {
        let container = self.container(&record.id);
        fs::DirBuilder::new()
            .mode(0o700)
            .create(&container.dir)
            .map_err(io_error("create", &container.dir))?;
        let durability = durability_of(record);
        container.write_state(&State::default(), durability)?;
        container.write_record(record, durability)?;
        Ok(container)
    }

    /// Ids of all containers that have a record, in no order.
    ///
    /// # Errors
    /// [`StoreError::Io`].
    pub fn list(&self) -> Result<Vec<Id>, StoreError> {
        let mut ids = Vec::new();
        for entry in fs::read_dir(&self.dir).map_err(io_error("list", &self.dir))? {
            let entry = entry.map_err(io_error("list", &self.dir))?;
            if let Some(Ok(id)) = entry.file_name().to_str().map(Id::parse)
                && self.container(&id).record_path().exists()
            {
                ids.push(id);
            }
        }
        Ok(ids)
    }

    /// Finds a container by name, id or unambiguous id prefix, in this order as Docker does.
    ///
    /// # Errors
    /// [`StoreError::NotFound`] or [`StoreError::Ambiguous`].
    pub fn find(&self, key: &str) -> Result<ContainerDir, StoreError> {
        let not_found = || StoreError::NotFound {
            key: key.to_owned(),
        };
        if let Ok(id) = Id::parse(key) {
            let container = self.container(&id);
            return if container.record_path().exists() {
                Ok(container)
            } else {
                Err(not_found())
            };
        }
        // `inspect` prints names with a leading slash.
        let name = ContainerName::parse(key.strip_prefix('/').unwrap_or(key));
        if let Ok(name) = name
            && let Some(holder) = self.name_holder(&name)?
            && let Ok(id) = Id::parse(&holder)
        {
            return Ok(self.container(&id));
        }
        let is_prefix = !key.is_empty() && key.bytes().all(|byte| byte.is_ascii_hexdigit());
        let mut found = if is_prefix { self.list()? } else { Vec::new() };
        found.retain(|id| id.as_str().starts_with(key));
        match found.as_slice() {
            [] => Err(not_found()),
            [id] => Ok(self.container(id)),
            several => Err(StoreError::Ambiguous {
                key: key.to_owned(),
                ids: several.iter().map(|id| id.short().to_owned()).collect(),
            }),
        }
    }

    fn name_path(&self, name: &ContainerName) -> PathBuf {
        self.dir.join("names").join(name.as_str())
    }

    fn name_holder(&self, name: &ContainerName) -> Result<Option<String>, StoreError> {
        let path = self.name_path(name);
        match fs::read_to_string(&path) {
            Ok(holder) => Ok(Some(holder)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(source) => Err(StoreError::Io {
                op: "read",
                path,
                source,
            }),
        }
    }
}

/// One container's directory.
#[derive(Debug, Clone)]
pub struct ContainerDir {
    dir: PathBuf,
    id: Id,
}

impl ContainerDir {
    /// The directory at `dir`, whose last component is the container's id.
    ///
    /// # Errors
    /// [`StoreError::NotFound`] when it is not.
    pub fn at(dir: &Path) -> Result<Self, StoreError> {
        let name = dir
            .file_name()
            .and_then(|name| name.to_str())
            .map(Id::parse);
        match name {
            Some(Ok(id)) => Ok(Self {
                dir: dir.to_owned(),
                id,
            }),
            _ => Err(StoreError::NotFound {
                key: dir.display().to_string(),
            }),
        }
    }

    pub fn id(&self) -> &Id {
        &self.id
    }

    pub fn path(&self) -> &Path {
        &self.dir
    }

    /// The store this container is in.
    pub fn store(&self) -> Store {
        Store {
            dir: self.dir.parent().unwrap_or(Path::new("/")).to_owned(),
        }
    }

    pub fn bundle(&self) -> PathBuf {
        self.dir.join("bundle")
    }

    /// Docker's name for the json-file log.
    pub fn log_path(&self) -> PathBuf {
        self.dir.join(format!("{}-json.log", self.id))
    }

    /// # Errors
    /// [`StoreError::NotFound`], [`StoreError::Damaged`].
    pub fn record(&self) -> Result<Record, StoreError> {
        read_json(&self.record_path())?.ok_or_else(|| StoreError::NotFound {
            key: self.id.to_string(),
        })
    }

    /// # Errors
    /// [`StoreError::Io`].
    pub fn write_record(&self, record: &Record, durability: Durability) -> Result<(), StoreError> {
        write_json(&self.record_path(), record, durability)
    }

    /// The state as it must be believed: a container whose shim is gone has exited.
    ///
    /// # Errors
    /// [`StoreError::Io`]. A state torn by a power cut reads as `exited` with a note.
    pub fn state(&self) -> Result<State, StoreError> {
        let state = match read_json::<State>(&self.dir.join("state.json")) {
            Ok(state) => state.unwrap_or_default(),
            Err(StoreError::Damaged { .. }) => lost(State::default()),
            Err(error) => return Err(error),
        };
        Ok(believed(state, is_alive))
    }

    /// # Errors
    /// [`StoreError::Io`].
    pub fn write_state(&self, state: &State, durability: Durability) -> Result<(), StoreError> {
        write_json(&self.dir.join("state.json"), state, durability)
    }

    /// # Errors
    /// [`StoreError::Io`], [`StoreError::Damaged`].
    pub fn attachments(&self) -> Result<Attachments, StoreError> {
        Ok(read_json(&self.dir.join("networks.json"))?.unwrap_or_default())
    }

    /// To be called with the lock held. What it holds is void after a reboot, so it is not synced.
    ///
    /// # Errors
    /// [`StoreError::Io`].
    pub fn write_attachments(&self, attachments: &Attachments) -> Result<(), StoreError> {
        write_json(
            &self.dir.join("networks.json"),
            attachments,
            Durability::Volatile,
        )
    }

    /// Waits for the lock that serialises start, removal and changes of the attachments.
    ///
    /// # Errors
    /// [`StoreError::Io`]; [`StoreError::NotFound`] when the container was removed meanwhile.
    pub fn lock(&self) -> Result<Lock, StoreError> {
        let path = self.dir.join("lock");
        let file = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .mode(0o600)
            .open(&path)
            .map_err(|source| match source.kind() {
                io::ErrorKind::NotFound => StoreError::NotFound {
                    key: self.id.to_string(),
                },
                _ => StoreError::Io {
                    op: "open",
                    path: path.clone(),
                    source,
                },
            })?;
        rustix::io::retry_on_intr(|| rustix::fs::flock(&file, FlockOperation::LockExclusive))
            .map_err(|errno| StoreError::Io {
                op: "lock",
                path,
                source: errno.into(),
            })?;
        Ok(Lock { _file: file })
    }

    /// Removes the directory and everything in it, the record last, so that a removal that was cut
    /// short is still seen by [`Store::list`]. Nothing there is success.
    ///
    /// # Errors
    /// [`StoreError::Io`].
    pub fn remove(&self) -> Result<(), StoreError> {
        let entries = match fs::read_dir(&self.dir) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(source) => return Err(io_error("list", &self.dir)(source)),
        };
        let record = self.record_path();
        for entry in entries {
            let entry = entry.map_err(io_error("list", &self.dir))?;
            let path = entry.path();
            if path == record {
                continue;
            }
            let kind = entry.file_type().map_err(io_error("stat", &path))?;
            let removed = if kind.is_dir() {
                fs::remove_dir_all(&path)
            } else {
                fs::remove_file(&path)
            };
            removed.map_err(io_error("remove", &path))?;
        }
        remove_if_there(&record)?;
        fs::remove_dir(&self.dir).map_err(io_error("remove", &self.dir))
    }

    fn record_path(&self) -> PathBuf {
        self.dir.join("container.json")
    }
}

/// The lock is held while this lives.
#[derive(Debug)]
pub struct Lock {
    _file: File,
}

/// Whether the container's files must outlive a power cut.
pub fn durability_of(record: &Record) -> Durability {
    if record.host_config.auto_remove {
        Durability::Volatile
    } else {
        Durability::Synced
    }
}

fn believed(state: State, is_alive: impl Fn(ProcessId) -> bool) -> State {
    if state.status == Status::Running && !state.shim.is_some_and(is_alive) {
        return lost(state);
    }
    state
}

fn lost(state: State) -> State {
    State {
        status: Status::Exited,
        exit_code: 137,
        error: "its shim is gone: the host was restarted or the shim was killed".to_owned(),
        ..state
    }
}

fn read_json<T: DeserializeOwned>(path: &Path) -> Result<Option<T>, StoreError> {
    let bytes = match fs::read(path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(source) => return Err(io_error("read", path)(source)),
    };
    serde_json::from_slice(&bytes)
        .map(Some)
        .map_err(|source| StoreError::Damaged {
            path: path.to_owned(),
            source,
        })
}

fn write_json(
    path: &Path,
    value: &impl Serialize,
    durability: Durability,
) -> Result<(), StoreError> {
    let mut bytes = serde_json::to_vec_pretty(value).map_err(|source| StoreError::Damaged {
        path: path.to_owned(),
        source,
    })?;
    bytes.push(b'\n');
    // The process id keeps two writers from sharing a staging file.
    let staged = path.with_extension(format!("json.{}", std::process::id()));
    write_file(&staged, &bytes, durability)?;
    fs::rename(&staged, path).map_err(io_error("replace", path))?;
    if durability == Durability::Synced
        && let Some(parent) = path.parent()
    {
        File::open(parent)
            .and_then(|dir| dir.sync_all())
            .map_err(io_error("sync", parent))?;
    }
    Ok(())
}

fn write_file(path: &Path, bytes: &[u8], durability: Durability) -> Result<(), StoreError> {
    let write = || {
        let mut file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(path)?;
        file.write_all(bytes)?;
        if durability == Durability::Synced {
            file.sync_all()
        } else {
            Ok(())
        }
    };
    write().map_err(io_error("write", path))
}

fn remove_if_there(path: &Path) -> Result<(), StoreError> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(io_error("remove", path)(error))
        }
        _ => Ok(()),
    }
}

fn io_error<'a>(op: &'static str, path: &'a Path) -> impl Fn(io::Error) -> StoreError + 'a {
    move |source| StoreError::Io {
        op,
        path: path.to_owned(),
        source,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::container::{Config, HostConfig};
    use api::id::Digest;

    fn record(byte: u8, name: &str) -> Record {
        Record {
            schema: 1,
            id: Id::from_bytes([byte; 32]),
            name: ContainerName::parse(name).unwrap(),
            created: "2026-01-01T00:00:00Z".to_owned(),
            image: "busybox".to_owned(),
            image_id: Digest::from_sha256([1; 32]),
            config: Config::default(),
            host_config: HostConfig::default(),
            mounts: Vec::new(),
            networks: Vec::new(),
        }
    }

    #[test]
    fn a_name_has_one_holder_until_it_is_released() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        let name = ContainerName::parse("web").unwrap();
        let (one, two) = (Id::from_bytes([1; 32]), Id::from_bytes([2; 32]));
        store.reserve_name(&name, &one).unwrap();
        store.reserve_name(&name, &one).unwrap();
        let error = store.reserve_name(&name, &two).unwrap_err().to_string();
        assert!(error.contains(one.as_str()), "{error}");
        store.release_name(&name, &two).unwrap();
        assert!(store.reserve_name(&name, &two).is_err());
        store.release_name(&name, &one).unwrap();
        store.reserve_name(&name, &two).unwrap();
    }

    #[test]
    fn finds_by_name_id_and_unambiguous_prefix() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        for record in [record(0xab, "web"), record(0xac, "db")] {
            store.reserve_name(&record.name, &record.id).unwrap();
            store.create(&record).unwrap();
        }
        let found = |key: &str| {
            store
                .find(key)
                .map(|container| container.id().short().to_owned())
        };
        for key in ["web", "/web", "abab", &"ab".repeat(32)] {
            assert_eq!(found(key).unwrap(), "ab".repeat(6), "{key}");
        }
        assert!(matches!(found("a"), Err(StoreError::Ambiguous { .. })));
        for key in ["", "nobody", "../x", "f", &"0".repeat(64)] {
            let error = found(key).unwrap_err().to_string();
            assert_eq!(error, format!("No such container: {key}"));
        }
    }

    #[test]
    fn removal_leaves_nothing_and_may_be_repeated() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        let container = store.create(&record(1, "web")).unwrap();
        fs::create_dir(container.bundle()).unwrap();
        drop(container.lock().unwrap());
        container.remove().unwrap();
        container.remove().unwrap();
        assert!(!container.path().exists());
        assert!(matches!(container.lock(), Err(StoreError::NotFound { .. })));
    }

    #[test]
    fn a_running_state_without_its_shim_reads_as_killed() {
        let running = State {
            status: Status::Running,
            shim: Some(ProcessId {
                pid: 1,
                start_time: 2,
            }),
            ..State::default()
        };
        assert_eq!(believed(running.clone(), |_| true), running);
        let lost = believed(running, |_| false);
        assert_eq!((lost.status, lost.exit_code), (Status::Exited, 137));
        assert!(!lost.error.is_empty());
    }

    #[test]
    fn a_torn_state_reads_as_killed() {
        let dir = tempfile::tempdir().unwrap();
        let container = Store::open(dir.path())
            .unwrap()
            .create(&record(1, "web"))
            .unwrap();
        fs::write(container.path().join("state.json"), "").unwrap();
        assert_eq!(container.state().unwrap().status, Status::Exited);
    }
}
