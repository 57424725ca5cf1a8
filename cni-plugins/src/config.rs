//! The network configuration of a call.
//!
//! `DEL` reads only the [`Target`], so that it succeeds with a configuration that an older or newer
//! plugin accepted. `ADD` reads all of [`Config`] and refuses what it would silently not honour
//! ([`Config::check_keys`]): a misspelt key must not cost a container its published ports.

use std::collections::BTreeMap;
use std::net::IpAddr;

use api::net::{Attachment, Link};
use api::service::ServiceJoin;
use ipnet::IpNet;
use serde::{Deserialize, Deserializer};
use serde_json::{Map, Value};

use crate::error::PluginError;

/// Which network of which daemon: all that `DEL` and `GC` need.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Target {
    #[serde(default)]
    pub(crate) name: String,
    /// The daemon's network; `name` when absent.
    pub(crate) network: Option<String>,
    /// Path of the daemon's socket.
    pub(crate) socket: Option<String>,
    /// What `GC` tells this runtime's attachments by.
    pub(crate) owner: Option<String>,
    /// Whom address management is delegated to.
    pub(crate) ipam: Option<Value>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Config {
    #[serde(flatten)]
    pub(crate) target: Target,

    /// These make the network on first use.
    pub(crate) driver: Option<String>,
    #[serde(default, deserialize_with = "one_or_many")]
    pub(crate) subnet: Vec<IpNet>,
    #[serde(default, deserialize_with = "one_or_many")]
    pub(crate) ip_range: Vec<IpNet>,
    #[serde(default, deserialize_with = "one_or_many")]
    pub(crate) gateway: Vec<IpAddr>,
    #[serde(default)]
    pub(crate) ipv6: bool,
    #[serde(default)]
    pub(crate) internal: bool,
    pub(crate) mtu: Option<u32>,
    pub(crate) ip_masq: Option<bool>,
    #[serde(default)]
    pub(crate) options: BTreeMap<String, String>,

    /// For every attachment, unless the runtime asks for another one.
    #[serde(default)]
    pub(crate) bandwidth: Limits,
    #[serde(default)]
    pub(crate) dns: StaticDns,
    #[serde(default)]
    pub(crate) args: StructuredArgs,
    #[serde(default)]
    pub(crate) runtime_config: RuntimeConfig,
    pub(crate) prev_result: Option<Map<String, Value>>,

    #[serde(flatten)]
    unknown: Map<String, Value>,
}

/// Resolver settings of the network; what the runtime asks for goes first.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub(crate) struct StaticDns {
    pub(crate) nameservers: Vec<IpAddr>,
    pub(crate) domain: Option<String>,
    pub(crate) search: Vec<String>,
    pub(crate) options: Vec<String>,
}

/// `args` of the conventions: anything else in it is optional by definition.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct StructuredArgs {
    pub(crate) cni: CniArgs,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct CniArgs {
    pub(crate) ips: Vec<String>,
    pub(crate) mac: Option<String>,
}

/// What the runtime asks for through the capabilities that the configuration announces.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct RuntimeConfig {
    pub(crate) port_mappings: Vec<PortMapping>,
    pub(crate) ips: Vec<String>,
    pub(crate) mac: Option<String>,
    pub(crate) dns: RuntimeDns,
    pub(crate) aliases: Aliases,
    /// Names of the container's own for others of the network.
    pub(crate) links: Vec<Link>,
    /// Services that the container is a member of.
    pub(crate) services: Vec<ServiceJoin>,
    /// Which of a container's networks carries its default route.
    pub(crate) gw_priority: Option<i64>,
    pub(crate) bandwidth: Option<Limits>,
    /// Read for its shape only: the hooks know a sandbox by its namespace.
    #[serde(rename = "cgroupPath")]
    _cgroup_path: Option<String>,
    #[serde(flatten)]
    unknown: Map<String, Value>,
}

/// Bits, and bits per second.
#[derive(Debug, Clone, Copy, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct Limits {
    pub(crate) ingress_rate: u64,
    pub(crate) ingress_burst: u64,
    pub(crate) egress_rate: u64,
    pub(crate) egress_burst: u64,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct PortMapping {
    /// 0 lets the daemon choose.
    pub(crate) host_port: u16,
    /// Our own: let the daemon choose from `host_port` to this one.
    pub(crate) host_port_last: Option<u16>,
    pub(crate) container_port: u16,
    #[serde(default = "tcp")]
    pub(crate) protocol: String,
    #[serde(rename = "hostIP", default)]
    pub(crate) host_ip: String,
}

