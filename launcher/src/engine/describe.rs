//! Containers, images and figures as Docker Engine's API has them in listings.

use std::collections::BTreeMap;
use std::fs;

use api::storage::Image;
use jiff::Timestamp;
use serde_json::{Map, Value, json};

use crate::cgroup::Group;
use crate::cgroup::usage::{self, Usage};
use crate::cli::container::inspect::Sizes;
use crate::cli::container::list::{status, status_word};
use crate::cli::container::ports::published;
use crate::cli::container::stats::host_memory;
use crate::cli::container::view::View;
use crate::cli::context::image_config;
use crate::cli::error::CliError;

/// `USER_HZ` of every architecture: what `/proc/stat` counts in.
const TICKS_A_SECOND: u64 = 100;

fn seconds(moment: &str) -> i64 {
    let moment: Option<Timestamp> = moment.parse().ok();
    moment.map_or(0, Timestamp::as_second)
}

pub(super) fn container(view: &View, sizes: Option<Sizes>, now: Timestamp) -> Value {
    let record = &view.record;
    let ports = published(view).into_iter().flat_map(|port| {
        (0..port.count.max(1)).map(move |offset| {
            json!({
                "IP": port.host_ip,
                "PrivatePort": u32::from(port.container_port) + u32::from(offset),
                "PublicPort": u32::from(port.host_port) + u32::from(offset),
                "Type": port.protocol.as_str(),
            })
        })
    });
    let networks = view.networks().into_iter().map(|name| (name, json!({})));
    let networks: Map<String, Value> = networks.collect();
    json!({
        "Id": record.id,
        "Names": [format!("/{}", record.name)],
        "Image": record.image,
        "ImageID": record.image_id,
        "Command": view.command().join(" "),
        "Created": seconds(&record.created),
        "Ports": ports.collect::<Vec<_>>(),
        "Labels": record.config.labels,
        "State": status_word(&view.state),
        "Status": status(&view.state, view.health.as_ref(), now),
        "HostConfig": { "NetworkMode": record.host_config.network_mode },
        "NetworkSettings": { "Networks": networks },
        "Mounts": record.mounts,
        "SizeRw": sizes.map(|sizes| sizes.size_rw),
        "SizeRootFs": sizes.map(|sizes| sizes.size_root_fs),
    })
}

pub(super) fn image(image: &Image) -> Result<Value, CliError> {
    let config = image_config(image, image.id.as_str())?;
    let created = config.created.unwrap_or_else(|| image.added.clone());
    Ok(json!({
        "Id": image.id,
        "ParentId": "",
        "RepoTags": image.tags,
        "RepoDigests": image.digests,
        "Created": seconds(&created),
        "Size": image.size,
        "VirtualSize": image.size,
        "SharedSize": -1,
        "Containers": -1,
        "Labels": config.config.labels,
    }))
}

/// What a container uses, at one moment.
#[derive(Debug, Clone, Default)]
pub(super) struct Reading {
    at: String,
    usage: Usage,
    /// CPU time of the whole host.
    host_ns: u64,
    network: Option<(u64, u64)>,
}

impl Reading {
    pub(super) fn of(view: &View) -> Self {
        let init = view.state.init.filter(|_| view.is_running());
        let group = init.and_then(|_| Group::of(&view.record).ok());
        let network = init.map(|init| {
            let dev = fs::read_to_string(format!("/proc/{}/net/dev", init.pid));
            usage::network(&dev.unwrap_or_default())
        });
        Self {
            at: Timestamp::now().to_string(),
            usage: group.map(|group| group.usage()).unwrap_or_default(),
            host_ns: host_ns(&fs::read_to_string("/proc/stat").unwrap_or_default()),
            network,
        }
    }

    fn cpu(&self) -> Value {
        let processors = std::thread::available_parallelism().map_or(1, usize::from);
        json!({
            "cpu_usage": {
                "total_usage": self.usage.cpu_ns,
                "usage_in_kernelmode": 0,
                "usage_in_usermode": 0,
            },
            "system_cpu_usage": self.host_ns,
            "online_cpus": processors,
            "throttling_data": { "periods": 0, "throttled_periods": 0, "throttled_time": 0 },
        })
    }
}

/// The sum of the first line, without the time of guests, which is in that of their users.
fn host_ns(stat: &str) -> u64 {
    let line = stat.lines().next().unwrap_or_default();
    let numbers = line.split_whitespace().skip(1).take(8);
    let ticks: u64 = numbers
        .filter_map(|number| number.parse::<u64>().ok())
        .sum();
    ticks * (1_000_000_000 / TICKS_A_SECOND)
}

pub(super) fn stats(view: &View, before: &Reading, now: &Reading) -> Value {
    let usage = &now.usage;
    let limit = usage.memory_limit.unwrap_or(u64::MAX).min(host_memory());
    let networks = now.network.map(|(received, sent)| {
        BTreeMap::from([("eth0", json!({ "rx_bytes": received, "tx_bytes": sent }))])
    });
    json!({
        "read": now.at,
        "preread": before.at,
        "id": view.record.id,
        "name": format!("/{}", view.record.name),
        "num_procs": 0,
        "pids_stats": { "current": usage.processes },
        "cpu_stats": now.cpu(),
        "precpu_stats": before.cpu(),
        "memory_stats": { "usage": usage.memory, "limit": limit, "stats": {} },
        "blkio_stats": { "io_service_bytes_recursive": [
            { "major": 0, "minor": 0, "op": "read", "value": usage.read_bytes },
            { "major": 0, "minor": 0, "op": "write", "value": usage.written_bytes },
        ] },
        "networks": networks.unwrap_or_default(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hosts_time_is_that_of_all_processors() {
        let stat = "cpu  1 2 3 4 5 6 7 8 100 100\ncpu0 9 9 9 9\n";
        assert_eq!(host_ns(stat), 360_000_000);
        assert_eq!(host_ns(""), 0);
    }
}
