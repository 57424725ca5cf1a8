//! What is copied, where to, and under which name: the rules of `docker cp`.

use std::ffi::CString;
use std::os::fd::{AsFd, OwnedFd};

use rustix::fs::FileType;
use rustix::io::Errno;

use super::tree::{Followed, Tree, kind, split, stat_at};

/// What is copied: a name in an open directory.
#[derive(Debug)]
pub(super) struct Source {
    pub(super) parent: OwnedFd,
    /// `.` for the directory itself.
    pub(super) name: CString,
    /// What it is called in an archive; `.` when only its content is meant.
    pub(super) called: Vec<u8>,
    pub(super) is_directory: bool,
}

impl Source {
    /// Finds what `path` names. A symbolic link is copied as one unless it is to be followed, or a
    /// slash after it says that it leads to a directory.
    pub(super) fn find(tree: &Tree, path: &[u8], follow: bool) -> Result<Self, Errno> {
        let called = base(path);
        if follow {
            let Followed { path: end, .. } = tree.follow(path)?;
            let found = Self::at(tree, &end)?;
            // A file found through a link is called as the link is.
            return Ok(Self { called, ..found });
        }
        Self::at(tree, path)
    }

    fn at(tree: &Tree, path: &[u8]) -> Result<Self, Errno> {
        let called = base(path);
        let (above, name) = split(path);
        if called == b"." || name.is_empty() {
            return Ok(Self {
                parent: tree.directory(path)?,
                name: c".".to_owned(),
                called,
                is_directory: true,
            });
        }
        let parent = tree.directory(above)?;
        let name = CString::new(name).map_err(|_nul| Errno::INVAL)?;
        let stat = stat_at(parent.as_fd(), &name)?.ok_or(Errno::NOENT)?;
        Ok(Self {
            parent,
            name,
            called,
            is_directory: kind(&stat) == FileType::Directory,
        })
    }
}

/// The last component of a path, without slashes after it; `.` for what has no name of its own.
pub(super) fn base(path: &[u8]) -> Vec<u8> {
    let end = path
        .iter()
        .rposition(|byte| *byte != b'/')
        .map_or(0, |at| at + 1);
    match split(&path[..end]).1 {
        b"" | b"." | b".." => b".".to_vec(),
        name => name.to_vec(),
    }
}

/// Where a copy goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Landing {
    pub(super) directory: Vec<u8>,
    /// What it is called there, if not as before.
    pub(super) name: Option<Vec<u8>>,
}

/// Why something cannot be copied to a place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Misfit {
    /// A directory is to become a file.
    DirectoryToFile,
    /// The destination is said to be a directory, and is nothing.
    NoDirectory,
}

/// Into a directory under its own name; else as the destination.
pub(super) fn land(from_directory: bool, to: &Followed) -> Result<Landing, Misfit> {
    let asserted = to.path.ends_with(b"/") || to.path.ends_with(b"/.");
    match to.kind {
        Some(FileType::Directory) => {
            return Ok(Landing {
                directory: to.path.clone(),
                name: None,
            });
        }
        Some(_) if from_directory => return Err(Misfit::DirectoryToFile),
        None if asserted && !from_directory => return Err(Misfit::NoDirectory),
        _ => {}
    }
    // What is to become a directory may be called `new/` or `new/.` already.
    let mut path = to.path.as_slice();
    while path.len() > 1 && (path.ends_with(b"/") || path.ends_with(b"/.")) {
        path = &path[..path.len() - 1];
    }
    let (directory, name) = split(path);
    Ok(Landing {
        directory: directory.to_vec(),
        name: Some(name.to_vec()),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(path: &str, kind: Option<FileType>) -> Followed {
        Followed {
            path: path.into(),
            kind,
        }
    }

    fn at(directory: &str, name: Option<&str>) -> Result<Landing, Misfit> {
        Ok(Landing {
            directory: directory.into(),
            name: name.map(Into::into),
        })
    }

    #[test]
    fn names_are_those_of_unix() {
        for (path, name) in [
            ("a", "a"),
            ("/a/b", "b"),
            ("a/b/", "b"),
            ("a//", "a"),
            ("a/.", "."),
            ("/", "."),
            (".", "."),
            ("a/..", "."),
        ] {
            assert_eq!(base(path.as_bytes()), name.as_bytes(), "{path}");
        }
    }

    #[test]
    fn a_directory_takes_what_is_copied_under_its_own_name() {
        let directory = found("/d", Some(FileType::Directory));
        assert_eq!(land(false, &directory), at("/d", None));
        assert_eq!(land(true, &directory), at("/d", None));
    }

    #[test]
    fn what_is_not_there_gets_the_name() {
        assert_eq!(land(false, &found("/d/x", None)), at("/d", Some("x")));
        assert_eq!(land(true, &found("x", None)), at(".", Some("x")));
        for path in ["/d/x/", "/d/x/.", "/d/x//"] {
            assert_eq!(land(true, &found(path, None)), at("/d", Some("x")));
            assert_eq!(land(false, &found(path, None)), Err(Misfit::NoDirectory));
        }
    }

    #[test]
    fn a_file_is_replaced_by_a_file_only() {
        let file = found("/d/x", Some(FileType::RegularFile));
        assert_eq!(land(false, &file), at("/d", Some("x")));
        assert_eq!(land(true, &file), Err(Misfit::DirectoryToFile));
    }
}
