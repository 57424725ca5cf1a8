//! Project quotas: what a directory and all in it may take, on filesystems that count by project
//! (ext4, xfs).

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

use crate::check;

// `linux/fs.h`: _IOR('X', 31, struct fsxattr) and _IOW('X', 32, struct fsxattr).
const FS_IOC_FSGETXATTR: libc::Ioctl = 0x801c_581f;
const FS_IOC_FSSETXATTR: libc::Ioctl = 0x401c_5820;
/// What is made inside belongs to the same project.
const FS_XFLAG_PROJINHERIT: u32 = 0x200;

// `linux/quota.h`: the command above the kind of quota, which is that of projects.
const Q_GETQUOTA: u32 = 0x0080_0007 << 8 | 2;
const Q_SETQUOTA: u32 = 0x0080_0008 << 8 | 2;
const QIF_LIMITS: u32 = 1 | 4;
/// Units of the block limits.
const BLOCK: u64 = 1024;

/// `struct fsxattr`.
#[repr(C)]
#[derive(Default)]
struct FsXattr {
    xflags: u32,
    extent_size: u32,
    extents: u32,
    project: u32,
    cow_extent_size: u32,
    pad: [u8; 8],
}

/// `struct if_dqblk`.
#[repr(C)]
#[derive(Default)]
struct Quota {
    block_hard: u64,
    block_soft: u64,
    space: u64,
    inode_hard: u64,
    inode_soft: u64,
    inodes: u64,
    block_time: u64,
    inode_time: u64,
    valid: u32,
}

const _: () = assert!(size_of::<FsXattr>() == 28 && size_of::<Quota>() == 72);

/// What a project takes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Usage {
    pub bytes: u64,
    pub inodes: u64,
}

/// Limits a project of the filesystem that `directory` is on; zero is no limit. Linux 5.14.
///
/// # Errors
/// `ESRCH` and `ENOSYS` where the filesystem does not count by project.
pub fn set_limit(
    directory: BorrowedFd<'_>,
    project: u32,
    bytes: u64,
    inodes: u64,
) -> io::Result<()> {
    let mut quota = Quota {
        block_hard: bytes.div_ceil(BLOCK),
        inode_hard: inodes,
        valid: QIF_LIMITS,
        ..Quota::default()
    };
    call(directory, Q_SETQUOTA, project, &mut quota)
}

/// # Errors
/// As [`set_limit`].
pub fn usage(directory: BorrowedFd<'_>, project: u32) -> io::Result<Usage> {
    let mut quota = Quota::default();
    call(directory, Q_GETQUOTA, project, &mut quota)?;
    Ok(Usage {
        bytes: quota.space,
        inodes: quota.inodes,
    })
}

fn call(
    directory: BorrowedFd<'_>,
    command: u32,
    project: u32,
    quota: &mut Quota,
) -> io::Result<()> {
    // SAFETY: both commands read or write one `struct if_dqblk`, which `quota` is; the descriptor is
    // open during the call.
    let outcome = unsafe {
        libc::syscall(
            libc::SYS_quotactl_fd,
            directory.as_raw_fd(),
            command,
            project,
            std::ptr::from_mut(quota),
        )
    };
    check(outcome).map(drop)
}

/// Makes a directory, and all that will be made in it, part of a project. What is in it already
/// stays what it is.
///
/// # Errors
/// `ENOTTY` or `EOPNOTSUPP` where the filesystem knows no projects.
pub fn join_project(directory: BorrowedFd<'_>, project: u32) -> io::Result<()> {
    let mut attributes = FsXattr::default();
    let fd = directory.as_raw_fd();
    // SAFETY: the kernel writes one `struct fsxattr`, for which there is room.
    check(unsafe { libc::ioctl(fd, FS_IOC_FSGETXATTR, &raw mut attributes) })?;
    attributes.project = project;
    attributes.xflags |= FS_XFLAG_PROJINHERIT;
    // SAFETY: the kernel reads one `struct fsxattr`.
    check(unsafe { libc::ioctl(fd, FS_IOC_FSSETXATTR, &raw const attributes) }).map(drop)
}
