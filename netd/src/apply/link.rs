//! Bridges and interface pairs on the host's side.

use std::io;
use std::os::fd::{AsFd, AsRawFd};

use api::id::{IfName, MacAddr};
use ipnet::IpNet;
use netlink_packet_route::address::{AddressAttribute, AddressFlags, AddressMessage};
use netlink_packet_route::link::{
    AfSpecInet6, AfSpecUnspec, BridgeStpState, In6AddrGenMode, InfoBridge, InfoBridgePort,
    InfoData, InfoKind, InfoPortData, InfoPortKind, InfoVeth, LinkAttribute, LinkFlags, LinkInfo,
    LinkMessage,
};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use rustix::io::Errno;
use sys::netns::NetNs;

use crate::model::step::{Change, Pair};
use crate::netlink::{Mode, Rtnl};
use crate::observe;

/// Creates the bridge, or sets an existing one up as wanted.
pub(super) fn create_bridge(
    rtnl: &mut Rtnl,
    name: &IfName,
    mac: MacAddr,
    mtu: u32,
    ipv6: bool,
) -> io::Result<Change> {
    let mut message = named(name);
    message.attributes.extend([
        LinkAttribute::Address(mac.0.to_vec()),
        LinkAttribute::Mtu(mtu),
        LinkAttribute::LinkInfo(vec![
            LinkInfo::Kind(InfoKind::Bridge),
            LinkInfo::Data(InfoData::Bridge(vec![
                InfoBridge::StpState(BridgeStpState::Disabled),
                InfoBridge::ForwardDelay(0),
            ])),
        ]),
    ]);
    let created = created(rtnl.ask(RouteNetlinkMessage::NewLink(message), Mode::Create))?;
    quiet_ipv6(name, ipv6)?;
    let mut up = named(name);
    up.attributes.push(LinkAttribute::Mtu(mtu));
    set_up(&mut up);
    rtnl.ask(RouteNetlinkMessage::SetLink(up), Mode::Change)?;
    Ok(created)
}

pub(crate) fn delete(rtnl: &mut Rtnl, name: &IfName) -> io::Result<Change> {
    match rtnl.ask(RouteNetlinkMessage::DelLink(named(name)), Mode::Change) {
        Ok(()) => Ok(Change::Done),
        Err(error) if error.raw_os_error() == Some(observe::NO_DEVICE) => Ok(Change::Unchanged),
        Err(error) => Err(error),
    }
}

/// Nothing comes through the link any more.
pub(super) fn cut(rtnl: &mut Rtnl, name: &IfName) -> io::Result<Change> {
    let mut message = named(name);
    message.header.change_mask = LinkFlags::Up;
    match rtnl.ask(RouteNetlinkMessage::SetLink(message), Mode::Change) {
        Ok(()) => Ok(Change::Done),
        Err(error) if error.raw_os_error() == Some(observe::NO_DEVICE) => Ok(Change::Unchanged),
        Err(error) => Err(error),
    }
}

/// Deletes all of them for about the price of one: the kernel waits once for a group of links. The
/// group's number is drawn at random for each call, so that it is nobody else's.
pub(super) fn delete_all(rtnl: &mut Rtnl, names: &[IfName]) -> io::Result<Change> {
    if let [name] = names {
        return delete(rtnl, name);
    }
    let mut number = [0; 4];
    getrandom::fill(&mut number).map_err(io::Error::other)?;
    // Zero is the default group, and everybody's.
    let group = u32::from_ne_bytes(number).max(1);
    for names in names.chunks(MAX_BATCH) {
        let join = |name| {
            let mut message = named(name);
            message.attributes.push(LinkAttribute::Group(group));
            (RouteNetlinkMessage::SetLink(message), Mode::Change)
        };
        for result in rtnl.batch(names.iter().map(join).collect())? {
            match result {
                Err(error) if error.raw_os_error() != Some(observe::NO_DEVICE) => {
                    return Err(error);
                }
                _joined_or_gone => {}
            }
        }
    }
    let mut message = LinkMessage::default();
    message.attributes.push(LinkAttribute::Group(group));
    match rtnl.ask(RouteNetlinkMessage::DelLink(message), Mode::Change) {
        Ok(()) => Ok(Change::Done),
        // All were gone already.
        Err(error) if error.raw_os_error() == Some(observe::NO_DEVICE) => Ok(Change::Unchanged),
        Err(error) => Err(error),
    }
}

/// Requests in one datagram; each is answered in one of its own, and the answers wait in the
/// socket's buffer.
pub(super) const MAX_BATCH: usize = 64;

pub(super) fn set_mtu(rtnl: &mut Rtnl, name: &IfName, mtu: u32) -> io::Result<Change> {
    let link = observe::link_by_name(rtnl, name)?.ok_or(Errno::NODEV)?;
    if link.attributes.contains(&LinkAttribute::Mtu(mtu)) {
        return Ok(Change::Unchanged);
    }
    let mut message = named(name);
    message.attributes.push(LinkAttribute::Mtu(mtu));
    rtnl.ask(RouteNetlinkMessage::SetLink(message), Mode::Change)?;
    Ok(Change::Done)
}

pub(super) fn add_address(rtnl: &mut Rtnl, name: &IfName, address: IpNet) -> io::Result<Change> {
    let link = observe::link_by_name(rtnl, name)?.ok_or(Errno::NODEV)?;
    created(rtnl.ask(new_address(link.header.index, address), Mode::Create))
}

