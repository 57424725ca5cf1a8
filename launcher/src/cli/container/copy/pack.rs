//! A file or a tree as an archive: ustar headers, with PAX records for what those have no room for.

use std::collections::HashMap;
use std::ffi::{CStr, CString};
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};

use api::owner::IdMaps;
use rustix::fs::{Dir, FileType, Mode, OFlags, Stat, major, minor};
use rustix::io::Errno;
use tar::{Builder, EntryType, Header};

use super::NOBODY;
use super::place::Source;
use super::tree::{Tree, kind, stat_at};

const XATTR: &str = "SCHILY.xattr.";

type Records = Vec<(String, Vec<u8>)>;

/// Writes what is copied, called `called` in the archive, and everything below it. Sockets are left
/// out, and so is what goes meanwhile. Owners are those in the container whose `maps` these are.
pub(super) fn pack(
    source: &Source,
    called: &[u8],
    out: impl Write,
    maps: Option<&IdMaps>,
) -> io::Result<()> {
    let mut archive = Packer {
        tar: Builder::new(io::BufWriter::with_capacity(64 << 10, out)),
        links: HashMap::new(),
        maps,
    };
    let is_directory = archive.entry(source.parent.as_fd(), &source.name, called)?;
    if is_directory {
        let top = rustix::fs::openat(&source.parent, &source.name, DIRECTORY, Mode::empty())?;
        archive.below(&Tree::Directory(top), called)?;
    }
    archive.tar.finish()?;
    archive.tar.get_mut().flush()
}

const DIRECTORY: OFlags = OFlags::RDONLY
    .union(OFlags::DIRECTORY)
    .union(OFlags::NOFOLLOW)
    .union(OFlags::CLOEXEC);

struct Packer<'a, W: Write> {
    tar: Builder<W>,
    /// The path that a file with several links has in the archive.
    links: HashMap<(u64, u64), Vec<u8>>,
    maps: Option<&'a IdMaps>,
}

impl<W: Write> Packer<'_, W> {
    /// Directories before what is in them.
    fn below(&mut self, top: &Tree, called: &[u8]) -> io::Result<()> {
        let mut waiting: Vec<Vec<u8>> = vec![b".".to_vec()];
        while let Some(path) = waiting.pop() {
            let directory = match top.open(&path, DIRECTORY) {
                Ok(directory) => directory,
                Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => continue,
                Err(error) => return Err(error.into()),
            };
            if path != b"." && is_of_the_kernel(directory.as_fd())? {
                continue;
            }
            let mut deeper = Vec::new();
            for name in names(directory.as_fd())? {
                let below = [&path, b"/".as_slice(), name.to_bytes()].concat();
                // Without the dot that every path here starts with.
                let shown = [called, &below[1..]].concat();
                if self.entry(directory.as_fd(), &name, &shown)? {
                    deeper.push(below);
                }
            }
            waiting.extend(deeper.into_iter().rev());
        }
        Ok(())
    }

    /// Adds `name` of `dir` under `path`, and says whether it is a directory.
    fn entry(&mut self, dir: BorrowedFd<'_>, name: &CString, path: &[u8]) -> io::Result<bool> {
        let Some(stat) = stat_at(dir, name)? else {
            return Ok(false);
        };
        let plain = |kind| (kind, Vec::new());
        if let Some(first) = self.first_link(&stat, path) {
            self.member(&stat, path, EntryType::Link, &first, Vec::new())?;
            return Ok(false);
        }
        let (kind, link) = match kind(&stat) {
            FileType::RegularFile => return self.file(dir, name, path).map(|()| false),
            FileType::Directory => {
                let opened = rustix::fs::openat(dir, name, DIRECTORY, Mode::empty())?;
                let path = [path, b"/"].concat();
                let records = attributes(&opened)?;
                self.member(&stat, &path, EntryType::Directory, b"", records)?;
                return Ok(true);
            }
            FileType::Symlink => (
                EntryType::Symlink,
                rustix::fs::readlinkat(dir, name, Vec::new())?.into_bytes(),
            ),
            FileType::CharacterDevice => plain(EntryType::Char),
            FileType::BlockDevice => plain(EntryType::Block),
            FileType::Fifo => plain(EntryType::Fifo),
            _ => return Ok(false),
        };
        self.member(&stat, path, kind, &link, Vec::new())?;
        Ok(false)
    }

    fn first_link(&mut self, stat: &Stat, path: &[u8]) -> Option<Vec<u8>> {
        if stat.st_nlink < 2 || kind(stat) == FileType::Directory {
            return None;
        }
        let id = (stat.st_dev, stat.st_ino);
        let first = self.links.get(&id).cloned();
        if first.is_none() {
            self.links.insert(id, path.to_vec());
        }
        first
    }

    fn file(&mut self, dir: BorrowedFd<'_>, name: &CStr, path: &[u8]) -> io::Result<()> {
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let file = match rustix::fs::openat(dir, name, flags, Mode::empty()) {
            Ok(file) => File::from(file),
            Err(Errno::NOENT | Errno::LOOP | Errno::NXIO) => return Ok(()),
            Err(error) => return Err(error.into()),
        };
        // Of what was opened: the name may belong to something else by now.
        let mut stat = rustix::fs::fstat(&file)?;
        if kind(&stat) != FileType::RegularFile {
            return Ok(());
        }
        let records = attributes(&file)?;
        if stat.st_size == 0 || stat.st_blocks == 0 {
            // Files of /proc and /sys do not tell how long they are.
            let mut content = Vec::new();
            (&file).take(UNTOLD).read_to_end(&mut content)?;
            if stat.st_size == 0 || (content.len() as u64) < UNTOLD {
                stat.st_size = i64::try_from(content.len()).unwrap_or_default();
                return self.content(&stat, path, records, &mut content.as_slice());
            }
            rustix::fs::seek(&file, rustix::fs::SeekFrom::Start(0))?;
        }
        self.content(&stat, path, records, &mut &file)
    }

    fn content(
        &mut self,
        stat: &Stat,
        path: &[u8],
        records: Records,
        content: &mut dyn Read,
    ) -> io::Result<()> {
        let size = stat.st_size.cast_unsigned();
        self.member(stat, path, EntryType::Regular, b"", records)?;
        let copied = io::copy(&mut content.take(size), self.tar.get_mut())?;
        // Cut short while it was read; the header has promised its bytes.
        let missing = size - copied + (size.next_multiple_of(512) - size);
        io::copy(&mut io::repeat(0).take(missing), self.tar.get_mut()).map(drop)
    }

    fn member(
        &mut self,
        stat: &Stat,
        path: &[u8],
        kind: EntryType,
        link: &[u8],
        mut records: Records,
    ) -> io::Result<()> {
        let mut header = Header::new_ustar();
        header.set_entry_type(kind);
        header.set_mode(stat.st_mode & 0o7777);
        let (uid, gid) = match self.maps {
            None => (stat.st_uid, stat.st_gid),
            Some(maps) => (
                maps.container_uid(stat.st_uid).unwrap_or(NOBODY),
                maps.container_gid(stat.st_gid).unwrap_or(NOBODY),
            ),
        };
        header.set_uid(uid.into());
        header.set_gid(gid.into());
        header.set_size(match kind {
            EntryType::Regular => stat.st_size.cast_unsigned(),
            _ => 0,
        });
        header.set_mtime(u64::try_from(stat.st_mtime).unwrap_or_default());
        if matches!(kind, EntryType::Char | EntryType::Block) {
            header.set_device_major(major(stat.st_rdev))?;
            header.set_device_minor(minor(stat.st_rdev))?;
        }
        for (key, value, field) in [("path", path, 0..100), ("linkpath", link, 157..257)] {
            let short = value.len().min(field.len());
            if value.len() > short {
                records.push((key.to_owned(), value.to_vec()));
            }
            header.as_mut_bytes()[field.start..field.start + short]
                .copy_from_slice(&value[..short]);
        }
        if !records.is_empty() {
            let records = records
                .iter()
                .map(|(key, value)| (key.as_str(), value.as_slice()));
            self.tar.append_pax_extensions(records)?;
        }
        header.set_cksum();
        self.tar.get_mut().write_all(header.as_bytes())
    }
}

