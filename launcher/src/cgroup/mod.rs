//! The control groups of containers: where they are, their limits, and what is used.
//!
//! The runtime makes a container's groups and puts its processes in; everything that may change
//! while the container runs is written here, at its start and at every update alike. Version 1,
//! version 2 and both side by side (hybrid, where the controllers are version 1's) are told apart by
//! what is mounted.

pub mod device;
pub mod limit;
pub mod realtime;
pub mod usage;

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::thread;

use rustix::fs::statfs;
use rustix::process::{Pid, Signal, kill_process};
use sys::signalfd::SignalFd;

use crate::container::Record;

const MOUNT: &str = "/sys/fs/cgroup";
/// `CGROUP2_SUPER_MAGIC` of the kernel's `include/uapi/linux/magic.h`.
const CGROUP2: u64 = 0x6367_7270;
/// Of killing everybody: who forks faster than this has been killed between two of them.
const MOST_ROUNDS: usize = 1000;
/// What containers' groups are in unless `--cgroup-parent` says otherwise.
const PARENT: &str = "/hawser";

/// How the host mounts its control groups.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Cgroups {
    /// Version 2 alone.
    Unified,
    /// Version 1, by hierarchy; one of them may be version 2.
    Split(Vec<String>),
}

impl Cgroups {
    /// # Errors
    /// Nothing is mounted at `/sys/fs/cgroup`.
    pub fn observe() -> io::Result<Self> {
        if u64::try_from(statfs(MOUNT)?.f_type) == Ok(CGROUP2) {
            return Ok(Self::Unified);
        }
        let mut hierarchies = Vec::new();
        for entry in fs::read_dir(MOUNT)? {
            let entry = entry?;
            // `cpu` may be a link to `cpu,cpuacct`.
            if entry.file_type()?.is_dir()
                && let Ok(name) = entry.file_name().into_string()
            {
                hierarchies.push(name);
            }
        }
        hierarchies.sort_unstable();
        Ok(Self::Split(hierarchies))
    }
}

/// The path of a container's group in every hierarchy.
pub fn path_of(record: &Record) -> String {
    let parent = match record.host_config.resources.cgroup_parent.as_str() {
        "" => PARENT,
        parent => parent.trim_matches('/'),
    };
    format!("/{}/{}", parent.trim_start_matches('/'), record.id)
}

/// One container's groups.
#[derive(Debug, Clone)]
pub struct Group {
    /// One hierarchy for everything.
    pub is_unified: bool,
    /// Below the hierarchies' mount points, without a slash in front.
    path: PathBuf,
}

impl Group {
    /// # Errors
    /// As [`Cgroups::observe`].
    pub fn of(record: &Record) -> io::Result<Self> {
        Ok(Self {
            is_unified: Cgroups::observe()? == Cgroups::Unified,
            path: path_of(record).trim_start_matches('/').into(),
        })
    }

    /// Those that a process is in.
    ///
    /// # Errors
    /// The process is gone, or nothing is mounted at `/sys/fs/cgroup`.
    pub fn of_process(pid: u32) -> io::Result<Self> {
        let is_unified = Cgroups::observe()? == Cgroups::Unified;
        let text = fs::read_to_string(format!("/proc/{pid}/cgroup"))?;
        let path = path_in(&text, is_unified).ok_or(io::ErrorKind::NotFound)?;
        Ok(Self {
            is_unified,
            path: path.trim_start_matches('/').into(),
        })
    }

    /// One of version 2, by its path below where that is mounted.
    pub fn unified(path: &Path) -> Self {
        Self {
            is_unified: true,
            path: path.to_owned(),
        }
    }

    /// Below the hierarchies' mount points, without a slash in front.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The directory that has the files of a controller.
    pub fn dir(&self, controller: &str) -> PathBuf {
        if self.is_unified {
            Path::new(MOUNT).join(&self.path)
        } else {
            Path::new(MOUNT).join(controller).join(&self.path)
        }
    }

    fn read(&self, controller: &str, file: &str) -> io::Result<String> {
        fs::read_to_string(self.dir(controller).join(file))
    }

    /// The id by which programs of the kernel know a process's group (`bpf_get_current_cgroup_id`),
    /// which is the one of version 2: none where that is not mounted. Beside version 1 the runtime
    /// makes none there, so that the process, which does not run yet, is put into one here.
    ///
    /// # Errors
    /// The group is gone, or cannot be made.
    pub fn id(&self, pid: u32) -> io::Result<Option<u64>> {
        let dir = if self.is_unified {
            self.dir("")
        } else {
            let hierarchy = Path::new(MOUNT).join("unified");
            if !statfs(&hierarchy).is_ok_and(|found| u64::try_from(found.f_type) == Ok(CGROUP2)) {
                return Ok(None);
            }
            let dir = self.dir("unified");
            fs::create_dir_all(&dir)?;
            fs::write(dir.join("cgroup.procs"), pid.to_string())?;
            dir
        };
        Ok(Some(fs::metadata(dir)?.ino()))
    }

    /// Ids of the processes in it and in the groups that it has made itself, as this process sees
    /// them.
    ///
    /// # Errors
    /// The group is gone.
    pub fn processes(&self) -> io::Result<Vec<u32>> {
        let mut processes = Vec::new();
        let mut pending = vec![self.dir("pids")];
        while let Some(dir) = pending.pop() {
            let text = fs::read_to_string(dir.join("cgroup.procs"))?;
            processes.extend(text.lines().filter_map(|line| line.parse::<u32>().ok()));
            for entry in fs::read_dir(&dir)? {
                let entry = entry?;
                if entry.file_type()?.is_dir() {
                    pending.push(entry.path());
                }
            }
        }
        Ok(processes)
    }

