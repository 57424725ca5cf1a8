//! Root filesystems: a container's writable layer over the chain of its image.
//!
//! A row says in which boot the overlay was mounted. The kernel's mount table is the truth about
//! now; the row tells a container that was running from one that was not, and whether an ephemeral
//! writable layer, which is never synced, has outlived its boot.

use std::path::PathBuf;

use api::id::{ContainerName, Digest, InvalidId};
use api::storage::{Rootfs, RootfsCreate, RootfsMount};
use sys::owner::Owners;

use crate::Storaged;
use crate::disk::{Step, StepError};
use crate::driver::{Wanted, overlay, text};
use crate::layer::LayerError;
use crate::lock::lock;
use crate::model::layout::{Key, LayerDir};
use crate::model::record::{Change, Intent, RootfsRow, Rows, Taker};
use crate::owners::{OwnerError, owners};
use crate::reason::way_out;
use crate::{rootfs_size, tree};

#[derive(Debug, thiserror::Error)]
pub enum RootfsError {
    #[error(transparent)]
    Container(#[from] InvalidId),
    #[error("invalid --storage-opt {option}: {problem}")]
    Option {
        option: String,
        problem: &'static str,
    },
    #[error(
        "--storage-opt size: the state directory's filesystem ({filesystem}) has no project quotas \
         ({source}): mount it with prjquota, put the state directory on btrfs, or leave the size out"
    )]
    NoQuota {
        filesystem: String,
        source: std::io::Error,
    },
    #[error(
        "--storage-opt size: {wanted} bytes are less than those of every image ({least}, dm.basesize)"
    )]
    TooSmall { wanted: u64, least: u64 },
    #[error(
        "--storage-opt size: container {container} has {bytes} bytes already, and its root filesystem \
         only grows"
    )]
    Shrinks { container: String, bytes: u64 },
    #[error(
        "--storage-opt size: container {0} was made without a limit, so that nothing counts what it \
         writes: make it again with --storage-opt size=…"
    )]
    NoSize(String),
    #[error("no such image: {0}")]
    NoImage(Digest),
    #[error("container {0} has no root filesystem; create it first")]
    NotFound(String),
    #[error(
        "container {0} already has a root filesystem of another image, size or kind; remove it first"
    )]
    Conflict(String),
    #[error(
        "cannot read the root filesystem of container {container}: {source}{}",
        way_out(source)
    )]
    Read {
        container: String,
        source: std::io::Error,
    },
    #[error(
        "the image of container {0} has as many layers as an overlay can, so that the container's \
         user namespace cannot be looked through while it runs; stop it first"
    )]
    TooDeep(String),
    #[error(
        "the root filesystem of container {container} is in use by process {pid}; stop the \
         container, or end what is left of it"
    )]
    Held { container: String, pid: u32 },
    #[error("cannot hand the root filesystem of container {container} to {}: {source}", socket.display())]
    Hand {
        container: String,
        socket: PathBuf,
        source: std::io::Error,
    },
    #[error("--userns: {0}")]
    Owner(#[from] OwnerError),
    #[error(transparent)]
    Layer(Box<LayerError>),
    #[error(transparent)]
    Step(#[from] StepError),
}

impl Storaged {
    /// Makes the writable layer of a container. Asking again for the same changes nothing.
    ///
    /// # Errors
    /// [`RootfsError`]; nothing is left of one that fails.
    pub fn create_rootfs(&self, request: RootfsCreate) -> Result<Rootfs, RootfsError> {
        ContainerName::parse(&request.container)?;
        let size = rootfs_size::parse(&request.storage_opt)?;
        let _guard = self.rootfs_locks.lock(&request.container);
        if let Some(row) = self.find_existing(&request, size)? {
            return Ok(self.describe_rootfs(&self.store.rows(), &row));
        }
        let key = self.begin(Intent::MakeLayer)?;
        let result = self.make_rootfs(&key, request, size);
        if result.is_err() {
            self.abandon(&key);
        }
        result.map(|row| self.describe_rootfs(&self.store.rows(), &row))
    }

    /// The writable layer of a container.
    ///
    /// # Errors
    /// [`RootfsError::NotFound`].
    pub fn rootfs(&self, container: &str) -> Result<Rootfs, RootfsError> {
        let rows = self.store.rows();
        let row = rows
            .rootfs
            .get(container)
            .ok_or_else(|| not_found(container))?;
        Ok(self.describe_rootfs(&rows, row))
    }

    /// Mounts a root filesystem; one that is mounted stays as it is.
    ///
    /// # Errors
    /// [`RootfsError`].
    pub fn mount_rootfs(&self, container: &str) -> Result<RootfsMount, RootfsError> {
        let _guard = self.rootfs_locks.lock(container);
        let merged = self.mount_locked(container, owners)?;
        let row = self.existing_rootfs(container)?;
        Ok(RootfsMount {
            path: text(&merged),
            mapped: self.shows_mapped(&row),
            handed: false,
        })
    }

    /// Mounts a root filesystem whose files belong to the ids that they have on disk, which are those
    /// of the container; one that is mounted stays as it is.
    ///
    /// # Errors
    /// [`RootfsError`].
    pub fn mount_rootfs_as_kept(&self, container: &str) -> Result<RootfsMount, RootfsError> {
        let _guard = self.rootfs_locks.lock(container);
        let merged = self.mount_locked(container, |_row| None)?;
        Ok(RootfsMount {
            path: text(&merged),
            mapped: false,
            handed: false,
        })
    }

    /// Unmounts a root filesystem; fine if it is not mounted or does not exist.
    ///
    /// # Errors
    /// [`RootfsError::Step`].
    pub fn unmount_rootfs(&self, container: &str) -> Result<(), RootfsError> {
        let _guard = self.rootfs_locks.lock(container);
        self.unmount_locked(container)
    }

    /// Deletes a container's writable layer, unmounting it first; fine if there is none.
    ///
    /// # Errors
    /// [`RootfsError::Held`] while somebody uses it, if the driver is to refuse that.
    pub fn remove_rootfs(&self, container: &str) -> Result<(), RootfsError> {
        let _guard = self.rootfs_locks.lock(container);
        let Some(row) = self.rootfs_row(container) else {
            return Ok(());
        };
        self.apply(Step::Unmount {
            target: self.layout.layer(&row.key).merged(),
        })?;
        if !self.driver.deletes_later() {
            self.await_end_of_use(&row, None)?;
        }
        let mut garbage = vec![row.key.clone()];
        {
            let mut leases = lock(&self.graph);
            self.apply(Step::Record(vec![
                Change::PutIntent(row.key, Intent::RemoveLayer),
                Change::DropRootfs(container.to_owned()),
            ]))?;
            // It may have been the last user of layers whose image is gone.
            garbage.extend(self.collect(&mut leases).into_iter().map(|layer| layer.key));
        }
        self.settle_all(&garbage);
        Ok(())
    }

    fn find_existing(
        &self,
        request: &RootfsCreate,
        size: Option<u64>,
    ) -> Result<Option<RootfsRow>, RootfsError> {
        let wanted = (&request.image, request.ephemeral, size);
        match self.rootfs_row(&request.container) {
            Some(row) if (&row.image, row.ephemeral, row.size) == wanted => Ok(Some(row)),
            Some(_) => Err(RootfsError::Conflict(request.container.clone())),
            None => Ok(None),
        }
    }

    fn make_rootfs(
        &self,
        key: &Key,
        request: RootfsCreate,
        size: Option<u64>,
    ) -> Result<RootfsRow, RootfsError> {
        let staged = self.layout.staged_layer(key);
        let quota = match size {
            Some(bytes) if !self.driver.limits_size() => Some(self.new_quota(bytes)?),
            _ => None,
        };
        let path = staged.path().to_owned();
        match quota {
            Some(quota) => self.make_limited(path, quota)?,
            None => self.apply(Step::CreateDir { path, mode: 0o710 })?,
        }
        for (path, mode) in [
            (staged.diff(), 0o755),
            (staged.work(), 0o700),
            (staged.merged(), 0o700),
        ] {
            self.apply(Step::CreateDir { path, mode })?;
        }
        // From here to the row the image must stay.
        let _graph = lock(&self.graph);
        let (image, chain_id, lowers, id_maps) = {
            let rows = self.store.rows();
            let id_maps = self.id_maps(&rows, &request.user_namespace)?;
            let image = rows
                .images
                .get(&request.image)
                .ok_or(RootfsError::NoImage(request.image))?;
            let lowers = self.lower_paths(&rows, image.chain_id.as_ref());
            (image.id.clone(), image.chain_id.clone(), lowers, id_maps)
        };
        self.driver
            .begin_rootfs(&staged, &lowers, size, &|step| self.apply(step))?;
        let row = RootfsRow {
            container: request.container,
            key: key.clone(),
            image,
            chain_id,
            ephemeral: request.ephemeral,
            mounted_in: None,
            taker: None,
            size,
            project: quota.and_then(|quota| quota.project),
            id_maps,
            metacopy: self.config.metacopy && self.driver.keeps_differences(),
        };
        if row.ephemeral {
            // Nothing in it is ever synced; a power cut ends the container as well.
            self.rename_into_place(key)?;
        } else {
            self.apply(Step::write_sidecar(staged.rootfs_sidecar(), &row)?)?;
            self.move_into_place(key)?;
        }
        self.apply(Step::Record(vec![
            Change::PutRootfs(row.clone()),
            Change::DropIntent(key.clone()),
        ]))?;
        Ok(row)
    }

    pub(crate) fn shows_mapped(&self, row: &RootfsRow) -> bool {
        row.id_maps.is_some() && self.driver.keeps_differences()
    }

    /// Mounts it for whom `whose` says; without, its files have the ids that they have on disk.
    pub(crate) fn mount_locked(
        &self,
        container: &str,
        whose: fn(&RootfsRow) -> Option<Owners>,
    ) -> Result<PathBuf, RootfsError> {
        let row = self.existing_rootfs(container)?;
        let directory = self.layout.layer(&row.key);
        let root = self.driver.root(&directory);
        if self.is_mounted(&row)? {
            return Ok(root);
        }
        self.await_end_of_use(&row, None)?;
        self.clear_volatile_mark(&row)?;
        // The row first: after a crash an ephemeral layer that may have been written to is known.
        self.set_use(row.clone(), Some(self.boot.clone()), None)?;
        let (lowers, wanted) = self.what_to_mount(&row, whose);
        let mount = self.driver.mount(&directory, lowers, wanted);
        let mounted = mount.and_then(|step| step.map_or(Ok(()), |step| self.apply(step)));
        if let Err(error) = mounted {
            self.set_use(row, None, None)?;
            return Err(error.into());
        }
        Ok(root)
    }

    pub(crate) fn what_to_mount(
        &self,
        row: &RootfsRow,
        whose: fn(&RootfsRow) -> Option<Owners>,
    ) -> (Vec<PathBuf>, Wanted) {
        let wanted = Wanted {
            ephemeral: row.ephemeral,
            metacopy: row.metacopy,
            owners: whose(row),
        };
        let lowers = self.lower_paths(&self.store.rows(), row.chain_id.as_ref());
        (lowers, wanted)
    }

    pub(crate) fn unmount_locked(&self, container: &str) -> Result<(), RootfsError> {
        let Some(row) = self.rootfs_row(container) else {
            return Ok(());
        };
        let directory = self.layout.layer(&row.key);
        self.apply(Step::Unmount {
            target: directory.merged(),
        })?;
        // The last taker stays on record: what it was given may take a moment to go.
        let taker = row.taker.clone();
        self.set_use(row, None, taker)
    }

    /// Lets an ephemeral layer be mounted again that nobody has mounted: the page cache still holds
    /// every write of this boot.
    pub(crate) fn clear_volatile_mark(&self, row: &RootfsRow) -> Result<(), StepError> {
        if !row.ephemeral {
            return Ok(());
        }
        let path = overlay::volatile_mark(&self.layout.layer(&row.key));
        self.apply(Step::RemoveTree { path })
    }

    pub(crate) fn set_use(
        &self,
        row: RootfsRow,
        mounted_in: Option<String>,
        taker: Option<Taker>,
    ) -> Result<(), RootfsError> {
        if (&row.mounted_in, &row.taker) != (&mounted_in, &taker) {
            let row = RootfsRow {
                mounted_in,
                taker,
                ..row
            };
            self.apply(Step::Record(vec![Change::PutRootfs(row)]))?;
        }
        Ok(())
    }

    pub(crate) fn is_mounted(&self, row: &RootfsRow) -> Result<bool, StepError> {
        let directory = self.layout.layer(&row.key);
        let merged = directory.merged();
        if self.driver.root(&directory) != merged {
            // Nothing needs mounting: it counts as mounted from the call to the end of the boot.
            return Ok(row.mounted_in.as_ref() == Some(&self.boot));
        }
        sys::mount::is_mount_root(&merged).map_err(StepError::io("look at", &merged))
    }

    /// The row of a container that must be there.
    pub(crate) fn existing_rootfs(&self, container: &str) -> Result<RootfsRow, RootfsError> {
        self.rootfs_row(container)
            .ok_or_else(|| not_found(container))
    }

    fn rootfs_row(&self, container: &str) -> Option<RootfsRow> {
        self.store.rows().rootfs.get(container).cloned()
    }

    fn describe_rootfs(&self, rows: &Rows, row: &RootfsRow) -> Rootfs {
        let directory = self.layout.layer(&row.key);
        let lowers = self.lower_paths(rows, row.chain_id.as_ref());
        let data = self.driver.describe(&directory, &lowers).into_iter();
        Rootfs {
            container: row.container.clone(),
            image: row.image.clone(),
            chain_id: row.chain_id.clone(),
            driver: self.driver.name().to_owned(),
            data: data.map(|(key, value)| (key.to_owned(), value)).collect(),
            id_maps: row.id_maps.clone(),
        }
    }

    /// Brings one row up to date with this boot. Nothing that is mounted is touched.
    pub(crate) fn reconcile_rootfs(&self, row: RootfsRow) -> Result<(), RootfsError> {
        let used =
            self.is_mounted(&row)? || row.mounted_in.is_some() && self.user(&row, None)?.is_some();
        match &row.mounted_in {
            Some(boot)
                if *boot != self.boot
                    && row.ephemeral
                    && !used
                    && self.driver.keeps_differences() =>
            {
                self.reset_ephemeral(&self.layout.layer(&row.key))?;
            }
            Some(_) if !used => self.clear_volatile_mark(&row)?,
            _ => {}
        }
        let boot = used.then(|| self.boot.clone());
        let taker = row.taker.clone().filter(|taker| taker.boot == self.boot);
        self.set_use(row, boot, taker)
    }

    /// Empties a writable layer that was never synced: after a power cut its files may be torn.
    fn reset_ephemeral(&self, directory: &LayerDir) -> Result<(), StepError> {
        let mode = tree::open_root(&directory.diff())
            .and_then(rustix::fs::fstat)
            .map_or(0o755, |stat| stat.st_mode & 0o7777);
        for (path, mode) in [(directory.diff(), mode), (directory.work(), 0o700)] {
            self.apply(Step::RemoveTree { path: path.clone() })?;
            self.apply(Step::CreateDir { path, mode })?;
        }
        Ok(())
    }
}

fn not_found(container: &str) -> RootfsError {
    RootfsError::NotFound(container.to_owned())
}
