//! The pool of thin devices: one a layer and one a container, each with a filesystem of its own.
//!
//! [`Pool`] knows rows and order; [`Mapper`] does what they say to device-mapper, and is the seam where
//! tests put directories in its place. What is made goes by the protocol of [`crate::model::thin`].
//! A device is active while its filesystem is mounted, and goes with the last mount of it, however
//! whoever had it ends.

#[cfg(test)]
pub(crate) mod fake;
mod info;
mod kernel;
mod luks;
mod monitor;
mod setup;
mod volume;

use std::collections::BTreeMap;
use std::fmt::{self, Debug};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use rustix::io::Errno;

use crate::disk::{Apply, Step, StepError};
use crate::lock::lock;
use crate::model::layout::{Key, LayerDir};
use crate::model::record::Change;
use crate::model::thin::{
    self, Base, DeviceRow, Filesystem, Message, Mismatch, PoolRow, Settled, Status, base_key,
};
use crate::model::thin_options::ThinOptions;
use crate::store::Store;
use crate::volume::image_file::ImageFailure;

pub(crate) use luks::{HEADER, name_of_key};
pub use setup::SetupError;
pub(crate) use setup::open;
pub(crate) use volume::Content;

/// What device-mapper does.
pub(crate) trait Mapper: Debug + Send + Sync {
    /// In blocks.
    fn status(&self) -> io::Result<Status>;

    /// Bytes of a block.
    fn block(&self) -> u64;

    fn tell(&self, message: Message) -> io::Result<()>;

    /// Makes an empty filesystem on a device, encrypted if there is a key, and returns its identity.
    fn format(
        &self,
        device: &DeviceRow,
        options: &ThinOptions,
        key: Option<&[u8]>,
    ) -> Result<Base, ImageFailure>;

    /// The identity of the filesystem on a device.
    fn identity(&self, device: &DeviceRow, filesystem: Filesystem) -> io::Result<String>;

    /// Mounts a device's filesystem nowhere.
    fn mount(
        &self,
        device: &DeviceRow,
        filesystem: Filesystem,
        access: Access,
        options: &ThinOptions,
        key: Option<&[u8]>,
    ) -> io::Result<OwnedFd>;

    /// Deactivates a device, and has it give back its blocks if `discard`.
    fn let_go(&self, device: &DeviceRow, discard: bool) -> io::Result<()>;

    /// Bytes that are mapped of a device.
    fn used(&self, device: &DeviceRow) -> io::Result<u64>;

    /// The number of a device's node while it is active.
    fn number(&self, device: &DeviceRow) -> io::Result<Option<u64>>;

    /// Rows of `info` that say where the pool is.
    fn places(&self) -> Vec<(&'static str, String)>;

    fn name(&self) -> &str;

    fn discards(&self) -> bool;
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Access {
    Read,
    Write,
}

pub(crate) struct Pool {
    mapper: Box<dyn Mapper>,
    options: ThinOptions,
    store: Arc<Store>,
    /// Held while a device is made: the pool counts one at a time.
    making: Mutex<()>,
    /// Why nothing new is made.
    only_deletes: Mutex<Option<String>>,
    /// How many look at the content of a layer at its path.
    watched: Mutex<BTreeMap<PathBuf, usize>>,
}

impl Debug for Pool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Pool({})", self.mapper.name())
    }
}

/// There is one.
impl PartialEq for Pool {
    fn eq(&self, other: &Self) -> bool {
        std::ptr::eq(self, other)
    }
}

impl Eq for Pool {}

