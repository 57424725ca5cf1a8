//! Moves bytes between the caller's terminal and the container's.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use rustix::stdio::{stdin, stdout};
use rustix::termios::{
    OptionalActions, Termios, isatty, tcgetattr, tcgetwinsize, tcsetattr, tcsetwinsize,
};
use sys::signalfd::SignalFd;

use crate::shim::hold::reap;

/// The caller's terminal without echo and line editing, until this is dropped.
struct Raw {
    before: Option<Termios>,
}

impl Raw {
    fn enter() -> io::Result<Self> {
        if !isatty(stdin()) {
            return Ok(Self { before: None });
        }
        let before = tcgetattr(stdin())?;
        let mut raw = before.clone();
        raw.make_raw();
        tcsetattr(stdin(), OptionalActions::Now, &raw)?;
        Ok(Self {
            before: Some(before),
        })
    }
}

impl Drop for Raw {
    fn drop(&mut self) {
        if let Some(before) = &self.before {
            // A terminal that is gone needs no repair.
            tcsetattr(stdin(), OptionalActions::Now, before).ok();
        }
    }
}

/// Pumps until the child ends and returns its exit code.
pub(super) fn pump(terminal: OwnedFd, child: BorrowedFd<'_>) -> io::Result<i32> {
    // Ending by a signal must restore the terminal, so the signals are read, not suffered.
    let ending = [libc::SIGTERM, libc::SIGHUP, libc::SIGINT, libc::SIGQUIT];
    let mut signals = SignalFd::block(&[&[libc::SIGWINCH][..], &ending[..]].concat())?;
    follow_size(&terminal);
    let _raw = Raw::enter()?;
    let mut reads_input = true;
    loop {
        let mut fds = vec![
            PollFd::from_borrowed_fd(child, PollFlags::IN),
            PollFd::new(&terminal, PollFlags::IN),
            PollFd::from_borrowed_fd(signals.as_fd(), PollFlags::IN),
        ];
        if reads_input {
            fds.push(PollFd::from_borrowed_fd(stdin(), PollFlags::IN));
        }
        match poll(&mut fds, None) {
            Err(Errno::INTR) => continue,
            outcome => outcome?,
        };
        let ready: Vec<bool> = fds.iter().map(|fd| !fd.revents().is_empty()).collect();
        // Output first: what the child wrote before it ended is still in the terminal.
        if ready[1] && copy(terminal.as_fd(), stdout())? {
            continue;
        }
        if ready[0] {
            return reap(child);
        }
        if ready[2] {
            match signals.next()? {
                Some(libc::SIGWINCH) => follow_size(&terminal),
                Some(signal) => return Ok(128 + signal),
                None => {}
            }
        }
        if ready.get(3) == Some(&true) {
            reads_input = copy(stdin(), terminal.as_fd())?;
        }
    }
}

/// The container's terminal gets the size of the caller's.
fn follow_size(terminal: &OwnedFd) {
    // The caller may have no terminal, and the child may be gone; neither is an error here.
    if let Ok(size) = tcgetwinsize(stdout()).or_else(|_no_terminal| tcgetwinsize(stdin())) {
        tcsetwinsize(terminal, size).ok();
    }
}

/// Copies what is there. False at the end of `from`.
fn copy(from: BorrowedFd<'_>, to: BorrowedFd<'_>) -> io::Result<bool> {
    let mut bytes = [0; 16 << 10];
    let length = match rustix::io::read(from, &mut bytes) {
        // A terminal whose last user is gone reads as EIO.
        Ok(0) | Err(Errno::IO) => return Ok(false),
        Ok(length) => length,
        Err(Errno::AGAIN | Errno::INTR) => return Ok(true),
        Err(errno) => return Err(errno.into()),
    };
    let mut left = &bytes[..length];
    while !left.is_empty() {
        match rustix::io::write(to, left) {
            Ok(written) => left = &left[written..],
            Err(Errno::INTR) => {}
            Err(Errno::IO) => return Ok(false),
            Err(errno) => return Err(errno.into()),
        }
    }
    Ok(true)
}
