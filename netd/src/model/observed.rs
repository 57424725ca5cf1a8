//! What the kernel has, as far as plans need to know.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};

use api::id::{IfName, MacAddr};
use ipnet::IpNet;

use super::driver::Tunnel;
use super::endpoint::EndpointKey;
use super::filter::Filter;
use super::forwarding::Forwarding;
use super::mesh;
use super::reserved::PortSet;
use super::wireguard::PublicKey;
use crate::bpf::{Balanced, Edge, Frontend, Sandbox, Sealed};

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Observed {
    /// Links of the host by name.
    pub(crate) links: BTreeMap<IfName, Link>,
    /// Routes of the main table other than default ones: range and link.
    pub(crate) routes: Vec<(IpNet, IfName)>,
    /// MTU of the default route's link.
    pub(crate) underlay_mtu: Option<u32>,
    pub(crate) ipv4_forwarding: bool,
    pub(crate) ipv6_forwarding: bool,
    pub(crate) reserved_ports: PortSet,
    /// Absent when the table is missing or not as this version writes it.
    pub(crate) filter: Option<Filter>,
    pub(crate) data_plane: DataPlane,
    /// Where frames to other nodes go, by our VXLAN interfaces.
    pub(crate) forwarding: BTreeMap<IfName, Forwarding>,
    /// Endpoints without an end on the host whose interface is gone from its sandbox. Filled in
    /// by a reconcile: it takes a look into each of these sandboxes.
    pub(crate) lost: BTreeSet<EndpointKey>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Link {
    pub(crate) index: u32,
    pub(crate) up: bool,
    pub(crate) mac: Option<MacAddr>,
    pub(crate) mtu: u32,
    pub(crate) loopback: bool,
    pub(crate) master: Option<u32>,
    /// As a bridge's port: cannot talk to other isolated ones.
    pub(crate) isolated: bool,
    pub(crate) addresses: Vec<Address>,
    /// Its root queue is a token bucket.
    pub(crate) limited: bool,
    pub(crate) vxlan: Option<Vxlan>,
    pub(crate) wireguard: Option<WireGuard>,
}

/// What a WireGuard interface of ours is.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct WireGuard {
    /// Nothing while it has no private one.
    pub(crate) key: Option<PublicKey>,
    pub(crate) port: u16,
    /// The other nodes, with the addresses that they may send from.
    pub(crate) peers: BTreeMap<PublicKey, BTreeSet<IpNet>>,
}

/// What a VXLAN interface is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Vxlan {
    pub(crate) vni: u32,
    pub(crate) tunnel: Option<Tunnel>,
    /// The number of the only link that it sends by, if there is one.
    pub(crate) below: Option<u32>,
    /// As a bridge's port: it learns nothing, and nothing is flooded through it.
    pub(crate) quiet: bool,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Address {
    pub(crate) net: IpNet,
    /// Of universe scope: packets from elsewhere may be sent to it.
    pub(crate) global: bool,
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct DataPlane {
    pub(crate) published: BTreeMap<Frontend, SocketAddr>,
    /// Services with several backends, by the daemon's number.
    pub(crate) balanced: BTreeMap<u64, Balanced>,
    pub(crate) sandboxes: BTreeMap<u64, Sandbox>,
    pub(crate) uplinks: BTreeSet<u32>,
    /// Interfaces by which packets of other nodes are taken.
    pub(crate) tunnels: BTreeSet<u32>,
    /// What it lets nobody send in clear text.
    pub(crate) sealed: Sealed,
    /// The host's addresses as it knows them.
    pub(crate) local: BTreeSet<IpAddr>,
    /// A socket hook that was attached is not any more.
    pub(crate) hook_lost: bool,
    /// By the host's end of the link; nothing where the program is not attached.
    pub(crate) edges: BTreeMap<IfName, Option<Edge>>,
    /// Links whose far ends XDP sends frames to, by the index of the host's end.
    pub(crate) frame_links: BTreeSet<u32>,
}

/// A sandbox seen from inside.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Inside {
    pub(crate) device: u64,
    pub(crate) inode: u64,
    pub(crate) cookie: Option<u64>,
    /// Whether it is the daemon's own namespace.
    pub(crate) is_host: bool,
    /// The interface asked about.
    pub(crate) link: Option<InsideLink>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct InsideLink {
    pub(crate) up: bool,
    pub(crate) mac: Option<MacAddr>,
    pub(crate) mtu: u32,
    pub(crate) addresses: BTreeSet<IpAddr>,
    /// Destinations and gateways of all tables.
    pub(crate) routes: BTreeSet<(IpNet, Option<IpAddr>)>,
}

impl Observed {
    pub(crate) fn name_of(&self, index: u32) -> Option<&IfName> {
        self.links
            .iter()
            .find(|(_, link)| link.index == index)
            .map(|(name, _)| name)
    }

    /// Every address that packets to this host may carry; link-local ones mean nothing without
    /// their link.
    pub(crate) fn local_addresses(&self) -> BTreeSet<IpAddr> {
        self.links
            .values()
            .flat_map(|link| &link.addresses)
            .map(|address| address.net.addr())
            .filter(|address| !matches!(address, IpAddr::V6(v6) if v6.is_unicast_link_local()))
            // Nobody is asked for that one.
            .filter(|address| *address != mesh::address().addr())
            .collect()
    }
}
