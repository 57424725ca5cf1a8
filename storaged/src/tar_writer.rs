//! Directory entries as members of an archive: ustar headers, with PAX records for what those have
//! no room for.

use std::collections::HashMap;
use std::ffi::CStr;
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{FileType, Mode, OFlags, ResolveFlags, Stat, major, minor};
use rustix::io::Errno;
use tar::{Builder, EntryType, Header};

use crate::reason::named;
use crate::shown::Shown;
use crate::{tree, xattr};

const XATTR: &str = "SCHILY.xattr.";
/// `.wh.NAME`: NAME is gone (OCI image specification, "Whiteouts").
const WHITEOUT: &[u8] = b".wh.";

pub(crate) struct TarWriter<W: Write> {
    tar: Builder<W>,
    /// The path that a file with several links has in the archive.
    links: HashMap<(u64, u64), Vec<u8>>,
    shown: Shown,
}

impl<W: Write> TarWriter<W> {
    pub(crate) fn new(out: W) -> Self {
        Self {
            tar: Builder::new(out),
            links: HashMap::new(),
            shown: Shown::default(),
        }
    }

    /// What is added is of trees that are shown so.
    pub(crate) fn of(self, shown: Shown) -> Self {
        Self { shown, ..self }
    }

    /// Adds `name` of `dir` under `path`, and says whether it is a directory. Sockets are left out,
    /// and so is what goes meanwhile.
    pub(crate) fn entry(
        &mut self,
        dir: BorrowedFd<'_>,
        name: &CStr,
        path: &[u8],
    ) -> io::Result<bool> {
        let Some(stat) = tree::stat_at(dir, name)? else {
            return Ok(false);
        };
        if let Some(first) = self.first_link(&stat, path) {
            self.member(&stat, path, EntryType::Link, &first, Vec::new())?;
            return Ok(false);
        }
        let kind = match FileType::from_raw_mode(stat.st_mode) {
            FileType::RegularFile => return self.file(dir, name, path).map(|()| false),
            FileType::Symlink => {
                let target = rustix::fs::readlinkat(dir, name, Vec::new())?;
                let target = target.to_bytes();
                self.member(&stat, path, EntryType::Symlink, target, Vec::new())?;
                return Ok(false);
            }
            FileType::Directory => EntryType::Directory,
            FileType::CharacterDevice => EntryType::Char,
            FileType::BlockDevice => EntryType::Block,
            FileType::Fifo => EntryType::Fifo,
            _ => return Ok(false),
        };
        let is_dir = kind == EntryType::Directory;
        let slash: &[u8] = if is_dir { b"/" } else { b"" };
        let records = self.attributes(dir, name)?;
        self.member(&stat, &[path, slash].concat(), kind, b"", records)?;
        Ok(is_dir)
    }

    /// Adds the deletion of `path`.
    pub(crate) fn deletion(&mut self, path: &[u8]) -> io::Result<()> {
        let name_at = path
            .iter()
            .rposition(|byte| *byte == b'/')
            .map_or(0, |at| at + 1);
        let (parent, name) = path.split_at(name_at);
        let mut header = Header::new_ustar();
        header.set_entry_type(EntryType::Regular);
        header.set_mode(0);
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(0);
        header.set_size(0);
        self.append(
            &mut header,
            &[parent, WHITEOUT, name].concat(),
            b"",
            Vec::new(),
        )
    }

    /// Adds a file that is nobody's.
    pub(crate) fn text(&mut self, path: &[u8], content: &[u8]) -> io::Result<()> {
        let mut header = Header::new_ustar();
        header.set_entry_type(EntryType::Regular);
        header.set_mode(0o644);
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(0);
        header.set_size(content.len() as u64);
        self.append(&mut header, path, b"", Vec::new())?;
        self.tar.get_mut().write_all(content)?;
        let padding = content.len().next_multiple_of(512) - content.len();
        self.tar.get_mut().write_all(&[0; 512][..padding])
    }

    /// Adds a whole tree under `path`, directories before what is in them.
    pub(crate) fn tree(&mut self, root: &OwnedFd, path: &[u8]) -> io::Result<()> {
        self.entry(
            root.as_fd(),
            c".",
            if path.is_empty() { b"." } else { path },
        )?;
        let mut waiting: Vec<Vec<u8>> = vec![Vec::new()];
        while let Some(directory) = waiting.pop() {
            let Some(opened) = open(root, &directory)? else {
                continue;
            };
            let mut names = tree::names(opened.as_fd())?;
            names.sort();
            let mut deeper = Vec::new();
            for name in names {
                let below = tree::join(&directory, name.to_bytes());
                let added = self.entry(opened.as_fd(), &name, &tree::join(path, &below));
                if added.map_err(|error| named(&below, error))? {
                    deeper.push(below);
                }
            }
            waiting.extend(deeper.into_iter().rev());
        }
        Ok(())
    }

