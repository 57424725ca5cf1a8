//! Whom files belong to: mounts that show owners mapped, and acting as somebody else.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::fs::CWD;
use rustix::mount::{MoveMountFlags, OpenTreeFlags, move_mount, open_tree};

use crate::mount::{Overlay, OverlayApi, in_private_namespace};
use crate::{check, user_namespace};

/// The users and groups of a container, as `/proc/PID/uid_map` has them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Owners {
    pub uid_map: String,
    pub gid_map: String,
    /// On the host, who in the container is root.
    pub root: (u32, u32),
}

/// What is mounted at `source`, to be mounted elsewhere; with what is mounted below if `recursive`.
///
/// # Errors
/// The kernel's.
pub fn clone_mount(source: &Path, recursive: bool) -> io::Result<OwnedFd> {
    Ok(open_tree(CWD, source, cloning(recursive))?)
}

/// As [`clone_mount`], of what is open.
///
/// # Errors
/// The kernel's.
pub fn clone_open(source: BorrowedFd<'_>, recursive: bool) -> io::Result<OwnedFd> {
    let flags = cloning(recursive) | OpenTreeFlags::AT_EMPTY_PATH;
    Ok(open_tree(source, c"", flags)?)
}

fn cloning(recursive: bool) -> OpenTreeFlags {
    let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    match recursive {
        true => flags | OpenTreeFlags::AT_RECURSIVE,
        false => flags,
    }
}

/// Has a mount that is not attached yet show what belongs to nobody's `N` as the namespace's: what
/// is of user `N` on disk is of whom the namespace maps `N` to.
///
/// # Errors
/// `EINVAL` when the filesystem cannot, `ENOSYS` before Linux 5.12.
pub fn map_mount(mount: BorrowedFd<'_>, namespace: BorrowedFd<'_>) -> io::Result<()> {
    let attributes = MountAttributes {
        set: libc::MOUNT_ATTR_IDMAP,
        clear: 0,
        propagation: 0,
        user_namespace: u64::try_from(namespace.as_raw_fd()).map_err(io::Error::other)?,
    };
    set_attributes(mount.as_raw_fd(), &attributes)
}

/// Whether mounts can be changed with all below them: since Linux 5.12.
pub fn sets_attributes() -> bool {
    let none = MountAttributes {
        set: 0,
        clear: 0,
        propagation: 0,
        user_namespace: 0,
    };
    // Of no mount at all, which is looked at last.
    let outcome = set_attributes(-1, &none);
    outcome.map_or_else(
        |error| error.raw_os_error() != Some(libc::ENOSYS),
        |()| true,
    )
}

fn set_attributes(mount: libc::c_int, attributes: &MountAttributes) -> io::Result<()> {
    // SAFETY: mount_setattr(2): the path is an empty C string, and `attributes` has the layout of
    // `struct mount_attr` and the size that is given. A descriptor that is none is an error.
    let set = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            mount,
            c"".as_ptr(),
            libc::AT_EMPTY_PATH,
            std::ptr::from_ref(attributes),
            size_of::<MountAttributes>(),
        )
    };
    check(set).map(drop)
}

/// `struct mount_attr` of `linux/mount.h`.
#[repr(C)]
struct MountAttributes {
    set: u64,
    clear: u64,
    propagation: u64,
    user_namespace: u64,
}

/// Mounts on `target` what is mounted nowhere, such as what [`clone_mount`] gave.
///
/// # Errors
/// The kernel's.
pub fn attach(mount: BorrowedFd<'_>, target: &Path) -> io::Result<()> {
    let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH;
    Ok(move_mount(mount, c"", CWD, target, flags)?)
}

/// As [`attach`], on what is open.
///
/// # Errors
/// The kernel's.
pub fn attach_on(mount: BorrowedFd<'_>, target: BorrowedFd<'_>) -> io::Result<()> {
    let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
    Ok(move_mount(mount, c"", target, c"", flags)?)
}

/// Does something with files as another user and group of the host, and with the capabilities of
/// this thread. Only a thread that has them all back afterwards goes on.
///
/// # Errors
/// `EPERM` for who may not.
pub fn acting_as<T>((uid, gid): (u32, u32), action: impl FnOnce() -> T) -> io::Result<T> {
    let held = rustix::thread::capabilities(None)?;
    let before = set_file_ids(uid, gid);
    // Who is not root loses the capabilities that are about files (capabilities(7), "Effect of user
    // ID changes on capabilities").
    let outcome = rustix::thread::set_capabilities(None, held).map(|()| action());
    set_file_ids(before.0, before.1);
    rustix::thread::set_capabilities(None, held)?;
    Ok(outcome?)
}

fn set_file_ids(uid: u32, gid: u32) -> (u32, u32) {
    // SAFETY: setfsgid(2) takes no pointers, changes this thread alone, and returns who it was.
    let gid = unsafe { libc::setfsgid(gid) };
    // SAFETY: the same of setfsuid(2).
    let uid = unsafe { libc::setfsuid(uid) };
    (uid.cast_unsigned(), gid.cast_unsigned())
}

