//! What the eBPF loader's library does not tell of links.

use std::ffi::CString;
use std::io;
use std::mem::size_of;
use std::os::fd::{AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

// include/uapi/linux/bpf.h
const BPF_OBJ_GET: libc::c_int = 7;
const BPF_OBJ_GET_INFO_BY_FD: libc::c_int = 15;
const BPF_LINK_DETACH: libc::c_int = 34;

/// The member of `union bpf_attr` for `BPF_OBJ_GET`, as far as it has to be given.
#[repr(C)]
struct ObjectPath {
    pathname: u64,
    bpf_fd: u32,
    file_flags: u32,
}

/// That for `BPF_OBJ_GET_INFO_BY_FD`.
#[repr(C)]
struct ObjectInfo {
    bpf_fd: u32,
    info_len: u32,
    info: u64,
}

/// That for `BPF_LINK_DETACH`.
#[repr(C)]
struct LinkDetach {
    link_fd: u32,
}

/// The beginning of `struct bpf_link_info`, with the member of its union for a cgroup's link.
#[repr(C)]
#[derive(Default)]
struct CgroupLinkInfo {
    kind: u32,
    id: u32,
    prog_id: u32,
    _pad: u32,
    cgroup_id: u64,
    attach_type: u32,
    _tail: u32,
}

/// Whether the link of a program to a cgroup that is pinned at `path` is attached still: somebody
/// may detach it (`bpftool link detach`), or remove the cgroup, and the pin stays all the same.
///
/// # Errors
/// Of opening the pin, `NotFound` when there is none, and of asking for the link.
pub fn is_cgroup_link_attached(path: &Path) -> io::Result<bool> {
    let path = CString::new(path.as_os_str().as_bytes())?;
    let get = ObjectPath {
        pathname: path.as_ptr() as u64,
        bpf_fd: 0,
        file_flags: 0,
    };
    let link = call(BPF_OBJ_GET, &get)?;
    let link = libc::c_int::try_from(link).map_err(io::Error::other)?;
    // SAFETY: BPF_OBJ_GET returns a new descriptor, which nobody else owns.
    let link = unsafe { OwnedFd::from_raw_fd(link) };
    let mut info = CgroupLinkInfo::default();
    let ask = ObjectInfo {
        bpf_fd: u32::try_from(link.as_raw_fd()).map_err(io::Error::other)?,
        info_len: u32::try_from(size_of::<CgroupLinkInfo>()).map_err(io::Error::other)?,
        info: (&raw mut info) as u64,
    };
    call(BPF_OBJ_GET_INFO_BY_FD, &ask)?;
    // `bpf_cgroup_link_fill_link_info`, kernel/bpf/cgroup.c: no cgroup has the number zero.
    Ok(info.cgroup_id != 0)
}

/// Detaches the program of a link, whoever else holds the link (Linux 5.9).
///
/// A link also ends with its last reference, but the one of a pin is given back some time after the
/// pin is removed: until then the program is still attached, and cannot be attached again.
///
/// # Errors
/// Of the kernel: `EINVAL` when the descriptor is no link, `EOPNOTSUPP` for a kind of link that
/// only ends with its last reference. One whose target is gone is detached already, and no error.
pub fn detach_link(link: BorrowedFd<'_>) -> io::Result<()> {
    let detach = LinkDetach {
        link_fd: u32::try_from(link.as_raw_fd()).map_err(io::Error::other)?,
    };
    call(BPF_LINK_DETACH, &detach).map(drop)
}

fn call<T>(command: libc::c_int, attributes: &T) -> io::Result<libc::c_long> {
    // SAFETY: the kernel reads `size_of::<T>()` bytes of the attributes, all of which are
    // initialised, and takes absent members for zero. The addresses in them are of a string that
    // ends with a zero, and of a `CgroupLinkInfo`, both of which outlive the call; the kernel writes
    // no more of the latter than the length given.
    let result = unsafe {
        libc::syscall(
            libc::SYS_bpf,
            command,
            std::ptr::from_ref(attributes),
            size_of::<T>(),
        )
    };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(result)
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::os::fd::AsFd as _;

    use super::*;

    #[test]
    fn what_is_no_link_is_refused() {
        let file = File::open("/dev/null").unwrap();
        let error = detach_link(file.as_fd()).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::EINVAL));
    }
}
