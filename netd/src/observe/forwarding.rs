//! Reading where a VXLAN interface leads.

use std::io;
use std::net::IpAddr;

use api::id::MacAddr;
use netlink_packet_route::neighbour::{
    NeighbourAddress, NeighbourAttribute, NeighbourFlags, NeighbourMessage, NeighbourState,
};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};

use super::mac;
use crate::model::forwarding::Forwarding;
use crate::netlink::Rtnl;

/// The static entries of the interface and, where it is a bridge's port, of the bridge.
pub(super) fn of(rtnl: &mut Rtnl, link: u32, bridge: u32) -> io::Result<Forwarding> {
    let mut found = Forwarding::default();
    let mut request = NeighbourMessage::default();
    request.header.family = AddressFamily::Bridge;
    request.header.ifindex = link;
    for entry in neighbours(rtnl, request)? {
        let Some(mac) = link_address_of(&entry) else {
            continue;
        };
        let (flags, state) = (entry.header.flags, entry.header.state);
        if flags.contains(NeighbourFlags::Own) {
            found
                .nodes
                .extend(destination(&entry).map(|node| (mac, node)));
        // The interface's own address is a permanent entry.
        } else if state == NeighbourState::Noarp {
            found.behind.insert(mac);
        }
    }
    for family in [AddressFamily::Inet, AddressFamily::Inet6] {
        if bridge == 0 {
            break;
        }
        let mut request = NeighbourMessage::default();
        request.header.family = family;
        request.attributes.push(NeighbourAttribute::IfIndex(bridge));
        let permanent = |entry: &NeighbourMessage| entry.header.state == NeighbourState::Permanent;
        let entries = neighbours(rtnl, request)?;
        let entries = entries.into_iter().filter(permanent);
        let pairs =
            entries.filter_map(|entry| Some((destination(&entry)?, link_address_of(&entry)?)));
        found.neighbours.extend(pairs);
    }
    Ok(found)
}

fn neighbours(rtnl: &mut Rtnl, request: NeighbourMessage) -> io::Result<Vec<NeighbourMessage>> {
    let answers = rtnl.dump(RouteNetlinkMessage::GetNeighbour(request))?;
    let entries = answers.into_iter().filter_map(|answer| match answer {
        RouteNetlinkMessage::NewNeighbour(entry) => Some(entry),
        _ => None,
    });
    Ok(entries.collect())
}

pub(crate) fn link_address_of(entry: &NeighbourMessage) -> Option<MacAddr> {
    entry.attributes.iter().find_map(|a| match a {
        NeighbourAttribute::LinkLayerAddress(octets) => mac(octets),
        _ => None,
    })
}

/// The address of a neighbour, or of the node that a link address is on: these are told as mere
/// bytes.
pub(crate) fn destination(entry: &NeighbourMessage) -> Option<IpAddr> {
    let address = entry.attributes.iter().find_map(|a| match a {
        NeighbourAttribute::Destination(address) => Some(address),
        _ => None,
    })?;
    match address {
        NeighbourAddress::Inet(address) => Some((*address).into()),
        NeighbourAddress::Inet6(address) => Some((*address).into()),
        NeighbourAddress::Other(bytes) => {
            let v4 = <[u8; 4]>::try_from(bytes.as_slice()).map(IpAddr::from);
            let v6 = || <[u8; 16]>::try_from(bytes.as_slice()).map(IpAddr::from);
            v4.or_else(|_| v6()).ok()
        }
        _ => None,
    }
}