/// Bytes of a file that does not tell how long it is.
const UNTOLD: u64 = 4 << 20;

/// Bytes of all names, and of one value: `XATTR_LIST_MAX` and `XATTR_SIZE_MAX`.
const MAX_ATTRIBUTES: usize = 64 << 10;

/// What copying keeps: file capabilities, and the user's own.
fn attributes(file: &impl AsFd) -> io::Result<Records> {
    let mut names = vec![0u8; MAX_ATTRIBUTES];
    let length = match rustix::fs::flistxattr(file, &mut *names) {
        Err(Errno::OPNOTSUPP) => 0,
        length => length?,
    };
    let mut records = Vec::new();
    for name in names[..length].split(|byte| *byte == 0) {
        // A PAX key is text.
        let Ok(name) = str::from_utf8(name) else {
            continue;
        };
        if !name.starts_with("user.") && name != "security.capability" {
            continue;
        }
        let mut value = vec![0u8; MAX_ATTRIBUTES];
        match rustix::fs::fgetxattr(file, name, &mut *value) {
            Ok(length) => {
                value.truncate(length);
                records.push((format!("{XATTR}{name}"), value));
            }
            Err(Errno::NODATA) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(records)
}

/// Whether a directory is of a kernel file system, whose files are no data: a tree is copied
/// without their content.
fn is_of_the_kernel(directory: BorrowedFd<'_>) -> Result<bool, Errno> {
    // linux/magic.h: proc, sysfs, cgroup 1 and 2, devpts, mqueue, debugfs, tracefs, bpffs.
    const KERNEL: [i64; 9] = [
        0x9fa0,
        0x6265_6572,
        0x0027_e0eb,
        0x6367_7270,
        0x1cd1,
        0x1980_0202,
        0x6462_6720,
        0x7472_6163,
        0xcafe_4a11,
    ];
    Ok(KERNEL.contains(&rustix::fs::fstatfs(directory)?.f_type))
}

/// The names in a directory in order, without `.` and `..`.
fn names(dir: BorrowedFd<'_>) -> Result<Vec<CString>, Errno> {
    let mut names = Vec::new();
    for entry in Dir::read_from(dir)? {
        let entry = entry?;
        let name = entry.file_name();
        if name != c"." && name != c".." {
            names.push(name.to_owned());
        }
    }
    names.sort();
    Ok(names)
}