impl OverlayApi {
    /// Mounts `overlay`, all of whose directories are below `below`, so that files belong to
    /// `owners`: on disk the ids are those of the container.
    ///
    /// An overlay itself cannot be mapped, only the mounts that its layers are on. So `below` is
    /// covered with a mapped mount of itself, in a namespace that nobody else sees.
    ///
    /// # Errors
    /// As [`OverlayApi::mount`] and [`map_mount`]; `EINVAL` before Linux 5.19.
    pub fn mount_mapped(
        self,
        overlay: &Overlay,
        owners: &Owners,
        below: &Path,
        target: &Path,
    ) -> io::Result<()> {
        let mount = self.detached_mapped(overlay, owners, below, target)?;
        attach(mount.as_fd(), target)
    }

    /// As [`OverlayApi::mount_mapped`], but nowhere: see [`OverlayApi::detached`].
    ///
    /// # Errors
    /// As [`OverlayApi::mount_mapped`].
    pub fn detached_mapped(
        self,
        overlay: &Overlay,
        owners: &Owners,
        below: &Path,
        scratch: &Path,
    ) -> io::Result<OwnedFd> {
        let namespace = user_namespace::create(&owners.uid_map, &owners.gid_map)?;
        in_private_namespace(|| {
            let cover = clone_mount(below, false)?;
            map_mount(cover.as_fd(), namespace.as_fd())?;
            attach(cover.as_fd(), below)?;
            // Overlayfs writes as whoever mounts it (`ovl_override_creds`), and the host's root has
            // no id on the mapped mount.
            acting_as(owners.root, || self.mount(overlay, scratch))??;
            clone_mount(scratch, false)
        })
    }
}

/// Whether files below `directory` can be shown with mapped owners. Mounts it nowhere.
///
/// # Errors
/// As [`map_mount`].
pub fn probe(directory: &Path) -> io::Result<()> {
    let namespace = user_namespace::create("0 1 1\n", "0 1 1\n")?;
    map_mount(clone_mount(directory, false)?.as_fd(), namespace.as_fd())
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::{MetadataExt, chown};
    use std::path::PathBuf;

    use super::*;
    use crate::kernel::is_linux;

    const OWNERS: (u32, u32) = (100_000, 200_000);

    /// Mounts an overlay with other owners; if that can be, looks at whose its files are.
    fn mapped(api: OverlayApi) -> io::Result<()> {
        crate::mount::enter_private_namespace().unwrap();
        let root = tempfile::tempdir().unwrap();
        let [lower, upper, work, merged] = ["l", "u", "w", "m"].map(|name| root.path().join(name));
        for directory in [&lower, &upper, &work, &merged] {
            fs::create_dir(directory).unwrap();
        }
        fs::write(lower.join("low"), "x").unwrap();
        chown(lower.join("low"), Some(7), Some(8)).unwrap();
        let overlay = Overlay {
            lowers: vec![lower],
            upper: upper.clone(),
            work,
            volatile: false,
            metacopy: false,
        };
        let owners = Owners {
            uid_map: "0 100000 65536\n".to_owned(),
            gid_map: "0 200000 65536\n".to_owned(),
            root: OWNERS,
        };
        api.mount_mapped(&overlay, &owners, root.path(), &merged)?;
        let owner = |path: PathBuf| {
            let stat = fs::symlink_metadata(path).unwrap();
            (stat.uid(), stat.gid())
        };
        assert_eq!(owner(merged.join("low")), (100_007, 200_008));
        // The host's root has no id in there, its counterpart has.
        fs::write(merged.join("new"), "").unwrap_err();
        let write = || {
            fs::write(merged.join("new"), "")
                .and_then(|()| fs::rename(merged.join("low"), merged.join("moved")))
        };
        acting_as(OWNERS, write).unwrap().unwrap();
        assert_eq!(owner(merged.join("new")), OWNERS);
        assert_eq!(owner(upper.join("new")), (0, 0));
        assert_eq!(owner(upper.join("moved")), (7, 8));
        fs::write(root.path().join("mine"), "").unwrap();
        assert_eq!(owner(root.path().join("mine")), (0, 0));
        crate::mount::unmount(&merged).map(drop)
    }

    #[test]
    fn ids_on_disk_are_those_of_the_container() {
        for api in OverlayApi::of_this_kernel() {
            let mounted = mapped(api);
            assert_eq!(mounted.is_ok(), is_linux(5, 19), "{mounted:?}");
        }
    }

    #[test]
    fn what_cannot_be_mapped_says_so() {
        let can = is_linux(5, 12);
        assert_eq!(probe(&std::env::temp_dir()).is_ok(), can);
        let error = probe(Path::new("/proc")).unwrap_err();
        let expected = if can { libc::EINVAL } else { libc::ENOSYS };
        assert_eq!(error.raw_os_error(), Some(expected));
    }
}
