//! The flags that limit what a container uses: `--memory`, `--cpus` and their like. Pure but for
//! [`Machine::observe`]; the checks and their words are Docker's.

pub mod device;

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use clap::Args;

use super::limit::{LimitError, bytes};
use crate::cgroup::realtime;
use crate::container::{Resources, ThrottleDevice, WeightDevice};

/// A container's first process needs that much to begin.
const MIN_MEMORY: i64 = 6 << 20;
const BLKIO_WEIGHTS: std::ops::RangeInclusive<u16> = 10..=1000;

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ResourceError {
    #[error(transparent)]
    Limit(#[from] LimitError),
    #[error("invalid value {text:?} for {flag}: expected {expected}")]
    Value {
        flag: &'static str,
        text: String,
        expected: &'static str,
    },
    #[error("Minimum memory limit allowed is 6MB")]
    LittleMemory,
    #[error("Minimum memory reservation allowed is 6MB")]
    LittleReservation,
    #[error("Minimum kernel memory limit allowed is 6MB")]
    LittleKernelMemory,
    #[error("Minimum memoryswap limit should be larger than memory limit, see usage")]
    SwapBelowMemory,
    #[error("You should always set the Memory limit when using Memoryswap limit, see usage")]
    SwapWithoutMemory,
    #[error("Minimum memory limit can not be less than memory reservation limit, see usage")]
    MemoryBelowReservation,
    #[error("Invalid value: {0}, valid memory swappiness range is 0-100")]
    Swappiness(i64),
    #[error("Conflicting options: CPU Quota and Nano CPUs cannot both be set")]
    TwoQuotas,
    #[error(
        "Range of CPUs is from 0.01 to {count}.00, as there are only {count} CPUs available: \
         --cpus {asked}"
    )]
    Cpus { count: usize, asked: String },
    #[error("CPU cfs period can not be less than 1ms (i.e. 1000) or larger than 1s (i.e. 1000000)")]
    CpuPeriod,
    #[error("CPU cfs quota can not be less than 1ms (i.e. 1000)")]
    CpuQuota,
    #[error("invalid CPU shares ({0}): value must be a positive integer")]
    CpuShares(i64),
    #[error("cpu real-time runtime cannot be higher than cpu real-time period")]
    RealTime,
    #[error(
        "this host's control groups do not limit real-time CPU time, which takes version 1 and a \
         kernel with CONFIG_RT_GROUP_SCHED: run without --cpu-rt-period and --cpu-rt-runtime"
    )]
    NoRealTime,
    #[error("Invalid value {text} for cpuset {what}")]
    SetGrammar { what: &'static str, text: String },
    #[error("Requested {what} are not available - requested {text}, available: {available}")]
    SetUnavailable {
        what: &'static str,
        text: String,
        available: String,
    },
    #[error("Range of blkio weight is from 10 to 1000")]
    BlkioWeight,
    #[error("invalid {flag} {text:?}: expected PATH:{what}")]
    DeviceRate {
        flag: &'static str,
        text: String,
        what: &'static str,
    },
}

/// Limits that `hawser update` can change.
#[derive(Debug, Clone, Default, Args)]
#[command(next_help_heading = "Resources")]
pub struct LimitFlags {
    /// Memory limit, such as 512m; at least 6m
    #[arg(short, long, value_name = "SIZE")]
    pub memory: Option<String>,
    /// Limit of memory and swap together, twice the memory unless given; -1 does not limit swap
    #[arg(long, value_name = "SIZE", allow_hyphen_values = true)]
    pub memory_swap: Option<String>,
    /// Memory that the container keeps when the host is short of it
    #[arg(long, value_name = "SIZE")]
    pub memory_reservation: Option<String>,
    /// Limit of kernel memory; accepted, and part of --memory on today's kernels
    #[arg(long, value_name = "SIZE")]
    pub kernel_memory: Option<String>,
    /// CPUs to use at most, such as 1.5
    #[arg(long, value_name = "NUMBER")]
    pub cpus: Option<String>,
    /// Share of the CPU time when there is not enough, relative to 1024
    #[arg(short, long, value_name = "NUMBER", allow_negative_numbers = true)]
    pub cpu_shares: Option<i64>,
    /// Period of the CPU quota, in microseconds
    #[arg(long, value_name = "MICROSECONDS", allow_negative_numbers = true)]
    pub cpu_period: Option<i64>,
    /// CPU time in a period, in microseconds
    #[arg(long, value_name = "MICROSECONDS", allow_negative_numbers = true)]
    pub cpu_quota: Option<i64>,
    /// Period of the real-time quota, in microseconds
    #[arg(long, value_name = "MICROSECONDS")]
    pub cpu_rt_period: Option<i64>,
    /// Real-time CPU time in a period, in microseconds
    #[arg(long, value_name = "MICROSECONDS")]
    pub cpu_rt_runtime: Option<i64>,
    /// CPUs to run on: 0-3, 0,1
    #[arg(long, value_name = "CPUS")]
    pub cpuset_cpus: Option<String>,
    /// Memory nodes to use: 0-3, 0,1
    #[arg(long, value_name = "NODES")]
    pub cpuset_mems: Option<String>,
    /// Processes and threads at most; -1 is no limit
    #[arg(long, value_name = "NUMBER", allow_negative_numbers = true)]
    pub pids_limit: Option<i64>,
    /// Share of block I/O when there is not enough: 10 to 1000
    #[arg(long, value_name = "NUMBER")]
    pub blkio_weight: Option<u16>,
}

