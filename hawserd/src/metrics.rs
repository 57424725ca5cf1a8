//! The daemon's own metrics: requests and the process.

use std::collections::BTreeMap;
use std::fs;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use axum::http::Method;

#[derive(Debug)]
pub(crate) struct Metrics {
    started: Instant,
    requests: Mutex<BTreeMap<Series, Count>>,
}

/// Both parts come from the server's own table of routes, so that their number is bounded.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Series {
    route: String,
    method: &'static str,
    status: u16,
}

#[derive(Debug, Clone, Copy, Default)]
struct Count {
    requests: u64,
    time: Duration,
}

impl Metrics {
    pub(crate) fn new() -> Self {
        Self {
            started: Instant::now(),
            requests: Mutex::default(),
        }
    }

    pub(crate) fn count(&self, method: &Method, route: String, status: u16, time: Duration) {
        let method = known_method(method);
        let series = Series {
            route,
            method,
            status,
        };
        // Counters have no invariant that a panic could have broken.
        let mut requests = self.requests.lock().unwrap_or_else(PoisonError::into_inner);
        let count = requests.entry(series).or_default();
        count.requests += 1;
        count.time += time;
    }

    /// Appends everything in the Prometheus text format.
    pub(crate) fn write(&self, out: &mut String) {
        let requests = self
            .requests
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone();
        let name = "hawser_requests_total";
        head(out, name, "counter", "Requests answered.");
        for (series, count) in &requests {
            out.push_str(&format!(
                "{name}{{{}}} {}\n",
                series.labels(),
                count.requests
            ));
        }
        let name = "hawser_request_seconds_total";
        head(out, name, "counter", "Time spent on requests.");
        for (series, count) in &requests {
            let seconds = count.time.as_secs_f64();
            out.push_str(&format!("{name}{{{}}} {seconds}\n", series.labels()));
        }
        let gauges = [
            (
                "hawser_uptime_seconds",
                "Since the start.",
                Some(self.started.elapsed().as_secs()),
            ),
            (
                "process_resident_memory_bytes",
                "Resident memory.",
                resident_bytes(),
            ),
            (
                "process_open_fds",
                "Open file descriptors.",
                open_descriptors(),
            ),
            ("process_threads", "Threads.", status_number("Threads:")),
        ];
        for (name, help, value) in gauges {
            if let Some(value) = value {
                head(out, name, "gauge", help);
                out.push_str(&format!("{name} {value}\n"));
            }
        }
    }
}

impl Series {
    /// Routes hold braces and slashes, nothing that the format would want escaped.
    fn labels(&self) -> String {
        let Self {
            route,
            method,
            status,
        } = self;
        format!("route=\"{route}\",method=\"{method}\",status=\"{status}\"")
    }
}

fn known_method(method: &Method) -> &'static str {
    match *method {
        Method::GET => "GET",
        Method::POST => "POST",
        Method::DELETE => "DELETE",
        _ => "other",
    }
}

fn head(out: &mut String, name: &str, kind: &str, help: &str) {
    out.push_str(&format!("# HELP {name} {help}\n# TYPE {name} {kind}\n"));
}

fn resident_bytes() -> Option<u64> {
    Some(status_number("VmRSS:")? << 10)
}

/// A number of `/proc/self/status`, in the unit the kernel gives it (kB for sizes).
fn status_number(key: &str) -> Option<u64> {
    let status = fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix(key))?;
    line.split_whitespace().next()?.parse().ok()
}

fn open_descriptors() -> Option<u64> {
    let listed = fs::read_dir("/proc/self/fd").ok()?.count() as u64;
    // One of them is the listing's own.
    Some(listed.saturating_sub(1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_are_counted_by_route_and_status() {
        let metrics = Metrics::new();
        let count = |status| {
            let route = "/v1/volumes/{name}".to_owned();
            metrics.count(&Method::GET, route, status, Duration::from_millis(250));
        };
        count(200);
        count(200);
        count(404);
        let mut text = String::new();
        metrics.write(&mut text);
        let series = r#"{route="/v1/volumes/{name}",method="GET",status="200"}"#;
        for line in [
            format!("hawser_requests_total{series} 2"),
            format!("hawser_request_seconds_total{series} 0.5"),
            "# TYPE process_resident_memory_bytes gauge".to_owned(),
        ] {
            assert!(text.lines().any(|found| found == line), "{line}\n{text}");
        }
    }
}
