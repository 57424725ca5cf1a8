//! Our plugin and its daemon.

use std::path::PathBuf;
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;
use kernel_tests::{Daemon, Host, program};
use serde_json::json;

use super::{Engine, IFNAME, LIMIT, Ports, Sandbox, Verb, call};

pub(crate) const NETWORK: &str = "bench";
const SUBNET: &str = "10.90.0.0/16";

pub(crate) struct Hawser {
    pub(crate) daemon: Daemon,
    plugin: PathBuf,
}

impl Hawser {
    pub(crate) fn start(host: Arc<Host>) -> Result<Self> {
        let daemon = Daemon::start(host)?;
        daemon.hawser(&["network", "create", "--subnet", SUBNET, NETWORK])?;
        Ok(Self {
            daemon,
            plugin: program::under_test("hawser-cni")?,
        })
    }
}

impl Engine for Hawser {
    fn run(&self, verb: Verb, sandbox: &Sandbox, ports: Ports) -> Result<Duration> {
        let directories = self.daemon.directories();
        let config = json!({
            "cniVersion": "1.0.0",
            "name": NETWORK,
            "type": "hawser",
            "network": NETWORK,
            "socket": directories.socket(),
            "runtimeConfig": { "portMappings": ports.mappings() },
        });
        let mut command = Command::new(&self.plugin);
        environment(&mut command, verb, sandbox).env("CNI_PATH", directories.root().join("cni"));
        let called = call::timed(&mut command, config.to_string().as_bytes(), LIMIT)?;
        Ok(called.took)
    }
}

/// What every CNI plugin is told.
pub(super) fn environment<'a>(
    command: &'a mut Command,
    verb: Verb,
    sandbox: &Sandbox,
) -> &'a mut Command {
    let verb = match verb {
        Verb::Add => "ADD",
        Verb::Del => "DEL",
    };
    command
        .env("CNI_COMMAND", verb)
        .env("CNI_CONTAINERID", sandbox.id())
        .env("CNI_NETNS", &sandbox.path)
        .env("CNI_IFNAME", IFNAME)
}
