//! Executes CNI plugins: the runtime's side of the CNI specification 1.1.
//!
//! A network is a configuration list. For a network of the daemon the list is generated
//! ([`ConfList::hawser`]); any other list works the same way. `add` runs the plugins in order, each
//! with the result of the one before it; a failed `add` is undone by `del`, and `del` of what is
//! gone succeeds, as the specification asks of plugins.

mod runtime;

use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

pub use runtime::{DnsRequest, PortMapping, RuntimeConfig};

/// The specification's version of generated lists.
const CNI_VERSION: &str = "1.1.0";

#[derive(Debug, thiserror::Error)]
pub enum CniError {
    #[error("network {network}: invalid configuration list: {reason}")]
    List { network: String, reason: String },
    #[error("network {network}: CNI plugin {plugin:?} is not in {}", dir.display())]
    NoPlugin {
        network: String,
        plugin: String,
        dir: PathBuf,
    },
    #[error("network {network}: cannot run {}: {source}", plugin.display())]
    Run {
        network: String,
        plugin: PathBuf,
        source: io::Error,
    },
    /// The plugin's own words; the code is the specification's.
    #[error("{}", about(network, message))]
    Refused {
        network: String,
        message: String,
        code: u32,
    },
    #[error("network {network}: {} {command} sent no readable reply: {reason}", plugin.display())]
    Reply {
        network: String,
        plugin: PathBuf,
        command: &'static str,
        reason: String,
    },
    #[error("invalid published port {key:?} -> {host:?}: expected PORT/PROTOCOL and a port")]
    Port { key: String, host: String },
}

/// What is said of a network, with its name once.
fn about(network: &str, message: &str) -> String {
    match message.strip_prefix("network ") {
        Some(own) if own.starts_with(network) => message.to_owned(),
        _ => format!("network {network}: {message}"),
    }
}

/// A network configuration list.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConfList {
    #[serde(rename = "cniVersion")]
    pub cni_version: String,
    pub name: String,
    pub plugins: Vec<Map<String, Value>>,
}

impl ConfList {
    /// The list of one of the daemon's networks.
    pub fn hawser(network: &str, socket: &Path) -> Self {
        let plugin = json!({
            "type": "hawser",
            "network": network,
            "socket": socket,
            "capabilities": {
                "portMappings": true, "ips": true, "mac": true, "dns": true, "aliases": true,
                "links": true, "gwPriority": true, "services": true
            },
        });
        let Value::Object(plugin) = plugin else {
            unreachable!("an object literal is an object")
        };
        Self {
            cni_version: CNI_VERSION.to_owned(),
            name: network.to_owned(),
            plugins: vec![plugin],
        }
    }

    fn error(&self, reason: &str) -> CniError {
        CniError::List {
            network: self.name.clone(),
            reason: reason.to_owned(),
        }
    }
}

/// The sandbox that is joined or left.
#[derive(Debug, Clone, Copy)]
pub struct Sandbox<'a> {
    pub container_id: &'a str,
    /// Name that others resolve the container by.
    pub container_name: &'a str,
    pub netns: &'a Path,
    pub ifname: &'a str,
}

/// Runs plugins from one directory.
#[derive(Debug, Clone)]
pub struct Cni {
    bin_dir: PathBuf,
}

impl Cni {
    pub fn new(bin_dir: impl Into<PathBuf>) -> Self {
        Self {
            bin_dir: bin_dir.into(),
        }
    }

    /// Joins the sandbox to the network and returns the last plugin's result.
    ///
    /// # Errors
    /// [`CniError`]; what the plugins had done is undone.
    pub fn add(
        &self,
        list: &ConfList,
        sandbox: Sandbox<'_>,
        runtime: &RuntimeConfig,
    ) -> Result<Value, CniError> {
        let mut result = None;
        for plugin in &list.plugins {
            let config = plugin_config(list, plugin, runtime, result.as_ref());
            match self
                .execute("ADD", list, plugin, sandbox, &config)
                .and_then(|(path, reply)| parse_result(list, "ADD", path, &reply))
            {
                Ok(reply) => result = Some(reply),
                Err(error) => {
                    // The specification asks for DEL after a failed ADD. Its own failure would
                    // hide the cause, and the daemon collects dead sandboxes anyway.
                    drop(self.del(list, sandbox, runtime, result.as_ref()));
                    return Err(error);
                }
            }
        }
        result.ok_or_else(|| list.error("it has no plugins"))
    }

