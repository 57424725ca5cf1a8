//! Mounts: overlay through the new mount API with a `mount(2)` fallback, volumes, and the
//! questions about mounts that need no parsing of `mountinfo`.
//!
//! Nothing here decides policy, and nothing here unmounts on its own.
//! Every path is absolute: `mount(2)` and `move_mount(2)` resolve it in the caller's mount
//! namespace and no working directory is involved.

use std::ffi::CString;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, Mode, OFlags, StatxAttributes, StatxFlags};
use rustix::io::Errno;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MountFlags, MountPropagationFlags, UnmountFlags,
    fsconfig_create, fsconfig_set_flag, fsconfig_set_string, fsmount, fsopen, mount_bind,
    mount_bind_recursive, mount_change, mount_remount,
};

use crate::owner::{attach, clone_mount};

/// Lower layers of one overlay: `OVL_MAX_STACK` in the kernel's `fs/overlayfs/params.h`.
pub const MAX_LOWER_LAYERS: usize = 500;

/// A string parameter of `fsconfig(2)` is at most 256 bytes with its NUL (`fs/fsopen.c`).
const MAX_PARAMETER_BYTES: usize = 255;

/// The option page of `mount(2)` (`copy_mount_options`), its NUL included.
const MAX_OPTION_BYTES: usize = 4096;

/// One overlay mount.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Overlay {
    /// Top layer first; at least one.
    pub lowers: Vec<PathBuf>,
    pub upper: PathBuf,
    pub work: PathBuf,
    /// Skip every sync of the upper layer: its content is lost or torn after a power cut.
    pub volatile: bool,
    /// Copy a file up without its data while that does not change.
    pub metacopy: bool,
}

impl Overlay {
    /// Whether the kernel's tables of mounts name the upper directory by its path: one that is too
    /// long or would be taken apart is given by a descriptor number.
    pub fn names_upper(&self) -> bool {
        let plain = |path: &str| !path.contains([',', '\\']);
        self.upper.as_os_str().len() <= MAX_PARAMETER_BYTES
            && self.upper.to_str().is_some_and(plain)
    }

    fn options(&self) -> impl Iterator<Item = (&'static str, &'static str)> {
        let metacopy = if self.metacopy { "on" } else { "off" };
        OVERLAY_OPTIONS.into_iter().chain([("metacopy", metacopy)])
    }
}

/// Options of every overlay.
///
/// `redirect_dir=on` makes `rename(2)` of a lower directory work instead of failing with `EXDEV`;
/// `index=off` because layers are shared between overlays, which the index forbids.
const OVERLAY_OPTIONS: [(&str, &str); 3] =
    [("redirect_dir", "on"), ("index", "off"), ("xino", "auto")];

/// How this kernel takes a list of overlay layers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OverlayApi {
    /// `fsconfig(2)` with one `lowerdir+` a layer: Linux 6.8 and later.
    Layered,
    /// One option page for all layers, which are named by descriptor numbers to fit.
    OptionPage,
}

impl OverlayApi {
    /// Asks the kernel whether overlayfs knows `lowerdir+`. Mounts nothing.
    ///
    /// # Errors
    /// `ENODEV` when the kernel has no overlayfs.
    pub fn detect() -> io::Result<Self> {
        let context = match fsopen("overlay", FsOpenFlags::FSOPEN_CLOEXEC) {
            Ok(context) => context,
            Err(Errno::NOSYS) => return Ok(Self::OptionPage),
            Err(error) => return Err(error.into()),
        };
        // Before Linux 6.5 overlayfs goes by the old way behind this one (`legacy_parse_param` in
        // fs/fs_context.c), which takes any word and leaves it to the mount to refuse it.
        let takes = |word| fsconfig_set_string(&context, word, "/").is_ok();
        Ok(if takes("lowerdir+") && !takes("no-such-parameter") {
            Self::Layered
        } else {
            Self::OptionPage
        })
    }

    /// Mounts `overlay` on `target`.
    ///
    /// # Errors
    /// The kernel's; `ELOOP`, `EINVAL` and `ESTALE` come from directories that overlayfs cannot
    /// use, `E2BIG` from more layers than an option page holds.
    pub fn mount(self, overlay: &Overlay, target: &Path) -> io::Result<()> {
        match self {
            Self::Layered => attach(layered(overlay)?.as_fd(), target),
            Self::OptionPage => mount_option_page(overlay, target),
        }
    }

