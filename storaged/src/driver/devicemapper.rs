//! The devicemapper driver: a layer's tree is a filesystem of its own, on a thin device that is a
//! snapshot of the one below; a container's is a snapshot of its image's topmost layer.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::{Driver, Name, Shown, Wanted};
use crate::disk::{Step, StepError};
use crate::model::layout::{LayerDir, Layout};
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

    fn base(&self, _content: &Path, _lowers: &[PathBuf]) -> Option<Step> {
        None
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
