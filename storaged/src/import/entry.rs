//! Making one directory entry: what it is, then whose it is, then when it was.

use std::ffi::CStr;
use std::fs::File;
use std::io::Read;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::FileExt;

use rustix::fs::{
    AtFlags, FileType, Gid, Mode, OFlags, Stat, Timespec, Timestamps, Uid, XattrFlags,
};
use rustix::io::Errno;

use super::archive::Archive;
use super::member::Member;
use super::place::{Placed, c_string, escapes, io_problem};
use super::{EntryError, Problem, excerpt};
use crate::recipe::Extent;
use crate::{acl, tree, xattr};

const OPAQUE_XATTR: &str = "trusted.overlay.opaque";

/// What had a member's name before.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Replaced {
    Nothing,
    /// Kept: a directory again.
    Directory,
    Whiteout,
}

pub(super) fn create_file(parent: BorrowedFd<'_>, name: &CStr) -> Placed<File> {
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    rustix::fs::openat(parent, name, flags, Mode::RUSR | Mode::WUSR)
        .map(File::from)
        .map_err(io_problem("create it"))
}

/// Writes the data of a file; runs of zeros become holes.
pub(super) fn write_extents<R: Read>(
    file: &File,
    member: &Member,
    archive: &mut Archive<R>,
    buffer: &mut [u8],
) -> Result<(), EntryError> {
    let failed = |source| {
        EntryError::entry(
            &member.path,
            Problem::Io {
                what: "write it",
                source,
            },
        )
    };
    for Extent { offset, length } in &member.extents {
        let (mut at, end) = (*offset, offset + length);
        while at < end {
            let wanted =
                usize::try_from(end - at).map_or(buffer.len(), |left| left.min(buffer.len()));
            let read = archive.read_data(&mut buffer[..wanted])?;
            if buffer[..read].iter().any(|byte| *byte != 0) {
                file.write_all_at(&buffer[..read], at).map_err(failed)?;
            }
            at += read as u64;
        }
    }
    set_length(file, member)
}

/// A hole at the end, or nothing but one.
pub(super) fn set_length(file: &File, member: &Member) -> Result<(), EntryError> {
    file.set_len(member.size).map_err(|source| {
        let what = "set its length";
        EntryError::entry(&member.path, Problem::Io { what, source })
    })
}

pub(super) fn new_directory(dir: BorrowedFd<'_>, name: &[u8], mode: u32) -> Placed<OwnedFd> {
    let name = c_string(name)?;
    match rustix::fs::mkdirat(dir, &name, Mode::from_raw_mode(mode)) {
        Ok(()) => {}
        // A dangling symbolic link: `openat2` did not find its target.
        Err(Errno::EXIST) => return Err(Problem::NotADirectory),
        Err(error) => return Err(io_problem("create a directory")(error)),
    }
    let made = tree::open_dir_at(dir, &name).map_err(io_problem("open a directory"))?;
    // Whatever the umask took.
    rustix::fs::fchmod(&made, Mode::from_raw_mode(mode)).map_err(io_problem("set a mode"))?;
    Ok(made)
}

pub(super) fn make_directory(
    parent: BorrowedFd<'_>,
    name: &CStr,
    member: &Member,
    replaced: Replaced,
) -> Placed<()> {
    let directory = match replaced {
        Replaced::Directory => tree::open_dir_at(parent, name).map_err(io_problem("open it"))?,
        Replaced::Nothing | Replaced::Whiteout => new_directory(parent, name.to_bytes(), 0o700)?,
    };
    if replaced == Replaced::Whiteout {
        set_opaque(&directory)?;
    }
    set_owner_and_mode(&directory, member)
}

/// With the path of its directory, the link may not climb above the root.
pub(super) fn make_symlink(
    parent: BorrowedFd<'_>,
    name: &CStr,
    member: &Member,
    stays: Option<&[u8]>,
) -> Placed<()> {
    let target = c_string(&member.link)?;
    if target.is_empty() {
        return Err(Problem::Field("link target"));
    }
    if stays.is_some_and(|path| escapes(path, &member.link)) {
        return Err(Problem::SymlinkEscapes(excerpt(&member.link)));
    }
    rustix::fs::symlinkat(&target, parent, name).map_err(io_problem("create it"))?;
    set_owner_and_time(parent, name, member)
}