    /// Takes the sandbox off the network, plugins in reverse order. All are run even if one fails.
    ///
    /// # Errors
    /// The first [`CniError`].
    pub fn del(
        &self,
        list: &ConfList,
        sandbox: Sandbox<'_>,
        runtime: &RuntimeConfig,
        result: Option<&Value>,
    ) -> Result<(), CniError> {
        let mut outcome = Ok(());
        for plugin in list.plugins.iter().rev() {
            let config = plugin_config(list, plugin, runtime, result);
            let done = self
                .execute("DEL", list, plugin, sandbox, &config)
                .map(drop);
            outcome = outcome.and(done);
        }
        outcome
    }

    fn execute(
        &self,
        command: &'static str,
        list: &ConfList,
        plugin: &Map<String, Value>,
        sandbox: Sandbox<'_>,
        config: &Value,
    ) -> Result<(PathBuf, Output), CniError> {
        let path = self.find(list, plugin)?;
        let output = run(&path, command, sandbox, &self.bin_dir, config).map_err(|source| {
            CniError::Run {
                network: list.name.clone(),
                plugin: path.clone(),
                source,
            }
        })?;
        if output.status.success() {
            return Ok((path, output));
        }
        Err(refusal(list, command, path, &output))
    }

    fn find(&self, list: &ConfList, plugin: &Map<String, Value>) -> Result<PathBuf, CniError> {
        let name = plugin
            .get("type")
            .and_then(Value::as_str)
            .unwrap_or_default();
        if name.is_empty() || name.contains('/') || name == ".." {
            return Err(list.error("a plugin has no valid \"type\""));
        }
        let path = self.bin_dir.join(name);
        if !path.is_file() {
            return Err(CniError::NoPlugin {
                network: list.name.clone(),
                plugin: name.to_owned(),
                dir: self.bin_dir.clone(),
            });
        }
        Ok(path)
    }
}

/// The configuration one plugin reads (CNI specification, "Deriving execution configuration").
fn plugin_config(
    list: &ConfList,
    plugin: &Map<String, Value>,
    runtime: &RuntimeConfig,
    previous: Option<&Value>,
) -> Value {
    let mut config = plugin.clone();
    let runtime = runtime.for_plugin(plugin);
    config.remove("capabilities");
    config.insert("name".to_owned(), Value::from(list.name.clone()));
    config.insert(
        "cniVersion".to_owned(),
        Value::from(list.cni_version.clone()),
    );
    if !runtime.is_empty() {
        config.insert("runtimeConfig".to_owned(), Value::Object(runtime));
    }
    if let Some(previous) = previous {
        config.insert("prevResult".to_owned(), previous.clone());
    }
    Value::Object(config)
}

fn run(
    plugin: &Path,
    command: &str,
    sandbox: Sandbox<'_>,
    bin_dir: &Path,
    config: &Value,
) -> io::Result<Output> {
    let mut program = Command::new(plugin);
    program
        .env("CNI_COMMAND", command)
        .env("CNI_CONTAINERID", sandbox.container_id)
        .env("CNI_NETNS", sandbox.netns)
        .env("CNI_IFNAME", sandbox.ifname)
        .env(
            "CNI_ARGS",
            format!("IgnoreUnknown=1;K8S_POD_NAME={}", sandbox.container_name),
        )
        .env("CNI_PATH", bin_dir)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let mut child = sys::signal::spawn_unblocked(&mut program)?;
    if let Some(mut stdin) = child.stdin.take() {
        match stdin.write_all(config.to_string().as_bytes()) {
            // A plugin may refuse before it has read everything; its reply says why.
            Err(error) if error.kind() != io::ErrorKind::BrokenPipe => return Err(error),
            _ => {}
        }
    }
    child.wait_with_output()
}

fn parse_result(
    list: &ConfList,
    command: &'static str,
    plugin: PathBuf,
    output: &Output,
) -> Result<Value, CniError> {
    serde_json::from_slice(&output.stdout).map_err(|error| CniError::Reply {
        network: list.name.clone(),
        plugin,
        command,
        reason: error.to_string(),
    })
}

#[derive(Deserialize)]
struct Refusal {
    code: u32,
    msg: String,
    #[serde(default)]
    details: String,
}

fn refusal(list: &ConfList, command: &'static str, plugin: PathBuf, output: &Output) -> CniError {
    let network = list.name.clone();
    match serde_json::from_slice::<Refusal>(&output.stdout) {
        Ok(refusal) => {
            let mut message = refusal.msg;
            if !refusal.details.is_empty() {
                message = format!("{message}: {}", refusal.details);
            }
            CniError::Refused {
                network,
                message,
                code: refusal.code,
            }
        }
        Err(_not_an_error_object) => {
            let words = String::from_utf8_lossy(&output.stderr);
            let last = words.trim().lines().last().unwrap_or_default().to_owned();
            let reason = format!("{}; {last}", output.status);
            CniError::Reply {
                network,
                plugin,
                command,
                reason,
            }
        }
    }
}

#[cfg(test)]
mod tests;
