//! `NetworkSettings` of a container, as the Docker Engine API has it.

use std::collections::BTreeMap;

use api::id::Id;
use api::net::Attachment;
use serde::Serialize;

use crate::cli::container::ports;
use crate::cli::container::view::View;
use crate::cli::context::Context;
use crate::cli::network;
use crate::cli::run::network::DEFAULT;
use crate::container::{HostPort, NetworkRequest};

#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct NetworkSettings {
    bridge: String,
    #[serde(rename = "SandboxID")]
    sandbox_id: String,
    sandbox_key: String,
    ports: BTreeMap<String, Option<Vec<HostPort>>>,
    hairpin_mode: bool,
    #[serde(rename = "LinkLocalIPv6Address")]
    link_local_ipv6_address: String,
    #[serde(rename = "LinkLocalIPv6PrefixLen")]
    link_local_ipv6_prefix_len: u8,
    #[serde(rename = "SecondaryIPAddresses")]
    secondary_ip_addresses: Option<Vec<String>>,
    #[serde(rename = "SecondaryIPv6Addresses")]
    secondary_ipv6_addresses: Option<Vec<String>>,
    /// The default network's; empty for a container that is on others only.
    #[serde(flatten)]
    default: Addresses,
    networks: BTreeMap<String, Endpoint>,
}

#[derive(Debug, Clone, Default, Serialize)]
#[serde(rename_all = "PascalCase")]
struct Addresses {
    #[serde(rename = "EndpointID")]
    endpoint_id: String,
    gateway: String,
    #[serde(rename = "IPAddress")]
    ip_address: String,
    #[serde(rename = "IPPrefixLen")]
    ip_prefix_len: u8,
    #[serde(rename = "IPv6Gateway")]
    ipv6_gateway: String,
    #[serde(rename = "GlobalIPv6Address")]
    global_ipv6_address: String,
    #[serde(rename = "GlobalIPv6PrefixLen")]
    global_ipv6_prefix_len: u8,
    mac_address: String,
}

#[derive(Debug, Clone, Default, Serialize)]
#[serde(rename_all = "PascalCase")]
struct Endpoint {
    #[serde(rename = "IPAMConfig")]
    ipam_config: Option<AskedAddresses>,
    links: Option<Vec<String>>,
    aliases: Option<Vec<String>>,
    driver_opts: Option<BTreeMap<String, String>>,
    #[serde(rename = "NetworkID")]
    network_id: String,
    #[serde(flatten)]
    addresses: Addresses,
    gw_priority: i64,
    #[serde(rename = "DNSNames")]
    dns_names: Option<Vec<String>>,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize)]
struct AskedAddresses {
    #[serde(rename = "IPv4Address", skip_serializing_if = "String::is_empty")]
    ipv4: String,
    #[serde(rename = "IPv6Address", skip_serializing_if = "String::is_empty")]
    ipv6: String,
}

/// Ids of the networks that a container without endpoints belongs to, by name. Those that are not
/// there any more have none.
pub(super) fn ids(context: &Context, view: &View) -> BTreeMap<String, Id> {
    if !view.attachments.is_empty() {
        return BTreeMap::new();
    }
    let found = view.networks().into_iter().filter_map(|name| {
        let network = network::find(context, &name).ok()?;
        Some((name, network.id))
    });
    found.collect()
}

impl NetworkSettings {
    pub(super) fn of(view: &View, ids: &BTreeMap<String, Id>) -> Self {
        let mut endpoints = view.attachments.iter();
        let default = endpoints.find(|endpoint| endpoint.network.as_str() == DEFAULT);
        let own = view.attachments.first();
        Self {
            bridge: String::new(),
            sandbox_id: own.map_or_else(String::new, |_| view.record.id.to_string()),
            sandbox_key: own.map_or_else(String::new, |endpoint| endpoint.netns.clone()),
            ports: port_map(view),
            hairpin_mode: false,
            link_local_ipv6_address: String::new(),
            link_local_ipv6_prefix_len: 0,
            secondary_ip_addresses: None,
            secondary_ipv6_addresses: None,
            default: default.map(addresses).unwrap_or_default(),
            networks: networks(view, ids),
        }
    }
}