    /// Mounts `overlay` nowhere: whoever has the descriptor attaches it, and it goes with the last
    /// one if nobody does.
    ///
    /// Before `lowerdir+` a mount must have a place: `scratch`, a directory, in a namespace that
    /// nobody else sees.
    ///
    /// # Errors
    /// As [`OverlayApi::mount`].
    pub fn detached(self, overlay: &Overlay, scratch: &Path) -> io::Result<OwnedFd> {
        match self {
            Self::Layered => layered(overlay),
            Self::OptionPage => in_private_namespace(|| {
                mount_option_page(overlay, scratch)?;
                clone_mount(scratch, false)
            }),
        }
    }
}

fn layered(overlay: &Overlay) -> io::Result<OwnedFd> {
    let context = fsopen("overlay", FsOpenFlags::FSOPEN_CLOEXEC)?;
    // Descriptors that stand for over-long paths live until the mount is made.
    let mut stand_ins = Vec::new();
    fsconfig_set_string(&context, "source", "overlay")?;
    for lower in &overlay.lowers {
        set_directory(&context, "lowerdir+", lower, &mut stand_ins)?;
    }
    set_directory(&context, "upperdir", &overlay.upper, &mut stand_ins)?;
    set_directory(&context, "workdir", &overlay.work, &mut stand_ins)?;
    for (key, value) in overlay.options() {
        fsconfig_set_string(&context, key, value)?;
    }
    if overlay.volatile {
        fsconfig_set_flag(&context, "volatile")?;
    }
    fsconfig_create(&context)?;
    Ok(fsmount(
        &context,
        FsMountFlags::FSMOUNT_CLOEXEC,
        MountAttrFlags::empty(),
    )?)
}

pub(crate) fn set_directory(
    context: &OwnedFd,
    key: &str,
    path: &Path,
    stand_ins: &mut Vec<OwnedFd>,
) -> io::Result<()> {
    if path.as_os_str().len() <= MAX_PARAMETER_BYTES {
        return Ok(fsconfig_set_string(context, key, path)?);
    }
    let directory = open_path(path)?;
    fsconfig_set_string(
        context,
        key,
        format!("/proc/thread-self/fd/{}", directory.as_raw_fd()),
    )?;
    stand_ins.push(directory);
    Ok(())
}

/// `mount(2)` with every directory named by its descriptor number, relative to a working directory
/// of `/proc/thread-self/fd`: four bytes a layer, so that 500 fit into one page.
fn mount_option_page(overlay: &Overlay, target: &Path) -> io::Result<()> {
    let lowers = overlay
        .lowers
        .iter()
        .map(|path| open_path(path))
        .collect::<io::Result<Vec<_>>>()?;
    let upper = open_path(&overlay.upper)?;
    let work = open_path(&overlay.work)?;
    let numbers: Vec<String> = lowers.iter().map(|fd| fd.as_raw_fd().to_string()).collect();
    let upper_name = match overlay.upper.to_str() {
        Some(path) if overlay.names_upper() => path.to_owned(),
        _ => upper.as_raw_fd().to_string(),
    };
    let mut options = format!(
        "lowerdir={},upperdir={upper_name},workdir={}",
        numbers.join(":"),
        work.as_raw_fd()
    );
    for (key, value) in overlay.options() {
        options.push_str(&format!(",{key}={value}"));
    }
    if overlay.volatile {
        options.push_str(",volatile");
    }
    let options = option_page(options)?;
    with_working_directory(Path::new("/proc/thread-self/fd"), || {
        rustix::mount::mount(
            "overlay",
            target,
            "overlay",
            MountFlags::empty(),
            options.as_c_str(),
        )?;
        Ok(())
    })
}

/// # Errors
/// `E2BIG` when they do not fit into a page.
pub(crate) fn option_page(options: String) -> io::Result<CString> {
    if options.len() >= MAX_OPTION_BYTES {
        return Err(Errno::TOOBIG.into());
    }
    CString::new(options).map_err(io::Error::other)
}

