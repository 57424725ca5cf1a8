//! Memory of the daemon beside few and many endpoints, and of dockerd with its containerd.

use std::fs;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result};
use kernel_tests::Host;

use super::docker::{self, Docker};
use super::engine::Hawser;
use super::row::{Goal, Row, Subject, row};
use super::town::{self, Population};
use super::turns::Figures;
use super::{Scene, column};

/// Containers that dockerd is asked for at most: they take it half a second each.
const MOST_OF_DOCKER: u32 = 100;
/// Design: with 100 endpoints.
const GOAL: (u32, f64) = (100, 25.0);

/// What a process keeps is looked at this long after the last container came, on both sides.
const SETTLED: Duration = Duration::from_secs(15);

/// Megabytes: resident, and the part of it that no file backs.
pub(super) type Memory = [f64; 2];

pub(crate) fn rows(scene: &Scene) -> Result<Vec<Row>> {
    let docker = Docker::start().map_err(|error| format!("dockerd cannot run here: {error:#}"));
    let mut running = 0;
    let mut rows = Vec::new();
    for &endpoints in &scene.sizes.endpoints {
        eprintln!("  {endpoints} endpoints");
        let ours: Figures<Memory> = Ok(vec![ours(endpoints)?]);
        let containers = endpoints.min(MOST_OF_DOCKER);
        let peer = docker.as_ref().map_err(Clone::clone).and_then(|docker| {
            let memory = theirs(docker, &mut running, containers);
            memory
                .map(|memory| vec![memory])
                .map_err(|error| format!("{error:#}"))
        });
        let name = format!("dockerd + containerd, {containers} containers");
        for (place, kind) in ["resident", "anonymous"].into_iter().enumerate() {
            let what = format!("memory, {kind}, {endpoints} endpoints");
            let subject = Subject::new(what, "MB", goal(endpoints));
            let (ours, peer) = (column(&ours, place), column(&peer, place));
            rows.push(row(subject, &ours, &name, &peer)?);
        }
    }
    Ok(rows)
}

fn goal(endpoints: u32) -> Goal {
    if endpoints <= GOAL.0 {
        Goal::Within(GOAL.1)
    } else {
        // The design names none: not more than docker with fewer.
        Goal::AtMost(1.0)
    }
}

fn ours(endpoints: u32) -> Result<Memory> {
    let host = Arc::new(Host::throwaway()?);
    let hawser = Hawser::start(Arc::clone(&host))?;
    town::settle(&hawser, &host, Population::of(endpoints))?;
    thread::sleep(SETTLED);
    of_process(hawser.daemon.pid().context("the daemon runs")?)
}

fn theirs(docker: &Docker, running: &mut u32, containers: u32) -> Result<Memory> {
    while *running < containers {
        docker.output(&["run", "-d", docker::TOOLS, "sleep", "3600"])?;
        *running += 1;
    }
    thread::sleep(SETTLED);
    let [resident, anonymous] = of_process(docker.pid())?;
    let containerd = of_process(child(docker.pid(), "containerd")?)?;
    Ok([resident + containerd[0], anonymous + containerd[1]])
}

pub(super) fn of_process(pid: u32) -> Result<Memory> {
    let path = format!("/proc/{pid}/status");
    let status = fs::read_to_string(&path).context(path)?;
    let megabytes = |field| kilobytes(&status, field).map(|kilobytes| kilobytes / 1e3);
    Ok([megabytes("VmRSS:")?, megabytes("RssAnon:")?])
}

/// proc_pid_status(5): `VmRSS:      1234 kB`, of 1024 bytes.
fn kilobytes(status: &str, field: &str) -> Result<f64> {
    let line = status.lines().find_map(|line| line.strip_prefix(field));
    let number = line.and_then(|line| line.split_whitespace().next());
    let number: f64 = number
        .and_then(|number| number.parse().ok())
        .with_context(|| format!("no {field} in the status of a process"))?;
    Ok(number * 1.024)
}

/// The child of a process called `name`.
fn child(parent: u32, name: &str) -> Result<u32> {
    let pids = fs::read_dir("/proc")
        .context("/proc")?
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
    let status = |pid: u32| fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let parents = format!("PPid:\t{parent}\n");
    let names = format!("Name:\t{name}\n");
    pids.map(|pid| (pid, status(pid)))
        .find(|(_pid, status)| status.contains(&parents) && status.starts_with(&names))
        .map(|(pid, _status)| pid)
        .with_context(|| format!("process {parent} has no child {name}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_the_status_of_a_process() {
        let status = "Name:\tx\nVmRSS:\t    1000 kB\nRssAnon:\t     500 kB\n";
        assert_eq!(kilobytes(status, "VmRSS:").unwrap(), 1024.0);
        assert_eq!(kilobytes(status, "RssAnon:").unwrap(), 512.0);
        assert!(kilobytes(status, "RssFile:").is_err());
    }

    #[test]
    fn this_process_has_memory() {
        let [resident, anonymous] = of_process(std::process::id()).unwrap();
        assert!(resident > anonymous && anonymous > 0.0);
    }
}
