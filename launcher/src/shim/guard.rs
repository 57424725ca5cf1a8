//! Ends a container of another runtime with its shim.
//!
//! The first process of one of our own has the kernel do that (`PR_SET_PDEATHSIG`), which nobody can
//! ask for on another's behalf. So a process beside the shim waits for the end of either.

use std::io::{self, PipeWriter};
use std::os::fd::OwnedFd;
use std::process::{Command, Stdio};

use rustix::event::{PollFd, PollFlags, poll};
use rustix::process::Signal;
use rustix::stdio::{stdin, stdout};

use super::launch::Places;
use super::run;

/// Begins one for the container with the first process `init`. It takes the end of what is returned
/// for the end of the shim.
pub(super) fn begin(places: &Places, init: &OwnedFd) -> io::Result<PipeWriter> {
    let (theirs, held) = io::pipe()?;
    let mut command = Command::new("/proc/self/exe");
    command
        .arg("guard")
        .args(places.arguments())
        .stdin(theirs)
        .stdout(init.try_clone()?)
        .stderr(Stdio::null());
    // The shim reaps whoever ends.
    drop(sys::signal::spawn_unblocked(&mut command)?);
    Ok(held)
}

/// `hawser-shim guard`: standard input ends with the shim, and standard output is the container.
pub(super) fn main(places: &Places) -> i32 {
    match watch() {
        Ok(true) => run::bury(places),
        Ok(false) => 0,
        Err(_why) => 1,
    }
}

/// Whether the container was alive when its shim was not.
fn watch() -> io::Result<bool> {
    let (shim, container) = (stdin(), stdout());
    let mut ends = [
        PollFd::from_borrowed_fd(shim, PollFlags::IN),
        PollFd::from_borrowed_fd(container, PollFlags::IN),
    ];
    rustix::io::retry_on_intr(|| poll(&mut ends, None))?;
    if !ends[1].revents().is_empty() {
        return Ok(false);
    }
    sys::signal::send(container, Signal::KILL.as_raw())?;
    let mut end = [PollFd::from_borrowed_fd(container, PollFlags::IN)];
    rustix::io::retry_on_intr(|| poll(&mut end, None))?;
    Ok(true)
}
