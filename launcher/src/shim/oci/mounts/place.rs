//! One mount after the other, inside a root file system that may hold any symbolic link.

use std::fs;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::{Component, Path, PathBuf};

use libcontainer::oci_spec::runtime::Mount;
use rustix::fs::{FileType, Gid, Mode, OFlags, Uid, chown, fstat, fstatfs};
use rustix::mount::MountFlags;

use super::option::Options;
use crate::cgroup::Cgroups;
use crate::shim::rootfs::Rootfs;

/// `PROC_SUPER_MAGIC` of the kernel's `include/uapi/linux/magic.h`.
const PROC: u64 = 0x9fa0;
const CGROUPS: &str = "/sys/fs/cgroup";
/// What lxcfs shows a container of its own; libcontainer allows the same (`check_proc_mount`).
const BELOW_PROC: [&str; 10] = [
    "/proc/cpuinfo",
    "/proc/diskstats",
    "/proc/meminfo",
    "/proc/stat",
    "/proc/swaps",
    "/proc/uptime",
    "/proc/loadavg",
    "/proc/slabinfo",
    "/proc/sys/kernel/ns_last_pid",
    "/proc/sys/crypto/fips_enabled",
];

#[derive(Debug)]
pub(super) struct Place<'a> {
    root: Rootfs,
    label: Option<&'a str>,
    cgroup_namespace: bool,
}

impl<'a> Place<'a> {
    pub(super) fn open(
        root: &Path,
        label: Option<&'a str>,
        cgroup_namespace: bool,
    ) -> io::Result<Self> {
        Ok(Self {
            root: Rootfs::open(root)?,
            label: label.filter(|_| Path::new("/sys/fs/selinux").exists()),
            cgroup_namespace,
        })
    }

    pub(super) fn make(&self, mount: &Mount) -> io::Result<()> {
        let words: Vec<&str> = mount
            .options()
            .iter()
            .flatten()
            .map(String::as_str)
            .collect();
        let maps_owners = mount.uid_mappings().is_some() || mount.gid_mappings().is_some();
        if maps_owners || words.iter().any(|word| ["idmap", "ridmap"].contains(word)) {
            return Err(refused("mapped owners need Linux 5.12"));
        }
        let options = Options::parse(words.iter().copied());
        let destination = lexical(mount.destination());
        if destination.starts_with("/proc") && destination != Path::new("/proc") {
            check_below_proc(&destination)?;
        }
        let kind = mount.typ().as_deref().unwrap_or_default();
        let source = mount.source().as_deref();
        let is_bind = kind == "bind" || words.iter().any(|word| ["bind", "rbind"].contains(word));
        match (kind, source) {
            _ if is_bind => {
                let source = source.ok_or_else(|| refused("there is no source"))?;
                self.bind(source, &destination, &options)
            }
            ("cgroup", _) => self.cgroups(&destination, &options),
            _ => {
                let source = source.unwrap_or_else(|| Path::new(kind)).to_string_lossy();
                self.filesystem(kind, &source, &destination, &options)
            }
        }
    }

    /// What is mounted there belongs to whom the root belongs to.
    pub(super) fn give_away(&self, destination: &Path) -> io::Result<()> {
        let root = fstat(&self.root)?;
        let made = self.root.find(destination)?;
        let (user, group) = (Uid::from_raw(root.st_uid), Gid::from_raw(root.st_gid));
        Ok(chown(path_of(&made), Some(user), Some(group))?)
    }

    fn bind(&self, source: &Path, destination: &Path, options: &Options) -> io::Result<()> {
        let source = rustix::fs::open(source, OFlags::PATH | OFlags::CLOEXEC, Mode::empty())?;
        let target = self.target(destination, is_directory(&source)?)?;
        check_proc(&target, destination, Some(source.as_fd()))?;
        let tree = sys::owner::clone_open(source.as_fd(), options.recursive)?;
        sys::owner::attach_on(tree.as_fd(), target.as_fd())?;
        sys::mount::add_flags(&tree, options.flags | options.below)?;
        if options.below.is_empty() {
            return Ok(());
        }
        below(&tree, options.below)
    }

