//! A filesystem that keeps still: writers wait, and what is on its device is a whole filesystem.

use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::Path;

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;

use crate::check;

// `linux/fs.h`: _IOWR('X', 119 and 120, int).
const FIFREEZE: libc::Ioctl = 0xc004_5877;
const FITHAW: libc::Ioctl = 0xc004_5878;

/// Thaws when it is dropped.
#[derive(Debug)]
pub struct Frozen(OwnedFd);

impl Frozen {
    /// Freezes the filesystem that `directory` is on.
    ///
    /// # Errors
    /// `EBUSY` when somebody else has frozen it, `EOPNOTSUPP` for one without a device.
    pub fn freeze(directory: OwnedFd) -> io::Result<Self> {
        ioctl(&directory, FIFREEZE)?;
        Ok(Self(directory))
    }
}

impl Drop for Frozen {
    fn drop(&mut self) {
        // There is nobody to tell: it fails only when somebody else has thawed it.
        drop(ioctl(&self.0, FITHAW));
    }
}

/// Thaws what a process that has died since had frozen: freezing outlives its process. Says whether
/// it was frozen.
///
/// # Errors
/// The kernel's.
pub fn thaw(path: &Path) -> io::Result<bool> {
    match ioctl(&open(path)?, FITHAW) {
        Ok(()) => Ok(true),
        Err(error) if error.raw_os_error() == Some(libc::EINVAL) => Ok(false),
        Err(error) => Err(error),
    }
}

fn open(path: &Path) -> Result<OwnedFd, Errno> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    rustix::fs::open(path, flags, Mode::empty())
}

fn ioctl(directory: impl AsFd, request: libc::Ioctl) -> io::Result<()> {
    // SAFETY: FIFREEZE and FITHAW do not look at their argument.
    check(unsafe { libc::ioctl(directory.as_fd().as_raw_fd(), request, 0) }).map(drop)
}
