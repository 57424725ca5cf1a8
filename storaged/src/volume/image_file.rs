//! A volume that is a filesystem in a sparse file: made, mounted, grown and copied.
//!
//! The file is attached to a loop device that goes with the last mount, so that nothing outlives a
//! crash but the file. Only the system's own programs make, check and grow filesystems. A journal is
//! replayed by the kernel when it mounts; `e2fsck -p` comes before that when the last user of an ext4
//! did not unmount it.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::Command;

use rustix::io::Errno;
use rustix::mount::MountFlags;
use sys::freeze::Frozen;
use sys::loop_device::LoopDevice;

use super::copy;
use crate::disk::set_owner;
use crate::model::volume_spec::{Filesystem, ImageSpec, Owner};
use crate::tree;

/// Why something could not be done with a filesystem in a file.
#[derive(Debug, thiserror::Error)]
pub enum ImageFailure {
    #[error(transparent)]
    Io(#[from] io::Error),
    #[error(
        "this host has no loop devices ({0}): the kernel needs CONFIG_BLK_DEV_LOOP and /dev/loop-control"
    )]
    NoLoop(io::Error),
    #[error("this kernel has no {0}: choose another fs=, or load its module")]
    NoFilesystem(&'static str),
    #[error(
        "{program} is not installed: install {package}{}",
        alternative(program)
    )]
    NoProgram {
        program: &'static str,
        package: &'static str,
    },
    #[error("{program} failed ({status}): {output}")]
    Program {
        program: &'static str,
        status: std::process::ExitStatus,
        output: String,
    },
    #[error("the filesystem is damaged: {0}")]
    Damaged(String),
    #[error(
        "an ext4 that is mounted grows only with CAP_SYS_RESOURCE: stop the containers that use it \
         and try again"
    )]
    Mounted,
}

impl ImageFailure {
    pub(crate) fn io(&self) -> Option<&io::Error> {
        match self {
            Self::Io(error) => Some(error),
            _ => None,
        }
    }
}

impl From<Errno> for ImageFailure {
    fn from(error: Errno) -> Self {
        Self::Io(error.into())
    }
}

/// What can be had without a program.
fn alternative(program: &str) -> &'static str {
    if program.starts_with("mkfs") {
        ", or choose another fs="
    } else {
        ""
    }
}

type Done = Result<(), ImageFailure>;

/// Makes a filesystem in a new sparse file. It is on disk when this returns.
pub(crate) fn make(path: &Path, spec: ImageSpec, owner: Owner) -> Done {
    let file = File::create_new(path)?;
    file.set_len(spec.bytes)?;
    match spec.filesystem {
        Filesystem::Ext4 => {
            let mut command = Command::new("mkfs.ext4");
            // No reserve for root: the volume is for one user. A file that was made now has no blocks
            // to discard. Tables of a sparse file need not be written.
            command.args(["-q", "-F", "-m", "0", "-E"]);
            command.arg("nodiscard,lazy_itable_init=1,lazy_journal_init=1");
            if let Some(inodes) = spec.inodes {
                command.args(["-N", &inodes.to_string()]);
            }
            run("mkfs.ext4", "e2fsprogs", command.arg(path))?;
        }
        Filesystem::Xfs => {
            let mut command = Command::new("mkfs.xfs");
            run("mkfs.xfs", "xfsprogs", command.args(["-q", "-K"]).arg(path))?;
        }
    }
    // Mounted once: it is known to work here, and begins empty.
    inside(path, spec.filesystem, |root| {
        make_empty(root)?;
        Ok(set_owner(root, owner)?)
    })?;
    Ok(file.sync_all()?)
}

/// Removes what a new filesystem comes with.
pub(crate) fn make_empty(root: BorrowedFd<'_>) -> Result<(), Errno> {
    match rustix::fs::unlinkat(root, c"lost+found", rustix::fs::AtFlags::REMOVEDIR) {
        // e2fsck makes it when it has something to put there.
        Ok(()) | Err(Errno::NOENT) => {}
        Err(error) => return Err(error),
    }
    rustix::fs::fchmod(root, rustix::fs::Mode::from_raw_mode(0o755))
}

