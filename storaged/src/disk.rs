//! The one executor: everything that changes the state directory, the mount table or the rows is
//! a [`Step`], and [`Disk`] is the seam where tests watch the order of steps and crash between
//! them. (Content is not a step: the bytes of a layer and of a copied volume go to a staging
//! directory that no row names.)

use std::io;
use std::net::IpAddr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::{CWD, Gid, Mode, OFlags, RenameFlags, Uid};
use rustix::io::Errno;
use serde::Serialize;
use sys::fscrypt::Identifier;
use sys::mount::{Overlay, OverlayApi};
use sys::owner::Owners;

use crate::model::record::Change;
use crate::model::thin::{DeviceRow, Message};
use crate::model::volume_option::MountOptions;
use crate::model::volume_spec::{Filesystem, ImageSpec, Limit, Owner};
use crate::reason::{mount_problem, way_out};
use crate::store::{Store, StoreError};
use crate::thin::{Access, Content, Pool};
use crate::volume::copy;
use crate::volume::directory::{self, LimitFailure};
use crate::volume::image_file::{self, ImageFailure};
use crate::{sidecar, tree};

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Step {
    /// Commit rows. The point of no return of the operation it ends.
    Record(Vec<Change>),
    /// Make a directory; the parent exists, the directory does not.
    CreateDir { path: PathBuf, mode: u32 },
    /// Write a sidecar into a directory that is being made.
    WriteSidecar { path: PathBuf, text: Vec<u8> },
    /// The same where it may be there already: a reader finds the old one or the new one.
    ReplaceSidecar { path: PathBuf, text: Vec<u8> },
    /// Flush the filesystem that holds `path`, data and metadata.
    SyncFilesystem { path: PathBuf },
    /// Flush the entries of one directory.
    SyncDir { path: PathBuf },
    /// Copy a tree with everything in it into an empty directory.
    CopyTree { from: PathBuf, to: PathBuf },
    /// Move within the filesystem; never onto something that exists.
    Rename { from: PathBuf, to: PathBuf },
    /// Delete a tree, if it is there, so that a power cut does not bring it back. Stops at mount points.
    RemoveTree { path: PathBuf },
    /// Mount an overlay on `target`.
    MountOverlay {
        api: OverlayApi,
        overlay: Overlay,
        mapped: Option<Mapped>,
        target: PathBuf,
    },
    /// Mount what the options of a volume name on `target`.
    MountVolume {
        options: MountOptions,
        address: Option<IpAddr>,
        target: PathBuf,
    },
    /// Make the directory that a volume is.
    MakeVolumeDir { path: PathBuf },
    /// Limit what a volume's directory may hold, by the project it joins or as a subvolume.
    LimitDir {
        path: PathBuf,
        project: Option<u32>,
        limit: Limit,
    },
    /// Encrypt an empty directory with a key that the kernel has.
    EncryptDir {
        path: PathBuf,
        identifier: Identifier,
    },
    /// Copy a subvolume to a new one.
    SnapshotSubvolume { from: PathBuf, to: PathBuf },
    /// Make a filesystem with an empty top directory in a new file.
    MakeImage {
        path: PathBuf,
        spec: ImageSpec,
        owner: Owner,
    },
    /// Copy the filesystem in a file to a new one, with its content as of one moment: writers wait.
    CopyImage {
        from: PathBuf,
        to: PathBuf,
        filesystem: Filesystem,
    },
    /// Let the filesystem in a file grow to `spec`, mounted or not.
    GrowImage { path: PathBuf, spec: ImageSpec },
    /// Mount the filesystem in a file.
    MountImage {
        path: PathBuf,
        filesystem: Filesystem,
        target: PathBuf,
    },
    /// Give a directory the owner and mode that were asked for.
    SetOwner { path: PathBuf, owner: Owner },
    /// Move the entries of one directory into another, onto none that exists, and its owner, mode
    /// and attributes with them.
    MoveEntries { from: PathBuf, to: PathBuf },
    /// Tell a pool of thin devices something.
    TellPool { pool: Arc<Pool>, message: Message },
    /// Mount the filesystem of a thin device on `target`, to be written to.
    MountThin {
        pool: Arc<Pool>,
        device: DeviceRow,
        target: PathBuf,
    },
    /// Let the filesystem on a layer's thin device fill the device, mounted or not.
    GrowThin { pool: Arc<Pool>, device: DeviceRow },
    /// Make a filesystem with an empty top directory on the thin device of a volume.
    FormatThin {
        pool: Arc<Pool>,
        content: Content,
        inodes: Option<u64>,
        owner: Owner,
    },
    /// Mount the filesystem on the thin device of a volume, which fills the device from then on; on
    /// `target`, or for that moment only.
    MountThinVolume {
        pool: Arc<Pool>,
        content: Content,
        target: Option<PathBuf>,
    },
    /// Deactivate a thin device that is about to be deleted.
    LetThinGo { pool: Arc<Pool>, device: DeviceRow },
    /// Detach what is mounted on `target`, if anything is.
    Unmount { target: PathBuf },
}

