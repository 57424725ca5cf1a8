//! Growing an xfs that is mounted (`fs/xfs/libxfs/xfs_fs.h`).

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

use crate::check;

// _IOR('X', 100, struct xfs_fsop_geom_v1) and _IOW('X', 110, struct xfs_growfs_data).
const XFS_IOC_FSGEOMETRY_V1: libc::Ioctl = 0x8070_5864;
const XFS_IOC_FSGROWFSDATA: libc::Ioctl = 0x4010_586e;

/// The start of `struct xfs_fsop_geom_v1`, and room for the rest.
#[repr(C)]
struct Geometry {
    block_size: u32,
    before: [u32; 6],
    inode_percent: u32,
    data_blocks: u64,
    rest: [u64; 9],
}

/// `struct xfs_growfs_data`.
#[repr(C)]
struct GrowData {
    new_blocks: u64,
    inode_percent: u32,
}

const _: () = assert!(size_of::<Geometry>() == 112 && size_of::<GrowData>() == 16);

/// Lets the filesystem that `directory` is on have `bytes`, as far as its device has them. One that is
/// not smaller stays as it is.
///
/// # Errors
/// The kernel's.
pub fn grow(directory: BorrowedFd<'_>, bytes: u64) -> io::Result<()> {
    let mut geometry = Geometry {
        block_size: 0,
        before: [0; 6],
        inode_percent: 0,
        data_blocks: 0,
        rest: [0; 9],
    };
    let fd = directory.as_raw_fd();
    // SAFETY: the kernel writes one `struct xfs_fsop_geom_v1`, for which there is room.
    check(unsafe { libc::ioctl(fd, XFS_IOC_FSGEOMETRY_V1, &raw mut geometry) })?;
    let new_blocks = bytes / u64::from(geometry.block_size.max(1));
    if new_blocks <= geometry.data_blocks {
        return Ok(());
    }
    let data = GrowData {
        new_blocks,
        inode_percent: geometry.inode_percent,
    };
    // SAFETY: the kernel reads one `struct xfs_growfs_data`.
    check(unsafe { libc::ioctl(fd, XFS_IOC_FSGROWFSDATA, &raw const data) }).map(drop)
}