    fn filesystem(
        &self,
        kind: &str,
        source: &str,
        destination: &Path,
        options: &Options,
    ) -> io::Result<()> {
        let is_kernels = ["proc", "sysfs"].contains(&kind);
        let target = self.target(destination, true)?;
        if is_kernels {
            // Nothing else is to look like it.
            let found = fs::read_link(path_of(&target))?;
            let root = fs::read_link(path_of(&self.root))?;
            if root.join(destination.strip_prefix("/").unwrap_or(destination)) != found {
                return Err(refused(
                    "a link is on the way to a file system of the kernel",
                ));
            }
        }
        if kind != "proc" {
            check_proc(&target, destination, None)?;
        }
        let label = self.label.filter(|_| !is_kernels);
        let label = label.map(|label| format!("context={label}"));
        let data = options.data.iter().chain(&label).map(String::as_str);
        let data: Vec<&str> = data.collect();
        let source = Path::new(source);
        let made = sys::mount::detached_with(kind, source, &data, options.attributes())?;
        sys::owner::attach_on(made.as_fd(), target.as_fd())
    }

    /// Where it is to be mounted, which is made if need be.
    fn target(&self, destination: &Path, is_dir: bool) -> io::Result<OwnedFd> {
        let path = destination.to_string_lossy();
        self.root.create_mount_point(&path, is_dir)?;
        self.root.find(destination)
    }

    fn cgroups(&self, destination: &Path, options: &Options) -> io::Result<()> {
        let own = fs::read_to_string("/proc/self/cgroup")?;
        let Cgroups::Split(hierarchies) = Cgroups::observe()? else {
            let made = self.filesystem("cgroup2", "cgroup", destination, options);
            // Whose namespace of control groups is another user's sees the host's.
            return made.or_else(|_refused| {
                let source = group_in(Path::new(CGROUPS), &own, "");
                self.bind(&source, destination, options)
            });
        };
        let words = "noexec,nosuid,nodev,mode=755".split(',');
        self.filesystem("tmpfs", "tmpfs", destination, &Options::parse(words))?;
        for hierarchy in hierarchies {
            self.hierarchy(&hierarchy, &own, destination)?;
        }
        Ok(())
    }

    /// One of version 1; specifications make it read-only by other means.
    fn hierarchy(&self, name: &str, own: &str, destination: &Path) -> io::Result<()> {
        let named = format!("name={name}");
        let Some(controllers) = [name, &named]
            .into_iter()
            .find(|it| path_in(own, it).is_some())
        else {
            return Ok(());
        };
        let target = destination.join(name);
        if self.cgroup_namespace {
            let words = ["noexec", "nosuid", "nodev"].into_iter();
            let options = Options::parse(words.chain(controllers.split(',')));
            self.filesystem("cgroup", "cgroup", &target, &options)?;
        } else {
            let source = group_in(&Path::new(CGROUPS).join(name), own, controllers);
            self.bind(&source, &target, &Options::parse(["rbind"]))?;
        }
        if !name.contains(',') {
            return Ok(());
        }
        let directory = self.root.find(destination)?;
        for controller in name.split(',') {
            rustix::fs::symlinkat(name, &directory, controller)?;
        }
        Ok(())
    }
}

fn refused(why: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, why)
}

fn path_of(file: impl AsFd) -> String {
    format!("/proc/self/fd/{}", file.as_fd().as_raw_fd())
}

fn is_directory(file: &OwnedFd) -> io::Result<bool> {
    Ok(FileType::from_raw_mode(fstat(file)?.st_mode).is_dir())
}

/// Without `.` and `..`, which do not lead out of a root.
fn lexical(path: &Path) -> PathBuf {
    let mut clean = PathBuf::from("/");
    for component in path.components() {
        match component {
            Component::Normal(name) => clean.push(name),
            Component::ParentDir => drop(clean.pop()),
            _ => {}
        }
    }
    clean
}

