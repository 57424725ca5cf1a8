//! Files inside a container's root file system, which may hold any symbolic link.
//!
//! Every path is resolved by openat2(2) with `RESOLVE_IN_ROOT`, so that `/etc -> /` or
//! `../../..` in an image never reaches the host.

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Component, Path};

use rustix::fs::{Mode, OFlags, ResolveFlags, mkdirat, open, openat2};
use rustix::io::Errno;

/// An image's `passwd` is small; a hostile one must not fill the memory.
const MAX_FILE_BYTES: u64 = 1 << 20;

/// An open root file system.
#[derive(Debug)]
pub(crate) struct Rootfs {
    root: OwnedFd,
}

impl AsFd for Rootfs {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.root.as_fd()
    }
}

impl Rootfs {
    pub(crate) fn open(path: &Path) -> io::Result<Self> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        Ok(Self {
            root: open(path, flags, Mode::empty())?,
        })
    }

    /// What has been opened, or is mounted nowhere.
    pub(crate) fn of(root: OwnedFd) -> Self {
        Self { root }
    }

    /// The content of a text file; empty when there is none.
    pub(crate) fn read(&self, path: &str) -> io::Result<String> {
        // Not blocked by a FIFO that an image put there.
        let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY;
        let file = match self.open_inside(Path::new(path), flags) {
            Ok(file) => File::from(file),
            Err(Errno::NOENT | Errno::NOTDIR) => return Ok(String::new()),
            Err(errno) => return Err(errno.into()),
        };
        let mut bytes = Vec::new();
        file.take(MAX_FILE_BYTES).read_to_end(&mut bytes)?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    }

    /// Makes a directory and its parents. Existing ones are left as they are.
    pub(crate) fn create_dir_all(&self, path: &str) -> io::Result<()> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let mut done = Path::new("/").to_owned();
        for component in Path::new(path).components() {
            let (Component::Normal(_) | Component::ParentDir) = component else {
                continue;
            };
            let name = component.as_os_str();
            let next = done.join(name);
            match self.open_inside(&next, flags) {
                Ok(_) => {}
                Err(Errno::NOENT) => {
                    let parent = self.open_inside(&done, flags)?;
                    mkdirat(&parent, name, Mode::from_raw_mode(0o755))?;
                }
                Err(errno) => return Err(errno.into()),
            }
            done = next;
        }
        Ok(())
    }

    /// Makes what something can be mounted on, a directory or an empty file, if nothing is there.
    pub(crate) fn create_mount_point(&self, path: &str, is_dir: bool) -> io::Result<()> {
        if is_dir {
            return self.create_dir_all(path);
        }
        let path = Path::new(path);
        if self
            .open_inside(path, OFlags::PATH | OFlags::CLOEXEC)
            .is_ok()
        {
            return Ok(());
        }
        let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
            return Err(Errno::INVAL.into());
        };
        self.create_dir_all(&parent.to_string_lossy())?;
        let parent = self.open_inside(parent, OFlags::PATH | OFlags::CLOEXEC)?;
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW;
        let mode = Mode::from_raw_mode(0o644);
        rustix::fs::openat(&parent, name, flags | OFlags::CLOEXEC, mode)?;
        Ok(())
    }

    /// What is there, without opening it to be read.
    pub(crate) fn find(&self, path: &Path) -> io::Result<OwnedFd> {
        Ok(self.open_inside(path, OFlags::PATH | OFlags::CLOEXEC)?)
    }

    fn open_inside(&self, path: &Path, flags: OFlags) -> rustix::io::Result<OwnedFd> {
        // The kernel asks for another try when a rename raced with the walk (openat2(2), EAGAIN).
        const ATTEMPTS: usize = 32;
        let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
        for _ in 1..ATTEMPTS {
            match openat2(&self.root, path, flags, Mode::empty(), resolve) {
                Err(Errno::AGAIN | Errno::INTR) => {}
                outcome => return outcome,
            }
        }
        openat2(&self.root, path, flags, Mode::empty(), resolve)
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn links_stay_inside_the_root() {
        let outside = tempfile::tempdir().unwrap();
        fs::write(outside.path().join("passwd"), "host secrets").unwrap();
        let root = tempfile::tempdir().unwrap();
        symlink(outside.path(), root.path().join("etc")).unwrap();
        let rootfs = Rootfs::open(root.path()).unwrap();
        assert_eq!(rootfs.read("/etc/passwd").unwrap(), "");
        symlink("/real", root.path().join("alias")).unwrap();
        fs::create_dir(root.path().join("real")).unwrap();
        rootfs.create_dir_all("/alias/../../alias/deep/er").unwrap();
        assert!(root.path().join("real/deep/er").is_dir());
    }

    #[test]
    fn reads_what_is_there() {
        let root = tempfile::tempdir().unwrap();
        fs::create_dir(root.path().join("etc")).unwrap();
        fs::write(root.path().join("etc/group"), "root:x:0:\n").unwrap();
        let rootfs = Rootfs::open(root.path()).unwrap();
        assert_eq!(rootfs.read("/etc/group").unwrap(), "root:x:0:\n");
        assert_eq!(rootfs.read("/etc/passwd").unwrap(), "");
    }
}
