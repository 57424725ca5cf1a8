//! Signals as a file descriptor (signalfd(2)), for programs that wait in poll(2).

use std::fs::File;
use std::io::{self, Read};
use std::mem::{MaybeUninit, size_of};
use std::os::fd::{AsFd, BorrowedFd, FromRawFd, OwnedFd};

/// Signals that are blocked in the calling thread and read from here instead.
///
/// Meant for single-threaded programs: the mask of threads that run already is not changed. Child
/// processes inherit the mask, so children that should die of these signals are started before.
#[derive(Debug)]
pub struct SignalFd {
    file: File,
}

impl SignalFd {
    /// Blocks `signals` and delivers them here. A signal number that does not exist is an error.
    ///
    /// # Errors
    /// `EINVAL` for a bad number; otherwise as signalfd(2).
    pub fn block(signals: &[i32]) -> io::Result<Self> {
        let set = signal_set(signals)?;
        // SAFETY: `set` was initialised by `signal_set`; the old mask is not asked for.
        let error = unsafe { libc::pthread_sigmask(libc::SIG_BLOCK, &set, std::ptr::null_mut()) };
        if error != 0 {
            return Err(io::Error::from_raw_os_error(error));
        }
        // SAFETY: `set` was initialised by `signal_set`; -1 asks for a new descriptor.
        let fd = unsafe { libc::signalfd(-1, &set, libc::SFD_CLOEXEC | libc::SFD_NONBLOCK) };
        let fd = crate::check(fd)?;
        // SAFETY: signalfd returned a new descriptor that nobody else owns.
        let fd = unsafe { OwnedFd::from_raw_fd(fd) };
        Ok(Self { file: fd.into() })
    }

    /// The next pending signal; `None` when there is none now.
    ///
    /// # Errors
    /// As read(2).
    #[expect(
        clippy::should_implement_trait,
        reason = "an iterator would end where this only has nothing now"
    )]
    pub fn next(&mut self) -> io::Result<Option<i32>> {
        const LENGTH: usize = size_of::<libc::signalfd_siginfo>();
        let mut info = [0u8; LENGTH];
        match self.file.read(&mut info) {
            // `ssi_signo` is the first member, a u32 (signalfd(2)).
            Ok(LENGTH) => {
                let number = u32::from_ne_bytes([info[0], info[1], info[2], info[3]]);
                Ok(i32::try_from(number).ok())
            }
            Ok(_) => Err(io::ErrorKind::UnexpectedEof.into()),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(None),
            Err(error) => Err(error),
        }
    }
}

impl AsFd for SignalFd {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

fn signal_set(signals: &[i32]) -> io::Result<libc::sigset_t> {
    let mut set = MaybeUninit::uninit();
    // SAFETY: sigemptyset initialises the set it is given and cannot fail on a valid pointer.
    let mut set = unsafe {
        libc::sigemptyset(set.as_mut_ptr());
        set.assume_init()
    };
    for signal in signals {
        // SAFETY: `set` is initialised; a bad number is reported, not undefined.
        if unsafe { libc::sigaddset(&mut set, *signal) } != 0 {
            return Err(io::Error::last_os_error());
        }
    }
    Ok(set)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_blocked_signal_is_read_and_does_not_kill() {
        // A signal for this thread alone, so that the test runner's other threads do not see it.
        std::thread::spawn(|| {
            let mut signals = SignalFd::block(&[libc::SIGUSR1]).unwrap();
            assert_eq!(signals.next().unwrap(), None);
            // SAFETY: pthread_self is this running thread.
            let sent = unsafe { libc::pthread_kill(libc::pthread_self(), libc::SIGUSR1) };
            assert_eq!(sent, 0);
            assert_eq!(signals.next().unwrap(), Some(libc::SIGUSR1));
        })
        .join()
        .unwrap();
    }

    #[test]
    fn an_impossible_signal_is_refused() {
        assert!(SignalFd::block(&[9999]).is_err());
    }
}
