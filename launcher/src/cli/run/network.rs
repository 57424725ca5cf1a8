//! `--network` and what belongs to it.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, Ipv6Addr};

use api::id::{IfName, InvalidId, MacAddr};

use crate::container::{IFNAME_OPTION, NetworkRequest};
use crate::link;

use super::flags::CreateFlags;

/// The network of containers that ask for none.
pub const DEFAULT: &str = "bridge";

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NetworkError {
    #[error("invalid IP address {text:?} for {flag}: expected {expected}")]
    Address {
        flag: &'static str,
        text: String,
        expected: &'static str,
    },
    #[error("{0}")]
    Mac(#[from] InvalidId),
    #[error(
        "invalid --network {spec:?}: unexpected field {field:?} (name, alias, ip, ip6, \
         mac-address, link, driver-opt, gw-priority)"
    )]
    Field { spec: String, field: String },
    #[error("invalid gw-priority {0:?} of --network: expected a whole number")]
    Priority(String),
    #[error("invalid --network {spec:?}: the name is missing")]
    NoName { spec: String },
    #[error("invalid --network container:: expected container:NAME or container:ID")]
    NoPeer,
    #[error("conflicting options: {mode} does not go with other networks")]
    Exclusive { mode: String },
    #[error("conflicting options: {flag} does not go with --network {mode}")]
    Unfit { flag: &'static str, mode: String },
    #[error("conflicting options: cannot specify both {flag} and {field} of --network")]
    Both {
        flag: &'static str,
        field: &'static str,
    },
    #[error(
        "network-scoped aliases are only supported for user-defined networks: make one with \
         hawser network create"
    )]
    DefaultAlias,
    #[error(
        "user specified IP address is supported on user defined networks only: make one with \
         hawser network create --subnet"
    )]
    DefaultAddress,
    #[error(
        "links of the default network are made with the container: use --link of hawser run, or a \
         network of your own"
    )]
    DefaultLink,
    #[error("network {0} is given twice")]
    Twice(String),
    #[error("{0}")]
    Link(String),
    #[error("unknown endpoint option {0:?}: known is {IFNAME_OPTION}")]
    Option(String),
    #[error("option {IFNAME_OPTION}: {0}")]
    IfName(InvalidId),
    #[error(
        "link-local addresses cannot be given: every interface gets one of its own from the kernel"
    )]
    LinkLocal,
}

/// How a container is connected.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Connection {
    /// `HostConfig.NetworkMode`: a network, `host`, `none` or `container:KEY`.
    pub mode: String,
    pub networks: Vec<NetworkRequest>,
    /// Containers as typed, with their aliases: links of the default network.
    pub links: Vec<(String, String)>,
    /// What is asked for to no effect.
    pub warnings: Vec<String>,
}

/// # Errors
/// [`NetworkError`].
pub fn connection(flags: &CreateFlags) -> Result<Connection, NetworkError> {
    if !flags.link_local_ip.is_empty() {
        return Err(NetworkError::LinkLocal);
    }
    let mut networks = Vec::new();
    for spec in &flags.network {
        networks.push(parse(spec)?);
    }
    if networks.is_empty() {
        networks.push(request(DEFAULT));
    }
    if let [only] = networks.as_slice()
        && is_special(&only.network)
    {
        return special(flags, only);
    }
    if let Some(special) = networks.iter().find(|other| is_special(&other.network)) {
        return Err(NetworkError::Exclusive {
            mode: special.network.clone(),
        });
    }
    // As in Docker, the flags without a network are about the first one.
    add_flags(flags, &mut networks[0])?;
    let mut links = Vec::new();
    for (at, network) in networks.iter().enumerate() {
        if network.network == DEFAULT {
            links = default_links(network)?;
        }
        let others = &networks[..at];
        if others.iter().any(|other| other.network == network.network) {
            return Err(NetworkError::Twice(network.network.clone()));
        }
    }
    for network in networks.iter_mut().filter(|n| n.network == DEFAULT) {
        network.links.clear();
    }
    Ok(Connection {
        mode: networks[0].network.clone(),
        networks,
        links,
        warnings: Vec::new(),
    })
}

