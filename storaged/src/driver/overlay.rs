//! The overlay2 driver: is it usable in this directory, and the mounts it makes.

use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use rustix::io::Errno;
use sys::elsewhere::{Elsewhere, find_overlay};
use sys::mount::{Overlay, OverlayApi};
use sys::owner::Owners;

use super::{Driver, Name, Wanted};
use crate::disk::{Apply, Mapped, Step, StepError};
use crate::model::layout::{LayerDir, Layout};
use crate::rootfs::RootfsError;
use crate::tree;

/// Who root is when mapped owners are tried out.
const ANOTHER: u32 = 65_534;

/// The driver, with what its probe found out.
#[derive(Debug, Clone)]
pub(crate) struct Overlay2 {
    api: OverlayApi,
    backing: String,
    empty: PathBuf,
    store: PathBuf,
    probe: PathBuf,
    /// Whether owners can be mapped, or the error number that says why not.
    mapping: OnceLock<Result<(), i32>>,
}

impl Driver for Overlay2 {
    fn name(&self) -> &'static str {
        Name::Overlay2.name()
    }

    fn status(&self) -> Vec<(String, String)> {
        let layers = match self.api {
            OverlayApi::Layered => "one parameter each",
            OverlayApi::OptionPage => "option page",
        };
        [
            ("Backing Filesystem", self.backing.as_str()),
            // The probe fails without either.
            ("Supports d_type", "true"),
            ("Native Overlay Diff", "true"),
            ("Redirected Directories", "true"),
            ("Mount Layers", layers),
        ]
        .map(|(key, value)| (key.to_owned(), value.to_owned()))
        .to_vec()
    }

    fn begin_rootfs(
        &self,
        directory: &LayerDir,
        lowers: &[PathBuf],
        _size: Option<u64>,
        _apply: Apply<'_>,
    ) -> Result<(), RootfsError> {
        match lowers.first() {
            Some(top) => Ok(copy_root_mode(top, &directory.diff())?),
            None => Ok(()),
        }
    }

    fn find_elsewhere(&self, directory: &LayerDir) -> io::Result<Option<Elsewhere>> {
        let diff = directory.diff();
        let name = diff.file_name().unwrap_or_default();
        find_overlay(&Path::new(directory.key().as_str()).join(name))
    }

    fn mount(
        &self,
        directory: &LayerDir,
        lowers: Vec<PathBuf>,
        wanted: Wanted,
    ) -> Result<Option<Step>, StepError> {
        Ok(Some(Step::MountOverlay {
            api: self.api,
            overlay: self.overlay(directory, lowers, &wanted),
            mapped: wanted.owners.map(|owners| Mapped {
                owners,
                below: self.store.clone(),
            }),
            target: directory.merged(),
        }))
    }

    fn detached(
        &self,
        directory: &LayerDir,
        lowers: Vec<PathBuf>,
        wanted: Wanted,
    ) -> Option<io::Result<OwnedFd>> {
        let overlay = self.overlay(directory, lowers, &wanted);
        // By that name it is found again.
        if !overlay.names_upper() {
            return None;
        }
        let scratch = directory.merged();
        Some(match wanted.owners {
            None => self.api.detached(&overlay, &scratch),
            Some(owners) => self
                .api
                .detached_mapped(&overlay, &owners, &self.store, &scratch),
        })
    }

    fn can_map_owners(&self) -> io::Result<()> {
        let tried = self.mapping.get_or_init(|| {
            let io = Errno::IO.raw_os_error();
            self.try_mapping()
                .map_err(|error| error.raw_os_error().unwrap_or(io))
        });
        tried.map_err(io::Error::from_raw_os_error)
    }

    fn root(&self, directory: &LayerDir) -> PathBuf {
        directory.merged()
    }

    fn view(&self, lowers: &[PathBuf], scratch: &Path) -> io::Result<OwnedFd> {
        match lowers {
            [] => Ok(tree::open_root(&self.empty)?),
            // No layer below: nothing to hide, nothing to merge.
            [only] => Ok(tree::open_root(only)?),
            _ => self.api.view(lowers, scratch),
        }
    }

    fn keeps_differences(&self) -> bool {
        true
    }
}

impl Overlay2 {
    fn overlay(&self, directory: &LayerDir, lowers: Vec<PathBuf>, wanted: &Wanted) -> Overlay {
        let lowers = if lowers.is_empty() {
            vec![self.empty.clone()]
        } else {
            lowers
        };
        Overlay {
            lowers,
            upper: directory.diff(),
            work: directory.work(),
            volatile: wanted.ephemeral,
            metacopy: wanted.metacopy,
        }
    }

    /// Tries the driver out in its own directory: one mount, one deletion, one rename.
    pub(crate) fn probe(layout: &Layout) -> Result<Self, ProbeError> {
        let directory = layout.probe();
        clean(&directory)?;
        let result = try_out(&directory);
        // The answer matters more than what is left of a failed probe; the next start cleans it.
        if let Err(error) = clean(&directory) {
            tracing::warn!(%error, "cannot clean up after probing overlayfs");
        }
        let (api, backing) = result?;
        Ok(Self {
            api,
            backing,
            empty: layout.empty_lower(),
            store: layout.store(),
            probe: directory,
            mapping: OnceLock::new(),
        })
    }

