//! Mounts that we make ourselves: libcontainer makes every one with `mount_setattr(2)`, which there is
//! since Linux 5.12 (`mount_into_container` in its `rootfs/mount.rs`).
//!
//! It is given a specification without mounts, and a hook, this program, which makes them in the
//! container's namespaces, before anybody enters the root. A mount on `/dev` itself is made before
//! that: libcontainer puts devices there before it runs hooks, and takes along what is mounted below
//! the root when it comes.
//!
//! As libcontainer does, no path is looked at twice: what is found inside the root is mounted on by
//! its descriptor.

mod option;
mod place;

use std::ffi::OsString;
use std::fs;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};

use libcontainer::oci_spec::runtime::Mount;
use rustix::fs::MemfdFlags;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use self::place::Place;

/// The first argument of the hook.
pub(crate) const VERB: &str = "mount";

#[derive(Debug, thiserror::Error)]
pub(in crate::shim) enum MountsError {
    #[error("understand the mounts: {0}")]
    Malformed(#[from] serde_json::Error),
    #[error("prepare a hook: {0}")]
    Hook(io::Error),
    #[error("open the root file system {}: {source}", path.display())]
    Root { path: PathBuf, source: io::Error },
    #[error("mount on {}: {source}", destination.display())]
    Mount {
        destination: PathBuf,
        source: io::Error,
    },
}

/// Where mounts are made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Target {
    root: PathBuf,
    /// For files of new filesystems, under SELinux.
    label: Option<String>,
    /// Whether the container sees control groups from its own on.
    cgroup_namespace: bool,
    /// The descriptor that gets what went wrong.
    report: i32,
}

/// The mounts of a container that is being made.
#[derive(Debug)]
pub(super) struct Mounts {
    report: OwnedFd,
}

impl Mounts {
    /// Takes them out of `config`, which names its root by an absolute path, and leaves a hook there.
    pub(super) fn take_over(config: &mut Value) -> Result<Self, MountsError> {
        // Not closed by an exec: the hook is to have it.
        let report = rustix::fs::memfd_create("mounts", MemfdFlags::empty())
            .map_err(|errno| MountsError::Hook(errno.into()))?;
        let target = Target {
            root: serde_json::from_value(config["root"]["path"].clone())?,
            label: serde_json::from_value(config["linux"]["mountLabel"].clone())?,
            cgroup_namespace: has_namespace(config, "cgroup"),
            report: report.as_raw_fd(),
        };
        let mounts = config["mounts"].take();
        config["mounts"] = json!([]);
        let mounts: Vec<Mount> = serde_json::from_value(mounts).unwrap_or_default();
        let (early, late): (Vec<Mount>, Vec<Mount>) = mounts
            .into_iter()
            .partition(|mount| mount.destination() == Path::new("/dev"));
        target.make(&early, has_namespace(config, "user"))?;
        let mut arguments = vec!["hawser-shim".to_owned(), VERB.to_owned()];
        arguments.push(serde_json::to_string(&target)?);
        for mount in &late {
            arguments.push(serde_json::to_string(mount)?);
        }
        let hook = json!({ "path": "/proc/self/exe", "args": arguments });
        let hooks = &mut config["hooks"]["createContainer"];
        match hooks.as_array_mut() {
            Some(hooks) => hooks.insert(0, hook),
            None => *hooks = json!([hook]),
        }
        Ok(Self { report })
    }

    /// What the hook said went wrong, if anything.
    pub(super) fn failure(&self) -> Option<String> {
        let said = fs::read_to_string(path_of(self.report.as_raw_fd())).unwrap_or_default();
        (!said.is_empty()).then_some(said)
    }
}

fn has_namespace(config: &Value, kind: &str) -> bool {
    let namespaces = config["linux"]["namespaces"].as_array();
    let mut namespaces = namespaces.into_iter().flatten();
    namespaces.any(|namespace| namespace["type"] == kind)
}

fn path_of(descriptor: i32) -> String {
    format!("/proc/self/fd/{descriptor}")
}

impl Target {
    /// `owned`: what is new belongs to whom the root belongs to.
    fn make(&self, mounts: &[Mount], owned: bool) -> Result<(), MountsError> {
        let place = Place::open(&self.root, self.label.as_deref(), self.cgroup_namespace);
        let place = place.map_err(|source| MountsError::Root {
            path: self.root.clone(),
            source,
        })?;
        for mount in mounts {
            let destination = mount.destination();
            place
                .make(mount)
                .and_then(|()| match owned {
                    true => place.give_away(destination),
                    false => Ok(()),
                })
                .map_err(|source| MountsError::Mount {
                    destination: destination.clone(),
                    source,
                })?;
        }
        Ok(())
    }
}

/// The hook: `TARGET MOUNT…`, each as JSON.
pub(crate) fn main(arguments: impl Iterator<Item = OsString>) -> i32 {
    let words: Vec<String> = arguments
        .map(|word| word.to_string_lossy().into())
        .collect();
    let Some((target, mounts)) = words.split_first() else {
        return 1;
    };
    let Ok(target) = serde_json::from_str::<Target>(target) else {
        return 1;
    };
    let mounts = mounts.iter().map(|text| serde_json::from_str(text));
    let made = mounts
        .collect::<Result<Vec<Mount>, _>>()
        .map_err(MountsError::from)
        .and_then(|mounts| target.make(&mounts, false));
    match made {
        Ok(()) => 0,
        Err(error) => {
            // The hook's failure is known in any case.
            drop(fs::write(path_of(target.report), error.to_string()));
            1
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hook_comes_first_and_has_all_mounts() {
        let root = tempfile::tempdir().unwrap();
        let mut config = json!({
            "root": { "path": root.path() },
            "mounts": [{ "destination": "/proc", "type": "proc", "source": "proc" }],
            "hooks": { "createContainer": [{ "path": "/theirs" }] },
            "linux": { "namespaces": [{ "type": "cgroup" }] },
        });
        let mounts = Mounts::take_over(&mut config).unwrap();
        assert_eq!(config["mounts"], json!([]));
        let hooks = config["hooks"]["createContainer"].as_array().unwrap();
        assert_eq!(hooks[1]["path"], "/theirs");
        let words: Vec<&str> = hooks[0]["args"]
            .as_array()
            .unwrap()
            .iter()
            .filter_map(Value::as_str)
            .collect();
        assert_eq!(words[..2], ["hawser-shim", "mount"]);
        let target: Target = serde_json::from_str(words[2]).unwrap();
        assert_eq!(
            (target.root.as_path(), target.cgroup_namespace),
            (root.path(), true)
        );
        let mount: Value = serde_json::from_str(words[3]).unwrap();
        assert_eq!(mount["destination"], "/proc");
        assert_eq!((words.len(), mounts.failure()), (4, None));
    }

    #[test]
    fn what_went_wrong_is_told() {
        let mut config = json!({ "root": { "path": "/" }, "linux": {} });
        let mounts = Mounts::take_over(&mut config).unwrap();
        let hook = &config["hooks"]["createContainer"][0]["args"];
        let target = OsString::from(hook[2].as_str().unwrap());
        assert_eq!(main([target, "{".into()].into_iter()), 1);
        let failure = mounts.failure().unwrap();
        assert!(failure.starts_with("understand the mounts"), "{failure}");
    }
}
