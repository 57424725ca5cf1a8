//! `hawser network create`.

use std::net::IpAddr;

use api::net::{Ipam, IpamConfig, NetworkCreate, NetworkCreated};
use api::path::NETWORKS_CREATE;
use clap::Args;
use ipnet::IpNet;

use crate::cli::context::Context;
use crate::cli::error::CliError;
use crate::cli::output;
use crate::cli::run::env;
use crate::cli::usage::truth;

/// `hawser network create`.
#[derive(Debug, Clone, Default, Args)]
pub struct CreateFlags {
    /// Driver: bridge, macvlan, ipvlan, or overlay
    #[arg(short, long, default_value = "bridge")]
    pub driver: String,
    /// Option of the driver: NAME[=VALUE], such as com.docker.network.driver.mtu=1400, parent=eth0 or
    /// encrypted
    #[arg(short, long = "opt", value_name = "OPTION")]
    pub opt: Vec<String>,
    /// No way out of the network, and none in
    #[arg(long)]
    pub internal: bool,
    /// Let containers join that no service has made; those of local networks always may
    #[arg(long)]
    pub attachable: bool,
    /// Where the network is known: local
    #[arg(long, value_name = "SCOPE")]
    pub scope: Option<String>,

    /// Subnet, such as 10.1.0.0/24 or fd00:1::/64; one from the daemon's pools unless given
    #[arg(
        long,
        value_name = "SUBNET",
        value_delimiter = ',',
        help_heading = "Addresses"
    )]
    pub subnet: Vec<String>,
    /// Hand out addresses of this part of a subnet only
    #[arg(
        long,
        value_name = "SUBNET",
        value_delimiter = ',',
        help_heading = "Addresses"
    )]
    pub ip_range: Vec<String>,
    /// Gateway of a subnet; its first address unless given
    #[arg(
        long,
        value_name = "ADDRESS",
        value_delimiter = ',',
        help_heading = "Addresses"
    )]
    pub gateway: Vec<String>,
    /// Address that somebody else uses: NAME=ADDRESS
    #[arg(long, value_name = "NAME=ADDRESS", help_heading = "Addresses")]
    pub aux_address: Vec<String>,
    /// Give its containers IPv4 addresses; on unless --ipv4=false
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true,
          default_missing_value = "true", value_parser = truth, help_heading = "Addresses")]
    pub ipv4: Option<bool>,
    /// Give its containers IPv6 addresses; off unless a --subnet is of IPv6
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true,
          default_missing_value = "true", value_parser = truth, help_heading = "Addresses")]
    pub ipv6: Option<bool>,
    /// Driver of the addresses: default
    #[arg(
        long,
        value_name = "DRIVER",
        default_value = "default",
        help_heading = "Addresses"
    )]
    pub ipam_driver: String,
    /// Option of the driver of the addresses: NAME=VALUE
    #[arg(long, value_name = "OPTION", help_heading = "Addresses")]
    pub ipam_opt: Vec<String>,

    /// Label: NAME[=VALUE]
    #[arg(long, value_name = "LABEL", help_heading = "Description")]
    pub label: Vec<String>,

    /// Refused: there are no networks of configuration alone
    #[arg(long, hide = true)]
    pub config_only: bool,
    /// Refused: there are no networks of configuration alone
    #[arg(long, value_name = "NETWORK", hide = true)]
    pub config_from: Option<String>,
    /// Refused: published ports need no network of their own
    #[arg(long, hide = true)]
    pub ingress: bool,

    /// Name of the network
    pub name: String,
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AddressingError {
    #[error("invalid {flag} {text:?}: expected {expected}")]
    Text {
        flag: &'static str,
        text: String,
        expected: &'static str,
    },
    #[error("no matching subnet for {flag} {text}")]
    NoSubnet { flag: &'static str, text: String },
    #[error("multiple overlapping subnet configuration is not supported: {0} and {1} overlap")]
    Overlap(IpNet, IpNet),
    #[error("{flag} is given twice for subnet {subnet}")]
    Twice { flag: &'static str, subnet: IpNet },
    #[error("unknown --scope {0:?}: expected local")]
    Scope(String),
    #[error("{0} is not supported: {1}")]
    Unsupported(&'static str, &'static str),
}

/// # Errors
/// Addresses that do not fit each other, or the daemon's refusal.
pub fn create(context: &Context, flags: &CreateFlags) -> Result<i32, CliError> {
    check(flags)?;
    let options = env::labels(&flags.ipam_opt);
    let request = NetworkCreate {
        name: flags.name.clone(),
        driver: flags.driver.clone(),
        enable_ipv4: flags.ipv4,
        enable_ipv6: flags.ipv6,
        ipam: Ipam {
            driver: flags.ipam_driver.clone(),
            options: (!options.is_empty()).then_some(options),
            config: addressing(flags)?,
        },
        internal: flags.internal,
        attachable: flags.attachable,
        options: env::labels(&flags.opt),
        labels: env::labels(&flags.label),
    };
    let created: NetworkCreated = context.client().post(NETWORKS_CREATE, &request)?;
    if !created.warning.is_empty() {
        output::warn(format_args!("WARNING: {}", created.warning));
    }
    output::line(created.id)?;
    Ok(0)
}

/// Refuses what Docker has for clusters of its own kind.
fn check(flags: &CreateFlags) -> Result<(), AddressingError> {
    let copy = "give each network its own options";
    if flags.config_only {
        return Err(AddressingError::Unsupported("--config-only", copy));
    }
    if flags.config_from.is_some() {
        return Err(AddressingError::Unsupported("--config-from", copy));
    }
    if flags.ingress {
        let none = "published ports need no network of their own";
        return Err(AddressingError::Unsupported("--ingress", none));
    }
    match flags.scope.as_deref() {
        None | Some("local") => Ok(()),
        Some(scope) => Err(AddressingError::Scope(scope.to_owned())),
    }
}

/// Subnets with the gateways, ranges and reserved addresses that lie in them.
fn addressing(flags: &CreateFlags) -> Result<Vec<IpamConfig>, AddressingError> {
    let mut configs: Vec<IpamConfig> = Vec::new();
    for text in &flags.subnet {
        let subnet = net("--subnet", text)?.trunc();
        for other in configs.iter().filter_map(|config| config.subnet) {
            if other.contains(&subnet) || subnet.contains(&other) {
                return Err(AddressingError::Overlap(other, subnet));
            }
        }
        configs.push(IpamConfig {
            subnet: Some(subnet),
            ..IpamConfig::default()
        });
    }
    for text in &flags.ip_range {
        let range = net("--ip-range", text)?;
        let config = config_of(&mut configs, "--ip-range", range.addr())?;
        once("--ip-range", config, config.ip_range.is_none())?;
        config.ip_range = Some(range.trunc());
    }
    for text in &flags.gateway {
        let gateway = address("--gateway", text)?;
        let config = config_of(&mut configs, "--gateway", gateway)?;
        once("--gateway", config, config.gateway.is_none())?;
        config.gateway = Some(gateway);
    }
    for text in &flags.aux_address {
        let pair = text.split_once('=').filter(|(name, _)| !name.is_empty());
        let (name, value) = pair.ok_or_else(|| AddressingError::Text {
            flag: "--aux-address",
            text: text.clone(),
            expected: "NAME=ADDRESS",
        })?;
        let reserved = address("--aux-address", value)?;
        let config = config_of(&mut configs, "--aux-address", reserved)?;
        config.auxiliary_addresses.insert(name.to_owned(), reserved);
    }
    Ok(configs)
}

fn once(flag: &'static str, config: &IpamConfig, is_first: bool) -> Result<(), AddressingError> {
    match config.subnet {
        Some(subnet) if !is_first => Err(AddressingError::Twice { flag, subnet }),
        _ => Ok(()),
    }
}

fn config_of<'c>(
    configs: &'c mut [IpamConfig],
    flag: &'static str,
    address: IpAddr,
) -> Result<&'c mut IpamConfig, AddressingError> {
    configs
        .iter_mut()
        .find(|config| {
            config
                .subnet
                .is_some_and(|subnet| subnet.contains(&address))
        })
        .ok_or_else(|| AddressingError::NoSubnet {
            flag,
            text: address.to_string(),
        })
}

