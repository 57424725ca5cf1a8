//! `--network` and what belongs to it.

use std::net::{Ipv4Addr, Ipv6Addr};

use api::id::{InvalidId, MacAddr};

use crate::container::NetworkRequest;

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
        "invalid --network {spec:?}: unexpected field {field:?} (name, alias, ip, ip6, mac-address)"
    )]
    Field { spec: String, field: String },
    #[error("invalid --network {spec:?}: the name is missing")]
    NoName { spec: String },
    #[error("conflicting options: {mode} does not go with other networks")]
    Exclusive { mode: String },
    #[error("conflicting options: {flag} does not go with --network {mode}")]
    Unfit { flag: &'static str, mode: String },
    #[error(
        "conflicting options: {flag} does not say which of {count} networks it is for; write --network name=NETWORK,{field}=…"
    )]
    WhichNetwork {
        flag: &'static str,
        field: &'static str,
        count: usize,
    },
    #[error(
        "network-scoped aliases are only supported for user-defined networks: make one with hawser network create"
    )]
    DefaultAlias,
    #[error("network {0} is given twice")]
    Twice(String),
}

/// How a container is connected.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Connection {
    /// `HostConfig.NetworkMode`: a network, `host`, `none` or `container:KEY`.
    pub mode: String,
    pub networks: Vec<NetworkRequest>,
}

/// # Errors
/// [`NetworkError`].
pub fn connection(flags: &CreateFlags) -> Result<Connection, NetworkError> {
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
        return special(flags, &only.network);
    }
    for (at, network) in networks.iter_mut().enumerate() {
        if is_special(&network.network) {
            return Err(NetworkError::Exclusive {
                mode: network.network.clone(),
            });
        }
        // Docker's word for the default network.
        if network.network == "default" {
            DEFAULT.clone_into(&mut network.network);
        }
        if at == 0 {
            network.aliases.extend(flags.network_alias.iter().cloned());
        }
        if network.network == DEFAULT && !network.aliases.is_empty() {
            return Err(NetworkError::DefaultAlias);
        }
    }
    apply_addresses(flags, &mut networks)?;
    for (at, network) in networks.iter().enumerate() {
        if networks[..at]
            .iter()
            .any(|other| other.network == network.network)
        {
            return Err(NetworkError::Twice(network.network.clone()));
        }
    }
    Ok(Connection {
        mode: networks[0].network.clone(),
        networks,
    })
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
fn special(flags: &CreateFlags, mode: &str) -> Result<Connection, NetworkError> {
    let shares = mode.starts_with("container:");
    let asked = [
        (!flags.network_alias.is_empty(), "--network-alias"),
        (flags.ip.is_some(), "--ip"),
        (flags.ip6.is_some(), "--ip6"),
        (flags.mac_address.is_some(), "--mac-address"),
        (shares && !flags.publish.is_empty(), "port publishing"),
        (shares && flags.publish_all, "port publishing"),
        (shares && flags.hostname.is_some(), "--hostname"),
        (shares && !flags.add_host.is_empty(), "--add-host"),
        (shares && !flags.dns.is_empty(), "--dns"),
    ];
    if let Some((_, flag)) = asked.into_iter().find(|(asked, _)| *asked) {
        return Err(NetworkError::Unfit {
            flag,
            mode: mode.to_owned(),
        });
    }
    Ok(Connection {
        mode: mode.to_owned(),
        networks: Vec::new(),
    })
}

fn apply_addresses(
    flags: &CreateFlags,
    networks: &mut [NetworkRequest],
) -> Result<(), NetworkError> {
    let count = networks.len();
    let asked = [
        ("--ip", "ip", flags.ip.as_deref()),
        ("--ip6", "ip6", flags.ip6.as_deref()),
        ("--mac-address", "mac-address", flags.mac_address.as_deref()),
    ];
    for (flag, field, value) in asked {
        let Some(value) = value else { continue };
        let [network] = &mut *networks else {
            return Err(NetworkError::WhichNetwork { flag, field, count });
        };
        set(network, flag, field, value)?;
    }
    Ok(())
}

