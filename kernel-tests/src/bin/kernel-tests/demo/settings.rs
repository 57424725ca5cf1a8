//! Settings of the kernel that a daemon with bridge networks needs and does not take back.

use std::fs;

use anyhow::{Context, Result};

const FORWARDING: [&str; 2] = [
    "/proc/sys/net/ipv4/ip_forward",
    "/proc/sys/net/ipv6/conf/all/forwarding",
];

/// What they were; dropping it restores them.
#[derive(Debug)]
pub(crate) struct Settings {
    before: Vec<(&'static str, String)>,
}

impl Settings {
    pub(crate) fn keep() -> Result<Self> {
        let mut before = Vec::new();
        // A kernel without IPv6 has no such file.
        for path in FORWARDING
            .into_iter()
            .filter(|path| fs::exists(path).unwrap_or(false))
        {
            before.push((path, fs::read_to_string(path).context(path)?));
        }
        Ok(Self { before })
    }
}

impl Drop for Settings {
    fn drop(&mut self) {
        for (path, value) in &self.before {
            // Writing has effects of its own, so only what differs is written.
            let is_same = fs::read_to_string(path).is_ok_and(|now| now == *value);
            if !is_same && let Err(error) = fs::write(path, value) {
                eprintln!("restore {path}: {error}");
            }
        }
    }
}
