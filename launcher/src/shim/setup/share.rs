//! Namespaces of other containers, and the memory that is shared with them.

use std::fs;
use std::path::{Path, PathBuf};

use rustix::mount::MountFlags;

use super::{Setup, SetupError, failed};
use crate::shim::spec::Shared;

impl Setup {
    /// Finds what this container shares, and makes what others may share.
    pub(super) fn share(&self) -> Result<Shared, SetupError> {
        let host = &self.record.host_config;
        let mut shared = Shared::default();
        if let Some(key) = host.pid_mode.strip_prefix("container:") {
            let (_, pid) = self.peer("process ids", key)?;
            shared.pid = Some(format!("/proc/{pid}/ns/pid").into());
        }
        if let Some(key) = host.ipc_mode.strip_prefix("container:") {
            let (peer, pid) = self.peer("IPC namespace", key)?;
            let record = peer.record()?;
            if record.host_config.ipc_mode != "shareable" {
                return Err(SetupError::NoPeer {
                    what: "IPC namespace",
                    key: record.name.to_string(),
                    reason: "non-shareable IPC: create it with --ipc shareable".to_owned(),
                });
            }
            shared.ipc = Some(format!("/proc/{pid}/ns/ipc").into());
            let containers = self.places.run_dir.join("containers");
            shared.shm = Some(shm(&containers.join(peer.id().short())));
        }
        let hosts = Path::new("/dev/shm");
        if host.ipc_mode == "host" && hosts.is_dir() {
            shared.shm = Some(hosts.to_owned());
        }
        if host.ipc_mode == "shareable" {
            shared.shm = Some(self.mount_shm()?);
        }
        Ok(shared)
    }

    fn mount_shm(&self) -> Result<PathBuf, SetupError> {
        self.unshare()?;
        let path = shm(&self.scratch);
        fs::create_dir_all(&path).map_err(failed("create", &path))?;
        let size = self.record.host_config.shm_size;
        let options = format!("mode=1777,size={size}");
        let flags = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
        sys::mount::filesystem("tmpfs", "shm", &path, flags, &options)
            .map_err(failed("mount", &path))?;
        Ok(path)
    }

    /// Nothing mounted is success.
    pub(super) fn unshare(&self) -> Result<(), SetupError> {
        let path = shm(&self.scratch);
        if !path.exists() {
            return Ok(());
        }
        // Those who share it have mounts of their own.
        sys::mount::unmount(&path)
            .map(drop)
            .map_err(failed("unmount", &path))
    }
}

fn shm(scratch: &Path) -> PathBuf {
    scratch.join("shm")
}
