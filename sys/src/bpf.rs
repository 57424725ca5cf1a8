//! What the eBPF loader's library does not tell of links and maps.

pub mod device;
pub mod map;
pub mod probe;
pub mod program;
pub mod tracepoint;

use std::ffi::CString;
use std::io;
use std::mem::size_of;
use std::os::fd::{AsFd as _, AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd};
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

/// The beginning of `struct bpf_link_info`, with the beginning of its union: the number of what the
/// program is attached to, where that is a cgroup (64 bits) or, by XDP, an interface (32).
#[repr(C)]
#[derive(Default)]
struct LinkInfo {
    kind: u32,
    id: u32,
    prog_id: u32,
    _pad: u32,
    target: u64,
    _tail: [u32; 2],
}

/// Whether the link of a program to a cgroup, or by XDP to an interface, that is pinned at `path` is
/// attached still: somebody may detach it (`bpftool link detach`), or remove what it is attached to,
/// and the pin stays all the same.
///
/// # Errors
/// Of opening the pin, `NotFound` when there is none, and of asking for the link.
pub fn is_link_attached(path: &Path) -> io::Result<bool> {
    let link = open(path)?;
    let mut info = LinkInfo::default();
    let ask = ObjectInfo {
        bpf_fd: number(link.as_fd())?,
        info_len: u32::try_from(size_of::<LinkInfo>()).map_err(io::Error::other)?,
        info: (&raw mut info) as u64,
    };
    // SAFETY: the kernel writes at most `info_len` bytes to `info`, which is as long and outlives
    // the call.
    unsafe { call(BPF_OBJ_GET_INFO_BY_FD, &ask) }?;
    // `bpf_cgroup_link_fill_link_info`, kernel/bpf/cgroup.c, and `bpf_xdp_link_fill_link_info`,
    // net/core/dev.c: neither has the number zero.
    Ok(info.target != 0)
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
        link_fd: number(link)?,
    };
    // SAFETY: the attributes hold no address.
    unsafe { call(BPF_LINK_DETACH, &detach) }.map(drop)
}

/// Opens what is pinned at `path`.
///
/// # Errors
/// Of the kernel, `NotFound` when nothing is.
pub fn open(path: &Path) -> io::Result<OwnedFd> {
    let path = CString::new(path.as_os_str().as_bytes())?;
    let get = ObjectPath {
        pathname: path.as_ptr() as u64,
        bpf_fd: 0,
        file_flags: 0,
    };
    // SAFETY: the path ends with a zero and outlives the call.
    let object = unsafe { call(BPF_OBJ_GET, &get) }?;
    let object = libc::c_int::try_from(object).map_err(io::Error::other)?;
    // SAFETY: BPF_OBJ_GET returns a new descriptor, which nobody else owns.
    Ok(unsafe { OwnedFd::from_raw_fd(object) })
}

/// Waits until every run of a program is over that was under way.
///
/// # Errors
/// Never on kernels that wait for them at all; those for isolated CPUs (`nohz_full`) are given more
/// time than any run takes.
pub fn wait_for_programs() -> io::Result<()> {
    const MEMBARRIER_CMD_GLOBAL: libc::c_int = 1;
    // SAFETY: the call takes no address. It is `synchronize_rcu` (kernel/sched/membarrier.c), and
    // programs run in RCU's read-side critical sections.
    let result = unsafe { libc::syscall(libc::SYS_membarrier, MEMBARRIER_CMD_GLOBAL, 0, 0) };
    if result == 0 {
        return Ok(());
    }
    let error = io::Error::last_os_error();
    if error.raw_os_error() != Some(libc::EINVAL) {
        return Err(error);
    }
    std::thread::sleep(std::time::Duration::from_millis(200));
    Ok(())
}

/// The time that programs know (`bpf_ktime_get_ns`), in nanoseconds.
pub fn now() -> u64 {
    let mut now = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: `now` outlives the call. The clock is always there, so that it cannot fail.
    unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &raw mut now) };
    now.tv_sec as u64 * 1_000_000_000 + now.tv_nsec as u64
}

/// A descriptor as the attributes hold it.
fn number(descriptor: BorrowedFd<'_>) -> io::Result<u32> {
    u32::try_from(descriptor.as_raw_fd()).map_err(io::Error::other)
}

/// # Safety
/// `T` is a prefix of the member of `union bpf_attr` for `command`, without padding, and the
/// addresses in it are good for what the kernel reads and writes there.
unsafe fn call<T>(command: libc::c_int, attributes: *const T) -> io::Result<libc::c_long> {
    // SAFETY: the kernel reads `size_of::<T>()` bytes of the attributes, all of which are
    // initialised, and takes absent members for zero; the rest is the caller's promise.
    let result = unsafe { libc::syscall(libc::SYS_bpf, command, attributes, size_of::<T>()) };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(result)
}

#[cfg(test)]
mod tests {
    use std::fs::File;

    use super::*;

    #[test]
    fn many_entries_are_written_and_removed_at_once() {
        let shape = |kind| map::Shape {
            kind,
            key_size: 4,
            value_size: 8,
            max_entries: 100,
            flags: 0,
        };
        let keys: Vec<u8> = (1..=60_u32).flat_map(u32::to_ne_bytes).collect();
        let values: Vec<u8> = (1..=60_u64).flat_map(|n| (n * 10).to_ne_bytes()).collect();
        for kind in [map::BPF_MAP_TYPE_HASH, map::BPF_MAP_TYPE_ARRAY] {
            let map = map::create(shape(kind)).unwrap();
            let map = map.as_fd();
            let read = |key: u32| map::value(map, &key.to_ne_bytes()).unwrap();
            map::write_all(map, &keys, &values).unwrap();
            map::write_all(map, &[], &[]).unwrap();
            assert_eq!(read(60), Some(600_u64.to_ne_bytes().to_vec()));
            map::write_all(map, &keys, &values[8..]).unwrap_err();
            map::remove_all(map, &keys[1..]).unwrap_err();
        }
        let hash = map::create(shape(map::BPF_MAP_TYPE_HASH)).unwrap();
        let hash = hash.as_fd();
        map::write_all(hash, &keys, &values).unwrap();
        for lacking in [1, 30, 60_u32] {
            map::remove(hash, &lacking.to_ne_bytes()).unwrap();
        }
        map::remove_all(hash, &keys[..59 * 4]).unwrap();
        assert_eq!(map::count(hash).unwrap(), 0);
        map::remove_all(hash, &keys).unwrap();
    }

    #[test]
    fn what_is_no_link_is_refused() {
        let file = File::open("/dev/null").unwrap();
        let error = detach_link(file.as_fd()).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::EINVAL));
    }
}
