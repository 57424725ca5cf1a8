//! Device nodes of the host that a container gets: those of `--device`, or all of them.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::{major, minor};

use crate::container::{DeviceRule, HostConfig};

/// A node to make in the container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Node {
    /// In the container.
    pub(crate) path: PathBuf,
    /// `b` or `c`.
    pub(crate) kind: char,
    pub(crate) major: u32,
    pub(crate) minor: u32,
    pub(crate) mode: u32,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    /// Of `r`, `w` and `m`.
    pub(crate) access: String,
}

impl Node {
    pub(crate) fn rule(&self) -> DeviceRule {
        DeviceRule {
            kind: self.kind,
            major: Some(self.major),
            minor: Some(self.minor),
            access: self.access.clone(),
        }
    }
}

#[derive(Debug, thiserror::Error)]
pub(crate) enum DeviceError {
    #[error(
        "error gathering device information while adding custom device {:?}: {source}",
        path.display().to_string()
    )]
    Read { path: PathBuf, source: io::Error },
    #[error(
        "error gathering device information while adding custom device {:?}: not a device node",
        .0.display().to_string()
    )]
    NoNode(PathBuf),
    #[error("device {:?}: a container's devices are below /dev", .0.display().to_string())]
    Elsewhere(PathBuf),
}

/// The nodes, each once: what was asked for stands before what a privileged container has anyway.
pub(crate) fn nodes(host: &HostConfig) -> Result<Vec<Node>, DeviceError> {
    let mut nodes = BTreeMap::new();
    if host.privileged {
        // What vanishes meanwhile, or is no device, is nobody's wish.
        for node in below(Path::new("/dev"), Path::new("/dev"), "rwm").unwrap_or_default() {
            nodes.insert(node.path.clone(), node);
        }
    }
    for device in &host.resources.devices {
        let (from, to) = (
            Path::new(&device.path_on_host),
            Path::new(&device.path_in_container),
        );
        if !to.starts_with("/dev") {
            return Err(DeviceError::Elsewhere(to.to_owned()));
        }
        let failed = |source| DeviceError::Read {
            path: from.to_owned(),
            source,
        };
        let access = &device.cgroup_permissions;
        let found = if fs::metadata(from).map_err(failed)?.is_dir() {
            below(from, to, access).map_err(failed)?
        } else {
            let node = node(from, to, access).map_err(failed)?;
            vec![node.ok_or_else(|| DeviceError::NoNode(from.to_owned()))?]
        };
        nodes.extend(found.into_iter().map(|node| (node.path.clone(), node)));
    }
    Ok(nodes.into_values().collect())
}

/// What the container has of its own, or that makes no sense outside of the host.
const OWN: [&str; 7] = ["pts", "shm", "fd", "mqueue", "ptmx", "console", ".udev"];

fn below(from: &Path, to: &Path, access: &str) -> io::Result<Vec<Node>> {
    let mut nodes = Vec::new();
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let name = entry.file_name();
        if OWN.iter().any(|own| name == *own) {
            continue;
        }
        let (from, to) = (entry.path(), to.join(&name));
        // A link leads to a node that has its own entry, or out of the directory.
        let kind = entry.file_type()?;
        if kind.is_dir() {
            nodes.extend(below(&from, &to, access)?);
        } else if !kind.is_symlink() {
            nodes.extend(node(&from, &to, access)?);
        }
    }
    Ok(nodes)
}

fn node(from: &Path, to: &Path, access: &str) -> io::Result<Option<Node>> {
    let metadata = fs::metadata(from)?;
    let kind = metadata.file_type();
    let kind = match (kind.is_char_device(), kind.is_block_device()) {
        (true, _) => 'c',
        (_, true) => 'b',
        _ => return Ok(None),
    };
    Ok(Some(Node {
        path: to.to_owned(),
        kind,
        major: major(metadata.rdev()),
        minor: minor(metadata.rdev()),
        mode: metadata.permissions().mode() & 0o777,
        uid: metadata.uid(),
        gid: metadata.gid(),
        access: access.to_owned(),
    }))
}

#[cfg(test)]
mod tests {
    use crate::container::DeviceMapping;

    use super::*;

    fn asked(from: &str, to: &str) -> Result<Vec<Node>, DeviceError> {
        let mut host = HostConfig::default();
        host.resources.devices.push(DeviceMapping {
            path_on_host: from.to_owned(),
            path_in_container: to.to_owned(),
            cgroup_permissions: "rw".to_owned(),
        });
        nodes(&host)
    }

    #[test]
    fn a_device_keeps_its_numbers_in_another_place() {
        let nodes = asked("/dev/null", "/dev/mynull").unwrap();
        assert_eq!(nodes.len(), 1);
        let node = &nodes[0];
        assert_eq!(node.path, Path::new("/dev/mynull"));
        assert_eq!((node.kind, node.major, node.minor), ('c', 1, 3));
        assert_eq!((node.mode, node.access.as_str()), (0o666, "rw"));
    }

    #[test]
    fn what_is_no_device_is_named() {
        let message = |from: &str, to: &str| asked(from, to).unwrap_err().to_string();
        assert!(message("/dev/nosuch", "/dev/x").contains("\"/dev/nosuch\": No such file"));
        assert!(message("/etc/passwd", "/dev/x").contains("not a device node"));
        assert!(message("/dev/null", "/null").contains("below /dev"));
    }

    #[test]
    fn a_privileged_container_has_the_hosts_devices() {
        let host = HostConfig {
            privileged: true,
            ..HostConfig::default()
        };
        let nodes = nodes(&host).unwrap();
        assert!(nodes.iter().any(|node| node.path == Path::new("/dev/null")));
        assert!(!nodes.iter().any(|node| node.path.starts_with("/dev/pts")));
    }
}
