//! Where a container is made: a mount namespace of the runtime's own, in which everything it mounts
//! lies below one directory.
//!
//! A root file system that the daemon has handed over by descriptor gets a place there, and none in the
//! host's namespace.
//!
//! The runtime finishes a container with a user namespace as the container's own root, who is nobody on
//! the host and may not even walk to a volume. So all sources are taken beforehand, as the host's root,
//! and those whose files have the container's ids on disk are mounted with mapped owners: layers that
//! the storage driver does not mount itself, local volumes, the files for `/etc`.
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
use rustix::fs::{FileType, Mode, OFlags};
use rustix::mount::{MountFlags, MountPropagationFlags};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use sys::copy::HANDED;
use sys::user_namespace;

use crate::container::IDMAP;
use crate::shim::rootfs::Rootfs;

pub(crate) const ROOTFS: &str = "rootfs";
const USER: &str = "user";
/// The option of a mount that shows a part of its source, which no runtime gets to see.
const SUBPATH: &str = "io.hawser.subpath=";
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
    #[error("there is no {} in the volume at {}: {source}", subpath.display(), path.display())]
    Subpath {
        path: PathBuf,
        subpath: PathBuf,
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
    /// Of a user namespace to be made.
    maps: Option<IdMaps>,
    mounts: Vec<Placed>,
}

/// A container's user namespace.
#[derive(Debug)]
pub(crate) struct Users<'a> {
    pub(crate) maps: &'a IdMaps,
    /// Sources whose files have the container's ids on disk, as those of mounts with the option
    /// [`IDMAP`] have, which no runtime gets to see.
    pub(crate) kept: BTreeSet<PathBuf>,
    /// Another container's, to be in.
    pub(crate) joined: Option<&'a Path>,
}