/// The links of a request for the default network, which has no names and no addresses to choose.
fn default_links(request: &NetworkRequest) -> Result<Vec<(String, String)>, NetworkError> {
    if !request.aliases.is_empty() {
        return Err(NetworkError::DefaultAlias);
    }
    if request.ipv4.is_some() || request.ipv6.is_some() {
        return Err(NetworkError::DefaultAddress);
    }
    let pair = |text: &String| {
        let (container, alias) = text.split_once(':').unwrap_or((text, text));
        (container.to_owned(), alias.to_owned())
    };
    Ok(request.links.iter().map(pair).collect())
}

fn request(network: &str) -> NetworkRequest {
    NetworkRequest {
        network: network.to_owned(),
        ..NetworkRequest::default()
    }
}

fn is_special(name: &str) -> bool {
    matches!(name, "host" | "none") || name.starts_with("container:")
}

/// Modes in which the container has no endpoint of its own.
fn special(flags: &CreateFlags, only: &NetworkRequest) -> Result<Connection, NetworkError> {
    let mode = only.network.as_str();
    let shares = mode.starts_with("container:");
    if mode == "container:" {
        return Err(NetworkError::NoPeer);
    }
    let publishes = !flags.publish.is_empty() || flags.publish_all;
    let dns = !(flags.dns.is_empty() && flags.dns_search.is_empty() && flags.dns_option.is_empty());
    let asked = [
        (
            *only != request(mode),
            "fields other than the name of --network",
        ),
        (!flags.network_alias.is_empty(), "--network-alias"),
        (!flags.link.is_empty(), "--link"),
        (flags.ip.is_some(), "--ip"),
        (flags.ip6.is_some(), "--ip6"),
        (flags.mac_address.is_some(), "--mac-address"),
        (shares && publishes, "port publishing"),
        (shares && !flags.expose.is_empty(), "port exposing"),
        (shares && flags.hostname.is_some(), "--hostname"),
        (shares && flags.domainname.is_some(), "--domainname"),
        (shares && !flags.add_host.is_empty(), "--add-host"),
        (shares && dns, "--dns"),
    ];
    if let Some((_, flag)) = asked.into_iter().find(|(asked, _)| *asked) {
        return Err(NetworkError::Unfit {
            flag,
            mode: mode.to_owned(),
        });
    }
    let mut warnings = Vec::new();
    if mode == "host" && publishes {
        warnings.push("Published ports are discarded when using host network mode".to_owned());
    }
    Ok(Connection {
        mode: mode.to_owned(),
        networks: Vec::new(),
        links: Vec::new(),
        warnings,
    })
}

/// What the flags that name no network ask of `network`; not twice what its fields say.
fn add_flags(flags: &CreateFlags, network: &mut NetworkRequest) -> Result<(), NetworkError> {
    let both = |is_both: bool, flag, field| {
        if is_both {
            Err(NetworkError::Both { flag, field })
        } else {
            Ok(())
        }
    };
    let has_aliases = !network.aliases.is_empty();
    both(
        has_aliases && !flags.network_alias.is_empty(),
        "--network-alias",
        "alias",
    )?;
    both(
        !network.links.is_empty() && !flags.link.is_empty(),
        "--link",
        "link",
    )?;
    network.aliases.extend(flags.network_alias.iter().cloned());
    network.links.extend(links(&flags.link)?);
    if let Some(text) = &flags.ip {
        both(network.ipv4.is_some(), "--ip", "ip")?;
        network.ipv4 = Some(ipv4("--ip", text)?);
    }
    if let Some(text) = &flags.ip6 {
        both(network.ipv6.is_some(), "--ip6", "ip6")?;
        network.ipv6 = Some(ipv6("--ip6", text)?);
    }
    if let Some(text) = &flags.mac_address {
        both(network.mac.is_some(), "--mac-address", "mac-address")?;
        network.mac = Some(text.parse::<MacAddr>()?);
    }
    Ok(())
}