/// Runs `action` on a thread of its own whose working directory is `directory`.
pub(crate) fn with_working_directory<T: Send>(
    directory: &Path,
    action: impl FnOnce() -> io::Result<T> + Send,
) -> io::Result<T> {
    let run = || {
        // SAFETY: `unshare_unsafe` is unsafe because CLONE_FILES would part this thread's
        // descriptor table from that of code holding `OwnedFd`s. CLONE_FS parts only the working
        // directory, root and umask, of a thread that ends with this function.
        unsafe { rustix::thread::unshare_unsafe(rustix::thread::UnshareFlags::FS)? };
        rustix::process::chdir(directory)?;
        action()
    };
    on_thread(run)
}

pub(crate) fn open_path(path: &Path) -> io::Result<OwnedFd> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    Ok(rustix::fs::open(path, flags, Mode::empty())?)
}

/// A bind mount of `source` on `target`; `flags` beyond the binding itself are set by a remount,
/// since the kernel ignores them in the first call (`mount(2)`, "Creating a bind mount").
///
/// # Errors
/// The kernel's. After an error nothing stays mounted.
pub fn bind(source: &Path, target: &Path, recursive: bool, flags: MountFlags) -> io::Result<()> {
    if recursive {
        mount_bind_recursive(source, target)?;
    } else {
        mount_bind(source, target)?;
    }
    if flags.is_empty() {
        return Ok(());
    }
    mount_remount(target, MountFlags::BIND | flags, c"").map_err(|error| match unmount(target) {
        Ok(_was_mounted) => error.into(),
        Err(undo) => io::Error::other(format!("{error}; and cannot unmount again: {undo}")),
    })
}

/// Makes a mount read-only that is there; `target` names its root.
///
/// # Errors
/// The kernel's: `EINVAL` when nothing is mounted there.
pub fn make_read_only(target: &Path) -> io::Result<()> {
    Ok(mount_remount(
        target,
        MountFlags::BIND | MountFlags::RDONLY,
        c"",
    )?)
}

/// Mounts a filesystem of type `kind` on `target`.
///
/// # Errors
/// The kernel's.
pub fn filesystem(
    kind: &str,
    device: &str,
    target: &Path,
    flags: MountFlags,
    data: &str,
) -> io::Result<()> {
    let data = CString::new(data).map_err(io::Error::other)?;
    Ok(rustix::mount::mount(
        device,
        target,
        kind,
        flags,
        data.as_c_str(),
    )?)
}

/// Mounts the block device `source` nowhere: its root is what the descriptor is, and it is unmounted
/// when that is closed, however its holder ends. `parameters` are flags of the filesystem.
///
/// # Errors
/// The kernel's.
pub fn detached(kind: &str, source: &Path, parameters: &[&str]) -> io::Result<OwnedFd> {
    let attributes = MountAttrFlags::MOUNT_ATTR_NOSUID | MountAttrFlags::MOUNT_ATTR_NODEV;
    detached_with(kind, source, parameters, attributes)
}

/// As [`detached`], with these attributes of the mount; parameters may be `KEY=VALUE`, too.
///
/// # Errors
/// The kernel's.
pub fn detached_with(
    kind: &str,
    source: &Path,
    parameters: &[&str],
    attributes: MountAttrFlags,
) -> io::Result<OwnedFd> {
    let context = fsopen(kind, FsOpenFlags::FSOPEN_CLOEXEC)?;
    fsconfig_set_string(&context, "source", source)?;
    for parameter in parameters {
        match parameter.split_once('=') {
            Some((key, value)) => fsconfig_set_string(&context, key, value)?,
            None => fsconfig_set_flag(&context, *parameter)?,
        }
    }
    fsconfig_create(&context)?;
    Ok(fsmount(
        &context,
        FsMountFlags::FSMOUNT_CLOEXEC,
        attributes,
    )?)
}

/// As [`detached`], of a filesystem that has no device.
///
/// # Errors
/// The kernel's: `ENODEV` where it has no such filesystem.
pub fn detached_virtual(kind: &str) -> io::Result<OwnedFd> {
    let context = fsopen(kind, FsOpenFlags::FSOPEN_CLOEXEC)?;
    fsconfig_create(&context)?;
    let attributes = MountAttrFlags::MOUNT_ATTR_NOSUID | MountAttrFlags::MOUNT_ATTR_NODEV;
    Ok(fsmount(
        &context,
        FsMountFlags::FSMOUNT_CLOEXEC,
        attributes,
    )?)
}

