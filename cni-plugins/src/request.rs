//! What to ask of the daemon, from a configuration and an environment. Pure.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use api::net::{
    AttachRequest, Bandwidth, Dns, Ipam, IpamConfig, LinkBy, NetworkCreate, PortBinding, Protocol,
};
use ipnet::IpNet;

use crate::command::Sandbox;
use crate::config::{
    Aliases, Config, PortMapping, RuntimeConfig, RuntimeDns, StaticDns, StructuredArgs,
};
use crate::error::{PluginError, invalid_id};
use crate::lease::Lease;
use crate::previous::Own;

/// What other plugins have settled already.
#[derive(Debug, Default)]
pub(crate) enum Given {
    #[default]
    Nothing,
    /// Addresses and routes, by a delegated plugin.
    Lease(Lease),
    /// The interface itself, by an earlier plugin of the chain.
    Interface(Own),
}

/// The runtime that runs the plugin.
#[derive(Debug)]
pub(crate) struct Caller {
    pub(crate) owner: String,
    pub(crate) process: u32,
}

/// # Errors
/// What of the configuration or of `CNI_ARGS` cannot be asked for.
pub(crate) fn attach(
    config: &Config,
    sandbox: &Sandbox,
    given: &Given,
    caller: Caller,
) -> Result<AttachRequest, PluginError> {
    config.check_keys()?;
    let mut request = AttachRequest {
        owner: Some(caller.owner),
        runtime: Some(caller.process),
        exclusive: true,
        bandwidth: bandwidth(config),
        ..plain(config, sandbox)?
    };
    match given {
        Given::Nothing => {
            (request.ipv4, request.ipv6) = addresses(config, sandbox)?;
        }
        Given::Lease(lease) => {
            request.addresses.clone_from(&lease.addresses);
            request.routes = Some(lease.routes.clone());
            if request.dns == Dns::default() {
                request.dns = dns(&RuntimeDns::default(), &lease.dns);
            }
        }
        Given::Interface(own) => {
            check_interface(own, &request)?;
            request.link = LinkBy::Others;
            request.addresses.clone_from(&own.addresses);
            request.mac = None;
        }
    }
    Ok(request)
}

/// On an interface of others there are names and ports, nothing else.
fn check_interface(own: &Own, request: &AttachRequest) -> Result<(), PluginError> {
    if own.addresses.is_empty() {
        let reason = format!("interface {} has no address", request.ifname);
        return Err(PluginError::field("prevResult", reason));
    }
    let refuse = |key| {
        let reason = format!(
            "interface {} is an earlier plugin's: configure it there",
            request.ifname
        );
        Err(PluginError::field(key, reason))
    };
    if request.bandwidth.is_some() {
        return refuse("bandwidth");
    }
    if request
        .mac
        .is_some_and(|mac| mac.to_string() != own.mac.to_lowercase())
    {
        return refuse("mac");
    }
    Ok(())
}

/// Names, ports and resolver: what does not depend on who makes the interface.
///
/// # Errors
/// As [`attach`].
pub(crate) fn plain(config: &Config, sandbox: &Sandbox) -> Result<AttachRequest, PluginError> {
    let runtime = &config.runtime_config;
    let mac = [&runtime.mac, &config.args.cni.mac, &sandbox.args.mac]
        .into_iter()
        .find_map(Option::as_deref)
        .map(str::parse)
        .transpose()
        .map_err(invalid_id("mac"))?;
    Ok(AttachRequest {
        network: config.target.network().to_owned(),
        container_id: sandbox.interface.container_id.clone(),
        ifname: sandbox.interface.ifname.clone(),
        netns: sandbox.netns.clone(),
        name: sandbox.args.pod_name.clone(),
        aliases: aliases(config)
            .into_iter()
            .chain(qualified(sandbox))
            .collect(),
        ipv4: None,
        ipv6: None,
        mac,
        ports: ports(&runtime.port_mappings)?,
        dns: dns(&runtime.dns, &config.dns),
        link: LinkBy::Hawser,
        addresses: Vec::new(),
        routes: None,
        bandwidth: None,
        owner: None,
        exclusive: false,
        gw_priority: runtime.gw_priority,
        runtime: None,
        links: runtime.links.clone(),
        services: runtime.services.clone(),
    })
}

/// `NAME.NAMESPACE`, where pods have namespaces.
fn qualified(sandbox: &Sandbox) -> Option<String> {
    let name = sandbox.args.pod_name.as_ref()?;
    let namespace = sandbox.args.pod_namespace.as_ref()?;
    (name != namespace).then(|| format!("{name}.{namespace}"))
}

