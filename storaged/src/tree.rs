//! Directory trees by descriptor: opening below a root, deleting, measuring.
//!
//! A path string is resolved by `openat2(2)` only, which the kernel confines to the root. Nothing
//! here follows a symbolic link that leads out, and nothing crosses into another mount: deleting a
//! volume must not delete what somebody mounted inside it.

use std::ffi::{CStr, CString};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::fs::{AtFlags, CWD, Dir, FileType, Mode, OFlags, ResolveFlags, Stat};
use rustix::io::Errno;

/// What a tree takes on its filesystem.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Size {
    pub(crate) bytes: u64,
    pub(crate) inodes: u64,
}

/// Descriptors one deletion holds open at most; deeper trees are cut into pieces.
const MAX_OPEN_LEVELS: u32 = 64;

/// Opens a directory by a trusted path, such as one of [`crate::model::layout`].
pub(crate) fn open_root(path: &Path) -> Result<OwnedFd, Errno> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    rustix::fs::open(path, flags, Mode::empty())
}

/// `openat2(2)`, again when the kernel asks for it: while any rename or mount goes on anywhere on the
/// host, it cannot tell whether a `..` stays below the root, and says `EAGAIN`.
pub(crate) fn resolve(
    root: BorrowedFd<'_>,
    path: &[u8],
    flags: OFlags,
    resolve: ResolveFlags,
) -> Result<OwnedFd, Errno> {
    const ATTEMPTS: u32 = 1000;
    let path = if path.is_empty() { b"." } else { path };
    let flags = flags | OFlags::CLOEXEC;
    let mut left = ATTEMPTS;
    loop {
        left -= 1;
        match rustix::fs::openat2(root, path, flags, Mode::empty(), resolve) {
            Err(Errno::AGAIN) if left > 0 => std::thread::yield_now(),
            result => return result,
        }
    }
}

/// Opens `path`, relative to and not outside of `root`. Symbolic links inside are followed as long
/// as they are relative and stay inside; `EXDEV` says that one does not.
pub(crate) fn open_beneath(
    root: BorrowedFd<'_>,
    path: &[u8],
    flags: OFlags,
) -> Result<OwnedFd, Errno> {
    resolve(
        root,
        path,
        flags,
        ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS,
    )
}

/// Opens a directory below `dir` without following anything.
pub(crate) fn open_dir_at(dir: BorrowedFd<'_>, name: &CStr) -> Result<OwnedFd, Errno> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW;
    let within = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_XDEV;
    resolve(dir, name.to_bytes(), flags, within)
}

/// What `name` in `dir` is, if it is there; symbolic links are not followed.
pub(crate) fn stat_at(dir: BorrowedFd<'_>, name: &CStr) -> Result<Option<Stat>, Errno> {
    match rustix::fs::statat(dir, name, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(stat) => Ok(Some(stat)),
        Err(Errno::NOENT) => Ok(None),
        Err(error) => Err(error),
    }
}

pub(crate) fn is_dir(stat: &Stat) -> bool {
    FileType::from_raw_mode(stat.st_mode) == FileType::Directory
}

/// Overlayfs represents a deletion by a character device 0:0
/// (`Documentation/filesystems/overlayfs.rst`, "whiteouts and opaque directories").
pub(crate) fn is_whiteout(stat: &Stat) -> bool {
    FileType::from_raw_mode(stat.st_mode) == FileType::CharacterDevice && stat.st_rdev == 0
}

/// A path and a name in it; the root's path is empty.
pub(crate) fn join(path: &[u8], name: &[u8]) -> Vec<u8> {
    if path.is_empty() {
        name.to_vec()
    } else {
        [path, b"/", name].concat()
    }
}

/// The names in a directory, without `.` and `..`.
pub(crate) fn names(dir: BorrowedFd<'_>) -> Result<Vec<CString>, Errno> {
    let mut names = Vec::new();
    for entry in Dir::read_from(dir)? {
        let entry = entry?;
        let name = entry.file_name();
        if name != c"." && name != c".." {
            names.push(name.to_owned());
        }
    }
    Ok(names)
}

