//! Which devices a filesystem's operations are seen on.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, StatxFlags, statx};

/// A device as the tracepoints tell it (`MKDEV`, include/linux/kdev_t.h).
pub(super) type Device = u32;

/// More disks than one filesystem is ever spread over.
const MOST: usize = 32;

/// The device that a filesystem says it has.
pub(super) fn of(target: &Path) -> io::Result<Device> {
    Ok(number(fs::metadata(target)?.dev()))
}

/// A disk below a filesystem, and the device by which operations for it are submitted: a partition of
/// it, or itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Below {
    pub(super) submitted: Device,
    pub(super) disk: Device,
}

/// The disks below the filesystem that `target` is on: none for one that has no device.
pub(super) fn below(target: &Path) -> io::Result<Vec<Below>> {
    let mut device = of(target)?;
    if device >> 20 == 0 {
        // A btrfs has numbers of its own for each subvolume, and is mounted from a device.
        match source(target)? {
            Some(source) => device = source,
            None => return Ok(Vec::new()),
        }
    }
    let mut found = Vec::new();
    descend(device, &mut found)?;
    Ok(found)
}

/// What is mapped to others (LVM, software RAID) has no requests of its own.
fn descend(device: Device, found: &mut Vec<Below>) -> io::Result<()> {
    let (major, minor) = (device >> 20, device & 0xf_ffff);
    let link = PathBuf::from(format!("/sys/dev/block/{major}:{minor}"));
    let directory = match fs::canonicalize(&link) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        directory => directory?,
    };
    let is_partition = directory.join("partition").exists();
    let mut lower = Vec::new();
    for entry in fs::read_dir(directory.join("slaves")).into_iter().flatten() {
        lower.push(named(&entry?.path())?);
    }
    if found.len() + lower.len() >= MOST {
        return Ok(());
    }
    if !lower.is_empty() {
        return lower.into_iter().try_for_each(|one| descend(one, found));
    }
    let disk = match directory.parent().filter(|_| is_partition) {
        Some(disk) => named(disk)?,
        None => device,
    };
    // Before 5.12 what is for a partition was submitted by the disk's number.
    for below in [device, disk].map(|submitted| Below { submitted, disk }) {
        if !found.contains(&below) {
            found.push(below);
        }
    }
    Ok(())
}

/// The device that a directory of sysfs is for.
fn named(directory: &Path) -> io::Result<Device> {
    let text = fs::read_to_string(directory.join("dev"))?;
    let numbers = text.trim().split_once(':').and_then(|(major, minor)| {
        Some(major.parse::<u32>().ok()? << 20 | minor.parse::<u32>().ok()?)
    });
    numbers.ok_or_else(|| io::Error::other(format!("{text:?} is no device")))
}

/// The device that what `target` is on was mounted from.
fn source(target: &Path) -> io::Result<Option<Device>> {
    let mount = statx(CWD, target, AtFlags::empty(), StatxFlags::MNT_ID)?.stx_mnt_id;
    let table = fs::read_to_string("/proc/thread-self/mountinfo")?;
    let number_of = |line: &str| line.split(' ').next()?.parse().ok();
    let line = table.lines().find(|line| number_of(line) == Some(mount));
    // After the dash: type, source, options.
    let source = line.and_then(|line| line.split_once(" - ")?.1.split(' ').nth(1));
    let Some(source) = source.filter(|source| source.starts_with("/dev/")) else {
        return Ok(None);
    };
    Ok(Some(number(fs::metadata(source)?.rdev())))
}

fn number(device: u64) -> Device {
    rustix::fs::major(device) << 20 | rustix::fs::minor(device)
}
