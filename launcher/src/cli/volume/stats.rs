//! `hawser volume stats`: what volumes take and may take, and what passes to devices.

use api::client::escape;
use api::path::VOLUMES_STATS;
use api::storage::{IoCounts, IoScope, VolumeStats};
use clap::Args;

use super::super::context::Context;
use super::super::error::CliError;
use super::super::listing;
use crate::format::human;
use crate::format::table::{Columns, Row};

/// `hawser volume stats`.
#[derive(Debug, Clone, Args)]
pub struct StatsFlags {
    /// Volumes to show; all of them otherwise
    #[arg(value_name = "VOLUME")]
    pub volumes: Vec<String>,
    /// Print one result and end
    #[arg(long)]
    pub no_stream: bool,
    /// table, json, or a Go template
    #[arg(long, value_name = "FORMAT", default_value = "")]
    pub format: String,
}

const COLUMNS: Columns = Columns {
    headers: &[
        ("Name", "VOLUME NAME"),
        ("Backend", "BACKEND"),
        ("Size", "SIZE"),
        ("Limit", "LIMIT"),
        ("SizePerc", "SIZE %"),
        ("Inodes", "INODES"),
        ("InodeLimit", "INODE LIMIT"),
        ("InodePerc", "INODE %"),
        ("Bytes", "BYTES"),
        ("MaxBytes", "MAX BYTES"),
        ("BlockIO", "BLOCK I/O"),
        ("IOScope", "I/O OF"),
        ("Operations", "OPS R / W"),
        ("Latency", "P99 R / W"),
        ("Flushes", "FLUSHES"),
        ("FlushLatency", "P99 FLUSH"),
        ("Errors", "I/O ERRORS"),
    ],
    default: "{{.Name}}\t{{.Backend}}\t{{.Size}}\t{{.Limit}}\t{{.SizePerc}}\t\
              {{.Inodes}}\t{{.InodeLimit}}\t{{.InodePerc}}\t{{.BlockIO}}\t{{.Latency}}\t{{.IOScope}}",
};

pub(super) fn stats(context: &Context, flags: &StatsFlags) -> Result<i32, CliError> {
    let route = route(&flags.volumes);
    listing::watch(&COLUMNS, (flags.no_stream, &flags.format), || {
        let stats: Vec<VolumeStats> = context.client().get(&route)?;
        Ok(stats.iter().map(row).collect())
    })
}

fn route(volumes: &[String]) -> String {
    let names: Vec<String> = volumes.iter().map(|name| escape(name)).collect();
    format!("{VOLUMES_STATS}?names={}", names.join(","))
}

fn row(stats: &VolumeStats) -> Row {
    let size = |bytes: Option<u64>| bytes.map_or_else(unknown, |bytes| human::size(bytes, 3));
    let count = |count: Option<u64>| count.map_or_else(unknown, |count| count.to_string());
    let io = stats.io.as_ref();
    let both = |of: fn(&IoCounts) -> String| {
        io.map_or_else(unknown, |io| {
            format!("{} / {}", of(&io.read), of(&io.write))
        })
    };
    // A flush is everybody's who waits for it.
    let own = io.filter(|io| io.scope == IoScope::Device);
    let flushes = own.map(|io| &io.flush);
    let errors = io.map(|io| [&io.read, &io.write, &io.discard, &io.flush].map(|one| one.errors));
    Row::new([
        ("Name", stats.name.as_str().into()),
        ("Backend", stats.backend.as_str().into()),
        ("Size", size(stats.bytes).into()),
        ("Limit", size(stats.max_bytes).into()),
        ("SizePerc", percent(stats.bytes, stats.max_bytes).into()),
        ("Inodes", count(stats.inodes).into()),
        ("InodeLimit", count(stats.max_inodes).into()),
        ("InodePerc", percent(stats.inodes, stats.max_inodes).into()),
        ("Bytes", stats.bytes.unwrap_or_default().into()),
        ("MaxBytes", stats.max_bytes.unwrap_or_default().into()),
        ("BlockIO", both(|io| human::size(io.bytes, 3)).into()),
        ("Operations", both(|io| io.operations.to_string()).into()),
        ("Latency", both(slowest).into()),
        (
            "Flushes",
            count(flushes.map(|flush| flush.operations)).into(),
        ),
        ("FlushLatency", flushes.map_or_else(unknown, slowest).into()),
        (
            "IOScope",
            io.map_or_else(unknown, |io| io.scope.as_str().to_owned())
                .into(),
        ),
        ("Errors", count(errors.map(|all| all.iter().sum())).into()),
    ])
}

