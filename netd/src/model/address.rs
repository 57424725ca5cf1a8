//! Which addresses an endpoint gets: asked for, chosen, or given by somebody else's management.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};

use api::id::{Id, MacAddr};
use api::net::{AttachRequest, EndpointAddress, LinkBy};
use ipnet::IpNet;

use super::endpoint::{EndpointError, NewEndpoint};
use super::endpoints::Endpoints;
use super::ipam::{IpamError, Walks};
use super::network::Network;
use super::peer::Peers;
use super::services::Services;
use super::subnet::{Subnet, outside_all};

/// Everybody who has addresses.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Holders<'a> {
    pub(crate) endpoints: &'a Endpoints,
    pub(crate) services: &'a Services,
    /// On other nodes.
    pub(crate) peers: &'a BTreeMap<Id, Peers>,
}

impl Holders<'_> {
    fn has(&self, network: &Network, address: IpAddr) -> bool {
        self.endpoints.holder(&network.id, address).is_some()
            || self.services.holder(&network.id, address).is_some()
            || self.elsewhere(network, address).is_some()
    }

    fn elsewhere(&self, network: &Network, address: IpAddr) -> Option<&str> {
        self.peers.get(&network.id)?.holder(address)
    }

    /// Who has the address, for people.
    fn name(&self, network: &Network, address: IpAddr) -> Option<String> {
        if let Some(endpoint) = self.endpoints.holder(&network.id, address) {
            return Some(format!("container {}", endpoint.display_name()));
        }
        if let Some(holder) = self.elsewhere(network, address) {
            return Some(format!("{holder} of another node"));
        }
        let service = self.services.holder(&network.id, address)?;
        Some(format!("service {}", service.spec.name))
    }
}

/// One address of each family that the network has.
pub(crate) fn choose(
    request: &AttachRequest,
    network: &Network,
    new: &NewEndpoint<'_>,
) -> Result<Vec<EndpointAddress>, EndpointError> {
    if !request.addresses.is_empty() {
        return given_addresses(request, network, new);
    }
    let asked = [
        request.ipv4.map(IpAddr::from),
        request.ipv6.map(IpAddr::from),
    ];
    let [v4, v6] = of_one_segment(network, asked, new)?;
    if let (Some(address), None) = (request.ipv4, &v4) {
        return Err(EndpointError::NoIpv4 {
            network: network.name.to_string(),
            address,
        });
    }
    if let (Some(address), None) = (request.ipv6, &v6) {
        return Err(EndpointError::NoIpv6 {
            network: network.name.to_string(),
            address,
        });
    }
    Ok(v4.into_iter().chain(v6).collect())
}

/// An address of each family: both are behind one interface, which is on the first segment that has
/// room for both, unless one of them is asked for.
fn of_one_segment(
    network: &Network,
    asked: [Option<IpAddr>; 2],
    new: &NewEndpoint<'_>,
) -> Result<[Option<EndpointAddress>; 2], EndpointError> {
    let choose = |segment: usize| {
        let [v4, v6] = asked;
        Ok([
            address((network, segment), false, v4, new)?,
            address((network, segment), true, v6, new)?,
        ])
    };
    let segments = asked.map(|asked| asked.map(|address| network.segment_of(address)));
    match (segments, asked) {
        ([Some(one), Some(other)], [Some(v4), Some(v6)]) if one != other => {
            let network = network.name.to_string();
            return Err(EndpointError::Apart { network, v4, v6 });
        }
        ([Some(segment), _] | [None, Some(segment)], _) => return choose(segment),
        _ => {}
    }
    let mut chosen = choose(0);
    for segment in 1..network.segments() {
        if !matches!(
            chosen,
            Err(EndpointError::Ipam(IpamError::Exhausted { .. }))
        ) {
            break;
        }
        chosen = choose(segment);
    }
    chosen
}

/// Whether each family has an address left.
pub(crate) fn check_room(network: &Network, holders: Holders<'_>) -> Result<(), IpamError> {
    let is_used = |address: IpAddr| holders.has(network, address);
    for v6 in [false, true] {
        let mut subnets = network
            .subnets
            .iter()
            .filter(|subnet| subnet.subnet.addr().is_ipv6() == v6)
            .peekable();
        let Some(first) = subnets.peek().copied() else {
            continue;
        };
        let walks = Walks::default();
        if !subnets.any(|subnet| walks.next(&network.id, subnet, is_used).is_some()) {
            return Err(IpamError::Exhausted {
                network: network.name.to_string(),
                range: first.range,
            });
        }
    }
    Ok(())
}

