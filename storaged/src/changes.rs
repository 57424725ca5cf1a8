//! What a container changed: its root filesystem compared with that of its image.
//!
//! Both trees are read as the container and the image show them. Where the driver knows which entries
//! were written at all (the upper directory of an overlay), only those are looked at; where it does
//! not, or where a directory replaces or was renamed from another, both trees are compared name by
//! name. So renamed directories, deletions and opaque directories need no cases of their own.

use std::ffi::{CStr, CString};
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{FileType, Mode, OFlags, Stat};
use rustix::io::Errno;

use crate::shown::Shown;
use crate::{tree, xattr};

/// Deeper trees are refused: each level holds three descriptors.
const MAX_DEPTH: usize = 1000;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Modified,
    Added,
    Deleted,
}

/// One changed entry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Change {
    /// Relative to the root.
    pub(crate) path: Vec<u8>,
    pub(crate) kind: Kind,
}

/// The trees to compare, by the descriptors of their roots.
#[derive(Debug)]
pub(crate) struct Trees {
    pub(crate) image: OwnedFd,
    pub(crate) container: OwnedFd,
    /// How the container's owners are seen there.
    pub(crate) shown: Shown,
    /// What was written, in overlayfs's form; absent where nobody knows.
    pub(crate) written: Option<OwnedFd>,
}

/// All changes, each directory before what is in it, names in order.
///
/// # Errors
/// The kernel's; `ELOOP` for a tree that is too deep.
pub(crate) fn find(trees: &Trees) -> io::Result<Vec<Change>> {
    let mut search = Search {
        shown: &trees.shown,
        path: Vec::new(),
        changes: Vec::new(),
    };
    let written = trees.written.as_ref().map(AsFd::as_fd);
    search.directory(
        Some(trees.image.as_fd()),
        trees.container.as_fd(),
        written,
        0,
    )?;
    Ok(search.changes)
}

struct Search<'a> {
    shown: &'a Shown,
    path: Vec<u8>,
    changes: Vec<Change>,
}

