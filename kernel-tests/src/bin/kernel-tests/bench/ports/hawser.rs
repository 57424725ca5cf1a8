//! Our side: a container that publishes its ports, and a sandbox that publishes the others.

use std::net::Ipv4Addr;
use std::path::PathBuf;

use anyhow::{Context, Result, ensure};
use api::net::Attachment;
use api::path;
use kernel_tests::{Outside, Shop};
use serde_json::{Value, json};

use super::{Mode, STREAM_TO, Side, WEB, publish_others};

struct Hawser(Shop);

pub(super) fn open(mode: Mode) -> Result<Box<dyn Side>> {
    let shop = Shop::configured(&format!("\n[network]\nmode = \"{}\"\n", mode.name()));
    // A host may not let the daemon have the mode that it was asked for.
    let chosen = format!("published ports: {}", mode.name());
    ensure!(
        shop.daemon.log().contains(&chosen),
        "this host has no such mode"
    );
    let [web, stream] = [WEB, STREAM_TO].map(|(inside, port)| format!("{port}:{inside}"));
    shop.idle("server", &format!("-p {web} -p {stream}"));
    Ok(Box::new(Hawser(shop)))
}

impl Side for Hawser {
    fn outside(&self) -> &Outside {
        &self.0.outside
    }

    fn sandbox(&self) -> Result<PathBuf> {
        let pid = self.0.inspect("server", "{{.State.Pid}}");
        Ok(PathBuf::from(format!("/proc/{pid}/ns/net")))
    }

    fn target(&self) -> (Ipv4Addr, bool) {
        (self.0.outside.host_v4, true)
    }

    fn publish(&mut self, before: u16, count: u16) -> Result<()> {
        publish_others(&self.0, before, count)
    }
}

/// Publishes `ports` for a new sandbox on the default network.
pub(super) fn publish(shop: &Shop, name: &str, ports: impl Iterator<Item = u16>) -> Result<()> {
    shop.host.output("ip", &["netns", "add", name])?;
    let binding = |port| json!({ "protocol": "tcp", "container_port": 80, "host_port": port });
    let request = json!({
        "network": "bridge", "container_id": name, "ifname": "eth0",
        "netns": shop.host.path(format!("/run/netns/{name}").as_ref()),
        "ports": ports.map(binding).collect::<Vec<Value>>(),
    });
    let attached: Attachment = shop
        .daemon
        .client()
        .post(path::ENDPOINTS, &request)
        .with_context(|| format!("attach {name}"))?;
    drop(attached);
    Ok(())
}