#[derive(Debug, thiserror::Error)]
pub enum PoolError {
    #[error(transparent)]
    Mismatch(#[from] Mismatch),
    #[error(
        "the pool has a base device of another store: expected {expected}, found {found}; put the \
         right pool in place"
    )]
    Foreign { expected: String, found: String },
    #[error("dm.basesize is {wanted} bytes and the base device has {present}: it only grows")]
    Shrunk { wanted: u64, present: u64 },
    #[error(
        "there are devices in the pool and none on record: it is another store's, or its database is \
         lost. Give an empty pool, or put the database back"
    )]
    Unknown,
    #[error("the layers are on {known}, and the storage options say {given}: say the same again")]
    Moved { known: String, given: String },
    #[error("the pool {0} has failed: dmesg says why; repair its metadata with thin_repair(8)")]
    Failed(String),
    #[error("cannot make the base device: {0}")]
    Base(#[source] StepError),
    #[error(transparent)]
    Step(#[from] StepError),
    #[error("cannot {what} the pool {name}: {source}")]
    Io {
        what: &'static str,
        name: String,
        source: io::Error,
    },
}

impl Pool {
    /// Compares the pool with the database, and makes the base device if there is none.
    pub(crate) fn start(
        mapper: Box<dyn Mapper>,
        options: ThinOptions,
        place: String,
        store: Arc<Store>,
        apply: Apply<'_>,
    ) -> Result<Arc<Self>, PoolError> {
        let pool = Arc::new(Self {
            mapper,
            options,
            store,
            making: Mutex::default(),
            only_deletes: Mutex::default(),
            watched: Mutex::default(),
        });
        let status = pool.status()?;
        if status.mode == thin::Mode::Failed {
            return Err(PoolError::Failed(pool.mapper.name().to_owned()));
        }
        let known = pool.store.rows().pool.clone();
        match known {
            Some(_) => pool.settle(apply)?,
            // As a pool is that was just made.
            None if (status.transaction, status.data.used) == (0, 0) => {
                apply(Step::Record(vec![Change::PutPool(PoolRow {
                    place,
                    transaction: 0,
                    last_id: 0,
                    base: None,
                })]))?;
            }
            None => return Err(PoolError::Unknown),
        }
        pool.ensure_base(apply)?;
        Ok(pool)
    }

    fn io(&self, what: &'static str) -> impl Fn(io::Error) -> PoolError {
        let name = self.mapper.name().to_owned();
        move |source| PoolError::Io {
            what,
            name: name.clone(),
            source,
        }
    }

    /// As errors name it.
    fn path(&self) -> PathBuf {
        Path::new("/dev/mapper").join(self.mapper.name())
    }

    pub(crate) fn status(&self) -> Result<Status, PoolError> {
        self.mapper.status().map_err(self.io("ask"))
    }

    /// Settles what a crash or a failure has left of a device that was being made.
    fn settle(&self, apply: Apply<'_>) -> Result<(), PoolError> {
        let (row, coming) = {
            let rows = self.store.rows();
            let coming = rows.devices.values().find(|device| device.is_coming);
            (rows.pool.clone(), coming.cloned())
        };
        let Some(row) = row else { return Ok(()) };
        let transaction = self.status()?.transaction;
        let changes = match thin::settle(&row, coming.as_ref(), transaction)? {
            None => return Ok(()),
            Some(Settled::Made(device, pool)) => {
                vec![Change::PutDevice(device), Change::PutPool(pool)]
            }
            Some(Settled::Undone(device)) => {
                self.tell(Message::Delete { id: device.id })?;
                vec![Change::DropDevice(device.key)]
            }
        };
        Ok(apply(Step::Record(changes))?)
    }

    /// # Errors
    /// [`StepError`]; one about a device that is gone already is none.
    pub(crate) fn tell(&self, message: Message) -> Result<(), StepError> {
        let told = match (self.mapper.tell(message), message) {
            (Err(error), Message::Delete { .. }) if is(&error, Errno::NODATA) => Ok(()),
            // One that no row tells of, of a time when a deletion was not yet durable.
            (Err(error), Message::Create { id } | Message::Snapshot { id, .. })
                if is(&error, Errno::EXIST) =>
            {
                let deleted = self.mapper.tell(Message::Delete { id });
                deleted.and_then(|()| self.mapper.tell(message))
            }
            (told, _) => told,
        };
        told.map_err(StepError::io("change", &self.path()))
    }

    fn ensure_base(self: &Arc<Self>, apply: Apply<'_>) -> Result<(), PoolError> {
        let key = base_key();
        let (row, device) = {
            let rows = self.store.rows();
            (rows.pool.clone(), rows.devices.get(&key).cloned())
        };
        let Some(row) = row else { return Ok(()) };
        if let (Some(base), Some(device)) = (&row.base, &device) {
            let found = self.mapper.identity(device, base.filesystem);
            let found = found.map_err(self.io("read the base device of"))?;
            if found != base.uuid {
                let expected = base.uuid.clone();
                return Err(PoolError::Foreign { expected, found });
            }
            return self.grow_base(device, apply);
        }
        if device.is_some() {
            // It may have half a filesystem.
            self.delete(&key, apply).map_err(PoolError::Base)?;
        }
        let made = self.create(apply, &key, None, self.options.base);
        let device = made.map_err(PoolError::Base)?;
        let formatted = self.mapper.format(&device, &self.options, None);
        let base = formatted.map_err(|source| {
            PoolError::Base(StepError::Image {
                what: "make a filesystem in",
                path: self.path(),
                source,
            })
        })?;
        let row = self.store.rows().pool.clone();
        let changes = row.map(|row| {
            Change::PutPool(PoolRow {
                base: Some(base),
                ..row
            })
        });
        Ok(apply(Step::Record(changes.into_iter().collect()))?)
    }

    /// What is made from now on is larger.
    fn grow_base(&self, device: &DeviceRow, apply: Apply<'_>) -> Result<(), PoolError> {
        let (wanted, present) = (self.options.base, device.bytes);
        if wanted < present {
            return Err(PoolError::Shrunk { wanted, present });
        }
        if wanted > present {
            let grown = DeviceRow {
                bytes: wanted,
                ..device.clone()
            };
            apply(Step::Record(vec![Change::PutDevice(grown)]))?;
        }
        Ok(())
    }

    /// Makes the device of `key`: a snapshot of that of `origin`, or an empty one.
    pub(crate) fn create(
        self: &Arc<Self>,
        apply: Apply<'_>,
        key: &Key,
        origin: Option<&Key>,
        bytes: u64,
    ) -> Result<DeviceRow, StepError> {
        let _one = lock(&self.making);
        self.require_free()?;
        let made = self.make(apply, key, origin, bytes);
        if made.is_err()
            && let Err(error) = self.settle(apply)
        {
            tracing::warn!(%error, "cannot undo a device that was not made; the next start tries again");
            *lock(&self.only_deletes) = Some(error.to_string());
        }
        made
    }

    fn make(
        self: &Arc<Self>,
        apply: Apply<'_>,
        key: &Key,
        origin: Option<&Key>,
        bytes: u64,
    ) -> Result<DeviceRow, StepError> {
        let lost = || StepError::io("find a device of", &self.path())(Errno::NODATA);
        let (coming, row) = {
            let rows = self.store.rows();
            let origin = origin.map(|key| rows.devices.get(key).ok_or_else(lost));
            let origin = origin.transpose()?.map(|origin| origin.id);
            let row = rows.pool.clone().ok_or_else(lost)?;
            let is_taken = |id| rows.devices.values().any(|device| device.id == id);
            let coming = thin::next(&row, key.clone(), origin, bytes, is_taken);
            let none_left = || StepError::io("number a device of", &self.path())(Errno::NOSPC);
            (coming.ok_or_else(none_left)?, row)
        };
        let id = coming.id;
        apply(Step::Record(vec![Change::PutDevice(coming.clone())]))?;
        let tell = |message| {
            let pool = Arc::clone(self);
            apply(Step::TellPool { pool, message })
        };
        tell(match coming.origin {
            Some(origin) => Message::Snapshot { id, origin },
            None => Message::Create { id },
        })?;
        let (device, next) = thin::made(&row, &coming);
        tell(Message::SetTransaction {
            from: row.transaction,
            to: next.transaction,
        })?;
        // The base device's row in it may have changed since, by nobody: one is made at a time.
        apply(Step::Record(vec![
            Change::PutDevice(device.clone()),
            Change::PutPool(next),
        ]))?;
        Ok(device)
    }

    /// Whether something new may be made.
    fn require_free(&self) -> Result<(), StepError> {
        if let Some(reason) = lock(&self.only_deletes).clone() {
            return Err(StepError::Io {
                what: "make anything new in",
                path: self.path(),
                source: io::Error::other(reason),
            });
        }
        let status = self.mapper.status();
        let status = status.map_err(StepError::io("ask", &self.path()))?;
        let percent = self.options.min_free;
        for (what, room) in [("data", status.data), ("metadata", status.metadata)] {
            if percent > 0 && room.is_below(percent) {
                return Err(StepError::PoolFull {
                    pool: self.mapper.name().to_owned(),
                    what,
                    free: room.free().saturating_mul(100) / room.total.max(1),
                    percent,
                });
            }
        }
        if status.mode != thin::Mode::Writable || status.needs_check {
            let mode = status.mode.name();
            let source = io::Error::other(format!("it is in mode {mode}: dmesg says why"));
            return Err(StepError::Io {
                what: "make anything new in",
                path: self.path(),
                source,
            });
        }
        Ok(())
    }

    pub(crate) fn deletes_later(&self) -> bool {
        self.options.deferred_deletion
    }

    /// Deletes the device of `key`, if there is one, and its row. Repeating it does no harm.
    ///
    /// # Errors
    /// [`StepError::PoolBusy`] while somebody has it mounted.
    pub(crate) fn delete(self: &Arc<Self>, key: &Key, apply: Apply<'_>) -> Result<(), StepError> {
        let Some(device) = self.device(key) else {
            return Ok(());
        };
        apply(Step::LetThinGo {
            pool: Arc::clone(self),
            device: device.clone(),
        })?;
        apply(Step::TellPool {
            pool: Arc::clone(self),
            message: Message::Delete { id: device.id },
        })?;
        apply(Step::Record(vec![Change::DropDevice(device.key)]))
    }

    pub(crate) fn let_go(&self, device: &DeviceRow) -> Result<(), StepError> {
        let discard = self
            .options
            .discard
            .unwrap_or_else(|| self.mapper.discards());
        self.mapper
            .let_go(device, discard)
            .map_err(|error| match is(&error, Errno::BUSY) {
                true => StepError::PoolBusy {
                    device: device.id,
                    holder: self.holder(device),
                },
                false => StepError::io("deactivate a device of", &self.path())(error),
            })
    }

    /// Who has it mounted, in words.
    fn holder(&self, device: &DeviceRow) -> String {
        let found = self.number(device).and_then(|number| match number {
            Some(number) => sys::elsewhere::find_device(number),
            None => Ok(None),
        });
        match found {
            Ok(Some(found)) => format!("process {} has it mounted", found.pid),
            _ => "somebody has it open".to_owned(),
        }
    }

    pub(crate) fn device_name(&self, device: &DeviceRow) -> String {
        format!("{}-{}", self.mapper.name(), device.key)
    }

    /// As errors name it.
    pub(crate) fn node(&self, device: &DeviceRow) -> PathBuf {
        Path::new("/dev/mapper").join(self.device_name(device))
    }

    pub(crate) fn number(&self, device: &DeviceRow) -> io::Result<Option<u64>> {
        self.mapper.number(device)
    }

    pub(crate) fn device(&self, key: &Key) -> Option<DeviceRow> {
        self.store.rows().devices.get(key).cloned()
    }

    /// The device that is the content of a directory.
    ///
    /// # Errors
    /// `ENODATA` if there is none on record.
    pub(crate) fn device_of(&self, directory: &Path) -> io::Result<DeviceRow> {
        let name = directory.file_name().and_then(|name| name.to_str());
        let device = name.and_then(Key::parse).and_then(|key| self.device(&key));
        device.ok_or_else(|| Errno::NODATA.into())
    }

    fn filesystem(&self) -> io::Result<Filesystem> {
        let rows = self.store.rows();
        let base = rows.pool.as_ref().and_then(|pool| pool.base.as_ref());
        base.map(|base| base.filesystem)
            .ok_or_else(|| Errno::NODATA.into())
    }

    /// The content of a device, mounted nowhere.
    pub(crate) fn mount(&self, device: &DeviceRow, access: Access) -> io::Result<OwnedFd> {
        self.mapper
            .mount(device, self.filesystem()?, access, &self.options, None)
    }

    pub(crate) fn mount_at(&self, device: &DeviceRow, access: Access, at: &Path) -> io::Result<()> {
        let mount = self.mount(device, access)?;
        sys::owner::attach(mount.as_fd(), at)
    }

    /// Shows the content of a layer at its path for as long as the answer lives.
    pub(crate) fn watch(self: &Arc<Self>, directory: &LayerDir) -> io::Result<Watched> {
        let path = directory.diff();
        let mut watched = lock(&self.watched);
        let count = watched.get(&path).copied().unwrap_or_default();
        if count == 0 {
            let device = self.device_of(directory.path())?;
            self.mount_at(&device, Access::Read, &path)?;
        }
        watched.insert(path.clone(), count + 1);
        Ok(Watched {
            pool: Arc::clone(self),
            path,
        })
    }
}

/// Somebody looks at the content of a layer.
#[derive(Debug)]
pub(crate) struct Watched {
    pool: Arc<Pool>,
    path: PathBuf,
}

impl Drop for Watched {
    fn drop(&mut self) {
        let mut watched = lock(&self.pool.watched);
        if let Some(count) = watched.get_mut(&self.path) {
            *count -= 1;
            if *count == 0 {
                watched.remove(&self.path);
                if let Err(error) = sys::mount::unmount(&self.path) {
                    tracing::warn!(path = %self.path.display(), %error, "cannot unmount a layer");
                }
            }
        }
    }
}

fn is(error: &io::Error, number: Errno) -> bool {
    error.raw_os_error() == Some(number.raw_os_error())
}
