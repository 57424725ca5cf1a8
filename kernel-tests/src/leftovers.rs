//! What of ours is on the host: the objects that a removal must not leave behind.

use std::collections::BTreeSet;
use std::env;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result};

use crate::Host;

/// One line for each object of ours on this machine.
///
/// # Errors
/// When the kernel's tables cannot be read.
pub fn observe(host: &Host) -> Result<BTreeSet<String>> {
    let mut objects = in_namespaces(host)?;
    objects.extend(control_groups(Path::new("/sys/fs/cgroup"), 0));
    objects.extend(loop_devices());
    objects.extend(processes()?);
    Ok(objects)
}

/// One line for each object of ours that belongs to `host` alone: interfaces, mounts, pins,
/// nftables tables.
///
/// # Errors
/// When the kernel's tables cannot be read.
pub fn in_namespaces(host: &Host) -> Result<BTreeSet<String>> {
    let mut objects = BTreeSet::new();
    objects.extend(interfaces(host)?);
    objects.extend(mounts(host)?);
    objects.extend(pins(host));
    objects.extend(nft_tables(host)?);
    Ok(objects)
}

fn interfaces(host: &Host) -> Result<Vec<String>> {
    // `7: veth12ab@if2: <BROADCAST,…> …`
    let text = host.output("ip", &["-oneline", "link"])?;
    let names = text.lines().filter_map(|line| line.split(": ").nth(1));
    let names = names.map(|name| name.split('@').next().unwrap_or(name));
    Ok(names
        .filter(|name| is_our_interface(name))
        .map(|name| format!("interface {name}"))
        .collect())
}

fn is_our_interface(name: &str) -> bool {
    let is_hex = |text: &str| !text.is_empty() && text.chars().all(|c| c.is_ascii_hexdigit());
    let with_hex = |prefix: &str| name.strip_prefix(prefix).is_some_and(is_hex);
    name.starts_with("hawser")
        || with_hex("br-")
        || with_hex("veth")
        || with_hex("out")
        || with_hex("rate")
}

fn mounts(host: &Host) -> Result<Vec<String>> {
    // proc_pid_mountinfo(5): the fifth field is the mount point.
    let text = host.output("cat", &["/proc/self/mountinfo"])?;
    let points = text.lines().filter_map(|line| line.split(' ').nth(4));
    // In a guest the tests themselves come from a disk that is mounted.
    let tests = env::current_exe().context("the test's own program")?;
    Ok(points
        .filter(|point| point.contains("hawser") && !tests.starts_with(point))
        .map(|point| format!("mount {point}"))
        .collect())
}

fn pins(host: &Host) -> Vec<String> {
    // Without a pin file system, or without our directory in it, there are no pins.
    let found = host.output("find", &["/sys/fs/bpf/hawser", "-mindepth", "1"]);
    found
        .unwrap_or_default()
        .lines()
        .map(|path| format!("pin {path}"))
        .collect()
}

fn nft_tables(host: &Host) -> Result<Vec<String>> {
    let text = host.output("nft", &["list", "tables"])?;
    let ours = text.lines().filter(|line| line.ends_with(" hawser"));
    Ok(ours.map(str::to_owned).collect())
}

/// How deep a group of ours may stand: hierarchy, slice, ours.
const MAX_GROUP_DEPTH: usize = 4;

fn control_groups(dir: &Path, depth: usize) -> Vec<String> {
    let mut groups = Vec::new();
    let Ok(entries) = fs::read_dir(dir) else {
        return groups;
    };
    for path in entries.filter_map(Result::ok).map(|entry| entry.path()) {
        if !path.is_dir() || path.is_symlink() {
            continue;
        }
        if path
            .file_name()
            .is_some_and(|name| name.to_string_lossy().starts_with("hawser"))
        {
            groups.push(format!("control group {}", path.display()));
        }
        if depth < MAX_GROUP_DEPTH {
            groups.extend(control_groups(&path, depth + 1));
        }
    }
    groups
}

fn loop_devices() -> Vec<String> {
    let Ok(devices) = fs::read_dir("/sys/block") else {
        return Vec::new();
    };
    devices
        .filter_map(Result::ok)
        .filter_map(|device| {
            let file = fs::read_to_string(device.path().join("loop/backing_file")).ok()?;
            file.contains("hawser")
                .then(|| format!("loop device {}", device.path().display()))
        })
        .collect()
}

/// With their command lines, which name the directories of the daemon they belong to.
fn processes() -> Result<Vec<String>> {
    let ours = ["hawserd", "hawser-shim"];
    let mut processes = Vec::new();
    for entry in fs::read_dir("/proc")
        .context("/proc")?
        .filter_map(Result::ok)
    {
        let Ok(name) = fs::read_to_string(entry.path().join("comm")) else {
            continue;
        };
        if ours.contains(&name.trim()) {
            let line = fs::read(entry.path().join("cmdline")).unwrap_or_default();
            let line = String::from_utf8_lossy(&line).replace('\0', " ");
            // One that has ended and waits for its parent has no command line any more.
            if line.is_empty() {
                continue;
            }
            let pid = entry.file_name();
            processes.push(format!("process {} {}", pid.to_string_lossy(), line.trim()));
        }
    }
    Ok(processes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn knows_our_interfaces_by_name() {
        for name in ["hawser0", "br-0123456789ab", "vethdeadbeef", "out1f"] {
            assert!(is_our_interface(name), "{name}");
        }
        for name in ["lo", "eth0", "docker0", "br-lan", "veth-x"] {
            assert!(!is_our_interface(name), "{name}");
        }
    }
}
