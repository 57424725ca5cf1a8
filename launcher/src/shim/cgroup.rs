//! How the host mounts its control groups.

use std::fs;
use std::io;

use rustix::fs::statfs;

use super::spec::Cgroups;

const MOUNT: &str = "/sys/fs/cgroup";
/// `CGROUP2_SUPER_MAGIC` of the kernel's `include/uapi/linux/magic.h`.
const CGROUP2: u64 = 0x6367_7270;

pub(crate) fn observe() -> io::Result<Cgroups> {
    if u64::try_from(statfs(MOUNT)?.f_type) == Ok(CGROUP2) {
        return Ok(Cgroups::Unified);
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
    Ok(Cgroups::Split(hierarchies))
}