/// Limits that are for the container's whole life.
#[derive(Debug, Clone, Default, Args)]
#[command(next_help_heading = "Resources")]
pub struct FixedLimitFlags {
    /// How readily memory is swapped: 0 to 100; -1 is the host's own
    #[arg(long, value_name = "NUMBER", allow_negative_numbers = true)]
    pub memory_swappiness: Option<i64>,
    /// Let processes wait for memory instead of killing one
    #[arg(long)]
    pub oom_kill_disable: bool,
    /// Share of one device's block I/O: PATH:WEIGHT
    #[arg(long, value_name = "DEVICE")]
    pub blkio_weight_device: Vec<String>,
    /// Reads from a device a second: PATH:SIZE
    #[arg(long, value_name = "DEVICE")]
    pub device_read_bps: Vec<String>,
    /// Writes to a device a second: PATH:SIZE
    #[arg(long, value_name = "DEVICE")]
    pub device_write_bps: Vec<String>,
    /// Read operations of a device a second: PATH:NUMBER
    #[arg(long, value_name = "DEVICE")]
    pub device_read_iops: Vec<String>,
    /// Write operations of a device a second: PATH:NUMBER
    #[arg(long, value_name = "DEVICE")]
    pub device_write_iops: Vec<String>,
    /// Device of the host: HOST-PATH[:PATH[:rwm]]; of a directory, all in it
    #[arg(long, value_name = "DEVICE")]
    pub device: Vec<String>,
    /// Rule of the device policy, such as 'c 42:* rmw'
    #[arg(long, value_name = "RULE")]
    pub device_cgroup_rule: Vec<String>,
    /// Control group to make the container's own in
    #[arg(long, value_name = "PATH")]
    pub cgroup_parent: Option<String>,
}

impl LimitFlags {
    /// Lays what was given over `resources`.
    ///
    /// # Errors
    /// [`ResourceError`] of a text that is no value.
    pub fn change(&self, resources: &mut Resources) -> Result<(), ResourceError> {
        set(&mut resources.memory, size("--memory", &self.memory)?);
        let swap = match self.memory_swap.as_deref() {
            Some("-1") => Some(-1),
            _ => size("--memory-swap", &self.memory_swap)?,
        };
        set(&mut resources.memory_swap, swap);
        let reservation = size("--memory-reservation", &self.memory_reservation)?;
        set(&mut resources.memory_reservation, reservation);
        let kernel = size("--kernel-memory", &self.kernel_memory)?;
        set(&mut resources.kernel_memory, kernel);
        if let Some(text) = &self.cpus {
            resources.nano_cpus = nano_cpus(text)?;
        }
        set(&mut resources.cpu_shares, self.cpu_shares);
        set(&mut resources.cpu_period, self.cpu_period);
        set(&mut resources.cpu_quota, self.cpu_quota);
        set(&mut resources.cpu_realtime_period, self.cpu_rt_period);
        set(&mut resources.cpu_realtime_runtime, self.cpu_rt_runtime);
        set(&mut resources.cpuset_cpus, self.cpuset_cpus.clone());
        set(&mut resources.cpuset_mems, self.cpuset_mems.clone());
        if self.pids_limit.is_some() {
            resources.pids_limit = self.pids_limit;
        }
        set(&mut resources.blkio_weight, self.blkio_weight);
        Ok(())
    }
}

