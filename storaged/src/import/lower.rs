//! The layers below the one that is being unpacked, as far as unpacking depends on them.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;

use rustix::fs::{OFlags, ResolveFlags, Stat};
use rustix::io::Errno;

use crate::tree;

/// Asked for and opened when first needed: most archives hardly ever do.
pub(super) struct Lowers<'a> {
    find: Option<Find<'a>>,
    /// Once they were asked for, top layer first.
    paths: Vec<PathBuf>,
    opened: Vec<OwnedFd>,
}

pub(super) type Find<'a> = Box<dyn FnOnce() -> io::Result<Vec<PathBuf>> + 'a>;

impl<'a> Lowers<'a> {
    pub(super) fn new(find: Find<'a>) -> Self {
        Self {
            find: Some(find),
            ..Self::none()
        }
    }

    /// Nothing is below.
    pub(super) fn none() -> Self {
        Self {
            find: None,
            paths: Vec::new(),
            opened: Vec::new(),
        }
    }

    /// What the layers below show at `path`, symbolic links not followed.
    pub(super) fn find(&mut self, path: &[u8]) -> io::Result<Option<Stat>> {
        if let Some(find) = self.find.take() {
            self.paths = find()?;
        }
        for (at, layer) in self.paths.iter().enumerate() {
            if at == self.opened.len() {
                self.opened.push(tree::open_root(layer)?);
            }
            match stat(&self.opened[at], path) {
                Ok(stat) => return Ok(Some(stat).filter(|stat| !tree::is_whiteout(stat))),
                Err(Errno::NOENT) => {}
                // A file or a deletion higher up the path hides whatever lies further below.
                Err(Errno::NOTDIR | Errno::LOOP) => return Ok(None),
                Err(error) => return Err(error.into()),
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
