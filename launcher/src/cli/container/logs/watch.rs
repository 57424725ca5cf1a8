//! Wakes when something changes in a container's directory.

use std::io;
use std::path::Path;
use std::time::Duration;

use inotify::{Inotify, WatchMask};
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use crate::cli::error::CliError;

/// A shim that was killed changes no file, so the state is looked at this often anyway.
const RECHECK: Duration = Duration::from_secs(1);

pub(super) struct Watch {
    inotify: Inotify,
}

impl Watch {
    pub(super) fn new(dir: &Path) -> Result<Self, CliError> {
        let failed = |source| CliError::File {
            op: "watch",
            path: dir.to_owned(),
            source,
        };
        let inotify = Inotify::init().map_err(failed)?;
        let mask = WatchMask::MODIFY
            | WatchMask::CREATE
            | WatchMask::MOVED_TO
            | WatchMask::MOVED_FROM
            | WatchMask::DELETE_SELF;
        inotify.watches().add(dir, mask).map_err(failed)?;
        Ok(Self { inotify })
    }

    pub(super) fn wait(&mut self) -> Result<(), CliError> {
        let failed = |source| CliError::Io {
            op: "watch the log",
            source,
        };
        let timeout = Timespec {
            tv_sec: RECHECK.as_secs().cast_signed(),
            tv_nsec: 0,
        };
        let mut fds = [PollFd::new(&self.inotify, PollFlags::IN)];
        match poll(&mut fds, Some(&timeout)) {
            Ok(0) | Err(rustix::io::Errno::INTR) => return Ok(()),
            Ok(_) => {}
            Err(errno) => return Err(failed(errno.into())),
        }
        let mut buffer = [0; 4096];
        match self.inotify.read_events(&mut buffer) {
            Ok(_) => Ok(()),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(()),
            Err(error) => Err(failed(error)),
        }
    }
}
