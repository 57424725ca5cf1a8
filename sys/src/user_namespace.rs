//! User namespaces that no process lives in: they say whom files belong to on a mount.

use std::fs;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};

use rustix::fs::{Mode, OFlags};

use crate::check;

/// A new user namespace with these maps (user_namespaces(7)). It lives as long as the descriptor or
/// anything that was made with it.
///
/// # Errors
/// `ENOSPC` beyond `/proc/sys/user/max_user_namespaces`, `EINVAL` or `EPERM` for maps that the kernel
/// refuses.
pub fn create(uid_map: &str, gid_map: &str) -> io::Result<OwnedFd> {
    let (held, ours) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)?;
    let none = std::ptr::null_mut::<libc::c_void>();
    // SAFETY: clone(2) without CLONE_VM and without a stack of its own returns twice, as fork(2)
    // does. This process may have other threads, so that the child does nothing but system calls:
    // it allocates nothing and takes no lock.
    let pid =
        check(unsafe { libc::syscall(libc::SYS_clone, libc::CLONE_NEWUSER, none, none, none, 0) })?;
    if pid == 0 {
        wait_for_end(held.as_raw_fd(), ours.as_raw_fd());
    }
    drop(held);
    let opened = fill(pid, uid_map, gid_map);
    // The child reads the end of the pipe, and ends.
    drop(ours);
    reap(pid)?;
    opened
}

/// The life of the process that holds the namespace until it is opened: as long as its parent, at
/// most.
fn wait_for_end(held: i32, ours: i32) -> ! {
    let mut byte = 0_u8;
    // SAFETY: the child has a copy of the descriptor, and nothing that owns it is used after.
    unsafe { libc::close(ours) };
    // SAFETY: read(2) into one byte of this stack.
    unsafe { libc::read(held, (&raw mut byte).cast(), 1) };
    // SAFETY: _exit(2) has no obligations. Nothing of the parent is flushed or dropped.
    unsafe { libc::_exit(0) }
}

fn fill(pid: i64, uid_map: &str, gid_map: &str) -> io::Result<OwnedFd> {
    // One write(2) each: a map can be written once.
    fs::write(format!("/proc/{pid}/uid_map"), uid_map)?;
    fs::write(format!("/proc/{pid}/gid_map"), gid_map)?;
    let flags = OFlags::RDONLY | OFlags::CLOEXEC;
    let path = format!("/proc/{pid}/ns/user");
    Ok(rustix::fs::open(path, flags, Mode::empty())?)
}

fn reap(pid: i64) -> io::Result<()> {
    let pid = libc::pid_t::try_from(pid).map_err(io::Error::other)?;
    loop {
        // Made without a signal for its end, it is invisible to those who wait for any child.
        // SAFETY: waitpid(2) without a place for the status.
        match check(unsafe { libc::waitpid(pid, std::ptr::null_mut(), libc::__WALL) }) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            ended => return ended.map(drop),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn maps_are_as_asked_and_bad_ones_are_refused() {
        let one = create("0 100000 65536\n", "0 200000 10\n10 5 1\n").unwrap();
        let link = fs::read_link(format!("/proc/self/fd/{}", one.as_raw_fd())).unwrap();
        assert!(link.to_str().unwrap().starts_with("user:["), "{link:?}");
        assert!(create("0 0 0\n", "0 0 1\n").is_err());
    }
}
