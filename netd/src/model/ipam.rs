//! Choosing subnets for networks and addresses for endpoints.
//!
//! Nothing is stored: what is taken is derived from the networks and endpoints that exist, so that
//! no bitmap can drift from them. Addresses are handed out in ascending order and start again at
//! the bottom, so that a freed one rests as long as possible: peers' neighbour caches and stale
//! connections get time to forget it.

use std::collections::BTreeSet;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use serde::Deserialize;

use super::subnet::Subnet;

/// A range that subnets of one size are cut from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Pool {
    pub base: IpNet,
    /// Prefix length of each subnet.
    pub size: u8,
}

impl Pool {
    /// Docker's: 172.17.0.0/16 to 172.31.0.0/16, then 192.168.0.0/20 blocks.
    pub fn defaults() -> Vec<Self> {
        let v4 = |a, b, prefix, size| Self {
            base: IpNet::V4(Ipv4Net::new_assert(Ipv4Addr::new(a, b, 0, 0), prefix)),
            size,
        };
        (17..32)
            .map(|second| v4(172, second, 16, 16))
            .chain([v4(192, 168, 16, 20)])
            .collect()
    }

    fn subnets(self) -> Box<dyn Iterator<Item = IpNet>> {
        match (self.base, self.base.subnets(self.size)) {
            (_, Ok(subnets)) => Box::new(subnets),
            // A size shorter than the base's prefix: the base is all there is.
            (base, Err(_too_short)) => Box::new(std::iter::once(base.trunc())),
        }
    }
}

/// A range that a new subnet must keep clear of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Taken {
    pub range: IpNet,
    pub by: TakenBy,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TakenBy {
    Network(String),
    Route(String),
}

impl fmt::Display for Taken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.by {
            TakenBy::Network(name) => write!(f, "network {name} ({})", self.range),
            TakenBy::Route(link) => write!(f, "the host's route {} dev {link}", self.range),
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum IpamError {
    #[error("subnet {subnet} overlaps {taken}: choose another --subnet")]
    Overlap { subnet: IpNet, taken: Taken },
    #[error(
        "no free {family} subnet is left in the address pools, the last one overlaps {taken}: remove \
         unused networks, or give a --subnet"
    )]
    NoFreeSubnet { family: &'static str, taken: Taken },
    #[error("no {family} address pool is configured: give a --subnet")]
    NoPool { family: &'static str },
    #[error("address {address} is not in a subnet of network {network}: {subnets}")]
    Outside {
        address: IpAddr,
        network: String,
        subnets: String,
    },
    #[error("address {address} of network {network} cannot be given out: it is {why}")]
    Reserved {
        address: IpAddr,
        network: String,
        why: &'static str,
    },
    #[error("address {address} already in use on network {network} by container {container}")]
    InUse {
        address: IpAddr,
        network: String,
        container: String,
    },
    #[error("network {network} has no free address left in {range}")]
    Exhausted { network: String, range: IpNet },
}

/// The first subnet of `family` in the pools that is clear of everything taken.
pub(crate) fn choose_subnet(pools: &[Pool], v6: bool, taken: &[Taken]) -> Result<IpNet, IpamError> {
    let family = if v6 { "IPv6" } else { "IPv4" };
    let mut last_clash = None;
    let candidates = pools
        .iter()
        .filter(|pool| matches!(pool.base, IpNet::V6(_)) == v6)
        .flat_map(|pool| pool.subnets());
    for candidate in candidates {
        match clash(candidate, taken) {
            None => return Ok(candidate),
            Some(taken) => last_clash = Some(taken.clone()),
        }
    }
    Err(match last_clash {
        Some(taken) => IpamError::NoFreeSubnet { family, taken },
        None => IpamError::NoPool { family },
    })
}

/// A /64 of RFC 4193 whose 40-bit global id is random, as its section 3.2 asks.
pub(crate) fn local_subnet(random: [u8; 5]) -> IpNet {
    let mut octets = [0; 16];
    octets[0] = 0xfd;
    octets[1..6].copy_from_slice(&random);
    IpNet::V6(Ipv6Net::new_assert(Ipv6Addr::from(octets), 64))
}

/// # Errors
/// [`IpamError::Overlap`] naming what `subnet` is not clear of.
pub(crate) fn check_clear(subnet: IpNet, taken: &[Taken]) -> Result<(), IpamError> {
    match clash(subnet, taken) {
        None => Ok(()),
        Some(taken) => Err(IpamError::Overlap {
            subnet,
            taken: taken.clone(),
        }),
    }
}

fn clash(subnet: IpNet, taken: &[Taken]) -> Option<&Taken> {
    taken
        .iter()
        .find(|taken| taken.range.contains(&subnet) || subnet.contains(&taken.range))
}

/// The next address of `subnet` after `last` that is nobody's; `None` when all are used.
pub(crate) fn next_address(
    subnet: &Subnet,
    used: &BTreeSet<IpAddr>,
    last: Option<IpAddr>,
) -> Option<IpAddr> {
    let (low, high) = bounds(subnet.allocatable());
    let start = match last.map(to_number) {
        Some(last) if (low..high).contains(&last) => last + 1,
        _ => low,
    };
    // However large the range, one more candidate than there are used addresses must include a
    // free one, if there is any.
    (start..=high)
        .chain(low..start)
        .map(|number| from_number(number, subnet.range.addr()))
        .find(|address| subnet.reserved(*address).is_none() && !used.contains(address))
}

fn bounds(range: IpNet) -> (u128, u128) {
    (to_number(range.network()), to_number(range.broadcast()))
}

fn to_number(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(address) => u128::from(address.to_bits()),
        IpAddr::V6(address) => address.to_bits(),
    }
}

