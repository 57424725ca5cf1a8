//! Unpacking into a whole tree, where the layers below are copied already: what the archive brings
//! must be told from what was there.

use std::collections::BTreeSet;
use std::ffi::CString;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::io::Errno;

use crate::tree;

/// The paths that the archive brought. As in a stack of layers, its deletions hide what lies below and
/// never what it brings itself, and it never goes through a symbolic link from below.
#[derive(Debug, Default)]
pub(super) struct Own(BTreeSet<Vec<u8>>);

impl Own {
    pub(super) fn add(&mut self, path: Vec<u8>) {
        self.0.insert(path);
    }

    /// Whether `path` or anything in it came with the archive.
    fn reaches(&self, path: &[u8]) -> bool {
        let inside = [path, b"/"].concat();
        self.0.contains(path)
            || self
                .0
                .range(inside.clone()..)
                .next()
                .is_some_and(|next| next.starts_with(&inside))
    }

    /// Removes what is in the way of a directory at `path`: files and links from below on the way.
    pub(super) fn clear_way(&self, root: &OwnedFd, path: &[u8]) -> Result<(), Errno> {
        let mut current = tree::open_dir_at(root.as_fd(), c".")?;
        let mut walked = Vec::new();
        for part in path
            .split(|byte| *byte == b'/')
            .filter(|part| !part.is_empty())
        {
            walked = tree::join(&walked, part);
            let name = CString::new(part).map_err(|_nul| Errno::INVAL)?;
            match tree::stat_at(current.as_fd(), &name)? {
                Some(stat) if tree::is_dir(&stat) => {
                    current = tree::open_dir_at(current.as_fd(), &name)?;
                }
                Some(_) if !self.0.contains(&walked) => {
                    return tree::remove_at(current.as_fd(), &name);
                }
                _ => return Ok(()),
            }
        }
        Ok(())
    }

    /// Removes `name` of `dir`, at `path`, as far as it is from below.
    pub(super) fn hide(&self, dir: BorrowedFd<'_>, name: &[u8], path: &[u8]) -> Result<(), Errno> {
        let name = CString::new(name).map_err(|_nul| Errno::INVAL)?;
        if !self.reaches(path) {
            return tree::remove_at(dir, &name);
        }
        match tree::stat_at(dir, &name)? {
            Some(stat) if tree::is_dir(&stat) => {
                self.hide_content(tree::open_dir_at(dir, &name)?.as_fd(), path)
            }
            _ => Ok(()),
        }
    }

    /// The same for everything in a directory.
    pub(super) fn hide_content(&self, dir: BorrowedFd<'_>, path: &[u8]) -> Result<(), Errno> {
        for name in tree::names(dir)? {
            let below = tree::join(path, name.to_bytes());
            self.hide(dir, name.to_bytes(), &below)?;
        }
        Ok(())
    }
}