/// Nothing is to pass for the kernel's word about processes.
fn check_proc(
    target: &OwnedFd,
    destination: &Path,
    source: Option<BorrowedFd<'_>>,
) -> io::Result<()> {
    let is_proc = |file: BorrowedFd<'_>| {
        let kind = fstatfs(file)?.f_type;
        Ok::<_, io::Error>(u64::try_from(kind) == Ok(PROC))
    };
    if destination == Path::new("/proc") {
        return match source {
            Some(source) if is_proc(source)? => Ok(()),
            _ => Err(refused("only a file system of type proc is mounted there")),
        };
    }
    match is_proc(target.as_fd())? {
        true => check_below_proc(destination),
        false => Ok(()),
    }
}

fn check_below_proc(destination: &Path) -> io::Result<()> {
    match BELOW_PROC.iter().any(|path| destination == Path::new(path)) {
        true => Ok(()),
        false => Err(refused("nothing is mounted below /proc")),
    }
}

/// Where a process is in a hierarchy, by its `/proc/PID/cgroup`.
fn path_in<'a>(own: &'a str, controllers: &str) -> Option<&'a str> {
    own.lines().find_map(|line| {
        let (_, rest) = line.split_once(':')?;
        let (found, path) = rest.split_once(':')?;
        (found == controllers).then_some(path)
    })
}

fn group_in(hierarchy: &Path, own: &str, controllers: &str) -> PathBuf {
    let path = path_in(own, controllers).unwrap_or_default();
    hierarchy.join(path.trim_start_matches('/'))
}

/// Adds flags to all that is mounted below what `tree` is the root of.
fn below(tree: &OwnedFd, flags: MountFlags) -> io::Result<()> {
    let table = fs::read_to_string("/proc/thread-self/mountinfo")?;
    let mut ids = vec![mount_id(tree)?];
    let mut points = Vec::new();
    // Whatever is mounted on another one is in the table after it.
    for line in table.lines() {
        let mut fields = line.split(' ');
        let mut number = || fields.next().and_then(|field| field.parse::<u64>().ok());
        let (Some(id), Some(parent)) = (number(), number()) else {
            continue;
        };
        if ids.contains(&parent)
            && let Some(point) = fields.nth(2)
        {
            ids.push(id);
            points.push((id, unescaped(point)));
        }
    }
    for (id, point) in points {
        let flags_of_open = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let mount = rustix::fs::open(&point, flags_of_open, Mode::empty())?;
        match mount_id(&mount)? {
            found if found == id => sys::mount::add_flags(&mount, flags)?,
            // Nobody sees it below the other.
            found if ids.contains(&found) => {}
            _ => return Err(io::Error::other("what is mounted below has moved")),
        }
    }
    Ok(())
}

fn mount_id(file: &OwnedFd) -> io::Result<u64> {
    let text = fs::read_to_string(format!("/proc/self/fdinfo/{}", file.as_raw_fd()))?;
    let mut lines = text.lines();
    let id = lines.find_map(|line| line.strip_prefix("mnt_id:")?.trim().parse().ok());
    id.ok_or_else(|| io::ErrorKind::InvalidData.into())
}

