//! Copy-up: a new volume starts with what the image has at its mount point.
//!
//! The copy is made beside the volume and flushed; then an intent says that it is complete, and its
//! entries move in. A crash before that line leaves the volume as it was, a crash after it ends with
//! all of the copy in place. The volume's own directory is never replaced: whoever has it mounted
//! sees the data arrive. What nothing can move into, a filesystem in a file or a btrfs subvolume, is
//! replaced whole instead by a copy that has the data, if nobody has it mounted.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use api::id::VolumeName;
use api::storage::VolumePopulate;
use rustix::fs::{OFlags, ResolveFlags};
use rustix::io::Errno;

use super::content::spec_of;
use super::image_file::{self, ImageFailure};
use super::{VolumeError, copy};
use crate::disk::{Step, StepError, set_owner};
use crate::model::layout::{Key, VOLUME_DATA, VOLUME_IMAGE};
use crate::model::record::{Change, Intent, VolumeRow};
use crate::model::volume_spec::{Content, Filesystem, ImageSpec, Owner};
use crate::reason::in_own_filesystem;
use crate::{Storaged, tree};

impl Storaged {
    /// Copies a directory of a container's root filesystem into the volume, once, if the volume is
    /// empty. A volume that shows a device is left alone, as is one whose container has no directory at
    /// the path.
    ///
    /// Callers at the same time wait for the one that copies.
    ///
    /// # Errors
    /// [`VolumeError`]; the volume stays empty.
    pub fn populate_volume(&self, name: &str, request: VolumePopulate) -> Result<(), VolumeError> {
        if !request.path.starts_with('/') || request.path.contains('\0') {
            return Err(VolumeError::Path(request.path.chars().take(64).collect()));
        }
        let name = self.known(name)?;
        let _guard = self.volume_locks.lock(name.as_str());
        let row = self.existing_volume(&name)?;
        if row.populated {
            return Ok(());
        }
        self.check_unlocked(&row)?;
        let spec = spec_of(&row)?;
        let image = match spec.content {
            Content::Device(_) => return Ok(()),
            Content::Thin(thin) => return self.populate_thin(row, thin, spec.owner, &request),
            Content::Directory(_) if !self.is_empty(&name)? => return Ok(()),
            Content::Directory(_) => None,
            Content::Image(image) if !self.is_empty_image(&name, image)? => return Ok(()),
            Content::Image(image) => Some((image.filesystem, spec.owner)),
        };
        let key = self.begin(Intent::CopyUp)?;
        let result = self.copy_up(&key, &row, &request, image);
        match result {
            Ok(true) => Ok(self.settle(&key)?),
            Ok(false) => {
                self.abandon(&key);
                Ok(())
            }
            Err(error) => {
                self.abandon(&key);
                Err(error)
            }
        }
    }

    /// Whether there was something to copy. If so the copy is complete, and recorded to be.
    fn copy_up(
        &self,
        key: &Key,
        row: &VolumeRow,
        request: &VolumePopulate,
        image: Option<(Filesystem, Owner)>,
    ) -> Result<bool, VolumeError> {
        let staged = self.layout.staged_volume(key);
        self.apply(Step::CreateDir {
            path: staged.clone(),
            mode: 0o700,
        })?;
        if let Some((filesystem, _)) = image {
            self.apply(Step::CopyImage {
                from: self.layout.volume_image(&row.name),
                to: staged.join(VOLUME_IMAGE),
                filesystem,
            })?;
        } else {
            let data = staged.join(VOLUME_DATA);
            self.apply(Step::MakeVolumeDir { path: data.clone() })?;
            // Nothing moves between directories that are encrypted or limited in different ways.
            self.encrypt_content(row, data.clone())?;
            self.limit_like(row, data)?;
        }
        let (_, root) = self.open_rootfs(&request.container)?;
        let copied =
            copy_directory(root.as_fd(), &request.path, &staged, image).map_err(|source| {
                VolumeError::Copy {
                    volume: row.name.clone(),
                    container: request.container.clone(),
                    path: request.path.clone(),
                    source,
                }
            })?;
        if copied {
            self.apply(Step::SyncFilesystem { path: staged })?;
            self.apply(Step::Record(vec![Change::PutIntent(
                key.clone(),
                Intent::MoveCopy(row.name.clone()),
            )]))?;
        }
        Ok(copied)
    }

