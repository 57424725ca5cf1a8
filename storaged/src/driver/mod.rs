//! Storage drivers: how layers lie on disk, and how a stack of them is shown as one tree.
//!
//! Each has a directory of its own below the state directory, and rows of its own in the database
//! ([`crate::store`]): what one driver keeps is neither seen nor touched by the others.
//!
//! Everything else is the same for all: content is unpacked into a staging directory, flushed and
//! renamed ([`crate::layer`]), whatever kind of directory the driver makes that.

pub(crate) mod devicemapper;
pub(crate) mod overlay;
pub(crate) mod vfs;

use std::fmt::Debug;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use sys::elsewhere::Elsewhere;
use sys::owner::Owners;

use crate::config::Driver as Name;
use crate::disk::{Apply, Step, StepError};
use crate::model::layout::{Key, LayerDir, Layout};
use crate::model::thin_options;
use crate::recover::OpenError;
use crate::rootfs::RootfsError;
use crate::store::Store;
use crate::thin::{self, Pool, SetupError, Watched};
use devicemapper::Devicemapper;
use overlay::Overlay2;
use vfs::Vfs;

pub(crate) trait Driver: Debug + Send + Sync {
    fn name(&self) -> &'static str;

    /// Rows of `info`, in order.
    fn status(&self) -> Vec<(String, String)>;

    /// Has the new, empty directory of a layer hold what it starts from, which is nothing where
    /// layers hold differences only.
    fn begin_layer(
        &self,
        _directory: &LayerDir,
        _lowers: &[PathBuf],
        _apply: Apply<'_>,
    ) -> Result<(), StepError> {
        Ok(())
    }

    /// The content of a new layer is whole: what of it lies outside the store's filesystem becomes
    /// durable.
    fn finish_layer(&self, _directory: &LayerDir, _apply: Apply<'_>) -> Result<(), StepError> {
        Ok(())
    }

    /// The same as [`Self::begin_layer`] for a writable layer, durably.
    fn begin_rootfs(
        &self,
        directory: &LayerDir,
        lowers: &[PathBuf],
        size: Option<u64>,
        apply: Apply<'_>,
    ) -> Result<(), RootfsError>;

    /// Lets a container's filesystem become larger, also while it is mounted, where
    /// [`Self::limits_size`]. Returns the bytes that it has, if those are more.
    fn grow_rootfs(
        &self,
        _directory: &LayerDir,
        _bytes: u64,
        _apply: Apply<'_>,
    ) -> Result<Option<u64>, StepError> {
        Ok(None)
    }

    /// Whether a writable layer is limited by what [`Self::begin_rootfs`] makes, and not by a quota.
    fn limits_size(&self) -> bool {
        false
    }

    /// Ends what [`Self::begin_layer`] or [`Self::show`] may have left in a directory's place.
    fn hide(&self, _directory: &LayerDir, _apply: Apply<'_>) -> Result<(), StepError> {
        Ok(())
    }

    /// Whether a writable layer that somebody still uses goes once that ends, rather than not at all.
    fn deletes_later(&self) -> bool {
        true
    }

    /// Deletes what lies outside a directory that is gone.
    fn delete(&self, _key: &Key, _apply: Apply<'_>) -> Result<(), StepError> {
        Ok(())
    }

    /// What is missing of a layer outside its directory.
    fn lacks(&self, _directory: &LayerDir) -> Option<&'static str> {
        None
    }

    /// The step that shows a container's root filesystem; none where it lies there already.
    fn mount(
        &self,
        directory: &LayerDir,
        lowers: Vec<PathBuf>,
        wanted: Wanted,
    ) -> Result<Option<Step>, StepError>;

    /// The same mounted nowhere, for whoever gets the descriptor; none where that cannot be had.
    fn detached(
        &self,
        directory: &LayerDir,
        lowers: Vec<PathBuf>,
        wanted: Wanted,
    ) -> Option<io::Result<OwnedFd>>;

    /// Whether a root filesystem can be shown with other owners than it has on disk.
    fn can_map_owners(&self) -> io::Result<()>;

    /// A process that sees a root filesystem that is mounted at no path here.
    fn find_elsewhere(&self, directory: &LayerDir) -> io::Result<Option<Elsewhere>>;

    /// A root filesystem in Docker's words.
    fn describe(&self, directory: &LayerDir, lowers: &[PathBuf]) -> Vec<(&'static str, String)> {
        let lowers: Vec<String> = lowers.iter().map(|path| text(path)).collect();
        vec![
            ("LowerDir", lowers.join(":")),
            ("MergedDir", text(&self.root(directory))),
            ("UpperDir", text(&directory.diff())),
            ("WorkDir", text(&directory.work())),
        ]
    }

    /// Where it is shown.
    fn root(&self, directory: &LayerDir) -> PathBuf;

    /// The tree that a chain of layers shows, top first, without a container on it. `scratch` is an
    /// empty directory to use meanwhile.
    fn view(&self, lowers: &[PathBuf], scratch: &Path) -> io::Result<OwnedFd>;

    /// Whether a layer's directory holds what differs from the layers below, and no more.
    fn keeps_differences(&self) -> bool;

    /// A container's whole root filesystem, of a driver whose layers are whole: whether it is mounted
    /// or not.
    fn open_root(&self, directory: &LayerDir) -> io::Result<OwnedFd> {
        Ok(crate::tree::open_root(&self.root(directory))?)
    }

    /// The pool that layers are in, which may hold volumes as well.
    fn pool(&self) -> Option<&Arc<Pool>> {
        None
    }

    /// Has the content of a committed layer be in its directory as long as the answer lives.
    fn show(&self, _directory: &LayerDir) -> io::Result<Shown> {
        Ok(Shown { _watched: None })
    }
}

/// Paths are below the state directory, whose path is text since it came from a command line.
pub(crate) fn text(path: &Path) -> String {
    path.to_string_lossy().into_owned()
}

/// The content of a layer is in its directory.
#[derive(Debug)]
pub(crate) struct Shown {
    _watched: Option<Watched>,
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
pub(crate) fn open(
    name: Name,
    options: &[String],
    layout: &Layout,
    store: &Arc<Store>,
    apply: Apply<'_>,
) -> Result<Box<dyn Driver>, OpenError> {
    if let (Name::Overlay2 | Name::Vfs, Some(option)) = (name, options.first()) {
        return Err(OpenError::NoOptions {
            driver: name.name(),
            option: option.clone(),
        });
    }
    Ok(match name {
        Name::Overlay2 => Box::new(Overlay2::probe(layout)?),
        Name::Vfs => Box::new(Vfs::probe(layout)),
        Name::Devicemapper => {
            let options = thin_options::parse(options).map_err(SetupError::from)?;
            let pool = thin::open(layout, options, store, apply)?;
            Box::new(Devicemapper::new(pool, layout))
        }
    })
}
