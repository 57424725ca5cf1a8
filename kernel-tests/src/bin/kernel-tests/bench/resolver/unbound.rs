//! unbound with its names as local data, asked from a host outside.

use std::fmt::Write;
use std::fs;
use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;

use anyhow::{Context, Result};
use kernel_tests::docker::peer;
use kernel_tests::{Host, Outside, program, wait};
use sys::netns::NetNs;

use super::{Server, address_of};
use crate::bench::sizes::Sizes;

const SOON: std::time::Duration = std::time::Duration::from_secs(10);
const DOMAIN: &str = "bench";

/// Dropped in this order: the process by [`Drop`], then the hosts.
pub(super) struct Unbound {
    process: Child,
    outside: Outside,
    asker: NetNs,
    directory: tempfile::TempDir,
}

impl Unbound {
    pub(super) fn start(sizes: &Sizes) -> Result<Self> {
        let host = Arc::new(Host::throwaway()?);
        let outside = Outside::new(Arc::clone(&host))?;
        let directory = tempfile::tempdir().context("directory of unbound")?;
        let root = directory.path().display().to_string();
        let config = configuration(&root, &outside.host_v4.to_string(), sizes.zone)?;
        let file = directory.path().join("unbound.conf");
        fs::write(&file, config).context("configuration of unbound")?;
        let process = host
            .command(peer("usr/sbin/unbound")?)
            .arg("-c")
            .arg(&file)
            .stdin(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .context("unbound")?;
        let asker = NetNs::open(&outside.network_namespace()).context("namespace of the asker")?;
        let unbound = Self {
            process,
            outside,
            asker,
            directory,
        };
        wait::until(SOON, "unbound answers", || {
            unbound.control(&["status"]).ok()
        })?;
        Ok(unbound)
    }

    fn control(&self, arguments: &[&str]) -> Result<String> {
        let file = self.directory.path().join("unbound.conf");
        let mut control = Command::new(peer("usr/sbin/unbound-control")?);
        program::output(control.arg("-c").arg(file).args(arguments))
    }
}

fn configuration(root: &str, address: &str, names: u32) -> Result<String> {
    let mut text = format!(
        "server:\n  interface: {address}\n  port: 53\n  do-daemonize: no\n  username: \"\"\n  \
         chroot: \"\"\n  directory: \"{root}\"\n  pidfile: \"{root}/pid\"\n  use-syslog: no\n  \
         verbosity: 0\n  access-control: 0.0.0.0/0 allow\n  module-config: \"iterator\"\n  \
         local-zone: \"{DOMAIN}.\" static\nremote-control:\n  control-enable: yes\n  \
         control-interface: \"{root}/control\"\n  control-use-cert: no\nserver:\n"
    );
    for number in 0..names {
        let address = address_of(number);
        writeln!(text, "  local-data: \"name{number}.{DOMAIN}. A {address}\"")
            .context("names of unbound")?;
    }
    Ok(text)
}

impl Server for Unbound {
    fn asker(&self) -> &NetNs {
        &self.asker
    }

    fn address(&self) -> SocketAddr {
        SocketAddr::from((self.outside.host_v4, 53))
    }

    fn name(&self, number: u32) -> String {
        format!("name{number}.{DOMAIN}")
    }

    /// It connects nothing: a name is added.
    fn attach(&self, number: u32) -> Result<()> {
        let name = format!("storm{number}.{DOMAIN}.");
        let address = address_of(number).to_string();
        self.control(&["local_data", &name, "A", &address])
            .map(drop)
    }

    fn detach(&self, number: u32) -> Result<()> {
        let name = format!("storm{number}.{DOMAIN}.");
        self.control(&["local_data_remove", &name]).map(drop)
    }
}

impl Drop for Unbound {
    fn drop(&mut self) {
        drop(self.process.kill());
        drop(self.process.wait());
    }
}
