//! WireGuard interfaces by generic netlink (`include/uapi/linux/wireguard.h`).

use std::collections::BTreeSet;
use std::fmt::Debug;
use std::io;
use std::os::fd::AsFd;
use std::time::Duration;

use api::id::IfName;
use ipnet::IpNet;
use netlink_packet_core::{
    Emitable, NLM_F_ACK, NLM_F_DUMP, NLM_F_REQUEST, NetlinkMessage, NetlinkPayload,
    ParseableParametrized,
};
use netlink_packet_generic::ctrl::nlas::GenlCtrlAttrs;
use netlink_packet_generic::ctrl::{GenlCtrl, GenlCtrlCmd};
use netlink_packet_generic::{GenlFamily, GenlHeader, GenlMessage};
use netlink_packet_wireguard::{
    WireguardAddressFamily, WireguardAllowedIp, WireguardAllowedIpAttr, WireguardAttribute,
    WireguardCmd, WireguardMessage, WireguardPeer, WireguardPeerAttribute, WireguardPeerFlags,
};
use netlink_sys::protocols::NETLINK_GENERIC;
use netlink_sys::{Socket, SocketAddr};
use rustix::io::Errno;
use rustix::net::sockopt::{Timeout, set_socket_timeout};

use crate::model::observed::WireGuard;
use crate::model::wireguard::{Correspondent, Correspondents, PublicKey};
use crate::netlink::{attribute, frames};

/// `struct genlmsghdr`.
const HEADER: usize = 4;
// include/uapi/linux/netlink.h
const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
/// include/uapi/linux/genetlink.h
const CTRL_ATTR_FAMILY_ID: u16 = 1;

/// An interval of seconds: both nodes greet each other as soon as they know each other, whoever of them
/// knows it later, and sessions are there before the first packet is.
const KEEPALIVE: u16 = 25;
/// An attribute takes 64 KiB.
const MAX_PEERS: usize = 200;
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);

/// What the kernel has; nothing where it is no such interface.
pub(crate) fn look(link: &IfName) -> io::Result<Option<WireGuard>> {
    let read = Genl::open().and_then(|genl| genl.device(link));
    match read.as_ref().map_err(io::Error::raw_os_error) {
        Ok(_) => read.map(Some),
        Err(Some(code)) if NOTHING.iter().any(|errno| errno.raw_os_error() == code) => Ok(None),
        Err(_) => read.map(Some),
    }
}

/// No WireGuard, no interface, and one of another kind.
const NOTHING: [Errno; 3] = [Errno::NOENT, Errno::NODEV, Errno::OPNOTSUPP];

/// Gives the interface a private key that nobody else has ever had, and knows.
pub(crate) fn set_key(link: &IfName) -> io::Result<()> {
    let mut key = [0; 32];
    getrandom::fill(&mut key).map_err(io::Error::other)?;
    set(link, WireguardAttribute::PrivateKey(key))
}

pub(crate) fn set_port(link: &IfName, port: u16) -> io::Result<()> {
    set(link, WireguardAttribute::ListenPort(port))
}

/// In one message as far as there is room, so that nobody who changes its key is ever nobody.
pub(crate) fn correspond(
    link: &IfName,
    gone: &BTreeSet<PublicKey>,
    new: &Correspondents,
) -> io::Result<()> {
    let gone = gone.iter().filter(|key| !new.contains_key(key)).map(forget);
    let peers: Vec<WireguardPeer> = gone.chain(new.iter().map(know)).collect();
    let genl = Genl::open()?;
    for some in peers.chunks(MAX_PEERS) {
        genl.set(link, WireguardAttribute::Peers(some.to_vec()))?;
    }
    Ok(())
}

fn forget(key: &PublicKey) -> WireguardPeer {
    WireguardPeer(vec![
        WireguardPeerAttribute::PublicKey(key.0),
        WireguardPeerAttribute::Flags(WireguardPeerFlags::RemoveMe),
    ])
}

fn know((key, peer): (&PublicKey, &Correspondent)) -> WireguardPeer {
    let only = WireguardAllowedIp(vec![
        WireguardAllowedIpAttr::Family(WireguardAddressFamily::Ipv6),
        WireguardAllowedIpAttr::IpAddr(peer.address.into()),
        WireguardAllowedIpAttr::Cidr(128),
    ]);
    WireguardPeer(vec![
        WireguardPeerAttribute::PublicKey(key.0),
        WireguardPeerAttribute::Flags(WireguardPeerFlags::ReplaceAllowedIps),
        WireguardPeerAttribute::Endpoint(peer.at),
        WireguardPeerAttribute::PersistentKeepalive(KEEPALIVE),
        WireguardPeerAttribute::AllowedIps(vec![only]),
    ])
}

fn set(link: &IfName, attribute: WireguardAttribute) -> io::Result<()> {
    Genl::open()?.set(link, attribute)
}

/// A socket in the namespace of the thread that opened it.
struct Genl {
    socket: Socket,
    /// What the kernel calls WireGuard.
    family: u16,
}