/// Has `action` put something into the filesystem, which nobody has mounted. It is on disk when this
/// returns.
pub(crate) fn write(
    path: &Path,
    filesystem: Filesystem,
    action: impl FnOnce(BorrowedFd<'_>) -> Done,
) -> Done {
    inside(path, filesystem, action)?;
    Ok(File::open(path)?.sync_all()?)
}

/// Copies what a directory holds into an empty filesystem.
pub(crate) fn fill(
    path: &Path,
    filesystem: Filesystem,
    from: BorrowedFd<'_>,
    owner: Owner,
) -> Done {
    write(path, filesystem, |root| {
        copy::tree(from, root)?;
        Ok(set_owner(root, owner)?)
    })
}

/// Whether nobody has put anything into it.
pub(crate) fn is_empty(path: &Path, filesystem: Filesystem) -> Result<bool, ImageFailure> {
    let mut names = Vec::new();
    inside(path, filesystem, |root| {
        names = tree::names(root)?;
        Ok(())
    })?;
    Ok(names.is_empty())
}

/// Mounts the filesystem on `target`, after a repair if it was not unmounted.
pub(crate) fn mount(path: &Path, filesystem: Filesystem, target: &Path) -> Done {
    let device = prepare(path, filesystem)?;
    let flags = MountFlags::NOSUID | MountFlags::NODEV;
    let data = match filesystem {
        // Never write on after an error.
        Filesystem::Ext4 => "errors=remount-ro",
        // A copy of a volume has its identity.
        Filesystem::Xfs => "nouuid",
    };
    let (kind, node) = (filesystem.name(), device.path().to_string_lossy());
    sys::mount::filesystem(kind, &node, target, flags, data)
        .map_err(|error| mount_failure(error, filesystem, path))
}

/// Runs `action` on the top directory of the filesystem, which is mounted nowhere else to be seen.
fn inside(
    path: &Path,
    filesystem: Filesystem,
    action: impl FnOnce(BorrowedFd<'_>) -> Done,
) -> Done {
    let device = prepare(path, filesystem)?;
    let parameters: &[&str] = match filesystem {
        Filesystem::Ext4 => &[],
        Filesystem::Xfs => &["nouuid"],
    };
    let mount = sys::mount::detached(filesystem.name(), device.path(), parameters)
        .map_err(|error| mount_failure(error, filesystem, path))?;
    // The mount's own descriptor is a path only.
    let root = tree::open_dir_at(mount.as_fd(), c".")?;
    action(root.as_fd())?;
    Ok(rustix::fs::syncfs(root)?)
}

fn mount_failure(error: io::Error, filesystem: Filesystem, path: &Path) -> ImageFailure {
    let path = path.display();
    match (
        error.raw_os_error().map(Errno::from_raw_os_error),
        filesystem,
    ) {
        (Some(Errno::NODEV), _) => ImageFailure::NoFilesystem(filesystem.name()),
        (Some(Errno::UCLEAN | Errno::BADMSG), Filesystem::Xfs) => {
            ImageFailure::Damaged(format!("{error}; repair it with \"xfs_repair {path}\""))
        }
        (Some(Errno::UCLEAN | Errno::BADMSG | Errno::INVAL), _) => {
            ImageFailure::Damaged(format!("{error}; look at it with \"fsck -f {path}\""))
        }
        _ => error.into(),
    }
}

/// Attaches the file, once it is known to be in a state to be mounted.
fn prepare(path: &Path, filesystem: Filesystem) -> Result<LoopDevice, ImageFailure> {
    if let Some(device) = LoopDevice::find(path)? {
        // Mounted by somebody still: the kernel gives the same filesystem again.
        return Ok(device);
    }
    if filesystem == Filesystem::Ext4 && !is_clean(&File::open(path)?)? {
        repair(path, &["-p"])?;
    }
    LoopDevice::attach(path).map_err(|error| match error.raw_os_error() {
        Some(libc_enoent) if [2, 6, 19].contains(&libc_enoent) => ImageFailure::NoLoop(error),
        _ => error.into(),
    })
}

/// Whether an ext4 was unmounted, and has no errors on record (`fs/ext4/ext4.h`, `s_state` and
/// `s_feature_incompat`).
fn is_clean(image: &File) -> io::Result<bool> {
    const VALID: u16 = 1;
    const RECOVER: u32 = 4;
    let mut superblock = [0; 1024];
    image.read_exact_at(&mut superblock, 1024)?;
    let state = u16::from_le_bytes([superblock[0x3a], superblock[0x3b]]);
    let incompatible = [0x60, 0x61, 0x62, 0x63].map(|at: usize| superblock[at]);
    Ok(state == VALID && u32::from_le_bytes(incompatible) & RECOVER == 0)
}

/// `e2fsck`: 1 and 2 say that it has repaired something, 4 and more that it could not (`e2fsck(8)`).
fn repair(path: &Path, arguments: &[&str]) -> Done {
    tracing::info!(image = %path.display(), "checking a volume's filesystem");
    let mut command = Command::new("e2fsck");
    match run("e2fsck", "e2fsprogs", command.args(arguments).arg(path)) {
        Err(ImageFailure::Program { status, .. }) if matches!(status.code(), Some(1 | 2)) => Ok(()),
        Err(ImageFailure::Program { output, .. }) => Err(ImageFailure::Damaged(format!(
            "{output}; repair it with \"e2fsck -f {}\"",
            path.display()
        ))),
        result => result,
    }
}

/// Copies the file to a new one, sharing blocks where the filesystem that holds both can.
pub(crate) fn copy(from: &Path, to: &Path, filesystem: Filesystem) -> Done {
    let (source, target) = (File::open(from)?, File::create_new(to)?);
    if LoopDevice::find(from)?.is_none() {
        copy::content(&source, &target)?;
        return Ok(target.sync_all()?);
    }
    // In use: another mount of it is the same filesystem, and is frozen with it.
    inside(from, filesystem, |root| {
        let frozen = Frozen::freeze(tree::open_dir_at(root, c".")?)?;
        // What the filesystem wrote to the device is in the file before it is read.
        source.sync_all()?;
        copy::content(&source, &target)?;
        drop(frozen);
        Ok(())
    })?;
    Ok(target.sync_all()?)
}

/// Lets the filesystem grow into a longer file. Repeating it does no harm.
pub(crate) fn grow(path: &Path, spec: ImageSpec) -> Done {
    let file = OpenOptions::new().read(true).write(true).open(path)?;
    if file.metadata()?.len() < spec.bytes {
        file.set_len(spec.bytes)?;
        file.sync_all()?;
    }
    let device = LoopDevice::find(path)?;
    if let Some(device) = &device {
        device.refresh_size()?;
    }
    match (spec.filesystem, device) {
        (Filesystem::Xfs, _) => inside(path, spec.filesystem, |root| {
            Ok(sys::xfs::grow(root, spec.bytes)?)
        })?,
        (Filesystem::Ext4, Some(device)) => grow_mounted_ext4(device.path())?,
        (Filesystem::Ext4, None) => {
            // What resize2fs insists on before it touches a filesystem that is not mounted.
            repair(path, &["-f", "-p"])?;
            let mut command = Command::new("resize2fs");
            run("resize2fs", "e2fsprogs", command.arg(path))?;
        }
    }
    Ok(file.sync_all()?)
}

fn grow_mounted_ext4(device: &Path) -> Done {
    let mut command = Command::new("resize2fs");
    match run("resize2fs", "e2fsprogs", command.arg(device)) {
        // `ext4_resize_begin`.
        Err(ImageFailure::Program { output, .. }) if output.contains("ermission denied") => {
            Err(ImageFailure::Mounted)
        }
        result => result,
    }
}

/// Runs a program to its end, with what it prints for its failure.
pub(crate) fn run(program: &'static str, package: &'static str, command: &mut Command) -> Done {
    output(program, package, command).map(drop)
}

/// The same, with what it prints.
pub(crate) fn output(
    program: &'static str,
    package: &'static str,
    command: &mut Command,
) -> Result<Vec<u8>, ImageFailure> {
    // Messages are matched, and dates are nobody's business.
    let output = command.env("LC_ALL", "C").output();
    let output = match output {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return Err(ImageFailure::NoProgram { program, package });
        }
        output => output?,
    };
    if output.status.success() {
        return Ok(output.stdout);
    }
    let text = [output.stderr, output.stdout].concat();
    let text = String::from_utf8_lossy(&text);
    // What follows is advice for those who typed the command.
    let lines = text.lines().map(str::trim);
    let lines: Vec<&str> = lines.filter(|line| !line.is_empty()).take(2).collect();
    Err(ImageFailure::Program {
        program,
        status: output.status,
        output: lines.join("; ").chars().take(500).collect(),
    })
}
