//! `hawser stats`: what containers use, as they use it.

use std::fs;
use std::thread;
use std::time::Instant;

use api::id::Id;
use clap::Args;

use super::view::{self, View};
use crate::cgroup::Group;
use crate::cgroup::usage::{self, Usage};
use crate::cli::context::Context;
use crate::cli::error::CliError;
use crate::cli::listing::{self, INTERVAL};
use crate::container::Record;
use crate::format::human;
use crate::format::table::{Columns, Row};

/// `hawser stats`.
#[derive(Debug, Clone, Args)]
pub struct StatsFlags {
    /// Show all containers, not only those that run
    #[arg(short, long)]
    pub all: bool,
    /// Print one result and end
    #[arg(long)]
    pub no_stream: bool,
    /// Do not shorten ids
    #[arg(long)]
    pub no_trunc: bool,
    /// table, json, or a Go template
    #[arg(long, value_name = "FORMAT", default_value = "")]
    pub format: String,
    /// Containers to show; otherwise those that run
    #[arg(value_name = "CONTAINER")]
    pub containers: Vec<String>,
}

/// Where a container that does not run has nothing.
const NOTHING: &str = "--";

const COLUMNS: Columns = Columns {
    headers: &[
        ("Container", "CONTAINER"),
        ("ID", "CONTAINER ID"),
        ("Name", "NAME"),
        ("CPUPerc", "CPU %"),
        ("MemUsage", "MEM USAGE / LIMIT"),
        ("MemPerc", "MEM %"),
        ("NetIO", "NET I/O"),
        ("BlockIO", "BLOCK I/O"),
        ("PIDs", "PIDS"),
    ],
    default: "{{.ID}}\t{{.Name}}\t{{.CPUPerc}}\t{{.MemUsage}}\t{{.MemPerc}}\t{{.NetIO}}\t\
              {{.BlockIO}}\t{{.PIDs}}",
};

/// One container at one moment.
#[derive(Debug, Clone)]
struct Sample {
    /// As it was asked for.
    key: String,
    record: Record,
    /// None when it does not run.
    reading: Option<Reading>,
}

#[derive(Debug, Clone, Copy)]
struct Reading {
    at: Instant,
    usage: Usage,
    received: u64,
    sent: u64,
}

/// # Errors
/// There is no such container, or a bad template.
pub fn stats(context: &Context, flags: &StatsFlags) -> Result<i32, CliError> {
    let memory = host_memory();
    let mut before = samples(context, flags)?;
    // CPU use is the difference between two readings.
    thread::sleep(INTERVAL);
    listing::watch(&COLUMNS, (flags.no_stream, &flags.format), || {
        let after = samples(context, flags)?;
        let row = |sample: &Sample| {
            let earlier = before.iter().find(|old| old.record.id == sample.record.id);
            row(earlier, sample, memory, flags.no_trunc)
        };
        let rows = after.iter().map(row).collect();
        before = after;
        Ok(rows)
    })
}

fn samples(context: &Context, flags: &StatsFlags) -> Result<Vec<Sample>, CliError> {
    if flags.containers.is_empty() {
        let views = view::all(context)?.into_iter();
        let shown = views.filter(|view| flags.all || view.is_running());
        return Ok(shown
            .map(|view| sample(view.record.id.short().to_owned(), view))
            .collect());
    }
    let named = flags.containers.iter().map(|key| {
        let view = View::of(&context.container(key)?)?;
        Ok(sample(key.clone(), view))
    });
    named.collect()
}

fn sample(key: String, view: View) -> Sample {
    let init = view.state.init.filter(|_| view.is_running());
    let reading = init.and_then(|init| {
        let usage = Group::of(&view.record).ok()?.usage();
        let dev = fs::read_to_string(format!("/proc/{}/net/dev", init.pid)).unwrap_or_default();
        let (received, sent) = usage::network(&dev);
        Some(Reading {
            at: Instant::now(),
            usage,
            received,
            sent,
        })
    });
    Sample {
        key,
        record: view.record,
        reading,
    }
}

