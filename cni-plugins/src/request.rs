//! What to ask of the daemon, from a configuration and an environment. Pure.

use std::collections::BTreeMap;
use std::net::IpAddr;

use api::net::{
    AttachRequest, Dns, Ipam, IpamConfig, LinkBy, NetworkCreate, PortBinding, Protocol,
};

use crate::command::Sandbox;
use crate::config::{Aliases, Config, PortMapping};
use crate::error::{PluginError, invalid_id};

/// # Errors
/// What of the configuration or of `CNI_ARGS` cannot be asked for.
pub(crate) fn attach(config: &Config, sandbox: &Sandbox) -> Result<AttachRequest, PluginError> {
    config.check_keys()?;
    let (ipv4, ipv6) = addresses(config, sandbox)?;
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
        aliases: aliases(config),
        ipv4,
        ipv6,
        mac,
        ports: ports(&runtime.port_mappings)?,
        dns: dns(config),
        link: LinkBy::Hawser,
        addresses: Vec::new(),
        routes: None,
        bandwidth: None,
        owner: None,
        exclusive: false,
        links: runtime.links.clone(),
    })
}

/// The network to make on first use, if the configuration describes one.
///
/// # Errors
/// A range or gateway outside every subnet.
pub(crate) fn create(config: &Config) -> Result<Option<NetworkCreate>, PluginError> {
    let Some(driver) = &config.driver else {
        return match first_network_key(config) {
            Some(key) => Err(PluginError::field(
                key,
                "only a configuration with \"driver\" makes a network",
            )),
            None => Ok(None),
        };
    };
    let mut subnets = config
        .subnet
        .iter()
        .map(|subnet| IpamConfig {
            subnet: Some(*subnet),
            ..IpamConfig::default()
        })
        .collect::<Vec<_>>();
    for range in &config.ip_range {
        subnet_of(&mut subnets, range.network(), "ipRange")?.ip_range = Some(*range);
    }
    for gateway in &config.gateway {
        subnet_of(&mut subnets, *gateway, "gateway")?.gateway = Some(*gateway);
    }
    let mut options = config.options.clone();
    if let Some(mtu) = config.mtu {
        options.insert("com.docker.network.driver.mtu".to_owned(), mtu.to_string());
    }
    Ok(Some(NetworkCreate {
        name: config.target.network().to_owned(),
        driver: driver.clone(),
        enable_ipv4: None,
        enable_ipv6: config.ipv6 || config.subnet.iter().any(|subnet| subnet.addr().is_ipv6()),
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

/// A key that says nothing without `driver`.
fn first_network_key(config: &Config) -> Option<&'static str> {
    let given = [
        ("subnet", !config.subnet.is_empty()),
        ("ipRange", !config.ip_range.is_empty()),
        ("gateway", !config.gateway.is_empty()),
        ("ipv6", config.ipv6),
        ("internal", config.internal),
        ("mtu", config.mtu.is_some()),
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
fn addresses(
    config: &Config,
    sandbox: &Sandbox,
) -> Result<(Option<std::net::Ipv4Addr>, Option<std::net::Ipv6Addr>), PluginError> {
    let from_args = sandbox.args.ip.as_deref().unwrap_or_default();
    let from_args = from_args
        .split(',')
        .filter(|text| !text.is_empty())
        .map(str::to_owned)
        .collect::<Vec<_>>();
    let asked = [&config.runtime_config.ips, &config.args.cni.ips, &from_args]
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

fn dns(config: &Config) -> Dns {
    let runtime = &config.runtime_config.dns;
    let fixed = &config.dns;
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
