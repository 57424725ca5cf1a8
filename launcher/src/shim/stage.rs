//! Where a container with a user namespace is made: a mount namespace of the runtime's own, in which
//! everything it mounts lies below one directory that the container's root can pass through.
//!
//! The runtime finishes a container as the container's own root, who is nobody on the host and may
//! not even walk to a volume. So all sources are taken beforehand, as the host's root, and those
//! whose files have the container's ids on disk are mounted with mapped owners: layers that the
//! storage driver does not mount itself, local volumes, the files for `/etc`.
//!
//! ```text
//! RUN/containers/ID12/stage/rootfs   a directory; what is below is seen by the runtime alone
//!                          /rootfs   the root file system
//!                          /0 /1 …   what is bind-mounted, in the order of config.json
//!                          /user     the user namespace
//! ```

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use api::owner::IdMaps;
use rustix::mount::{MountFlags, MountPropagationFlags};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use sys::user_namespace;

use crate::container::IDMAP;

pub(crate) const ROOTFS: &str = "rootfs";
const USER: &str = "user";
/// It can be passed through, and no more.
const PASSABLE: u32 = 0o711;

#[derive(Debug, thiserror::Error)]
pub(crate) enum StageError {
    #[error(
        "{} is closed to other users (mode {mode:o}), and a container with a user namespace is \
         made below it: chmod o+x it, or run with --userns host",
        path.display()
    )]
    Closed { path: PathBuf, mode: u32 },
    #[error(
        "cannot show mapped owners of {} on {filesystem}: {source}; keep it on a filesystem that \
         can, such as ext4, xfs or btrfs, or run with --userns host",
        path.display()
    )]
    Unmappable {
        path: PathBuf,
        filesystem: String,
        source: io::Error,
    },
    #[error("make a user namespace: {0}")]
    Namespace(io::Error),
    #[error("{op} {}: {source}", path.display())]
    Io {
        op: &'static str,
        path: PathBuf,
        source: io::Error,
    },
}

fn failed<'a>(op: &'static str, path: &'a Path) -> impl Fn(io::Error) -> StageError + 'a {
    move |source| StageError::Io {
        op,
        path: path.to_owned(),
        source,
    }
}

/// What is to be made before the runtime is called.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Stage {
    directory: PathBuf,
    maps: IdMaps,
    mounts: Vec<Placed>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Placed {
    source: PathBuf,
    /// In the stage's directory.
    name: String,
    /// With what is mounted below.
    recursive: bool,
    /// Its files have the container's ids.
    mapped: bool,
}

impl Stage {
    /// Has `config` name what will be on the stage in `directory`. Of the sources in `mapped`, and of
    /// mounts with the option [`IDMAP`], which no runtime gets to see, the files have the container's
    /// ids. `joined` is another container's user namespace to be in.
    pub(crate) fn plan(
        config: &mut Value,
        directory: &Path,
        maps: &IdMaps,
        mapped: &BTreeSet<PathBuf>,
        joined: Option<&Path>,
    ) -> Self {
        let mut stage = Self {
            directory: directory.to_owned(),
            maps: maps.clone(),
            mounts: Vec::new(),
        };
        let root = &mut config["root"]["path"];
        let is_mapped = |source: &Value| {
            let source = source.as_str().unwrap_or_default();
            mapped.contains(Path::new(source))
        };
        let root_is_mapped = is_mapped(root);
        stage.place(root, ROOTFS.to_owned(), true, root_is_mapped);
        for mount in config["mounts"].as_array_mut().into_iter().flatten() {
            if is_bind(mount) {
                let mut is_mapped = is_mapped(&mount["source"]);
                let mut recursive = false;
                if let Some(options) = mount["options"].as_array_mut() {
                    recursive = options.contains(&json!("rbind"));
                    is_mapped |= options.contains(&json!(IDMAP));
                    options.retain(|option| option != IDMAP);
                }
                let name = (stage.mounts.len() - 1).to_string();
                stage.place(&mut mount["source"], name, recursive, is_mapped);
            }
        }
        let user = directory.join(USER);
        if let Some(linux) = config["linux"].as_object_mut() {
            // Said of a namespace that the runtime would make.
            linux.retain(|name, _| name != "uidMappings" && name != "gidMappings");
        }
        if let Some(namespaces) = config["linux"]["namespaces"].as_array_mut() {
            namespaces.retain(|namespace| namespace["type"] != "user");
            namespaces.push(json!({ "type": "user", "path": joined.unwrap_or(&user) }));
        }
        stage
    }

    fn place(&mut self, source: &mut Value, name: String, recursive: bool, mapped: bool) {
        let path = PathBuf::from(source.as_str().unwrap_or_default());
        *source = json!(self.directory.join(&name));
        self.mounts.push(Placed {
            source: path,
            name,
            // What is mounted below has ids of its own.
            recursive: recursive && !mapped,
            mapped,
        });
    }

    pub(crate) fn write(&self, path: &Path) -> Result<(), StageError> {
        serde_json::to_vec(self)
            .map_err(io::Error::other)
            .and_then(|text| fs::write(path, text))
            .map_err(failed("write", path))
    }

    pub(crate) fn read(path: &Path) -> Result<Self, StageError> {
        fs::read(path)
            .and_then(|text| serde_json::from_slice(&text).map_err(io::Error::other))
            .map_err(failed("read", path))
    }