    /// The same for a volume on a thin device, unless somebody has it mounted: a copy of the device
    /// that has the data takes its place.
    fn populate_thin(
        &self,
        row: VolumeRow,
        spec: ImageSpec,
        owner: Owner,
        request: &VolumePopulate,
    ) -> Result<(), VolumeError> {
        let Some(origin) = row.device.clone() else {
            return Ok(());
        };
        if !self.store.rows().mounts_of(&row.name).is_empty() {
            return Ok(());
        }
        let failed = |source| VolumeError::Copy {
            volume: row.name.clone(),
            container: request.container.clone(),
            path: request.path.clone(),
            source: in_own_filesystem(source),
        };
        let (_, root) = self.open_rootfs(&request.container)?;
        let source = open_source(root.as_fd(), &request.path);
        let Some(source) = source.map_err(|error| failed(error.into()))? else {
            return Ok(());
        };
        let present = self.open_thin(&row, &origin, spec.filesystem)?;
        let names = tree::names(present.as_fd());
        drop(present);
        if !names.map_err(|error| failed(error.into()))?.is_empty() {
            return Ok(());
        }
        let filled = VolumeRow {
            populated: true,
            ..row.clone()
        };
        self.replace_thin(filled, &origin, |key| {
            let target = self.open_thin(&row, key, spec.filesystem)?;
            let fill = || -> std::io::Result<()> {
                copy::tree(source.as_fd(), target.as_fd())?;
                set_owner(target.as_fd(), owner)?;
                Ok(rustix::fs::syncfs(&target)?)
            };
            fill().map_err(failed)
        })
    }

    /// Not while somebody has it mounted: then it keeps what it has.
    fn is_empty_image(&self, volume: &VolumeName, image: ImageSpec) -> Result<bool, VolumeError> {
        if !self.store.rows().mounts_of(volume).is_empty() {
            return Ok(false);
        }
        let path = self.layout.volume_image(volume);
        image_file::is_empty(&path, image.filesystem).map_err(|source| {
            VolumeError::Step(StepError::Image {
                what: "look into the filesystem in",
                path,
                source,
            })
        })
    }

    /// A subvolume is so only while nobody has it mounted, like a filesystem in a file.
    fn is_empty(&self, volume: &VolumeName) -> Result<bool, StepError> {
        let data = self.layout.volume_data(volume);
        if !self.store.rows().mounts_of(volume).is_empty() && self.is_subvolume(volume)? {
            return Ok(false);
        }
        let names = tree::open_root(&data).and_then(|data| tree::names(data.as_fd()));
        Ok(names.map_err(StepError::io("read", &data))?.is_empty())
    }
}

/// The directory at `path` of the filesystem tree `root`, if there is one.
fn open_source(root: BorrowedFd<'_>, path: &str) -> Result<Option<OwnedFd>, Errno> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY;
    let within = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
    match tree::resolve(root, path.as_bytes(), flags, within) {
        Ok(source) => Ok(Some(source)),
        Err(Errno::NOENT | Errno::NOTDIR) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Copies the directory at `path` of the filesystem tree `root` into what is staged; `false` if there
/// is none.
fn copy_directory(
    root: BorrowedFd<'_>,
    path: &str,
    staged: &Path,
    image: Option<(Filesystem, Owner)>,
) -> std::io::Result<bool> {
    let Some(source) = open_source(root, path)? else {
        return Ok(false);
    };
    match image {
        Some((filesystem, owner)) => {
            let path = staged.join(VOLUME_IMAGE);
            image_file::fill(&path, filesystem, source.as_fd(), owner).map_err(
                |error| match error {
                    ImageFailure::Io(error) => in_own_filesystem(error),
                    other => std::io::Error::other(other),
                },
            )?;
        }
        None => {
            let target = tree::open_root(&staged.join(VOLUME_DATA))?;
            copy::tree(source.as_fd(), target.as_fd())?;
        }
    }
    Ok(true)
}