fn bandwidth(config: &Config) -> Option<Bandwidth> {
    let limits = config.runtime_config.bandwidth.unwrap_or(config.bandwidth);
    (limits.ingress_rate > 0 || limits.egress_rate > 0).then_some(Bandwidth {
        ingress_rate: limits.ingress_rate,
        ingress_burst: limits.ingress_burst,
        egress_rate: limits.egress_rate,
        egress_burst: limits.egress_burst,
    })
}

/// The network to make on first use, if the configuration describes one. Without a subnet of its
/// own it has that of the addresses that a delegated plugin assigned.
///
/// # Errors
/// A range or gateway outside every subnet.
pub(crate) fn create(config: &Config, given: &Given) -> Result<Option<NetworkCreate>, PluginError> {
    let Some(driver) = &config.driver else {
        return match first_network_key(config) {
            Some(key) => Err(PluginError::field(
                key,
                "only a configuration with \"driver\" makes a network",
            )),
            None => Ok(None),
        };
    };
    let subnets = match given {
        Given::Lease(lease) if config.subnet.is_empty() => leased_subnets(lease),
        _ => subnets(&config.subnet, &config.ip_range, &config.gateway)?,
    };
    let mut options = config.options.clone();
    if let Some(mtu) = config.mtu {
        options.insert("com.docker.network.driver.mtu".to_owned(), mtu.to_string());
    }
    if let Some(masquerade) = config.ip_masq {
        options.insert(MASQUERADE.to_owned(), masquerade.to_string());
    }
    Ok(Some(NetworkCreate {
        name: config.target.network().to_owned(),
        driver: driver.clone(),
        enable_ipv4: None,
        enable_ipv6: (config.ipv6 || has_ipv6(&subnets)).then_some(true),
        ipam: Ipam {
            driver: "default".to_owned(),
            options: None,
            config: subnets,
        },
        internal: config.internal,
        attachable: false,
        options,
        labels: BTreeMap::new(),
    }))
}

const MASQUERADE: &str = "com.docker.network.bridge.enable_ip_masquerade";

pub(crate) fn has_ipv6(subnets: &[IpamConfig]) -> bool {
    let mut given = subnets.iter().filter_map(|entry| entry.subnet);
    given.any(|subnet| subnet.addr().is_ipv6())
}

fn leased_subnets(lease: &Lease) -> Vec<IpamConfig> {
    let addresses = lease.addresses.iter();
    addresses
        .map(|entry| IpamConfig {
            subnet: Some(entry.address.trunc()),
            gateway: entry.gateway,
            ..IpamConfig::default()
        })
        .collect()
}

/// # Errors
/// A range or gateway outside every subnet.
pub(crate) fn subnets(
    subnets: &[IpNet],
    ranges: &[IpNet],
    gateways: &[IpAddr],
) -> Result<Vec<IpamConfig>, PluginError> {
    let mut entries = subnets
        .iter()
        .map(|subnet| IpamConfig {
            subnet: Some(*subnet),
            ..IpamConfig::default()
        })
        .collect::<Vec<_>>();
    for range in ranges {
        subnet_of(&mut entries, range.network(), "ipRange")?.ip_range = Some(*range);
    }
    for gateway in gateways {
        subnet_of(&mut entries, *gateway, "gateway")?.gateway = Some(*gateway);
    }
    Ok(entries)
}

/// A key that says nothing without `driver`.
fn first_network_key(config: &Config) -> Option<&'static str> {
    let given = [
        ("subnet", !config.subnet.is_empty()),
        ("ipRange", !config.ip_range.is_empty()),
        ("gateway", !config.gateway.is_empty()),
        ("ipv6", config.ipv6),
        ("internal", config.internal),
        ("mtu", config.mtu.is_some()),
        ("ipMasq", config.ip_masq.is_some()),
        ("options", !config.options.is_empty()),
    ];
    given.iter().find(|(_, given)| *given).map(|(key, _)| *key)
}

fn subnet_of<'a>(
    subnets: &'a mut [IpamConfig],
    address: IpAddr,
    key: &'static str,
) -> Result<&'a mut IpamConfig, PluginError> {
    subnets
        .iter_mut()
        .find(|entry| entry.subnet.is_some_and(|subnet| subnet.contains(&address)))
        .ok_or_else(|| PluginError::field(key, format!("{address} is in no \"subnet\"")))
}

