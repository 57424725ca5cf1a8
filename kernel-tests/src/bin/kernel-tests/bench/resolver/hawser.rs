//! The embedded server, with a container for every name.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;

use anyhow::{Context, Result};
use api::net::Attachment;
use kernel_tests::Host;
use serde_json::json;
use sys::netns::NetNs;

use super::Server;
use crate::bench::engine::{self, IFNAME, NETWORK, Sandbox};
use crate::bench::sizes::Sizes;
use crate::bench::town;

const RESOLVER: SocketAddr =
    SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::new(127, 0, 0, 11)), 53);
/// Those who come in a storm are on a network of their own, which the asker is on too: a bridge has
/// no room for all (`BR_MAX_PORTS` is 1 024, net/bridge/br_private.h).
const STORM: &str = "storm";
const STORM_SUBNET: &str = "10.92.0.0/16";
/// Names of more than 62 characters are left to the daemon.
const LONG: usize = 63;

pub(super) struct Hawser {
    engine: engine::Hawser,
    asker: NetNs,
    guests: Vec<Sandbox>,
    _host: Arc<Host>,
}

impl Hawser {
    pub(super) fn start(sizes: &Sizes) -> Result<Self> {
        let host = Arc::new(Host::throwaway()?);
        let engine = engine::Hawser::start(Arc::clone(&host))?;
        let create = ["network", "create", "--subnet", STORM_SUBNET, STORM];
        engine.daemon.hawser(&create)?;
        let residents = town::sandboxes(&host, "name", sizes.zone.max(1))?;
        let guests = town::sandboxes(&host, "storm", sizes.storm)?;
        let asker = NetNs::open(&residents[0].path).context("namespace of the asker")?;
        let server = Self {
            engine,
            asker,
            guests,
            _host: host,
        };
        for sandbox in &residents {
            let number = sandbox.number;
            let name = format!("name{number}");
            server.connect(NETWORK, IFNAME, &name, sandbox, &[long_name(number)])?;
        }
        server.connect(STORM, "eth1", "name0", &residents[0], &[])?;
        Ok(server)
    }

    /// The same server, asked for names that the kernel does not answer.
    pub(super) fn by_daemon(&self) -> ByDaemon<'_> {
        ByDaemon(self)
    }

    fn connect(
        &self,
        network: &str,
        ifname: &str,
        name: &str,
        sandbox: &Sandbox,
        aliases: &[String],
    ) -> Result<()> {
        let request = json!({
            "network": network,
            "container_id": name,
            "ifname": ifname,
            "netns": sandbox.path,
            "name": name,
            "aliases": aliases,
        });
        let client = self.engine.daemon.client();
        let _attached: Attachment = client.post(api::path::ENDPOINTS, &request)?;
        Ok(())
    }
}

impl Server for Hawser {
    fn asker(&self) -> &NetNs {
        &self.asker
    }

    fn address(&self) -> SocketAddr {
        RESOLVER
    }

    fn name(&self, number: u32) -> String {
        format!("name{number}")
    }

    fn attach(&self, number: u32) -> Result<()> {
        let guest = &self.guests[number as usize];
        self.connect(STORM, IFNAME, &format!("storm{number}"), guest, &[])
    }

    fn detach(&self, number: u32) -> Result<()> {
        let endpoint = format!("{}/storm{number}/{IFNAME}", api::path::ENDPOINTS);
        Ok(self.engine.daemon.client().delete(&endpoint)?)
    }
}

pub(super) struct ByDaemon<'a>(&'a Hawser);

impl Server for ByDaemon<'_> {
    fn asker(&self) -> &NetNs {
        self.0.asker()
    }

    fn address(&self) -> SocketAddr {
        RESOLVER
    }

    fn name(&self, number: u32) -> String {
        long_name(number)
    }

    fn attach(&self, number: u32) -> Result<()> {
        self.0.attach(number)
    }

    fn detach(&self, number: u32) -> Result<()> {
        self.0.detach(number)
    }
}

fn long_name(number: u32) -> String {
    format!("{:x<LONG$}", format!("name{number}-"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_names_are_one_label_of_the_greatest_length() {
        assert_eq!(long_name(7).len(), 63);
        assert!(long_name(499).starts_with("name499-xx"));
    }
}
