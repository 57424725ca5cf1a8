//! The layers below the one that is being unpacked, as far as unpacking depends on them.

use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;

use rustix::fs::{OFlags, ResolveFlags, Stat};
use rustix::io::Errno;

use crate::tree;

/// Opened when first asked: most archives never are.
#[derive(Debug)]
pub(super) struct Lowers {
    paths: Vec<PathBuf>,
    opened: Vec<OwnedFd>,
}

impl Lowers {
    /// Top layer first.
    pub(super) fn new(paths: Vec<PathBuf>) -> Self {
        Self {
            paths,
            opened: Vec::new(),
        }
    }

    /// What the layers below show at `path`, symbolic links not followed.
    pub(super) fn find(&mut self, path: &[u8]) -> Result<Option<Stat>, Errno> {
        for at in 0..self.paths.len() {
            if at == self.opened.len() {
                self.opened.push(tree::open_root(&self.paths[at])?);
            }
            match stat(&self.opened[at], path) {
                Ok(stat) => return Ok(Some(stat).filter(|stat| !tree::is_whiteout(stat))),
                Err(Errno::NOENT) => {}
                // A file or a deletion higher up the path hides whatever lies further below.
                Err(Errno::NOTDIR | Errno::LOOP) => return Ok(None),
                Err(error) => return Err(error),
            }
        }
        Ok(None)
    }
}

fn stat(layer: &OwnedFd, path: &[u8]) -> Result<Stat, Errno> {
    // NO_SYMLINKS permits a link as the last component of an O_PATH | O_NOFOLLOW opening.
    let within = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS;
    let found = tree::resolve(layer.as_fd(), path, OFlags::PATH | OFlags::NOFOLLOW, within)?;
    rustix::fs::fstat(found)
}