/// One address of each family at most. The most specific source wins, as the conventions ask:
/// `runtimeConfig`, then `args`, then `CNI_ARGS`.
pub(crate) fn addresses(
    config: &Config,
    sandbox: &Sandbox,
) -> Result<(Option<Ipv4Addr>, Option<Ipv6Addr>), PluginError> {
    asked_addresses(&config.runtime_config, &config.args, sandbox)
}

pub(crate) fn asked_addresses(
    runtime: &RuntimeConfig,
    args: &StructuredArgs,
    sandbox: &Sandbox,
) -> Result<(Option<Ipv4Addr>, Option<Ipv6Addr>), PluginError> {
    let from_args = sandbox.args.ip.as_deref().unwrap_or_default();
    let from_args = from_args
        .split(',')
        .filter(|text| !text.is_empty())
        .map(str::to_owned)
        .collect::<Vec<_>>();
    let asked = [&runtime.ips, &args.cni.ips, &from_args]
        .into_iter()
        .find(|texts| !texts.is_empty());
    let mut ipv4 = None;
    let mut ipv6 = None;
    for text in asked.into_iter().flatten() {
        let earlier = match parse_address(text)? {
            IpAddr::V4(address) => ipv4.replace(address).map(IpAddr::V4),
            IpAddr::V6(address) => ipv6.replace(address).map(IpAddr::V6),
        };
        if let Some(earlier) = earlier {
            let reason = format!("{earlier} and {text}: one address of a family at most");
            return Err(PluginError::field("ips", reason));
        }
    }
    Ok((ipv4, ipv6))
}

/// With or without a prefix length, which is the subnet's in any case.
fn parse_address(text: &str) -> Result<IpAddr, PluginError> {
    let address = text.split_once('/').map_or(text, |(address, _)| address);
    address
        .parse()
        .map_err(|error| PluginError::field("ips", format!("{text:?}: {error}")))
}

fn aliases(config: &Config) -> Vec<String> {
    match &config.runtime_config.aliases {
        Aliases::List(names) => names.clone(),
        Aliases::ByNetwork(networks) => networks
            .get(&config.target.name)
            .or_else(|| networks.get(config.target.network()))
            .cloned()
            .unwrap_or_default(),
    }
}

fn dns(runtime: &RuntimeDns, fixed: &StaticDns) -> Dns {
    let mut search = first_filled(&runtime.searches, &fixed.search);
    if search.is_empty() {
        // resolv.conf(5): `domain` is a search list of one.
        search.extend(fixed.domain.clone());
    }
    Dns {
        nameservers: first_filled(&runtime.servers, &fixed.nameservers),
        search,
        options: first_filled(&runtime.options, &fixed.options),
    }
}

fn first_filled<T: Clone>(first: &[T], second: &[T]) -> Vec<T> {
    if first.is_empty() { second } else { first }.to_vec()
}

/// Runtimes send a range port by port; the daemon is asked for the range.
fn ports(mappings: &[PortMapping]) -> Result<Vec<PortBinding>, PluginError> {
    let mut bindings: Vec<PortBinding> = Vec::new();
    for mapping in mappings {
        let next = binding(mapping)?;
        match bindings.last_mut() {
            Some(last) if continues(last, &next) => last.count += 1,
            _ => bindings.push(next),
        }
    }
    Ok(bindings)
}

fn binding(mapping: &PortMapping) -> Result<PortBinding, PluginError> {
    let invalid = |reason: String| PluginError::field("runtimeConfig.portMappings", reason);
    let protocol: Protocol = mapping
        .protocol
        .parse()
        .map_err(|error| invalid(format!("{error}")))?;
    if mapping.container_port == 0 {
        return Err(invalid("containerPort 0 is not a port".to_owned()));
    }
    let host_ip = match mapping.host_ip.as_str() {
        "" => None,
        text => Some(
            text.parse()
                .map_err(|error| invalid(format!("hostIP {text:?}: {error}")))?,
        ),
    };
    Ok(PortBinding {
        protocol,
        container_port: mapping.container_port,
        host_port: mapping.host_port,
        host_port_last: mapping.host_port_last,
        count: 1,
        host_ip,
    })
}

/// Whether `next` is the port right after the run `last`. Ports that the daemon chooses stay
/// single: it need not find them in a row.
fn continues(last: &PortBinding, next: &PortBinding) -> bool {
    let follows = |first: u16, port: u16| first.checked_add(last.count) == Some(port);
    last.host_port != 0
        && (last.host_port_last, next.host_port_last) == (None, None)
        && (last.protocol, last.host_ip) == (next.protocol, next.host_ip)
        && follows(last.host_port, next.host_port)
        && follows(last.container_port, next.container_port)
}