impl FixedLimitFlags {
    /// # Errors
    /// [`ResourceError`] of a text that is no value.
    pub fn change(&self, resources: &mut Resources) -> Result<(), ResourceError> {
        resources.memory_swappiness = self.memory_swappiness;
        resources.oom_kill_disable = self.oom_kill_disable.then_some(true);
        resources.blkio_weight_device = self
            .blkio_weight_device
            .iter()
            .map(|text| weight_device(text))
            .collect::<Result<_, _>>()?;
        let rates = |flag, texts: &[String]| throttle_devices(flag, texts);
        resources.blkio_device_read_bps = rates("--device-read-bps", &self.device_read_bps)?;
        resources.blkio_device_write_bps = rates("--device-write-bps", &self.device_write_bps)?;
        resources.blkio_device_read_iops = rates("--device-read-iops", &self.device_read_iops)?;
        resources.blkio_device_write_iops = rates("--device-write-iops", &self.device_write_iops)?;
        resources.devices = device::mappings(&self.device)?;
        resources.device_cgroup_rules = device::rules(&self.device_cgroup_rule)?;
        resources.cgroup_parent = self.cgroup_parent.clone().unwrap_or_default();
        Ok(())
    }
}

fn set<T>(place: &mut T, value: Option<T>) {
    if let Some(value) = value {
        *place = value;
    }
}

fn size(flag: &'static str, text: &Option<String>) -> Result<Option<i64>, ResourceError> {
    let Some(text) = text else {
        return Ok(None);
    };
    let value = bytes(text).and_then(|value| i64::try_from(value).ok());
    value.map(Some).ok_or_else(|| {
        let text = text.clone();
        LimitError::Size { flag, text }.into()
    })
}

/// A decimal number of CPUs, exactly: at most nine digits after the point.
fn nano_cpus(text: &str) -> Result<i64, ResourceError> {
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    let digits = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
    let fits = digits(whole) && digits(fraction) && fraction.len() <= 9 && text != ".";
    let number = fits
        .then(|| format!("{whole}{fraction:0<9}").parse::<i64>().ok())
        .flatten();
    number.ok_or_else(|| ResourceError::Value {
        flag: "--cpus",
        text: text.to_owned(),
        expected: "a number of CPUs, such as 1.5",
    })
}

fn weight_device(text: &str) -> Result<WeightDevice, ResourceError> {
    let parsed = text.rsplit_once(':').and_then(|(path, weight)| {
        let weight: u16 = weight.parse().ok()?;
        let fits = path.starts_with("/dev/") && (weight == 0 || BLKIO_WEIGHTS.contains(&weight));
        fits.then(|| WeightDevice {
            path: path.to_owned(),
            weight,
        })
    });
    parsed.ok_or_else(|| ResourceError::DeviceRate {
        flag: "--blkio-weight-device",
        text: text.to_owned(),
        what: "WEIGHT with a device below /dev and a weight from 10 to 1000",
    })
}

fn throttle_devices(
    flag: &'static str,
    texts: &[String],
) -> Result<Vec<ThrottleDevice>, ResourceError> {
    let one = |text: &String| {
        let parsed = text.rsplit_once(':').and_then(|(path, rate)| {
            let rate = if flag.ends_with("bps") {
                bytes(rate)?
            } else {
                rate.parse().ok()?
            };
            path.starts_with("/dev/").then(|| ThrottleDevice {
                path: path.to_owned(),
                rate,
            })
        });
        parsed.ok_or_else(|| ResourceError::DeviceRate {
            flag,
            text: text.clone(),
            what: if flag.ends_with("bps") {
                "SIZE with a device below /dev, such as /dev/sda:1mb"
            } else {
                "NUMBER with a device below /dev, such as /dev/sda:1000"
            },
        })
    };
    texts.iter().map(one).collect()
}

/// What there is of the host to limit.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Machine {
    /// Numbers of the CPUs that are on line.
    pub cpus: BTreeSet<u32>,
    pub memory_nodes: BTreeSet<u32>,
    pub limits_real_time: bool,
}

impl Machine {
    /// What the kernel says; a host that does not say has one memory node.
    pub fn observe() -> Self {
        let read = |kind: &str| {
            let path = Path::new("/sys/devices/system").join(kind).join("online");
            let text = fs::read_to_string(path).unwrap_or_default();
            number_set(text.trim()).filter(|set| !set.is_empty())
        };
        let count = std::thread::available_parallelism().map_or(1, usize::from);
        let counted = || (0..).take(count).collect();
        Self {
            cpus: read("cpu").unwrap_or_else(counted),
            memory_nodes: read("node").unwrap_or_else(|| BTreeSet::from([0])),
            limits_real_time: realtime::is_supported(),
        }
    }
}

/// The kernel's lists: `0-3,5`.
fn number_set(text: &str) -> Option<BTreeSet<u32>> {
    let mut set = BTreeSet::new();
    for part in text.split(',').filter(|part| !part.is_empty()) {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (first, last): (u32, u32) = (first.parse().ok()?, last.parse().ok()?);
        // No host has more; a longer range would only cost memory.
        if first > last || last > 8192 {
            return None;
        }
        set.extend(first..=last);
    }
    Some(set)
}

