//! netavark, as podman starts it: the caller has chosen the address already.

use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use kernel_tests::Host;
use kernel_tests::docker::peer;
use serde_json::{Value, json};
use sys::netns::NetNs;

use super::{Engine, IFNAME, LIMIT, Ports, Sandbox, Verb, call};

const NETWORK: &str = "bench";
const SUBNET: Ipv4Addr = Ipv4Addr::new(10, 89, 0, 0);
pub(crate) const GATEWAY: Ipv4Addr = Ipv4Addr::new(10, 89, 0, 1);

pub(crate) struct Netavark {
    program: PathBuf,
    /// Serves the names of containers, where they have any.
    aardvark: Option<PathBuf>,
    state: tempfile::TempDir,
    namespace: NetNs,
    host: Arc<Host>,
}

impl Netavark {
    pub(crate) fn new(host: &Arc<Host>) -> Result<Self> {
        Ok(Self {
            program: peer("usr/local/bin/netavark")?,
            aardvark: None,
            state: tempfile::tempdir().context("state of netavark")?,
            namespace: NetNs::open(&host.network_namespace()).context("the host's network")?,
            host: Arc::clone(host),
        })
    }

    /// With the names of containers served by aardvark-dns.
    pub(crate) fn with_names(host: &Arc<Host>) -> Result<Self> {
        Ok(Self {
            aardvark: Some(peer("usr/local/bin/aardvark-dns")?),
            ..Self::new(host)?
        })
    }

    /// Where it and aardvark-dns keep what they know.
    pub(crate) fn state(&self) -> &Path {
        self.state.path()
    }

    fn options(&self, sandbox: &Sandbox, ports: Ports) -> Value {
        let mappings: Vec<Value> = match ports.as_range() {
            Some(first) => vec![mapping(first, ports.count)],
            None => ports.each().map(|port| mapping(port, 1)).collect(),
        };
        json!({
            "container_id": sandbox.id(),
            "container_name": sandbox.id(),
            "port_mappings": mappings,
            "networks": {
                NETWORK: { "interface_name": IFNAME, "static_ips": [sandbox.address(SUBNET)] },
            },
            "network_info": {
                NETWORK: {
                    "dns_enabled": self.aardvark.is_some(),
                    "driver": "bridge",
                    "id": "53ce4390f2adb1681eb1a90ec8b48c49c015e0a8d336c197637e7f65e365fa9e",
                    "internal": false,
                    "ipv6_enabled": false,
                    "name": NETWORK,
                    "network_interface": "bench0",
                    "subnets": [{ "gateway": GATEWAY, "subnet": format!("{SUBNET}/16") }],
                },
            },
        })
    }

    fn command(&self, mut command: Command, verb: Verb, sandbox: &Sandbox) -> Command {
        command.arg("--config").arg(self.state.path());
        if let Some(aardvark) = &self.aardvark {
            command.arg("--aardvark-binary").arg(aardvark);
        }
        let verb = match verb {
            Verb::Add => "setup",
            Verb::Del => "teardown",
        };
        command.arg(verb).arg(&sandbox.path);
        command
    }
}

impl Engine for Netavark {
    fn run(&self, verb: Verb, sandbox: &Sandbox, ports: Ports) -> Result<Duration> {
        let options = self.options(sandbox, ports).to_string();
        let mut command = self.command(Command::new(&self.program), verb, sandbox);
        let called = self
            .namespace
            .run(|| call::timed(&mut command, options.as_bytes(), LIMIT))
            .context("thread on the peer's host")??;
        Ok(called.took)
    }

    /// The first one makes the bridge. It does that in the mount namespace of its host too, where
    /// there is no systemd that it would tell of its settings for good.
    fn prepare(&self, sandbox: &Sandbox, ports: Ports) -> Result<()> {
        let options = self.options(sandbox, ports).to_string();
        let mut command = self.command(self.host.command(&self.program), Verb::Add, sandbox);
        call::timed(&mut command, options.as_bytes(), LIMIT).map(drop)
    }
}

fn mapping(first: u16, count: u16) -> Value {
    json!({
        "container_port": first,
        "host_ip": "",
        "host_port": first,
        "protocol": "tcp",
        "range": count,
    })
}