fn row(before: Option<&Sample>, now: &Sample, host_memory: u64, no_trunc: bool) -> Row {
    let id: &Id = &now.record.id;
    let id = if no_trunc { id.as_str() } else { id.short() };
    let mut row = Row::new([
        ("Container", now.key.as_str().into()),
        ("ID", id.into()),
        ("Name", now.record.name.as_str().into()),
    ]);
    let cells = match now.reading {
        Some(reading) => used(
            before.and_then(|sample| sample.reading),
            reading,
            host_memory,
        ),
        None => [
            ("CPUPerc", NOTHING.to_owned()),
            ("MemUsage", format!("{NOTHING} / {NOTHING}")),
            ("MemPerc", NOTHING.to_owned()),
            ("NetIO", NOTHING.to_owned()),
            ("BlockIO", NOTHING.to_owned()),
            ("PIDs", NOTHING.to_owned()),
        ],
    };
    let cells = cells.map(|(name, text)| (name.to_owned(), text.into()));
    row.cells.extend(cells);
    row
}

fn used(before: Option<Reading>, now: Reading, host_memory: u64) -> [(&'static str, String); 6] {
    let usage = now.usage;
    let limit = usage.memory_limit.unwrap_or(u64::MAX).min(host_memory);
    let percent = |part: f64, whole: f64| {
        if whole > 0.0 {
            part / whole * 100.0
        } else {
            0.0
        }
    };
    let memory = percent(usage.memory as f64, limit as f64);
    let io = |a, b| format!("{} / {}", human::size(a, 3), human::size(b, 3));
    [
        ("CPUPerc", format!("{:.2}%", cpu_percent(before, now))),
        (
            "MemUsage",
            format!(
                "{} / {}",
                human::binary_size(usage.memory, 4),
                human::binary_size(limit, 4)
            ),
        ),
        ("MemPerc", format!("{memory:.2}%")),
        ("NetIO", io(now.received, now.sent)),
        ("BlockIO", io(usage.read_bytes, usage.written_bytes)),
        ("PIDs", usage.processes.to_string()),
    ]
}

/// Of one CPU: two that are busy are 200. A container that has been started again in between, whose
/// time is less than before, reads as zero.
fn cpu_percent(before: Option<Reading>, now: Reading) -> f64 {
    let Some(before) = before else {
        return 0.0;
    };
    let passed = now.at.duration_since(before.at).as_secs_f64();
    let used = now.usage.cpu_ns.saturating_sub(before.usage.cpu_ns) as f64 / 1e9;
    if passed > 0.0 {
        used / passed * 100.0
    } else {
        0.0
    }
}

/// Bytes of this host's memory: the limit of those who have none.
pub fn host_memory() -> u64 {
    let text = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let kilobytes = text.lines().find_map(|line| {
        let value = line.strip_prefix("MemTotal:")?.trim();
        value.trim_end_matches(" kB").parse::<u64>().ok()
    });
    kilobytes.unwrap_or(0).saturating_mul(1024)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::cli::container::view::samples as views;
    use crate::format::table;

    fn reading(at: Instant, cpu_ns: u64) -> Reading {
        Reading {
            at,
            usage: Usage {
                cpu_ns,
                memory: 32 << 20,
                memory_limit: Some(64 << 20),
                read_bytes: 4096,
                written_bytes: 0,
                processes: 3,
            },
            received: 1_000,
            sent: 2_500_000,
        }
    }

    fn sample(reading: Option<Reading>) -> Sample {
        Sample {
            key: "web".to_owned(),
            record: views::running().record,
            reading,
        }
    }

    fn cells(before: &Sample, now: &Sample) -> Vec<String> {
        let rows = [row(Some(before), now, 1 << 40, false)];
        let listing = table::list(&COLUMNS, &rows, "").unwrap();
        let line = listing.lines().nth(1).unwrap();
        let cells = line
            .split("   ")
            .map(str::trim)
            .filter(|cell| !cell.is_empty());
        cells.map(str::to_owned).collect()
    }

    #[test]
    fn the_columns_read_as_dockers() {
        let start = Instant::now();
        let before = sample(Some(reading(start, 0)));
        let after = sample(Some(reading(start + Duration::from_secs(2), 3_000_000_000)));
        assert_eq!(
            cells(&before, &after),
            [
                "abababababab",
                "web",
                "150.00%",
                "32MiB / 64MiB",
                "50.00%",
                "1kB / 2.5MB",
                "4.1kB / 0B",
                "3"
            ]
        );
    }

    #[test]
    fn who_does_not_run_uses_nothing() {
        let stopped = sample(None);
        assert_eq!(
            cells(&stopped, &stopped)[2..],
            ["--", "-- / --", "--", "--", "--", "--"]
        );
    }

    #[test]
    fn a_new_life_reads_as_zero() {
        let start = Instant::now();
        let now = reading(start + INTERVAL, 5);
        assert_eq!(cpu_percent(Some(reading(start, 10)), now), 0.0);
        assert_eq!(cpu_percent(None, now), 0.0);
    }
}
