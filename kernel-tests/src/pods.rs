//! Sandboxes that somebody else's runtime connects: a throwaway host with a daemon, network
//! namespaces, and the reference library, which runs plugins as container runtimes do.
//!
//! Its functions panic with the whole chain of errors: they are for tests only.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use anyhow::{Context, Result};
use serde_json::{Value, json};

use crate::program::{self, Ran};
use crate::{Daemon, Host, Outside};

/// Where Debian's `containernetworking-plugins` are.
pub const REFERENCE_PLUGINS: &str = "/usr/lib/cni";
/// Where Debian's `golang-github-appc-cni-dev` is.
pub const GO_PATH: &str = "/usr/share/gocode";

/// Plugins look at interfaces in `/sys`, which shows those of the namespace it was mounted in.
const OWN_CLASS_NET: &str = "mkdir /run/sys && mount -t sysfs sysfs /run/sys && \
    for dir in class/net devices/virtual/net; do mount --bind /run/sys/$dir /sys/$dir; done";

/// Dropped in this order: first what the daemon made, then the hosts.
#[derive(Debug)]
pub struct Pods {
    pub daemon: Daemon,
    pub outside: Outside,
    pub host: Arc<Host>,
    scratch: tempfile::TempDir,
    runtime: PathBuf,
}

#[track_caller]
fn must<T>(result: Result<T>) -> T {
    result.unwrap_or_else(|error| panic!("{error:#}"))
}

impl Pods {
    #[track_caller]
    pub fn open() -> Self {
        let host = Arc::new(must(Host::throwaway()));
        must(host.output("sh", &["-c", OWN_CLASS_NET]));
        let daemon = must(Daemon::start(Arc::clone(&host)));
        let outside = must(Outside::new(Arc::clone(&host)));
        let scratch = must(tempfile::tempdir().context("scratch directory"));
        let runtime = must(build_runtime(scratch.path()));
        Self {
            daemon,
            outside,
            host,
            scratch,
            runtime,
        }
    }

    /// A directory of this test's own.
    pub fn scratch(&self) -> &Path {
        self.scratch.path()
    }

    /// Where our plugins are, under the names of their types.
    pub fn plugins(&self) -> PathBuf {
        self.daemon.directories().root().join("cni")
    }

    /// A sandbox; its path.
    #[track_caller]
    pub fn sandbox(&self, name: &str) -> String {
        must(self.host.output("ip", &["netns", "add", name]));
        format!("/run/netns/{name}")
    }

    /// What `program` says inside the sandbox `name`.
    #[track_caller]
    pub fn inside(&self, name: &str, command: &[&str]) -> String {
        must(self.try_inside(name, command))
    }

    /// # Errors
    /// When the program fails.
    pub fn try_inside(&self, name: &str, command: &[&str]) -> Result<String> {
        self.host
            .output("ip", &[&["netns", "exec", name], command].concat())
    }

