//! Finds the host's cgroup v2 hierarchy, to which the connect and bind hooks are attached.
//!
//! The kernel always has one, and every process is in it, whether somebody has mounted it or not
//! (`cgrp_dfl_root`, kernel/cgroup/cgroup.c). Where nobody has, it is mounted here, at no place that
//! others see.

use std::fs;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};

/// What the host has mounted.
#[derive(Debug, PartialEq, Eq)]
enum Mounted {
    /// Version 2 alone.
    Unified(PathBuf),
    /// Version 1, with an empty version 2 beside it.
    Hybrid(PathBuf),
    /// No version 2 anywhere.
    Legacy,
}

/// The host's control groups.
#[derive(Debug)]
pub(crate) struct Hierarchy {
    mounted: Mounted,
    /// Of version 2, where the host has not mounted it and the kernel has it.
    own: Option<OwnedFd>,
}

impl Hierarchy {
    /// # Errors
    /// `/proc` is not mounted.
    pub(crate) fn detect() -> io::Result<Self> {
        let text = fs::read_to_string("/proc/self/mountinfo")?;
        // A mount that another one covers is listed all the same.
        let mounted = Mounted::among(&text, |path| path.join("cgroup.controllers").exists());
        let own = match mounted {
            Mounted::Unified(_) | Mounted::Hybrid(_) => None,
            // A kernel without it is degraded, and says so.
            Mounted::Legacy => sys::mount::detached_virtual("cgroup2").ok(),
        };
        Ok(Self { mounted, own })
    }

    /// The root of version 2, good in this process as long as this is kept.
    pub(crate) fn path(&self) -> Option<PathBuf> {
        match &self.mounted {
            Mounted::Unified(path) | Mounted::Hybrid(path) => Some(path.clone()),
            Mounted::Legacy => {
                let own = self.own.as_ref()?;
                Some(PathBuf::from(format!("/proc/self/fd/{}", own.as_raw_fd())))
            }
        }
    }

    /// For `info`.
    pub(crate) fn version(&self) -> &'static str {
        match self.mounted {
            Mounted::Unified(_) => "2",
            Mounted::Hybrid(_) => "1+2",
            Mounted::Legacy => "1",
        }
    }
}

impl Mounted {
    fn among(mountinfo: &str, is_visible: impl Fn(&Path) -> bool) -> Self {
        let mounts = || mountinfo.lines().filter_map(Mount::parse);
        // The whole hierarchy only: hooks on a part of it would miss containers elsewhere.
        let unified = mounts()
            .filter(|mount| mount.kind == "cgroup2" && mount.root == "/")
            .map(|mount| mount.path())
            .find(|path| is_visible(path));
        let has_v1 = mounts().any(|mount| mount.kind == "cgroup");
        match unified {
            Some(path) if has_v1 => Self::Hybrid(path),
            Some(path) => Self::Unified(path),
            None => Self::Legacy,
        }
    }
}

/// The group below which the launcher keeps one group a container.
const GROUP: &str = "hawser";

/// Where a process of ours that outlives the daemon belongs, in each hierarchy by which a service
/// manager knows what is a service's: version 2, and systemd's own of version 1.
pub(crate) fn groups_apart(name: &str) -> Vec<PathBuf> {
    let text = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let is_known_by = |mount: &Mount<'_>| {
        mount.root == "/"
            && (mount.kind == "cgroup2"
                || mount
                    .options
                    .split(',')
                    .any(|option| option == "name=systemd"))
    };
    let hierarchies = text.lines().filter_map(Mount::parse).filter(is_known_by);
    hierarchies
        .map(|mount| mount.path().join(GROUP).join(name))
        .collect()
}

/// Removes the launcher's group from every hierarchy where no container is left in it.
///
/// A shim removes its own container's group only: the one above is shared by all of them.
///
/// # Errors
/// `/proc` is not mounted.
pub(crate) fn remove_empty_groups() -> io::Result<Vec<PathBuf>> {
    let text = fs::read_to_string("/proc/self/mountinfo")?;
    let hierarchies = text
        .lines()
        .filter_map(Mount::parse)
        .filter(|mount| mount.kind == "cgroup" || mount.kind == "cgroup2");
    let groups = hierarchies.map(|mount| mount.path().join(GROUP));
    // One that is absent or in use stays as it is.
    Ok(groups
        .filter(|group| fs::remove_dir(group).is_ok())
        .collect())
}

/// One line of mountinfo (proc_pid_mountinfo(5)).
struct Mount<'a> {
    root: &'a str,
    target: &'a str,
    kind: &'a str,
    options: &'a str,
}

impl<'a> Mount<'a> {
    fn parse(line: &'a str) -> Option<Self> {
        let (mount, filesystem) = line.split_once(" - ")?;
        let mut fields = mount.split(' ').skip(3);
        let mut shown = filesystem.split(' ');
        Some(Self {
            root: fields.next()?,
            target: fields.next()?,
            kind: shown.next()?,
            options: shown.nth(1)?,
        })
    }

    fn path(&self) -> PathBuf {
        // The kernel writes white space and backslashes of a path in octal.
        let octal = [
            (r"\040", " "),
            (r"\011", "\t"),
            (r"\012", "\n"),
            (r"\134", "\\"),
        ];
        let mut path = self.target.to_owned();
        for (escaped, plain) in octal {
            path = path.replace(escaped, plain);
        }
        path.into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const V1: &str = "30 25 0:26 / /sys/fs/cgroup/cpu rw shared:9 - cgroup cgroup rw,cpu\n";
    const V2: &str = "31 25 0:27 / /sys/fs/cgroup/uni\\040fied rw - cgroup2 cgroup2 rw\n";
    const PART: &str = "40 25 0:27 /a.slice /mnt/part rw - cgroup2 cgroup2 rw\n";

    #[test]
    fn the_whole_hierarchy_is_found_among_the_mounts() {
        let path = || PathBuf::from("/sys/fs/cgroup/uni fied");
        let detect = |parts: &[&str]| Mounted::among(&parts.concat(), |_| true);
        assert_eq!(detect(&[PART, V2]), Mounted::Unified(path()));
        assert_eq!(detect(&[V1, V2]), Mounted::Hybrid(path()));
        assert_eq!(detect(&[V1, PART, "nonsense\n"]), Mounted::Legacy);
        assert_eq!(Mounted::among(V2, |_| false), Mounted::Legacy);
    }
}
