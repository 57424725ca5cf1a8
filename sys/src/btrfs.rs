//! Subvolumes of btrfs: directories that are copied at once and limited each for itself
//! (`linux/btrfs.h`).

use std::ffi::{CStr, c_void};
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

use rustix::io::Errno;

use crate::check;

const MAGIC: u32 = 0x9123_683e;
/// Inode of every subvolume's top directory (`BTRFS_FIRST_FREE_OBJECTID`).
const TOP_INODE: u64 = 256;

// _IOW(0x94, 14, 15 and 23, 4096 bytes), _IOWR(0x94, 18, 4096 bytes), _IOWR(0x94, 40, 16 bytes),
// _IOR(0x94, 43, 48 bytes).
const SUBVOL_CREATE: libc::Ioctl = 0x5000_940e;
const SNAP_DESTROY: libc::Ioctl = 0x5000_940f;
const SNAP_CREATE_V2: libc::Ioctl = 0x5000_9417;
const INO_LOOKUP: libc::Ioctl = 0xd000_9412;
const QUOTA_CTL: libc::Ioctl = 0xc010_9428;
const QGROUP_LIMIT: libc::Ioctl = 0x8030_942b;
const QUOTA_ENABLE: u64 = 1;
const LIMIT_MAX_REFERENCED: u64 = 1;

/// `struct btrfs_ioctl_vol_args`.
#[repr(C)]
struct NameArgs {
    fd: i64,
    name: [u8; 4088],
}

/// `struct btrfs_ioctl_vol_args_v2`.
#[repr(C)]
struct SnapshotArgs {
    fd: i64,
    generation: u64,
    flags: u64,
    unused: [u64; 4],
    name: [u8; 4040],
}

/// `struct btrfs_ioctl_ino_lookup_args`.
#[repr(C)]
struct LookupArgs {
    tree: u64,
    object: u64,
    name: [u8; 4080],
}

/// `struct btrfs_ioctl_quota_ctl_args`.
#[repr(C)]
struct QuotaArgs {
    command: u64,
    status: u64,
}

/// `struct btrfs_ioctl_qgroup_limit_args`.
#[repr(C)]
struct LimitArgs {
    group: u64,
    flags: u64,
    max_referenced: u64,
    max_exclusive: u64,
    reserved_referenced: u64,
    reserved_exclusive: u64,
}

const _: () = assert!(
    size_of::<NameArgs>() == 4096
        && size_of::<SnapshotArgs>() == 4096
        && size_of::<LookupArgs>() == 4096
        && size_of::<QuotaArgs>() == 16
        && size_of::<LimitArgs>() == 48
);

/// Whether a directory lies on btrfs.
///
/// # Errors
/// The kernel's.
pub fn is_btrfs(directory: BorrowedFd<'_>) -> io::Result<bool> {
    // The type of `f_type` differs between architectures; the magic is 32 bits.
    Ok(rustix::fs::fstatfs(directory)?.f_type as u32 == MAGIC)
}

/// Whether a directory is the top of a subvolume.
///
/// # Errors
/// The kernel's.
pub fn is_subvolume(directory: BorrowedFd<'_>) -> io::Result<bool> {
    Ok(rustix::fs::fstat(directory)?.st_ino == TOP_INODE && is_btrfs(directory)?)
}

/// Makes an empty subvolume.
///
/// # Errors
/// The kernel's.
pub fn create(parent: BorrowedFd<'_>, name: &CStr) -> io::Result<()> {
    let args = named(name)?;
    // SAFETY: the kernel reads one `struct btrfs_ioctl_vol_args`.
    unsafe { ioctl(parent, SUBVOL_CREATE, std::ptr::from_ref(&args).cast()) }
}

/// Makes a subvolume that holds what `source` does; it can be written to.
///
/// # Errors
/// The kernel's.
pub fn snapshot(source: BorrowedFd<'_>, parent: BorrowedFd<'_>, name: &CStr) -> io::Result<()> {
    let mut args = SnapshotArgs {
        fd: source.as_raw_fd().into(),
        generation: 0,
        flags: 0,
        unused: [0; 4],
        name: [0; 4040],
    };
    fill(&mut args.name, name)?;
    // SAFETY: the kernel reads one `struct btrfs_ioctl_vol_args_v2`; the descriptor in it is open
    // during the call.
    unsafe { ioctl(parent, SNAP_CREATE_V2, std::ptr::from_ref(&args).cast()) }
}

/// Deletes a subvolume with all it holds.
///
/// # Errors
/// `ENOTEMPTY` when it holds another subvolume.
pub fn destroy(parent: BorrowedFd<'_>, name: &CStr) -> io::Result<()> {
    let args = named(name)?;
    // SAFETY: the kernel reads one `struct btrfs_ioctl_vol_args`.
    unsafe { ioctl(parent, SNAP_DESTROY, std::ptr::from_ref(&args).cast()) }
}

/// Limits the bytes that a subvolume may hold, with those it shares. Switches counting on for the
/// whole filesystem when it is off.
///
/// # Errors
/// The kernel's.
pub fn set_limit(subvolume: BorrowedFd<'_>, bytes: u64) -> io::Result<()> {
    let mut quota = QuotaArgs {
        command: QUOTA_ENABLE,
        status: 0,
    };
    // SAFETY: the kernel reads and writes one `struct btrfs_ioctl_quota_ctl_args`.
    match unsafe { ioctl(subvolume, QUOTA_CTL, std::ptr::from_mut(&mut quota).cast()) } {
        // On already.
        Err(error) if error.raw_os_error() == Some(libc::EEXIST) => {}
        result => result?,
    }
    let limit = LimitArgs {
        group: subvolume_id(subvolume)?,
        flags: LIMIT_MAX_REFERENCED,
        max_referenced: bytes,
        max_exclusive: 0,
        reserved_referenced: 0,
        reserved_exclusive: 0,
    };
    // SAFETY: the kernel reads one `struct btrfs_ioctl_qgroup_limit_args`.
    unsafe { ioctl(subvolume, QGROUP_LIMIT, std::ptr::from_ref(&limit).cast()) }
}

fn subvolume_id(subvolume: BorrowedFd<'_>) -> io::Result<u64> {
    let mut args = LookupArgs {
        tree: 0,
        object: TOP_INODE,
        name: [0; 4080],
    };
    // SAFETY: the kernel reads and writes one `struct btrfs_ioctl_ino_lookup_args`.
    unsafe { ioctl(subvolume, INO_LOOKUP, std::ptr::from_mut(&mut args).cast())? };
    Ok(args.tree)
}

fn named(name: &CStr) -> io::Result<NameArgs> {
    let mut args = NameArgs {
        fd: 0,
        name: [0; 4088],
    };
    fill(&mut args.name, name)?;
    Ok(args)
}

fn fill(field: &mut [u8], name: &CStr) -> io::Result<()> {
    let bytes = name.to_bytes_with_nul();
    let field = field.get_mut(..bytes.len()).ok_or(Errno::NAMETOOLONG)?;
    field.copy_from_slice(bytes);
    Ok(())
}

/// # Safety
/// `argument` is what `request` takes, valid for reading and, where the request writes, for writing.
unsafe fn ioctl(
    directory: BorrowedFd<'_>,
    request: libc::Ioctl,
    argument: *const c_void,
) -> io::Result<()> {
    // SAFETY: as the caller promises.
    check(unsafe { libc::ioctl(directory.as_raw_fd(), request, argument) }).map(drop)
}
