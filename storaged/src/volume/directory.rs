//! Volumes that are directories: made, limited and copied by whatever the filesystem has for it.
//!
//! On btrfs such a directory is a subvolume: its copy is there at once and of one moment, and its quota
//! group limits it. On ext4 and xfs a limit is that of a project, whose number the volume's row has.

use std::ffi::CString;
use std::io;
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use rustix::fs::Mode;
use rustix::io::Errno;

use crate::model::volume_spec::Limit;
use crate::tree;

/// Why a directory cannot be limited.
#[derive(Debug, thiserror::Error)]
pub enum LimitFailure {
    #[error(transparent)]
    Io(#[from] io::Error),
    #[error(
        "its filesystem ({filesystem}) has no project quotas ({source}): add -o backend=loop for a \
         volume in a file of its own, or mount the filesystem with prjquota"
    )]
    NoQuota {
        filesystem: String,
        source: io::Error,
    },
    #[error("btrfs does not count inodes: leave inodes= out, or add -o backend=loop")]
    NoInodes,
}

impl From<Errno> for LimitFailure {
    fn from(error: Errno) -> Self {
        Self::Io(error.into())
    }
}

/// Makes the empty directory of a volume.
pub(crate) fn make(path: &Path) -> io::Result<()> {
    let (parent, name) = parts(path)?;
    if sys::btrfs::is_btrfs(parent.as_fd())? {
        sys::btrfs::create(parent.as_fd(), &name)?;
    } else {
        rustix::fs::mkdirat(&parent, &name, Mode::RWXU)?;
    }
    // Whatever the umask took.
    let made = tree::open_dir_at(parent.as_fd(), &name)?;
    Ok(rustix::fs::fchmod(made, Mode::from_raw_mode(0o755))?)
}

/// Whether a copy of the directory is there at once.
pub(crate) fn is_subvolume(path: &Path) -> io::Result<bool> {
    sys::btrfs::is_subvolume(tree::open_root(path)?.as_fd())
}

/// Copies a subvolume to a new one.
pub(crate) fn snapshot(from: &Path, to: &Path) -> io::Result<()> {
    let source = tree::open_root(from)?;
    // What is written and not on disk yet belongs to the copy, too.
    rustix::fs::syncfs(&source)?;
    let (parent, name) = parts(to)?;
    sys::btrfs::snapshot(source.as_fd(), parent.as_fd(), &name)
}

/// Whether limits of directories below `path` are those of projects.
pub(crate) fn has_projects(path: &Path) -> io::Result<bool> {
    Ok(!sys::btrfs::is_btrfs(tree::open_root(path)?.as_fd())?)
}

/// Limits what the directory may hold. One that is new joins the project.
pub(crate) fn limit(path: &Path, project: Option<u32>, limit: Limit) -> Result<(), LimitFailure> {
    let directory = tree::open_root(path)?;
    let directory = directory.as_fd();
    let (bytes, inodes) = (
        limit.bytes.unwrap_or_default(),
        limit.inodes.unwrap_or_default(),
    );
    let Some(project) = project else {
        if limit.inodes.is_some() {
            return Err(LimitFailure::NoInodes);
        }
        return Ok(sys::btrfs::set_limit(directory, bytes)?);
    };
    let filesystem = sys::mount::filesystem_name(directory)?;
    sys::quota::set_limit(directory, project, bytes, inodes)
        .and_then(|()| sys::quota::join_project(directory, project))
        .map_err(
            |source| match source.raw_os_error().map(Errno::from_raw_os_error) {
                Some(
                    Errno::SRCH | Errno::NOSYS | Errno::OPNOTSUPP | Errno::NOTTY | Errno::INVAL,
                ) => LimitFailure::NoQuota { filesystem, source },
                _ => source.into(),
            },
        )
}

fn parts(path: &Path) -> io::Result<(std::os::fd::OwnedFd, CString)> {
    let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
        return Err(Errno::INVAL.into());
    };
    let name = CString::new(name.as_bytes()).map_err(io::Error::other)?;
    Ok((tree::open_root(parent)?, name))
}
