//! `update` of the OCI runtime command line: other limits for a container that is there.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use clap::Args;
use libcontainer::oci_spec::runtime::{LinuxBlockIo, LinuxResources, LinuxThrottleDevice};
use serde_json::Value;

use super::{OciError, failed};
use crate::cgroup::{Group, limit};
use crate::cli::run::resource::LimitFlags;
use crate::container::{Resources, ThrottleDevice, WeightDevice};

#[derive(Debug, Args)]
pub(super) struct Update {
    /// File with limits as the specification describes them; - is standard input. Flags go before it
    #[arg(short, long, value_name = "FILE")]
    resources: Option<PathBuf>,
    #[command(flatten)]
    limits: LimitFlags,
    pub(super) id: String,
}

/// Changes what is asked for and nothing else, in the control groups of the process `init`.
pub(super) fn run(asked: &Update, init: u32) -> Result<(), OciError> {
    let listed = match &asked.resources {
        None => LinuxResources::default(),
        Some(path) => read(path)?,
    };
    let mut resources = of(&listed);
    asked.limits.change(&mut resources)?;
    let group = Group::of_process(init).map_err(failed(
        "read the control groups of process",
        Path::new(&init.to_string()),
    ))?;
    // Version 2 has a limit of swap alone, which is what is left of both.
    if group.is_unified && resources.memory == 0 && resources.memory_swap > 0 {
        return Err(OciError::SwapAlone);
    }
    for warning in limit::apply(&resources, &group)? {
        eprintln!("hawser-shim: warning: {warning}");
    }
    let mut unified = listed.unified().iter().flatten();
    Ok(unified.try_for_each(|(file, value)| limit::apply_file(file, value, &group))?)
}

fn read(path: &Path) -> Result<LinuxResources, OciError> {
    let text = match path.to_str() {
        Some("-") => io::read_to_string(io::stdin().lock()),
        _ => fs::read_to_string(path),
    };
    let text = text.map_err(failed("read", path))?;
    understand(&text).map_err(|error| failed("understand", path)(error.into()))
}

fn understand(text: &str) -> serde_json::Result<LinuxResources> {
    let mut value: Value = serde_json::from_str(text)?;
    // Engines that ask for no limit of processes send an object without one.
    if let Some(members) = value.as_object_mut()
        && members
            .get("pids")
            .is_some_and(|pids| pids["limit"].is_null())
    {
        members.remove("pids");
    }
    serde_json::from_value(value)
}

/// What is not listed stays; so does, as with runc, what is listed as zero.
fn of(listed: &LinuxResources) -> Resources {
    let signed = |number: Option<u64>| number.and_then(|number| i64::try_from(number).ok());
    let mut resources = Resources::default();
    if let Some(memory) = listed.memory() {
        resources.memory = memory.limit().unwrap_or(0);
        resources.memory_swap = memory.swap().unwrap_or(0);
        resources.memory_reservation = memory.reservation().unwrap_or(0);
        resources.memory_swappiness = signed(memory.swappiness());
        resources.oom_kill_disable = memory.disable_oom_killer();
    }
    if let Some(cpu) = listed.cpu() {
        resources.cpu_shares = signed(cpu.shares()).unwrap_or(0);
        resources.cpu_quota = cpu.quota().unwrap_or(0);
        resources.cpu_period = signed(cpu.period()).unwrap_or(0);
        resources.cpu_realtime_runtime = cpu.realtime_runtime().unwrap_or(0);
        resources.cpu_realtime_period = signed(cpu.realtime_period()).unwrap_or(0);
        resources.cpuset_cpus = cpu.cpus().clone().unwrap_or_default();
        resources.cpuset_mems = cpu.mems().clone().unwrap_or_default();
    }
    let pids = listed.pids().as_ref().map(|pids| pids.limit());
    resources.pids_limit = pids.filter(|limit| *limit != 0);
    if let Some(block) = listed.block_io() {
        block_devices(block, &mut resources);
    }
    resources
}

fn block_devices(block: &LinuxBlockIo, resources: &mut Resources) {
    resources.blkio_weight = block.weight().unwrap_or(0);
    let weights = block.weight_device().iter().flatten();
    resources.blkio_weight_device = weights
        .filter_map(|device| {
            Some(WeightDevice {
                path: format!("{}:{}", device.major(), device.minor()),
                weight: device.weight()?,
            })
        })
        .collect();
    let throttles = |devices: &Option<Vec<LinuxThrottleDevice>>| {
        let devices = devices.iter().flatten();
        devices
            .map(|device| ThrottleDevice {
                path: format!("{}:{}", device.major(), device.minor()),
                rate: device.rate(),
            })
            .collect()
    };
    resources.blkio_device_read_bps = throttles(block.throttle_read_bps_device());
    resources.blkio_device_write_bps = throttles(block.throttle_write_bps_device());
    resources.blkio_device_read_iops = throttles(block.throttle_read_iops_device());
    resources.blkio_device_write_iops = throttles(block.throttle_write_iops_device());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_of_the_specification_are_ours() {
        let listed = understand(
            r#"{
                "memory": {"limit": 67108864, "swap": -1, "swappiness": 10},
                "cpu": {"shares": 512, "quota": 50000, "period": 100000, "cpus": "0"},
                "pids": {"limit": 7},
                "blockIO": {"weight": 300,
                    "throttleReadBpsDevice": [{"major": 8, "minor": 16, "rate": 1024}]}
            }"#,
        );
        let resources = of(&listed.unwrap());
        let expected = Resources {
            memory: 64 << 20,
            memory_swap: -1,
            memory_swappiness: Some(10),
            cpu_shares: 512,
            cpu_quota: 50_000,
            cpu_period: 100_000,
            cpuset_cpus: "0".to_owned(),
            pids_limit: Some(7),
            blkio_weight: 300,
            blkio_device_read_bps: vec![ThrottleDevice {
                path: "8:16".to_owned(),
                rate: 1024,
            }],
            ..Resources::default()
        };
        assert_eq!(resources, expected);
        let number = limit::block_device(&resources.blkio_device_read_bps[0].path);
        assert_eq!(number.as_deref(), Some("8:16"));
    }

    #[test]
    fn what_is_not_listed_stays() {
        for text in [
            "{}",
            r#"{"pids": {}}"#,
            r#"{"pids": {"limit": 0}, "cpu": {}}"#,
        ] {
            let resources = of(&understand(text).unwrap());
            assert_eq!(resources, Resources::default(), "{text}");
        }
        assert!(understand("[").is_err());
    }
}
