//! Storage drivers: how layers lie on disk, and how a stack of them is shown as one tree.
//!
//! Each has a directory of its own below the state directory, and rows of its own in the database
//! ([`crate::store`]): what one driver keeps is neither seen nor touched by the others.
//!
//! Everything else is the same for all: content is unpacked into a staging directory, flushed and
//! renamed ([`crate::layer`]), whatever kind of directory the driver makes that.

pub(crate) mod overlay;
pub(crate) mod vfs;

use std::fmt::Debug;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use sys::owner::Owners;

use crate::config::Driver as Name;
use crate::disk::Step;
use crate::model::layout::{LayerDir, Layout};
use overlay::{Overlay2, ProbeError};
use vfs::Vfs;

pub(crate) trait Driver: Debug + Send + Sync {
    fn name(&self) -> &'static str;

    /// Rows of `info`, in order.
    fn status(&self) -> Vec<(String, String)>;

    /// The step that fills the new, empty directory of a layer or a writable layer with what it
    /// starts from; none where layers hold differences only.
    fn base(&self, content: &Path, lowers: &[PathBuf]) -> Option<Step>;

    /// The step that shows a container's root filesystem; none where it lies there already.
    fn mount(&self, directory: &LayerDir, lowers: Vec<PathBuf>, wanted: Wanted) -> Option<Step>;

    /// The same mounted nowhere, for whoever gets the descriptor; none where that cannot be had.
    fn detached(
        &self,
        directory: &LayerDir,
        lowers: Vec<PathBuf>,
        wanted: Wanted,
    ) -> Option<io::Result<OwnedFd>>;

    /// Whether a root filesystem can be shown with other owners than it has on disk.
    fn can_map_owners(&self) -> io::Result<()>;

    /// Where it is shown.
    fn root(&self, directory: &LayerDir) -> PathBuf;

    /// The tree that a chain of layers shows, top first, without a container on it. `scratch` is an
    /// empty directory to use meanwhile.
    fn view(&self, lowers: &[PathBuf], scratch: &Path) -> io::Result<OwnedFd>;

    /// Whether a layer's directory holds what differs from the layers below, and no more.
    fn keeps_differences(&self) -> bool;
}

/// How a root filesystem is shown.
#[derive(Debug, Clone, Default)]
pub(crate) struct Wanted {
    /// It need not outlive the boot.
    pub(crate) ephemeral: bool,
    /// Files are copied up without their data where that is enough.
    pub(crate) metacopy: bool,
    /// Whom its files belong to, if that is not whom they belong to on disk.
    pub(crate) owners: Option<Owners>,
}

/// Tries a driver out in its own directory.
pub(crate) fn open(name: Name, layout: &Layout) -> Result<Box<dyn Driver>, ProbeError> {
    Ok(match name {
        Name::Overlay2 => Box::new(Overlay2::probe(layout)?),
        Name::Vfs => Box::new(Vfs::probe(layout)),
    })
}
