//! Counters and gauges in the Prometheus text format.

mod io;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};

use api::storage::{RootfsUsage, VolumeStats};

use crate::model::record::Rows;
use crate::store::counts;

#[derive(Debug, Default)]
pub(crate) struct Counters {
    imports: AtomicU64,
    failed_imports: AtomicU64,
}

impl Counters {
    pub(crate) fn imported<T, E>(&self, result: &Result<T, E>) {
        let counter = if result.is_ok() {
            &self.imports
        } else {
            &self.failed_imports
        };
        counter.fetch_add(1, Ordering::Relaxed);
    }
}

/// Appends all metrics of the subsystem.
pub(crate) fn write(out: &mut String, rows: &Rows, counters: &Counters) {
    family(
        out,
        "hawser_storage_objects",
        "gauge",
        "Rows of the metadata database by kind.",
    );
    for (kind, count) in counts(rows) {
        out.push_str(&format!(
            "hawser_storage_objects{{kind=\"{kind}\"}} {count}\n"
        ));
    }
    family(
        out,
        "hawser_layer_bytes",
        "gauge",
        "Bytes of file content in committed layers.",
    );
    let bytes: u64 = rows.layers.values().map(|layer| layer.size).sum();
    out.push_str(&format!("hawser_layer_bytes {bytes}\n"));
    family(
        out,
        "hawser_layer_imports_total",
        "counter",
        "Layer streams since the start by result.",
    );
    for (result, counter) in [
        ("committed", &counters.imports),
        ("failed", &counters.failed_imports),
    ] {
        let count = counter.load(Ordering::Relaxed);
        out.push_str(&format!(
            "hawser_layer_imports_total{{result=\"{result}\"}} {count}\n"
        ));
    }
}

/// At most so many containers and volumes have series of their own; the rest, and those without a name, share one
/// each, so that a host with many short-lived volumes does not flood whoever collects.
const MAX_NAMED: usize = 1000;
const OTHERS: &str = "(others)";
const ANONYMOUS: &str = "(anonymous)";

type Field = fn(&VolumeStats) -> Option<u64>;

/// What containers have written to their root file systems.
pub(crate) fn containers(out: &mut String, usage: &[RootfsUsage]) {
    type Field = fn(&RootfsUsage) -> Option<u64>;
    let series: [(&str, &str, Field); 2] = [
        ("bytes", "Bytes a container has written.", |usage| {
            usage.size
        }),
        ("inodes", "Inodes a container has made.", |usage| {
            usage.inodes
        }),
    ];
    for (name, help, field) in series {
        let known = usage
            .iter()
            .filter_map(|one| Some((one.container.as_str(), field(one)?)));
        gauges(out, "container", (name, help), known);
    }
}

/// What volumes take and may take, and what passes to their devices.
pub(crate) fn volumes(out: &mut String, stats: &[VolumeStats]) {
    let series: [(&str, &str, Field); 4] = [
        ("bytes", "Bytes a volume takes.", |stats| stats.bytes),
        ("inodes", "Inodes a volume takes.", |stats| stats.inodes),
        ("limit_bytes", "Bytes a volume may take.", |stats| {
            stats.max_bytes
        }),
        ("limit_inodes", "Inodes a volume may take.", |stats| {
            stats.max_inodes
        }),
    ];
    for (name, help, field) in series {
        gauges(out, "volume", (name, help), of_volumes(stats, field));
    }
    io::write(out, stats);
}

/// One of each name of a `kind`.
fn gauges<'a>(
    out: &mut String,
    kind: &str,
    (name, help): (&str, &str),
    values: impl Iterator<Item = (&'a str, u64)>,
) {
    let name = format!("hawser_{kind}_{name}");
    family(out, &name, "gauge", help);
    for (one, value) in by_name(values, |sum, value| *sum += value) {
        out.push_str(&format!("{name}{{{kind}=\"{one}\"}} {value}\n"));
    }
}

fn of_volumes<'a, T>(
    stats: &'a [VolumeStats],
    field: impl Fn(&'a VolumeStats) -> Option<T>,
) -> impl Iterator<Item = (&'a str, T)> {
    stats.iter().filter_map(move |one| {
        let name = match one.anonymous {
            true => ANONYMOUS,
            false => one.name.as_str(),
        };
        Some((name, field(one)?))
    })
}

/// Names of containers and volumes need no escapes.
fn by_name<'a, T: Default>(
    values: impl Iterator<Item = (&'a str, T)>,
    add: impl Fn(&mut T, T),
) -> BTreeMap<&'a str, T> {
    let mut sums = BTreeMap::new();
    let mut named = 0;
    for (name, value) in values {
        let is_named = name != ANONYMOUS;
        let name = match is_named && named >= MAX_NAMED {
            true => OTHERS,
            false => name,
        };
        named += usize::from(is_named);
        add(sums.entry(name).or_default(), value);
    }
    sums
}

fn family(out: &mut String, name: &str, kind: &str, help: &str) {
    out.push_str(&format!("# HELP {name} {help}\n# TYPE {name} {kind}\n"));
}

#[cfg(test)]
mod tests {
    use api::id::VolumeName;

    use super::*;

    fn stats(name: &str, anonymous: bool) -> VolumeStats {
        VolumeStats {
            name: VolumeName::parse(name).unwrap(),
            anonymous,
            backend: "dir".to_owned(),
            bytes: Some(10),
            inodes: None,
            max_bytes: None,
            max_inodes: None,
            io: None,
        }
    }

    #[test]
    fn the_number_of_series_is_bounded() {
        let mut all: Vec<_> = (0..1500).map(|n| stats(&format!("v{n}"), false)).collect();
        all.extend([stats(&"a".repeat(64), true), stats(&"b".repeat(64), true)]);
        let mut out = String::new();
        volumes(&mut out, &all);
        assert_eq!(
            out.lines().filter(|line| !line.starts_with('#')).count(),
            1002
        );
        for line in [
            "hawser_volume_bytes{volume=\"v7\"} 10\n",
            "hawser_volume_bytes{volume=\"(others)\"} 5000\n",
            "hawser_volume_bytes{volume=\"(anonymous)\"} 20\n",
        ] {
            assert!(out.contains(line), "{line}");
        }
    }

    #[test]
    fn containers_have_what_is_known_of_them() {
        let usage = |container: &str, size| RootfsUsage {
            container: container.to_owned(),
            size,
            inodes: size.map(|_| 3),
        };
        let mut out = String::new();
        containers(&mut out, &[usage("c1", Some(7)), usage("c2", None)]);
        let lines: Vec<&str> = out.lines().filter(|line| !line.starts_with('#')).collect();
        assert_eq!(
            lines,
            [
                "hawser_container_bytes{container=\"c1\"} 7",
                "hawser_container_inodes{container=\"c1\"} 3",
            ]
        );
    }
}
