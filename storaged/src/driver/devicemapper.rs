//! The devicemapper driver: a layer's tree is a filesystem of its own, on a thin device that is a
//! snapshot of the one below; a container's is a snapshot of its image's topmost layer.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use sys::elsewhere::{Elsewhere, find_device};

use super::{Driver, Name, Shown, Wanted, text};
use crate::disk::{Apply, Step, StepError};
use crate::model::layout::{Key, LayerDir, Layout};
use crate::model::record::Change;
use crate::model::thin::{DeviceRow, base_key};
use crate::rootfs::RootfsError;
use crate::thin::{Access, Pool};
use crate::tree;

#[derive(Debug)]
pub(crate) struct Devicemapper {
    pool: Arc<Pool>,
    empty: PathBuf,
}

impl Devicemapper {
    pub(crate) fn new(pool: Arc<Pool>, layout: &Layout) -> Self {
        let empty = layout.empty_lower();
        Self { pool, empty }
    }

    /// Bytes of the base device, below which nothing is.
    fn least(&self) -> u64 {
        self.pool.device(&base_key()).map_or(0, |base| base.bytes)
    }

    /// The device of a new layer or writable layer, with what the topmost of `lowers` holds.
    fn make(
        &self,
        directory: &LayerDir,
        lowers: &[PathBuf],
        bytes: Option<u64>,
        apply: Apply<'_>,
    ) -> Result<DeviceRow, StepError> {
        let (origin, least) = match lowers.first().and_then(|top| top.parent()) {
            None => (base_key(), 0),
            Some(below) => {
                let device = self.pool.device_of(below);
                let device = device.map_err(StepError::io("find the device of", below))?;
                (device.key, device.bytes)
            }
        };
        let bytes = bytes.unwrap_or_else(|| self.least()).max(least);
        self.pool
            .create(apply, directory.key(), Some(&origin), bytes)
    }

    fn open(&self, directory: &Path, access: Access) -> io::Result<OwnedFd> {
        let device = self.pool.device_of(directory)?;
        let mount = self.pool.mount(&device, access)?;
        // It stays mounted as long as this is open.
        Ok(tree::open_dir_at(mount.as_fd(), c".")?)
    }
}

impl Driver for Devicemapper {
    fn name(&self) -> &'static str {
        Name::Devicemapper.name()
    }

    fn status(&self) -> Vec<(String, String)> {
        self.pool.describe()
    }

    fn begin_layer(
        &self,
        directory: &LayerDir,
        lowers: &[PathBuf],
        apply: Apply<'_>,
    ) -> Result<(), StepError> {
        let device = self.make(directory, lowers, None, apply)?;
        apply(Step::MountThin {
            pool: Arc::clone(&self.pool),
            device,
            target: directory.diff(),
        })
    }

    fn finish_layer(&self, directory: &LayerDir, apply: Apply<'_>) -> Result<(), StepError> {
        let path = directory.diff();
        apply(Step::SyncFilesystem { path })?;
        // Its filesystem is clean on its device once it is unmounted.
        self.hide(directory, apply)
    }

    fn begin_rootfs(
        &self,
        directory: &LayerDir,
        lowers: &[PathBuf],
        size: Option<u64>,
        apply: Apply<'_>,
    ) -> Result<(), RootfsError> {
        let least = self.least();
        if let Some(wanted) = size.filter(|size| *size < least) {
            return Err(RootfsError::TooSmall { wanted, least });
        }
        self.make(directory, lowers, size, apply)?;
        Ok(())
    }

    fn grow_rootfs(
        &self,
        directory: &LayerDir,
        bytes: u64,
        apply: Apply<'_>,
    ) -> Result<Option<u64>, StepError> {
        let device = self.pool.device_of(directory.path());
        let device = device.map_err(StepError::io("find the device of", directory.path()))?;
        if bytes < device.bytes {
            return Ok(Some(device.bytes));
        }
        let device = DeviceRow { bytes, ..device };
        apply(Step::Record(vec![Change::PutDevice(device.clone())]))?;
        let pool = Arc::clone(&self.pool);
        apply(Step::GrowThin { pool, device })?;
        Ok(None)
    }

    fn limits_size(&self) -> bool {
        true
    }

    fn hide(&self, directory: &LayerDir, apply: Apply<'_>) -> Result<(), StepError> {
        apply(Step::Unmount {
            target: directory.diff(),
        })
    }

    fn deletes_later(&self) -> bool {
        self.pool.deletes_later()
    }

    fn delete(&self, key: &Key, apply: Apply<'_>) -> Result<(), StepError> {
        self.pool.delete(key, apply)
    }

    fn lacks(&self, directory: &LayerDir) -> Option<&'static str> {
        let device = self.pool.device(directory.key());
        device.is_none().then_some("its device is not on record")
    }

    fn find_elsewhere(&self, directory: &LayerDir) -> io::Result<Option<Elsewhere>> {
        let device = self.pool.device(directory.key());
        let number = device.map(|device| self.pool.number(&device)).transpose()?;
        number.flatten().map_or(Ok(None), find_device)
    }

    fn describe(&self, directory: &LayerDir, _lowers: &[PathBuf]) -> Vec<(&'static str, String)> {
        let mut data = vec![("MergedDir", text(&directory.merged()))];
        if let Some(device) = self.pool.device(directory.key()) {
            data.push(("DeviceId", device.id.to_string()));
            data.push(("DeviceName", self.pool.device_name(&device)));
            data.push(("DeviceSize", device.bytes.to_string()));
        }
        data
    }

    fn mount(
        &self,
        directory: &LayerDir,
        _lowers: Vec<PathBuf>,
        _wanted: Wanted,
    ) -> Result<Option<Step>, StepError> {
        let target = directory.merged();
        let device = self.pool.device_of(directory.path());
        let device = device.map_err(StepError::io("find the device of", &target))?;
        Ok(Some(Step::MountThin {
            pool: Arc::clone(&self.pool),
            device,
            target,
        }))
    }

    fn detached(
        &self,
        directory: &LayerDir,
        _lowers: Vec<PathBuf>,
        wanted: Wanted,
    ) -> Option<io::Result<OwnedFd>> {
        // Whoever shows other owners does so by a path.
        if wanted.owners.is_some() {
            return None;
        }
        let device = self.pool.device_of(directory.path());
        Some(device.and_then(|device| self.pool.mount(&device, Access::Write)))
    }

    fn can_map_owners(&self) -> io::Result<()> {
        sys::owner::probe(&self.empty)
    }

    fn root(&self, directory: &LayerDir) -> PathBuf {
        directory.merged()
    }

    fn view(&self, lowers: &[PathBuf], _scratch: &Path) -> io::Result<OwnedFd> {
        match lowers.first().and_then(|top| top.parent()) {
            None => Ok(tree::open_root(&self.empty)?),
            Some(directory) => self.open(directory, Access::Read),
        }
    }

    fn keeps_differences(&self) -> bool {
        false
    }

    fn open_root(&self, directory: &LayerDir) -> io::Result<OwnedFd> {
        self.open(directory.path(), Access::Write)
    }

    fn show(&self, directory: &LayerDir) -> io::Result<Shown> {
        Ok(Shown {
            _watched: Some(self.pool.watch(directory)?),
        })
    }

    fn pool(&self) -> Option<&Arc<Pool>> {
        Some(&self.pool)
    }
}
