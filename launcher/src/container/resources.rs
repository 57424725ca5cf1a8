//! What a container may use of the host, in the members of the Docker Engine API.

use serde::{Deserialize, Serialize};

/// Zero, an empty text and `None` mean that nothing is asked for.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct Resources {
    /// Bytes.
    pub memory: i64,
    /// Bytes of memory and swap together; -1 is unlimited swap.
    pub memory_swap: i64,
    /// Bytes that the container keeps when the host is short of memory.
    pub memory_reservation: i64,
    /// 0 to 100; -1 is the host's own.
    pub memory_swappiness: Option<i64>,
    /// Accepted for the sake of scripts; the kernel charges its own memory to `memory`.
    pub kernel_memory: i64,
    pub oom_kill_disable: Option<bool>,
    /// Billionths of a CPU.
    pub nano_cpus: i64,
    /// Relative to 1024, which is what everybody has.
    pub cpu_shares: i64,
    /// Microseconds.
    pub cpu_period: i64,
    /// Microseconds in a period.
    pub cpu_quota: i64,
    pub cpu_realtime_period: i64,
    pub cpu_realtime_runtime: i64,
    pub cpuset_cpus: String,
    pub cpuset_mems: String,
    /// Zero and -1 are unlimited.
    pub pids_limit: Option<i64>,
    /// 10 to 1000.
    pub blkio_weight: u16,
    pub blkio_weight_device: Vec<WeightDevice>,
    pub blkio_device_read_bps: Vec<ThrottleDevice>,
    pub blkio_device_write_bps: Vec<ThrottleDevice>,
    #[serde(rename = "BlkioDeviceReadIOps")]
    pub blkio_device_read_iops: Vec<ThrottleDevice>,
    #[serde(rename = "BlkioDeviceWriteIOps")]
    pub blkio_device_write_iops: Vec<ThrottleDevice>,
    pub devices: Vec<DeviceMapping>,
    /// Such as `c 42:* rmw`.
    pub device_cgroup_rules: Option<Vec<String>>,
    /// Control group that the container's own is made in; the launcher's when empty.
    pub cgroup_parent: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct WeightDevice {
    pub path: String,
    pub weight: u16,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct ThrottleDevice {
    pub path: String,
    /// Bytes or operations a second.
    pub rate: u64,
}

/// A device node of the host in the container. A directory stands for the nodes in it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct DeviceMapping {
    pub path_on_host: String,
    pub path_in_container: String,
    /// Of `r`, `w` and `m`.
    pub cgroup_permissions: String,
}

impl Resources {
    /// Microseconds of CPU time in how many: `--cpus`, or quota and period as they were given.
    pub fn cpu_quota(&self) -> (i64, i64) {
        const PERIOD: i64 = 100_000;
        if self.nano_cpus > 0 {
            // Nano CPUs times the period over 10^9.
            return (self.nano_cpus / (1_000_000_000 / PERIOD), PERIOD);
        }
        (self.cpu_quota, self.cpu_period)
    }
}

/// One rule of the device policy; a number that is absent stands for all.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeviceRule {
    /// `a`, `b` or `c`.
    pub kind: char,
    pub major: Option<u32>,
    pub minor: Option<u32>,
    /// Of `r`, `w` and `m`.
    pub access: String,
}

impl DeviceRule {
    /// `TYPE MAJOR:MINOR PERMISSIONS`.
    pub fn parse(text: &str) -> Option<Self> {
        let mut fields = text.split(' ');
        let (kind, numbers, access) = (fields.next()?, fields.next()?, fields.next()?);
        let (major, minor) = numbers.split_once(':')?;
        let number = |text: &str| match text {
            "*" => Some(None),
            digits => digits.parse().ok().map(Some),
        };
        let fits = matches!(kind, "a" | "b" | "c") && are_device_permissions(access);
        let rule = Self {
            kind: kind.chars().next()?,
            major: number(major)?,
            minor: number(minor)?,
            access: access.to_owned(),
        };
        (fits && fields.next().is_none()).then_some(rule)
    }

    /// Whether it is about every device and kind of access.
    pub fn is_everything(&self) -> bool {
        let has_all = "rwm".chars().all(|letter| self.access.contains(letter));
        self.kind == 'a' && self.major.is_none() && self.minor.is_none() && has_all
    }
}

/// Letters of `rwm`, each at most once, and at least one.
pub fn are_device_permissions(text: &str) -> bool {
    let mut seen = String::new();
    for letter in text.chars() {
        if !"rwm".contains(letter) || seen.contains(letter) {
            return false;
        }
        seen.push(letter);
    }
    !text.is_empty()
}