    /// Mounts an overlay with mapped owners, for a moment.
    fn try_mapping(&self) -> io::Result<()> {
        let map = format!("0 {ANOTHER} 1\n");
        let owners = Owners {
            uid_map: map.clone(),
            gid_map: map,
            root: (ANOTHER, ANOTHER),
        };
        tree::remove_path(&self.probe)?;
        let overlay = prepare(&self.probe)?;
        let merged = self.probe.join("merged");
        let mounted = self
            .api
            .mount_mapped(&overlay, &owners, &self.store, &merged);
        sys::mount::unmount(&merged)?;
        tree::remove_path(&self.probe)?;
        mounted
    }
}

/// An overlay shows the root of its upper layer: give it the owner and mode of the image's.
fn copy_root_mode(image: &Path, upper: &Path) -> Result<(), StepError> {
    let copy = || {
        let stat = rustix::fs::fstat(tree::open_root(image)?)?;
        let upper = tree::open_root(upper)?;
        let (uid, gid) = (
            rustix::fs::Uid::from_raw(stat.st_uid),
            rustix::fs::Gid::from_raw(stat.st_gid),
        );
        rustix::fs::fchown(&upper, Some(uid), Some(gid))?;
        rustix::fs::fchmod(
            &upper,
            rustix::fs::Mode::from_raw_mode(stat.st_mode & 0o7777),
        )
    };
    copy().map_err(StepError::io("set the owner of", upper))
}

/// Why layers cannot be kept here, and what to do about it.
#[derive(Debug, thiserror::Error)]
pub enum ProbeError {
    #[error(
        "this kernel has no overlayfs ({0}); load the module \"overlay\" or use a kernel with CONFIG_OVERLAY_FS"
    )]
    Kernel(io::Error),
    #[error(
        "cannot mount an overlay in {} on {backing}: {source}; put --state-dir on ext4, xfs or btrfs, run as root, or set driver = \"vfs\" in [storage]",
        directory.display()
    )]
    Mount {
        directory: PathBuf,
        backing: String,
        source: io::Error,
    },
    #[error(
        "overlayfs cannot record deletions in {} on {backing}; an xfs must be made with mkfs.xfs -n ftype=1; or set driver = \"vfs\" in [storage]",
        directory.display()
    )]
    Whiteout { directory: PathBuf, backing: String },
    #[error(
        "overlayfs cannot rename directories in {} on {backing}: {source}; the filesystem must hold trusted.* attributes; or set driver = \"vfs\" in [storage]",
        directory.display()
    )]
    Redirect {
        directory: PathBuf,
        backing: String,
        source: io::Error,
    },
    #[error("cannot {what} {}: {source}", path.display())]
    Io {
        what: &'static str,
        path: PathBuf,
        source: io::Error,
    },
}

fn clean(directory: &Path) -> Result<(), ProbeError> {
    sys::mount::unmount(&directory.join("merged"))
        .and_then(|_was_mounted| Ok(tree::remove_path(directory)?))
        .map_err(|source| ProbeError::Io {
            what: "clean up",
            path: directory.to_owned(),
            source,
        })
}

fn try_out(directory: &Path) -> Result<(OverlayApi, String), ProbeError> {
    let api = OverlayApi::detect().map_err(ProbeError::Kernel)?;
    let overlay = prepare(directory).map_err(|source| ProbeError::Io {
        what: "prepare",
        path: directory.to_owned(),
        source,
    })?;
    let backing = backing(directory);
    let merged = directory.join("merged");
    api.mount(&overlay, &merged)
        .map_err(|source| ProbeError::Mount {
            directory: directory.to_owned(),
            backing: backing.clone(),
            source,
        })?;
    let deleted = std::fs::remove_file(merged.join("file"))
        .and_then(|()| std::fs::symlink_metadata(overlay.upper.join("file")));
    if !deleted.is_ok_and(|whiteout| whiteout.file_type().is_char_device() && whiteout.rdev() == 0)
    {
        return Err(ProbeError::Whiteout {
            directory: directory.to_owned(),
            backing,
        });
    }
    std::fs::rename(merged.join("dir"), merged.join("renamed")).map_err(|source| {
        ProbeError::Redirect {
            directory: directory.to_owned(),
            backing: backing.clone(),
            source,
        }
    })?;
    Ok((api, backing))
}

fn prepare(directory: &Path) -> io::Result<Overlay> {
    let lower = directory.join("lower");
    std::fs::create_dir_all(lower.join("dir"))?;
    std::fs::write(lower.join("file"), "")?;
    for name in ["upper", "work", "merged"] {
        std::fs::create_dir(directory.join(name))?;
    }
    Ok(Overlay {
        lowers: vec![lower],
        upper: directory.join("upper"),
        work: directory.join("work"),
        volatile: false,
        metacopy: false,
    })
}

pub(crate) fn backing(directory: &Path) -> String {
    tree::open_root(directory)
        .map_err(io::Error::from)
        .and_then(sys::mount::filesystem_name)
        .unwrap_or_else(|error| format!("unknown ({error})"))
}

/// The mark that a volatile mount leaves, and that refuses the next one
/// (`ovl_make_workdir` in the kernel's `fs/overlayfs/super.c`).
pub(crate) fn volatile_mark(rw: &LayerDir) -> PathBuf {
    rw.work().join("work/incompat/volatile")
}
