//! VXLAN interfaces, and where they lead.

use std::io;
use std::net::IpAddr;

use api::id::{IfName, MacAddr};
use netlink_packet_route::link::{
    AfSpecInet6, AfSpecUnspec, In6AddrGenMode, InfoBridgePort, InfoData, InfoKind, InfoPortData,
    InfoPortKind, InfoVxlan, LinkAttribute, LinkInfo, LinkMessage,
};
use netlink_packet_route::neighbour::{
    NeighbourAttribute, NeighbourFlags, NeighbourMessage, NeighbourState,
};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use rustix::io::Errno;

use super::link::{MAX_BATCH, add_address, created, named, set_up};
use super::setting;
use crate::model::driver::Tunnel;
use crate::model::forwarding::Forwarding;
use crate::model::mesh;
use crate::model::step::{Change, Mesh, Vxlan};
use crate::model::wireguard;
use crate::netlink::{Mode, Rtnl};
use crate::observe;

/// What the bridge does with the port: it neither learns from it nor floods to it, and answers in
/// place of who is behind it.
pub(crate) const QUIET: [InfoBridgePort; 5] = [
    InfoBridgePort::Learning(false),
    InfoBridgePort::UnicastFlood(false),
    InfoBridgePort::MulticastFlood(false),
    InfoBridgePort::BroadcastFlood(false),
    InfoBridgePort::NeighSupress(true),
];

/// Creates the interface, or sets an existing one up as wanted. It comes up as the last thing, so that
/// nothing is flooded before.
pub(super) fn create(rtnl: &mut Rtnl, vxlan: &Vxlan) -> io::Result<Change> {
    let mut new = named(&vxlan.link);
    new.attributes.push(LinkAttribute::Mtu(vxlan.mtu));
    let created = make(rtnl, new, &vxlan.link, (vxlan.vni, vxlan.tunnel))?;
    let bridge = observe::link_by_name(rtnl, &vxlan.bridge)?.ok_or(Errno::NODEV)?;
    let plain = without_addresses(&vxlan.link);
    let mut master = named(&vxlan.link);
    master.attributes.extend([
        LinkAttribute::Controller(bridge.header.index),
        LinkAttribute::Mtu(vxlan.mtu),
    ]);
    let mut quiet = named(&vxlan.link);
    quiet.attributes.push(LinkAttribute::LinkInfo(vec![
        LinkInfo::PortKind(InfoPortKind::Bridge),
        LinkInfo::PortData(InfoPortData::BridgePort(QUIET.to_vec())),
    ]));
    let mut up = named(&vxlan.link);
    set_up(&mut up);
    let results = rtnl.batch(vec![
        // A kernel without IPv6 refuses it, and needs it as little.
        (RouteNetlinkMessage::SetLink(plain), Mode::Change),
        (RouteNetlinkMessage::SetLink(master), Mode::Change),
        (RouteNetlinkMessage::NewLink(quiet), Mode::Change),
    ])?;
    results.into_iter().skip(1).collect::<io::Result<()>>()?;
    rtnl.ask(RouteNetlinkMessage::SetLink(up), Mode::Change)?;
    // A member answers this host as the node that it asked.
    setting::check_loosely(&vxlan.bridge)?;
    Ok(created)
}

/// Creates the interface to backends on other nodes, or sets an existing one up as wanted.
pub(super) fn create_mesh(rtnl: &mut Rtnl, mesh: &Mesh) -> io::Result<Change> {
    let mut new = named(&mesh.link);
    new.attributes.extend([
        LinkAttribute::Mtu(mesh.mtu),
        LinkAttribute::Address(mesh.mac.0.to_vec()),
    ]);
    let created = make(rtnl, new, &mesh.link, (mesh::VNI, mesh.tunnel))?;
    let mut fitted = named(&mesh.link);
    fitted.attributes.push(LinkAttribute::Mtu(mesh.mtu));
    let results = rtnl.batch(vec![
        (
            RouteNetlinkMessage::SetLink(without_addresses(&mesh.link)),
            Mode::Change,
        ),
        (RouteNetlinkMessage::SetLink(fitted), Mode::Change),
    ])?;
    results.into_iter().skip(1).collect::<io::Result<()>>()?;
    setting::check_loosely(&mesh.link)?;
    setting::take_own(&mesh.link)?;
    add_address(rtnl, &mesh.link, mesh::address())?;
    let mut up = named(&mesh.link);
    set_up(&mut up);
    rtnl.ask(RouteNetlinkMessage::SetLink(up), Mode::Change)?;
    Ok(created)
}

fn make(
    rtnl: &mut Rtnl,
    mut new: LinkMessage,
    link: &IfName,
    (vni, tunnel): (u32, Tunnel),
) -> io::Result<Change> {
    let mut data = vec![
        InfoVxlan::Id(vni),
        match tunnel.local {
            IpAddr::V4(address) => InfoVxlan::Local(address),
            IpAddr::V6(address) => InfoVxlan::Local6(address),
        },
        InfoVxlan::Port(tunnel.port),
        InfoVxlan::Learning(false),
    ];
    data.extend(below(rtnl, tunnel.local)?.map(InfoVxlan::Link));
    new.attributes.push(LinkAttribute::LinkInfo(vec![
        LinkInfo::Kind(InfoKind::Vxlan),
        LinkInfo::Data(InfoData::Vxlan(data)),
    ]));
    let created = created(rtnl.ask(RouteNetlinkMessage::NewLink(new), Mode::Create))?;
    if observe::link_by_name(rtnl, link)?.is_none() {
        let taken = format!(
            "another VXLAN interface has network number {vni} on port {} of this host",
            tunnel.port
        );
        return Err(io::Error::new(io::ErrorKind::AlreadyExists, taken));
    }
    Ok(created)
}

