//! Who the container's users are on the host.

use std::collections::BTreeSet;
use std::path::PathBuf;

use super::root::Root;
use super::{Setup, SetupError};
use crate::container::MountKind;
use crate::shim::spec::Input;
use crate::shim::spec::user::User;
use crate::volume::LOCAL;

impl Setup {
    /// The user namespace to be in, if it is another container's.
    pub(super) fn joined_users(&self) -> Result<Option<PathBuf>, SetupError> {
        let mode = &self.record.host_config.userns_mode;
        let Some(key) = mode.strip_prefix("container:") else {
            return Ok(None);
        };
        let (_, pid) = self.peer("user namespace", key)?;
        Ok(Some(format!("/proc/{pid}/ns/user").into()))
    }

    /// The sources of mounts whose files have the container's ids on disk.
    pub(super) fn kept_sources(&self, input: &Input<'_>, root: &Root) -> BTreeSet<PathBuf> {
        let mounts = self.record.mounts.iter();
        let local = mounts.filter(|mount| {
            mount.kind == MountKind::Volume && (mount.driver.is_empty() || mount.driver == LOCAL)
        });
        let mut sources: BTreeSet<PathBuf> = local
            .filter_map(|mount| input.volumes.get(&mount.destination).cloned())
            .collect();
        let etc = input.etc;
        sources.extend([&etc.hosts, &etc.hostname, &etc.resolv_conf].map(Clone::clone));
        sources.extend(root.path.clone().filter(|_| !root.mapped));
        sources
    }

    /// Who `user` is on the host. Who is nobody there owns nothing.
    pub(super) fn on_host(&self, user: &User) -> Result<(u32, u32), SetupError> {
        let Some(maps) = &self.record.id_maps else {
            return Ok((user.uid, user.gid));
        };
        match (maps.host_uid(user.uid), maps.host_gid(user.gid)) {
            (Some(uid), Some(gid)) => Ok((uid, gid)),
            _ => Err(SetupError::NoId {
                uid: user.uid,
                gid: user.gid,
            }),
        }
    }
}
