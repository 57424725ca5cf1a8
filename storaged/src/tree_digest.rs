//! The digest of a layer's tree: names, kinds, owners, modes, times, links, attributes.
//!
//! Content is not in it. The layer's archive, put together again ([`crate::assemble`]), tells whether
//! that is whole, and the diff id is its digest already.

use std::ffi::{CStr, CString};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use api::id::Digest;
use rustix::fs::{FileType, OFlags, ResolveFlags, Stat};
use rustix::io::Errno;
use sha2::{Digest as _, Sha256};

use crate::{tree, xattr};

/// The digest of the tree at a trusted path. Directories are opened one at a time, by paths that
/// the kernel confines, so that no depth is too deep.
pub(crate) fn of(root: &Path) -> Result<Digest, Errno> {
    let root = tree::open_root(root)?;
    let mut hasher = Sha256::new();
    add(&mut hasher, b"", &rustix::fs::fstat(&root)?, None);
    attributes(&mut hasher, root.as_fd(), c".")?;
    // Depth first, in the order of names.
    let mut waiting: Vec<Vec<u8>> = vec![Vec::new()];
    while let Some(path) = waiting.pop() {
        let directory = open(&root, &path)?;
        let mut names = tree::names(directory.as_fd())?;
        names.sort();
        let mut deeper = Vec::new();
        for name in names {
            let Some(stat) = tree::stat_at(directory.as_fd(), &name)? else {
                continue;
            };
            let below = tree::join(&path, name.to_bytes());
            let target = target(directory.as_fd(), &name, &stat)?;
            add(&mut hasher, &below, &stat, target.as_deref());
            attributes(&mut hasher, directory.as_fd(), &name)?;
            if tree::is_dir(&stat) {
                deeper.push(below);
            }
        }
        waiting.extend(deeper.into_iter().rev());
    }
    Ok(Digest::from_sha256(hasher.finalize().into()))
}

fn open(root: &OwnedFd, path: &[u8]) -> Result<OwnedFd, Errno> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW;
    let within = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS;
    tree::resolve(root.as_fd(), path, flags, within)
}

fn target(dir: BorrowedFd<'_>, name: &CStr, stat: &Stat) -> Result<Option<CString>, Errno> {
    if FileType::from_raw_mode(stat.st_mode) == FileType::Symlink {
        rustix::fs::readlinkat(dir, name, Vec::new()).map(Some)
    } else {
        Ok(None)
    }
}

/// Texts with their lengths in front, numbers at full width: no two trees give the same bytes.
fn add(hasher: &mut Sha256, path: &[u8], stat: &Stat, target: Option<&CStr>) {
    put(hasher, path);
    // The size of a directory is its filesystem's affair.
    let size = if tree::is_dir(stat) { 0 } else { stat.st_size };
    for number in [
        u64::from(stat.st_mode),
        u64::from(stat.st_uid),
        u64::from(stat.st_gid),
        stat.st_rdev,
        size.cast_unsigned(),
        stat.st_mtime.cast_unsigned(),
        stat.st_mtime_nsec,
    ] {
        hasher.update(number.to_le_bytes());
    }
    put(hasher, target.map_or(b"", CStr::to_bytes));
}

fn put(hasher: &mut Sha256, bytes: &[u8]) {
    hasher.update((bytes.len() as u64).to_le_bytes());
    hasher.update(bytes);
}

/// Those that an import sets; labels of security modules belong to the host.
fn attributes(hasher: &mut Sha256, dir: BorrowedFd<'_>, name: &CStr) -> Result<(), Errno> {
    let mut all = xattr::all(dir, name)?;
    all.retain(|(name, _)| is_ours(name));
    all.sort();
    hasher.update((all.len() as u64).to_le_bytes());
    for (name, value) in all {
        put(hasher, &name);
        put(hasher, &value);
    }
    Ok(())
}

fn is_ours(name: &[u8]) -> bool {
    xattr::is_content(name) || name.starts_with(b"trusted.overlay.")
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt, symlink};

    use super::*;

    fn change(what: fn(&Path)) -> bool {
        let root = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(root.path().join("a/b")).unwrap();
        std::fs::write(root.path().join("a/f"), "x").unwrap();
        symlink("f", root.path().join("a/l")).unwrap();
        let before = of(root.path()).unwrap();
        assert_eq!(of(root.path()).unwrap(), before);
        what(root.path());
        of(root.path()).unwrap() != before
    }

    #[test]
    fn every_change_of_a_tree_changes_its_digest() {
        let mode = |mode| std::fs::Permissions::from_mode(mode);
        assert!(!change(|_| ()));
        assert!(change(|root| std::fs::remove_dir(root.join("a/b")).unwrap()));
        assert!(change(
            |root| std::fs::write(root.join("a/b/new"), "").unwrap()
        ));
        assert!(change(
            |root| std::fs::write(root.join("a/f"), "xy").unwrap()
        ));
        assert!(change(|root| {
            let link = root.join("a/l");
            std::fs::remove_file(&link).unwrap();
            symlink("b", link).unwrap();
        }));
        assert!(change(|root| {
            let path = root.join("a/f");
            rustix::fs::setxattr(&path, "user.x", b"1", rustix::fs::XattrFlags::empty()).unwrap();
        }));
        for path in ["", "a", "a/f"] {
            let root = tempfile::tempdir().unwrap();
            std::fs::create_dir(root.path().join("a")).unwrap();
            std::fs::write(root.path().join("a/f"), "x").unwrap();
            let before = of(root.path()).unwrap();
            std::fs::set_permissions(root.path().join(path), mode(0o741)).unwrap();
            assert_ne!(of(root.path()).unwrap(), before, "{path}");
        }
    }
}
