//! Reading the kernel: links, addresses, routes, and a sandbox from inside.

mod forwarding;

pub(crate) use forwarding::{destination, link_address_of};

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use api::id::{IfName, MacAddr};
use ipnet::IpNet;
use netlink_packet_route::address::{AddressAttribute, AddressMessage, AddressScope};
use netlink_packet_route::link::{
    InfoBridgePort, InfoData, InfoPortData, InfoVxlan, LinkAttribute, LinkExtentMask, LinkFlags,
    LinkInfo, LinkMessage,
};
use netlink_packet_route::route::{
    RouteAddress, RouteAttribute, RouteHeader, RouteMessage, RouteType,
};
use netlink_packet_route::tc::{TcHandle, TcMessage};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};

use crate::apply::vxlan;
use crate::bpf::{FILTER_HANDLE, FILTER_PRIORITY};
use crate::model::driver::{LINK_PREFIX, Tunnel};
use crate::model::observed::{Address, InsideLink, Link, Observed, Vxlan};
use crate::netlink::Rtnl;
use crate::{model, wireguard};

/// Links, addresses and routes of the socket's namespace; the rest stays as it is by default.
pub(crate) fn host(rtnl: &mut Rtnl) -> io::Result<Observed> {
    let mut observed = Observed::default();
    let mut names = BTreeMap::new();
    let mut every_link = LinkMessage::default();
    // Counters are most of what the kernel would tell of a link.
    let without_counters = LinkAttribute::ExtMask(vec![LinkExtentMask::SkipStats]);
    every_link.attributes.push(without_counters);
    for answer in rtnl.dump(RouteNetlinkMessage::GetLink(every_link))? {
        if let RouteNetlinkMessage::NewLink(message) = answer
            && let Some((name, link)) = link(&message)
        {
            names.insert(link.index, name.clone());
            observed.links.insert(name, link);
        }
    }
    for answer in rtnl.dump(RouteNetlinkMessage::GetAddress(AddressMessage::default()))? {
        if let RouteNetlinkMessage::NewAddress(message) = answer
            && let Some(name) = names.get(&message.header.index)
        {
            add_address(&mut observed, name, &message);
        }
    }
    for family in [AddressFamily::Inet, AddressFamily::Inet6] {
        let mut request = RouteMessage::default();
        request.header.address_family = family;
        for answer in rtnl.dump(RouteNetlinkMessage::GetRoute(request))? {
            if let RouteNetlinkMessage::NewRoute(message) = answer {
                add_route(&mut observed, &names, &message);
            }
        }
    }
    if let Some(link) = observed.links.get_mut(&model::wireguard::link()) {
        link.wireguard = wireguard::look(&model::wireguard::link())?;
    }
    let ours = observed.links.iter();
    let ours =
        ours.filter(|(name, link)| link.vxlan.is_some() && name.as_str().starts_with(LINK_PREFIX));
    for (name, link) in ours {
        let bridge = link.master.unwrap_or_default();
        let entries = forwarding::of(rtnl, link.index, bridge)?;
        observed.forwarding.insert(name.clone(), entries);
    }
    Ok(observed)
}

/// The interface `name` of the socket's namespace and its addresses.
pub(crate) fn inside(rtnl: &mut Rtnl, name: &IfName) -> io::Result<Option<InsideLink>> {
    let Some(message) = link_by_name(rtnl, name)? else {
        return Ok(None);
    };
    let mut result = InsideLink {
        up: message.header.flags.contains(LinkFlags::Up),
        mac: None,
        mtu: 0,
        addresses: BTreeSet::new(),
        routes: BTreeSet::new(),
    };
    for attribute in &message.attributes {
        match attribute {
            LinkAttribute::Address(octets) => result.mac = mac(octets),
            LinkAttribute::Mtu(mtu) => result.mtu = *mtu,
            _ => {}
        }
    }
    for answer in rtnl.dump(RouteNetlinkMessage::GetAddress(AddressMessage::default()))? {
        if let RouteNetlinkMessage::NewAddress(address) = answer
            && address.header.index == message.header.index
        {
            result.addresses.extend(address_of(&address));
        }
    }
    for family in [AddressFamily::Inet, AddressFamily::Inet6] {
        let mut request = RouteMessage::default();
        request.header.address_family = family;
        for answer in rtnl.dump(RouteNetlinkMessage::GetRoute(request))? {
            if let RouteNetlinkMessage::NewRoute(route) = answer {
                result.routes.extend(route_of(&route, message.header.index));
            }
        }
    }
    Ok(Some(result))
}

