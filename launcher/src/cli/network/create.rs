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

/// `hawser network create`.
#[derive(Debug, Clone, Default, Args)]
pub struct CreateFlags {
    /// Driver: bridge, macvlan, overlay…
    #[arg(short, long, default_value = "bridge")]
    pub driver: String,
    /// Subnet, such as 10.1.0.0/24; one for each address family or more
    #[arg(long, value_name = "SUBNET")]
    pub subnet: Vec<String>,
    /// Hand out addresses of this part of a subnet only
    #[arg(long, value_name = "SUBNET")]
    pub ip_range: Vec<String>,
    /// Gateway of a subnet
    #[arg(long, value_name = "ADDRESS")]
    pub gateway: Vec<String>,
    /// Address that somebody else uses: NAME=ADDRESS
    #[arg(long, value_name = "NAME=ADDRESS")]
    pub aux_address: Vec<String>,
    /// Option of the driver: NAME=VALUE
    #[arg(short, long = "opt", value_name = "OPTION")]
    pub opt: Vec<String>,
    /// Label: NAME[=VALUE]
    #[arg(long, value_name = "LABEL")]
    pub label: Vec<String>,
    /// No way out of the network
    #[arg(long)]
    pub internal: bool,
    /// Let containers join that no service has made
    #[arg(long)]
    pub attachable: bool,
    /// Give it IPv6 addresses too
    #[arg(long)]
    pub ipv6: bool,
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
}

/// # Errors
/// Addresses that do not fit each other, or the daemon's refusal.
pub fn create(context: &Context, flags: &CreateFlags) -> Result<i32, CliError> {
    let request = NetworkCreate {
        name: flags.name.clone(),
        driver: flags.driver.clone(),
        enable_ipv6: flags.ipv6,
        ipam: Ipam {
            driver: "default".to_owned(),
            options: None,
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
        let (name, value) = text.split_once('=').unwrap_or(("", text));
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
        ] {
            let message = addressing(&flags).unwrap_err().to_string();
            assert!(message.contains(part), "{message}");
        }
    }
}