/// `CONTAINER[:ALIAS]` texts, each made whole.
///
/// # Errors
/// [`NetworkError::Link`].
pub fn links(texts: &[String]) -> Result<Vec<String>, NetworkError> {
    let whole = |text: &String| match link::parse(text) {
        Ok((container, alias)) => Ok(format!("{container}:{alias}")),
        Err(error) => Err(NetworkError::Link(error.to_string())),
    };
    texts.iter().map(whole).collect()
}

/// `NAME=VALUE` options of an endpoint.
///
/// # Errors
/// An option that is not known, or a value it cannot have.
pub fn driver_opts(texts: &[String]) -> Result<BTreeMap<String, String>, NetworkError> {
    let mut options = BTreeMap::new();
    for text in texts {
        let (name, value) = text.split_once('=').unwrap_or((text, ""));
        if name != IFNAME_OPTION {
            return Err(NetworkError::Option(name.to_owned()));
        }
        IfName::parse(value).map_err(NetworkError::IfName)?;
        options.insert(name.to_owned(), value.to_owned());
    }
    Ok(options)
}

/// # Errors
/// [`NetworkError::Address`].
pub fn ipv4(flag: &'static str, text: &str) -> Result<Ipv4Addr, NetworkError> {
    text.parse().map_err(|_not_ipv4| NetworkError::Address {
        flag,
        text: text.to_owned(),
        expected: "an IPv4 address",
    })
}

/// # Errors
/// [`NetworkError::Address`].
pub fn ipv6(flag: &'static str, text: &str) -> Result<Ipv6Addr, NetworkError> {
    text.parse().map_err(|_not_ipv6| NetworkError::Address {
        flag,
        text: text.to_owned(),
        expected: "an IPv6 address",
    })
}

fn priority(text: &str) -> Result<i64, NetworkError> {
    text.parse()
        .map_err(|_not_a_number| NetworkError::Priority(text.to_owned()))
}

/// A network's name, or Docker's comma-separated fields.
///
/// # Errors
/// [`NetworkError`].
pub fn parse(spec: &str) -> Result<NetworkRequest, NetworkError> {
    let mut parsed = if spec.contains('=') {
        parse_fields(spec)?
    } else {
        request(spec)
    };
    if parsed.network.is_empty() {
        return Err(NetworkError::NoName {
            spec: spec.to_owned(),
        });
    }
    // Docker's word for the default network.
    if parsed.network == "default" {
        DEFAULT.clone_into(&mut parsed.network);
    }
    Ok(parsed)
}

fn parse_fields(spec: &str) -> Result<NetworkRequest, NetworkError> {
    const FLAG: &str = "--network";
    let mut parsed = NetworkRequest::default();
    let mut options = Vec::new();
    for field in spec.split(',') {
        let (name, value) = field.split_once('=').unwrap_or((field, ""));
        match name {
            "name" => value.clone_into(&mut parsed.network),
            "alias" => parsed.aliases.push(value.to_owned()),
            "ip" => parsed.ipv4 = Some(ipv4(FLAG, value)?),
            "ip6" => parsed.ipv6 = Some(ipv6(FLAG, value)?),
            "mac-address" => parsed.mac = Some(value.parse::<MacAddr>()?),
            "link" => parsed.links.extend(links(&[value.to_owned()])?),
            "driver-opt" => options.push(value.to_owned()),
            "gw-priority" => parsed.gw_priority = priority(value)?,
            "link-local-ip" => return Err(NetworkError::LinkLocal),
            _ => {
                return Err(NetworkError::Field {
                    spec: spec.to_owned(),
                    field: field.to_owned(),
                });
            }
        }
    }
    parsed.driver_opts = driver_opts(&options)?;
    Ok(parsed)
}

#[cfg(test)]
mod tests;
