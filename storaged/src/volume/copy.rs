//! Copying a directory tree with everything a program can see of it: owners, modes, times,
//! attributes, hard links, symbolic links, holes. Content is shared where the filesystem can.

use std::collections::HashMap;
use std::ffi::{CStr, CString};
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::os::fd::{AsFd, BorrowedFd};

use rustix::fs::{
    AtFlags, FileType, Gid, Mode, OFlags, Stat, Timespec, Timestamps, Uid, XattrFlags,
};
use rustix::io::Errno;

use crate::reason::named;
use crate::tree::{is_whiteout, names, open_dir_at, stat_at};
use crate::xattr;

/// Each level holds two descriptors open.
const MAX_DEPTH: u32 = 256;

/// Copies the content and the metadata of directory `from` to the empty directory `to`.
pub(crate) fn tree(from: BorrowedFd<'_>, to: BorrowedFd<'_>) -> io::Result<()> {
    Copier {
        root: to,
        path: Vec::new(),
        links: HashMap::new(),
    }
    .directory(from, to, 0)
}

struct Copier<'a> {
    root: BorrowedFd<'a>,
    /// Where the copy is, below the root.
    path: Vec<u8>,
    /// Where the first copy of each file with several links is, by device and inode.
    links: HashMap<(u64, u64), CString>,
}

impl Copier<'_> {
    fn directory(
        &mut self,
        from: BorrowedFd<'_>,
        to: BorrowedFd<'_>,
        depth: u32,
    ) -> io::Result<()> {
        if depth > MAX_DEPTH {
            return Err(io::Error::other(format!(
                "it is nested deeper than {MAX_DEPTH} directories"
            )));
        }
        // Before anything is read: access times are copied, too.
        let stat = rustix::fs::fstat(from)?;
        for name in names(from)? {
            // Gone since the listing.
            let Some(child) = stat_at(from, &name)? else {
                continue;
            };
            let parent = self.path.len();
            if parent > 0 {
                self.path.push(b'/');
            }
            self.path.extend(name.as_bytes());
            self.entry(from, to, &name, &child, depth)
                .map_err(|error| named(&self.path, error))?;
            self.path.truncate(parent);
        }
        Ok(set_metadata(from, to, &stat)?)
    }

    fn entry(
        &mut self,
        from: BorrowedFd<'_>,
        to: BorrowedFd<'_>,
        name: &CStr,
        stat: &Stat,
        depth: u32,
    ) -> io::Result<()> {
        let kind = FileType::from_raw_mode(stat.st_mode);
        if kind == FileType::Directory {
            let source = open_dir_at(from, name)?;
            rustix::fs::mkdirat(to, name, Mode::RWXU)?;
            let target = open_dir_at(to, name)?;
            return self.directory(source.as_fd(), target.as_fd(), depth + 1);
        }
        if self.link(to, name, stat)? {
            return Ok(());
        }
        match kind {
            FileType::RegularFile => copy_file(from, to, name, stat),
            FileType::Symlink => copy_symlink(from, to, name, stat),
            // Nobody listens on a copied socket, and no deletion is a file.
            FileType::Socket => Ok(()),
            FileType::CharacterDevice if is_whiteout(stat) => Ok(()),
            kind => copy_node(from, to, name, stat, kind),
        }
    }

    /// Links to the first copy of the same file, if there is one.
    fn link(&mut self, to: BorrowedFd<'_>, name: &CStr, stat: &Stat) -> io::Result<bool> {
        if stat.st_nlink < 2 {
            return Ok(false);
        }
        match self.links.get(&(stat.st_dev, stat.st_ino)) {
            Some(first) => {
                rustix::fs::linkat(self.root, first, to, name, AtFlags::empty())?;
                Ok(true)
            }
            None => {
                let path = CString::new(self.path.clone()).map_err(io::Error::other)?;
                self.links.insert((stat.st_dev, stat.st_ino), path);
                Ok(false)
            }
        }
    }
}

fn copy_file(from: BorrowedFd<'_>, to: BorrowedFd<'_>, name: &CStr, stat: &Stat) -> io::Result<()> {
    let read = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let source = File::from(rustix::fs::openat(from, name, read, Mode::empty())?);
    let write = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let target = File::from(rustix::fs::openat(
        to,
        name,
        write,
        Mode::RUSR | Mode::WUSR,
    )?);
    content(&source, &target)?;
    Ok(set_metadata(source.as_fd(), target.as_fd(), stat)?)
}

/// Gives the empty file `target` the content of `source`, holes included.
pub(crate) fn content(source: &File, target: &File) -> io::Result<()> {
    // Whatever the reason that blocks cannot be shared, reading and writing them works.
    match rustix::fs::ioctl_ficlone(target, source) {
        Ok(()) => Ok(()),
        Err(_cannot_share) => copy_data(source, target),
    }
}

