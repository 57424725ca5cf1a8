//! What a container uses: readings of its control groups. What a host does not count reads as zero.

use super::{Group, keyed};

/// A value that no container of a 64-bit host reaches: version 1 says "unlimited" by one close to
/// 2^63, rounded down to a page.
const UNLIMITED: u64 = 1 << 62;

/// One reading.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Usage {
    /// CPU time since the start, nanoseconds.
    pub cpu_ns: u64,
    /// Bytes, without the page cache that can be given up.
    pub memory: u64,
    /// Bytes; none when there is no limit.
    pub memory_limit: Option<u64>,
    pub read_bytes: u64,
    pub written_bytes: u64,
    pub processes: u64,
}

impl Group {
    /// What is used now.
    pub fn usage(&self) -> Usage {
        if self.is_unified {
            self.unified_usage()
        } else {
            self.split_usage()
        }
    }

    fn text(&self, controller: &str, file: &str) -> String {
        self.read(controller, file).unwrap_or_default()
    }

    fn number(&self, controller: &str, file: &str) -> Option<u64> {
        self.text(controller, file).trim().parse().ok()
    }

    fn split_usage(&self) -> Usage {
        let stat = self.text("memory", "memory.stat");
        let used = self.number("memory", "memory.usage_in_bytes");
        let (read_bytes, written_bytes) =
            transfers(&self.text("blkio", "blkio.throttle.io_service_bytes_recursive"));
        Usage {
            cpu_ns: self.number("cpuacct", "cpuacct.usage").unwrap_or(0),
            memory: without_cache(used, keyed(&stat, "total_inactive_file")),
            memory_limit: self
                .number("memory", "memory.limit_in_bytes")
                .filter(|limit| *limit < UNLIMITED),
            read_bytes,
            written_bytes,
            processes: self.number("pids", "pids.current").unwrap_or(0),
        }
    }

    fn unified_usage(&self) -> Usage {
        let stat = self.text("memory", "memory.stat");
        let used = self.number("memory", "memory.current");
        let cpu = self.text("cpu", "cpu.stat");
        let io = self.text("io", "io.stat");
        Usage {
            cpu_ns: keyed(&cpu, "usage_usec").unwrap_or(0).saturating_mul(1000),
            memory: without_cache(used, keyed(&stat, "inactive_file")),
            // "max" is no number.
            memory_limit: self.number("memory", "memory.max"),
            read_bytes: summed(&io, "rbytes="),
            written_bytes: summed(&io, "wbytes="),
            processes: self.number("pids", "pids.current").unwrap_or(0),
        }
    }
}

/// Docker's reading of the memory in use.
fn without_cache(used: Option<u64>, inactive_file: Option<u64>) -> u64 {
    let used = used.unwrap_or(0);
    match inactive_file {
        Some(cache) if cache < used => used - cache,
        _ => used,
    }
}

/// Bytes read and written in lines such as `8:0 Read 4096`.
fn transfers(text: &str) -> (u64, u64) {
    let sum = |word: &str| {
        let lines = text.lines().filter_map(|line| {
            let mut fields = line.split(' ').skip(1);
            let (kind, bytes) = (fields.next()?, fields.next()?);
            (kind == word).then(|| bytes.parse::<u64>().ok())?
        });
        lines.sum()
    };
    (sum("Read"), sum("Write"))
}

/// The sum of `KEY=NUMBER` fields over all lines.
fn summed(text: &str, key: &str) -> u64 {
    let fields = text.split_whitespace();
    let values = fields.filter_map(|field| field.strip_prefix(key)?.parse::<u64>().ok());
    values.sum()
}

/// Bytes received and sent by a process's network namespace, without the loopback device:
/// `/proc/PID/net/dev`.
pub fn network(dev: &str) -> (u64, u64) {
    let mut sums = (0, 0);
    for line in dev.lines().skip(2) {
        let Some((name, counters)) = line.split_once(':') else {
            continue;
        };
        if name.trim() == "lo" {
            continue;
        }
        let counters: Vec<u64> = counters
            .split_whitespace()
            .filter_map(|counter| counter.parse().ok())
            .collect();
        sums.0 += counters.first().copied().unwrap_or(0);
        sums.1 += counters.get(8).copied().unwrap_or(0);
    }
    sums
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn transfers_are_summed_over_devices() {
        let split = "8:0 Read 100\n8:0 Write 7\n8:0 Total 107\n8:16 Read 11\nTotal 118\n";
        assert_eq!(transfers(split), (111, 7));
        let unified = "8:0 rbytes=100 wbytes=7 rios=1 wios=1\n8:16 rbytes=11 wbytes=0\n";
        assert_eq!(summed(unified, "rbytes="), 111);
        assert_eq!(summed(unified, "wbytes="), 7);
    }

    #[test]
    fn interfaces_are_summed_without_loopback() {
        let dev = "Inter-|   Receive                                                |  Transmit\n \
                   face |bytes    packets errs drop fifo frame compressed multicast|bytes    packets\n    \
                   lo:  500 5 0 0 0 0 0 0 500 5 0 0 0 0 0 0\n  \
                   eth0: 1000 9 0 0 0 0 0 0 2000 9 0 0 0 0 0 0\n  \
                   eth1:   10 1 0 0 0 0 0 0   20 1 0 0 0 0 0 0\n";
        assert_eq!(network(dev), (1010, 2020));
    }

    #[test]
    fn cache_that_can_be_given_up_is_not_in_use() {
        assert_eq!(without_cache(Some(100), Some(30)), 70);
        assert_eq!(without_cache(Some(100), Some(130)), 100);
        assert_eq!(without_cache(None, None), 0);
    }
}
