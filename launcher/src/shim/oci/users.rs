//! Bundles with a user namespace: their containers are made on a stage, as the launcher's own are,
//! for an engine keeps what it mounts where the container's root may not walk. So are all where we make
//! the mounts ourselves ([`super::mounts`]), some of them before the container has a namespace.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use api::owner::{IdMaps, IdRange};
use rustix::mount::MountFlags;
use serde_json::{Value, json};

use super::{OciError, failed, read_json};
use crate::shim::exec::joining::maps_of;
use crate::shim::stage::{ROOTFS, Stage, Users, is_bind};

/// Not below the root of the states, which an engine may keep closed.
const STAGES: &str = "/run/hawser/stages";
const CONFIG: &str = "config.json";

/// What the host has of a container that is being made; nothing stays of it.
#[derive(Debug)]
pub(super) struct Staged {
    directory: PathBuf,
}

impl Staged {
    /// Moves this process into a mount namespace with a stage, where the bundle's `config.json` names
    /// what is on it. None for a bundle that needs no stage, and for a caller that is not the host's
    /// root: what it can mount, it has mounted as the root of its own namespace.
    pub(super) fn enter(bundle: &Path, id: &str) -> Result<Option<Self>, OciError> {
        let path = bundle.join(CONFIG);
        let mut config = read_json(&path)?;
        let found = maps(&config)?;
        let needs_stage = found.is_some() || !sys::owner::sets_attributes();
        if !needs_stage || !is_hosts_root() {
            return Ok(None);
        }
        let staged = Self {
            directory: Path::new(STAGES).join(format!("{id}.{}", std::process::id())),
        };
        from(bundle, &mut config);
        let users = found.as_ref().map(|(maps, joined)| Users {
            maps,
            kept: BTreeSet::new(),
            joined: joined.as_deref(),
        });
        let directory = &staged.directory;
        Stage::plan(&mut config, directory, users.as_ref()).enter()?;
        // Engines, and whoever joins the container later, read the bundle's own.
        let shown = directory.join(CONFIG);
        fs::write(&shown, config.to_string())
            .and_then(|()| sys::mount::bind(&shown, &path, false, MountFlags::empty()))
            .map_err(failed("show what is on the stage as", &path))?;
        Ok(Some(staged))
    }
}

impl Drop for Staged {
    fn drop(&mut self) {
        // The container has what it needs of it. What cannot be removed is empty, and goes with
        // the boot.
        drop(sys::mount::unmount(&self.directory));
        for directory in [self.directory.join(ROOTFS), self.directory.clone()] {
            drop(fs::remove_dir(directory));
        }
    }
}

/// Who the container's users are on the host, and the namespace to join if there is one already.
fn maps(config: &Value) -> Result<Option<(IdMaps, Option<PathBuf>)>, OciError> {
    let linux = &config["linux"];
    let mut namespaces = linux["namespaces"].as_array().into_iter().flatten();
    let Some(user) = namespaces.find(|namespace| namespace["type"] == "user") else {
        return Ok(None);
    };
    let joined = user["path"].as_str().map(PathBuf::from);
    let listed = IdMaps {
        uids: ranges(&linux["uidMappings"]),
        gids: ranges(&linux["gidMappings"]),
    };
    let is_listed = !listed.uids.is_empty() && !listed.gids.is_empty();
    let maps = match (&joined, is_listed) {
        (_, true) => Some(listed),
        (Some(path), false) => match process_of(path) {
            Some(pid) => maps_of(pid)?,
            None => None,
        },
        (None, false) => None,
    };
    Ok(maps.map(|maps| (maps, joined)))
}

fn ranges(mappings: &Value) -> Vec<IdRange> {
    let number = |value: &Value| value.as_u64().and_then(|number| u32::try_from(number).ok());
    let range = |mapping: &Value| {
        Some(IdRange {
            container: number(&mapping["containerID"])?,
            host: number(&mapping["hostID"])?,
            size: number(&mapping["size"])?,
        })
    };
    let mappings = mappings.as_array().into_iter().flatten();
    mappings.filter_map(range).collect()
}

/// Whose namespace `/proc/PID/ns/user` is.
fn process_of(path: &Path) -> Option<u32> {
    let rest = path.strip_prefix("/proc").ok()?.to_str()?;
    rest.strip_suffix("/ns/user")?.parse().ok()
}

/// The bundle's paths, from wherever they are read.
fn from(bundle: &Path, config: &mut Value) {
    let make_absolute = |path: &mut Value| {
        if let Some(text) = path.as_str() {
            *path = json!(bundle.join(text));
        }
    };
    make_absolute(&mut config["root"]["path"]);
    for mount in config["mounts"].as_array_mut().into_iter().flatten() {
        if is_bind(mount) {
            make_absolute(&mut mount["source"]);
        }
    }
}

pub(super) fn is_hosts_root() -> bool {
    let everybody = IdRange {
        container: 0,
        host: 0,
        size: u32::MAX,
    };
    let map = fs::read_to_string("/proc/self/uid_map").unwrap_or_default();
    rustix::process::geteuid().is_root() && IdMaps::ranges(&map) == Some(vec![everybody])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_new_namespace_has_the_maps_that_are_listed() {
        let map = json!([{ "containerID": 0, "hostID": 5, "size": 10 }]);
        let mut config = json!({
            "root": { "path": "rootfs" },
            "mounts": [
                { "type": "tmpfs", "source": "tmpfs" },
                { "type": "none", "source": "etc/hosts", "options": ["ro", "bind"] },
                { "type": "bind", "source": "/srv" },
            ],
            "linux": { "namespaces": [{ "type": "user" }], "uidMappings": map, "gidMappings": map },
        });
        let (found, joined) = maps(&config).unwrap().unwrap();
        assert_eq!((found.host_uid(3), found.host_gid(10)), (Some(8), None));
        assert_eq!(joined, None);
        from(Path::new("/b"), &mut config);
        let sources = ["tmpfs", "/b/etc/hosts", "/srv"];
        assert_eq!(config["root"]["path"], "/b/rootfs");
        for (mount, source) in config["mounts"].as_array().unwrap().iter().zip(sources) {
            assert_eq!(mount["source"], source);
        }
        // Whoever cannot know is not staged.
        config["linux"] = json!({ "namespaces": [{ "type": "user", "path": "/run/users" }] });
        assert_eq!(maps(&config).unwrap(), None);
        config["linux"]["namespaces"] = json!([{ "type": "mount" }]);
        assert_eq!(maps(&config).unwrap(), None);
        assert_eq!(process_of(Path::new("/proc/17/ns/user")), Some(17));
    }
}
