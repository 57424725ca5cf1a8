//! An archive into a directory: each member's parent is opened anew inside the tree, and the member
//! is made there by its name alone.

use std::ffi::CString;
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::FileExt;

use api::owner::IdMaps;
use rustix::fs::{
    AtFlags, FileType, Gid, Mode, OFlags, Timespec, Timestamps, Uid, XattrFlags, makedev,
};
use rustix::io::Errno;
use tar::{Archive, Entry, EntryType};

use super::NOBODY;
use super::error::{CopyError, Problem};
use super::tree::{Tree, kind, stat_at};

const XATTR: &[u8] = b"SCHILY.xattr.";

/// Whose the copies are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Owner<'a> {
    /// Whose the originals are, by number.
    Kept,
    /// Those of the container whose maps these are: whose the originals are, by number.
    Mapped(&'a IdMaps),
    /// This process's.
    Own,
}

/// Unpacks `archive` into a directory and returns how many bytes of files it held.
pub(super) fn unpack(
    archive: impl Read,
    tree: &Tree,
    directory: &[u8],
    owner: Owner<'_>,
) -> Result<u64, CopyError> {
    let Owner::Mapped(maps) = owner else {
        return unpack_as_is(archive, tree, directory, owner);
    };
    // Only who has an id there can make files.
    let root = maps.host_uid(0).zip(maps.host_gid(0));
    let root = root.ok_or(CopyError::NoRoot)?;
    sys::owner::acting_as(root, || unpack_as_is(archive, tree, directory, owner))
        .map_err(CopyError::Archive)?
}

fn unpack_as_is(
    archive: impl Read,
    tree: &Tree,
    directory: &[u8],
    owner: Owner<'_>,
) -> Result<u64, CopyError> {
    let mut unpacker = Unpacker {
        tree,
        directory,
        owner,
        directories: Vec::new(),
        bytes: 0,
    };
    let mut archive = Archive::new(archive);
    for entry in archive.entries().map_err(CopyError::Archive)? {
        unpacker.add(&mut entry.map_err(CopyError::Archive)?)?;
    }
    unpacker.finish();
    Ok(unpacker.bytes)
}

struct Unpacker<'a> {
    tree: &'a Tree,
    directory: &'a [u8],
    owner: Owner<'a>,
    /// Their times are set last: what is made inside changes them.
    directories: Vec<(OwnedFd, Timespec)>,
    bytes: u64,
}

/// Directories that are held open for their times; those of more are as they come out.
const MAX_DIRECTORIES: usize = 256;

/// A member's place: an open directory and a name in it.
struct Place {
    parent: OwnedFd,
    name: CString,
}

type Made<T> = Result<T, Problem>;

