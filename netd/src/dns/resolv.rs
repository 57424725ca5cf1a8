//! The host's name servers: `resolv.conf`, followed when it changes.

use std::fs;
use std::net::{IpAddr, SocketAddr, SocketAddrV6};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

const DNS_PORT: u16 = 53;
/// How old the knowledge of the file may be. A `stat` costs about a microsecond.
const CHECK_INTERVAL: Duration = Duration::from_secs(1);

/// The servers of a `resolv.conf` text, in its order. Lines that make no sense are skipped, as the C
/// library does. `scope` finds the index of an interface, for link-local addresses.
pub(super) fn parse(text: &str, scope: impl Fn(&str) -> Option<u32>) -> Vec<SocketAddr> {
    let mut servers = Vec::new();
    for line in text.lines() {
        let mut words = line.split_ascii_whitespace();
        if words.next() != Some("nameserver") {
            continue;
        }
        let server = words.next().and_then(|word| parse_server(word, &scope));
        servers.extend(server.filter(|server| !servers.contains(server)));
    }
    servers
}

fn parse_server(word: &str, scope: impl Fn(&str) -> Option<u32>) -> Option<SocketAddr> {
    match word.split_once('%') {
        None => Some(SocketAddr::new(word.parse().ok()?, DNS_PORT)),
        Some((address, zone)) => {
            let IpAddr::V6(address) = address.parse().ok()? else {
                return None;
            };
            let index = zone.parse().ok().or_else(|| scope(zone))?;
            Some(SocketAddrV6::new(address, DNS_PORT, 0, index).into())
        }
    }
}

/// What tells two versions of the file apart.
type Stamp = (u64, u64, i64, i64);

#[derive(Debug)]
struct State {
    servers: Arc<[SocketAddr]>,
    stamp: Option<Stamp>,
    checked: Option<Instant>,
}

/// The host's servers as of a second ago at the latest.
#[derive(Debug)]
pub(super) struct HostServers {
    path: PathBuf,
    state: Mutex<State>,
}

impl HostServers {
    pub(super) fn new(path: PathBuf) -> Self {
        let state = State {
            servers: Arc::default(),
            stamp: None,
            checked: None,
        };
        Self {
            path,
            state: Mutex::new(state),
        }
    }

    /// A file that cannot be read has no servers; it is looked at again a second later.
    pub(super) fn current(&self) -> Arc<[SocketAddr]> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if state
            .checked
            .is_none_or(|checked| checked.elapsed() >= CHECK_INTERVAL)
        {
            state.checked = Some(Instant::now());
            let stamp = stamp(&self.path);
            if stamp.is_none() || stamp != state.stamp {
                state.servers = read(&self.path);
                state.stamp = stamp;
            }
        }
        Arc::clone(&state.servers)
    }
}

fn stamp(path: &Path) -> Option<Stamp> {
    let meta = fs::metadata(path).ok()?;
    Some((meta.ino(), meta.size(), meta.mtime(), meta.mtime_nsec()))
}

fn read(path: &Path) -> Arc<[SocketAddr]> {
    match fs::read_to_string(path) {
        Ok(text) => parse(&text, interface_index).into(),
        Err(error) => {
            tracing::debug!(path = %path.display(), %error, "no name servers of the host");
            Arc::default()
        }
    }
}

fn interface_index(name: &str) -> Option<u32> {
    let name = api::id::IfName::parse(name).ok()?;
    fs::read_to_string(format!("/sys/class/net/{name}/ifindex"))
        .ok()?
        .trim()
        .parse()
        .ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str, expected: &[&str]) {
        let scope = |name: &str| (name == "eth0").then_some(7);
        let expected: Vec<SocketAddr> = expected.iter().map(|s| s.parse().unwrap()).collect();
        assert_eq!(parse(text, scope), expected, "{text:?}");
    }

    #[test]
    fn servers_are_read_as_the_c_library_reads_them() {
        check("", &[]);
        check(
            "nameserver 192.0.2.1\nnameserver 2001:db8::1\n",
            &["192.0.2.1:53", "[2001:db8::1]:53"],
        );
        check("  nameserver\t192.0.2.1 # the router", &["192.0.2.1:53"]);
        check(
            "#nameserver 192.0.2.1\n;nameserver 192.0.2.2\nsearch example",
            &[],
        );
        check(
            "nameserver\nnameserver x\nnameserver 192.0.2.300\nnameservers 192.0.2.1",
            &[],
        );
        check(
            "nameserver 192.0.2.1\nnameserver 192.0.2.1",
            &["192.0.2.1:53"],
        );
        check(
            "nameserver fe80::1%eth0\nnameserver fe80::2%3",
            &["[fe80::1%7]:53", "[fe80::2%3]:53"],
        );
        check("nameserver fe80::1%gone\nnameserver 192.0.2.1%eth0", &[]);
        // A stub of the host's own, such as systemd-resolved's, is as good as any: it is asked from
        // the host's namespace.
        check("nameserver 127.0.0.53", &["127.0.0.53:53"]);
    }

    #[test]
    fn a_missing_file_has_no_servers() {
        assert!(
            HostServers::new("/nonexistent/resolv.conf".into())
                .current()
                .is_empty()
        );
    }
}
