//! Limits as the kernel's files have them. [`settings`] is pure; [`apply`] writes.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use rustix::fs::{FileType, major, minor};
use rustix::io::Errno;

use super::{Group, MOUNT, realtime};
use crate::container::{Resources, ThrottleDevice};

#[derive(Debug, thiserror::Error)]
pub enum SettingError {
    #[error("{limit}: write {value:?} to {}: {source}", path.display())]
    Write {
        limit: &'static str,
        value: String,
        path: PathBuf,
        source: io::Error,
    },
    #[error("--cpu-rt-runtime: make room above in {}: {source}", path.display())]
    RealTime { path: PathBuf, source: io::Error },
    #[error("unified: {file:?} is no file of control groups of version 2 on this host")]
    NoFile { file: String },
    #[error("{limit}: {path} is no block device")]
    NoBlockDevice { limit: &'static str, path: String },
}

/// One value for one file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Setting {
    /// The flag that asks for it.
    pub limit: &'static str,
    pub controller: &'static str,
    /// The first one that is there is meant: kernels name some differently.
    pub files: &'static [&'static str],
    pub value: String,
}

/// A device's number, `MAJOR:MINOR`.
type DeviceNumber<'a> = &'a dyn Fn(&str) -> Option<String>;

/// What is to be written, in order. `number` looks up block devices.
///
/// # Errors
/// [`SettingError::NoBlockDevice`].
pub fn settings(
    resources: &Resources,
    is_unified: bool,
    number: DeviceNumber<'_>,
) -> Result<Vec<Setting>, SettingError> {
    let mut settings = Vec::new();
    let mut set = |limit, controller, files, value: String| {
        settings.push(Setting {
            limit,
            controller,
            files,
            value,
        });
    };
    if is_unified {
        unified(resources, &mut set);
    } else {
        split(resources, &mut set);
    }
    if !resources.cpuset_cpus.is_empty() {
        let cpus = resources.cpuset_cpus.clone();
        set("--cpuset-cpus", "cpuset", &["cpuset.cpus"], cpus);
    }
    if !resources.cpuset_mems.is_empty() {
        let mems = resources.cpuset_mems.clone();
        set("--cpuset-mems", "cpuset", &["cpuset.mems"], mems);
    }
    if let Some(limit) = resources.pids_limit {
        let value = if limit > 0 {
            limit.to_string()
        } else {
            "max".to_owned()
        };
        set("--pids-limit", "pids", &["pids.max"], value);
    }
    block_devices(resources, is_unified, number, &mut set)?;
    Ok(settings)
}

