//! Where the file content of an archive is on disk, for the archive to be put together again.
//!
//! A file that the same archive replaces later on is moved beside the tree instead of being
//! deleted: its bytes are part of the stream, and nowhere else.

use std::collections::HashMap;
use std::ffi::CStr;
use std::fs::File;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;

use rustix::fs::{CWD, FileType, Mode, RenameFlags, Stat};
use rustix::io::Errno;

use super::Problem;
use super::place::{Placed, io_problem};
use crate::tree;

pub(super) struct Contents {
    /// Made when first needed.
    replaced: PathBuf,
    /// The number of the content that a file holds, by inode number.
    numbers: HashMap<u64, u32>,
}

impl Contents {
    pub(super) fn new(replaced: PathBuf) -> Self {
        Self {
            replaced,
            numbers: HashMap::new(),
        }
    }

    pub(super) fn add(&mut self, file: &File, number: u32) -> Placed<()> {
        let stat = rustix::fs::fstat(file).map_err(io_problem("look at it"))?;
        self.numbers.insert(stat.st_ino, number);
        Ok(())
    }

    /// Moves content out of `name` in `dir`, which is about to be deleted.
    pub(super) fn keep(
        &mut self,
        dir: BorrowedFd<'_>,
        name: &CStr,
        stat: &Stat,
    ) -> Result<(), Errno> {
        match FileType::from_raw_mode(stat.st_mode) {
            FileType::RegularFile => self.keep_file(dir, name, stat.st_ino),
            FileType::Directory => {
                let inside = tree::open_dir_at(dir, name)?;
                for name in tree::names(inside.as_fd())? {
                    if let Some(stat) = tree::stat_at(inside.as_fd(), &name)? {
                        self.keep(inside.as_fd(), &name, &stat)?;
                    }
                }
                Ok(())
            }
            _ => Ok(()),
        }
    }

    fn keep_file(&mut self, dir: BorrowedFd<'_>, name: &CStr, inode: u64) -> Result<(), Errno> {
        let Some(number) = self.numbers.get(&inode) else {
            return Ok(());
        };
        match rustix::fs::mkdir(&self.replaced, Mode::RWXU) {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(error) => return Err(error),
        }
        let to = self.replaced.join(number.to_string());
        match rustix::fs::renameat_with(dir, name, CWD, to, RenameFlags::NOREPLACE) {
            // Kept already, under another of its names.
            Err(Errno::EXIST) => Ok(()),
            result => result,
        }
    }
}

/// The path of an open file, relative to the open directory `root` that it lies in, with no symbolic
/// link in it.
pub(super) fn real_path(root: &OwnedFd, file: &File) -> Placed<Vec<u8>> {
    let name = |fd: BorrowedFd<'_>| {
        let link = format!("/proc/self/fd/{}", fd.as_raw_fd());
        rustix::fs::readlink(link, Vec::new()).map_err(io_problem("read its place in /proc"))
    };
    let (root, file) = (name(root.as_fd())?, name(file.as_fd())?);
    file.to_bytes()
        .strip_prefix(root.to_bytes())
        .and_then(|path| path.strip_prefix(b"/"))
        .map(<[u8]>::to_vec)
        .ok_or(Problem::LeavesLayer)
}
