//! The container's side: an interface inside a sandbox.

use std::io;
use std::net::IpAddr;

use api::id::IfName;
use ipnet::IpNet;
use netlink_packet_route::link::LinkMessage;
use netlink_packet_route::route::{
    RouteAddress, RouteAttribute, RouteHeader, RouteMessage, RouteProtocol, RouteScope, RouteType,
};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use rustix::io::Errno;
use sys::netns::NetNs;
use sys::sysctl;

use super::link::{created, new_address, set_up};
use crate::model::step::{Change, SandboxLink};
use crate::netlink::{Mode, Rtnl};
use crate::observe;

/// Addresses, loopback and interface up, default routes: one datagram sent from inside.
pub(super) fn configure(namespace: &NetNs, link: &SandboxLink) -> io::Result<Change> {
    namespace.run(|| {
        settle(link)?;
        let mut rtnl = Rtnl::open()?;
        let index = observe::link_by_name(&mut rtnl, &link.ifname)?
            .ok_or(Errno::NODEV)?
            .header
            .index;
        let loopback =
            observe::link_by_name(&mut rtnl, &IfName::parse("lo").map_err(io::Error::other)?)?
                .ok_or(Errno::NODEV)?
                .header
                .index;
        let mut batch = vec![(up(loopback), Mode::Change)];
        for address in &link.addresses {
            batch.push((new_address(index, *address), Mode::Create));
        }
        batch.push((up(index), Mode::Change));
        for gateway in &link.gateways {
            batch.push((default_route(index, *gateway), Mode::Create));
        }
        let mut change = Change::Unchanged;
        for result in rtnl.batch(batch)? {
            // What exists is as wanted already: addresses and routes carry no other settings, and
            // a default route that somebody else made takes precedence.
            if created(result)? == Change::Done {
                change = Change::Done;
            }
        }
        Ok(change)
    })?
}

/// Settings that must be right before the interface comes up.
fn settle(link: &SandboxLink) -> io::Result<()> {
    let ipv6 = link.addresses.iter().any(|a| matches!(a, IpNet::V6(_)));
    // Neighbours may remember another link address for an address that was used before.
    let key = format!("net/ipv4/conf/{}/arp_notify", link.ifname);
    sysctl::ensure(&key, "1")?;
    for (setting, value) in [
        ("accept_ra", "0"),
        ("accept_dad", "0"),
        ("ndisc_notify", "1"),
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

fn default_route(index: u32, gateway: IpAddr) -> RouteNetlinkMessage {
    let mut message = RouteMessage::default();
    message.header = RouteHeader {
        address_family: match gateway {
            IpAddr::V4(_) => AddressFamily::Inet,
            IpAddr::V6(_) => AddressFamily::Inet6,
        },
        table: RouteHeader::RT_TABLE_MAIN,
        protocol: RouteProtocol::Boot,
        scope: RouteScope::Universe,
        kind: RouteType::Unicast,
        ..RouteHeader::default()
    };
    message.attributes.extend([
        RouteAttribute::Gateway(RouteAddress::from(gateway)),
        RouteAttribute::Oif(index),
    ]);
    RouteNetlinkMessage::NewRoute(message)
}