impl Search<'_> {
    fn directory(
        &mut self,
        old: Option<BorrowedFd<'_>>,
        new: BorrowedFd<'_>,
        written: Option<BorrowedFd<'_>>,
        depth: usize,
    ) -> io::Result<()> {
        if depth > MAX_DEPTH {
            return Err(Errno::LOOP.into());
        }
        for name in candidates(old, new, written)? {
            let length = self.path.len();
            if length > 0 {
                self.path.push(b'/');
            }
            self.path.extend_from_slice(name.to_bytes());
            let compared = self.entry((old, new, written), &name, depth);
            self.path.truncate(length);
            compared?;
        }
        Ok(())
    }

    fn entry(
        &mut self,
        (old, new, written): (
            Option<BorrowedFd<'_>>,
            BorrowedFd<'_>,
            Option<BorrowedFd<'_>>,
        ),
        name: &CStr,
        depth: usize,
    ) -> io::Result<()> {
        let before = old
            .map(|old| tree::stat_at(old, name))
            .transpose()?
            .flatten();
        let Some(after) = tree::stat_at(new, name)? else {
            if before.is_some() {
                self.push(Kind::Deleted);
            }
            return Ok(());
        };
        let after = self.shown.stat(after);
        let kind = match (&before, old) {
            (Some(before), Some(old)) => self
                .differs((old, before), (new, &after), name, written.is_some())?
                .then_some(Kind::Modified),
            _ => Some(Kind::Added),
        };
        let at = self.changes.len();
        if tree::is_dir(&after) {
            self.subdirectory(old, new, written, name, depth)?;
        }
        // As in Docker, a directory has changed when something in it has.
        let kind = kind.or((self.changes.len() > at).then_some(Kind::Modified));
        if let Some(kind) = kind {
            let path = self.path.clone();
            self.changes.insert(at, Change { path, kind });
        }
        Ok(())
    }

    fn subdirectory(
        &mut self,
        old: Option<BorrowedFd<'_>>,
        new: BorrowedFd<'_>,
        written: Option<BorrowedFd<'_>>,
        name: &CStr,
        depth: usize,
    ) -> io::Result<()> {
        // A container may be changing it.
        let Some(new) = open(new, name)? else {
            return Ok(());
        };
        let old = old.map(|old| open(old, name)).transpose()?.flatten();
        let written = match written.map(|written| plain(written, name)).transpose()? {
            Some(Some(written)) => Some(written),
            Some(None) | None => None,
        };
        let (old, written) = (
            old.as_ref().map(AsFd::as_fd),
            written.as_ref().map(AsFd::as_fd),
        );
        self.directory(old, new.as_fd(), written, depth + 1)
    }

    /// Whether an entry is another one now. `written` says that it was written, which for a file with
    /// the old size and time means that only its content can tell.
    fn differs(
        &self,
        (old, before): (BorrowedFd<'_>, &Stat),
        (new, after): (BorrowedFd<'_>, &Stat),
        name: &CStr,
        written: bool,
    ) -> io::Result<bool> {
        let facts = |stat: &Stat| (stat.st_mode, stat.st_uid, stat.st_gid, stat.st_rdev);
        if facts(before) != facts(after)
            || xattr::of_content(old, name)? != self.shown.attributes(xattr::of_content(new, name)?)
        {
            return Ok(true);
        }
        if tree::is_dir(after) {
            return Ok(false);
        }
        let times = |stat: &Stat| (stat.st_mtime, stat.st_mtime_nsec, stat.st_size);
        if times(before) != times(after) {
            return Ok(true);
        }
        match FileType::from_raw_mode(after.st_mode) {
            FileType::RegularFile if written => other_content(old, new, name),
            FileType::Symlink => Ok(rustix::fs::readlinkat(old, name, Vec::new())?
                != rustix::fs::readlinkat(new, name, Vec::new())?),
            _ => Ok(false),
        }
    }

    fn push(&mut self, kind: Kind) {
        let path = self.path.clone();
        self.changes.push(Change { path, kind });
    }
}

/// Names that may have changed, in order.
fn candidates(
    old: Option<BorrowedFd<'_>>,
    new: BorrowedFd<'_>,
    written: Option<BorrowedFd<'_>>,
) -> Result<Vec<CString>, Errno> {
    let mut names = match (written, old) {
        (Some(written), _) => tree::names(written)?,
        (None, Some(old)) => {
            let mut names = tree::names(old)?;
            names.extend(tree::names(new)?);
            names
        }
        (None, None) => tree::names(new)?,
    };
    names.sort();
    names.dedup();
    Ok(names)
}

/// A subdirectory; nothing if it is none, or gone.
fn open(dir: BorrowedFd<'_>, name: &CStr) -> Result<Option<OwnedFd>, Errno> {
    match tree::open_dir_at(dir, name) {
        Ok(directory) => Ok(Some(directory)),
        Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => Ok(None),
        Err(error) => Err(error),
    }
}

/// A written directory that adds to the one of the same name below it, and to no other
/// (`Documentation/filesystems/overlayfs.rst`, "whiteouts and opaque directories", "redirect_dir").
fn plain(dir: BorrowedFd<'_>, name: &CStr) -> Result<Option<OwnedFd>, Errno> {
    let special = |(name, _): &(Vec<u8>, Vec<u8>)| {
        name == b"trusted.overlay.opaque" || name == b"trusted.overlay.redirect"
    };
    match open(dir, name)? {
        Some(directory) if !xattr::all(dir, name)?.iter().any(special) => Ok(Some(directory)),
        _ => Ok(None),
    }
}

fn other_content(old: BorrowedFd<'_>, new: BorrowedFd<'_>, name: &CStr) -> io::Result<bool> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let open = |dir| rustix::fs::openat(dir, name, flags, Mode::empty()).map(File::from);
    let (mut old, mut new) = (open(old)?, open(new)?);
    let (mut one, mut other) = (vec![0; 64 << 10], vec![0; 64 << 10]);
    loop {
        let (read, expected) = (
            read_full(&mut old, &mut one)?,
            read_full(&mut new, &mut other)?,
        );
        if one[..read] != other[..expected] {
            return Ok(true);
        }
        if read == 0 {
            return Ok(false);
        }
    }
}

fn read_full(file: &mut File, buffer: &mut [u8]) -> io::Result<usize> {
    let mut filled = 0;
    while filled < buffer.len() {
        match file.read(&mut buffer[filled..])? {
            0 => break,
            read => filled += read,
        }
    }
    Ok(filled)
}