fn port_map(view: &View) -> BTreeMap<String, Option<Vec<HostPort>>> {
    let mut map = BTreeMap::new();
    if !view.is_running() {
        return map;
    }
    for key in view.record.config.exposed_ports.keys() {
        map.insert(key.clone(), None);
    }
    for port in ports::published(view) {
        for offset in 0..port.count.max(1) {
            let key = format!(
                "{}/{}",
                port.container_port.saturating_add(offset),
                port.protocol
            );
            let host = HostPort {
                host_ip: port.host_ip.to_string(),
                host_port: port.host_port.saturating_add(offset).to_string(),
            };
            map.entry(key)
                .or_default()
                .get_or_insert_default()
                .push(host);
        }
    }
    map
}

fn networks(view: &View, ids: &BTreeMap<String, Id>) -> BTreeMap<String, Endpoint> {
    let record = &view.record;
    if !view.attachments.is_empty() {
        let endpoints = view.attachments.iter().map(|attachment| {
            let network = attachment.network.to_string();
            let request = record.networks.iter().find(|request| {
                request.network == network
                    || attachment.network_id.as_str().starts_with(&request.network)
            });
            (network, endpoint(attachment, request))
        });
        return endpoints.collect();
    }
    let id = |name: &str| ids.get(name).map_or_else(String::new, Id::to_string);
    let mode = record.host_config.network_mode.as_str();
    if matches!(mode, "host" | "none") {
        let endpoint = Endpoint {
            network_id: id(mode),
            ..Endpoint::default()
        };
        return BTreeMap::from([(mode.to_owned(), endpoint)]);
    }
    let requests = record.networks.iter().map(|request| {
        let endpoint = Endpoint {
            network_id: id(&request.network),
            ..asked(Some(request))
        };
        (request.network.clone(), endpoint)
    });
    requests.collect()
}

fn endpoint(attachment: &Attachment, request: Option<&NetworkRequest>) -> Endpoint {
    // The default network has no names.
    let dns_names = (attachment.network.as_str() != DEFAULT).then(|| {
        let names = attachment.name.iter().chain(&attachment.aliases);
        let mut distinct: Vec<String> = Vec::new();
        for name in names {
            if !distinct.contains(name) {
                distinct.push(name.clone());
            }
        }
        distinct
    });
    Endpoint {
        network_id: attachment.network_id.to_string(),
        addresses: addresses(attachment),
        dns_names,
        ..asked(request)
    }
}

/// What was asked for of an endpoint.
fn asked(request: Option<&NetworkRequest>) -> Endpoint {
    let Some(request) = request else {
        return Endpoint::default();
    };
    let addresses = AskedAddresses {
        ipv4: request.ipv4.map(|ip| ip.to_string()).unwrap_or_default(),
        ipv6: request.ipv6.map(|ip| ip.to_string()).unwrap_or_default(),
    };
    let some = |texts: &Vec<String>| (!texts.is_empty()).then(|| texts.clone());
    let options = &request.driver_opts;
    Endpoint {
        ipam_config: (addresses != AskedAddresses::default()).then_some(addresses),
        links: some(&request.links),
        aliases: some(&request.aliases),
        driver_opts: (!options.is_empty()).then(|| options.clone()),
        gw_priority: request.gw_priority,
        ..Endpoint::default()
    }
}

fn addresses(attachment: &Attachment) -> Addresses {
    let mut addresses = Addresses {
        mac_address: attachment
            .mac
            .map(|mac| mac.to_string())
            .unwrap_or_default(),
        endpoint_id: attachment.endpoint_id.to_string(),
        ..Addresses::default()
    };
    for address in &attachment.addresses {
        let ip = address.address.addr();
        let gateway = address.gateway.map(|ip| ip.to_string()).unwrap_or_default();
        if ip.is_ipv4() {
            addresses.ip_address = ip.to_string();
            addresses.ip_prefix_len = address.address.prefix_len();
            addresses.gateway = gateway;
        } else {
            addresses.global_ipv6_address = ip.to_string();
            addresses.global_ipv6_prefix_len = address.address.prefix_len();
            addresses.ipv6_gateway = gateway;
        }
    }
    addresses
}