/// Destination and gateway of a route that leaves by the link `index`.
fn route_of(message: &RouteMessage, index: u32) -> Option<(IpNet, Option<IpAddr>)> {
    let plain = |address: &RouteAddress| match address {
        RouteAddress::Inet(address) => Some(IpAddr::from(*address)),
        RouteAddress::Inet6(address) => Some(IpAddr::from(*address)),
        _ => None,
    };
    let mut destination = match message.header.address_family {
        AddressFamily::Inet6 => IpAddr::from(Ipv6Addr::UNSPECIFIED),
        _ => IpAddr::from(Ipv4Addr::UNSPECIFIED),
    };
    let mut gateway = None;
    let mut leaves = false;
    for attribute in &message.attributes {
        match attribute {
            RouteAttribute::Destination(address) => destination = plain(address)?,
            RouteAttribute::Gateway(address) => gateway = plain(address),
            RouteAttribute::Oif(link) => leaves = *link == index,
            _ => {}
        }
    }
    let net = IpNet::new(destination, message.header.destination_prefix_length).ok()?;
    leaves.then_some((net, gateway))
}

pub(crate) fn link_by_name(rtnl: &mut Rtnl, name: &IfName) -> io::Result<Option<LinkMessage>> {
    let mut request = LinkMessage::default();
    request
        .attributes
        .push(LinkAttribute::IfName(name.to_string()));
    match rtnl.get(RouteNetlinkMessage::GetLink(request)) {
        Ok(answers) => Ok(answers.into_iter().find_map(|answer| match answer {
            RouteNetlinkMessage::NewLink(message) => Some(message),
            _ => None,
        })),
        Err(error) if error.raw_os_error() == Some(NO_DEVICE) => Ok(None),
        Err(error) => Err(error),
    }
}

pub(crate) const NO_DEVICE: i32 = rustix::io::Errno::NODEV.raw_os_error();

pub(crate) fn link_name(message: &LinkMessage) -> Option<IfName> {
    message.attributes.iter().find_map(|a| match a {
        LinkAttribute::IfName(name) => IfName::parse(name).ok(),
        _ => None,
    })
}

/// What a link has carried, as its own namespace sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Traffic {
    pub(crate) packets_in: u64,
    pub(crate) bytes_in: u64,
    pub(crate) packets_out: u64,
    pub(crate) bytes_out: u64,
}

/// The kernel's own counters of all links of the socket's namespace.
pub(crate) fn traffic(rtnl: &mut Rtnl) -> io::Result<BTreeMap<IfName, Traffic>> {
    let answers = rtnl.dump(RouteNetlinkMessage::GetLink(LinkMessage::default()))?;
    let of = |message: LinkMessage| {
        let name = link_name(&message)?;
        let traffic = message.attributes.iter().find_map(|a| match a {
            LinkAttribute::Stats64(stats) => Some(Traffic {
                packets_in: stats.rx_packets,
                bytes_in: stats.rx_bytes,
                packets_out: stats.tx_packets,
                bytes_out: stats.tx_bytes,
            }),
            _ => None,
        })?;
        Some((name, traffic))
    };
    let links = answers.into_iter().filter_map(|answer| match answer {
        RouteNetlinkMessage::NewLink(message) => of(message),
        _ => None,
    });
    Ok(links.collect())
}