    /// Kills every process of it, those that are made meanwhile too.
    ///
    /// # Errors
    /// The group is gone.
    pub fn kill(&self) -> io::Result<()> {
        // Linux 5.14.
        if self.is_unified && fs::write(self.dir("pids").join("cgroup.kill"), "1").is_ok() {
            return Ok(());
        }
        for _round in 0..MOST_ROUNDS {
            let processes = self.processes()?;
            if processes.is_empty() {
                break;
            }
            for process in processes {
                let process = i32::try_from(process).ok().and_then(Pid::from_raw);
                if let Some(process) = process {
                    // It may have ended by itself.
                    let _gone = kill_process(process, Signal::KILL);
                }
            }
        }
        Ok(())
    }

    /// Removes it, and the groups that it has made itself.
    ///
    /// # Errors
    /// A process is in it.
    pub fn remove(&self) -> io::Result<()> {
        let dirs = match Cgroups::observe()? {
            Cgroups::Unified => vec![Path::new(MOUNT).join(&self.path)],
            Cgroups::Split(hierarchies) => {
                let dirs = hierarchies.iter();
                dirs.map(|hierarchy| self.dir(hierarchy)).collect()
            }
        };
        dirs.iter().try_for_each(|dir| remove_tree(dir))
    }

    /// Stops all processes where they are, or lets them go on.
    ///
    /// # Errors
    /// There is no freezer, or the group is gone.
    pub fn freeze(&self, frozen: bool) -> io::Result<()> {
        let (file, value) = match (self.is_unified, frozen) {
            (true, true) => ("cgroup.freeze", "1"),
            (true, false) => ("cgroup.freeze", "0"),
            (false, true) => ("freezer.state", "FROZEN"),
            (false, false) => ("freezer.state", "THAWED"),
        };
        fs::write(self.dir("freezer").join(file), value)
    }

    /// Whether every process has come to its stop.
    ///
    /// # Errors
    /// As [`Group::freeze`].
    pub fn is_frozen(&self) -> io::Result<bool> {
        if self.is_unified {
            let events = self.read("freezer", "cgroup.events")?;
            return Ok(keyed(&events, "frozen") == Some(1));
        }
        // FREEZING is on its way: `Documentation/admin-guide/cgroup-v1/freezer-subsystem.rst`.
        Ok(self.read("freezer", "freezer.state")?.trim() == "FROZEN")
    }

    /// Whether the kernel has killed a process of it for want of memory.
    pub fn has_run_out_of_memory(&self) -> bool {
        let file = if self.is_unified {
            "memory.events"
        } else {
            "memory.oom_control"
        };
        let text = self.read("memory", file).unwrap_or_default();
        keyed(&text, "oom_kill").is_some_and(|count| count > 0)
    }
}

/// The files of a group go with it.
fn remove_tree(dir: &Path) -> io::Result<()> {
    match fs::remove_dir(dir) {
        Ok(()) => return Ok(()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        // There are groups below, or processes.
        Err(_busy) => {}
    }
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            remove_tree(&entry.path())?;
        }
    }
    fs::remove_dir(dir)
}

/// Has processes that are put into groups soon not wait for it.
///
/// The kernel makes whoever moves a whole process wait until every processor has passed through its
/// scheduler, some 10 ms, unless somebody else has just done so (`cgroup_attach_lock` in
/// kernel/cgroup/cgroup.c, `rcu_sync_enter` in kernel/rcu/sync.c). So this process is moved to where
/// it is, by a thread that waits meanwhile.
pub fn expect_moves() {
    let own = std::process::id();
    let move_nowhere = move || {
        // They are for the thread that forwards them to a container.
        let _others = SignalFd::block(&[libc::SIGHUP, libc::SIGINT, libc::SIGQUIT, libc::SIGTERM])?;
        let group = Group::of_process(own)?;
        fs::write(group.dir("pids").join("cgroup.procs"), own.to_string())
    };
    // What it is for works without it, only later.
    drop(thread::Builder::new().spawn(move_nowhere));
}

/// Where a process is, by its file `cgroup` (cgroups(7)): in version 2, or where its number counts.
fn path_in(text: &str, is_unified: bool) -> Option<&str> {
    let controller = if is_unified { "" } else { "pids" };
    text.lines().find_map(|line| {
        let mut fields = line.splitn(3, ':').skip(1);
        let is_it = fields.next()?.split(',').any(|name| name == controller);
        fields.next().filter(|_| is_it)
    })
}

/// The number after a key in a file of such lines.
fn keyed(text: &str, key: &str) -> Option<u64> {
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix(key)?.strip_prefix(' '))?;
    line.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_is_in_one_group_of_each_hierarchy() {
        let text = "5:cpu,pids:/a:b\n1:name=x:/c\n0::/d\n";
        assert_eq!(path_in(text, false), Some("/a:b"));
        assert_eq!(path_in(text, true), Some("/d"));
        assert_eq!(path_in("0::/d\n", false), None);
    }

    #[test]
    fn keys_are_whole_words() {
        let text = "oom_kill_disable 0\nunder_oom 0\noom_kill 3\n";
        assert_eq!(keyed(text, "oom_kill"), Some(3));
        assert_eq!(keyed(text, "oom"), None);
    }
}
