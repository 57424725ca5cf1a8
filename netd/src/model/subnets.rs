//! The subnets of a new network: asked for, or cut from the pools.

use api::net::{IpamConfig, NetworkCreate};
use ipnet::IpNet;

use super::driver::{Driver, Options};
use super::ipam::{self, IpamError, Taken, TakenBy};
use super::network::{NetworkError, NewNetwork};
use super::subnet::{Subnet, SubnetError};

/// The address families of a network.
#[derive(Debug, Clone, Copy)]
struct Families {
    v4: bool,
    v6: bool,
}

impl Families {
    /// As asked for by members, which win, or by options; where neither says so, a subnet of IPv6
    /// asks for it, too.
    fn of(request: &NetworkCreate, options: &Options<'_>) -> Result<Self, NetworkError> {
        let v4 = match request.enable_ipv4 {
            Some(v4) => v4,
            None => options.enables(false)?.unwrap_or(true),
        };
        let v6 = match request.enable_ipv6 {
            Some(v6) => v6,
            None => match options.enables(true)? {
                Some(v6) => v6,
                None => asked(request).any(|subnet| subnet.addr().is_ipv6()),
            },
        };
        for (on, is_v6, family) in [(v4, false, "IPv4"), (v6, true, "IPv6")] {
            let given = asked(request).find(|subnet| subnet.addr().is_ipv6() == is_v6);
            if let (false, Some(subnet)) = (on, given) {
                return Err(NetworkError::FamilyDisabled { subnet, family });
            }
        }
        if !v4 && !v6 {
            let name = request.name.chars().take(64).collect();
            return Err(NetworkError::NoFamily(name));
        }
        Ok(Self { v4, v6 })
    }
}

/// The subnets asked for, and one from the pools for a family that has none; of an overlay as many as
/// the other family has.
pub(crate) fn choose(
    request: &NetworkCreate,
    driver: &Driver,
    new: &NewNetwork<'_>,
) -> Result<Vec<Subnet>, NetworkError> {
    let families = Families::of(request, &Options(&request.options))?;
    let own = |range: IpNet| Taken {
        range,
        by: TakenBy::Network(request.name.clone()),
    };
    let mut taken = new.taken.to_vec();
    let mut result: Vec<Subnet> = Vec::new();
    let mut open = IpamConfig::default();
    for config in &request.ipam.config {
        let Some(subnet) = config.subnet else {
            check_open(config)?;
            open = config.clone();
            continue;
        };
        let checked = Subnet::from_config(config, subnet)?;
        ipam::check_clear(subnet, &in_the_way(driver, &taken))?;
        taken.push(own(subnet));
        result.push(checked);
    }
    let count = |v6: bool| result.iter().filter(|s| s.is_ipv6() == v6).count();
    let (v4, v6) = (count(false), count(true));
    let due = match driver.overlay() {
        None => 1,
        Some(_) if families.v4 && families.v6 && v4 > 0 && v6 > 0 && v4 != v6 => {
            return Err(NetworkError::Unpaired { v4, v6 });
        }
        Some(_) => of_one_family(request),
    };
    if families.v4 && v4 == 0 {
        for at in 0..due {
            let chosen = ipam::choose_subnet(new.pools, false, &taken)?;
            taken.push(own(chosen));
            result.insert(at, Subnet::from_config(&open, chosen)?);
        }
    }
    if families.v6 && v6 == 0 {
        for at in 0..due {
            let chosen = match ipam::choose_subnet(new.pools, true, &taken) {
                Err(IpamError::NoPool { .. }) => ipam::local_subnet(new.random, at),
                chosen => chosen?,
            };
            ipam::check_clear(chosen, &taken)?;
            taken.push(own(chosen));
            result.push(Subnet::of(chosen)?);
        }
    }
    Ok(result)
}

fn asked(request: &NetworkCreate) -> impl Iterator<Item = IpNet> {
    let config = request.ipam.config.iter();
    config.filter_map(|config| config.subnet)
}

/// How many subnets of one family are asked for, at least one.
pub(crate) fn of_one_family(request: &NetworkCreate) -> usize {
    let v6 = asked(request)
        .filter(|subnet| subnet.addr().is_ipv6())
        .count();
    let v4 = asked(request).count() - v6;
    v4.max(v6).max(1)
}

/// What a subnet that was asked for must be clear of. A bridge gives the host a route to its
/// subnet; the subnet of a network with a parent is the parent's, that of a pool is that of others'
/// interfaces, and the host may have a route to either by right.
fn in_the_way(driver: &Driver, taken: &[Taken]) -> Vec<Taken> {
    let routed = driver.bridge().is_some();
    let counts = |taken: &&Taken| routed || matches!(taken.by, TakenBy::Network(_));
    taken.iter().filter(counts).cloned().collect()
}

/// A configuration without a subnet can carry nothing that depends on one.
fn check_open(config: &IpamConfig) -> Result<(), SubnetError> {
    let needs = |option| Err(SubnetError::NoSubnet { option });
    if config.ip_range.is_some() {
        needs("ip-range")
    } else if config.gateway.is_some() {
        needs("gateway")
    } else if !config.auxiliary_addresses.is_empty() {
        needs("aux-address")
    } else {
        Ok(())
    }
}