/// A time that 99 of 100 operations kept within, a power of two of microseconds.
fn slowest(io: &IoCounts) -> String {
    let all: u64 = io.latency.iter().sum();
    let mut seen = 0;
    let bucket = io.latency.iter().position(|count| {
        seen += count;
        all > 0 && seen >= all - all / 100
    });
    let Some(bucket) = bucket else {
        return unknown();
    };
    match 2.0_f64.powi(bucket as i32 + 1) {
        us if us < 1e3 => format!("{us}µs"),
        us if us < 1e6 => format!("{:.1}ms", us / 1e3),
        us => format!("{:.1}s", us / 1e6),
    }
}

fn unknown() -> String {
    "-".to_owned()
}

fn percent(part: Option<u64>, whole: Option<u64>) -> String {
    match (part, whole) {
        (Some(part), Some(whole)) if whole > 0 => {
            format!("{:.1}%", part as f64 * 100.0 / whole as f64)
        }
        _ => unknown(),
    }
}

#[cfg(test)]
mod tests {
    use api::id::VolumeName;

    use super::*;
    use crate::format::table;

    fn stats(bytes: Option<u64>, max_bytes: Option<u64>) -> VolumeStats {
        VolumeStats {
            name: VolumeName::parse("site").unwrap(),
            anonymous: false,
            backend: "loop".to_owned(),
            bytes,
            inodes: bytes.map(|_| 7),
            max_bytes,
            max_inodes: None,
            io: None,
        }
    }

    #[test]
    fn what_is_not_known_is_not_zero() {
        let rows = [
            row(&stats(Some(5_000_000), Some(20_000_000))),
            row(&stats(None, None)),
        ];
        let listing = table::list(&COLUMNS, &rows, "").unwrap();
        let cells = |line: usize| -> Vec<&str> {
            let line = listing.lines().nth(line).unwrap_or_default();
            line.split("  ")
                .map(str::trim)
                .filter(|c| !c.is_empty())
                .collect()
        };
        assert_eq!(
            cells(1),
            [
                "site", "loop", "5MB", "20MB", "25.0%", "7", "-", "-", "-", "-", "-"
            ]
        );
        assert_eq!(cells(2)[2..], ["-"; 9]);
        let json = table::list(&COLUMNS, &rows[..1], "json").unwrap();
        let json: serde_json::Value = serde_json::from_str(json.trim()).unwrap();
        assert_eq!(json["Bytes"], 5_000_000);
    }

    #[test]
    fn the_slowest_operations_are_told_by_their_bucket() {
        let of = |latency: &[u64]| {
            let latency = latency.to_vec();
            slowest(&IoCounts {
                latency,
                ..IoCounts::default()
            })
        };
        assert_eq!(of(&[]), "-");
        assert_eq!(of(&[0, 1]), "4µs");
        assert_eq!(of(&[99, 0, 1]), "2µs");
        assert_eq!(of(&[98, 0, 2]), "8µs");
        let mut slow = vec![0; 13];
        slow[11] = 1;
        assert_eq!(of(&slow), "4.1ms");
        slow[11] = 0;
        slow.resize(23, 1);
        assert_eq!(of(&slow), "8.4s");
    }

    #[test]
    fn names_are_asked_for_in_one_request() {
        let names = ["a".to_owned(), "b c".to_owned()];
        assert_eq!(route(&names), "/v1/stats/volumes?names=a,b%20c");
    }
}
