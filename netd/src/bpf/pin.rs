//! The pin directory and the bpffs it is on.

use std::fs::{self, DirBuilder};
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use aya::programs::links::{FdLink, LinkError, PinnedLink};
use rustix::mount::{MountFlags, mount};

use super::error::BpfError;

const BPFFS: &str = "/sys/fs/bpf";
/// `BPF_FS_MAGIC`, include/uapi/linux/magic.h.
const BPFFS_MAGIC: i64 = 0xcafe_4a11;

/// A directory on a bpffs.
#[derive(Debug, Clone)]
pub(super) struct Directory {
    path: PathBuf,
}

impl Directory {
    /// Makes the directory, and mounts a bpffs if there is none.
    pub(super) fn create(path: &Path) -> Result<Self, BpfError> {
        if !is_on_bpffs(path)? {
            if !path.starts_with(BPFFS) {
                return Err(BpfError::NotBpffs {
                    path: path.to_owned(),
                });
            }
            mount("bpf", BPFFS, "bpf", MountFlags::empty(), Some(c"mode=0700")).map_err(
                |error| BpfError::Pin {
                    what: "mount a bpffs at",
                    path: BPFFS.into(),
                    source: error.into(),
                },
            )?;
        }
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(path)
            .map_err(failed("create pin directory", path))?;
        Ok(Self {
            path: path.to_owned(),
        })
    }

    /// The directory, if it is there.
    pub(super) fn find(path: &Path) -> Result<Option<Self>, BpfError> {
        match fs::metadata(path) {
            Ok(_) if is_on_bpffs(path)? => Ok(Some(Self {
                path: path.to_owned(),
            })),
            Ok(_) => Err(BpfError::NotBpffs {
                path: path.to_owned(),
            }),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(failed("look up pin directory", path)(error)),
        }
    }

    pub(super) fn path(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    /// The names of all pins.
    pub(super) fn names(&self) -> Result<Vec<String>, BpfError> {
        let failed = || failed("list pin directory", &self.path);
        let mut names = Vec::new();
        for entry in fs::read_dir(&self.path).map_err(failed())? {
            let name = entry.map_err(failed())?.file_name();
            names.extend(name.into_string().ok());
        }
        Ok(names)
    }

    pub(super) fn link(&self, name: &str) -> Result<Option<PinnedLink>, BpfError> {
        match PinnedLink::from_pin(self.path(name)) {
            Ok(link) => Ok(Some(link)),
            Err(LinkError::SyscallError(error))
                if error.io_error.kind() == io::ErrorKind::NotFound =>
            {
                Ok(None)
            }
            Err(error) => Err(failed("open pinned link", &self.path(name))(
                io::Error::other(error),
            )),
        }
    }

    /// From here on the link outlives this process.
    pub(super) fn pin_link(&self, name: &str, link: FdLink) -> Result<(), BpfError> {
        let path = self.path(name);
        link.pin(&path)
            .map(drop)
            .map_err(|error| failed("pin link", &path)(io::Error::other(error)))
    }

    /// Removes one pin; returns whether there was one.
    pub(super) fn unpin(&self, name: &str) -> Result<bool, BpfError> {
        let path = self.path(name);
        match fs::remove_file(&path) {
            Ok(()) => Ok(true),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(error) => Err(failed("remove pin", &path)(error)),
        }
    }

    /// Removes all pins, the directory, and those above it that are empty then.
    pub(super) fn remove(self) -> Result<(), BpfError> {
        fs::remove_dir_all(&self.path).map_err(failed("remove pin directory", &self.path))?;
        // Above are the instance's directory and the one of all instances; another instance, or
        // the bpffs's root, keeps its own.
        for above in self.path.ancestors().skip(1).take(2) {
            if fs::remove_dir(above).is_err() {
                break;
            }
        }
        Ok(())
    }
}

/// Judges the nearest ancestor that exists.
fn is_on_bpffs(path: &Path) -> Result<bool, BpfError> {
    for path in path.ancestors() {
        match rustix::fs::statfs(path) {
            Ok(fs) => return Ok(fs.f_type == BPFFS_MAGIC),
            Err(rustix::io::Errno::NOENT) => {}
            Err(error) => return Err(failed("look up the filesystem of", path)(error.into())),
        }
    }
    Ok(false)
}

pub(super) fn failed(what: &'static str, path: &Path) -> impl Fn(io::Error) -> BpfError {
    let path = path.to_owned();
    move |source| BpfError::Pin {
        what,
        path: path.clone(),
        source,
    }
}
