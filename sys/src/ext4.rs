//! Growing an ext4 that is mounted, wherever it is (`fs/ext4/ioctl.c`).

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

use crate::check;

/// `_IOW('f', 16, __u64)`.
const EXT4_IOC_RESIZE_FS: libc::Ioctl = 0x4008_6610;

/// Lets the filesystem that `directory` is on have `bytes`, which are not less than it has, up to the
/// last whole block.
///
/// # Errors
/// The kernel's: `EPERM` without `CAP_SYS_RESOURCE`.
pub fn grow(directory: BorrowedFd<'_>, bytes: u64) -> io::Result<()> {
    let block = u64::try_from(rustix::fs::fstatfs(directory)?.f_bsize).unwrap_or(1);
    let blocks = bytes / block.max(1);
    // SAFETY: the kernel reads one `__u64`.
    let grown =
        unsafe { libc::ioctl(directory.as_raw_fd(), EXT4_IOC_RESIZE_FS, &raw const blocks) };
    check(grown).map(drop)
}
