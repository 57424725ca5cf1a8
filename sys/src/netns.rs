//! Network namespaces by file descriptor.
//!
//! `setns` moves one thread, so nothing here moves the caller's: [`NetNs::run`] does the work on a
//! short-lived thread of its own. A socket belongs to the namespace it was opened in for its whole
//! life, so the usual work inside is just opening one.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::thread;

use rustix::fs::{Mode, OFlags};
use rustix::thread::{LinkNameSpaceType, UnshareFlags};

use crate::check;

/// Which namespace a file names: nsfs device and inode, unique while the namespace lives.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NsId {
    pub device: u64,
    pub inode: u64,
}

/// An open network namespace; keeps it alive.
#[derive(Debug)]
pub struct NetNs {
    file: OwnedFd,
    id: NsId,
}

impl NetNs {
    /// Opens the namespace that `path` names.
    ///
    /// # Errors
    /// The error of `open(2)`, or `InvalidInput` when the file is no network namespace.
    pub fn open(path: &Path) -> io::Result<Self> {
        // Not blocking: the path comes from a client and may name a FIFO.
        let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK;
        Self::from_file(rustix::fs::open(path, flags, Mode::empty())?)
    }

    /// The namespace of the calling thread.
    ///
    /// # Errors
    /// The error of `open(2)`: `/proc` is not mounted.
    pub fn current() -> io::Result<Self> {
        Self::open(Path::new("/proc/thread-self/ns/net"))
    }

    /// A new, empty namespace, which lives as long as this value or anything opened from it.
    ///
    /// # Errors
    /// The error of `unshare(2)`: usually a missing `CAP_SYS_ADMIN`.
    pub fn create() -> io::Result<Self> {
        on_thread("netns-create", || {
            // SAFETY: the one hazard of unshare is other code that expects this thread to share
            // its resources (`CLONE_FILES` above all). Only the network namespace is unshared, and
            // the thread ends here without running anything else.
            unsafe { rustix::thread::unshare_unsafe(UnshareFlags::NEWNET)? };
            Self::current()
        })?
    }

    pub fn id(&self) -> NsId {
        self.id
    }

    /// Runs `work` inside the namespace, on a thread that ends with it.
    ///
    /// # Errors
    /// The error of `setns(2)` or of starting the thread.
    pub fn run<T: Send>(&self, work: impl FnOnce() -> T + Send) -> io::Result<T> {
        on_thread("netns", || {
            self.enter()?;
            Ok(work())
        })?
    }

    /// Moves the calling thread into the namespace, for good: it and the threads it starts.
    ///
    /// # Errors
    /// The error of `setns(2)`.
    pub fn enter(&self) -> io::Result<()> {
        let kind = Some(LinkNameSpaceType::Network);
        rustix::thread::move_into_link_name_space(self.file.as_fd(), kind)?;
        Ok(())
    }

    fn from_file(file: OwnedFd) -> io::Result<Self> {
        if !is_net_namespace(file.as_fd()) {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                "not a network namespace",
            ));
        }
        let stat = rustix::fs::fstat(&file)?;
        let id = NsId {
            device: stat.st_dev,
            inode: stat.st_ino,
        };
        Ok(Self { file, id })
    }
}

impl AsFd for NetNs {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

/// The namespace that `path` names now, without opening it; `None` when there is no such file.
///
/// # Errors
/// The error of `stat(2)` other than a missing file.
pub fn identify(path: &Path) -> io::Result<Option<NsId>> {
    match rustix::fs::stat(path) {
        Ok(stat) => Ok(Some(NsId {
            device: stat.st_dev,
            inode: stat.st_ino,
        })),
        // ESRCH: /proc/PID/ns/net of a process that is a zombie.
        Err(rustix::io::Errno::NOENT | rustix::io::Errno::NOTDIR | rustix::io::Errno::SRCH) => {
            Ok(None)
        }
        Err(error) => Err(error.into()),
    }
}

/// `SO_NETNS_COOKIE` (Linux 5.14): the number by which eBPF programs know the namespace that
/// `socket` belongs to. Cookies are never reused before a reboot.
///
/// # Errors
/// `ENOPROTOOPT` on older kernels.
pub fn cookie(socket: BorrowedFd<'_>) -> io::Result<u64> {
    // include/uapi/asm-generic/socket.h; the libc crate has no name for it.
    const SO_NETNS_COOKIE: libc::c_int = 71;
    let mut cookie = 0u64;
    let mut length = libc::socklen_t::try_from(size_of::<u64>()).expect("8 fits");
    // SAFETY: the descriptor is open for the borrow; `cookie` and `length` are valid, aligned and
    // writable for the call, and `length` holds the size of `cookie`.
    let done = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            SO_NETNS_COOKIE,
            (&raw mut cookie).cast(),
            &raw mut length,
        )
    };
    check(done).map(|_zero| cookie)
}

fn is_net_namespace(file: BorrowedFd<'_>) -> bool {
    // ioctl_ns(2): `_IO(0xb7, 0x3)`.
    const NS_GET_NSTYPE: libc::c_ulong = 0xb703;
    // Other files may give the same ioctl number another meaning, so the filesystem goes first.
    const NSFS_MAGIC: i64 = 0x6e73_6673;
    let on_nsfs = rustix::fs::fstatfs(file).is_ok_and(|stat| stat.f_type == NSFS_MAGIC);
    // SAFETY: the descriptor is open for the borrow, and this request takes no argument.
    on_nsfs && unsafe { libc::ioctl(file.as_raw_fd(), NS_GET_NSTYPE) } == libc::CLONE_NEWNET
}

fn on_thread<T: Send>(name: &str, work: impl FnOnce() -> T + Send) -> io::Result<T> {
    thread::scope(|scope| {
        let worker = thread::Builder::new()
            .name(name.to_owned())
            .spawn_scoped(scope, work)?;
        Ok(worker
            .join()
            .unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::UdpSocket;

    #[test]
    fn work_runs_inside_and_the_caller_stays_outside() {
        let before = NetNs::current().unwrap().id();
        let created = NetNs::create().expect("root is needed to create a network namespace");
        let inside = created.run(|| NetNs::current().unwrap().id()).unwrap();
        assert_eq!(inside, created.id());
        assert_ne!(inside, before);
        assert_eq!(NetNs::current().unwrap().id(), before);
    }

    #[test]
    fn a_cookie_tells_namespaces_apart() {
        let created = NetNs::create().expect("root is needed to create a network namespace");
        let socket = || UdpSocket::bind("0.0.0.0:0").unwrap();
        if !crate::kernel::is_linux(5, 14) {
            let error = cookie(socket().as_fd()).unwrap_err();
            assert_eq!(error.raw_os_error(), Some(libc::ENOPROTOOPT));
            return;
        }
        let inside = created.run(|| cookie(socket().as_fd()).unwrap()).unwrap();
        assert_eq!(
            inside,
            created.run(|| cookie(socket().as_fd()).unwrap()).unwrap()
        );
        assert_ne!(inside, cookie(socket().as_fd()).unwrap());
    }

    #[test]
    fn other_files_are_refused() {
        for path in ["/dev/null", "/proc/self/ns/mnt", "/etc"] {
            let error = NetNs::open(Path::new(path)).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::InvalidInput, "{path}");
        }
        assert_eq!(identify(Path::new("/proc/self/ns/none")).unwrap(), None);
    }
}
