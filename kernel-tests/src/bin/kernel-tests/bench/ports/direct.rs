//! A host of our own making: a sandbox on a bridge, reached through one map of nftables, or routed
//! to without any translation.

use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, Result};
use kernel_tests::{Host, Outside, program};

use super::{STREAM_TO, Side, WEB, others};

const ADDRESS: Ipv4Addr = Ipv4Addr::new(10, 94, 0, 2);
const NETWORK: &str = "set -e
ip link add sb0 type bridge
ip addr add 10.94.0.1/24 dev sb0
ip link set sb0 up
ip netns add server
ip link add sv0 type veth peer name eth0 netns server
ip link set sv0 master sb0 up
ip -n server link set lo up
ip -n server addr add 10.94.0.2/24 dev eth0
ip -n server link set eth0 up
ip -n server route add default via 10.94.0.1
echo 1 >/proc/sys/net/ipv4/ip_forward
";
const TABLE: &str = "table ip ports {
    map ports {
        type inet_service : ipv4_addr . inet_service
    }
    chain prerouting {
        type nat hook prerouting priority dstnat
        fib daddr type local dnat ip addr . port to tcp dport map @ports
    }
    chain postrouting {
        type nat hook postrouting priority srcnat
        ip saddr 10.94.0.0/24 oifname != \"sb0\" masquerade
    }
    chain forward {
        type filter hook forward priority filter
        ct state established,related accept
        oifname \"sb0\" ct status dnat accept
    }
}
";

/// Dropped in this order.
struct Direct {
    outside: Outside,
    host: Arc<Host>,
    scratch: tempfile::TempDir,
    has_map: bool,
}

pub(super) fn open_map() -> Result<Box<dyn Side>> {
    let side = open(true)?;
    side.apply(TABLE)?;
    let element = |(inside, port): (u16, u16)| format!("{port} : {ADDRESS} . {inside}");
    side.add(&[WEB, STREAM_TO].map(element))?;
    Ok(Box::new(side))
}

pub(super) fn open_routed() -> Result<Box<dyn Side>> {
    Ok(Box::new(open(false)?))
}

fn open(has_map: bool) -> Result<Direct> {
    let host = Arc::new(Host::throwaway()?);
    host.output("sh", &["-c", NETWORK])?;
    Ok(Direct {
        outside: Outside::new(Arc::clone(&host))?,
        host,
        scratch: tempfile::tempdir().context("scratch directory")?,
        has_map,
    })
}

impl Direct {
    fn apply(&self, text: &str) -> Result<()> {
        let path = self.scratch.path().join("rules");
        std::fs::write(&path, text).context("rules")?;
        let mut nft = self.host.command("nft");
        program::output(nft.arg("-f").arg(path)).map(drop)
    }

    fn add(&self, elements: &[String]) -> Result<()> {
        if elements.is_empty() {
            return Ok(());
        }
        let elements = elements.join(", ");
        self.apply(&format!("add element ip ports ports {{ {elements} }}\n"))
    }
}

impl Side for Direct {
    fn outside(&self) -> &Outside {
        &self.outside
    }

    fn sandbox(&self) -> Result<PathBuf> {
        Ok(self.host.path(Path::new("/run/netns/server")))
    }

    fn target(&self) -> (Ipv4Addr, bool) {
        match self.has_map {
            true => (self.outside.host_v4, true),
            false => (ADDRESS, false),
        }
    }

    fn publish(&mut self, before: u16, count: u16) -> Result<()> {
        if !self.has_map {
            return Ok(());
        }
        let element = |port| format!("{port} : {ADDRESS} . {port}");
        self.add(&others(before, count).map(element).collect::<Vec<_>>())
    }
}
