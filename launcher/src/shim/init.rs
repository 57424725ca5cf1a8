//! `--init`: the first process of a container, which runs the command as its child.
//!
//! It forwards signals, reaps what others leave behind and ends with the command's exit code. It is
//! no program of its own: the copy of the shim that set the container up stays instead of becoming
//! the command, so that it works in an image without a single library. The kernel lets nobody
//! without CAP_SYS_PTRACE look into it, for it cannot be dumped; so `/proc/1/exe` does not lead to
//! the host's program.

use std::io;
use std::os::fd::AsFd;
use std::os::unix::process::CommandExt;
use std::process::Command;

use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use rustix::process::{
    DumpableBehavior, Pid, PidfdFlags, WaitOptions, pidfd_open, set_dumpable_behavior, wait,
};
use rustix::termios::tcsetpgrp;
use rustix::thread::set_name;
use sys::signalfd::SignalFd;

/// What cannot be caught, what the kernel sends for a process's own mistakes or use of the terminal,
/// and what the C library keeps.
const NOT_FORWARDED: [i32; 14] = [
    libc::SIGKILL,
    libc::SIGSTOP,
    libc::SIGCHLD,
    libc::SIGILL,
    libc::SIGTRAP,
    libc::SIGABRT,
    libc::SIGBUS,
    libc::SIGFPE,
    libc::SIGSEGV,
    libc::SIGSYS,
    libc::SIGTTIN,
    libc::SIGTTOU,
    32,
    33,
];

/// Runs the command until it ends; its exit code, as a shell would say it.
///
/// # Errors
/// The command cannot be executed.
pub(super) fn run(mut command: Command) -> io::Result<i32> {
    set_dumpable_behavior(DumpableBehavior::NotDumpable)?;
    // libcontainer leaves a name of its own.
    set_name(c"docker-init")?;
    let forwarded = (1..=64).filter(|number| !NOT_FORWARDED.contains(number));
    let caught: Vec<i32> = forwarded.chain([libc::SIGCHLD]).collect();
    let mut signals = SignalFd::block(&caught)?;
    // A group of its own, so that the terminal's signals reach it once.
    let child = sys::signal::spawn_unblocked(command.process_group(0))?;
    let pid = i32::try_from(child.id()).ok().and_then(Pid::from_raw);
    let pid = pid.ok_or(Errno::SRCH)?;
    let process = pidfd_open(pid, PidfdFlags::empty())?;
    // Without a terminal there is nothing to hand over.
    let _no_terminal = tcsetpgrp(rustix::stdio::stdin(), pid);
    loop {
        if let Some(code) = reap(pid)? {
            return Ok(code);
        }
        let mut fds = [PollFd::new(&signals, PollFlags::IN)];
        rustix::io::retry_on_intr(|| poll(&mut fds, None))?;
        while let Some(number) = signals.next()? {
            if number != libc::SIGCHLD {
                // It may have ended meanwhile.
                let _gone = sys::signal::send(process.as_fd(), number);
            }
        }
    }
}

/// Reaps everybody who has ended; the exit code if the command is among them.
fn reap(command: Pid) -> io::Result<Option<i32>> {
    loop {
        match wait(WaitOptions::NOHANG) {
            Ok(Some((pid, status))) if pid == command => {
                let signal = status.terminating_signal().map(|signal| 128 + signal);
                return Ok(status.exit_status().or(signal).or(Some(255)));
            }
            Ok(Some(_orphan)) => {}
            Ok(None) => return Ok(None),
            Err(Errno::INTR) => {}
            Err(errno) => return Err(errno.into()),
        }
    }
}