/// Somebody else's address management chose them. On an interface of ours they must be ones that
/// the network's bridge reaches.
fn given_addresses(
    request: &AttachRequest,
    network: &Network,
    new: &NewEndpoint<'_>,
) -> Result<Vec<EndpointAddress>, EndpointError> {
    let count = |v6: bool| {
        let all = request.addresses.iter();
        all.filter(|a| a.address.addr().is_ipv6() == v6).count()
    };
    if count(false) > 1 || count(true) > 1 {
        return Err(EndpointError::Addresses {
            container: request.container_id.clone(),
            given: request.addresses.len(),
        });
    }
    for given in &request.addresses {
        let address = given.address.addr();
        let subnet = network.subnets.iter().find(|s| s.subnet.contains(&address));
        let reserved = match (subnet, request.link) {
            (Some(subnet), _) => subnet.reserved(address),
            (None, LinkBy::Others) => None,
            (None, LinkBy::Hawser) => {
                let error = outside_all(address, network.name.as_str(), &network.subnets);
                return Err(error.into());
            }
        };
        check_free(address, reserved, network, new.holders)?;
    }
    Ok(request.addresses.clone())
}

fn address(
    (network, segment): (&Network, usize),
    v6: bool,
    wanted: Option<IpAddr>,
    new: &NewEndpoint<'_>,
) -> Result<Option<EndpointAddress>, EndpointError> {
    let subnets = network.subnets_in(segment);
    let subnets: Vec<_> = subnets.filter(|subnet| subnet.is_ipv6() == v6).collect();
    let Some(first) = subnets.first() else {
        return Ok(None);
    };
    let (subnet, address) = match wanted {
        Some(wanted) => {
            let subnet = subnets
                .iter()
                .find(|subnet| subnet.subnet.contains(&wanted))
                .ok_or_else(|| outside_all(wanted, network.name.as_str(), &network.subnets))?;
            check_free(wanted, subnet.reserved(wanted), network, new.holders)?;
            (*subnet, wanted)
        }
        None => {
            free(network, &subnets, new.walks, new.holders).ok_or_else(|| IpamError::Exhausted {
                network: network.name.to_string(),
                range: first.range,
            })?
        }
    };
    Ok(Some(EndpointAddress {
        address: subnet.host_net(address),
        gateway: (network.has_way_out(v6) && network.driver.has_gateway())
            .then_some(subnet.gateway),
    }))
}

/// The next address of these subnets that is nobody's.
fn free<'s>(
    network: &Network,
    subnets: &[&'s Subnet],
    walks: &Walks,
    holders: Holders<'_>,
) -> Option<(&'s Subnet, IpAddr)> {
    let is_used = |address: IpAddr| holders.has(network, address);
    subnets.iter().find_map(|subnet| {
        let address = walks.next(&network.id, subnet, is_used)?;
        Some((*subnet, address))
    })
}

/// An address of each family that the network has, for a service.
pub(crate) fn for_service(
    network: &Network,
    walks: &Walks,
    holders: Holders<'_>,
) -> Result<Vec<IpNet>, IpamError> {
    let mut chosen = Vec::new();
    for v6 in [false, true] {
        let subnets = network.subnets.iter();
        let subnets: Vec<&Subnet> = subnets.filter(|subnet| subnet.is_ipv6() == v6).collect();
        let Some(first) = subnets.first() else {
            continue;
        };
        let (subnet, address) =
            free(network, &subnets, walks, holders).ok_or_else(|| IpamError::Exhausted {
                network: network.name.to_string(),
                range: first.range,
            })?;
        chosen.push(subnet.host_net(address));
    }
    Ok(chosen)
}

fn check_free(
    address: IpAddr,
    reserved: Option<&'static str>,
    network: &Network,
    holders: Holders<'_>,
) -> Result<(), IpamError> {
    let name = network.name.to_string();
    if let Some(why) = reserved {
        return Err(IpamError::Reserved {
            address,
            network: name,
            why,
        });
    }
    match holders.name(network, address) {
        None => Ok(()),
        Some(holder) => Err(IpamError::InUse {
            address,
            network: name,
            holder,
        }),
    }
}

/// Two interfaces of one network must not have one link address.
pub(crate) fn check_mac(
    mac: MacAddr,
    network: &Network,
    others: &Endpoints,
) -> Result<MacAddr, EndpointError> {
    let mut neighbours = others.values().filter(|e| e.is_on(&network.id));
    match neighbours.find(|e| e.attachment.mac == Some(mac)) {
        None => Ok(mac),
        Some(holder) => Err(EndpointError::MacInUse {
            mac,
            container: holder.display_name().to_owned(),
            network: network.name.to_string(),
        }),
    }
}

/// The link address of an endpoint that is asked for none: that of its IPv4 address, or else of its
/// IPv6 address.
pub(crate) fn derived_mac(addresses: &[EndpointAddress]) -> MacAddr {
    let first = addresses.first().map(|a| a.address.addr());
    mac_of(first.unwrap_or(Ipv4Addr::UNSPECIFIED.into()))
}

/// Docker's rule: 02:42 and the IPv4 address, so that an address that is given out again comes
/// with the link address that neighbours remember. Of an IPv6 address, its end.
pub(crate) fn mac_of(address: IpAddr) -> MacAddr {
    let [a, b, c, d] = match address {
        IpAddr::V4(address) => address.octets(),
        IpAddr::V6(address) => {
            let [.., a, b, c, d] = address.octets();
            [a, b, c, d]
        }
    };
    MacAddr([0x02, 0x42, a, b, c, d])
}
