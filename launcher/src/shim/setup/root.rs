//! The container's root file system, as the daemon gives it.

use std::path::PathBuf;

use super::{Setup, SetupError, failed};
use crate::shim::rootfs::Rootfs;
use crate::shim::streams::DescriptorSocket;

#[derive(Debug)]
pub(super) struct Root {
    /// Where it is mounted; nowhere yet if there is none.
    pub(super) path: Option<PathBuf>,
    pub(super) files: Rootfs,
    /// Its files belong to whom they belong to on the host.
    pub(super) mapped: bool,
}

impl Setup {
    /// Has the daemon mount the root file system: by descriptor, so that nobody else sees it, if it can
    /// and the runtime can do with that. `asked` is called when there may be something to undo.
    pub(super) fn take_root(&self, asked: impl FnOnce()) -> Result<Root, SetupError> {
        let at = self.scratch.join("root.sock");
        let socket = if self.runtime.has_stage() {
            Some(DescriptorSocket::bind(at.clone()).map_err(failed("listen at", &at))?)
        } else {
            None
        };
        let mounted = self
            .daemon
            .mount_rootfs(socket.as_ref().map(DescriptorSocket::path))?;
        asked();
        if let Some(socket) = socket.filter(|_| mounted.handed) {
            let received = socket.receive();
            return Ok(Root {
                path: None,
                files: received
                    .map(Rootfs::of)
                    .map_err(failed("receive the root file system at", &at))?,
                mapped: mounted.mapped,
            });
        }
        let path = PathBuf::from(mounted.path);
        Ok(Root {
            files: Rootfs::open(&path).map_err(failed("open", &path))?,
            path: Some(path),
            mapped: mounted.mapped,
        })
    }
}
