//! Moves bytes between the caller's terminal and the container's.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::process::{Command, Stdio};

use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use rustix::process::setsid;
use rustix::stdio::{stdin, stdout};
use rustix::termios::{
    OptionalActions, Termios, isatty, tcgetattr, tcgetwinsize, tcsetattr, tcsetwinsize,
};
use sys::signalfd::SignalFd;

use crate::cli::run::detach::Detector;
use crate::shim::hold::reap;

/// The verb of [`hold`].
pub(in crate::shim) const HOLD_TERMINAL: &str = "hold-terminal";
const CHUNK: usize = 16 << 10;

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

/// Pumps until the child ends, and returns its exit code, or until the user leaves with the keys of
/// `detector`.
pub(super) fn pump(
    terminal: OwnedFd,
    child: BorrowedFd<'_>,
    mut detector: Detector,
) -> io::Result<Option<i32>> {
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
            return reap(child).map(Some);
        }
        if ready[2] {
            match signals.next()? {
                Some(libc::SIGWINCH) => follow_size(&terminal),
                Some(signal) => return Ok(Some(128 + signal)),
                None => {}
            }
        }
        if ready.get(3) == Some(&true) {
            let mut bytes = [0; CHUNK];
            let Some(input) = read(stdin(), &mut bytes)? else {
                reads_input = false;
                continue;
            };
            let (passed, is_left) = detector.pass(input);
            reads_input = write(terminal.as_fd(), &passed)?;
            if is_left {
                leave(terminal)?;
                return Ok(None);
            }
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

/// Copies what is there. False at the end of either.
fn copy(from: BorrowedFd<'_>, to: BorrowedFd<'_>) -> io::Result<bool> {
    let mut bytes = [0; CHUNK];
    match read(from, &mut bytes)? {
        Some(read) => write(to, read),
        None => Ok(false),
    }
}

/// What is there; none at the end.
fn read<'b>(from: BorrowedFd<'_>, bytes: &'b mut [u8]) -> io::Result<Option<&'b [u8]>> {
    match rustix::io::read(from, &mut *bytes) {
        // A terminal whose last user is gone reads as EIO.
        Ok(0) | Err(Errno::IO) => Ok(None),
        Ok(length) => Ok(Some(&bytes[..length])),
        Err(Errno::AGAIN | Errno::INTR) => Ok(Some(&[])),
        Err(errno) => Err(errno.into()),
    }
}

/// False when nobody reads any more.
fn write(to: BorrowedFd<'_>, bytes: &[u8]) -> io::Result<bool> {
    let mut left = bytes;
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

/// Leaves a terminal to a process of its own: one that nobody holds is hung up, and its command with
/// it.
fn leave(terminal: OwnedFd) -> io::Result<()> {
    Command::new("/proc/self/exe")
        .arg(HOLD_TERMINAL)
        .stdin(terminal)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .map(drop)
}

/// That process: takes what is written to the terminal, its standard input, until nobody has it any
/// more.
pub(in crate::shim) fn hold() -> i32 {
    // The user's own terminal, when it is closed, is not to end it.
    let held = setsid().map_err(io::Error::from).and_then(|_session| {
        let mut bytes = [0; CHUNK];
        while read(stdin(), &mut bytes)?.is_some() {}
        Ok(())
    });
    i32::from(held.is_err())
}
