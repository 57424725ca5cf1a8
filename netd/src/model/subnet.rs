//! One subnet of a network.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use api::net::IpamConfig;
use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use serde::{Deserialize, Serialize};

use super::ipam::IpamError;

/// A checked subnet: range, gateway and auxiliary addresses lie in it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Subnet {
    pub(crate) subnet: IpNet,
    /// Where addresses are handed out from.
    pub(crate) range: IpNet,
    /// Whether the user asked for the range: it is listed only then.
    pub(crate) has_range: bool,
    pub(crate) gateway: IpAddr,
    pub(crate) auxiliary: BTreeMap<String, IpAddr>,
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SubnetError {
    #[error("invalid subnet {given}: the address has host bits, did you mean {meant}?")]
    HostBits { given: IpNet, meant: IpNet },
    #[error("subnet {subnet} is too small: it needs room for a gateway and a container")]
    TooSmall { subnet: IpNet },
    #[error("subnet {subnet} cannot be used: it is {why}")]
    Special { subnet: IpNet, why: &'static str },
    #[error("--{option} {value} is not in subnet {subnet}")]
    Outside {
        option: &'static str,
        value: String,
        subnet: IpNet,
    },
    #[error("--{option} {value} is the {which} address of subnet {subnet}")]
    Unusable {
        option: &'static str,
        value: IpAddr,
        which: &'static str,
        subnet: IpNet,
    },
    #[error(
        "no address of {range} is left for a container: the gateway and the --aux-address have all"
    )]
    Full { range: IpNet },
    #[error("--{option} needs a --subnet")]
    NoSubnet { option: &'static str },
}

impl Subnet {
    /// `subnet` with everything else by default: the first address is the gateway.
    pub(crate) fn of(subnet: IpNet) -> Result<Self, SubnetError> {
        check(subnet)?;
        let first = if is_pair(subnet) {
            subnet.network()
        } else {
            // The first IPv6 address is the subnet-router anycast address (RFC 4291, 2.6.1).
            let mut hosts = subnet.hosts().filter(|host| *host != subnet.network());
            hosts.next().ok_or(SubnetError::TooSmall { subnet })?
        };
        Ok(Self {
            subnet,
            range: subnet,
            has_range: false,
            gateway: first,
            auxiliary: BTreeMap::new(),
        })
    }

    /// What the user asked for, with `chosen` where no subnet was given.
    pub(crate) fn from_config(config: &IpamConfig, subnet: IpNet) -> Result<Self, SubnetError> {
        let mut result = Self::of(subnet)?;
        if let Some(range) = config.ip_range {
            if !subnet.contains(&range) {
                return Err(outside("ip-range", range, subnet));
            }
            result.range = range.trunc();
            result.has_range = true;
        }
        if let Some(gateway) = config.gateway {
            result.check_host("gateway", gateway)?;
            result.gateway = gateway;
        }
        for (name, address) in &config.auxiliary_addresses {
            result.check_host("aux-address", *address)?;
            result.auxiliary.insert(name.clone(), *address);
        }
        match result.has_room() {
            true => Ok(result),
            false => Err(SubnetError::Full {
                range: result.range,
            }),
        }
    }

    /// Whether there is an address to hand out. However large the range, the search passes over no
    /// more than the reserved addresses.
    fn has_room(&self) -> bool {
        let ends = [self.range.network(), self.range.broadcast()];
        let mut all = ends.into_iter().chain(self.range.hosts());
        all.any(|address| self.reserved(address).is_none())
    }

    pub(crate) fn config(&self) -> IpamConfig {
        IpamConfig {
            subnet: Some(self.subnet),
            ip_range: self.has_range.then_some(self.range),
            gateway: Some(self.gateway),
            auxiliary_addresses: self.auxiliary.clone(),
        }
    }

    pub(crate) fn is_ipv6(&self) -> bool {
        matches!(self.subnet, IpNet::V6(_))
    }

    pub(crate) fn allocatable(&self) -> IpNet {
        self.range
    }

    /// The gateway's address with the subnet's prefix length.
    pub(crate) fn gateway_net(&self) -> IpNet {
        with_prefix(self.gateway, self.subnet)
    }

    /// `address` with the subnet's prefix length.
    pub(crate) fn host_net(&self, address: IpAddr) -> IpNet {
        with_prefix(address, self.subnet)
    }

    /// Why no endpoint may have `address`, if so.
    pub(crate) fn reserved(&self, address: IpAddr) -> Option<&'static str> {
        if address == self.gateway {
            return Some("the gateway's");
        }
        if self.auxiliary.values().any(|used| *used == address) {
            return Some("an auxiliary address");
        }
        self.boundary(address)
    }

    fn boundary(&self, address: IpAddr) -> Option<&'static str> {
        if is_pair(self.subnet) {
            return None;
        }
        if address == self.subnet.network() {
            return Some("the network address");
        }
        (address.is_ipv4() && address == self.subnet.broadcast()).then_some("the broadcast address")
    }

    fn check_host(&self, option: &'static str, value: IpAddr) -> Result<(), SubnetError> {
        if !self.subnet.contains(&value) {
            return Err(outside(option, value, self.subnet));
        }
        match self.boundary(value) {
            None => Ok(()),
            Some(which) => Err(SubnetError::Unusable {
                option,
                value,
                which: if which.contains("broadcast") {
                    "broadcast"
                } else {
                    "network"
                },
                subnet: self.subnet,
            }),
        }
    }
}