impl Unpacker<'_> {
    fn add(&mut self, entry: &mut Entry<'_, impl Read>) -> Result<(), CopyError> {
        if entry.header().entry_type().is_pax_global_extensions() {
            return Ok(());
        }
        let path = entry.path_bytes().into_owned();
        self.make(entry, &path).map_err(|problem| CopyError::Entry {
            path: String::from_utf8_lossy(&path).into_owned(),
            problem,
        })
    }

    fn make(&mut self, entry: &mut Entry<'_, impl Read>, path: &[u8]) -> Made<()> {
        let parts = parts(path).ok_or(Problem::Outside)?;
        let Some(place) = self.place(&parts)? else {
            // The destination itself, which stays as it is.
            return Ok(());
        };
        let kind = entry.header().entry_type();
        self.clear(&place, kind == EntryType::Directory)?;
        let metadata = Metadata::read(entry)?;
        match kind {
            EntryType::Directory => self.directory(&place, &metadata),
            EntryType::Regular | EntryType::Continuous | EntryType::GNUSparse => {
                self.file(&place, entry, &metadata)
            }
            EntryType::Link => self.hard_link(&place, entry),
            EntryType::Symlink => {
                let target = entry.link_name_bytes().ok_or(Problem::Name)?;
                let target = c_string(&target)?;
                rustix::fs::symlinkat(&target, &place.parent, &place.name)
                    .map_err(failed("create it"))?;
                self.by_name(&place, &metadata)
            }
            EntryType::Char => self.node(&place, entry, &metadata, FileType::CharacterDevice),
            EntryType::Block => self.node(&place, entry, &metadata, FileType::BlockDevice),
            EntryType::Fifo => self.node(&place, entry, &metadata, FileType::Fifo),
            other => Err(Problem::Kind(char::from(other.as_byte()))),
        }
    }

    /// Finds a member's place, making the directories on the way that the archive leaves out.
    /// Nothing for the destination itself.
    fn place(&self, parts: &[&[u8]]) -> Made<Option<Place>> {
        let Some((name, above)) = parts.split_last() else {
            return Ok(None);
        };
        let mut path = self.directory.to_vec();
        let mut parent = self.tree.directory(&path).map_err(failed("open"))?;
        for part in above {
            path.push(b'/');
            path.extend_from_slice(part);
            parent = match self.tree.directory(&path) {
                Err(Errno::NOENT) => {
                    make_directory(parent.as_fd(), &c_string(part)?)?;
                    self.tree.directory(&path)
                }
                found => found,
            }
            .map_err(failed("open its directory"))?;
        }
        let name = c_string(name)?;
        Ok(Some(Place { parent, name }))
    }

    /// Removes what has the place, unless a directory stays one.
    fn clear(&self, place: &Place, for_directory: bool) -> Made<()> {
        let found =
            stat_at(place.parent.as_fd(), &place.name).map_err(failed("look at its place"))?;
        let Some(stat) = found else {
            return Ok(());
        };
        match (kind(&stat) == FileType::Directory, for_directory) {
            (true, true) => Ok(()),
            (true, false) => Err(Problem::DirectoryInTheWay),
            (false, true) => Err(Problem::FileInTheWay),
            (false, false) => {
                match rustix::fs::unlinkat(&place.parent, &place.name, AtFlags::empty()) {
                    // Something is mounted on it, such as /etc/hosts: a file is written in place.
                    Ok(()) | Err(Errno::NOENT | Errno::BUSY) => Ok(()),
                    Err(error) => Err(failed("replace it")(error)),
                }
            }
        }
    }

    fn directory(&mut self, place: &Place, metadata: &Metadata) -> Made<()> {
        let (parent, name) = (place.parent.as_fd(), &place.name);
        match make_directory(parent, name) {
            Err(Problem::Io { source, .. }) if source.kind() == io::ErrorKind::AlreadyExists => {}
            made => made?,
        }
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let directory =
            rustix::fs::openat(parent, name, flags, Mode::empty()).map_err(failed("open it"))?;
        self.describe(directory.as_fd(), metadata)?;
        if self.directories.len() < MAX_DIRECTORIES {
            self.directories.push((directory, metadata.mtime));
        }
        Ok(())
    }

    fn file(
        &mut self,
        place: &Place,
        entry: &mut Entry<'_, impl Read>,
        metadata: &Metadata,
    ) -> Made<()> {
        let new = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW;
        // A FIFO that has the place now must not hold us up.
        let old = OFlags::WRONLY | OFlags::TRUNC | OFlags::NOFOLLOW | OFlags::NONBLOCK;
        let open = |flags: OFlags| {
            let mode = Mode::RUSR | Mode::WUSR;
            rustix::fs::openat(&place.parent, &place.name, flags | OFlags::CLOEXEC, mode)
        };
        let file = match open(new) {
            Err(Errno::EXIST) => open(old),
            made => made,
        };
        let file = File::from(file.map_err(failed("create it"))?);
        let written = write(&file, entry).map_err(failed("write it"))?;
        self.bytes += written;
        self.describe(file.as_fd(), metadata)?;
        rustix::fs::futimens(&file, &times(metadata.mtime)).map_err(failed("set its time"))
    }

    fn hard_link(&self, place: &Place, entry: &Entry<'_, impl Read>) -> Made<()> {
        let target = entry.link_name_bytes().ok_or(Problem::Name)?;
        let parts = parts(&target).ok_or(Problem::Outside)?;
        let target = self.place(&parts)?.ok_or(Problem::Name)?;
        rustix::fs::linkat(
            &target.parent,
            &target.name,
            &place.parent,
            &place.name,
            AtFlags::empty(),
        )
        .map_err(failed("link it"))
    }

    fn node(
        &self,
        place: &Place,
        entry: &Entry<'_, impl Read>,
        metadata: &Metadata,
        kind: FileType,
    ) -> Made<()> {
        let number = |read: io::Result<Option<u32>>| {
            read.map(Option::unwrap_or_default)
                .map_err(failed("read its device number"))
        };
        // The fields of others may hold anything.
        let device = match kind {
            FileType::Fifo => 0,
            _ => makedev(
                number(entry.header().device_major())?,
                number(entry.header().device_minor())?,
            ),
        };
        rustix::fs::mknodat(&place.parent, &place.name, kind, Mode::empty(), device)
            .map_err(failed("create it"))?;
        // Owner first: changing it clears bits of the mode. Neither follows a link that has taken
        // the place since.
        self.by_name(place, metadata)?;
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let made = rustix::fs::openat(&place.parent, &place.name, flags, Mode::empty())
            .map_err(failed("open it"))?;
        rustix::fs::chmod(super::tree::magic_path(&made), metadata.mode)
            .map_err(failed("set its mode"))
    }

    /// Owner and time of what cannot be opened.
    fn by_name(&self, place: &Place, metadata: &Metadata) -> Made<()> {
        let (parent, name, flags) = (&place.parent, &place.name, AtFlags::SYMLINK_NOFOLLOW);
        if let Some((uid, gid)) = self.owner(metadata) {
            rustix::fs::chownat(parent, name, Some(uid), Some(gid), flags)
                .map_err(failed("set its owner"))?;
        }
        rustix::fs::utimensat(parent, name, &times(metadata.mtime), flags)
            .map_err(failed("set its time"))
    }

    /// Owner, then mode and capabilities: `chown(2)` clears set-id bits and file capabilities.
    fn describe(&self, file: BorrowedFd<'_>, metadata: &Metadata) -> Made<()> {
        if let Some((uid, gid)) = self.owner(metadata) {
            rustix::fs::fchown(file, Some(uid), Some(gid)).map_err(failed("set its owner"))?;
        }
        rustix::fs::fchmod(file, metadata.mode).map_err(failed("set its mode"))?;
        for (name, value) in &metadata.attributes {
            match rustix::fs::fsetxattr(file, name.as_slice(), value, XattrFlags::empty()) {
                Ok(()) | Err(Errno::OPNOTSUPP) => {}
                Err(error) => return Err(failed("set an attribute")(error)),
            }
        }
        Ok(())
    }

    fn owner(&self, metadata: &Metadata) -> Option<(Uid, Gid)> {
        let (uid, gid) = (metadata.uid, metadata.gid);
        match self.owner {
            Owner::Kept => Some((uid, gid)),
            Owner::Own => None,
            Owner::Mapped(maps) => Some((
                Uid::from_raw(maps.host_uid(uid.as_raw()).or(maps.host_uid(NOBODY))?),
                Gid::from_raw(maps.host_gid(gid.as_raw()).or(maps.host_gid(NOBODY))?),
            )),
        }
    }

    fn finish(&self) {
        for (directory, time) in self.directories.iter().rev() {
            // Everything is copied; a time is no reason to call it failed.
            rustix::fs::futimens(directory, &times(*time)).unwrap_or_default();
        }
    }
}