/// The address of `like`'s family.
fn from_number(number: u128, like: IpAddr) -> IpAddr {
    match like {
        IpAddr::V4(_) => {
            Ipv4Addr::from_bits(u32::try_from(number).expect("from an IPv4 range")).into()
        }
        IpAddr::V6(_) => Ipv6Addr::from_bits(number).into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn taken(range: &str, by: TakenBy) -> Taken {
        Taken {
            range: range.parse().unwrap(),
            by,
        }
    }

    #[test]
    fn the_first_clear_pool_is_chosen() {
        let pools = Pool::defaults();
        let network = |range| taken(range, TakenBy::Network("n1".into()));
        let check = |taken: &[Taken], expected: &str| {
            let chosen = choose_subnet(&pools, false, taken).unwrap();
            assert_eq!(chosen.to_string(), expected);
        };
        check(&[], "172.17.0.0/16");
        check(&[network("172.17.0.0/16")], "172.18.0.0/16");
        // A host route that is wider or narrower than the candidate counts alike.
        check(&[network("172.16.0.0/14")], "172.20.0.0/16");
        check(&[network("172.17.255.0/24")], "172.18.0.0/16");
        check(&[network("172.16.0.0/12")], "192.168.0.0/20");
        check(
            &[network("172.16.0.0/12"), network("192.168.1.0/24")],
            "192.168.16.0/20",
        );
    }

    #[test]
    fn exhausted_pools_name_the_last_clash() {
        let everything = [
            taken("172.16.0.0/12", TakenBy::Network("n1".into())),
            taken("192.168.0.0/16", TakenBy::Route("tun0".into())),
        ];
        let error = choose_subnet(&Pool::defaults(), false, &everything).unwrap_err();
        assert!(
            error
                .to_string()
                .contains("overlaps the host's route 192.168.0.0/16 dev tun0"),
            "{error}"
        );
        let error = choose_subnet(&Pool::defaults(), true, &[]).unwrap_err();
        assert_eq!(error, IpamError::NoPool { family: "IPv6" });
    }

    #[test]
    fn an_overlap_names_both_sides() {
        let network = [taken("10.1.0.0/16", TakenBy::Network("shop".into()))];
        let error = check_clear("10.1.2.0/24".parse().unwrap(), &network).unwrap_err();
        assert_eq!(
            error.to_string(),
            "subnet 10.1.2.0/24 overlaps network shop (10.1.0.0/16): choose another --subnet"
        );
    }

    #[test]
    fn addresses_ascend_and_wrap_past_the_reserved_ones() {
        let subnet = Subnet::of("10.0.0.0/29".parse().unwrap()).unwrap();
        let mut last = None;
        let mut given = Vec::new();
        for _ in 0..7 {
            last = next_address(&subnet, &BTreeSet::new(), last);
            given.push(last.unwrap().to_string());
        }
        // .0 is the network, .1 the gateway, .7 the broadcast address.
        let expected = ["2", "3", "4", "5", "6", "2", "3"].map(|end| format!("10.0.0.{end}"));
        assert_eq!(given, expected);
    }

    #[test]
    fn an_ip_range_limits_what_is_given_out() {
        let mut subnet = Subnet::of("10.0.0.0/24".parse().unwrap()).unwrap();
        subnet.range = "10.0.0.128/30".parse().unwrap();
        let mut used = BTreeSet::new();
        while let Some(address) = next_address(&subnet, &used, None) {
            used.insert(address);
        }
        assert_eq!(used.len(), 4, "{used:?}");
    }

    proptest! {
        #[test]
        fn every_address_is_given_once_and_none_is_reserved(
            prefix in 24u8..=30,
            v6: bool,
            last in any::<u8>(),
        ) {
            let subnet = if v6 {
                format!("fd00::/{}", prefix + 96)
            } else {
                format!("10.0.0.0/{prefix}")
            };
            let subnet = Subnet::of(subnet.parse().unwrap()).unwrap();
            let mut used = BTreeSet::new();
            let mut last: Option<IpAddr> = Some(Ipv4Addr::new(10, 0, 0, last).into());
            while let Some(address) = next_address(&subnet, &used, last) {
                prop_assert!(subnet.subnet.contains(&address));
                prop_assert_eq!(subnet.reserved(address), None);
                prop_assert!(used.insert(address), "given twice");
                last = Some(address);
            }
            // IPv4 also keeps the broadcast address.
            let kept = if v6 { 2 } else { 3 };
            prop_assert_eq!(used.len(), (1usize << (32 - prefix)) - kept);
        }
    }
}