type Set<'a> = dyn FnMut(&'static str, &'static str, &'static [&'static str], String) + 'a;

fn split(resources: &Resources, set: &mut Set<'_>) {
    let mut number = |limit, controller, files, value: i64| {
        if value != 0 {
            set(limit, controller, files, value.to_string());
        }
    };
    number(
        "--memory",
        "memory",
        &["memory.limit_in_bytes"],
        resources.memory,
    );
    number(
        "--memory-swap",
        "memory",
        &["memory.memsw.limit_in_bytes"],
        resources.memory_swap,
    );
    number(
        "--memory-reservation",
        "memory",
        &["memory.soft_limit_in_bytes"],
        resources.memory_reservation,
    );
    number(
        "--oom-kill-disable",
        "memory",
        &["memory.oom_control"],
        i64::from(resources.oom_kill_disable == Some(true)),
    );
    number("--cpu-shares", "cpu", &["cpu.shares"], resources.cpu_shares);
    let (quota, period) = resources.cpu_quota();
    number("--cpu-period", "cpu", &["cpu.cfs_period_us"], period);
    number("--cpu-quota", "cpu", &["cpu.cfs_quota_us"], quota);
    number(
        "--cpu-rt-period",
        "cpu",
        &["cpu.rt_period_us"],
        resources.cpu_realtime_period,
    );
    number(
        "--cpu-rt-runtime",
        "cpu",
        &["cpu.rt_runtime_us"],
        resources.cpu_realtime_runtime,
    );
    number(
        "--blkio-weight",
        "blkio",
        &["blkio.weight", "blkio.bfq.weight"],
        i64::from(resources.blkio_weight),
    );
    if let Some(swappiness @ 0..) = resources.memory_swappiness {
        set(
            "--memory-swappiness",
            "memory",
            &["memory.swappiness"],
            swappiness.to_string(),
        );
    }
}

fn unified(resources: &Resources, set: &mut Set<'_>) {
    let or_max = |bytes: i64| match bytes {
        -1 => "max".to_owned(),
        bytes => bytes.to_string(),
    };
    if resources.memory != 0 {
        let memory = or_max(resources.memory);
        set("--memory", "memory", &["memory.max"], memory);
    }
    let swap = match resources.memory_swap {
        0 => None,
        -1 => Some("max".to_owned()),
        // There swap is a limit of its own.
        both => Some((both - resources.memory).max(0).to_string()),
    };
    if let Some(swap) = swap {
        set("--memory-swap", "memory", &["memory.swap.max"], swap);
    }
    if resources.memory_reservation != 0 {
        let kept = or_max(resources.memory_reservation);
        set("--memory-reservation", "memory", &["memory.low"], kept);
    }
    if resources.cpu_shares != 0 {
        let weight = cpu_weight(resources.cpu_shares);
        set("--cpu-shares", "cpu", &["cpu.weight"], weight.to_string());
    }
    let (quota, period) = resources.cpu_quota();
    if quota != 0 || period != 0 {
        let quota = match quota {
            ..=0 => "max".to_owned(),
            quota => quota.to_string(),
        };
        let value = match period {
            0 => quota,
            period => format!("{quota} {period}"),
        };
        set("--cpus", "cpu", &["cpu.max"], value);
    }
    // Version 2 has nothing like these two.
    if let Some(0..) = resources.memory_swappiness {
        set("--memory-swappiness", "memory", &[], String::new());
    }
    if resources.oom_kill_disable == Some(true) {
        set("--oom-kill-disable", "memory", &[], String::new());
    }
    if resources.blkio_weight != 0 {
        let weight = io_weight(resources.blkio_weight);
        let files = &["io.weight", "io.bfq.weight"];
        set("--blkio-weight", "io", files, weight.to_string());
    }
}

/// Shares from 2 to 262144 as a weight from 1 to 10000, as OCI runtimes convert them.
fn cpu_weight(shares: i64) -> i64 {
    1 + (shares.clamp(2, 262_144) - 2) * 9_999 / 262_142
}

/// Weights from 10 to 1000 as from 1 to 10000.
fn io_weight(weight: u16) -> u64 {
    1 + (u64::from(weight).clamp(10, 1000) - 10) * 9_999 / 990
}

fn block_devices(
    resources: &Resources,
    is_unified: bool,
    number: DeviceNumber<'_>,
    set: &mut Set<'_>,
) -> Result<(), SettingError> {
    for device in &resources.blkio_weight_device {
        let limit = "--blkio-weight-device";
        let number = number(&device.path).ok_or_else(|| SettingError::NoBlockDevice {
            limit,
            path: device.path.clone(),
        })?;
        if is_unified {
            let value = format!("{number} {}", io_weight(device.weight));
            set(limit, "io", &["io.weight", "io.bfq.weight"], value);
        } else {
            let files = &["blkio.weight_device", "blkio.bfq.weight_device"];
            set(limit, "blkio", files, format!("{number} {}", device.weight));
        }
    }
    for (limit, file, word, devices) in throttles(resources) {
        for device in devices {
            let number = number(&device.path).ok_or_else(|| SettingError::NoBlockDevice {
                limit,
                path: device.path.clone(),
            })?;
            if is_unified {
                let value = format!("{number} {word}={}", device.rate);
                set(limit, "io", &["io.max"], value);
            } else {
                set(limit, "blkio", file, format!("{number} {}", device.rate));
            }
        }
    }
    Ok(())
}

/// Flag, file of version 1, word of version 2, devices.
type Throttle<'a> = (
    &'static str,
    &'static [&'static str],
    &'static str,
    &'a [ThrottleDevice],
);

