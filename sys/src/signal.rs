//! Signals to processes that a recycled pid cannot impersonate, and the signal mask of programs
//! that run others.

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command};
use std::ptr;

use crate::check;

/// Sends a signal, real-time ones included, to the process of a pidfd.
///
/// # Errors
/// `ESRCH` when the process is gone, `EINVAL` for an unknown number.
pub fn send(pidfd: BorrowedFd<'_>, signal: i32) -> io::Result<()> {
    // SAFETY: pidfd_send_signal(2) reads no memory when the siginfo pointer is null; the descriptor
    // is borrowed, hence open.
    let outcome = unsafe {
        libc::syscall(
            libc::SYS_pidfd_send_signal,
            pidfd.as_raw_fd(),
            signal,
            ptr::null::<libc::siginfo_t>(),
            0,
        )
    };
    check(outcome).map(drop)
}

/// Empties this thread's signal mask. A mask is inherited through exec, also by `std::process`, and
/// a program that is started with SIGTERM blocked cannot be asked to end.
///
/// # Errors
/// As pthread_sigmask(3).
pub fn unblock_all() -> io::Result<()> {
    let mut none = MaybeUninit::uninit();
    // SAFETY: sigemptyset initialises the set it is given, which pthread_sigmask only reads; a null
    // pointer means that the old mask is not wanted.
    let error = unsafe {
        libc::sigemptyset(none.as_mut_ptr());
        libc::pthread_sigmask(libc::SIG_SETMASK, none.as_ptr(), ptr::null_mut())
    };
    if error == 0 {
        Ok(())
    } else {
        Err(io::Error::from_raw_os_error(error))
    }
}

/// Starts a program with an empty signal mask, whatever this process's own is: std leaves a mask as
/// it is, and a program that is started with signals blocked cannot be asked to end by them.
///
/// # Errors
/// As [`Command::spawn`].
pub fn spawn_unblocked(command: &mut Command) -> io::Result<Child> {
    // SAFETY: what runs between fork and exec is `unblock_all`, which calls sigemptyset(3) and
    // pthread_sigmask(3) only. Both are async-signal-safe, and nothing is allocated or locked.
    unsafe { command.pre_exec(unblock_all) }.spawn()
}

/// The same, in a session of its own: no signal to whoever started it reaches it.
///
/// # Errors
/// As [`Command::spawn`].
pub fn spawn_apart(command: &mut Command) -> io::Result<Child> {
    let lead = || Ok(rustix::process::setsid().map(drop)?);
    // SAFETY: what runs between fork and exec is setsid(2), which is async-signal-safe; nothing is
    // allocated or locked.
    spawn_unblocked(unsafe { command.pre_exec(lead) })
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;

    use rustix::process::{PidfdFlags, getpid, pidfd_open};

    use super::*;

    #[test]
    fn a_bad_number_is_an_error() {
        let me = pidfd_open(getpid(), PidfdFlags::empty()).unwrap();
        send(me.as_fd(), 0).unwrap();
        assert_eq!(
            send(me.as_fd(), 1000).unwrap_err().raw_os_error(),
            Some(libc::EINVAL)
        );
    }

    #[test]
    fn an_empty_mask_blocks_nothing() {
        // A thread of its own, for the mask is the thread's.
        let mask = || {
            let status = std::fs::read_to_string("/proc/thread-self/status").unwrap();
            let line = status
                .lines()
                .find(|line| line.starts_with("SigBlk:"))
                .unwrap();
            line.split_whitespace().last().unwrap().to_owned()
        };
        let worker = std::thread::spawn(move || {
            let _signals = crate::signalfd::SignalFd::block(&[libc::SIGTERM]).unwrap();
            let blocked = mask();
            unblock_all().unwrap();
            (blocked, mask())
        });
        let (blocked, after) = worker.join().unwrap();
        assert_ne!(blocked, after);
        assert_eq!(after, "0000000000000000");
    }
}