fn set(
    network: &mut NetworkRequest,
    flag: &'static str,
    field: &str,
    value: &str,
) -> Result<(), NetworkError> {
    match field {
        "ip" => network.ipv4 = Some(ipv4(flag, value)?),
        "ip6" => network.ipv6 = Some(ipv6(flag, value)?),
        _ => network.mac = Some(value.parse::<MacAddr>()?),
    }
    Ok(())
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

/// A network's name, or Docker's comma-separated fields.
fn parse(spec: &str) -> Result<NetworkRequest, NetworkError> {
    if !spec.contains('=') {
        return Ok(request(spec));
    }
    let mut parsed = NetworkRequest::default();
    for field in spec.split(',') {
        match field.split_once('=') {
            Some(("name", name)) => name.clone_into(&mut parsed.network),
            Some(("alias", alias)) => parsed.aliases.push(alias.to_owned()),
            Some((name @ ("ip" | "ip6" | "mac-address"), value)) => {
                set(&mut parsed, "--network", name, value)?;
            }
            _ => {
                return Err(NetworkError::Field {
                    spec: spec.to_owned(),
                    field: field.to_owned(),
                });
            }
        }
    }
    if parsed.network.is_empty() {
        return Err(NetworkError::NoName {
            spec: spec.to_owned(),
        });
    }
    Ok(parsed)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn flags(network: &[&str]) -> CreateFlags {
        CreateFlags {
            network: network.iter().map(|name| (*name).to_owned()).collect(),
            ..CreateFlags::default()
        }
    }

    #[test]
    fn the_first_network_is_the_mode() {
        let bridged = connection(&flags(&[])).unwrap();
        assert_eq!(
            (bridged.mode.as_str(), bridged.networks.len()),
            ("bridge", 1)
        );
        let mut two = flags(&[
            "front",
            "name=back,alias=db,ip=10.0.0.9,mac-address=02:00:00:00:00:01",
        ]);
        two.network_alias = vec!["www".to_owned()];
        let two = connection(&two).unwrap();
        assert_eq!(two.mode, "front");
        assert_eq!(two.networks[0].aliases, ["www"]);
        assert_eq!(two.networks[1].aliases, ["db"]);
        assert_eq!(two.networks[1].ipv4, Some(Ipv4Addr::new(10, 0, 0, 9)));
        assert!(two.networks[1].mac.is_some());
    }

    #[test]
    fn modes_without_an_endpoint_have_no_networks() {
        for mode in ["host", "none", "container:web"] {
            let connection = connection(&flags(&[mode])).unwrap();
            assert_eq!(
                (connection.mode.as_str(), connection.networks.len()),
                (mode, 0)
            );
        }
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        type Change = fn(&mut CreateFlags);
        let rows: [(&[&str], Change, &str); 10] = [
            (
                &["host", "n1"],
                |_| {},
                "host does not go with other networks",
            ),
            (
                &["container:a"],
                |f| f.publish = vec!["80".into()],
                "port publishing",
            ),
            (
                &["container:a"],
                |f| f.hostname = Some("h".into()),
                "--hostname",
            ),
            (
                &["host"],
                |f| f.ip = Some("10.0.0.1".into()),
                "--ip does not go",
            ),
            (
                &["a", "b"],
                |f| f.ip = Some("10.0.0.1".into()),
                "which of 2 networks",
            ),
            (&["a"], |f| f.ip = Some("::1".into()), "an IPv4 address"),
            (
                &["a"],
                |f| f.mac_address = Some("x".into()),
                "invalid MAC address",
            ),
            (
                &[],
                |f| f.network_alias = vec!["x".into()],
                "user-defined networks",
            ),
            (&["a", "a"], |_| {}, "network a is given twice"),
            (&["name=a,bogus=1"], |_| {}, "unexpected field \"bogus=1\""),
        ];
        for (networks, change, part) in rows {
            let mut flags = flags(networks);
            change(&mut flags);
            let message = connection(&flags).unwrap_err().to_string();
            assert!(message.contains(part), "{message}");
        }
    }
}
