//! `hawser volume stats`: what volumes take and may take.

use api::client::escape;
use api::path::VOLUMES_STATS;
use api::storage::VolumeStats;
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
    ],
    default: "{{.Name}}\t{{.Backend}}\t{{.Size}}\t{{.Limit}}\t{{.SizePerc}}\t\
              {{.Inodes}}\t{{.InodeLimit}}\t{{.InodePerc}}",
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
    ])
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
            ["site", "loop", "5MB", "20MB", "25.0%", "7", "-", "-"]
        );
        assert_eq!(cells(2), ["site", "loop", "-", "-", "-", "-", "-", "-"]);
        let json = table::list(&COLUMNS, &rows[..1], "json").unwrap();
        let json: serde_json::Value = serde_json::from_str(json.trim()).unwrap();
        assert_eq!(json["Bytes"], 5_000_000);
    }

    #[test]
    fn names_are_asked_for_in_one_request() {
        let names = ["a".to_owned(), "b c".to_owned()];
        assert_eq!(route(&names), "/v1/stats/volumes?names=a,b%20c");
    }
}
