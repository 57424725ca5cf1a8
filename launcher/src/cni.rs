//! Executes CNI plugins: the runtime's side of the CNI specification 1.1.
//!
//! A network is a configuration list. For a network of the daemon the list is generated
//! ([`ConfList::hawser`]); any other list works the same way. `add` runs the plugins in order, each
//! with the result of the one before it; a failed `add` is undone by `del`, and `del` of what is
//! gone succeeds, as the specification asks of plugins.

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use crate::container::{NetworkRequest, Record};

/// The specification's version of generated lists.
const CNI_VERSION: &str = "1.1.0";
/// The network that has no name resolution, as in Docker.
const DEFAULT_NETWORK: &str = "bridge";

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
    #[error("network {network}: {message}")]
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
                "portMappings": true, "ips": true, "mac": true, "dns": true, "aliases": true
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

/// What the runtime asks of the plugins that announce the capability of that name.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct RuntimeConfig {
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub port_mappings: Vec<PortMapping>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub ips: Vec<IpAddr>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mac: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dns: Option<DnsRequest>,
    /// Keyed by network name, as podman sends them.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub aliases: BTreeMap<String, Vec<String>>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PortMapping {
    /// 0 lets the daemon choose.
    pub host_port: u16,
    pub container_port: u16,
    pub protocol: String,
    #[serde(rename = "hostIP", default, skip_serializing_if = "String::is_empty")]
    pub host_ip: String,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct DnsRequest {
    pub servers: Vec<String>,
    pub searches: Vec<String>,
    pub options: Vec<String>,
}

impl RuntimeConfig {
    /// What `record` asks of the network of `request`. Ports are published on one network only,
    /// the one whose endpoint is made with `publish`.
    ///
    /// # Errors
    /// [`CniError::Port`].
    pub fn of(record: &Record, request: &NetworkRequest, publish: bool) -> Result<Self, CniError> {
        let host = &record.host_config;
        let port_mappings = if publish {
            port_mappings(record)?
        } else {
            Vec::new()
        };
        let dns = DnsRequest {
            servers: host.dns.clone(),
            searches: host.dns_search.clone(),
            options: host.dns_options.clone(),
        };
        let mut ips: Vec<IpAddr> = Vec::new();
        ips.extend(request.ipv4.map(IpAddr::V4));
        ips.extend(request.ipv6.map(IpAddr::V6));
        Ok(Self {
            port_mappings,
            ips,
            mac: request.mac.map(|mac| mac.to_string()),
            dns: (dns != DnsRequest::default()).then_some(dns),
            aliases: aliases(record, request),
        })
    }

    /// The part that `plugin` can use (CNI conventions, "Dynamic Plugin specific fields").
    fn for_plugin(&self, plugin: &Map<String, Value>) -> Map<String, Value> {
        let announced = |name: &str| {
            plugin.get("capabilities").and_then(|all| all.get(name)) == Some(&Value::Bool(true))
        };
        match serde_json::to_value(self) {
            Ok(Value::Object(all)) => all
                .into_iter()
                .filter(|(name, _)| announced(name))
                .collect(),
            _ => Map::new(),
        }
    }
}

fn port_mappings(record: &Record) -> Result<Vec<PortMapping>, CniError> {
    let mut mappings = Vec::new();
    for (key, hosts) in &record.host_config.port_bindings {
        for host in hosts {
            let invalid = || CniError::Port {
                key: key.clone(),
                host: host.host_port.clone(),
            };
            let (port, protocol) = key.split_once('/').unwrap_or((key, "tcp"));
            let host_port = match host.host_port.as_str() {
                "" => 0,
                text => text.parse().map_err(|_not_a_port| invalid())?,
            };
            mappings.push(PortMapping {
                host_port,
                container_port: port.parse().map_err(|_not_a_port| invalid())?,
                protocol: protocol.to_owned(),
                host_ip: host.host_ip.clone(),
            });
        }
    }
    if record.host_config.publish_all_ports {
        mappings.extend(exposed(record)?);
    }
    Ok(mappings)
}

/// `-P`: every exposed port that is not published already, on a port that the daemon chooses.
fn exposed(record: &Record) -> Result<Vec<PortMapping>, CniError> {
    let published = &record.host_config.port_bindings;
    let keys = record.config.exposed_ports.keys();
    keys.filter(|key| !published.contains_key(*key))
        .map(|key| {
            let (port, protocol) = key.split_once('/').unwrap_or((key, "tcp"));
            let container_port = port.parse().map_err(|_not_a_port| CniError::Port {
                key: key.clone(),
                host: String::new(),
            })?;
            Ok(PortMapping {
                host_port: 0,
                container_port,
                protocol: protocol.to_owned(),
                host_ip: String::new(),
            })
        })
        .collect()
}