impl Users<'_> {
    /// Has `config` name the namespace.
    fn join(&self, config: &mut Value, directory: &Path) {
        if let Some(linux) = config["linux"].as_object_mut() {
            // Said of a namespace that the runtime would make.
            linux.retain(|name, _| name != "uidMappings" && name != "gidMappings");
        }
        if let Some(namespaces) = config["linux"]["namespaces"].as_array_mut() {
            let own = directory.join(USER);
            let path = self.joined.unwrap_or(&own);
            namespaces.retain(|namespace| namespace["type"] != "user");
            namespaces.push(json!({ "type": "user", "path": path }));
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Placed {
    /// The descriptor [`HANDED`] if there is no path.
    source: Option<PathBuf>,
    /// What of it is mounted; all of it if this is absent.
    subpath: Option<PathBuf>,
    /// In the stage's directory.
    name: String,
    /// With what is mounted below.
    recursive: bool,
    /// Its files have the container's ids.
    mapped: bool,
    /// The word for how mount events pass through it.
    propagation: String,
}

impl Stage {
    /// Has `config` name what will be on the stage in `directory`. It names no root file system if that
    /// is handed over.
    pub(crate) fn plan(config: &mut Value, directory: &Path, users: Option<&Users<'_>>) -> Self {
        let mut stage = Self {
            directory: directory.to_owned(),
            maps: users.map(|users| users.maps.clone()),
            mounts: Vec::new(),
        };
        let is_mapped = |source: &Value| {
            let source = Path::new(source.as_str().unwrap_or_default());
            users.is_some_and(|users| users.kept.contains(source))
        };
        let root = &mut config["root"]["path"];
        let all = Placed {
            source: None,
            subpath: None,
            name: String::new(),
            recursive: true,
            mapped: false,
            propagation: String::new(),
        };
        let placed = Placed {
            name: ROOTFS.to_owned(),
            mapped: is_mapped(root),
            ..all.clone()
        };
        stage.place(root, placed);
        for mount in config["mounts"].as_array_mut().into_iter().flatten() {
            if is_bind(mount) {
                let mut placed = Placed {
                    name: (stage.mounts.len() - 1).to_string(),
                    recursive: false,
                    mapped: is_mapped(&mount["source"]),
                    ..all.clone()
                };
                if let Some(options) = mount["options"].as_array_mut() {
                    placed.recursive = options.contains(&json!("rbind"));
                    placed.mapped |= options.contains(&json!(IDMAP));
                    options.retain(|option| option != IDMAP);
                    let words = || options.iter().filter_map(Value::as_str);
                    let word = words().rfind(|word| flags_of(word).is_some());
                    placed.propagation = word.unwrap_or_default().to_owned();
                    let subpath = words().find_map(|word| word.strip_prefix(SUBPATH));
                    placed.subpath = subpath.map(PathBuf::from);
                    options.retain(|option| !is_subpath(option));
                }
                stage.place(&mut mount["source"], placed);
            }
        }
        if let Some(users) = users {
            users.join(config, directory);
        }
        stage
    }

    fn place(&mut self, source: &mut Value, placed: Placed) {
        let path = source.as_str().map(PathBuf::from);
        *source = json!(self.directory.join(&placed.name));
        self.mounts.push(Placed {
            source: path,
            // What is mounted below has ids of its own.
            recursive: placed.recursive && !placed.mapped,
            ..placed
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
        let namespace = self.maps.as_ref().map(|maps| self.make_users(maps));
        let namespace = namespace.transpose()?;
        let directory = &self.directory;
        // Whoever joins the container later looks for its root there (`canonicalize_rootfs` in
        // libcontainer), outside of this namespace.
        let root = directory.join(ROOTFS);
        fs::create_dir_all(&root).map_err(failed("create", &root))?;
        // Before this process leaves: a mount may ask to pass on to the host what is mounted on it.
        let taken = self.mounts.iter();
        let taken = taken.map(|mount| take(mount, namespace.as_ref()));
        let taken: Vec<OwnedFd> = taken.collect::<Result<_, _>>()?;
        // What the host mounts later is still to be seen through mounts that ask for it.
        sys::mount::enter_namespace(MountPropagationFlags::DOWNSTREAM)
            .map_err(failed("make a mount namespace for", directory))?;
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
        let Some(namespace) = namespace else {
            return Ok(());
        };
        let user = directory.join(USER);
        keep(&namespace, &user).map_err(failed("mount", &user))
    }

    /// Makes a user namespace, whose root can get to the stage.
    fn make_users(&self, maps: &IdMaps) -> Result<OwnedFd, StageError> {
        let directory = &self.directory;
        fs::create_dir_all(directory).map_err(failed("create", directory))?;
        fs::set_permissions(directory, fs::Permissions::from_mode(PASSABLE))
            .map_err(failed("set the mode of", directory))?;
        check_passable(directory)?;
        user_namespace::create(&maps.uid_map(), &maps.gid_map()).map_err(StageError::Namespace)
    }
}

/// Engines say it by the type or by an option.
pub(crate) fn is_bind(mount: &Value) -> bool {
    let options = mount["options"].as_array();
    let has = |word: &str| options.is_some_and(|options| options.contains(&json!(word)));
    mount["type"] == "bind" || has("bind") || has("rbind")
}

/// Asks for a part of the source only.
pub(crate) fn subpath_option(subpath: &str) -> String {
    format!("{SUBPATH}{subpath}")
}

fn is_subpath(option: &Value) -> bool {
    option
        .as_str()
        .is_some_and(|option| option.starts_with(SUBPATH))
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

fn take(mount: &Placed, namespace: Option<&OwnedFd>) -> Result<OwnedFd, StageError> {
    let Some(source) = &mount.source else {
        let handed = PathBuf::from(format!("/proc/self/fd/{HANDED}"));
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let opened = rustix::fs::open(&handed, flags, Mode::empty());
        return opened.map_err(|errno| failed("open", &handed)(errno.into()));
    };
    let taken = match &mount.subpath {
        None => {
            sys::owner::clone_mount(source, mount.recursive).map_err(failed("mount", source))?
        }
        // Others write to the volume: it is what was looked up that is mounted, not its name.
        Some(subpath) => Rootfs::open(source)
            .and_then(|volume| volume.find(subpath))
            .and_then(|part| sys::owner::clone_open(part.as_fd(), mount.recursive))
            .map_err(|error| StageError::Subpath {
                path: source.clone(),
                subpath: subpath.clone(),
                source: error,
            })?,
    };
    if let Some(namespace) = namespace.filter(|_| mount.mapped) {
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

/// libcontainer binds what it finds as it is, whatever the word for the propagation is
/// (`mount_into_container` in its `rootfs/mount.rs`), so that it is as asked here already.
fn put(taken: &OwnedFd, mount: &Placed, target: &Path) -> io::Result<()> {
    let kind = FileType::from_raw_mode(rustix::fs::fstat(taken)?.st_mode);
    if kind.is_dir() {
        fs::create_dir(target)?;
    } else {
        fs::write(target, "")?;
    }
    sys::owner::attach(taken.as_fd(), target)?;
    match flags_of(&mount.propagation) {
        None => Ok(()),
        Some(flags) => sys::mount::set_propagation(target, flags),
    }
}

/// What a word changes: `shared` mounts are so because the host's are.
fn flags_of(word: &str) -> Option<MountPropagationFlags> {
    let (kind, below) = match word.strip_prefix('r') {
        Some(kind) => (kind, MountPropagationFlags::REC),
        None => (word, MountPropagationFlags::empty()),
    };
    let kind = match kind {
        "private" => MountPropagationFlags::PRIVATE,
        "slave" => MountPropagationFlags::DOWNSTREAM,
        _ => return None,
    };
    Some(kind | below)
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
                { "destination": "/v", "type": "bind", "source": "/vol", "options": ["rbind", "rslave", "ro"] },
                { "destination": "/b", "type": "bind", "source": "/srv", "options": ["rbind"] },
                { "destination": "/c", "type": "bind", "source": "/srv", "options": ["rbind", "idmap"] },
            ],
            "linux": { "namespaces": [{ "type": "mount" }] },
        });
        let mut plain = config.clone();
        plain["root"]["path"] = Value::Null;
        let users = Users {
            maps: &IdMaps::default(),
            kept: BTreeSet::from([PathBuf::from("/vol")]),
            joined: None,
        };
        let stage = Stage::plan(&mut config, Path::new("/s"), Some(&users));
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
                let source = mount.source.as_ref().unwrap().to_str().unwrap();
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
        // Without users of its own, and with a root that is handed over.
        let stage = Stage::plan(&mut plain, Path::new("/s"), None);
        assert_eq!(plain["root"]["path"], "/s/rootfs");
        assert_eq!(plain["linux"]["namespaces"].as_array().unwrap().len(), 1);
        assert_eq!((&stage.mounts[0].source, &stage.maps), (&None, &None));
        let source = stage.mounts[1].source.as_deref();
        assert_eq!(
            (source, stage.mounts[1].mapped),
            (Some(Path::new("/vol")), false)
        );
        let words = stage.mounts.iter().map(|mount| mount.propagation.as_str());
        assert_eq!(words.collect::<Vec<_>>(), ["", "rslave", "", ""]);
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