fn throttles(resources: &Resources) -> [Throttle<'_>; 4] {
    [
        (
            "--device-read-bps",
            &["blkio.throttle.read_bps_device"],
            "rbps",
            &resources.blkio_device_read_bps,
        ),
        (
            "--device-write-bps",
            &["blkio.throttle.write_bps_device"],
            "wbps",
            &resources.blkio_device_write_bps,
        ),
        (
            "--device-read-iops",
            &["blkio.throttle.read_iops_device"],
            "riops",
            &resources.blkio_device_read_iops,
        ),
        (
            "--device-write-iops",
            &["blkio.throttle.write_iops_device"],
            "wiops",
            &resources.blkio_device_write_iops,
        ),
    ]
}

/// The number of a block device node; a number is its own.
pub fn block_device(path: &str) -> Option<String> {
    let is_number = |text: &str| text.parse::<u32>().is_ok();
    if path
        .split_once(':')
        .is_some_and(|(major, minor)| is_number(major) && is_number(minor))
    {
        return Some(path.to_owned());
    }
    let stat = rustix::fs::stat(path).ok()?;
    (FileType::from_raw_mode(stat.st_mode) == FileType::BlockDevice)
        .then(|| format!("{}:{}", major(stat.st_rdev), minor(stat.st_rdev)))
}

/// Writes what is asked for to a container's groups, and says what this host has no files for: as
/// with Docker, that is no reason not to run. Writing the same again changes nothing.
///
/// # Errors
/// [`SettingError`] of the first one that cannot be; those before it stay.
pub fn apply(resources: &Resources, group: &Group) -> Result<Vec<String>, SettingError> {
    let settings = settings(resources, group.is_unified, &block_device)?;
    let _room = make_room(resources, group)?;
    let (mut postponed, mut warnings) = (Vec::new(), Vec::new());
    for setting in &settings {
        let Some(path) = setting.path(group) else {
            warnings.push(format!(
                "this host's control groups do not support {}: the limit is discarded",
                setting.limit
            ));
            continue;
        };
        match write(setting, &path) {
            // Memory must stay below memory and swap together, and a runtime below its period, so
            // whether they can be set in this order depends on what they were.
            Err(SettingError::Write { source, .. })
                if source.raw_os_error() == Some(Errno::INVAL.raw_os_error()) =>
            {
                postponed.push((setting, path));
            }
            outcome => outcome?,
        }
    }
    for (setting, path) in postponed {
        write(setting, &path)?;
    }
    Ok(warnings)
}

/// Writes a file of version 2 by its name, line by line.
///
/// # Errors
/// [`SettingError::NoFile`], or the kernel's.
pub fn apply_file(file: &str, value: &str, group: &Group) -> Result<(), SettingError> {
    let path = group.dir("").join(file);
    let is_name = file.contains('.') && !file.contains('/') && !file.starts_with('.');
    if !(group.is_unified && is_name && path.exists()) {
        return Err(SettingError::NoFile {
            file: file.to_owned(),
        });
    }
    value.lines().try_for_each(|line| {
        write_file(&path, line).map_err(|source| SettingError::Write {
            limit: "unified",
            value: line.to_owned(),
            path: path.clone(),
            source,
        })
    })
}

/// For real-time CPU time, of which there is none elsewhere.
fn make_room(resources: &Resources, group: &Group) -> Result<Option<fs::File>, SettingError> {
    let positive = |value: i64| u64::try_from(value).ok().filter(|value| *value > 0);
    let Some(runtime) = positive(resources.cpu_realtime_runtime).filter(|_| !group.is_unified)
    else {
        return Ok(None);
    };
    let root = Path::new(MOUNT).join("cpu");
    let period = positive(resources.cpu_realtime_period);
    realtime::make_room(&root, &group.dir("cpu"), runtime, period)
        .map(Some)
        .map_err(|(path, source)| SettingError::RealTime { path, source })
}