pub(super) fn make_node(
    parent: BorrowedFd<'_>,
    name: &CStr,
    member: &Member,
    kind: FileType,
    device: u64,
) -> Placed<()> {
    rustix::fs::mknodat(parent, name, kind, Mode::empty(), device)
        .map_err(io_problem("create it"))?;
    set_owner_and_time(parent, name, member)?;
    // Follows no link: the name was made just now in a directory nobody else knows.
    rustix::fs::chmodat(
        parent,
        name,
        Mode::from_raw_mode(member.mode),
        AtFlags::empty(),
    )
    .map_err(io_problem("set its mode"))
}

fn set_owner_and_time(parent: BorrowedFd<'_>, name: &CStr, member: &Member) -> Placed<()> {
    let (uid, gid) = (Uid::from_raw(member.uid), Gid::from_raw(member.gid));
    rustix::fs::chownat(
        parent,
        name,
        Some(uid),
        Some(gid),
        AtFlags::SYMLINK_NOFOLLOW,
    )
    .map_err(io_problem("set its owner"))?;
    rustix::fs::utimensat(
        parent,
        name,
        &times(member.mtime),
        AtFlags::SYMLINK_NOFOLLOW,
    )
    .map_err(io_problem("set its time"))
}

/// Owner, then mode, and then attributes: `chown(2)` clears set-id bits and file capabilities.
pub(super) fn set_owner_and_mode(file: impl AsFd, member: &Member) -> Placed<()> {
    let file = file.as_fd();
    rustix::fs::fchown(
        file,
        Some(Uid::from_raw(member.uid)),
        Some(Gid::from_raw(member.gid)),
    )
    .map_err(io_problem("set its owner"))?;
    rustix::fs::fchmod(file, Mode::from_raw_mode(member.mode)).map_err(io_problem("set its mode"))
}

/// Those of the content, after owner and mode. `inherits` says that a directory on the way may have
/// given its default access control list to what is made in it: then only the archive's count.
pub(super) fn set_attributes(
    parent: BorrowedFd<'_>,
    name: &CStr,
    member: &Member,
    inherits: bool,
) -> Placed<()> {
    for acl in xattr::ACLS {
        if inherits && !member.xattrs.iter().any(|(name, _)| name == acl) {
            xattr::remove(parent, name, acl).map_err(io_problem("set its access control list"))?;
        }
    }
    for (attribute, value) in &member.xattrs {
        if !xattr::is_content(attribute) {
            continue;
        }
        let result = xattr::set(parent, name, attribute, value);
        if xattr::ACLS.contains(&attribute.as_slice()) {
            set_acl(result, value)?;
        } else {
            match result {
                Err(Errno::OPNOTSUPP) if attribute.starts_with(b"user.") => {}
                result => result.map_err(io_problem("set an attribute"))?,
            }
        }
    }
    Ok(())
}

/// The kernel checks lists; only that of another version looks like a filesystem without any
/// (`posix_acl_from_xattr`, `fs/posix_acl.c`). Leaving one out could let more people in.
fn set_acl(result: Result<(), Errno>, value: &[u8]) -> Placed<()> {
    match result {
        Err(Errno::INVAL | Errno::ACCESS) => Err(Problem::Field("access control list")),
        Err(Errno::OPNOTSUPP) if !value.starts_with(&acl::VERSION) => {
            Err(Problem::Field("access control list"))
        }
        result => result.map_err(io_problem("set its access control list")),
    }
}

pub(super) fn set_time(file: impl AsFd, member: &Member) -> Placed<()> {
    set_times(file, member.mtime).map_err(io_problem("set its time"))
}

pub(super) fn set_times(file: impl AsFd, time: Timespec) -> Result<(), Errno> {
    rustix::fs::futimens(file, &times(time))
}

/// When what `stat` describes was changed.
pub(super) fn mtime(stat: &Stat) -> Timespec {
    Timespec {
        tv_sec: stat.st_mtime,
        tv_nsec: stat.st_mtime_nsec.cast_signed(),
    }
}

fn times(time: Timespec) -> Timestamps {
    Timestamps {
        last_access: time,
        last_modification: time,
    }
}

pub(super) fn set_opaque(directory: &OwnedFd) -> Placed<()> {
    rustix::fs::fsetxattr(directory, OPAQUE_XATTR, b"y", XattrFlags::empty())
        .map_err(io_problem("make its directory opaque"))
}

/// Gives a directory the owner and mode of the one below.
pub(super) fn inherit(directory: BorrowedFd<'_>, below: &Stat) -> Result<(), Errno> {
    rustix::fs::fchown(
        directory,
        Some(Uid::from_raw(below.st_uid)),
        Some(Gid::from_raw(below.st_gid)),
    )?;
    rustix::fs::fchmod(directory, Mode::from_raw_mode(below.st_mode & 0o7777))
}
