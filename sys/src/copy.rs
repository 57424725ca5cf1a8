//! A function run in a throw-away copy of this process.
//!
//! For libraries that change the process they run in (working directory, dumpable flag, clones of
//! themselves) when a program of its own would cost more to start than it works: a copy shares the
//! memory until it writes, an exec maps and relocates everything anew.

use std::ffi::OsString;
use std::fs;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, RawFd};
use std::os::unix::process::ExitStatusExt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::ExitStatus;

use crate::check;

/// The descriptor that a copy is handed beside its streams.
pub const HANDED: RawFd = 3;

/// Exit code of a copy that panicked, as of a Rust program that does.
const EXIT_PANIC: i32 = 101;

/// Runs `main` with `arguments` in a copy of this process and waits for it. The copy has `streams`
/// as its descriptors 0 to 2, `handed` as [`HANDED`], and no others, like a program that was
/// executed; its exit status is what `main` returns, modulo 256.
///
/// `main` gets no more than words because whatever else it might be given could own a descriptor,
/// and in the copy these are closed.
///
/// # Errors
/// `EDEADLK` when this process has other threads: their locks would stay locked in the copy. Else as
/// fork(2) and waitpid(2).
pub fn run(
    streams: [BorrowedFd<'_>; 3],
    handed: Option<BorrowedFd<'_>>,
    main: fn(Vec<OsString>) -> i32,
    arguments: Vec<OsString>,
) -> io::Result<ExitStatus> {
    if fs::read_dir("/proc/self/task")?.count() != 1 {
        return Err(io::Error::from_raw_os_error(libc::EDEADLK));
    }
    // SAFETY: there is one thread, so the copy is whole: no lock is held by a thread that it lacks.
    match check(unsafe { libc::fork() })? {
        0 => {
            let taken: Vec<RawFd> = streams
                .into_iter()
                .chain(handed)
                .map(|taken| taken.as_raw_fd())
                .collect();
            let code = be_copy(&taken, main, arguments);
            // SAFETY: _exit(2) has no obligations. Nothing of the original is flushed or dropped.
            unsafe { libc::_exit(code) }
        }
        pid => wait(pid),
    }
}

fn be_copy(taken: &[RawFd], main: fn(Vec<OsString>) -> i32, arguments: Vec<OsString>) -> i32 {
    let work = AssertUnwindSafe(|| match take(taken) {
        Ok(()) => main(arguments),
        Err(error) => error.raw_os_error().unwrap_or(EXIT_PANIC),
    });
    // The message of the panic is on standard error.
    catch_unwind(work).unwrap_or(EXIT_PANIC)
}

/// Makes `taken` the first descriptors and closes all others.
fn take(taken: &[RawFd]) -> io::Result<()> {
    let mut held = Vec::with_capacity(taken.len());
    for taken in taken {
        // Above all of them first: it may itself be one of the numbers that others are to get.
        // SAFETY: the descriptor was borrowed when the copy was made, so it is open here, too.
        held.push(check(unsafe {
            libc::fcntl(*taken, libc::F_DUPFD_CLOEXEC, HANDED + 1)
        })?);
    }
    for (number, held) in (0..).zip(held) {
        // SAFETY: `held` is open; what `number` was is the copy's own to replace.
        check(unsafe { libc::dup2(held, number) })?;
    }
    let first = libc::c_uint::try_from(taken.len()).map_err(io::Error::other)?;
    // SAFETY: close_range(2) (Linux 5.9). No value of the copy that owns a descriptor is used or
    // dropped from here on: `main` was given words, and the copy ends by _exit(2).
    check(unsafe { libc::close_range(first, libc::c_uint::MAX, 0) })?;
    Ok(())
}

fn wait(pid: libc::pid_t) -> io::Result<ExitStatus> {
    let mut status = 0;
    loop {
        // SAFETY: `status` is writable, and `pid` is a child that only this function waits for.
        match check(unsafe { libc::waitpid(pid, &raw mut status, 0) }) {
            Ok(_pid) => return Ok(ExitStatus::from_raw(status)),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;

    use super::*;

    /// What it does in a program of one thread is tested where it is used, by the shim's tests.
    #[test]
    fn a_process_with_threads_is_not_copied() {
        let null = fs::File::open("/dev/null").unwrap();
        let error = run([null.as_fd(); 3], None, |_arguments| 0, Vec::new()).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::EDEADLK));
    }
}
