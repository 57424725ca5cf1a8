//! The reference plugins, as a runtime chains them: bridge with host-local, then portmap when
//! there are ports to publish.

use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use kernel_tests::docker::peer;
use kernel_tests::{Host, program};
use serde_json::{Value, json};
use sys::netns::NetNs;

use super::hawser::environment;
use super::{Engine, LIMIT, Ports, Sandbox, Verb, call};

const NETWORK: &str = "bench";
const SUBNET: &str = "10.91.0.0/16";
/// Ports of one rule of portmap's first chain: `multiport` takes no more.
const PORTS_OF_A_RULE: usize = 15;

pub(crate) struct Reference {
    plugins: PathBuf,
    leases: tempfile::TempDir,
    namespace: NetNs,
    host: Arc<Host>,
}

impl Reference {
    pub(crate) fn new(host: &Arc<Host>) -> Result<Self> {
        Ok(Self {
            plugins: peer("usr/lib/cni")?,
            leases: tempfile::tempdir().context("directory of leases")?,
            namespace: NetNs::open(&host.network_namespace()).context("the host's network")?,
            host: Arc::clone(host),
        })
    }

    fn bridge(&self) -> Value {
        json!({
            "cniVersion": "1.0.0",
            "name": NETWORK,
            "type": "bridge",
            "bridge": "cni0",
            "isGateway": true,
            "ipMasq": true,
            "ipam": {
                "type": "host-local",
                "dataDir": self.leases.path(),
                "ranges": [[{ "subnet": SUBNET }]],
                "routes": [{ "dst": "0.0.0.0/0" }],
            },
        })
    }

    fn call(&self, verb: Verb, sandbox: &Sandbox, config: &Value) -> Result<call::Called> {
        let plugin = config["type"].as_str().unwrap_or_default();
        let mut command = Command::new(self.plugins.join(plugin));
        environment(&mut command, verb, sandbox).env("CNI_PATH", &self.plugins);
        let input = config.to_string();
        self.namespace
            .run(|| call::timed(&mut command, input.as_bytes(), LIMIT))
            .context("thread on the peer's host")?
            .with_context(|| plugin.to_owned())
    }
}

impl Engine for Reference {
    fn run(&self, verb: Verb, sandbox: &Sandbox, ports: Ports) -> Result<Duration> {
        let mut portmap = json!({
            "cniVersion": "1.0.0",
            "name": NETWORK,
            "type": "portmap",
            "snat": true,
            "runtimeConfig": { "portMappings": ports.mappings() },
        });
        let mut took = Duration::ZERO;
        // A runtime goes through the chain backwards to disconnect.
        if verb == Verb::Del && !ports.is_empty() {
            took += self.call(verb, sandbox, &portmap)?.took;
        }
        let bridge = self.call(verb, sandbox, &self.bridge())?;
        took += bridge.took;
        if verb == Verb::Add && !ports.is_empty() {
            portmap["prevResult"] =
                serde_json::from_slice(&bridge.output).context("result of the bridge plugin")?;
            took += self.call(verb, sandbox, &portmap)?.took;
        }
        Ok(took)
    }

    /// Portmap starts iptables several times for every port, so that ten thousand take it hours.
    /// The rules it would leave are restored in one go instead.
    fn prepare(&self, sandbox: &Sandbox, ports: Ports) -> Result<()> {
        self.run(Verb::Add, sandbox, Ports::NONE)?;
        if ports.is_empty() {
            return Ok(());
        }
        let rules = self.leases.path().join("rules");
        let address = Ipv4Addr::new(10, 91, 255, 254);
        std::fs::write(&rules, portmap_rules(&sandbox.id(), address, ports)).context("rules")?;
        let rules = rules.display().to_string();
        program::output(
            self.host
                .command("iptables-restore")
                .args(["--noflush", &rules]),
        )
        .map(drop)
    }
}

/// What portmap leaves in the nat table for one container, as `iptables-save` prints it.
fn portmap_rules(id: &str, address: Ipv4Addr, ports: Ports) -> String {
    // The real name ends in a digest of network and container.
    let chain = "CNI-DN-0123456789abcdef01234";
    let mut text = format!(
        "*nat\n:CNI-HOSTPORT-DNAT - [0:0]\n:CNI-HOSTPORT-SETMARK - [0:0]\n\
         :CNI-HOSTPORT-MASQ - [0:0]\n:{chain} - [0:0]\n\
         -A PREROUTING -m addrtype --dst-type LOCAL -j CNI-HOSTPORT-DNAT\n\
         -A OUTPUT -m addrtype --dst-type LOCAL -j CNI-HOSTPORT-DNAT\n\
         -A POSTROUTING -m comment --comment \"CNI portfwd requiring masquerade\" \
         -j CNI-HOSTPORT-MASQ\n\
         -A CNI-HOSTPORT-SETMARK -m comment --comment \"CNI portfwd masquerade mark\" \
         -j MARK --set-xmark 0x2000/0x2000\n\
         -A CNI-HOSTPORT-MASQ -m mark --mark 0x2000/0x2000 -j MASQUERADE\n"
    );
    let each: Vec<String> = ports.each().map(|port| port.to_string()).collect();
    for run in each.chunks(PORTS_OF_A_RULE) {
        let list = run.join(",");
        line(
            &mut text,
            format_args!(
                "-A CNI-HOSTPORT-DNAT -p tcp -m comment --comment \"dnat name: {NETWORK} id: {id}\" \
                 -m multiport --dports {list} -j {chain}"
            ),
        );
    }
    for port in &each {
        let match_ = format_args!("-p tcp -m tcp --dport {port}").to_string();
        for source in [SUBNET, "127.0.0.1/32"] {
            line(
                &mut text,
                format_args!("-A {chain} -s {source} {match_} -j CNI-HOSTPORT-SETMARK"),
            );
        }
        line(
            &mut text,
            format_args!("-A {chain} {match_} -j DNAT --to-destination {address}:{port}"),
        );
    }
    text + "COMMIT\n"
}

fn line(text: &mut String, line: std::fmt::Arguments<'_>) {
    text.push_str(&line.to_string());
    text.push('\n');
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn restores_three_rules_a_port_and_one_for_fifteen() {
        let text = portmap_rules("c", Ipv4Addr::LOCALHOST, Ports::single(20_000, 31));
        let count = |part: &str| text.lines().filter(|line| line.contains(part)).count();
        assert_eq!(count("--dports"), 3);
        assert_eq!(count("--to-destination"), 31);
        assert_eq!(count("-j CNI-HOSTPORT-SETMARK"), 62);
    }
}
