//! The agent's files: a service's tasks, and the lock that makes it the only agent.
//!
//! ```text
//! STATE/agent/lock          held by the agent, with its process id in it
//! STATE/agent/ID.json       the tasks of a service
//! STATE/agent/agent.log     what an agent that nobody watches has to say
//! ```

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use api::id::Id;
use api::path::{AGENT_DIR, AGENT_LOCK};
use rustix::fs::{FlockOperation, flock};
use serde::{Deserialize, Serialize};

use super::task::Task;
use crate::store::{Durability, StoreError, io_error, read_json, remove_if_there, write_json};

/// `STATE/agent`.
#[derive(Debug, Clone)]
pub struct Records {
    dir: PathBuf,
}

/// Content of `ID.json`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServiceTasks {
    /// The service's name, which its tasks' names begin with.
    pub service: String,
    /// Oldest first.
    pub tasks: Vec<Task>,
}

/// As long as it lives, there is no other agent.
#[derive(Debug)]
pub struct AgentLock {
    file: File,
    path: PathBuf,
}

impl AgentLock {
    /// Writes this process's id into the file.
    ///
    /// # Errors
    /// [`StoreError::Io`].
    pub fn sign(&mut self) -> Result<(), StoreError> {
        let pid = format!("{}\n", std::process::id());
        self.file
            .set_len(0)
            .and_then(|()| self.file.write_all(pid.as_bytes()))
            .map_err(io_error("write", &self.path))
    }

    /// Whether its file is still there: `hawserd --uninstall` removes it, or somebody the whole state
    /// directory.
    pub fn is_current(&self) -> bool {
        use std::os::unix::fs::MetadataExt;
        match (self.file.metadata(), fs::metadata(&self.path)) {
            (Ok(held), Ok(named)) => held.ino() == named.ino(),
            _ => false,
        }
    }
}

impl Records {
    /// The records below the daemon's state directory; made when missing.
    ///
    /// # Errors
    /// [`StoreError::Io`].
    pub fn open(state_dir: &Path) -> Result<Self, StoreError> {
        let dir = state_dir.join(AGENT_DIR);
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&dir)
            .map_err(io_error("create", &dir))?;
        Ok(Self { dir })
    }

    pub fn log_path(&self) -> PathBuf {
        self.dir.join("agent.log")
    }

    /// # Errors
    /// [`StoreError::Io`]. None when another agent runs.
    pub fn lock(&self) -> Result<Option<AgentLock>, StoreError> {
        let path = self.dir.join(AGENT_LOCK);
        let file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(&path)
            .map_err(io_error("open", &path))?;
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(Some(AgentLock { file, path })),
            Err(rustix::io::Errno::WOULDBLOCK) => Ok(None),
            Err(errno) => Err(io_error("lock", &path)(io::Error::from(errno))),
        }
    }

    /// The services that have tasks, or had.
    ///
    /// # Errors
    /// [`StoreError::Io`].
    pub fn services(&self) -> Result<Vec<Id>, StoreError> {
        let mut services = Vec::new();
        for entry in fs::read_dir(&self.dir).map_err(io_error("list", &self.dir))? {
            let name = entry.map_err(io_error("list", &self.dir))?.file_name();
            let id = name.to_str().and_then(|name| name.strip_suffix(".json"));
            services.extend(id.and_then(|id| Id::try_from(id.to_owned()).ok()));
        }
        Ok(services)
    }

    /// # Errors
    /// [`StoreError::Io`], [`StoreError::Damaged`].
    pub fn tasks(&self, service: &Id) -> Result<ServiceTasks, StoreError> {
        Ok(read_json(&self.path(service))?.unwrap_or_default())
    }

    /// # Errors
    /// [`StoreError::Io`].
    pub fn write(&self, service: &Id, tasks: &ServiceTasks) -> Result<(), StoreError> {
        write_json(&self.path(service), tasks, Durability::Synced)
    }

    /// # Errors
    /// [`StoreError::Io`].
    pub fn forget(&self, service: &Id) -> Result<(), StoreError> {
        remove_if_there(&self.path(service))
    }

    fn path(&self, service: &Id) -> PathBuf {
        self.dir.join(format!("{service}.json"))
    }
}
