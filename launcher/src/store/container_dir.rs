//! One container's directory: its files, and the lock on them.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use api::id::Id;
use rustix::fs::FlockOperation;

use super::file::{Durability, io_error, read_json, remove_if_there, write_json};
use super::{Store, StoreError, is_alive};
use crate::container::{Attachments, Health, ProcessId, Record, State, Status};
use crate::log::Format;

/// Directory of the ids of containers with a link to this one.
const LINKED_BY: &str = "linked-by";

/// One container's directory.
#[derive(Debug, Clone)]
pub struct ContainerDir {
    pub(super) dir: PathBuf,
    pub(super) id: Id,
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

    /// Docker's name for the json-file log, and ours for the other.
    pub fn log_path(&self, format: Format) -> PathBuf {
        let name = match format {
            Format::Json => "json",
            Format::Local => "local",
        };
        self.dir.join(format!("{}-{name}.log", self.id))
    }

    /// How many entries of the container's output its log has lost.
    ///
    /// # Errors
    /// [`StoreError::Io`], [`StoreError::Damaged`].
    pub fn lost_entries(&self) -> Result<u64, StoreError> {
        Ok(read_json(&self.dir.join("log-lost.json"))?.unwrap_or_default())
    }

    /// # Errors
    /// [`StoreError::Io`].
    pub fn write_lost_entries(&self, entries: u64) -> Result<(), StoreError> {
        let path = self.dir.join("log-lost.json");
        write_json(&path, &entries, Durability::Volatile)
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

    /// What the health check of this start has found so far.
    ///
    /// # Errors
    /// [`StoreError::Io`], [`StoreError::Damaged`].
    pub fn health(&self) -> Result<Option<Health>, StoreError> {
        read_json(&self.dir.join("health.json"))
    }

    /// # Errors
    /// [`StoreError::Io`].
    pub fn write_health(&self, health: &Health) -> Result<(), StoreError> {
        let path = self.dir.join("health.json");
        write_json(&path, health, Durability::Volatile)
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

    /// Notes that `client` has a link to this container.
    ///
    /// # Errors
    /// [`StoreError::Io`].
    pub fn add_linker(&self, client: &Id) -> Result<(), StoreError> {
        let dir = self.dir.join(LINKED_BY);
        fs::create_dir_all(&dir).map_err(io_error("create", &dir))?;
        let path = dir.join(client.as_str());
        File::create(&path)
            .map(drop)
            .map_err(io_error("create", &path))
    }

    /// # Errors
    /// [`StoreError::Io`].
    pub fn remove_linker(&self, client: &Id) -> Result<(), StoreError> {
        remove_if_there(&self.dir.join(LINKED_BY).join(client.as_str()))
    }

    /// The containers that have a link to this one.
    ///
    /// # Errors
    /// [`StoreError::Io`].
    pub fn linkers(&self) -> Result<Vec<Self>, StoreError> {
        let dir = self.dir.join(LINKED_BY);
        let entries = match fs::read_dir(&dir) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(source) => return Err(io_error("list", &dir)(source)),
        };
        let store = self.store();
        let mut linkers = Vec::new();
        for entry in entries {
            let entry = entry.map_err(io_error("list", &dir))?;
            if let Some(Ok(id)) = entry.file_name().to_str().map(Id::parse) {
                linkers.push(store.container(&id));
            }
        }
        Ok(linkers)
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
        for link in self.record().map(|record| record.links).unwrap_or_default() {
            self.store()
                .container(&link.container)
                .remove_linker(&self.id)?;
        }
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

    pub(super) fn record_path(&self) -> PathBuf {
        self.dir.join("container.json")
    }
}

/// The lock is held while this lives.
#[derive(Debug)]
pub struct Lock {
    _file: File,
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

#[cfg(test)]
mod tests {
    use super::*;

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
}