/// Spaces and the like are in the table as octal numbers (proc_pid_mountinfo(5)).
fn unescaped(field: &str) -> String {
    let escapes = [
        ("\\040", " "),
        ("\\011", "\t"),
        ("\\012", "\n"),
        ("\\134", "\\"),
    ];
    escapes
        .into_iter()
        .fold(field.to_owned(), |text, (code, sign)| {
            text.replace(code, sign)
        })
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use serde_json::json;

    use super::*;

    fn make(root: &Path, mount: serde_json::Value) -> io::Result<()> {
        let mount: Mount = serde_json::from_value(mount).unwrap();
        Place::open(root, None, false)?.make(&mount)
    }

    /// In a mount namespace of the test's thread.
    fn root() -> tempfile::TempDir {
        sys::mount::enter_private_namespace().unwrap();
        tempfile::tempdir().unwrap()
    }

    fn flags(path: &Path) -> String {
        let table = fs::read_to_string("/proc/thread-self/mountinfo").unwrap();
        let point = path.to_str().unwrap();
        let line = table
            .lines()
            .rfind(|line| line.split(' ').nth(4) == Some(point));
        line.unwrap().split(' ').nth(5).unwrap().to_owned()
    }

    #[test]
    fn mounts_have_the_flags_that_are_asked() {
        let root = root();
        let source = tempfile::tempdir().unwrap();
        let path = source.path();
        make(
            root.path(),
            json!({
                "destination": "/a/b", "source": path, "type": "bind",
                "options": ["rbind", "ro", "nosuid"],
            }),
        )
        .unwrap();
        let found = flags(&root.path().join("a/b"));
        assert!(found.starts_with("ro,nosuid"), "{found}");
        make(
            root.path(),
            json!({
                "destination": "/t", "source": "tmpfs", "type": "tmpfs",
                "options": ["noexec", "strictatime", "size=64k", "mode=700"],
            }),
        )
        .unwrap();
        assert_eq!(flags(&root.path().join("t")), "rw,noexec");
        fs::write(path.join("file"), "x").unwrap();
        make(
            root.path(),
            json!({
                "destination": "/f", "source": path.join("file"), "options": ["bind", "rw"],
            }),
        )
        .unwrap();
        assert_eq!(fs::read_to_string(root.path().join("f")).unwrap(), "x");
    }

    #[test]
    fn what_is_below_is_read_only_too_if_that_is_asked() {
        let root = root();
        let source = tempfile::tempdir().unwrap();
        let below = source.path().join("a b");
        fs::create_dir(&below).unwrap();
        sys::mount::filesystem("tmpfs", "t", &below, MountFlags::NODEV, "").unwrap();
        for (name, words, writable) in [("r", "rro", false), ("w", "ro", true)] {
            make(
                root.path(),
                json!({
                    "destination": format!("/{name}"), "source": source.path(),
                    "options": ["rbind", words],
                }),
            )
            .unwrap();
            let file = root.path().join(name).join("a b/file");
            assert_eq!(fs::write(file, "").is_ok(), writable, "{words}");
        }
        fs::write(below.join("other"), "").unwrap();
    }

    #[test]
    fn links_and_proc_are_no_way_around() {
        let root = root();
        let outside = tempfile::tempdir().unwrap();
        symlink(outside.path(), root.path().join("out")).unwrap();
        let inside = outside.path().strip_prefix("/").unwrap();
        fs::create_dir_all(root.path().join(inside)).unwrap();
        make(
            root.path(),
            json!({
                "destination": "/out/x", "source": "tmpfs", "type": "tmpfs",
            }),
        )
        .unwrap();
        assert!(!outside.path().join("x").exists());
        assert!(root.path().join(inside).join("x").exists());
        fs::create_dir(root.path().join("real")).unwrap();
        symlink("real", root.path().join("proc")).unwrap();
        for mount in [
            json!({ "destination": "/proc", "source": "proc", "type": "proc" }),
            json!({ "destination": "/proc", "source": outside.path(), "options": ["bind"] }),
            json!({ "destination": "/x/../proc/self/attr", "source": outside.path(), "options": ["bind"] }),
            json!({ "destination": "/m", "source": outside.path(), "options": ["bind", "idmap"] }),
        ] {
            let error = make(root.path(), mount.clone()).unwrap_err();
            assert_eq!(
                error.kind(),
                io::ErrorKind::InvalidInput,
                "{mount}: {error}"
            );
        }
        assert!(
            fs::read_dir(root.path().join("real"))
                .unwrap()
                .next()
                .is_none()
        );
    }

    #[test]
    fn a_process_has_a_group_in_each_hierarchy() {
        let own = "4:cpu,cpuacct:/a\n1:name=systemd:/b:c\n0::/d\n";
        assert_eq!(path_in(own, "cpu,cpuacct"), Some("/a"));
        assert_eq!(path_in(own, "name=systemd"), Some("/b:c"));
        assert_eq!((path_in(own, ""), path_in(own, "cpu")), (Some("/d"), None));
    }
}
