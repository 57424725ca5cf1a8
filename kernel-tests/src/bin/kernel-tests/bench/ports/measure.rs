//! One sample: a second of load from outside, and what the machine spent on it.

use std::fs;
use std::net::Ipv4Addr;
use std::process::Command;

use anyhow::{Context, Result};
use kernel_tests::program;

use super::{Mode, STREAM_TO, Side, WEB};
use crate::bench::published::number_after;
use crate::bench::row::Goal;

/// Of one sample: short, so that sides take turns often on a machine that changes its speed.
const SECONDS: u32 = 1;
/// `USER_HZ` of /proc/stat on every Linux (proc_stat(5)).
const TICKS: f64 = 100.0;

/// What is measured together, and how.
pub(super) struct Measured<const N: usize> {
    pub(super) figures: [Figure; N],
    pub(super) take: fn(&dyn Side) -> Result<[f64; N]>,
}

pub(super) struct Figure {
    pub(super) name: &'static str,
    pub(super) unit: &'static str,
    /// Against docker, with so many ports.
    pub(super) goal: fn(Mode, u16) -> Goal,
    /// Against ours with the fewest ports.
    pub(super) flat: Goal,
}

const fn shown(name: &'static str, unit: &'static str) -> Figure {
    Figure {
        name,
        unit,
        goal: |_mode, _ports| Goal::Shown,
        flat: Goal::Shown,
    }
}

pub(super) const STREAM: Measured<2> = Measured {
    figures: [
        Figure {
            goal: |mode, _ports| Goal::AtLeast(mode.of([1.05, 0.98, 1.10])),
            ..shown("throughput, 1 stream", "Gbit/s")
        },
        shown("CPU of it, 1 stream", "ms/GB"),
    ],
    take: |side| stream(side, 1),
};

pub(super) const STREAMS: Measured<2> = Measured {
    figures: [
        Figure {
            goal: |mode, _ports| Goal::AtLeast(mode.of([1.05, 0.98, 1.10])),
            ..shown("throughput, 4 streams", "Gbit/s")
        },
        shown("CPU of it, 4 streams", "ms/GB"),
    ],
    take: |side| stream(side, 4),
};

pub(super) const CONNECTION: Measured<2> = Measured {
    figures: [
        Figure {
            goal: |mode, ports| match ports {
                ..10_000 => Goal::AtLeast(mode.of([1.12, 0.97, 1.20])),
                10_000.. => Goal::AtLeast(10.0),
            },
            flat: Goal::AtLeast(0.95),
            ..shown("new connections", "1/s")
        },
        Figure {
            goal: |mode, ports| match (mode, ports) {
                (Mode::Fast, ..10_000) => Goal::AtMost(0.85),
                _ => Goal::Shown,
            },
            flat: Goal::AtMost(1.05),
            ..shown("CPU of a connection", "us")
        },
    ],
    take: |side| {
        let Load { rate, cpu, .. } = load(side, "Connection: close")?;
        Ok([rate, cpu])
    },
};

pub(super) const REQUEST: Measured<4> = Measured {
    figures: [
        Figure {
            goal: |mode, _ports| Goal::AtLeast(mode.of([1.20, 1.0, 1.20])),
            flat: Goal::AtLeast(0.95),
            ..shown("requests", "1/s")
        },
        shown("latency of half", "us"),
        shown("latency of 99 in 100", "us"),
        shown("CPU of a request", "us"),
    ],
    take: |side| {
        let load = load(side, "Connection: keep-alive")?;
        Ok([load.rate, load.half, load.most, load.cpu])
    },
};

struct Load {
    rate: f64,
    /// Microseconds, as the others.
    half: f64,
    most: f64,
    cpu: f64,
}

