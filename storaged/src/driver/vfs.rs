//! The driver that works on every filesystem: each layer is a whole tree, a copy of the one below
//! with its differences applied, and so is each root filesystem.
//!
//! Files are shared with their origin where the filesystem can (reflinks), and take their space anew
//! where it cannot: right for tests and for filesystems that overlayfs refuses, dear elsewhere.

use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use sys::elsewhere::Elsewhere;

use super::{Driver, Name, Wanted};
use crate::disk::{Apply, Step, StepError};
use crate::model::layout::{LayerDir, Layout};
use crate::rootfs::RootfsError;
use crate::tree;

#[derive(Debug)]
pub(crate) struct Vfs {
    backing: String,
    empty: PathBuf,
}

impl Vfs {
    pub(crate) fn probe(layout: &Layout) -> Self {
        Self {
            backing: super::overlay::backing(&layout.store()),
            empty: layout.empty_lower(),
        }
    }
}

impl Driver for Vfs {
    fn name(&self) -> &'static str {
        Name::Vfs.name()
    }

    fn status(&self) -> Vec<(String, String)> {
        vec![("Backing Filesystem".to_owned(), self.backing.clone())]
    }

    fn begin_layer(
        &self,
        directory: &LayerDir,
        lowers: &[PathBuf],
        apply: Apply<'_>,
    ) -> Result<(), StepError> {
        lowers.first().map_or(Ok(()), |top| {
            apply(Step::CopyTree {
                from: top.clone(),
                to: directory.diff(),
            })
        })
    }

    fn begin_rootfs(
        &self,
        directory: &LayerDir,
        lowers: &[PathBuf],
        _size: Option<u64>,
        apply: Apply<'_>,
    ) -> Result<(), RootfsError> {
        if lowers.is_empty() {
            return Ok(());
        }
        self.begin_layer(directory, lowers, apply)?;
        let path = directory.diff();
        Ok(apply(Step::SyncFilesystem { path })?)
    }

    fn find_elsewhere(&self, _directory: &LayerDir) -> io::Result<Option<Elsewhere>> {
        // Nothing is handed to anybody.
        Ok(None)
    }

    fn mount(
        &self,
        _directory: &LayerDir,
        _lowers: Vec<PathBuf>,
        _wanted: Wanted,
    ) -> Result<Option<Step>, StepError> {
        Ok(None)
    }

    fn detached(
        &self,
        _directory: &LayerDir,
        _lowers: Vec<PathBuf>,
        _wanted: Wanted,
    ) -> Option<io::Result<OwnedFd>> {
        None
    }

    fn can_map_owners(&self) -> io::Result<()> {
        sys::owner::probe(&self.empty)
    }

    fn root(&self, directory: &LayerDir) -> PathBuf {
        directory.diff()
    }

    fn view(&self, lowers: &[PathBuf], _scratch: &Path) -> io::Result<OwnedFd> {
        let top = lowers.first().unwrap_or(&self.empty);
        Ok(tree::open_root(top)?)
    }

    fn keeps_differences(&self) -> bool {
        false
    }
}