/// Checks limits against each other and the host, fills in what follows from them, and says what
/// the user should know.
///
/// # Errors
/// [`ResourceError`], in Docker's order and words.
pub fn check(resources: &mut Resources, machine: &Machine) -> Result<Vec<String>, ResourceError> {
    let mut warnings = Vec::new();
    check_memory(resources, &mut warnings)?;
    check_cpu(resources, machine)?;
    check_set("cpus", "CPUs", &resources.cpuset_cpus, &machine.cpus)?;
    let nodes = &machine.memory_nodes;
    check_set("mems", "memory nodes", &resources.cpuset_mems, nodes)?;
    if resources.blkio_weight != 0 && !BLKIO_WEIGHTS.contains(&resources.blkio_weight) {
        return Err(ResourceError::BlkioWeight);
    }
    Ok(warnings)
}

fn check_memory(
    resources: &mut Resources,
    warnings: &mut Vec<String>,
) -> Result<(), ResourceError> {
    let Resources {
        memory,
        memory_swap: swap,
        memory_reservation: reservation,
        kernel_memory,
        ..
    } = *resources;
    if memory != 0 && memory < MIN_MEMORY {
        return Err(ResourceError::LittleMemory);
    }
    if memory > 0 && swap > 0 && swap < memory {
        return Err(ResourceError::SwapBelowMemory);
    }
    if memory == 0 && swap > 0 {
        return Err(ResourceError::SwapWithoutMemory);
    }
    if memory > 0 && swap == 0 {
        resources.memory_swap = memory.saturating_mul(2);
    }
    if let Some(swappiness) = resources.memory_swappiness
        && !(-1..=100).contains(&swappiness)
    {
        return Err(ResourceError::Swappiness(swappiness));
    }
    if reservation != 0 && reservation < MIN_MEMORY {
        return Err(ResourceError::LittleReservation);
    }
    if memory > 0 && reservation > memory {
        return Err(ResourceError::MemoryBelowReservation);
    }
    if kernel_memory != 0 {
        if kernel_memory < MIN_MEMORY {
            return Err(ResourceError::LittleKernelMemory);
        }
        warnings
            .push("--kernel-memory is without effect: kernel memory counts as --memory".to_owned());
    }
    if resources.oom_kill_disable == Some(true) && memory == 0 {
        warnings.push(
            "OOM killer is disabled for the container, but no memory limit is set, this can \
             result in the system running out of resources."
                .to_owned(),
        );
    }
    Ok(())
}

fn check_cpu(resources: &Resources, machine: &Machine) -> Result<(), ResourceError> {
    let Resources {
        nano_cpus,
        cpu_shares,
        cpu_period,
        cpu_quota,
        cpu_realtime_period,
        cpu_realtime_runtime,
        ..
    } = *resources;
    if nano_cpus > 0 && (cpu_period > 0 || cpu_quota > 0) {
        return Err(ResourceError::TwoQuotas);
    }
    let count = machine.cpus.len();
    let most = i64::try_from(count)
        .unwrap_or(i64::MAX)
        .saturating_mul(1_000_000_000);
    // Less than a hundredth is less than the kernel's least quota of a millisecond.
    if nano_cpus != 0 && !(10_000_000..=most).contains(&nano_cpus) {
        let asked = format!("{}", nano_cpus as f64 / 1e9);
        return Err(ResourceError::Cpus { count, asked });
    }
    if cpu_shares < 0 {
        return Err(ResourceError::CpuShares(cpu_shares));
    }
    if cpu_period != 0 && !(1_000..=1_000_000).contains(&cpu_period) {
        return Err(ResourceError::CpuPeriod);
    }
    if cpu_quota > 0 && cpu_quota < 1_000 {
        return Err(ResourceError::CpuQuota);
    }
    if (cpu_realtime_runtime != 0 || cpu_realtime_period != 0) && !machine.limits_real_time {
        return Err(ResourceError::NoRealTime);
    }
    if cpu_realtime_runtime > 0
        && cpu_realtime_period > 0
        && cpu_realtime_runtime > cpu_realtime_period
    {
        return Err(ResourceError::RealTime);
    }
    Ok(())
}

fn check_set(
    grammar: &'static str,
    what: &'static str,
    text: &str,
    available: &BTreeSet<u32>,
) -> Result<(), ResourceError> {
    let asked = number_set(text).ok_or_else(|| ResourceError::SetGrammar {
        what: grammar,
        text: text.to_owned(),
    })?;
    if asked.is_subset(available) {
        return Ok(());
    }
    let list: Vec<String> = available.iter().map(u32::to_string).collect();
    Err(ResourceError::SetUnavailable {
        what,
        text: text.to_owned(),
        available: list.join(","),
    })
}

#[cfg(test)]
mod tests;
