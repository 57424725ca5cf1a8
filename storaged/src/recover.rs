//! Opening: directories, probe, intents, boot-scoped rows. And settling an intent, which a failed
//! call and a crash have in common.

use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicU32;
use std::sync::{Arc, Mutex};

use crate::Storaged;
use crate::config::StorageConfig;
use crate::disk::{Disk, Step, StepError};
use crate::driver::overlay::ProbeError;
use crate::driver::{self, Driver};
use crate::layer::Leases;
use crate::lock::{KeyedLocks, lock};
use crate::metrics::Counters;
use crate::model::gc;
use crate::model::layout::{Key, Layout, VOLUME_DATA};
use crate::model::record::{Change, Intent, Rows, VolumeRow};
use crate::model::volume_spec::Spec;
use crate::rootfs::RootfsError;
use crate::store::{Store, StoreError};
use crate::thin::SetupError;
use crate::volume::directory;

/// What is kept free for the database; one of its commits writes some tens of kilobytes.
const ROOM: u64 = 1 << 20;

#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Probe(#[from] ProbeError),
    #[error(transparent)]
    Pool(#[from] SetupError),
    #[error("the storage driver {driver} has no options, and {option:?} is one")]
    NoOptions {
        driver: &'static str,
        option: String,
    },
    #[error(transparent)]
    Step(#[from] StepError),
    #[error("cannot reconcile a root filesystem: {0}")]
    Rootfs(#[from] RootfsError),
    #[error("cannot read the boot id; mount /proc: {0}")]
    BootId(std::io::Error),
}

impl Storaged {
    pub(crate) fn assemble(
        layout: Layout,
        config: StorageConfig,
        store: Arc<Store>,
        disk: Box<dyn Disk>,
        adopt: bool,
    ) -> Result<Self, OpenError> {
        for (path, mode) in layout.skeleton() {
            if !exists(&path)? {
                disk.apply(&Step::CreateDir { path, mode })?;
            }
        }
        let apply = |step| disk.apply(&step);
        let name = config.driver.unwrap_or_default();
        let driver = driver::open(name, &config.opts, &layout, &store, &apply)?;
        Self::with_driver(layout, config, store, disk, driver, adopt)
    }

    pub(crate) fn with_driver(
        layout: Layout,
        config: StorageConfig,
        store: Arc<Store>,
        disk: Box<dyn Disk>,
        driver: Box<dyn Driver>,
        adopt: bool,
    ) -> Result<Self, OpenError> {
        let storaged = Self {
            config,
            layout,
            store,
            disk,
            driver,
            boot: sys::mount::boot_id().map_err(OpenError::BootId)?,
            graph: Mutex::new(Leases::default()),
            volume_locks: KeyedLocks::default(),
            rootfs_locks: KeyedLocks::default(),
            projects: AtomicU32::default(),
            arrivals: crate::arrival::Arrivals::default(),
            stuck: Mutex::default(),
            sizes: Arc::default(),
            block_io: Default::default(),
            counters: Counters::default(),
        };
        if adopt {
            for line in storaged.adopt()? {
                tracing::warn!("after the loss of the database: {line}");
            }
        }
        storaged.recover()?;
        Ok(storaged)
    }

    fn recover(&self) -> Result<(), OpenError> {
        let before = self.store.rows().clone();
        let intents: Vec<Key> = before.intents.keys().cloned().collect();
        self.settle_all(&intents);
        for row in before.rootfs.into_values() {
            self.reconcile_rootfs(row)?;
        }
        self.drop_old_mounts()?;
        self.adopt_mounted_volumes();
        self.adopt_groups();
        self.enforce_limits();
        self.expire_trash();
        let rows = self.store.rows().clone();
        self.report(&rows)?;
        // An image may still be on its way: its layers wait as if imported now.
        let waiting = gc::unreferenced(&rows, &Default::default());
        lock(&self.graph).extend(waiting.into_iter().map(|layer| layer.chain_id));
        tracing::info!(
            layers = rows.layers.len(),
            images = rows.images.len(),
            rootfs = rows.rootfs.len(),
            volumes = rows.volumes.len(),
            settled = intents.len(),
            "storage opened"
        );
        Ok(())
    }

    /// Mounts ended with their boot; references of containers did not.
    fn drop_old_mounts(&self) -> Result<(), StepError> {
        let changes: Vec<Change> = self
            .store
            .rows()
            .holders
            .values()
            .filter(|row| row.boot.as_ref().is_some_and(|boot| *boot != self.boot))
            .map(|row| Change::DropHolder(row.volume.clone(), row.holder.clone()))
            .collect();
        if changes.is_empty() {
            Ok(())
        } else {
            self.apply(Step::Record(changes))
        }
    }

    /// Logs what rows and directories do not agree on. Repairing is an operator's decision: the
    /// database may be the one that is wrong.
    fn report(&self, rows: &Rows) -> Result<(), StepError> {
        let layers = rows
            .layers
            .values()
            .map(|row| (&row.key, row.chain_id.to_string()));
        let rootfs = rows
            .rootfs
            .values()
            .map(|row| (&row.key, row.container.clone()));
        for (key, subject) in layers.chain(rootfs) {
            if !exists(&self.layout.layer(key).diff())? {
                tracing::error!(layer = %subject, %key, "a layer's directory is gone; remove and import it again");
            }
        }
        for volume in rows.volumes.keys() {
            if !exists(&self.layout.volume_data(volume))? {
                tracing::error!(%volume, "a volume's directory is gone; remove the volume");
            }
        }
        Ok(())
    }

    pub(crate) fn apply(&self, step: Step) -> Result<(), StepError> {
        if let Step::Record(changes) = &step {
            self.require_room(changes)?;
        }
        self.disk.apply(&step)
    }

    /// Refuses to put anything new on record while the disk is all but full: a commit that finds no
    /// room breaks the open database until the daemon is started again. What was kept back is for
    /// the commits that end and remove things.
    fn require_room(&self, changes: &[Change]) -> Result<(), StepError> {
        let rows = self.store.rows();
        if !changes.iter().any(|change| rows.grows_by(change)) {
            return Ok(());
        }
        drop(rows);
        let path = self.layout.state();
        let stat = rustix::fs::statvfs(path).map_err(StepError::io("look at", path))?;
        let free = stat.f_bavail.saturating_mul(stat.f_frsize);
        // A tmpfs without a limit says that it has no blocks at all.
        if stat.f_blocks > 0 && free < ROOM {
            return Err(StepError::Full {
                path: path.to_owned(),
                kilobytes: free / 1024,
            });
        }
        Ok(())
    }

    /// Announces work in the directory `key`, durably.
    pub(crate) fn begin(&self, intent: Intent) -> Result<Key, StepError> {
        let key = crate::new_key()?;
        self.apply(Step::Record(vec![Change::PutIntent(key.clone(), intent)]))?;
        Ok(key)
    }

    /// Undoes work that failed. What cannot be undone now is undone at the next start.
    pub(crate) fn abandon(&self, key: &Key) {
        self.settle_all(std::slice::from_ref(key));
    }

    /// Brings begun work to its one possible end, each piece on its own.
    pub(crate) fn settle_all(&self, keys: &[Key]) {
        for key in keys {
            match self.settle(key) {
                Ok(()) => drop(lock(&self.stuck).remove(key)),
                Err(error) => {
                    // Once for each: it is tried again and again.
                    if lock(&self.stuck).insert(key.clone()) {
                        tracing::warn!(%key, %error, "cannot settle unfinished work yet");
                    }
                }
            }
        }
    }

    /// Tries again what could not be settled: a thin device that was busy may not be so any more.
    pub fn settle_stuck(&self) {
        let stuck: Vec<Key> = lock(&self.stuck).iter().cloned().collect();
        self.settle_all(&stuck);
    }

    /// Idempotent, and safe to repeat after a crash at any step.
    pub(crate) fn settle(&self, key: &Key) -> Result<(), StepError> {
        let Some(intent) = self.store.rows().intents.get(key).cloned() else {
            return Ok(());
        };
        let mut changes = vec![Change::DropIntent(key.clone())];
        match intent {
            Intent::MakeLayer => {
                let staged = self.layout.staged_layer(key);
                self.driver.hide(&staged, &|step| self.apply(step))?;
                self.apply(Step::RemoveTree {
                    path: staged.path().to_owned(),
                })?;
                self.discard_layer(key)?;
            }
            Intent::RemoveLayer => self.discard_layer(key)?,
            Intent::MakeVolume(row) => {
                let staged = self.layout.staged_volume(key);
                let known = self.store.rows().volumes.get(&row.name).cloned();
                if exists(&staged)? {
                    self.apply(Step::RemoveTree { path: staged })?;
                    self.discard_device_of(&row, known.as_ref())?;
                } else if known.is_none() && exists(&self.layout.volume_data(&row.name))? {
                    changes.push(Change::PutVolume(row));
                } else {
                    self.discard_device_of(&row, known.as_ref())?;
                }
            }
            Intent::RemoveVolume(name) => {
                let trashed = self.layout.trashed_volume(key);
                if self.store.rows().volumes.contains_key(&name) {
                    // Made anew since: only what had been moved out of its way goes.
                    self.apply(Step::RemoveTree { path: trashed })?;
                } else {
                    self.discard(&self.layout.volume(&name), trashed)?;
                }
            }
            Intent::TrashVolume(name) => self.settle_trashed(key, &name)?,
            Intent::RestoreVolume(name) => changes.extend(self.settle_restored(key, &name)?),
            Intent::EmptyTrash => {
                self.apply(Step::RemoveTree {
                    path: self.layout.trashed_volume(key),
                })?;
            }
            Intent::MakeSnapshot(row) => changes.extend(self.settle_snapshot(key, row)?),
            Intent::RemoveSnapshot(volume) => {
                self.discard(
                    &self.layout.snapshot(&volume, key),
                    self.layout.trashed_volume(key),
                )?;
            }
            Intent::RollBack(volume) => self.settle_roll_back(key, &volume)?,
            Intent::ResizeVolume(row) => changes.extend(self.settle_resize(row)?),
            Intent::ResizeRootfs { container, bytes } => {
                changes.extend(self.settle_rootfs_size(&container, bytes)?);
            }
            Intent::CopyUp => {
                self.apply(Step::RemoveTree {
                    path: self.layout.staged_volume(key),
                })?;
            }
            Intent::ImageSidecar(id) => self.settle_sidecar(&id)?,
            Intent::MoveCopy(name) => changes.extend(self.move_copy(key, &name)?),
        }
        self.apply(Step::Record(changes))
    }

    /// Removes the directory of a layer or of a writable layer, and what the driver has of it elsewhere.
    fn discard_layer(&self, key: &Key) -> Result<(), StepError> {
        let layer = self.layout.layer(key);
        self.driver.hide(&layer, &|step| self.apply(step))?;
        self.discard(layer.path(), self.layout.trashed_layer(key))?;
        self.driver.delete(key, &|step| self.apply(step))
    }

    /// Deletes the thin device of a volume that was not made, unless it is that of `known`.
    fn discard_device_of(
        &self,
        row: &VolumeRow,
        known: Option<&VolumeRow>,
    ) -> Result<(), StepError> {
        match &row.device {
            Some(key) if known.and_then(|known| known.device.as_ref()) != Some(key) => {
                self.driver.delete(key, &|step| self.apply(step))
            }
            _ => Ok(()),
        }
    }

    /// Moves a directory to the trash, so that it is gone at once and whole, and deletes it there.
    ///
    /// That it is gone is durable before the intent goes: a commit of the database alone need not
    /// write what filesystems did before, and a power cut would bring back what nobody knows.
    fn discard(&self, directory: &Path, trashed: PathBuf) -> Result<(), StepError> {
        if exists(directory)? {
            self.apply(Step::Rename {
                from: directory.to_owned(),
                to: trashed.clone(),
            })?;
        }
        self.apply(Step::RemoveTree { path: trashed })?;
        match directory.parent() {
            Some(parent) if exists(parent)? => self.apply(Step::SyncDir {
                path: parent.to_owned(),
            }),
            _ => Ok(()),
        }
    }

    /// Moves a finished copy into its volume. What the volume got meanwhile stays as it is.
    fn move_copy(
        &self,
        key: &Key,
        name: &api::id::VolumeName,
    ) -> Result<Option<Change>, StepError> {
        let staged = self.layout.staged_volume(key);
        let row = self.store.rows().volumes.get(name).cloned();
        let spec = row.as_ref().and_then(|row| row.spec().ok());
        if spec.as_ref().is_some_and(Spec::is_image) {
            self.settle_roll_back(key, name)?;
        } else if row.is_some() && exists(&staged)? {
            let (from, to) = (staged.join(VOLUME_DATA), self.layout.volume_data(name));
            let copy = if exists(&from)? { &from } else { &to };
            if directory::is_subvolume(copy).map_err(StepError::io("look at", copy))? {
                // Nothing is renamed from one to another (`btrfs_rename`, fs/btrfs/inode.c).
                self.settle_roll_back(key, name)?;
            } else {
                let to = to.clone();
                self.apply(Step::MoveEntries { from, to })?;
            }
            self.apply(Step::SyncDir { path: to.clone() })?;
            let owner = spec.map(|spec| spec.owner);
            if let Some(owner) = owner.filter(|owner| !owner.is_none()) {
                self.apply(Step::SetOwner { path: to, owner })?;
            }
        }
        self.apply(Step::RemoveTree { path: staged })?;
        Ok(row.map(|mut row| {
            row.populated = true;
            Change::PutVolume(row)
        }))
    }
}

/// Whether something is at a path of the layout.
pub(crate) fn exists(path: &Path) -> Result<bool, StepError> {
    match rustix::fs::lstat(path) {
        Ok(_) => Ok(true),
        Err(rustix::io::Errno::NOENT) => Ok(false),
        Err(error) => Err(StepError::io("look at", path)(error)),
    }
}