impl Setting {
    /// The file, if the host has it.
    fn path(&self, group: &Group) -> Option<PathBuf> {
        let dir = group.dir(self.controller);
        let mut candidates = self.files.iter().map(|file| dir.join(file));
        candidates.find(|path| path.exists())
    }
}

fn write(setting: &Setting, path: &Path) -> Result<(), SettingError> {
    write_file(path, &setting.value).map_err(|source| SettingError::Write {
        limit: setting.limit,
        value: setting.value.clone(),
        path: path.to_owned(),
        source,
    })
}

fn write_file(path: &Path, value: &str) -> io::Result<()> {
    let mut file = fs::OpenOptions::new().write(true).open(path)?;
    io::Write::write_all(&mut file, value.as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(resources: &Resources, is_unified: bool) -> Vec<String> {
        let number = |path: &str| (path == "/dev/sda").then(|| "8:0".to_owned());
        settings(resources, is_unified, &number)
            .unwrap()
            .into_iter()
            .map(|s| format!("{} {}", s.files.first().unwrap_or(&"none"), s.value))
            .collect()
    }

    fn everything() -> Resources {
        Resources {
            memory: 64 << 20,
            memory_swap: 96 << 20,
            memory_reservation: 32 << 20,
            memory_swappiness: Some(0),
            oom_kill_disable: Some(true),
            nano_cpus: 250_000_000,
            cpu_shares: 512,
            cpuset_cpus: "0-1".to_owned(),
            pids_limit: Some(12),
            blkio_weight: 500,
            blkio_device_read_bps: vec![ThrottleDevice {
                path: "/dev/sda".to_owned(),
                rate: 1 << 20,
            }],
            ..Resources::default()
        }
    }

    #[test]
    fn nothing_asked_for_is_nothing_written() {
        for is_unified in [false, true] {
            assert!(written(&Resources::default(), is_unified).is_empty());
        }
    }

    #[test]
    fn version_one_has_a_file_for_each() {
        assert_eq!(
            written(&everything(), false),
            [
                "memory.limit_in_bytes 67108864",
                "memory.memsw.limit_in_bytes 100663296",
                "memory.soft_limit_in_bytes 33554432",
                "memory.oom_control 1",
                "cpu.shares 512",
                "cpu.cfs_period_us 100000",
                "cpu.cfs_quota_us 25000",
                "blkio.weight 500",
                "memory.swappiness 0",
                "cpuset.cpus 0-1",
                "pids.max 12",
                "blkio.throttle.read_bps_device 8:0 1048576",
            ]
        );
    }

    #[test]
    fn version_two_parts_swap_from_memory_and_joins_what_belongs_together() {
        assert_eq!(
            written(&everything(), true),
            [
                "memory.max 67108864",
                "memory.swap.max 33554432",
                "memory.low 33554432",
                "cpu.weight 20",
                "cpu.max 25000 100000",
                "none ",
                "none ",
                "io.weight 4950",
                "cpuset.cpus 0-1",
                "pids.max 12",
                "io.max 8:0 rbps=1048576",
            ]
        );
        let unlimited = Resources {
            memory: 64 << 20,
            memory_swap: -1,
            pids_limit: Some(-1),
            cpu_period: 50_000,
            ..Resources::default()
        };
        assert_eq!(
            written(&unlimited, true)[1..],
            ["memory.swap.max max", "cpu.max max 50000", "pids.max max"]
        );
    }

    #[test]
    fn weights_keep_their_ends() {
        assert_eq!([2, 1024, 262_144].map(cpu_weight), [1, 39, 10_000]);
        assert_eq!([10, 1000].map(io_weight), [1, 10_000]);
    }

    #[test]
    fn only_block_devices_are_throttled() {
        let mut resources = everything();
        resources.blkio_device_read_bps[0].path = "/dev/null".to_owned();
        let error = settings(&resources, false, &block_device).unwrap_err();
        assert_eq!(
            error.to_string(),
            "--device-read-bps: /dev/null is no block device"
        );
    }
}