/// Copies runs of data and leaves holes; `io::copy` uses `copy_file_range(2)` where it can.
fn copy_data(mut source: &File, mut target: &File) -> io::Result<()> {
    let length = source.metadata()?.len();
    target.set_len(length)?;
    let mut at = 0;
    while at < length {
        let Some(start) = seek(source, rustix::fs::SeekFrom::Data(at))? else {
            break;
        };
        let end = seek(source, rustix::fs::SeekFrom::Hole(start))?.unwrap_or(length);
        source.seek(SeekFrom::Start(start))?;
        target.seek(SeekFrom::Start(start))?;
        io::copy(&mut source.take(end - start), &mut target)?;
        at = end;
    }
    Ok(())
}

/// `None` behind the last data.
fn seek(file: &File, to: rustix::fs::SeekFrom) -> io::Result<Option<u64>> {
    match rustix::fs::seek(file, to) {
        Ok(at) => Ok(Some(at)),
        Err(Errno::NXIO) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

fn copy_symlink(
    from: BorrowedFd<'_>,
    to: BorrowedFd<'_>,
    name: &CStr,
    stat: &Stat,
) -> io::Result<()> {
    let target = rustix::fs::readlinkat(from, name, Vec::new())?;
    rustix::fs::symlinkat(&target, to, name)?;
    Ok(set_owner_and_times(to, name, stat)?)
}

fn copy_node(
    from: BorrowedFd<'_>,
    to: BorrowedFd<'_>,
    name: &CStr,
    stat: &Stat,
    kind: FileType,
) -> io::Result<()> {
    rustix::fs::mknodat(to, name, kind, Mode::empty(), stat.st_rdev)?;
    set_owner_and_times(to, name, stat)?;
    // Follows no link: the name was made just now in a directory nobody else knows.
    rustix::fs::chmodat(to, name, mode(stat), AtFlags::empty())?;
    for (attribute, value) in xattr::of_content(from, name)? {
        xattr::set(to, name, &attribute, &value)?;
    }
    Ok(())
}

fn set_owner_and_times(to: BorrowedFd<'_>, name: &CStr, stat: &Stat) -> Result<(), Errno> {
    rustix::fs::chownat(
        to,
        name,
        Some(uid(stat)),
        Some(gid(stat)),
        AtFlags::SYMLINK_NOFOLLOW,
    )?;
    rustix::fs::utimensat(to, name, &times(stat), AtFlags::SYMLINK_NOFOLLOW)
}

/// Gives `to` the attributes of `from` and what `stat` says of it.
///
/// Owner before mode and attributes: `chown(2)` clears set-id bits and capabilities.
pub(crate) fn set_metadata(
    from: BorrowedFd<'_>,
    to: BorrowedFd<'_>,
    stat: &Stat,
) -> Result<(), Errno> {
    rustix::fs::fchown(to, Some(uid(stat)), Some(gid(stat)))?;
    rustix::fs::fchmod(to, mode(stat))?;
    for name in attributes(from)? {
        let value = attribute(from, &name)?;
        rustix::fs::fsetxattr(to, &name, &value, XattrFlags::empty())?;
    }
    rustix::fs::futimens(to, &times(stat))
}

/// Names of the attributes that are copied; none on a filesystem without attributes.
fn attributes(file: BorrowedFd<'_>) -> Result<Vec<CString>, Errno> {
    // XATTR_LIST_MAX, the kernel's own bound.
    let mut list = vec![0u8; 64 << 10];
    let length = match rustix::fs::flistxattr(file, &mut *list) {
        Err(Errno::OPNOTSUPP) => 0,
        result => result?,
    };
    Ok(list[..length]
        .split(|byte| *byte == 0)
        .filter(|name| xattr::is_content(name))
        .filter_map(|name| CString::new(name).ok())
        .collect())
}

fn attribute(file: BorrowedFd<'_>, name: &CStr) -> Result<Vec<u8>, Errno> {
    // XATTR_SIZE_MAX.
    let mut value = vec![0u8; 64 << 10];
    let length = rustix::fs::fgetxattr(file, name, &mut *value)?;
    value.truncate(length);
    Ok(value)
}

fn uid(stat: &Stat) -> Uid {
    Uid::from_raw(stat.st_uid)
}

fn gid(stat: &Stat) -> Gid {
    Gid::from_raw(stat.st_gid)
}

fn mode(stat: &Stat) -> Mode {
    Mode::from_raw_mode(stat.st_mode & 0o7777)
}

fn times(stat: &Stat) -> Timestamps {
    Timestamps {
        last_access: Timespec {
            tv_sec: stat.st_atime,
            tv_nsec: stat.st_atime_nsec.cast_signed(),
        },
        last_modification: Timespec {
            tv_sec: stat.st_mtime,
            tv_nsec: stat.st_mtime_nsec.cast_signed(),
        },
    }
}