/// What a member's headers say about it.
struct Metadata {
    uid: Uid,
    gid: Gid,
    mode: Mode,
    mtime: Timespec,
    attributes: Vec<(Vec<u8>, Vec<u8>)>,
}

impl Metadata {
    fn read(entry: &mut Entry<'_, impl Read>) -> Made<Self> {
        let mut attributes = Vec::new();
        let unreadable = failed("read its headers");
        for record in entry
            .pax_extensions()
            .map_err(&unreadable)?
            .into_iter()
            .flatten()
        {
            let record = record.map_err(&unreadable)?;
            if let Some(name) = record.key_bytes().strip_prefix(XATTR)
                && (name.starts_with(b"user.") || name == b"security.capability")
            {
                attributes.push((name.to_vec(), record.value_bytes().to_vec()));
            }
        }
        let header = entry.header();
        let id = |id: io::Result<u64>| {
            let id = u32::try_from(id?).ok().filter(|id| *id != u32::MAX);
            id.ok_or_else(|| io::Error::other("an owner's number is too large"))
        };
        Ok(Self {
            uid: Uid::from_raw(id(header.uid()).map_err(&unreadable)?),
            gid: Gid::from_raw(id(header.gid()).map_err(&unreadable)?),
            mode: Mode::from_raw_mode(header.mode().map_err(&unreadable)? & 0o7777),
            mtime: Timespec {
                tv_sec: header.mtime().map_err(&unreadable)?.cast_signed(),
                tv_nsec: 0,
            },
            attributes,
        })
    }
}

/// The components of a member's path, as the root of the archive sees them; nothing when they lead
/// out of it.
fn parts(path: &[u8]) -> Option<Vec<&[u8]>> {
    let mut parts = Vec::new();
    for part in path.split(|byte| *byte == b'/') {
        match part {
            b"" | b"." => {}
            b".." => {
                parts.pop()?;
            }
            part => parts.push(part),
        }
    }
    Some(parts)
}

/// Writes the data of a file; runs of zeros become holes.
fn write(file: &File, content: &mut impl Read) -> io::Result<u64> {
    let mut buffer = vec![0; 64 << 10];
    let mut at = 0;
    loop {
        let read = match content.read(&mut buffer) {
            Ok(0) => break,
            Ok(read) => read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(error),
        };
        if buffer[..read].iter().any(|byte| *byte != 0) {
            file.write_all_at(&buffer[..read], at)?;
        }
        at += read as u64;
    }
    // Files of /proc and /sys have no length that could be set.
    if rustix::fs::fstat(file)?.st_size.cast_unsigned() < at {
        file.set_len(at)?;
    }
    Ok(at)
}

fn make_directory(parent: BorrowedFd<'_>, name: &CString) -> Made<()> {
    rustix::fs::mkdirat(parent, name, Mode::from_raw_mode(0o755)).map_err(failed("create it"))
}

fn c_string(bytes: &[u8]) -> Made<CString> {
    CString::new(bytes).map_err(|_nul| Problem::Name)
}

fn times(time: Timespec) -> Timestamps {
    Timestamps {
        last_access: time,
        last_modification: time,
    }
}

fn failed<E: Into<io::Error>>(what: &'static str) -> impl Fn(E) -> Problem {
    move |error| {
        let source = error.into();
        match source.kind() {
            io::ErrorKind::ReadOnlyFilesystem => Problem::ReadOnly,
            _ => Problem::Io { what, source },
        }
    }
}
