//! Containers on disk: names, records, states (the layout is drawn in [`crate::container`]).
//!
//! Invariants: a file is replaced by rename, so that a reader sees the old content or the new one;
//! a name belongs to the container that made its reservation file with `O_EXCL`; a `running` state
//! is believed only while its shim lives.

mod container_dir;
mod file;
mod identity;

use std::fs;
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use api::id::{ContainerName, Id};

use crate::container::{Record, State};
use file::write_file;
pub(crate) use file::{io_error, read_json, remove_if_there, write_json};

pub use container_dir::{ContainerDir, Lock};
pub use file::Durability;
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

/// Whether the container's files must outlive a power cut.
pub fn durability_of(record: &Record) -> Durability {
    if record.host_config.auto_remove {
        Durability::Volatile
    } else {
        Durability::Synced
    }
}

#[cfg(test)]
mod tests {
    use api::id::Digest;

    use super::*;
    use crate::container::{Config, HostConfig, Status};

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
            driver: String::new(),
            mounts: Vec::new(),
            networks: Vec::new(),
            links: Vec::new(),
            id_maps: None,
            runtime_program: None,
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
    fn who_links_to_a_container_is_known_until_it_is_removed() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        let server = store.create(&record(1, "server")).unwrap();
        let mut linked = record(2, "client");
        linked.links.push(crate::container::Link {
            container: server.id().clone(),
            alias: "db".to_owned(),
        });
        let client = store.create(&linked).unwrap();
        server.add_linker(client.id()).unwrap();
        server.add_linker(client.id()).unwrap();
        let linkers = server.linkers().unwrap();
        assert_eq!(linkers.len(), 1);
        assert_eq!(linkers[0].id(), client.id());
        client.remove().unwrap();
        assert!(server.linkers().unwrap().is_empty());
        // A link to what is gone is in nobody's way.
        let again = store.create(&linked).unwrap();
        server.remove().unwrap();
        again.remove().unwrap();
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