/// Which of the links have our filter on one side: [`TcHandle::MIN_INGRESS`] for what comes in. Each
/// is asked for by its handle, so that all fit a few datagrams; a dump is about one link.
pub(crate) fn filtered(rtnl: &mut Rtnl, links: &[u32], side: u16) -> io::Result<BTreeSet<u32>> {
    let request = |link: &u32| {
        let mut request = TcMessage::default();
        // Interface numbers are positive ints in the kernel.
        request.header.index = link.cast_signed();
        request.header.parent = TcHandle {
            minor: side,
            ..TcHandle::CLSACT
        };
        request.header.handle = TcHandle::from(FILTER_HANDLE);
        request.header.info = u32::from(FILTER_PRIORITY) << 16;
        RouteNetlinkMessage::GetTrafficFilter(request)
    };
    let answers = rtnl.get_each(links.iter().map(request).collect())?;
    let found = links.iter().zip(answers);
    Ok(found
        .filter_map(|(link, answer)| answer.is_ok().then_some(*link))
        .collect())
}

pub(crate) fn link_address(message: &LinkMessage) -> Option<MacAddr> {
    let mut attributes = message.attributes.iter();
    attributes.find_map(|attribute| match attribute {
        LinkAttribute::Address(octets) => mac(octets),
        _ => None,
    })
}

/// Links of other types than Ethernet have addresses of other lengths, or none.
fn mac(octets: &[u8]) -> Option<MacAddr> {
    octets.try_into().ok().map(MacAddr)
}

fn link(message: &LinkMessage) -> Option<(IfName, Link)> {
    let mut link = Link {
        index: message.header.index,
        up: message.header.flags.contains(LinkFlags::Up),
        mac: None,
        mtu: 0,
        loopback: message.header.flags.contains(LinkFlags::Loopback),
        master: None,
        addresses: Vec::new(),
        limited: false,
        isolated: false,
        vxlan: None,
        wireguard: None,
    };
    for attribute in &message.attributes {
        match attribute {
            LinkAttribute::Address(octets) => link.mac = mac(octets),
            LinkAttribute::Mtu(mtu) => link.mtu = *mtu,
            LinkAttribute::Qdisc(kind) => link.limited = kind == "tbf",
            LinkAttribute::Controller(index) => link.master = Some(*index),
            LinkAttribute::LinkInfo(info) => {
                link.isolated = is_isolated(info);
                link.vxlan = vxlan(info);
            }
            _ => {}
        }
    }
    Some((link_name(message)?, link))
}

fn is_isolated(info: &[LinkInfo]) -> bool {
    info.iter().any(|info| match info {
        LinkInfo::PortData(InfoPortData::BridgePort(port)) => {
            port.contains(&InfoBridgePort::Isolated(true))
        }
        _ => false,
    })
}

fn vxlan(info: &[LinkInfo]) -> Option<Vxlan> {
    let data = info.iter().find_map(|info| match info {
        LinkInfo::Data(InfoData::Vxlan(data)) => Some(data),
        _ => None,
    })?;
    let (mut vni, mut local, mut port, mut below) = (0, None, 0, None);
    for attribute in data {
        match attribute {
            InfoVxlan::Id(id) => vni = *id,
            InfoVxlan::Local(address) => local = Some(IpAddr::from(*address)),
            InfoVxlan::Local6(address) => local = Some(IpAddr::from(*address)),
            InfoVxlan::Port(number) => port = *number,
            InfoVxlan::Link(link) => below = Some(*link),
            _ => {}
        }
    }
    let quiet = info.iter().any(|info| match info {
        LinkInfo::PortData(InfoPortData::BridgePort(port)) => {
            vxlan::QUIET.iter().all(|setting| port.contains(setting))
        }
        _ => false,
    });
    let tunnel = local.map(|local| Tunnel { local, port });
    Some(Vxlan {
        vni,
        tunnel,
        below,
        quiet,
    })
}

fn address_of(message: &AddressMessage) -> Option<IpAddr> {
    let mut address = None;
    for attribute in &message.attributes {
        match attribute {
            // On a point-to-point link IFA_ADDRESS is the peer's and IFA_LOCAL ours.
            AddressAttribute::Local(local) => return Some(*local),
            AddressAttribute::Address(other) => address = Some(*other),
            _ => {}
        }
    }
    address
}

pub(crate) fn address_net(message: &AddressMessage) -> Option<IpNet> {
    IpNet::new(address_of(message)?, message.header.prefix_len).ok()
}