/// wrk's 32 connections; the processor time is of clients and servers.
fn load(side: &dyn Side, header: &str) -> Result<Load> {
    let (address, port) = target(side, WEB);
    let mut wrk = client(side, "wrk");
    wrk.args(["-t1", "-c32", "--latency", &format!("-d{SECONDS}s")]);
    wrk.args(["-H", header, &format!("http://{address}:{port}/")]);
    let before = busy()?;
    let text = program::output(&mut wrk)?;
    let spent = busy()? - before;
    let rate = number_after(&text, "Requests/sec:")?;
    // wrk counts what is no answer of the server's in a line of its own.
    anyhow::ensure!(!text.contains("Socket errors"), "{text}");
    Ok(Load {
        rate,
        half: duration_after(&text, "50%")?,
        most: duration_after(&text, "99%")?,
        cpu: spent * 1e6 / (rate * f64::from(SECONDS)),
    })
}

fn stream(side: &dyn Side, count: u32) -> Result<[f64; 2]> {
    let (address, port) = target(side, STREAM_TO);
    let mut iperf = client(side, "iperf3");
    iperf.args([
        "--client",
        &address.to_string(),
        "--port",
        &port.to_string(),
    ]);
    iperf.args(["--time", &SECONDS.to_string(), "--json"]);
    iperf.args(["--parallel", &count.to_string()]);
    let before = busy()?;
    let text = program::output(&mut iperf)?;
    let spent = busy()? - before;
    let report: serde_json::Value = serde_json::from_str(&text).context("report of iperf3")?;
    let received = &report["end"]["sum_received"];
    let figure = |name: &str| {
        let figure = received[name].as_f64().filter(|figure| *figure > 0.0);
        figure.with_context(|| format!("no {name} in iperf3's report: {text}"))
    };
    Ok([
        figure("bits_per_second")? / 1e9,
        spent * 1e12 / figure("bytes")?,
    ])
}

fn target(side: &dyn Side, (inside, published): (u16, u16)) -> (Ipv4Addr, u16) {
    let (address, is_published) = side.target();
    (address, if is_published { published } else { inside })
}

/// A program of the outside host's, on the first processor; the servers are on the last.
fn client(side: &dyn Side, program: &str) -> Command {
    let mut command = side.outside().command("taskset");
    command.args(["--cpu-list", "0", program]);
    command
}

/// Seconds that all processors have worked since the start: programs, kernel, interrupts.
fn busy() -> Result<f64> {
    let text = fs::read_to_string("/proc/stat").context("/proc/stat")?;
    busy_of(&text).with_context(|| format!("no processor times in {text:?}"))
}

/// `cpu  user nice system idle iowait irq softirq steal guest guest_nice` (proc_stat(5)).
fn busy_of(text: &str) -> Option<f64> {
    let times = text.lines().next()?.strip_prefix("cpu ")?;
    let times: Vec<f64> = times
        .split_whitespace()
        .filter_map(|time| time.parse().ok())
        .collect();
    let [user, nice, system, _idle, _iowait, irq, softirq, ..] = times[..] else {
        return None;
    };
    Some((user + nice + system + irq + softirq) / TICKS)
}

/// Microseconds: wrk writes `50%  108.00us`, and `ms` or `s` where that is shorter.
fn duration_after(text: &str, label: &str) -> Result<f64> {
    let found = text.lines().find_map(|line| {
        let word = line.trim().strip_prefix(label)?.trim();
        let unit = word.find(|c: char| c.is_ascii_alphabetic())?;
        let (number, unit) = word.split_at(unit);
        let factor = match unit {
            "us" => 1.0,
            "ms" => 1e3,
            "s" => 1e6,
            _ => return None,
        };
        Some(number.parse::<f64>().ok()? * factor)
    });
    found.with_context(|| format!("no time after {label:?} in: {text}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_wrks_latencies() {
        let text =
            "  Latency Distribution\n     50%  108.00us\n     90%    1.50ms\n     99%    2.00s \n";
        let of = |label| duration_after(text, label).unwrap();
        assert_eq!([of("50%"), of("90%"), of("99%")], [108.0, 1500.0, 2e6]);
        assert!(duration_after(text, "75%").is_err());
    }

    #[test]
    fn a_processor_that_waits_is_not_busy() {
        let text = "cpu  100 50 200 9000 700 10 40 60 0 0\ncpu0 1 1 1 1 1 1 1 1 0 0\n";
        assert_eq!(busy_of(text), Some(4.0));
        assert_eq!(busy_of("intr 1"), None);
    }
}
