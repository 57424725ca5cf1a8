//! What belongs to whom in a container, of a tree that is shown to the host with mapped owners.
//!
//! The kernel translates three things on the way: owners, the ids in access control lists, and for
//! which root a file capability counts. What no id of the container is stays as it is shown.

use api::owner::IdMaps;
use rustix::fs::Stat;

use crate::acl;
use crate::xattr::{ACLS, Attributes};

/// `VFS_CAP_REVISION_3` with the id of a root behind it, and `VFS_CAP_REVISION_2` without
/// (`include/uapi/linux/capability.h`).
const CAPABILITY: &[u8] = b"security.capability";
const WITH_ROOT: (u8, usize) = (3, 24);
const WITHOUT_ROOT: (u8, usize) = (2, 20);

/// How a tree is shown: as it is on disk, unless there are maps.
#[derive(Debug, Clone, Default)]
pub(crate) struct Shown {
    pub(crate) maps: Option<IdMaps>,
}

impl Shown {
    pub(crate) fn stat(&self, mut stat: Stat) -> Stat {
        if let Some(maps) = &self.maps {
            stat.st_uid = maps.container_uid(stat.st_uid).unwrap_or(stat.st_uid);
            stat.st_gid = maps.container_gid(stat.st_gid).unwrap_or(stat.st_gid);
        }
        stat
    }

    pub(crate) fn attributes(&self, mut attributes: Attributes) -> Attributes {
        if let Some(maps) = &self.maps {
            for (name, value) in &mut attributes {
                if ACLS.contains(&name.as_slice()) {
                    list(value, maps);
                } else if name == CAPABILITY {
                    capability(value, maps);
                }
            }
        }
        attributes
    }
}

fn list(list: &mut [u8], maps: &IdMaps) {
    let Some(entries) = list.get_mut(acl::VERSION.len()..) else {
        return;
    };
    for entry in entries.chunks_exact_mut(acl::ENTRY) {
        let Some(shown) = number(entry, acl::ID) else {
            continue;
        };
        let id = if entry.starts_with(&acl::USER.to_le_bytes()) {
            maps.container_uid(shown)
        } else if entry.starts_with(&acl::GROUP.to_le_bytes()) {
            maps.container_gid(shown)
        } else {
            None
        };
        if let Some(id) = id {
            entry[acl::ID..].copy_from_slice(&id.to_le_bytes());
        }
    }
}

/// For the container's root, as for anybody's, it is one without a root.
fn capability(value: &mut Vec<u8>, maps: &IdMaps) {
    let (revision, length) = WITH_ROOT;
    if value.len() != length || value.get(3) != Some(&revision) {
        return;
    }
    let root = number(value, length - 4);
    if root.and_then(|root| maps.container_uid(root)) == Some(0) {
        value.truncate(WITHOUT_ROOT.1);
        value[3] = WITHOUT_ROOT.0;
    }
}

fn number(bytes: &[u8], at: usize) -> Option<u32> {
    let bytes = bytes.get(at..at + 4)?;
    Some(u32::from_le_bytes(bytes.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use api::owner::IdRange;

    use super::*;

    fn shown() -> Shown {
        let range = |host| IdRange {
            container: 0,
            host,
            size: 100,
        };
        Shown {
            maps: Some(IdMaps {
                uids: vec![range(1000)],
                gids: vec![range(5000)],
            }),
        }
    }

    #[test]
    fn ids_in_lists_are_the_containers() {
        let list = |user: u32, group: u32| {
            let mut list = 2_u32.to_le_bytes().to_vec();
            for (tag, id) in [(1_u16, u32::MAX), (2, user), (8, group), (32, u32::MAX)] {
                list.extend([tag.to_le_bytes(), [6, 0]].concat());
                list.extend(id.to_le_bytes());
            }
            vec![(ACLS[0].to_vec(), list)]
        };
        assert_eq!(shown().attributes(list(1007, 5008)), list(7, 8));
        assert_eq!(shown().attributes(list(7, 1008)), list(7, 1008));
        assert_eq!(Shown::default().attributes(list(1007, 1)), list(1007, 1));
    }

    #[test]
    fn a_capability_for_the_containers_root_is_for_root() {
        let value = |revision: u8, root: &[u8]| {
            let mut value = vec![1, 0, 0, revision];
            value.extend([7; 16]);
            value.extend(root);
            vec![(CAPABILITY.to_vec(), value)]
        };
        let with = |root: u32| value(3, &root.to_le_bytes());
        assert_eq!(shown().attributes(with(1000)), value(2, &[]));
        assert_eq!(shown().attributes(with(1001)), with(1001));
        assert_eq!(shown().attributes(value(2, &[])), value(2, &[]));
    }
}