fn net(flag: &'static str, text: &str) -> Result<IpNet, AddressingError> {
    text.parse().map_err(|_not_a_net| AddressingError::Text {
        flag,
        text: text.to_owned(),
        expected: "a network such as 10.1.0.0/24",
    })
}

fn address(flag: &'static str, text: &str) -> Result<IpAddr, AddressingError> {
    text.parse().map_err(|_not_an_ip| AddressingError::Text {
        flag,
        text: text.to_owned(),
        expected: "an IP address",
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn flags(subnet: &[&str], range: &[&str], gateway: &[&str], aux: &[&str]) -> CreateFlags {
        let owned = |texts: &[&str]| texts.iter().map(|text| (*text).to_owned()).collect();
        CreateFlags {
            subnet: owned(subnet),
            ip_range: owned(range),
            gateway: owned(gateway),
            aux_address: owned(aux),
            ..CreateFlags::default()
        }
    }

    #[test]
    fn addresses_go_to_the_subnet_they_lie_in() {
        let flags = flags(
            &["10.1.0.0/24", "fd00:1::/64"],
            &["10.1.0.64/26"],
            &["fd00:1::1", "10.1.0.1"],
            &["router=10.1.0.2"],
        );
        let configs = addressing(&flags).unwrap();
        assert_eq!(configs[0].gateway, Some("10.1.0.1".parse().unwrap()));
        assert_eq!(configs[0].ip_range, Some("10.1.0.64/26".parse().unwrap()));
        assert_eq!(
            configs[0].auxiliary_addresses["router"].to_string(),
            "10.1.0.2"
        );
        assert_eq!(configs[1].gateway, Some("fd00:1::1".parse().unwrap()));
        assert!(addressing(&CreateFlags::default()).unwrap().is_empty());
    }

    #[test]
    fn what_there_is_not_is_refused() {
        type Change = fn(&mut CreateFlags);
        let rows: [(Change, &str); 4] = [
            (|f| f.config_only = true, "--config-only is not supported"),
            (|f| f.config_from = Some("a".into()), "--config-from is not"),
            (|f| f.ingress = true, "--ingress is not supported"),
            (|f| f.scope = Some("swarm".into()), "unknown --scope"),
        ];
        for (change, part) in rows {
            let mut flags = CreateFlags::default();
            change(&mut flags);
            let message = check(&flags).unwrap_err().to_string();
            assert!(message.contains(part), "{message}");
        }
        assert!(check(&CreateFlags::default()).is_ok());
    }

    #[test]
    fn addressing_that_does_not_fit_is_refused() {
        for (flags, part) in [
            (
                flags(&["10.1.0.0"], &[], &[], &[]),
                "invalid --subnet \"10.1.0.0\"",
            ),
            (flags(&["10.1.0.0/33"], &[], &[], &[]), "invalid --subnet"),
            (
                flags(&["10.1.0.0/24"], &[], &["10.2.0.1"], &[]),
                "no matching subnet for --gateway",
            ),
            (
                flags(&[], &["10.1.0.0/24"], &[], &[]),
                "no matching subnet for --ip-range",
            ),
            (
                flags(&["10.1.0.0/16", "10.1.2.0/24"], &[], &[], &[]),
                "overlap",
            ),
            (
                flags(&["10.1.0.0/24"], &[], &["10.1.0.1", "10.1.0.2"], &[]),
                "given twice",
            ),
            (
                flags(&["10.1.0.0/24"], &[], &[], &["a=x"]),
                "invalid --aux-address \"x\"",
            ),
            (
                flags(&["10.1.0.0/24"], &[], &[], &["10.1.0.9"]),
                "expected NAME=ADDRESS",
            ),
        ] {
            let message = addressing(&flags).unwrap_err().to_string();
            assert!(message.contains(part), "{message}");
        }
    }
}
