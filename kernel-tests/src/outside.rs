//! A host outside: a network namespace behind a veth pair whose only route leads to the host.

use std::net::{Ipv4Addr, Ipv6Addr};
use std::path::PathBuf;
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;

use crate::Host;
use crate::host::Namespaces;
use crate::program;
use crate::wait;

/// Dropping it removes the veth pair with the namespace.
#[derive(Debug)]
pub struct Outside {
    host: Arc<Host>,
    namespace: Namespaces,
    /// The host's end of the pair.
    pub interface: String,
    pub host_v4: Ipv4Addr,
    pub host_v6: Ipv6Addr,
    pub v4: Ipv4Addr,
    pub v6: Ipv6Addr,
}

impl Outside {
    /// # Errors
    /// When this process is not root, or the addresses are taken.
    pub fn new(host: Arc<Host>) -> Result<Self> {
        let namespace = Namespaces::new(&["--net"])?;
        // The holder's process id is unique on this machine while the pair lives, and so are the
        // names and addresses made of it. 198.18.0.0/15 is for benchmarks (RFC 2544).
        let id = namespace.pid();
        let [.., high, low] = (id << 2).to_be_bytes();
        let outside = Self {
            interface: format!("out{id:x}"),
            host_v4: Ipv4Addr::new(198, 18, high, low | 1),
            v4: Ipv4Addr::new(198, 18, high, low | 2),
            host_v6: Ipv6Addr::new(0xfd68, 0x7773, 0, (id >> 16) as u16, id as u16, 0, 0, 1),
            v6: Ipv6Addr::new(0xfd68, 0x7773, 0, (id >> 16) as u16, id as u16, 0, 0, 2),
            host,
            namespace,
        };
        outside.connect()?;
        Ok(outside)
    }

    fn connect(&self) -> Result<()> {
        let Self {
            interface,
            host_v4,
            host_v6,
            v4,
            v6,
            ..
        } = self;
        let pid = self.namespace.pid();
        self.on_host(&format!(
            "link add {interface} type veth peer name eth0 netns {pid}"
        ))?;
        self.on_host(&format!("addr add {host_v4}/30 dev {interface}"))?;
        self.on_host(&format!("addr add {host_v6}/64 dev {interface} nodad"))?;
        self.on_host(&format!("link set {interface} up"))?;
        self.here("link set lo up")?;
        self.here(&format!("addr add {v4}/30 dev eth0"))?;
        self.here(&format!("addr add {v6}/64 dev eth0 nodad"))?;
        self.here("link set eth0 up")?;
        self.here(&format!("route add default via {host_v4}"))?;
        self.here(&format!("-6 route add default via {host_v6}"))?;
        let ping = ["ping", "-c1", "-W1", &host_v4.to_string()].map(str::to_owned);
        wait::until(
            Duration::from_secs(5),
            "the outside host reaches the host",
            || program::output(self.command("busybox").args(&ping)).ok(),
        )?;
        Ok(())
    }

    fn on_host(&self, arguments: &str) -> Result<String> {
        program::output(self.host.command("ip").args(arguments.split(' ')))
    }

    fn here(&self, arguments: &str) -> Result<String> {
        program::output(self.command("ip").args(arguments.split(' ')))
    }

    /// `program`, to be run on the outside host.
    pub fn command(&self, program: &str) -> Command {
        self.namespace.command(program)
    }

    /// Path of the outside host's network namespace.
    pub fn network_namespace(&self) -> PathBuf {
        PathBuf::from(format!("/proc/{}/ns/net", self.namespace.pid()))
    }

    /// The page at `url`, fetched from here.
    ///
    /// # Errors
    /// When there is none.
    pub fn fetch(&self, url: &str) -> Result<String> {
        program::output(&mut curl(self.command("curl"), url))
    }
}

/// The page at `url`, fetched from `host`.
///
/// # Errors
/// When there is none.
pub fn fetch_on(host: &Host, url: &str) -> Result<String> {
    program::output(&mut curl(host.command("curl"), url))
}

fn curl(mut command: Command, url: &str) -> Command {
    command.args([
        "--silent",
        "--show-error",
        "--fail",
        "--globoff",
        "--noproxy",
        "*",
    ]);
    command.args(["--max-time", "10", url]);
    command
}

impl Drop for Outside {
    fn drop(&mut self) {
        // The pair goes with the namespace too, but only after a while (cleanup_net is deferred).
        drop(self.on_host(&format!("link del {}", self.interface)));
    }
}