/// The error of an address that an endpoint asked for, in the words of its network.
pub(crate) fn outside_all(address: IpAddr, network: &str, subnets: &[Subnet]) -> IpamError {
    let list: Vec<String> = subnets.iter().map(|s| s.subnet.to_string()).collect();
    IpamError::Outside {
        address,
        network: network.to_owned(),
        subnets: list.join(", "),
    }
}

/// Two addresses, both of them hosts (RFC 3021, RFC 6164): room for a gateway and one container.
fn is_pair(subnet: IpNet) -> bool {
    subnet.max_prefix_len() - subnet.prefix_len() == 1
}

/// No host has a usable address of its own in these (RFC 6890, RFC 5735 section 4).
const SPECIAL: [(IpNet, &str); 9] = [
    (v4([0, 0, 0, 0], 8), "the unspecified range"),
    (v4([127, 0, 0, 0], 8), "loopback"),
    (v4([224, 0, 0, 0], 4), "multicast"),
    (v4([240, 0, 0, 0], 4), "reserved"),
    (v6([0, 0, 0, 0, 0, 0, 0, 0], 128), "the unspecified range"),
    (v6([0, 0, 0, 0, 0, 0, 0, 1], 128), "loopback"),
    (v6([0, 0, 0, 0, 0, 0xffff, 0, 0], 96), "IPv4 in IPv6"),
    (v6([0xfe80, 0, 0, 0, 0, 0, 0, 0], 10), "link-local"),
    (v6([0xff00, 0, 0, 0, 0, 0, 0, 0], 8), "multicast"),
];

const fn v4([a, b, c, d]: [u8; 4], prefix: u8) -> IpNet {
    IpNet::V4(Ipv4Net::new_assert(Ipv4Addr::new(a, b, c, d), prefix))
}

const fn v6([a, b, c, d, e, f, g, h]: [u16; 8], prefix: u8) -> IpNet {
    let address = Ipv6Addr::new(a, b, c, d, e, f, g, h);
    IpNet::V6(Ipv6Net::new_assert(address, prefix))
}

fn check(subnet: IpNet) -> Result<(), SubnetError> {
    if subnet != subnet.trunc() {
        return Err(SubnetError::HostBits {
            given: subnet,
            meant: subnet.trunc(),
        });
    }
    if subnet.prefix_len() == subnet.max_prefix_len() {
        return Err(SubnetError::TooSmall { subnet });
    }
    let special = |why| Err(SubnetError::Special { subnet, why });
    if subnet.prefix_len() < 8 {
        return special("shorter than /8");
    }
    let meets = |(range, _): &&(IpNet, _)| range.contains(&subnet) || subnet.contains(range);
    match SPECIAL.iter().find(meets) {
        Some((_, why)) => special(why),
        None => Ok(()),
    }
}

fn outside(option: &'static str, value: impl ToString, subnet: IpNet) -> SubnetError {
    SubnetError::Outside {
        option,
        value: value.to_string(),
        subnet,
    }
}

fn with_prefix(address: IpAddr, subnet: IpNet) -> IpNet {
    IpNet::new(address, subnet.prefix_len()).expect("the prefix length of the address's subnet")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(json: &str) -> IpamConfig {
        serde_json::from_str(json).unwrap()
    }

    #[test]
    fn defaults_follow_docker() {
        let subnet = Subnet::of("172.20.0.0/16".parse().unwrap()).unwrap();
        assert_eq!(subnet.gateway_net().to_string(), "172.20.0.1/16");
        let subnet = Subnet::of("fd00:1::/64".parse().unwrap()).unwrap();
        assert_eq!(subnet.gateway_net().to_string(), "fd00:1::1/64");
        let pair = Subnet::of("10.0.0.4/31".parse().unwrap()).unwrap();
        assert_eq!(pair.gateway_net().to_string(), "10.0.0.4/31");
        assert_eq!(pair.reserved("10.0.0.5".parse().unwrap()), None);
    }

    #[test]
    fn bad_subnets_say_what_is_wrong() {
        let check = |subnet: &str, rest: &str, message: &str| {
            let error = Subnet::from_config(&config(rest), subnet.parse().unwrap()).unwrap_err();
            assert_eq!(error.to_string(), message);
        };
        check(
            "10.0.0.1/24",
            "{}",
            "invalid subnet 10.0.0.1/24: the address has host bits, did you mean 10.0.0.0/24?",
        );
        check(
            "10.0.0.0/32",
            "{}",
            "subnet 10.0.0.0/32 is too small: it needs room for a gateway and a container",
        );
        check(
            "224.0.0.0/8",
            "{}",
            "subnet 224.0.0.0/8 cannot be used: it is multicast",
        );
        check(
            "10.0.0.0/24",
            r#"{"Gateway":"10.0.1.1"}"#,
            "--gateway 10.0.1.1 is not in subnet 10.0.0.0/24",
        );
        check(
            "10.0.0.0/24",
            r#"{"Gateway":"10.0.0.255"}"#,
            "--gateway 10.0.0.255 is the broadcast address of subnet 10.0.0.0/24",
        );
        check(
            "10.0.0.0/24",
            r#"{"IPRange":"10.0.0.0/23"}"#,
            "--ip-range 10.0.0.0/23 is not in subnet 10.0.0.0/24",
        );
        check(
            "10.0.0.0/24",
            r#"{"AuxiliaryAddresses":{"router":"10.9.9.9"}}"#,
            "--aux-address 10.9.9.9 is not in subnet 10.0.0.0/24",
        );
    }
}
