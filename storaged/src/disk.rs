//! The one executor: everything that changes the state directory, the mount table or the rows is
//! a [`Step`], and [`Disk`] is the seam where tests watch the order of steps and crash between
//! them. (Content is not a step: the bytes of a layer and of a copied volume go to a staging
//! directory that no row names.)

use std::io;
use std::net::IpAddr;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::{CWD, Mode, OFlags, RenameFlags};
use rustix::io::Errno;
use serde::Serialize;
use sys::mount::{Overlay, OverlayApi};

use crate::model::record::Change;
use crate::model::volume_option::MountOptions;
use crate::store::{Store, StoreError};
use crate::volume::copy;
use crate::{sidecar, tree};

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Step {
    /// Commit rows. The point of no return of the operation it ends.
    Record(Vec<Change>),
    /// Make a directory; the parent exists, the directory does not.
    CreateDir { path: PathBuf, mode: u32 },
    /// Write a sidecar, whole or not at all.
    WriteSidecar { path: PathBuf, text: Vec<u8> },
    /// Flush the filesystem that holds `path`, data and metadata.
    SyncFilesystem { path: PathBuf },
    /// Flush the entries of one directory.
    SyncDir { path: PathBuf },
    /// Copy a tree with everything in it into an empty directory.
    CopyTree { from: PathBuf, to: PathBuf },
    /// Move within the filesystem; never onto something that exists.
    Rename { from: PathBuf, to: PathBuf },
    /// Delete a tree, if it is there. Stops at mount points.
    RemoveTree { path: PathBuf },
    /// Mount an overlay on `target`.
    MountOverlay {
        api: OverlayApi,
        overlay: Overlay,
        target: PathBuf,
    },
    /// Mount what the options of a volume name on `target`.
    MountVolume {
        options: MountOptions,
        address: Option<IpAddr>,
        target: PathBuf,
    },
    /// Move the entries of one directory into another, onto none that exists, and its owner, mode
    /// and attributes with them.
    MoveEntries { from: PathBuf, to: PathBuf },
    /// Detach what is mounted on `target`, if anything is.
    Unmount { target: PathBuf },
}

impl Step {
    pub(crate) fn write_sidecar(path: PathBuf, row: &impl Serialize) -> Result<Self, StepError> {
        match sidecar::encode(row) {
            Ok(text) => Ok(Self::WriteSidecar { path, text }),
            Err(error) => Err(StepError::io("encode", &path)(error)),
        }
    }
}

#[derive(Debug, thiserror::Error)]
pub enum StepError {
    #[error("cannot {what} {}: {source}", path.display())]
    Io {
        what: &'static str,
        path: PathBuf,
        source: io::Error,
    },
    #[error("cannot mount {device} on {}: {source}", target.display())]
    MountVolume {
        device: String,
        target: PathBuf,
        source: io::Error,
    },
    #[error(
        "no room in {}: {kilobytes} KiB are left, and the database needs more to work in; make room, for example with hawser system prune",
        path.display()
    )]
    Full { path: PathBuf, kilobytes: u64 },
    #[error("the kernel gives no random numbers: {0}")]
    Random(getrandom::Error),
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl StepError {
    pub(crate) fn io<E: Into<io::Error>>(
        what: &'static str,
        path: &Path,
    ) -> impl FnOnce(E) -> Self {
        move |source| Self::Io {
            what,
            path: path.to_owned(),
            source: source.into(),
        }
    }

    /// Whether the disk is full or a quota is used up.
    pub(crate) fn is_out_of_space(&self) -> bool {
        match self {
            Self::Full { .. } => true,
            Self::Io { source, .. } => matches!(
                source.kind(),
                io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded
            ),
            _ => false,
        }
    }
}

pub(crate) trait Disk: std::fmt::Debug + Send + Sync {
    /// # Errors
    /// [`StepError`] names the step and its subject; the step had no effect then.
    fn apply(&self, step: &Step) -> Result<(), StepError>;
}

/// The real one.
#[derive(Debug)]
pub(crate) struct Host {
    store: Arc<Store>,
}

impl Host {
    pub(crate) fn new(store: Arc<Store>) -> Self {
        Self { store }
    }
}

impl Disk for Host {
    fn apply(&self, step: &Step) -> Result<(), StepError> {
        match step {
            Step::Record(changes) => Ok(self.store.commit(changes)?),
            Step::CreateDir { path, mode } => {
                create_dir(path, *mode).map_err(StepError::io("create directory", path))
            }
            Step::WriteSidecar { path, text } => {
                sidecar::write(path, text).map_err(StepError::io("write", path))
            }
            Step::SyncFilesystem { path } => open_dir(path)
                .and_then(rustix::fs::syncfs)
                .map_err(StepError::io("flush the filesystem of", path)),
            Step::SyncDir { path } => open_dir(path)
                .and_then(rustix::fs::fsync)
                .map_err(StepError::io("flush directory", path)),
            Step::CopyTree { from, to } => open_dir(from)
                .and_then(|from| Ok((from, open_dir(to)?)))
                .map_err(io::Error::from)
                .and_then(|(from, to)| copy::tree(from.as_fd(), to.as_fd()))
                .map_err(StepError::io("copy a tree to", to)),
            Step::Rename { from, to } => rename(from, to).map_err(StepError::io("rename to", to)),
            Step::RemoveTree { path } => {
                tree::remove_path(path).map_err(StepError::io("delete", path))
            }
            Step::MountOverlay {
                api,
                overlay,
                target,
            } => api
                .mount(overlay, target)
                .map_err(StepError::io("mount an overlay on", target)),
            Step::MountVolume {
                options,
                address,
                target,
            } => crate::volume::mount::mount(options, *address, target).map_err(|source| {
                StepError::MountVolume {
                    device: options.device.clone(),
                    target: target.clone(),
                    source,
                }
            }),
            Step::MoveEntries { from, to } => {
                move_entries(from, to).map_err(StepError::io("move image data to", to))
            }
            Step::Unmount { target } => sys::mount::unmount(target)
                .map(drop)
                .map_err(StepError::io("unmount", target)),
        }
    }
}

fn open_dir(path: &Path) -> Result<OwnedFd, Errno> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    rustix::fs::open(path, flags, Mode::empty())
}

fn create_dir(path: &Path, mode: u32) -> Result<(), Errno> {
    rustix::fs::mkdir(path, Mode::from_raw_mode(mode))?;
    // Whatever the umask took.
    rustix::fs::fchmod(open_dir(path)?, Mode::from_raw_mode(mode))
}

fn rename(from: &Path, to: &Path) -> Result<(), Errno> {
    rustix::fs::renameat_with(CWD, from, CWD, to, RenameFlags::NOREPLACE)
}

fn move_entries(from: &Path, to: &Path) -> Result<(), Errno> {
    let (from, to) = (open_dir(from)?, open_dir(to)?);
    // Before the moves change its time.
    let stat = rustix::fs::fstat(&from)?;
    for name in tree::names(from.as_fd())? {
        match rustix::fs::renameat_with(&from, &name, &to, &name, RenameFlags::NOREPLACE) {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(error) => return Err(error),
        }
    }
    copy::set_metadata(from.as_fd(), to.as_fd(), &stat)
}