/// The number of the link that an address is nothing without.
fn below(rtnl: &mut Rtnl, address: IpAddr) -> io::Result<Option<u32>> {
    let IpAddr::V6(address) = address else {
        return Ok(None);
    };
    if !address.is_unicast_link_local() {
        return Ok(None);
    }
    let link = observe::link_by_name(rtnl, &wireguard::link())?.ok_or(Errno::NODEV)?;
    Ok(Some(link.header.index))
}

/// The kernel gives it no address by itself.
fn without_addresses(link: &IfName) -> LinkMessage {
    let mut plain = named(link);
    let no_address = AfSpecInet6::AddrGenMode(In6AddrGenMode::None);
    plain
        .attributes
        .push(LinkAttribute::AfSpecUnspec(vec![AfSpecUnspec::Inet6(
            vec![no_address],
        )]));
    plain
}

/// Takes away what is `gone` and puts what is `new`; what is in both changes without a moment in
/// between.
pub(super) fn forward(
    rtnl: &mut Rtnl,
    (link, bridge): (&IfName, Option<&IfName>),
    gone: &Forwarding,
    new: &Forwarding,
) -> io::Result<Change> {
    let index = |rtnl: &mut Rtnl, name| -> io::Result<Option<u32>> {
        let link = observe::link_by_name(rtnl, name)?;
        Ok(link.map(|link| link.header.index))
    };
    let bridge = match bridge {
        Some(bridge) => index(rtnl, bridge)?,
        // Nothing is said of one that there is not.
        None => Some(0),
    };
    let (Some(link), Some(bridge)) = (index(rtnl, link)?, bridge) else {
        // The entries went with the interface.
        return if new.is_empty() {
            Ok(Change::Unchanged)
        } else {
            Err(Errno::NODEV.into())
        };
    };
    let mut removals = Vec::new();
    for (address, mac) in &gone.neighbours {
        if !new.neighbours.contains_key(address) {
            removals.push(neighbour(bridge, *address, *mac));
        }
    }
    let behind = gone.behind.difference(&new.behind);
    removals.extend(behind.map(|mac| port(link, *mac)));
    for (mac, at) in &gone.nodes {
        if !new.nodes.contains_key(mac) {
            removals.push(node(link, *mac, *at));
        }
    }
    for some in removals.chunks(MAX_BATCH) {
        let requests = some.iter().cloned().map(RouteNetlinkMessage::DelNeighbour);
        for result in rtnl.batch(requests.map(|m| (m, Mode::Change)).collect())? {
            match result {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _gone => {}
            }
        }
    }
    // In the order in which a packet needs them, backwards: nobody is answered before there is a way.
    // All of a network are reached the same way.
    let below = match new.nodes.values().next() {
        Some(at) => below(rtnl, *at)?,
        None => None,
    };
    let nodes = new.nodes.iter().map(|(mac, at)| {
        let mut node = node(link, *mac, *at);
        let below = below.map(NeighbourAttribute::IfIndex);
        node.attributes.extend(below);
        node
    });
    let behind = new.behind.iter().map(|mac| port(link, *mac));
    let neighbours = new.neighbours.iter();
    let neighbours = neighbours.map(|(address, mac)| neighbour(bridge, *address, *mac));
    let additions: Vec<NeighbourMessage> = nodes.chain(behind).chain(neighbours).collect();
    for some in additions.chunks(MAX_BATCH) {
        let requests = some.iter().cloned().map(RouteNetlinkMessage::NewNeighbour);
        let results = rtnl.batch(requests.map(|m| (m, Mode::Replace)).collect())?;
        results.into_iter().collect::<io::Result<()>>()?;
    }
    Ok(Change::Done)
}

/// On the VXLAN interface: frames to `mac` go to the node `at`.
fn node(link: u32, mac: MacAddr, at: IpAddr) -> NeighbourMessage {
    let mut message = frames_to(link, mac);
    message.header.flags = NeighbourFlags::Own;
    message.header.state = NeighbourState::Permanent;
    message
        .attributes
        .push(NeighbourAttribute::Destination(at.into()));
    message
}

/// On the bridge: frames to `mac` go to its port `link`, whoever else sends as `mac`.
fn port(link: u32, mac: MacAddr) -> NeighbourMessage {
    let mut message = frames_to(link, mac);
    message.header.flags = NeighbourFlags::Controller | NeighbourFlags::Sticky;
    message.header.state = NeighbourState::Noarp;
    message
}

fn frames_to(link: u32, mac: MacAddr) -> NeighbourMessage {
    let mut message = NeighbourMessage::default();
    message.header.family = AddressFamily::Bridge;
    message.header.ifindex = link;
    message
        .attributes
        .push(NeighbourAttribute::LinkLayerAddress(mac.0.to_vec()));
    message
}

fn neighbour(bridge: u32, address: IpAddr, mac: MacAddr) -> NeighbourMessage {
    let mut message = NeighbourMessage::default();
    message.header.family = match address {
        IpAddr::V4(_) => AddressFamily::Inet,
        IpAddr::V6(_) => AddressFamily::Inet6,
    };
    message.header.ifindex = bridge;
    message.header.state = NeighbourState::Permanent;
    message.attributes.extend([
        NeighbourAttribute::Destination(address.into()),
        NeighbourAttribute::LinkLayerAddress(mac.0.to_vec()),
    ]);
    message
}