/// Deletes what is at a trusted path; fine if nothing is.
pub(crate) fn remove_path(path: &Path) -> Result<(), Errno> {
    let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
        return Err(Errno::INVAL);
    };
    let name = CString::new(name.as_encoded_bytes()).map_err(|_nul| Errno::INVAL)?;
    match open_root(parent) {
        Ok(parent) => remove_at(parent.as_fd(), &name),
        Err(Errno::NOENT) => Ok(()),
        Err(error) => Err(error),
    }
}

/// Deletes `name` in `dir`, a tree if it is one; fine if it is not there.
///
/// `EXDEV` when a filesystem is mounted inside: what lies beside it may be gone, what is mounted is
/// untouched.
pub(crate) fn remove_at(dir: BorrowedFd<'_>, name: &CStr) -> Result<(), Errno> {
    if unlink(dir, name)? {
        return Ok(());
    }
    let tree = open_dir_at(dir, name)?;
    if sys::btrfs::is_subvolume(tree.as_fd()).unwrap_or(false)
        && sys::btrfs::destroy(dir, name).is_ok()
    {
        return Ok(());
    }
    let mut serial = 0;
    // Pieces cut off because of their depth end up in the top directory: go round until it is bare.
    while !names(tree.as_fd())?.is_empty() {
        empty(tree.as_fd(), tree.as_fd(), 0, &mut serial)?;
    }
    remove_dir(dir, name)
}

fn empty(
    top: BorrowedFd<'_>,
    dir: BorrowedFd<'_>,
    depth: u32,
    serial: &mut u64,
) -> Result<(), Errno> {
    for name in names(dir)? {
        if unlink(dir, &name)? {
            continue;
        }
        if depth == MAX_OPEN_LEVELS {
            cut_off(top, dir, &name, serial)?;
            continue;
        }
        let child = open_dir_at(dir, &name)?;
        // At once, unless others lie inside.
        if sys::btrfs::is_subvolume(child.as_fd()).unwrap_or(false)
            && sys::btrfs::destroy(dir, &name).is_ok()
        {
            continue;
        }
        empty(top, child.as_fd(), depth + 1, serial)?;
        drop(child);
        remove_dir(dir, &name)?;
    }
    Ok(())
}

/// Moves a directory that lies deep to the top, where nobody else makes names.
fn cut_off(
    top: BorrowedFd<'_>,
    dir: BorrowedFd<'_>,
    name: &CStr,
    serial: &mut u64,
) -> Result<(), Errno> {
    loop {
        *serial += 1;
        let piece = format!(".piece-{serial}");
        let flags = rustix::fs::RenameFlags::NOREPLACE;
        match rustix::fs::renameat_with(dir, name, top, piece, flags) {
            Err(Errno::EXIST) => {}
            result => return result,
        }
    }
}

/// Unlinks what is not a directory; says whether `name` is gone.
fn unlink(dir: BorrowedFd<'_>, name: &CStr) -> Result<bool, Errno> {
    match rustix::fs::unlinkat(dir, name, AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => Ok(true),
        Err(Errno::ISDIR) => Ok(false),
        Err(error) => Err(error),
    }
}

fn remove_dir(dir: BorrowedFd<'_>, name: &CStr) -> Result<(), Errno> {
    match rustix::fs::unlinkat(dir, name, AtFlags::REMOVEDIR) {
        Ok(()) | Err(Errno::NOENT) => Ok(()),
        Err(error) => Err(error),
    }
}

