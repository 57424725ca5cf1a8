//! Choosing subnets for networks and addresses for endpoints.
//!
//! Nothing is stored but how far the walk through a subnet has come: what is taken is derived from
//! the networks and endpoints that exist, so that no bitmap can drift from them.
//!
//! The rules of [`Walks::next`]:
//!
//! 1. The network and broadcast addresses, the gateway and the auxiliary addresses are never given
//!    out, nor is anything outside the range, if the subnet has one.
//! 2. Next is the first address after the one given out last that is nobody's; after the top comes
//!    the bottom.
//! 3. A freed address rests: it is passed over while another one is free, so that peers' neighbour
//!    caches and stale connections get time to forget it. When only resting ones are left, the one
//!    that was freed first is next.
//!
//! An address that is asked for by name is refused only while it is reserved or somebody's.

use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use api::id::Id;
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

    /// Docker's for a swarm: 10.0.0.0/8 in blocks of 256.
    pub fn of_overlays() -> Vec<Self> {
        let base = IpNet::V4(Ipv4Net::new_assert(Ipv4Addr::new(10, 0, 0, 0), 8));
        vec![Self { base, size: 24 }]
    }

    /// The first subnet of the pool that is clear of everything taken, or what the last one clashes
    /// with. However large the pool, there are at most as many tries as there are taken ranges.
    fn first_clear(self, taken: &[Taken]) -> Result<IpNet, &Taken> {
        let longest = self.base.max_prefix_len();
        let size = self.size.clamp(self.base.prefix_len(), longest);
        let (first, last) = bounds(self.base);
        let step = 1_u128.checked_shl(u32::from(longest - size));
        let mut start = first;
        loop {
            let candidate = IpNet::new(from_number(start, self.base.addr()), size)
                .expect("no longer than the longest prefix");
            let Some(clash) = clash(candidate, taken) else {
                return Ok(candidate);
            };
            let passed = bounds(clash.range).1.max(bounds(candidate).1);
            let next = passed
                .checked_add(1)
                .zip(step)
                .and_then(|(next, step)| next.checked_next_multiple_of(step));
            match next {
                Some(next) if next <= last => start = next,
                _end => return Err(clash),
            }
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
    #[error("address {address} already in use on network {network} by {holder}")]
    InUse {
        address: IpAddr,
        network: String,
        holder: String,
    },
    #[error(
        "network {network} has no free address left in {range}: remove containers, or use a network \
         with a larger --subnet"
    )]
    Exhausted { network: String, range: IpNet },
}

/// The first subnet of `family` in the pools that is clear of everything taken.
pub(crate) fn choose_subnet(pools: &[Pool], v6: bool, taken: &[Taken]) -> Result<IpNet, IpamError> {
    let family = if v6 { "IPv6" } else { "IPv4" };
    let mut last_clash = None;
    for pool in pools {
        if matches!(pool.base, IpNet::V6(_)) != v6 {
            continue;
        }
        match pool.first_clear(taken) {
            Ok(subnet) => return Ok(subnet),
            Err(clash) => last_clash = Some(clash.clone()),
        }
    }
    Err(match last_clash {
        Some(taken) => IpamError::NoFreeSubnet { family, taken },
        None => IpamError::NoPool { family },
    })
}

/// One of several /64 of RFC 4193 whose 40-bit global id is random, as its section 3.2 asks.
pub(crate) fn local_subnet(random: [u8; 5], number: usize) -> IpNet {
    let mut octets = [0; 16];
    octets[0] = 0xfd;
    octets[1..6].copy_from_slice(&random);
    // As many as there are numbers; who asks for more hears that they overlap.
    let number = u16::try_from(number).unwrap_or_default();
    octets[6..8].copy_from_slice(&number.to_be_bytes());
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

/// Freed addresses that are remembered for each subnet. In a range with more than these, the walk
/// itself keeps away from what was freed long ago.
const MAX_RESTING: usize = 256;

/// How far the walk through each subnet of each network has come, and what rests there.
#[derive(Debug, Default)]
pub(crate) struct Walks(BTreeMap<(Id, IpNet), Walk>);

#[derive(Debug, Default)]
struct Walk {
    last: Option<IpAddr>,
    /// In the order in which they were freed.
    resting: VecDeque<IpAddr>,
}

impl Walks {
    /// The address to give out next; `None` when all are used.
    pub(crate) fn next(
        &self,
        network: &Id,
        subnet: &Subnet,
        is_used: impl Fn(IpAddr) -> bool,
    ) -> Option<IpAddr> {
        let start = Walk::default();
        let walk = self.0.get(&(network.clone(), subnet.subnet));
        walk.unwrap_or(&start).next(subnet, is_used)
    }

    /// Notes that `address` was given out, chosen or asked for.
    pub(crate) fn given(&mut self, network: &Id, subnet: IpNet, address: IpAddr) {
        let walk = self.0.entry((network.clone(), subnet)).or_default();
        walk.last = Some(address);
        walk.resting.retain(|resting| *resting != address);
    }

    /// Lets `address` rest.
    pub(crate) fn freed(&mut self, network: &Id, subnet: IpNet, address: IpAddr) {
        let walk = self.0.entry((network.clone(), subnet)).or_default();
        walk.resting.push_back(address);
        if walk.resting.len() > MAX_RESTING {
            walk.resting.pop_front();
        }
    }

    /// Forgets a network that is gone.
    pub(crate) fn forget(&mut self, network: &Id) {
        self.0.retain(|(id, _subnet), _walk| id != network);
    }
}

impl Walk {
    fn next(&self, subnet: &Subnet, is_used: impl Fn(IpAddr) -> bool) -> Option<IpAddr> {
        let range = subnet.allocatable();
        let (low, high) = bounds(range);
        let start = match self.last.map(to_number) {
            Some(last) if (low..high).contains(&last) => last + 1,
            _ => low,
        };
        let is_free = |address: &IpAddr| subnet.reserved(*address).is_none() && !is_used(*address);
        // However large the range, one more candidate than there are used and resting addresses
        // must include a free one, if there is any.
        (start..=high)
            .chain(low..start)
            .map(|number| from_number(number, range.addr()))
            .find(|address| !self.resting.contains(address) && is_free(address))
            .or_else(|| {
                let mut resting = self.resting.iter().copied();
                resting.find(|address| range.contains(address) && is_free(address))
            })
    }
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
mod tests;
