//! The container's standard streams, as the shim holds them: three pipes, or a terminal.

use std::fs;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};

use rustix::cmsg_space;
use rustix::fs::{Gid, Uid, fchown};
use rustix::io::{FdFlags, IoSliceMut, fcntl_setfd, ioctl_fionbio};
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::termios::{Winsize, tcsetwinsize};

use super::runtime::{Stdio3, null};

/// The shim's ends. Reads and writes never block.
#[derive(Debug, Default)]
pub(crate) struct Streams {
    pub(crate) stdin: Option<OwnedFd>,
    pub(crate) stdout: Option<OwnedFd>,
    pub(crate) stderr: Option<OwnedFd>,
    /// All three are one terminal.
    pub(crate) is_terminal: bool,
}

impl Streams {
    /// Pipes that belong to a user and group of the host, so that it may open `/dev/stdout` anew.
    pub(crate) fn pipes(with_stdin: bool, user: (u32, u32)) -> io::Result<(Self, Stdio3)> {
        let stdin = if with_stdin {
            Some(pipe_for(user)?)
        } else {
            None
        };
        let (stdout, their_stdout) = pipe_for(user)?;
        let (stderr, their_stderr) = pipe_for(user)?;
        let (their_stdin, stdin) = stdin.unzip();
        for end in [&stdout, &stderr].into_iter().chain(&stdin) {
            ioctl_fionbio(end, true)?;
        }
        let ours = Self {
            stdin,
            stdout: Some(stdout),
            stderr: Some(stderr),
            is_terminal: false,
        };
        let theirs = Stdio3 {
            stdin: their_stdin.map_or_else(null, Ok)?,
            stdout: their_stdout,
            stderr: their_stderr,
        };
        Ok((ours, theirs))
    }

    /// A terminal, by its controlling side.
    pub(crate) fn terminal(controller: OwnedFd) -> io::Result<Self> {
        ioctl_fionbio(&controller, true)?;
        let stdin = controller.try_clone()?;
        Ok(Self {
            stdin: Some(stdin),
            stdout: Some(controller),
            stderr: None,
            is_terminal: true,
        })
    }

    pub(crate) fn resize(&self, rows: u16, cols: u16) -> io::Result<()> {
        match &self.stdout {
            Some(terminal) if self.is_terminal => set_size(terminal, rows, cols),
            _ => Ok(()),
        }
    }
}

pub(crate) fn set_size(terminal: &OwnedFd, rows: u16, cols: u16) -> io::Result<()> {
    let size = Winsize {
        ws_row: rows,
        ws_col: cols,
        ws_xpixel: 0,
        ws_ypixel: 0,
    };
    Ok(tcsetwinsize(terminal, size)?)
}

/// A pipe: its reading and its writing end.
fn pipe_for((uid, gid): (u32, u32)) -> io::Result<(OwnedFd, OwnedFd)> {
    let (reader, writer) = pipe_with(PipeFlags::CLOEXEC)?;
    // One inode for both ends.
    let (uid, gid) = (Uid::from_raw(uid), Gid::from_raw(gid));
    fchown(&reader, Some(uid), Some(gid))?;
    Ok((reader, writer))
}

/// Receives one descriptor: a terminal from the runtime (OCI runtime command line interface,
/// `--console-socket`), a root file system from the daemon.
#[derive(Debug)]
pub(crate) struct DescriptorSocket {
    listener: UnixListener,
    path: PathBuf,
}

impl DescriptorSocket {
    pub(crate) fn bind(path: PathBuf) -> io::Result<Self> {
        remove_stale(&path)?;
        Ok(Self {
            listener: UnixListener::bind(&path)?,
            path,
        })
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// The descriptor, of a terminal that of its controlling side; to be called when it has been sent.
    pub(crate) fn receive(self) -> io::Result<OwnedFd> {
        // Who was to send it has answered, so it is there or will never be.
        self.listener.set_nonblocking(true)?;
        let (connection, _) = self.listener.accept()?;
        let mut name = [0; 4096];
        let mut space = [MaybeUninit::uninit(); cmsg_space!(ScmRights(1))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let mut pieces = [IoSliceMut::new(&mut name)];
        recvmsg(
            &connection,
            &mut pieces,
            &mut control,
            RecvFlags::CMSG_CLOEXEC,
        )?;
        for message in control.drain() {
            if let RecvAncillaryMessage::ScmRights(mut files) = message
                && let Some(sent) = files.next()
            {
                fcntl_setfd(&sent, FdFlags::CLOEXEC)?;
                return Ok(sent);
            }
        }
        Err(io::Error::new(
            io::ErrorKind::InvalidData,
            "no descriptor was sent",
        ))
    }
}

impl Drop for DescriptorSocket {
    fn drop(&mut self) {
        // Nothing depends on it: the next bind removes a stale one.
        drop(remove_stale(&self.path));
    }
}

pub(crate) fn remove_stale(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}
