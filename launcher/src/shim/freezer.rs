//! Stops all processes of a container where they are, and lets them go on.

use std::io;
use std::thread;
use std::time::{Duration, Instant};

use crate::cgroup::Group;
use crate::container::Record;
use crate::store::{ContainerDir, Durability};

/// A process deep in the kernel may take its time.
const PATIENCE: Duration = Duration::from_secs(5);
const LOOK_EVERY: Duration = Duration::from_millis(2);

/// One running container's.
#[derive(Debug)]
pub(crate) struct Freezer {
    group: Group,
    dir: ContainerDir,
    name: String,
    pub(crate) is_frozen: bool,
}

impl Freezer {
    pub(crate) fn new(group: Group, dir: ContainerDir, record: &Record) -> Self {
        Self {
            group,
            dir,
            name: record.name.to_string(),
            is_frozen: false,
        }
    }

    pub(crate) fn pause(&mut self) -> io::Result<()> {
        if self.is_frozen {
            return Err(self.refusal("is already paused"));
        }
        let frozen = self.group.freeze(true).and_then(|()| self.wait());
        if let Err(error) = frozen {
            self.group.freeze(false)?;
            return Err(error);
        }
        self.is_frozen = true;
        self.note()
    }

    pub(crate) fn resume(&mut self) -> io::Result<()> {
        if !self.is_frozen {
            return Err(self.refusal("is not paused"));
        }
        self.group.freeze(false)?;
        self.is_frozen = false;
        self.note()
    }

    fn refusal(&self, what: &str) -> io::Error {
        io::Error::other(format!("container {} {what}", self.name))
    }

    /// Blocks the shim: nothing of the container moves meanwhile that would need it.
    fn wait(&self) -> io::Result<()> {
        let deadline = Instant::now() + PATIENCE;
        while !self.group.is_frozen()? {
            if Instant::now() >= deadline {
                return Err(self.refusal("cannot be paused: a process of it does not stop"));
            }
            thread::sleep(LOOK_EVERY);
        }
        Ok(())
    }

    fn note(&self) -> io::Result<()> {
        let written = self.dir.state().and_then(|mut state| {
            state.paused = self.is_frozen;
            self.dir.write_state(&state, Durability::Volatile)
        });
        written.map_err(io::Error::other)
    }
}
