//! CNI ADD: our plugin against the reference plugins, both started as a runtime starts them.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use kernel_tests::host::Namespaces;
use kernel_tests::{Host, program};
use sys::netns::NetNs;

use super::row::{Goal, Row, Subject, compare};
use super::{MANY, Scene, peer};

pub(crate) fn add(scene: &Scene) -> Result<Row> {
    let subject = Subject {
        name: "cni-add",
        unit: "ms",
        peer_name: "bridge + host-local (containernetworking-plugins)",
        goal: Goal::AtMost(0.25),
        runs: MANY,
    };
    let ours = ours(scene)?;
    let reference = Reference::new();
    let peer = reference.as_ref().map_err(|error| format!("{error:#}"));
    compare(
        subject,
        Box::new(move || ours.add()),
        peer.map(|reference| Box::new(|| reference.add()) as _),
    )
}

/// A plugin with its configuration.
struct Plugin {
    program: PathBuf,
    search: PathBuf,
    config: String,
}

fn ours(scene: &Scene) -> Result<Plugin> {
    let directories = scene.shop.daemon.directories();
    let socket = directories.socket();
    let config = serde_json::json!({
        "cniVersion": "1.0.0",
        "name": "bench",
        "type": "hawser",
        "network": "bench",
        "socket": socket,
    });
    Ok(Plugin {
        program: program::under_test("hawser-cni")?,
        search: directories.root().join("cni"),
        config: config.to_string(),
    })
}

impl Plugin {
    /// Milliseconds of one ADD to a fresh namespace. DEL is not part of the figure.
    fn add(&self) -> Result<f64> {
        let sandbox = Namespaces::new(&["--net"])?;
        let begin = Instant::now();
        self.call("ADD", &sandbox)?;
        let taken = begin.elapsed();
        self.call("DEL", &sandbox)?;
        Ok(taken.as_secs_f64() * 1e3)
    }

    fn call(&self, verb: &str, sandbox: &Namespaces) -> Result<()> {
        let mut child = Command::new(&self.program)
            .env("CNI_COMMAND", verb)
            .env("CNI_CONTAINERID", format!("bench{}", sandbox.pid()))
            .env("CNI_NETNS", format!("/proc/{}/ns/net", sandbox.pid()))
            .env("CNI_IFNAME", "eth0")
            .env("CNI_PATH", &self.search)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .with_context(|| self.program.display().to_string())?;
        // Dropping the handle ends the plugin's input.
        let mut stdin = child.stdin.take().context("the plugin's input is piped")?;
        stdin
            .write_all(self.config.as_bytes())
            .context("configuration of the plugin")?;
        drop(stdin);
        let output = child.wait_with_output().context("plugin")?;
        let said = String::from_utf8_lossy(&output.stdout);
        ensure!(output.status.success(), "{verb}: {said}");
        Ok(())
    }
}

/// The reference plugins in a network namespace that stands for their host.
struct Reference {
    plugin: Plugin,
    namespace: NetNs,
    _host: Host,
    _leases: tempfile::TempDir,
}

impl Reference {
    fn new() -> Result<Self> {
        let program = peer("usr/lib/cni/bridge")?;
        let search = program.parent().unwrap_or(Path::new("/")).to_owned();
        let leases = tempfile::tempdir().context("directory of leases")?;
        let config = serde_json::json!({
            "cniVersion": "1.0.0",
            "name": "bench",
            "type": "bridge",
            "bridge": "cni0",
            "isGateway": true,
            "ipMasq": true,
            "ipam": {
                "type": "host-local",
                "dataDir": leases.path(),
                "ranges": [[{ "subnet": "10.90.0.0/16" }]],
                "routes": [{ "dst": "0.0.0.0/0" }],
            },
        });
        let host = Host::throwaway()?;
        let namespace = NetNs::open(&host.network_namespace()).context("the host's network")?;
        let plugin = Plugin {
            program,
            search,
            config: config.to_string(),
        };
        Ok(Self {
            plugin,
            namespace,
            _host: host,
            _leases: leases,
        })
    }

    fn add(&self) -> Result<f64> {
        self.namespace
            .run(|| self.plugin.add())
            .context("thread on the peer's host")?
    }
}
