//! The container's side: an interface inside a sandbox.

use std::io;

use api::id::IfName;
use api::net::Route;
use ipnet::IpNet;
use netlink_packet_route::link::LinkMessage;
use netlink_packet_route::route::{
    RouteAddress, RouteAttribute, RouteHeader, RouteMessage, RouteMetric, RouteProtocol,
    RouteScope, RouteType,
};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use rustix::io::Errno;
use sys::ethtool::{self, Offload};
use sys::netns::NetNs;
use sys::{packet, sysctl};

use super::link::{self, created, new_address, set_up};
use crate::model::announcement;
use crate::model::step::{Change, SandboxLink};
use crate::netlink::{Mode, Rtnl};
use crate::resolver::EMBEDDED;
use crate::{dns, observe};

/// Addresses, loopback and interface up, routes: one datagram sent from inside.
pub(super) fn configure(namespace: &NetNs, link: &SandboxLink) -> io::Result<Change> {
    namespace.run(|| {
        settle(link)?;
        let mut rtnl = Rtnl::open()?;
        let index = observe::link_by_name(&mut rtnl, &link.ifname)?
            .ok_or(Errno::NODEV)?
            .header
            .index;
        let loopback = loopback(&mut rtnl)?;
        let mut batch = vec![(up(loopback), Mode::Change)];
        for address in &link.addresses {
            batch.push((new_address(index, *address), Mode::Create));
        }
        batch.push((up(index), Mode::Change));
        for wanted in &link.routes {
            batch.push((route(index, wanted), Mode::Create));
        }
        let mut change = Change::Unchanged;
        for result in rtnl.batch(batch)? {
            // What exists is as wanted already: addresses carry no other settings, and a route that
            // somebody else made takes precedence.
            if created(result)? == Change::Done {
                change = Change::Done;
            }
        }
        Ok(change)
    })?
}

/// Tells the neighbours of each address.
pub(super) fn announce(namespace: &NetNs, link: &SandboxLink) -> io::Result<Change> {
    namespace.run(|| {
        let mut rtnl = Rtnl::open()?;
        let found = observe::link_by_name(&mut rtnl, &link.ifname)?.ok_or(Errno::NODEV)?;
        let mac = observe::link_address(&found).ok_or(Errno::NODEV)?;
        let addresses = link.addresses.iter().map(IpNet::addr);
        let frames: Vec<Vec<u8>> = addresses
            .map(|address| announcement::frame(mac, address))
            .collect();
        packet::send(found.header.index, &frames)?;
        Ok(Change::Done)
    })?
}

/// Replaces the route to the same destination, by whatever interface it goes.
pub(super) fn set_route(namespace: &NetNs, name: &IfName, wanted: &Route) -> io::Result<Change> {
    namespace.run(|| {
        let mut rtnl = Rtnl::open()?;
        let link = observe::link_by_name(&mut rtnl, name)?.ok_or(Errno::NODEV)?;
        let message = route(link.header.index, wanted);
        rtnl.batch(vec![(message, Mode::Replace)])?
            .into_iter()
            .collect::<io::Result<()>>()?;
        Ok(Change::Done)
    })?
}

/// The sockets of the sandbox's resolver, at `port` of its loopback or another.
pub(super) fn resolver_sockets(namespace: &NetNs, port: u16) -> io::Result<dns::Sockets> {
    namespace.run(|| {
        // In a namespace that never had an address every address counts as a broadcast address
        // (`__inet_dev_addr_type` without a local table), and a socket bound to one of those
        // answers from another address.
        let mut rtnl = Rtnl::open()?;
        let up = up(loopback(&mut rtnl)?);
        rtnl.batch(vec![(up, Mode::Change)])?
            .into_iter()
            .collect::<io::Result<()>>()?;
        dns::bind(EMBEDDED.into(), port)
    })?
}

fn loopback(rtnl: &mut Rtnl) -> io::Result<u32> {
    let name = IfName::parse("lo").map_err(io::Error::other)?;
    let link = observe::link_by_name(rtnl, &name)?.ok_or(Errno::NODEV)?;
    Ok(link.header.index)
}