/// Both ends in one datagram: created down, the host's end then kept without IPv6 address (a
/// bridge port needs none) and put on the bridge.
///
/// The host's end stays down. A bridge looks at each of its ports whenever one of them comes or goes
/// (`br_port_state_selection`, net/bridge/br_stp.c), a millisecond where there are a thousand: one
/// that comes up when the sandbox's end is up makes it do so once, the other way round three times.
pub(super) fn create_pair(rtnl: &mut Rtnl, pair: &Pair, sandbox: &NetNs) -> io::Result<Change> {
    let mut peer = LinkMessage::default();
    peer.attributes.extend([
        LinkAttribute::IfName(pair.ifname.to_string()),
        LinkAttribute::Mtu(pair.mtu),
        LinkAttribute::NetNsFd(sandbox.as_fd().as_raw_fd()),
    ]);
    peer.attributes
        .extend(pair.mac.map(|mac| LinkAttribute::Address(mac.0.to_vec())));
    let mut create = named(&pair.host);
    create.attributes.extend([
        LinkAttribute::Mtu(pair.mtu),
        LinkAttribute::LinkInfo(vec![
            LinkInfo::Kind(InfoKind::Veth),
            LinkInfo::Data(InfoData::Veth(InfoVeth::Peer(peer))),
        ]),
    ]);
    let mut plain = named(&pair.host);
    plain
        .attributes
        .push(LinkAttribute::AfSpecUnspec(vec![AfSpecUnspec::Inet6(
            vec![AfSpecInet6::AddrGenMode(In6AddrGenMode::None)],
        )]));
    let bridge = observe::link_by_name(rtnl, &pair.bridge)?.ok_or(Errno::NODEV)?;
    let mut batch = vec![
        (RouteNetlinkMessage::NewLink(create), Mode::Create),
        (RouteNetlinkMessage::SetLink(plain), Mode::Change),
    ];
    batch.extend(join(&pair.host, bridge.header.index, pair.isolated));
    let mut results = rtnl.batch(batch)?.into_iter();
    // Whatever follows the creation fails with it, or is as well as it can be: a kernel without
    // IPv6 refuses the address mode.
    let created = created(results.next().unwrap_or(Ok(())))?;
    results.skip(1).collect::<io::Result<()>>()?;
    Ok(created)
}

pub(super) fn set_master(
    rtnl: &mut Rtnl,
    name: &IfName,
    bridge: &IfName,
    isolated: bool,
) -> io::Result<Change> {
    let bridge = observe::link_by_name(rtnl, bridge)?.ok_or(Errno::NODEV)?;
    let mut batch = join(name, bridge.header.index, isolated);
    let mut up = named(name);
    set_up(&mut up);
    batch.push((RouteNetlinkMessage::SetLink(up), Mode::Change));
    let results = rtnl.batch(batch)?;
    results.into_iter().collect::<io::Result<()>>()?;
    Ok(Change::Done)
}

/// Puts a link on a bridge. Isolation is a port's property: it needs the bridge.
fn join(name: &IfName, bridge: u32, isolated: bool) -> Vec<(RouteNetlinkMessage, Mode)> {
    let mut master = named(name);
    master.attributes.push(LinkAttribute::Controller(bridge));
    let mut batch = vec![(RouteNetlinkMessage::SetLink(master), Mode::Change)];
    if isolated {
        let mut apart = named(name);
        apart.attributes.push(LinkAttribute::LinkInfo(vec![
            LinkInfo::PortKind(InfoPortKind::Bridge),
            LinkInfo::PortData(InfoPortData::BridgePort(vec![InfoBridgePort::Isolated(
                true,
            )])),
        ]));
        // RTM_SETLINK ignores port data; RTM_NEWLINK of an existing link does not.
        batch.push((RouteNetlinkMessage::NewLink(apart), Mode::Change));
    }
    batch
}

pub(super) fn new_address(index: u32, address: IpNet) -> RouteNetlinkMessage {
    let mut message = AddressMessage::default();
    message.header.index = index;
    message.header.prefix_len = address.prefix_len();
    message.header.family = match address {
        IpNet::V4(_) => AddressFamily::Inet,
        IpNet::V6(_) => AddressFamily::Inet6,
    };
    message.attributes.extend([
        AddressAttribute::Local(address.addr()),
        AddressAttribute::Address(address.addr()),
    ]);
    match address {
        // The two addresses of a /31 are both hosts (RFC 3021).
        IpNet::V4(v4) if v4.prefix_len() >= 31 => {}
        IpNet::V4(v4) => message
            .attributes
            .push(AddressAttribute::Broadcast(v4.broadcast())),
        // We chose the address and know that nobody else has it: usable at once.
        IpNet::V6(_) => message
            .attributes
            .push(AddressAttribute::Flags(AddressFlags::Nodad)),
    }
    RouteNetlinkMessage::NewAddress(message)
}

pub(super) fn set_up(message: &mut LinkMessage) {
    message.header.flags |= LinkFlags::Up;
    message.header.change_mask |= LinkFlags::Up;
}

pub(super) fn named(name: &IfName) -> LinkMessage {
    let mut message = LinkMessage::default();
    message
        .attributes
        .push(LinkAttribute::IfName(name.to_string()));
    message
}

pub(super) fn created(result: io::Result<()>) -> io::Result<Change> {
    match result {
        Ok(()) => Ok(Change::Done),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(Change::Unchanged),
        Err(error) => Err(error),
    }
}

/// Containers are no routers: their advertisements must not configure the bridge. Without an IPv6
/// subnet the bridge has no IPv6 at all.
fn quiet_ipv6(name: &IfName, ipv6: bool) -> io::Result<()> {
    for (setting, value) in [
        ("accept_ra", "0"),
        ("disable_ipv6", if ipv6 { "0" } else { "1" }),
    ] {
        super::sandbox::set_ipv6(name, setting, value)?;
    }
    Ok(())
}