    /// A configuration list in a file of its own.
    #[track_caller]
    pub fn list(&self, name: &str, version: &str, plugins: &[Value]) -> List<'_> {
        let path = self.scratch().join(format!("{name}.conflist"));
        let list = json!({"cniVersion": version, "name": name, "plugins": plugins});
        must(fs::write(&path, list.to_string()).context("configuration list"));
        List { pods: self, path }
    }

    /// The configuration of our plugin with all capabilities, and `fields` besides.
    pub fn hawser(&self, fields: &Value) -> Value {
        let mut plugin = json!({
            "type": "hawser",
            "socket": self.daemon.directories().socket(),
            "capabilities": {
                "portMappings": true, "bandwidth": true, "ips": true, "mac": true, "dns": true,
                "aliases": true,
            },
        });
        for (key, value) in fields.as_object().into_iter().flatten() {
            plugin[key] = value.clone();
        }
        plugin
    }

    /// The reference address management, with state of this test's own.
    pub fn host_local(&self, subnet: &str) -> Value {
        json!({
            "type": "host-local",
            "dataDir": self.scratch().join("host-local"),
            "ranges": [[{"subnet": subnet}]],
            "routes": [{"dst": "0.0.0.0/0"}],
        })
    }

    /// Runs one of our plugins as a runtime of its own; returns its reply.
    #[track_caller]
    pub fn plugin(&self, plugin: &str, command: &str, sandbox: &str, config: &Value) -> String {
        let input = self.scratch().join(format!("{command}-{sandbox}.json"));
        must(fs::write(&input, config.to_string()).context("configuration"));
        let mut call = self.host.command(self.plugins().join(plugin));
        call.env("CNI_COMMAND", command)
            .env("CNI_CONTAINERID", sandbox)
            .env("CNI_NETNS", format!("/run/netns/{sandbox}"))
            .env("CNI_IFNAME", "eth0")
            .env("CNI_PATH", REFERENCE_PLUGINS);
        let input = must(fs::File::open(&input).context("configuration"));
        let output = must(call.stdin(input).output().context("plugin"));
        let reply = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(output.status.success(), "{command}: {reply}");
        reply
    }

    /// The addresses on the host that are leased or used on our networks.
    #[track_caller]
    pub fn attachments(&self) -> Vec<api::net::Attachment> {
        must(
            self.daemon
                .client()
                .get(api::path::ENDPOINTS)
                .context("endpoints"),
        )
    }
}

/// A configuration list, and the library that carries it out.
#[derive(Debug)]
pub struct List<'a> {
    pods: &'a Pods,
    path: PathBuf,
}

impl List<'_> {
    /// # Errors
    /// What the library says.
    pub fn run(&self, command: &str, sandbox: &str, capabilities: &Value) -> Result<Ran> {
        let path = format!("{}:{REFERENCE_PLUGINS}", self.pods.plugins().display());
        let netns = format!("/run/netns/{sandbox}");
        let cache = self.pods.scratch().join("cache");
        let list = self.path.display().to_string();
        program::run(
            self.pods
                .host
                .command(&self.pods.runtime)
                .env("CNI_PATH", path)
                .args([command, &list, &cache.display().to_string()])
                .args([sandbox, &netns, "eth0"])
                .arg(capabilities.to_string())
                .arg(format!(
                    "IgnoreUnknown=1;K8S_POD_NAME={sandbox};K8S_POD_NAMESPACE=prod"
                )),
        )
    }

    /// Connects the sandbox; returns the result.
    #[track_caller]
    pub fn add(&self, sandbox: &str, capabilities: &Value) -> Value {
        let reply = must(
            self.run("add", sandbox, capabilities)
                .and_then(Ran::success),
        );
        must(serde_json::from_str(&reply).context(reply))
    }

    #[track_caller]
    pub fn check(&self, sandbox: &str, capabilities: &Value) {
        must(
            self.run("check", sandbox, capabilities)
                .and_then(Ran::success),
        );
    }

    #[track_caller]
    pub fn del(&self, sandbox: &str, capabilities: &Value) {
        must(
            self.run("del", sandbox, capabilities)
                .and_then(Ran::success),
        );
    }
}

/// The compiler of Go, for what Debian packages as sources.
pub fn go() -> Command {
    let mut go = Command::new("go");
    go.env("GO111MODULE", "off")
        .env("GOPATH", GO_PATH)
        .env("GOCACHE", std::env::temp_dir().join("hawser-go-cache"))
        .env("CGO_ENABLED", "0");
    go
}

/// Builds `libcni/main.go` against Debian's package.
fn build_runtime(dir: &Path) -> Result<PathBuf> {
    let program = dir.join("cnirun");
    program::output(
        go().current_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/libcni"))
            .args(["build", "-o"])
            .arg(&program)
            .arg("."),
    )
    .context(
        "the tests of CNI need golang-go and golang-github-appc-cni-dev: `cargo xtask setup test`",
    )?;
    Ok(program)
}