impl Genl {
    fn open() -> io::Result<Self> {
        let mut socket = Socket::new(NETLINK_GENERIC)?;
        socket.bind_auto()?;
        socket.connect(&SocketAddr::new(0, 0))?;
        socket.set_cap_ack(true)?;
        set_socket_timeout(socket.as_fd(), Timeout::Recv, Some(ANSWER_TIMEOUT))?;
        let mut genl = Self { socket, family: 0 };
        let name = WireguardMessage::family_name().to_owned();
        let which = GenlMessage::from_payload(GenlCtrl {
            cmd: GenlCtrlCmd::GetFamily,
            nlas: vec![GenlCtrlAttrs::FamilyName(name)],
        });
        let mut family = None;
        genl.exchange(which, NLM_F_ACK, |attributes| {
            let number = attribute(attributes, CTRL_ATTR_FAMILY_ID);
            family = number.and_then(|bytes| Some(u16::from_ne_bytes(bytes.try_into().ok()?)));
        })?;
        genl.family = family.ok_or(Errno::NOENT)?;
        Ok(genl)
    }

    fn device(&self, link: &IfName) -> io::Result<WireGuard> {
        let ask = self.message(WireguardCmd::GetDevice, link, None);
        let mut found = WireGuard::default();
        let mut unreadable = None;
        self.exchange(ask, NLM_F_DUMP, |attributes| {
            let header = GenlHeader { cmd: 0, version: 1 };
            match WireguardMessage::parse_with_param(attributes, header) {
                Ok(message) => add(&mut found, message.attributes),
                Err(error) => unreadable = Some(error),
            }
        })?;
        match unreadable {
            None => Ok(found),
            Some(error) => Err(io::Error::other(error)),
        }
    }

    fn set(&self, link: &IfName, attribute: WireguardAttribute) -> io::Result<()> {
        let change = self.message(WireguardCmd::SetDevice, link, Some(attribute));
        self.exchange(change, NLM_F_ACK, |_attributes| {})
    }

    fn message(
        &self,
        cmd: WireguardCmd,
        link: &IfName,
        attribute: Option<WireguardAttribute>,
    ) -> GenlMessage<WireguardMessage> {
        let name = WireguardAttribute::IfName(link.to_string());
        let mut message = GenlMessage::from_payload(WireguardMessage {
            cmd,
            attributes: [name].into_iter().chain(attribute).collect(),
        });
        message.set_resolved_family_id(self.family);
        message
    }

    /// Sends a request and shows the attributes of each answer, to the last one.
    fn exchange<F>(
        &self,
        message: GenlMessage<F>,
        flags: u16,
        mut show: impl FnMut(&[u8]),
    ) -> io::Result<()>
    where
        F: GenlFamily + Emitable + Clone + Debug + Eq,
    {
        let payload = NetlinkPayload::InnerMessage(message);
        let mut request = NetlinkMessage::new(Default::default(), payload);
        request.header.flags = NLM_F_REQUEST | flags;
        request.finalize();
        let mut datagram = vec![0; request.buffer_len()];
        request.serialize(&mut datagram);
        self.socket.send(&datagram, 0)?;
        loop {
            let (answer, _) = self.socket.recv_from_full()?;
            for frame in frames(&answer) {
                match frame.kind {
                    // An error of 0 is the end of an answer, and of a dump alike.
                    NLMSG_DONE | NLMSG_ERROR => {
                        let code = frame.payload.get(..4).and_then(|code| code.try_into().ok());
                        return match code.map_or(0, i32::from_ne_bytes) {
                            0 => Ok(()),
                            code => Err(io::Error::from_raw_os_error(code.saturating_abs())),
                        };
                    }
                    _ => show(frame.payload.get(HEADER..).unwrap_or_default()),
                }
            }
        }
    }
}

/// Many nodes are told in several messages.
fn add(found: &mut WireGuard, attributes: Vec<WireguardAttribute>) {
    for attribute in attributes {
        match attribute {
            WireguardAttribute::PublicKey(key) => found.key = Some(PublicKey(key)),
            WireguardAttribute::ListenPort(port) => found.port = port,
            WireguardAttribute::Peers(peers) => {
                for (key, addresses) in peers.iter().filter_map(known) {
                    found.peers.entry(key).or_default().extend(addresses);
                }
            }
            _ => {}
        }
    }
}

fn known(peer: &WireguardPeer) -> Option<(PublicKey, BTreeSet<IpNet>)> {
    let mut addresses = BTreeSet::new();
    let mut key = None;
    for attribute in peer.iter() {
        match attribute {
            WireguardPeerAttribute::PublicKey(found) => key = Some(PublicKey(*found)),
            WireguardPeerAttribute::AllowedIps(found) => {
                addresses.extend(found.iter().filter_map(net));
            }
            _ => {}
        }
    }
    Some((key?, addresses))
}

fn net(allowed: &WireguardAllowedIp) -> Option<IpNet> {
    let (mut address, mut length) = (None, None);
    for attribute in allowed.iter() {
        match attribute {
            WireguardAllowedIpAttr::IpAddr(found) => address = Some(*found),
            WireguardAllowedIpAttr::Cidr(found) => length = Some(*found),
            _ => {}
        }
    }
    IpNet::new(address?, length?).ok()
}