    /// Moves this process, which has no other threads, into a mount namespace with the stage.
    pub(crate) fn enter(&self) -> Result<(), StageError> {
        let directory = &self.directory;
        // Whoever joins the container later looks for its root there (`canonicalize_rootfs` in
        // libcontainer), outside of this namespace.
        let root = directory.join(ROOTFS);
        fs::create_dir_all(&root).map_err(failed("create", &root))?;
        fs::set_permissions(directory, fs::Permissions::from_mode(PASSABLE))
            .map_err(failed("set the mode of", directory))?;
        check_passable(directory)?;
        let (uids, gids) = (self.maps.uid_map(), self.maps.gid_map());
        let namespace = user_namespace::create(&uids, &gids).map_err(StageError::Namespace)?;
        // What the host mounts later is still to be seen through mounts that ask for it.
        sys::mount::enter_namespace(MountPropagationFlags::DOWNSTREAM)
            .map_err(failed("make a mount namespace for", directory))?;
        let taken = self.mounts.iter().map(|mount| take(mount, &namespace));
        let taken: Vec<OwnedFd> = taken.collect::<Result<_, _>>()?;
        sys::mount::filesystem(
            "tmpfs",
            "stage",
            directory,
            MountFlags::NOSUID | MountFlags::NODEV,
            &format!("mode={PASSABLE:o}"),
        )
        .map_err(failed("mount", directory))?;
        for (mount, taken) in self.mounts.iter().zip(&taken) {
            let target = directory.join(&mount.name);
            put(taken, mount, &target).map_err(failed("mount", &target))?;
        }
        let user = directory.join(USER);
        keep(&namespace, &user).map_err(failed("mount", &user))
    }
}

/// Engines say it by the type or by an option.
pub(crate) fn is_bind(mount: &Value) -> bool {
    let options = mount["options"].as_array();
    let has = |word: &str| options.is_some_and(|options| options.contains(&json!(word)));
    mount["type"] == "bind" || has("bind") || has("rbind")
}

/// Every directory on the way has to let others pass.
fn check_passable(directory: &Path) -> Result<(), StageError> {
    for path in directory.ancestors().skip(1) {
        let mode = fs::metadata(path).map_err(failed("look at", path))?.mode();
        if mode & 0o001 == 0 {
            return Err(StageError::Closed {
                path: path.to_owned(),
                mode: mode & 0o7777,
            });
        }
    }
    Ok(())
}

fn take(mount: &Placed, namespace: &OwnedFd) -> Result<OwnedFd, StageError> {
    let source = &mount.source;
    let taken =
        sys::owner::clone_mount(source, mount.recursive).map_err(failed("mount", source))?;
    if mount.mapped {
        sys::owner::map_mount(taken.as_fd(), namespace.as_fd()).map_err(|error| {
            let filesystem = sys::mount::filesystem_name(&taken);
            StageError::Unmappable {
                path: source.clone(),
                filesystem: filesystem.unwrap_or_else(|_unknown| "its filesystem".to_owned()),
                source: error,
            }
        })?;
    }
    Ok(taken)
}

fn put(taken: &OwnedFd, mount: &Placed, target: &Path) -> io::Result<()> {
    if fs::metadata(&mount.source)?.is_dir() {
        fs::create_dir(target)?;
    } else {
        fs::write(target, "")?;
    }
    sys::owner::attach(taken.as_fd(), target)
}

/// A namespace lives as long as it is mounted somewhere.
fn keep(namespace: &OwnedFd, target: &Path) -> io::Result<()> {
    fs::write(target, "")?;
    let source = format!("/proc/self/fd/{}", namespace.as_raw_fd());
    sys::mount::bind(Path::new(&source), target, false, MountFlags::empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_source_is_on_the_stage() {
        let mut config = json!({
            "root": { "path": "/merged", "readonly": false },
            "mounts": [
                { "destination": "/proc", "type": "proc", "source": "proc" },
                { "destination": "/v", "type": "bind", "source": "/vol", "options": ["rbind", "ro"] },
                { "destination": "/b", "type": "bind", "source": "/srv", "options": ["rbind"] },
                { "destination": "/c", "type": "bind", "source": "/srv", "options": ["rbind", "idmap"] },
            ],
            "linux": { "namespaces": [{ "type": "mount" }] },
        });
        let mapped = BTreeSet::from([PathBuf::from("/vol")]);
        let maps = IdMaps::default();
        let stage = Stage::plan(&mut config, Path::new("/s"), &maps, &mapped, None);
        assert_eq!(config["root"]["path"], "/s/rootfs");
        assert_eq!(config["mounts"][0]["source"], "proc");
        assert_eq!(config["mounts"][1]["source"], "/s/0");
        assert_eq!(config["mounts"][2]["source"], "/s/1");
        assert_eq!(config["mounts"][3]["options"], json!(["rbind"]));
        let user = json!({ "type": "user", "path": "/s/user" });
        assert_eq!(config["linux"]["namespaces"][1], user);
        let placed: Vec<_> = stage
            .mounts
            .iter()
            .map(|mount| {
                let source = mount.source.to_str().unwrap();
                (source, mount.name.as_str(), mount.recursive, mount.mapped)
            })
            .collect();
        assert_eq!(
            placed,
            [
                ("/merged", "rootfs", true, false),
                ("/vol", "0", false, true),
                ("/srv", "1", true, false),
                ("/srv", "2", false, true)
            ]
        );
    }

    #[test]
    fn a_closed_directory_on_the_way_is_named() {
        let closed = tempfile::tempdir().unwrap();
        let below = closed.path().join("a/b");
        fs::create_dir_all(&below).unwrap();
        fs::set_permissions(closed.path(), fs::Permissions::from_mode(0o700)).unwrap();
        let message = check_passable(&below).unwrap_err().to_string();
        let expected = format!(
            "{} is closed to other users (mode 700)",
            closed.path().display()
        );
        assert!(message.starts_with(&expected), "{message}");
        fs::set_permissions(closed.path(), fs::Permissions::from_mode(0o711)).unwrap();
        check_passable(&below).unwrap();
    }
}
