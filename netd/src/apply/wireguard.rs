//! The interface to other nodes of encrypted networks.

use std::collections::BTreeSet;
use std::io;

use api::id::IfName;
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::link::{InfoKind, LinkAttribute, LinkInfo};
use rustix::io::Errno;

use super::link::{add_address, created, named, set_up};
use super::sandbox::set_ipv6;
use crate::model::step::Change;
use crate::model::wireguard::{Correspondents, PublicKey, WireGuard, net};
use crate::netlink::{Mode, Rtnl};
use crate::wireguard;

/// Creates the interface, or sets an existing one up as wanted. One that has a key keeps it.
pub(super) fn create(rtnl: &mut Rtnl, new: &WireGuard) -> io::Result<Change> {
    let link = &new.link;
    let mut message = named(link);
    message.attributes.extend([
        LinkAttribute::Mtu(new.mtu),
        LinkAttribute::LinkInfo(vec![LinkInfo::Kind(InfoKind::Wireguard)]),
    ]);
    let created = created(rtnl.ask(RouteNetlinkMessage::NewLink(message), Mode::Create))?;
    let found = wireguard::look(link)?.ok_or_else(|| {
        let taken = format!("interface {link} is somebody else's");
        io::Error::new(io::ErrorKind::AlreadyExists, taken)
    })?;
    if found.key.is_none() {
        wireguard::set_key(link)?;
    }
    let is_taken = |error| taken(error, new.port);
    if found.port != new.port {
        wireguard::set_port(link, new.port).map_err(is_taken)?;
    }
    set_ipv6(link, "disable_ipv6", "0")?;
    add_address(rtnl, link, net(new.address))?;
    let mut up = named(link);
    up.attributes.push(LinkAttribute::Mtu(new.mtu));
    set_up(&mut up);
    let up = rtnl.ask(RouteNetlinkMessage::SetLink(up), Mode::Change);
    up.map_err(is_taken)?;
    Ok(created)
}

fn taken(error: io::Error, port: u16) -> io::Error {
    if error.kind() != io::ErrorKind::AddrInUse {
        return error;
    }
    let taken = format!("UDP port {port}, where other nodes send to, is somebody else's here");
    io::Error::new(error.kind(), taken)
}

pub(super) fn correspond(
    link: &IfName,
    gone: &BTreeSet<PublicKey>,
    new: &Correspondents,
) -> io::Result<Change> {
    match wireguard::correspond(link, gone, new) {
        Ok(()) => Ok(Change::Done),
        // They went with the interface.
        Err(error) if is_missing(&error) && new.is_empty() => Ok(Change::Unchanged),
        Err(error) => Err(error),
    }
}

fn is_missing(error: &io::Error) -> bool {
    error.raw_os_error() == Some(Errno::NODEV.raw_os_error())
}

pub(super) fn change_key(link: &IfName) -> io::Result<Change> {
    wireguard::set_key(link).map(|()| Change::Done)
}