/// Settings that must be right before the interface comes up.
fn settle(link: &SandboxLink) -> io::Result<()> {
    let ipv6 = link.addresses.iter().any(|a| matches!(a, IpNet::V6(_)));
    // Neighbours may remember another link address for an address that was used before.
    let announces = if link.announces { "1" } else { "0" };
    let key = format!("net/ipv4/conf/{}/arp_notify", link.ifname);
    sysctl::ensure(&key, announces)?;
    for (setting, value) in [
        ("accept_ra", "0"),
        // Derived from the link address, as the guard of the host's end expects.
        ("addr_gen_mode", "0"),
        ("accept_dad", "0"),
        ("ndisc_notify", announces),
        ("disable_ipv6", if ipv6 { "0" } else { "1" }),
    ] {
        set_ipv6(&link.ifname, setting, value)?;
    }
    Ok(())
}

/// A kernel without IPv6 has none of its settings: nothing to quieten then, unless it is wanted.
pub(super) fn set_ipv6(link: &IfName, setting: &str, value: &str) -> io::Result<()> {
    let key = format!("net/ipv6/conf/{link}/{setting}");
    match sysctl::ensure(&key, value) {
        Ok(_before) => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(io::Error::new(error.kind(), format!("set {key}: {error}"))),
    }
}

fn up(index: u32) -> RouteNetlinkMessage {
    let mut message = LinkMessage::default();
    message.header.index = index;
    set_up(&mut message);
    RouteNetlinkMessage::SetLink(message)
}

fn route(index: u32, route: &Route) -> RouteNetlinkMessage {
    let mut message = RouteMessage::default();
    let scope = match (route.scope, route.gateway) {
        (Some(scope), _) => RouteScope::from(scope),
        (None, Some(_)) => RouteScope::Universe,
        (None, None) => RouteScope::Link,
    };
    message.header = RouteHeader {
        address_family: match route.dst {
            IpNet::V4(_) => AddressFamily::Inet,
            IpNet::V6(_) => AddressFamily::Inet6,
        },
        destination_prefix_length: route.dst.prefix_len(),
        table: RouteHeader::RT_TABLE_MAIN,
        protocol: RouteProtocol::Boot,
        // IPv6 has no scopes.
        scope: match route.dst {
            IpNet::V4(_) => scope,
            IpNet::V6(_) => RouteScope::Universe,
        },
        kind: RouteType::Unicast,
        ..RouteHeader::default()
    };
    let metrics = [
        route.mtu.map(RouteMetric::Mtu),
        route.advmss.map(RouteMetric::Advmss),
    ];
    let metrics: Vec<RouteMetric> = metrics.into_iter().flatten().collect();
    let attributes = [
        (route.dst.prefix_len() > 0)
            .then(|| RouteAttribute::Destination(RouteAddress::from(route.dst.network()))),
        route
            .gateway
            .map(|gateway| RouteAttribute::Gateway(RouteAddress::from(gateway))),
        route.priority.map(RouteAttribute::Priority),
        // Numbers above 255 do not fit the header; the attribute has them all.
        route.table.map(RouteAttribute::Table),
        (!metrics.is_empty()).then_some(RouteAttribute::Metrics(metrics)),
        Some(RouteAttribute::Oif(index)),
    ];
    message.attributes.extend(attributes.into_iter().flatten());
    RouteNetlinkMessage::NewRoute(message)
}

/// Sets the MTU of the interface.
pub(super) fn set_mtu(namespace: &NetNs, name: &IfName, mtu: u32) -> io::Result<Change> {
    namespace.run(|| link::set_mtu(&mut Rtnl::open()?, name, mtu))?
}

/// Makes the interface take frames from XDP of others.
pub(super) fn take_frames(namespace: &NetNs, name: &IfName) -> io::Result<()> {
    namespace.run(|| ethtool::set(name.as_str(), Offload::JoinReceived, true))?
}
