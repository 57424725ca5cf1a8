//! What the runtime asks of plugins through the capabilities that they announce.

use std::collections::BTreeMap;
use std::net::IpAddr;

use api::net::Link;
use api::service::ServiceJoin;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::CniError;
use crate::container::{NetworkRequest, Record};
use crate::link;
use crate::store::Store;

/// The network that has no name resolution, as in Docker.
const DEFAULT_NETWORK: &str = "bridge";

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
    /// Names of other containers for this one alone; the plugin `hawser` knows them.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub links: Vec<Link>,
    /// Which network carries the default route; the plugin `hawser` knows it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub gw_priority: Option<i64>,
    /// Services to be a member of; the plugin `hawser` knows them.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub services: Vec<ServiceJoin>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PortMapping {
    /// 0 lets the daemon choose.
    pub host_port: u16,
    /// The plugin `hawser` chooses from `host_port` to this one; no convention knows it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host_port_last: Option<u16>,
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
    /// Links are known by the ids of those containers of `store` that are there.
    ///
    /// # Errors
    /// [`CniError::Port`].
    pub fn of(
        store: &Store,
        record: &Record,
        request: &NetworkRequest,
        publish: bool,
    ) -> Result<Self, CniError> {
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
            links: links(store, request),
            gw_priority: Some(request.gw_priority),
            services: request.services.clone(),
        })
    }

    /// The part that `plugin` can use (CNI conventions, "Dynamic Plugin specific fields").
    pub(super) fn for_plugin(&self, plugin: &Map<String, Value>) -> Map<String, Value> {
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
            let (host_port, host_port_last) = host_ports(&host.host_port).ok_or_else(invalid)?;
            mappings.push(PortMapping {
                host_port,
                host_port_last,
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

/// Links that a request for a network with names asks for. Who is not there yet is known by name.
fn links(store: &Store, request: &NetworkRequest) -> Vec<Link> {
    let links = request.links.iter().filter_map(|text| {
        let (key, alias) = link::parse(text).ok()?;
        let container = match store.find(key) {
            Ok(container) => container.id().to_string(),
            Err(_absent) => key.trim_start_matches('/').to_owned(),
        };
        Some(Link {
            container,
            alias: alias.to_owned(),
        })
    });
    links.collect()
}

/// Labels of 1 to 63 bytes between dots (RFC 1035, section 2.3.4); which characters they may have
/// was checked when the host name was set.
fn is_host_name(text: &str) -> bool {
    text.split('.').all(|label| (1..=63).contains(&label.len()))
}

/// A port, the range one is to be chosen from, or nothing: any port.
fn host_ports(text: &str) -> Option<(u16, Option<u16>)> {
    match text.split_once('-') {
        None if text.is_empty() => Some((0, None)),
        None => Some((text.parse().ok()?, None)),
        Some((first, last)) => Some((first.parse().ok()?, Some(last.parse().ok()?))),
    }
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
                host_port_last: None,
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
    // A name that was chosen is one to be found by; the default is the short id.
    let hostname = &record.config.hostname;
    if is_host_name(hostname) && !names.contains(hostname) {
        names.push(hostname.clone());
    }
    BTreeMap::from([(request.network.clone(), names)])
}