fn aliases(record: &Record, request: &NetworkRequest) -> BTreeMap<String, Vec<String>> {
    if request.network == DEFAULT_NETWORK {
        return BTreeMap::new();
    }
    let mut names = request.aliases.clone();
    names.push(record.id.short().to_owned());
    BTreeMap::from([(request.network.clone(), names)])
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
    let mut child = Command::new(plugin)
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
        .stderr(Stdio::piped())
        .spawn()?;
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
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn sandbox() -> Sandbox<'static> {
        Sandbox {
            container_id: "c1",
            container_name: "web",
            netns: Path::new("/proc/7/ns/net"),
            ifname: "eth0",
        }
    }

    /// A plugin directory with one script a plugin.
    fn plugins(scripts: &[(&str, &str)]) -> (tempfile::TempDir, Cni) {
        let dir = tempfile::tempdir().unwrap();
        for (name, script) in scripts {
            let path = dir.path().join(name);
            fs::write(
                &path,
                format!("#!/bin/sh\nhere={}\n{script}\n", dir.path().display()),
            )
            .unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        }
        let cni = Cni::new(dir.path());
        (dir, cni)
    }

    fn list(types: &[&str]) -> ConfList {
        let plugins = types
            .iter()
            .map(|name| {
                let plugin = json!({"type": name, "capabilities": {"mac": true, "ips": false}});
                plugin.as_object().unwrap().clone()
            })
            .collect();
        ConfList {
            cni_version: "1.0.0".to_owned(),
            name: "net1".to_owned(),
            plugins,
        }
    }

    const RECORD: &str = "echo \"$CNI_COMMAND $CNI_CONTAINERID $CNI_NETNS $CNI_IFNAME $CNI_ARGS\" \
                          >> $here/log; cat >> $here/log; echo >> $here/log";

    #[test]
    fn plugins_are_chained_and_deleted_in_reverse() {
        let one = format!("{RECORD}\necho '{{\"ips\":[1]}}'");
        let two = format!("{RECORD}\necho '{{\"ips\":[2]}}'");
        let (dir, cni) = plugins(&[("one", &one), ("two", &two)]);
        let runtime = RuntimeConfig {
            mac: Some("02:00:00:00:00:01".to_owned()),
            ips: vec![IpAddr::from([10, 0, 0, 1])],
            ..RuntimeConfig::default()
        };
        let list = list(&["one", "two"]);
        let result = cni.add(&list, sandbox(), &runtime).unwrap();
        assert_eq!(result, json!({"ips": [2]}));
        cni.del(&list, sandbox(), &RuntimeConfig::default(), Some(&result))
            .unwrap();
        let environment = "c1 /proc/7/ns/net eth0 IgnoreUnknown=1;K8S_POD_NAME=web";
        let mac = r#""runtimeConfig":{"mac":"02:00:00:00:00:01"}"#;
        let log = fs::read_to_string(dir.path().join("log")).unwrap();
        let expected = format!(
            r#"ADD {environment}
{{"cniVersion":"1.0.0","name":"net1",{mac},"type":"one"}}
ADD {environment}
{{"cniVersion":"1.0.0","name":"net1","prevResult":{{"ips":[1]}},{mac},"type":"two"}}
DEL {environment}
{{"cniVersion":"1.0.0","name":"net1","prevResult":{{"ips":[2]}},"type":"two"}}
DEL {environment}
{{"cniVersion":"1.0.0","name":"net1","prevResult":{{"ips":[2]}},"type":"one"}}
"#
        );
        assert_eq!(log, expected);
    }

    #[test]
    fn a_failed_add_is_undone_and_keeps_the_plugins_words() {
        let bad = "[ $CNI_COMMAND = DEL ] && { touch $here/deleted; exit 0; }\n\
                   echo '{\"code\":7,\"msg\":\"no network x\",\"details\":\"create it\"}'; exit 1";
        let (dir, cni) = plugins(&[("bad", bad)]);
        let error = cni
            .add(&list(&["bad"]), sandbox(), &RuntimeConfig::default())
            .unwrap_err();
        assert_eq!(error.to_string(), "network net1: no network x: create it");
        assert!(matches!(error, CniError::Refused { code: 7, .. }));
        assert!(dir.path().join("deleted").exists());
    }

    #[test]
    fn a_missing_or_babbling_plugin_is_named() {
        let (_dir, cni) = plugins(&[("babble", "echo hi; echo oops >&2; exit 3")]);
        let message = |name: &str| {
            let list = list(&[name]);
            cni.add(&list, sandbox(), &RuntimeConfig::default())
                .unwrap_err()
                .to_string()
        };
        assert!(
            message("none").contains("\"none\" is not in"),
            "{}",
            message("none")
        );
        assert!(message("babble").ends_with("oops"), "{}", message("babble"));
        assert!(message("../babble").contains("no valid \"type\""));
    }
}
