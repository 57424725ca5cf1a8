//! What passes to the devices of volumes, as counters and histograms.

use api::storage::{IoCounts, IoScope, VolumeIo, VolumeStats};

use super::{by_name, family, of_volumes};
use crate::volume::io::sum;

const BYTES: &str = "hawser_volume_io_bytes_total";
const ERRORS: &str = "hawser_volume_io_errors_total";
const SECONDS: &str = "hawser_volume_io_seconds";
/// Buckets whose ends are edges of the histogram, 4 µs to 4 s in steps of four, and 34 s: every edge is a
/// series of every volume.
const EDGES: [usize; 12] = [1, 3, 5, 7, 9, 11, 13, 15, 17, 19, 21, 24];

/// A volume of which nothing is counted has no series, nor has a kind of operation that never was.
pub(super) fn write(out: &mut String, stats: &[VolumeStats]) {
    let scopes = [IoScope::Device, IoScope::Cgroup].map(|scope| {
        let of_scope = move |io: &VolumeIo| io.scope == scope;
        let known = of_volumes(stats, move |stats| stats.io.clone().filter(of_scope));
        (scope.as_str(), by_name(known, add))
    });
    let mut series: Vec<(String, &IoCounts)> = Vec::new();
    for (scope, volumes) in &scopes {
        for (volume, io) in volumes {
            for (operation, counts) in [
                ("read", &io.read),
                ("write", &io.write),
                ("discard", &io.discard),
                ("flush", &io.flush),
            ] {
                if counts.operations + counts.errors > 0 {
                    let labels = [
                        ("volume", *volume),
                        ("operation", operation),
                        ("scope", scope),
                    ];
                    let labels = labels.map(|(name, value)| format!("{name}=\"{value}\""));
                    series.push((labels.join(","), counts));
                }
            }
        }
    }
    family(
        out,
        BYTES,
        "counter",
        "Bytes that passed to or from a device: a volume's, or for its containers.",
    );
    for (labels, counts) in &series {
        out.push_str(&format!("{BYTES}{{{labels}}} {}\n", counts.bytes));
    }
    family(
        out,
        ERRORS,
        "counter",
        "Operations that failed on a device: a volume's, or for its containers.",
    );
    for (labels, counts) in &series {
        out.push_str(&format!("{ERRORS}{{{labels}}} {}\n", counts.errors));
    }
    family(
        out,
        SECONDS,
        "histogram",
        "Time that operations took on a device: a volume's, or for its containers.",
    );
    for (labels, counts) in &series {
        histogram(out, labels, counts);
    }
}

fn add(all: &mut VolumeIo, io: VolumeIo) {
    *all = sum(all, &io);
}

fn histogram(out: &mut String, labels: &str, counts: &IoCounts) {
    // Not the count of operations: that may be one ahead of the buckets while it is read.
    let all: u64 = counts.latency.iter().sum();
    for edge in EDGES {
        let within: u64 = counts.latency.iter().take(edge + 1).sum();
        let seconds = (2_u64 << edge) as f64 / 1e6;
        out.push_str(&format!(
            "{SECONDS}_bucket{{{labels},le=\"{seconds}\"}} {within}\n"
        ));
    }
    out.push_str(&format!("{SECONDS}_bucket{{{labels},le=\"+Inf\"}} {all}\n"));
    let sum = counts.nanoseconds as f64 / 1e9;
    out.push_str(&format!("{SECONDS}_sum{{{labels}}} {sum}\n"));
    out.push_str(&format!("{SECONDS}_count{{{labels}}} {all}\n"));
}

#[cfg(test)]
mod tests {
    use api::id::VolumeName;

    use super::*;

    #[test]
    fn operations_are_a_histogram_by_volume() {
        let mut latency = vec![0; 26];
        (latency[0], latency[2], latency[25]) = (5, 3, 1);
        let write_counts = IoCounts {
            operations: 9,
            bytes: 4096,
            errors: 2,
            nanoseconds: 1_500_000_000,
            latency,
        };
        let stats = |name: &str, io: Option<VolumeIo>| VolumeStats {
            name: VolumeName::parse(name).unwrap(),
            anonymous: false,
            backend: String::new(),
            bytes: None,
            inodes: None,
            max_bytes: None,
            max_inodes: None,
            io,
        };
        let io = VolumeIo {
            write: write_counts,
            ..VolumeIo::default()
        };
        let of_containers = VolumeIo {
            scope: IoScope::Cgroup,
            ..io.clone()
        };
        let mut out = String::new();
        let all = [
            stats("data", Some(io)),
            stats("directory", Some(of_containers)),
            stats("plain", None),
        ];
        write(&mut out, &all);
        let labels = "volume=\"data\",operation=\"write\",scope=\"device\"";
        for line in [
            format!("hawser_volume_io_bytes_total{{{labels}}} 4096"),
            format!("hawser_volume_io_errors_total{{{labels}}} 2"),
            "hawser_volume_io_errors_total{volume=\"directory\",operation=\"write\",scope=\"cgroup\"} 2"
                .to_owned(),
            format!("hawser_volume_io_seconds_bucket{{{labels},le=\"0.000004\"}} 5"),
            format!("hawser_volume_io_seconds_bucket{{{labels},le=\"0.000016\"}} 8"),
            format!("hawser_volume_io_seconds_bucket{{{labels},le=\"33.554432\"}} 8"),
            format!("hawser_volume_io_seconds_bucket{{{labels},le=\"+Inf\"}} 9"),
            format!("hawser_volume_io_seconds_sum{{{labels}}} 1.5"),
            format!("hawser_volume_io_seconds_count{{{labels}}} 9"),
        ] {
            assert!(out.lines().any(|found| found == line), "{line}\n{out}");
        }
        assert!(!out.contains("plain") && !out.contains("read"), "{out}");
    }
}