fn add_address(observed: &mut Observed, name: &IfName, message: &AddressMessage) {
    let Some(net) = address_net(message) else {
        return;
    };
    if let Some(link) = observed.links.get_mut(name) {
        link.addresses.push(Address {
            net,
            global: message.header.scope == AddressScope::Universe,
        });
    }
}

const MAIN_TABLE: u32 = RouteHeader::RT_TABLE_MAIN as u32;

/// Whether it is a default route of the host: what the underlay is known by.
pub(crate) fn is_default(message: &RouteMessage) -> bool {
    // Tables above 255 are in the attribute alone.
    message.header.destination_prefix_length == 0
        && message.header.table == RouteHeader::RT_TABLE_MAIN
        && message.header.kind == RouteType::Unicast
}

fn add_route(observed: &mut Observed, names: &BTreeMap<u32, IfName>, message: &RouteMessage) {
    let mut table = u32::from(message.header.table);
    let mut destination = None;
    let mut link = None;
    for attribute in &message.attributes {
        match attribute {
            RouteAttribute::Table(number) => table = *number,
            RouteAttribute::Oif(index) => link = names.get(index).cloned(),
            RouteAttribute::Destination(RouteAddress::Inet(address)) => {
                destination = Some(IpAddr::from(*address));
            }
            RouteAttribute::Destination(RouteAddress::Inet6(address)) => {
                destination = Some(IpAddr::from(*address));
            }
            _ => {}
        }
    }
    let (Some(link), true) = (link, table == MAIN_TABLE) else {
        return;
    };
    if message.header.destination_prefix_length == 0 {
        let mtu = observed.links.get(&link).map(|link| link.mtu);
        observed.underlay_mtu = observed.underlay_mtu.or(mtu);
        return;
    }
    let unspecified = match message.header.address_family {
        AddressFamily::Inet6 => IpAddr::from(Ipv6Addr::UNSPECIFIED),
        _ => IpAddr::from(Ipv4Addr::UNSPECIFIED),
    };
    let range = IpNet::new(
        destination.unwrap_or(unspecified),
        message.header.destination_prefix_length,
    );
    // Every IPv6 link has routes for link-local and multicast addresses.
    let is_local = |range: &IpNet| match range.addr() {
        IpAddr::V6(address) => address.is_unicast_link_local() || address.is_multicast(),
        IpAddr::V4(_) => false,
    };
    observed.routes.extend(
        range
            .ok()
            .filter(|range| !is_local(range))
            .map(|r| (r, link)),
    );
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use sys::netns::NetNs;

    use super::*;

    /// The words of `arguments`, then `last`.
    fn run(program: &str, arguments: &str, last: &[&str]) {
        let mut command = Command::new(program);
        let status = command.args(arguments.split(' ')).args(last).status();
        assert!(status.unwrap().success(), "{program} {arguments}");
    }

    #[test]
    fn filters_of_many_links_are_asked_for_together() {
        let namespace = NetNs::create().expect("root is needed");
        let links = || {
            for number in 0..100 {
                let pair = format!("link add v{number} type veth peer name p{number}");
                run("ip", &pair, &[]);
            }
            for link in ["v7", "v8"] {
                run("tc", &format!("qdisc add dev {link} clsact"), &[]);
            }
            let place = format!("dev v7 ingress protocol all prio {FILTER_PRIORITY}");
            let add = format!("filter add {place} handle {FILTER_HANDLE} bpf bytecode");
            run("tc", &add, &["1,6 0 0 0,"]);
            let mut rtnl = Rtnl::open().unwrap();
            let observed = host(&mut rtnl).unwrap();
            let links: Vec<u32> = observed.links.values().map(|link| link.index).collect();
            let before = rtnl.sent;
            let found = filtered(&mut rtnl, &links, TcHandle::MIN_INGRESS).unwrap();
            assert_eq!(rtnl.sent - before, 4, "for {} links", links.len());
            let v7 = observed.links[&IfName::parse("v7").unwrap()].index;
            assert_eq!(found, BTreeSet::from([v7]));
        };
        namespace.run(links).unwrap();
    }
}