/// That an overlay shows other owners than are on disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Mapped {
    pub(crate) owners: Owners,
    /// All of its directories are below this one.
    pub(crate) below: PathBuf,
}

impl Step {
    pub(crate) fn write_sidecar(path: PathBuf, row: &impl Serialize) -> Result<Self, StepError> {
        let text = sidecar::encode(row).map_err(StepError::io("encode", &path))?;
        Ok(Self::WriteSidecar { path, text })
    }

    pub(crate) fn replace_sidecar(path: PathBuf, row: &impl Serialize) -> Result<Self, StepError> {
        let text = sidecar::encode(row).map_err(StepError::io("encode", &path))?;
        Ok(Self::ReplaceSidecar { path, text })
    }
}

#[derive(Debug, thiserror::Error)]
pub enum StepError {
    #[error("cannot {what} {}: {source}{}", path.display(), way_out(source))]
    Io {
        what: &'static str,
        path: PathBuf,
        source: io::Error,
    },
    #[error("cannot mount {kind} {device} on {}: {}", target.display(), mount_problem(kind, source))]
    MountVolume {
        kind: String,
        device: String,
        target: PathBuf,
        source: io::Error,
    },
    #[error("cannot limit {}: {source}", path.display())]
    Limit { path: PathBuf, source: LimitFailure },
    #[error("cannot {what} {}: {source}", path.display())]
    Image {
        what: &'static str,
        path: PathBuf,
        source: ImageFailure,
    },
    #[error(
        "no room in {}: {kilobytes} KiB are left, and the database needs more to work in; make room, for example with hawser system prune",
        path.display()
    )]
    Full { path: PathBuf, kilobytes: u64 },
    #[error(
        "the thin pool {pool} has {free} % of its {what} space left, and {percent} % are kept free \
         (dm.min_free_space): remove containers or images, or give the pool more room"
    )]
    PoolFull {
        pool: String,
        what: &'static str,
        free: u64,
        percent: u64,
    },
    #[error("thin device {device} is busy: {holder}")]
    PoolBusy { device: u32, holder: String },
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
            Self::Full { .. } | Self::PoolFull { .. } => true,
            Self::Io { source, .. } => is_full(source),
            Self::Image { source, .. } => source.io().is_some_and(is_full),
            _ => false,
        }
    }
}

fn is_full(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded
    )
}

