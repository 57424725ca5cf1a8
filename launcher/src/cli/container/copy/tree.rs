//! A file system that paths are resolved in: the host's, or a container's.
//!
//! Nothing is resolved by string. In a container every path is resolved by openat2(2) with
//! `RESOLVE_IN_ROOT`, so that no symbolic link and no `..` leads out, not even while a process in
//! there exchanges a directory for a link.

use std::ffi::CString;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use rustix::fs::{AtFlags, CWD, FileType, Mode, OFlags, ResolveFlags, Stat};
use rustix::io::Errno;

/// Links that are followed one after the other, as the kernel does (`MAXSYMLINKS`).
const MAX_LINKS: usize = 40;

/// Where paths start from.
#[derive(Debug)]
pub(super) enum Tree {
    Host,
    /// The root of a container.
    Container(OwnedFd),
    /// A directory; nothing below it is reached through a symbolic link.
    Directory(OwnedFd),
}

/// What a path leads to at last, symbolic links followed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Followed {
    /// A path whose last component is no symbolic link.
    pub(super) path: Vec<u8>,
    /// What is there, if anything.
    pub(super) kind: Option<FileType>,
}

impl Tree {
    /// Opens a path.
    pub(super) fn open(&self, path: &[u8], flags: OFlags) -> Result<OwnedFd, Errno> {
        // The kernel asks for another try when a rename raced with the walk (openat2(2), EAGAIN).
        const ATTEMPTS: usize = 1000;
        let (start, within) = self.start();
        let flags = flags | OFlags::CLOEXEC;
        let mut left = ATTEMPTS;
        loop {
            left -= 1;
            match rustix::fs::openat2(start, path, flags, Mode::empty(), within) {
                Err(Errno::AGAIN | Errno::INTR) if left > 0 => std::thread::yield_now(),
                outcome => return outcome,
            }
        }
    }

    fn start(&self) -> (BorrowedFd<'_>, ResolveFlags) {
        match self {
            Self::Host => (CWD, ResolveFlags::empty()),
            Self::Container(root) => (
                root.as_fd(),
                ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS,
            ),
            Self::Directory(top) => (
                top.as_fd(),
                ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS,
            ),
        }
    }

    pub(super) fn directory(&self, path: &[u8]) -> Result<OwnedFd, Errno> {
        self.open(path, OFlags::RDONLY | OFlags::DIRECTORY)
    }

    /// Follows symbolic links at the end of `path`, whether the last one leads anywhere or not.
    ///
    /// # Errors
    /// What is in the way; that there is nothing at the end is none.
    pub(super) fn follow(&self, path: &[u8]) -> Result<Followed, Errno> {
        let mut path = path.to_vec();
        for _ in 0..MAX_LINKS {
            let found = match self.open(&path, OFlags::PATH | OFlags::NOFOLLOW) {
                Ok(found) => found,
                Err(Errno::NOENT) => return Ok(Followed { path, kind: None }),
                Err(error) => return Err(error),
            };
            let kind = kind(&rustix::fs::fstat(&found)?);
            if kind != FileType::Symlink {
                let kind = Some(kind);
                return Ok(Followed { path, kind });
            }
            let target = rustix::fs::readlinkat(&found, c"", Vec::new())?.into_bytes();
            path = match target.first() {
                Some(b'/') => target,
                _ => [split(&path).0, b"/", &target].concat(),
            };
        }
        Err(Errno::LOOP)
    }
}

/// The last component of a path, and the path of the directory it is in.
pub(super) fn split(path: &[u8]) -> (&[u8], &[u8]) {
    match path.iter().rposition(|byte| *byte == b'/') {
        Some(0) => (b"/", &path[1..]),
        Some(at) => (&path[..at], &path[at + 1..]),
        None => (b".", path),
    }
}

pub(super) fn kind(stat: &Stat) -> FileType {
    FileType::from_raw_mode(stat.st_mode)
}

/// What `name` in `dir` is, if it is there.
pub(super) fn stat_at(dir: BorrowedFd<'_>, name: &CString) -> Result<Option<Stat>, Errno> {
    match rustix::fs::statat(dir, name.as_c_str(), AtFlags::SYMLINK_NOFOLLOW) {
        Ok(stat) => Ok(Some(stat)),
        Err(Errno::NOENT) => Ok(None),
        Err(error) => Err(error),
    }
}

/// A name for calls that know paths only, of a file that is open.
pub(super) fn magic_path(file: &impl AsFd) -> String {
    format!("/proc/thread-self/fd/{}", file.as_fd().as_raw_fd())
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use super::*;

    fn container(root: &std::path::Path) -> Tree {
        Tree::Container(
            Tree::Host
                .directory(root.as_os_str().as_encoded_bytes())
                .unwrap(),
        )
    }

    #[test]
    fn paths_are_split_before_the_last_component() {
        for (path, dir, name) in [("a", ".", "a"), ("/a", "/", "a"), ("a/b", "a", "b")] {
            let (dir, name) = (dir.as_bytes(), name.as_bytes());
            assert_eq!(split(path.as_bytes()), (dir, name));
        }
    }

    #[test]
    fn links_of_a_container_stay_in_it() {
        let outside = tempfile::tempdir().unwrap();
        let root = outside.path().join("root");
        fs::create_dir_all(root.join("etc")).unwrap();
        fs::write(outside.path().join("secret"), "host").unwrap();
        fs::write(root.join("etc/in"), "container").unwrap();
        symlink("../../../secret", root.join("up")).unwrap();
        symlink(outside.path().join("secret"), root.join("absolute")).unwrap();
        symlink("/etc", root.join("dir")).unwrap();
        symlink("dir/in", root.join("two")).unwrap();
        symlink("round", root.join("round")).unwrap();
        let tree = container(&root);
        for path in ["up", "/absolute", "/../../secret"] {
            assert_eq!(tree.follow(path.as_bytes()).unwrap().kind, None, "{path}");
            let opened = tree.open(path.as_bytes(), OFlags::RDONLY);
            assert_eq!(opened.unwrap_err(), Errno::NOENT, "{path}");
        }
        let two = tree.follow(b"/two").unwrap();
        assert_eq!(two.kind, Some(FileType::RegularFile));
        assert_eq!(tree.follow(b"round").unwrap_err(), Errno::LOOP);
    }
}