    /// Where the archive goes; all that was added so far is there.
    pub(crate) fn out(&mut self) -> &mut W {
        self.tar.get_mut()
    }

    /// Ends the archive: without this it is none.
    pub(crate) fn finish(mut self) -> io::Result<W> {
        self.tar.finish()?;
        self.tar.get_mut().flush()?;
        self.tar.into_inner()
    }

    fn first_link(&mut self, stat: &Stat, path: &[u8]) -> Option<Vec<u8>> {
        if stat.st_nlink < 2 || tree::is_dir(stat) {
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
        let stat = rustix::fs::fstat(&file)?;
        if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
            return Ok(());
        }
        let size = stat.st_size.cast_unsigned();
        let records = self.attributes(dir, name)?;
        self.member(&stat, path, EntryType::Regular, b"", records)?;
        let copied = io::copy(&mut (&file).take(size), self.tar.get_mut())?;
        // Cut short while it was read; the header has promised its bytes.
        let missing = size - copied + (size.next_multiple_of(512) - size);
        io::copy(&mut io::repeat(0).take(missing), self.tar.get_mut()).map(drop)
    }

    fn attributes(&self, dir: BorrowedFd<'_>, name: &CStr) -> io::Result<Vec<(String, Vec<u8>)>> {
        let record = |(name, value): (Vec<u8>, Vec<u8>)| {
            // A PAX key is text.
            Some((format!("{XATTR}{}", String::from_utf8(name).ok()?), value))
        };
        let attributes = self.shown.attributes(xattr::of_content(dir, name)?);
        Ok(attributes.into_iter().filter_map(record).collect())
    }

    fn member(
        &mut self,
        stat: &Stat,
        path: &[u8],
        kind: EntryType,
        link: &[u8],
        mut records: Vec<(String, Vec<u8>)>,
    ) -> io::Result<()> {
        let stat = &self.shown.stat(*stat);
        let mut header = Header::new_ustar();
        header.set_entry_type(kind);
        header.set_mode(stat.st_mode & 0o7777);
        header.set_uid(stat.st_uid.into());
        header.set_gid(stat.st_gid.into());
        header.set_size(match kind {
            EntryType::Regular => stat.st_size.cast_unsigned(),
            _ => 0,
        });
        header.set_mtime(u64::try_from(stat.st_mtime).unwrap_or_default());
        if stat.st_mtime < 0 || stat.st_mtime_nsec > 0 {
            records.push(("mtime".to_owned(), timestamp(stat).into_bytes()));
        }
        if matches!(kind, EntryType::Char | EntryType::Block) {
            header.set_device_major(major(stat.st_rdev))?;
            header.set_device_minor(minor(stat.st_rdev))?;
        }
        self.append(&mut header, path, link, records)
    }

    fn append(
        &mut self,
        header: &mut Header,
        path: &[u8],
        link: &[u8],
        mut records: Vec<(String, Vec<u8>)>,
    ) -> io::Result<()> {
        for (key, value, field) in [("path", path, 0..100), ("linkpath", link, 157..257)] {
            let short = value.len().min(field.len());
            if value.len() > short {
                records.push((key.to_owned(), value.to_vec()));
            }
            header.as_mut_bytes()[field][..short].copy_from_slice(&value[..short]);
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

/// A directory of the tree; nothing if somebody has moved it meanwhile.
pub(crate) fn open(root: &OwnedFd, path: &[u8]) -> Result<Option<OwnedFd>, Errno> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW;
    let within = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS;
    match tree::resolve(root.as_fd(), path, flags, within) {
        Ok(directory) => Ok(Some(directory)),
        Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Seconds with a fraction; nanoseconds count upwards from the second below, also before 1970.
fn timestamp(stat: &Stat) -> String {
    let nanoseconds = i128::from(stat.st_mtime) * 1_000_000_000 + i128::from(stat.st_mtime_nsec);
    let (sign, nanoseconds) = if nanoseconds < 0 {
        ("-", -nanoseconds)
    } else {
        ("", nanoseconds)
    };
    let (seconds, fraction) = (nanoseconds / 1_000_000_000, nanoseconds % 1_000_000_000);
    format!("{sign}{seconds}.{fraction:09}")
}