/// Carries out steps.
pub(crate) type Apply<'a> = &'a dyn Fn(Step) -> Result<(), StepError>;

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
            Step::ReplaceSidecar { path, text } => {
                sidecar::replace(path, text).map_err(StepError::io("write", path))
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
            Step::RemoveTree { path } => tree::remove_path(path)
                .and_then(|()| path.parent().map_or(Ok(()), flush_entries))
                .map_err(StepError::io("delete", path)),
            Step::MountOverlay {
                api,
                overlay,
                mapped,
                target,
            } => mount_overlay(*api, overlay, mapped.as_ref(), target)
                .map_err(StepError::io("mount an overlay on", target)),
            Step::MountVolume {
                options,
                address,
                target,
            } => crate::volume::mount::mount(options, *address, target).map_err(|source| {
                StepError::MountVolume {
                    kind: options.kind.clone(),
                    device: options.device.clone(),
                    target: target.clone(),
                    source,
                }
            }),
            Step::MakeVolumeDir { path } => {
                directory::make(path).map_err(StepError::io("create directory", path))
            }
            Step::LimitDir {
                path,
                project,
                limit,
            } => directory::limit(path, *project, *limit).map_err(|source| StepError::Limit {
                path: path.clone(),
                source,
            }),
            Step::EncryptDir { path, identifier } => open_dir(path)
                .map_err(io::Error::from)
                .and_then(|directory| sys::fscrypt::encrypt(directory.as_fd(), *identifier))
                .map_err(StepError::io("encrypt", path)),
            Step::SnapshotSubvolume { from, to } => {
                directory::snapshot(from, to).map_err(StepError::io("take a snapshot of", from))
            }
            Step::MakeImage { path, spec, owner } => {
                image_file::make(path, *spec, *owner).map_err(image("make the filesystem in", path))
            }
            Step::CopyImage {
                from,
                to,
                filesystem,
            } => image_file::copy(from, to, *filesystem).map_err(image("copy", from)),
            Step::GrowImage { path, spec } => {
                image_file::grow(path, *spec).map_err(image("grow the filesystem in", path))
            }
            Step::MountImage {
                path,
                filesystem,
                target,
            } => image_file::mount(path, *filesystem, target)
                .map_err(image("mount the filesystem in", path)),
            Step::SetOwner { path, owner } => open_dir(path)
                .and_then(|directory| set_owner(directory.as_fd(), *owner))
                .map_err(StepError::io("set the owner of", path)),
            Step::MoveEntries { from, to } => {
                move_entries(from, to).map_err(StepError::io("move image data to", to))
            }
            Step::TellPool { pool, message } => pool.tell(*message),
            Step::MountThin {
                pool,
                device,
                target,
            } => pool
                .mount_at(device, Access::Write, target)
                .map_err(StepError::io("mount a thin device on", target)),
            // Whoever mounts one to write has it grow.
            Step::GrowThin { pool, device } => pool
                .mount(device, Access::Write)
                .map(drop)
                .map_err(StepError::io("grow", &pool.node(device))),
            Step::FormatThin {
                pool,
                content,
                inodes,
                owner,
            } => pool
                .format(content, *inodes, *owner)
                .map_err(image("make the filesystem on", &pool.node(&content.device))),
            Step::MountThinVolume {
                pool,
                content,
                target,
            } => pool
                .mount_volume(content)
                .and_then(|mount| match target {
                    Some(target) => sys::owner::attach(mount.as_fd(), target),
                    None => Ok(()),
                })
                .map_err(StepError::io("mount", &pool.node(&content.device))),
            Step::LetThinGo { pool, device } => pool.let_go(device),
            Step::Unmount { target } => sys::mount::unmount(target)
                .map(drop)
                .map_err(StepError::io("unmount", target)),
        }
    }
}

fn mount_overlay(
    api: OverlayApi,
    overlay: &Overlay,
    mapped: Option<&Mapped>,
    target: &Path,
) -> io::Result<()> {
    match mapped {
        None => api.mount(overlay, target),
        Some(Mapped { owners, below }) => api.mount_mapped(overlay, owners, below, target),
    }
}

fn image(what: &'static str, path: &Path) -> impl FnOnce(ImageFailure) -> StepError {
    move |source| StepError::Image {
        what,
        path: path.to_owned(),
        source,
    }
}

/// Owner before mode: `chown(2)` clears set-id bits.
pub(crate) fn set_owner(directory: BorrowedFd<'_>, owner: Owner) -> Result<(), Errno> {
    let (uid, gid) = (owner.uid.map(Uid::from_raw), owner.gid.map(Gid::from_raw));
    rustix::fs::fchown(directory, uid, gid)?;
    match owner.mode {
        Some(mode) => rustix::fs::fchmod(directory, Mode::from_raw_mode(mode)),
        None => Ok(()),
    }
}

fn open_dir(path: &Path) -> Result<OwnedFd, Errno> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    rustix::fs::open(path, flags, Mode::empty())
}

/// Makes durable what was entered into a directory and taken out of it, if there is one.
fn flush_entries(path: &Path) -> Result<(), Errno> {
    match open_dir(path) {
        Err(Errno::NOENT) => Ok(()),
        directory => rustix::fs::fsync(directory?),
    }
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