/// Bytes and inodes that the tree at a trusted path takes on its filesystem; none if it is not there.
///
/// A directory has no bytes, as in Docker, where an empty volume has 0. A file with several links
/// counts once a link. What cannot be read is left out: this is a figure for people.
pub(crate) fn size(path: &Path) -> Size {
    fn below(dir: BorrowedFd<'_>, depth: u32, size: &mut Size) {
        for name in names(dir).unwrap_or_default() {
            let Some(stat) = stat_at(dir, &name).ok().flatten() else {
                continue;
            };
            size.add(&stat);
            if is_dir(&stat)
                && depth < MAX_OPEN_LEVELS
                && let Ok(child) = open_dir_at(dir, &name)
            {
                below(child.as_fd(), depth + 1, size);
            }
        }
    }
    let mut size = Size::default();
    if let Ok(stat) = rustix::fs::statat(CWD, path, AtFlags::SYMLINK_NOFOLLOW) {
        size.add(&stat);
    }
    if let Ok(dir) = open_root(path) {
        below(dir.as_fd(), 0, &mut size);
    }
    size
}

impl Size {
    fn add(&mut self, stat: &Stat) {
        self.inodes += 1;
        if !is_dir(stat) {
            self.bytes += blocks(stat);
        }
    }
}

/// `st_blocks` counts 512-byte units whatever the filesystem's block size (`stat(2)`).
fn blocks(stat: &Stat) -> u64 {
    u64::try_from(stat.st_blocks).unwrap_or(0) * 512
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn deletes_a_tree_and_not_what_its_links_point_to() {
        let root = tempfile::tempdir().unwrap();
        let (tree, outside) = (root.path().join("tree"), root.path().join("outside"));
        std::fs::create_dir_all(tree.join("a/b")).unwrap();
        std::fs::create_dir(&outside).unwrap();
        std::fs::write(outside.join("kept"), "").unwrap();
        symlink(&outside, tree.join("a/link")).unwrap();
        remove_path(&tree).unwrap();
        assert!(!tree.exists());
        assert!(outside.join("kept").exists());
        remove_path(&tree).unwrap();
        remove_path(&root.path().join("no/such/thing")).unwrap();
    }

    #[test]
    fn deletes_a_tree_deeper_than_the_descriptors_it_opens() {
        let root = tempfile::tempdir().unwrap();
        let tree = root.path().join("tree");
        std::fs::create_dir(&tree).unwrap();
        let mut dir = open_root(&tree).unwrap();
        for _ in 0..300 {
            rustix::fs::mkdirat(&dir, c"d", Mode::from_raw_mode(0o700)).unwrap();
            std::fs::write(
                format!("/proc/self/fd/{}/f", std::os::fd::AsRawFd::as_raw_fd(&dir)),
                "",
            )
            .unwrap();
            dir = open_dir_at(dir.as_fd(), c"d").unwrap();
        }
        remove_path(&tree).unwrap();
        assert!(!tree.exists());
    }

    #[test]
    fn never_deletes_through_a_mount() {
        sys::mount::enter_private_namespace().unwrap();
        let root = tempfile::tempdir().unwrap();
        let (tree, host) = (root.path().join("tree"), root.path().join("host"));
        std::fs::create_dir_all(tree.join("a/mounted")).unwrap();
        std::fs::create_dir(&host).unwrap();
        std::fs::write(host.join("precious"), "x").unwrap();
        let point = tree.join("a/mounted");
        sys::mount::bind(&host, &point, false, rustix::mount::MountFlags::empty()).unwrap();
        assert_eq!(remove_path(&tree), Err(Errno::XDEV));
        assert!(host.join("precious").exists());
        sys::mount::unmount(&point).unwrap();
        remove_path(&tree).unwrap();
    }

    #[test]
    fn opens_only_beneath_the_root() {
        let root = tempfile::tempdir().unwrap();
        std::fs::create_dir(root.path().join("in")).unwrap();
        symlink("in", root.path().join("fine")).unwrap();
        symlink("/etc", root.path().join("absolute")).unwrap();
        symlink("../..", root.path().join("up")).unwrap();
        let fd = open_root(root.path()).unwrap();
        let open = |path: &[u8]| open_beneath(fd.as_fd(), path, OFlags::PATH | OFlags::DIRECTORY);
        assert!(open(b"").is_ok());
        assert!(open(b"fine").is_ok());
        for out in [&b"absolute"[..], b"up", b"..", b"/etc"] {
            assert_eq!(open(out).unwrap_err(), Errno::XDEV);
        }
    }
}