/// Sets how mount events pass through `target`.
///
/// # Errors
/// The kernel's.
pub fn set_propagation(target: &Path, flags: MountPropagationFlags) -> io::Result<()> {
    Ok(mount_change(target, flags)?)
}

/// Detaches the topmost mount on `target`. Says whether there was one.
///
/// Detached rather than unmounted: a process that still uses the mount keeps it, and a busy mount
/// is no error.
///
/// # Errors
/// The kernel's, but for "not mounted" and "no such path".
pub fn unmount(target: &Path) -> io::Result<bool> {
    match rustix::mount::unmount(target, UnmountFlags::DETACH | UnmountFlags::NOFOLLOW) {
        Ok(()) => Ok(true),
        Err(Errno::INVAL | Errno::NOENT) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

/// Adds flags to a mount of this namespace, whose root is open.
///
/// # Errors
/// The kernel's: `EINVAL` for what is not the root of a mount.
pub fn add_flags(mount: impl AsFd, flags: MountFlags) -> io::Result<()> {
    // The bits of statvfs(3) are those of mount(2). How access times are kept stays as it is
    // unless one of its flags is named.
    let held =
        u32::try_from(rustix::fs::fstatvfs(&mount)?.f_flag.bits()).map_err(io::Error::other)?;
    let restrictions =
        MountFlags::RDONLY | MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
    let held = MountFlags::from_bits_truncate(held) & restrictions;
    if held.contains(flags) {
        return Ok(());
    }
    let path = format!("/proc/thread-self/fd/{}", mount.as_fd().as_raw_fd());
    Ok(mount_remount(path, MountFlags::BIND | held | flags, c"")?)
}

/// Whether something is mounted on `path` itself, in the caller's mount namespace.
///
/// # Errors
/// The kernel's, but for a path that does not exist: nothing is mounted there.
pub fn is_mount_root(path: &Path) -> io::Result<bool> {
    let flags = AtFlags::SYMLINK_NOFOLLOW | AtFlags::NO_AUTOMOUNT;
    match rustix::fs::statx(CWD, path, flags, StatxFlags::empty()) {
        // Since Linux 5.8 the attribute is always reported.
        Ok(status) => Ok(status.stx_attributes.contains(StatxAttributes::MOUNT_ROOT)),
        Err(Errno::NOENT | Errno::NOTDIR) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

/// Identifies this boot of the host: mounts, namespaces and processes do not outlive it.
///
/// # Errors
/// When `/proc` is not mounted.
pub fn boot_id() -> io::Result<String> {
    Ok(std::fs::read_to_string("/proc/sys/kernel/random/boot_id")?
        .trim()
        .to_owned())
}

/// The name of the filesystem `directory` is on, as `docker info` prints it.
///
/// # Errors
/// The kernel's.
pub fn filesystem_name(directory: impl AsFd) -> io::Result<String> {
    // Magic numbers of `linux/magic.h`.
    let kind = rustix::fs::fstatfs(directory)?.f_type;
    Ok(match kind {
        0xef53 => "extfs".to_owned(),
        0x5846_5342 => "xfs".to_owned(),
        0x9123_683e => "btrfs".to_owned(),
        0x0102_1994 => "tmpfs".to_owned(),
        0x794c_7630 => "overlayfs".to_owned(),
        0xf2f5_2010 => "f2fs".to_owned(),
        0x2fc1_2fc1 => "zfs".to_owned(),
        other => format!("{other:#x}"),
    })
}

/// Moves the calling thread into a mount namespace of its own in which nothing propagates either
/// way. Threads it spawns later are inside too; other threads are not touched.
///
/// # Errors
/// `EPERM` without `CAP_SYS_ADMIN`.
pub fn enter_private_namespace() -> io::Result<()> {
    enter_namespace(MountPropagationFlags::PRIVATE)
}

/// Moves the calling thread into a mount namespace of its own whose mounts all have this propagation.
///
/// # Errors
/// `EPERM` without `CAP_SYS_ADMIN`.
pub fn enter_namespace(propagation: MountPropagationFlags) -> io::Result<()> {
    // SAFETY: see `with_working_directory`: CLONE_NEWNS, which implies CLONE_FS, leaves the
    // descriptor table shared.
    unsafe { rustix::thread::unshare_unsafe(rustix::thread::UnshareFlags::NEWNS)? };
    set_propagation(Path::new("/"), propagation | MountPropagationFlags::REC)
}

/// Runs `action` on a thread of its own in a mount namespace of its own, which goes with the thread.
///
/// # Errors
/// As [`enter_private_namespace`], and those of `action`.
pub fn in_private_namespace<T: Send>(
    action: impl FnOnce() -> io::Result<T> + Send,
) -> io::Result<T> {
    on_thread(|| {
        enter_private_namespace()?;
        action()
    })
}

pub(crate) fn on_thread<T: Send>(action: impl FnOnce() -> io::Result<T> + Send) -> io::Result<T> {
    std::thread::scope(|scope| {
        let done = scope.spawn(action).join();
        done.unwrap_or_else(|_panic| Err(io::Error::other("the mounting thread panicked")))
    })
}

#[cfg(test)]
impl OverlayApi {
    /// What a kernel of this version has, the newest last.
    pub(crate) fn of_this_kernel() -> Vec<Self> {
        let mut apis = vec![Self::OptionPage];
        if crate::kernel::is_linux(6, 8) {
            apis.push(Self::Layered);
        }
        apis
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn overlay(root: &Path, layers: usize) -> Overlay {
        let lowers: Vec<PathBuf> = (0..layers).map(|n| root.join(format!("l{n}"))).collect();
        for lower in &lowers {
            std::fs::create_dir(lower).unwrap();
        }
        std::fs::write(lowers[0].join("top"), "top").unwrap();
        let (upper, work) = (root.join("upper"), root.join("work"));
        for dir in [&upper, &work, &root.join("merged")] {
            std::fs::create_dir(dir).unwrap();
        }
        Overlay {
            lowers,
            upper,
            work,
            volatile: false,
            metacopy: false,
        }
    }

    fn mounts_and_unmounts(api: OverlayApi, layers: usize) {
        enter_private_namespace().unwrap();
        let root = tempfile::tempdir().unwrap();
        let merged = root.path().join("merged");
        let overlay = overlay(root.path(), layers);
        api.mount(&overlay, &merged).unwrap();
        assert!(is_mount_root(&merged).unwrap());
        assert_eq!(std::fs::read_to_string(merged.join("top")).unwrap(), "top");
        std::fs::write(merged.join("new"), "x").unwrap();
        assert!(overlay.upper.join("new").exists());
        assert!(unmount(&merged).unwrap());
        assert!(
            !unmount(&merged).unwrap(),
            "the second unmount finds nothing"
        );
        assert!(!is_mount_root(&merged).unwrap());
    }

    #[test]
    fn the_kernel_is_asked_for_the_newest_way_that_it_has() {
        let newest = OverlayApi::of_this_kernel().pop().unwrap();
        assert_eq!(OverlayApi::detect().unwrap(), newest);
    }

    #[test]
    fn overlays_mount_in_every_way_of_the_kernel() {
        for api in OverlayApi::of_this_kernel() {
            mounts_and_unmounts(api, 3);
        }
    }

    #[test]
    fn overlays_mount_from_one_option_page() {
        mounts_and_unmounts(OverlayApi::OptionPage, 300);
    }

    #[test]
    fn a_path_longer_than_a_parameter_still_mounts() {
        enter_private_namespace().unwrap();
        for api in OverlayApi::of_this_kernel() {
            let root = tempfile::tempdir().unwrap();
            let deep = root.path().join("d".repeat(200)).join("e".repeat(100));
            std::fs::create_dir_all(&deep).unwrap();
            let overlay = overlay(&deep, 2);
            let merged = deep.join("merged");
            api.mount(&overlay, &merged).unwrap();
            assert_eq!(std::fs::read_to_string(merged.join("top")).unwrap(), "top");
            unmount(&merged).unwrap();
        }
    }

    #[test]
    fn a_read_only_bind_refuses_writes() {
        enter_private_namespace().unwrap();
        let root = tempfile::tempdir().unwrap();
        let (source, target) = (root.path().join("s"), root.path().join("t"));
        std::fs::create_dir(&source).unwrap();
        std::fs::create_dir(&target).unwrap();
        bind(&source, &target, false, MountFlags::RDONLY).unwrap();
        let error = std::fs::write(target.join("x"), "").unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::ReadOnlyFilesystem);
        unmount(&target).unwrap();
    }
}
