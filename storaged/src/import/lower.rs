//! The layers below the one that is being unpacked, as far as unpacking depends on them.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;

use rustix::fs::{OFlags, ResolveFlags, Stat};
use rustix::io::Errno;

use crate::tree;

/// Asked for and opened when first needed: most archives hardly ever do.
pub(super) struct Lowers<'a> {
    paths: Paths<'a>,
    opened: Vec<OwnedFd>,
}

enum Paths<'a> {
    Unknown(Option<Box<dyn FnOnce() -> io::Result<Vec<PathBuf>> + 'a>>),
    /// Top layer first.
    Known(Vec<PathBuf>),
}

impl<'a> Lowers<'a> {
    pub(super) fn new(find: Box<dyn FnOnce() -> io::Result<Vec<PathBuf>> + 'a>) -> Self {
        Self {
            paths: Paths::Unknown(Some(find)),
            opened: Vec::new(),
        }
    }

    /// Nothing is below.
    pub(super) fn none() -> Self {
        Self {
            paths: Paths::Known(Vec::new()),
            opened: Vec::new(),
        }
    }

    fn paths(&mut self) -> io::Result<&[PathBuf]> {
        if let Paths::Unknown(find) = &mut self.paths {
            let found = find.take().map_or_else(|| Ok(Vec::new()), |find| find())?;
            self.paths = Paths::Known(found);
        }
        match &self.paths {
            Paths::Known(paths) => Ok(paths),
            Paths::Unknown(_) => Ok(&[]),
        }
    }

    /// What the layers below show at `path`, symbolic links not followed.
    pub(super) fn find(&mut self, path: &[u8]) -> io::Result<Option<Stat>> {
        let count = self.paths()?.len();
        for at in 0..count {
            if at == self.opened.len() {
                let opened = tree::open_root(&self.paths()?[at])?;
                self.opened.push(opened);
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