fn tcp() -> String {
    "tcp".to_owned()
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct RuntimeDns {
    pub(crate) servers: Vec<IpAddr>,
    pub(crate) searches: Vec<String>,
    pub(crate) options: Vec<String>,
}

#[derive(Debug, Deserialize)]
#[serde(untagged)]
pub(crate) enum Aliases {
    /// As the conventions have it.
    List(Vec<String>),
    /// As podman sends them: of every network of the container, by configuration name.
    ByNetwork(BTreeMap<String, Vec<String>>),
}

impl Default for Aliases {
    fn default() -> Self {
        Self::List(Vec::new())
    }
}

/// What `GC` is told.
#[derive(Debug, Deserialize)]
pub(crate) struct Survivors {
    #[serde(rename = "cni.dev/valid-attachments")]
    pub(crate) valid_attachments: Vec<ValidAttachment>,
}

#[derive(Debug, Deserialize)]
pub(crate) struct ValidAttachment {
    #[serde(rename = "containerID")]
    pub(crate) container_id: String,
    pub(crate) ifname: String,
}

impl Survivors {
    pub(crate) fn include(&self, entry: &Attachment) -> bool {
        self.valid_attachments.iter().any(|valid| {
            valid.container_id == entry.container_id && valid.ifname == entry.ifname.as_str()
        })
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct OnlyVersion {
    #[serde(default)]
    cni_version: String,
}

/// The version that a call's input asks for; empty when it does not say.
///
/// # Errors
/// [`PluginError::DecodeConfig`].
pub(crate) fn asked_version(text: &[u8]) -> Result<String, PluginError> {
    decode::<OnlyVersion>(text).map(|config| config.cni_version)
}

/// # Errors
/// [`PluginError::DecodeConfig`].
pub(crate) fn decode<'de, T: Deserialize<'de>>(text: &'de [u8]) -> Result<T, PluginError> {
    serde_json::from_slice(text).map_err(PluginError::DecodeConfig)
}

impl Target {
    /// # Errors
    /// A network that is not named, or a socket that cannot be found by its path.
    pub(crate) fn check(&self) -> Result<(), PluginError> {
        if self.network().is_empty() {
            return Err(PluginError::field("network", "missing, and so is \"name\""));
        }
        match &self.socket {
            Some(socket) if !socket.starts_with('/') => {
                let reason = format!("{socket:?} is not an absolute path");
                Err(PluginError::field("socket", reason))
            }
            _ => Ok(()),
        }
    }

    /// CNI specification, section 1, `name`.
    ///
    /// # Errors
    /// A name that is not one.
    pub(crate) fn check_name(&self) -> Result<(), PluginError> {
        let mut bytes = self.name.bytes();
        let well_formed = bytes.next().is_none_or(|b| b.is_ascii_alphanumeric())
            && bytes.all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.' | b'-'));
        if well_formed {
            return Ok(());
        }
        let shown: String = self.name.chars().take(64).collect();
        let reason = format!("{shown:?}: expected [a-zA-Z0-9][a-zA-Z0-9_.-]*");
        Err(PluginError::field("name", reason))
    }

    pub(crate) fn network(&self) -> &str {
        self.network.as_deref().unwrap_or(&self.name)
    }
}

impl Config {
    /// Whether somebody else assigns the addresses.
    pub(crate) fn delegates(&self) -> bool {
        match &self.target.ipam {
            None | Some(Value::Null) => false,
            Some(Value::Object(ipam)) => !ipam.is_empty(),
            Some(_) => true,
        }
    }

    /// Refuses keys that ask for something this plugin does not do.
    ///
    /// # Errors
    /// [`PluginError::UnsupportedField`] with the first one.
    pub(crate) fn check_keys(&self) -> Result<(), PluginError> {
        let own = self.unknown.iter().find(|(key, _)| !is_foreign(key));
        if let Some((key, value)) = own {
            return Err(unsupported(key, value, "remove it, or correct its name"));
        }
        if self.delegates() {
            // Other capabilities, such as ipRanges, may be the delegate's.
            return Ok(());
        }
        match self.runtime_config.unknown.iter().next() {
            Some((key, value)) => Err(unsupported(
                &format!("runtimeConfig.{key}"),
                value,
                "remove the capability from the configuration",
            )),
            None => Ok(()),
        }
    }
}

/// Keys that others read: the runtime's and annotations (`cni.dev/…`).
fn is_foreign(key: &str) -> bool {
    matches!(key, "type" | "cniVersion" | "capabilities") || key.contains('/')
}

pub(crate) fn unsupported(key: &str, value: &Value, way_out: &'static str) -> PluginError {
    PluginError::UnsupportedField {
        key: key.to_owned(),
        value: value.to_string().chars().take(200).collect(),
        way_out,
    }
}

/// One text, or a list of them.
pub(crate) fn one_or_many<'de, D, T>(deserializer: D) -> Result<Vec<T>, D::Error>
where
    D: Deserializer<'de>,
    T: std::str::FromStr,
    T::Err: std::fmt::Display,
{
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Texts {
        One(String),
        Many(Vec<String>),
    }
    let texts = match Texts::deserialize(deserializer)? {
        Texts::One(text) => vec![text],
        Texts::Many(texts) => texts,
    };
    texts
        .iter()
        .map(|text| {
            text.parse()
                .map_err(|error| serde::de::Error::custom(format!("{text:?}: {error}")))
        })
        .collect()
}
