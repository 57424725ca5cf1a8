//! What a burst of notifications asks for.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use api::id::{IfName, MacAddr};
use ipnet::IpNet;
use netlink_packet_core::NetlinkPayload;
use netlink_packet_route::link::{LinkAttribute, LinkFlags, LinkMessage};
use netlink_packet_route::neighbour::{NeighbourMessage, NeighbourState};
use netlink_packet_route::tc::TcMessage;
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};

use crate::bpf::FILTER_PRIORITY;
use crate::model::desired::Desired;
use crate::model::wireguard;
use crate::mtu::Seen;
use crate::netlink::{self, Frame, attribute};
use crate::observe;

/// `include/uapi/linux/rtnetlink.h`; the parser knows neither.
const RTM_NEWNETCONF: u16 = 80;
const RTM_DELNETCONF: u16 = 81;

/// Everything heard since the last look. What a link ends as counts, not what it went through.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(super) struct Due {
    /// Look at everything: notifications were lost, or what changed concerns us for certain.
    pub(super) repair: bool,
    /// Nothing was heard: it is time to see what nobody tells of.
    pub(super) look: bool,
    /// Addresses of the host changed, and with them its uplinks.
    pub(super) host: bool,
    /// Somebody changed a packet filter.
    pub(super) filter: bool,
    links: BTreeMap<IfName, Fate>,
    addresses_lost: BTreeSet<IpNet>,
    /// Links that lost a filter of our priority.
    filters_lost: BTreeSet<u32>,
    /// Static entries of bridges and VXLAN interfaces that are gone, and of neighbours.
    frames_lost: BTreeSet<MacAddr>,
    neighbours_lost: BTreeSet<IpAddr>,
    links_gone: BTreeSet<u32>,
    links_down: BTreeSet<u32>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fate {
    Up {
        is_port: bool,
    },
    Down,
    Gone,
    /// A port that may talk to all others of its bridge.
    Unguarded {
        /// It floods, or learns.
        loud: bool,
    },
}

impl Due {
    pub(super) fn everything() -> Self {
        Self {
            repair: true,
            ..Self::default()
        }
    }

    pub(super) fn look() -> Self {
        Self {
            look: true,
            ..Self::default()
        }
    }

    pub(super) fn is_nothing(&self) -> bool {
        *self == Self::default()
    }

    /// Adds what a datagram of rtnetlink tells.
    pub(super) fn note(&mut self, datagram: &[u8], seen: &mut Seen) {
        for frame in netlink::frames(datagram) {
            match frame.kind {
                RTM_NEWNETCONF => {
                    self.repair |= stops_forwarding(&frame).unwrap_or_default();
                    continue;
                }
                // Of a link that goes.
                RTM_DELNETCONF => continue,
                _ => {}
            }
            match frame.parse() {
                Ok(NetlinkPayload::InnerMessage(message)) => {
                    self.note_message(message, &frame, seen);
                }
                Ok(_) => {}
                // Whatever it was, the dump will tell.
                Err(_unreadable) => self.host = true,
            }
        }
    }

    fn note_message(&mut self, message: RouteNetlinkMessage, frame: &Frame<'_>, seen: &mut Seen) {
        match message {
            RouteNetlinkMessage::NewAddress(_) => self.host = true,
            RouteNetlinkMessage::DelAddress(address) => {
                self.host = true;
                self.addresses_lost.extend(observe::address_net(&address));
            }
            RouteNetlinkMessage::NewLink(link) => {
                self.repair |= seen.is_changed(&link);
                self.note_link(&link, frame);
            }
            RouteNetlinkMessage::DelLink(link) => {
                // A bridge tells of a port that leaves as of a link that is deleted.
                if link.header.interface_family != AddressFamily::Bridge {
                    self.links_gone.insert(link.header.index);
                    seen.forget(&link);
                }
                let name = observe::link_name(&link);
                self.links.extend(name.map(|name| (name, Fate::Gone)));
            }
            RouteNetlinkMessage::NewRoute(route) | RouteNetlinkMessage::DelRoute(route) => {
                self.repair |= observe::is_default(&route);
            }
            RouteNetlinkMessage::DelTrafficFilter(filter) => self.note_filter(&filter),
            RouteNetlinkMessage::DelQueueDiscipline(qdisc) => {
                self.filters_lost.extend(u32::try_from(qdisc.header.index));
            }
            RouteNetlinkMessage::DelNeighbour(entry) => self.note_neighbour(&entry),
            _ => {}
        }
    }

    fn note_neighbour(&mut self, entry: &NeighbourMessage) {
        let state = entry.header.state;
        let is_static = matches!(state, NeighbourState::Permanent | NeighbourState::Noarp);
        if entry.header.family == AddressFamily::Bridge {
            let lost = observe::link_address_of(entry);
            self.frames_lost.extend(lost.filter(|_| is_static));
        // Whoever deletes one by hand lets it fail first (`neigh_delete`, net/core/neighbour.c).
        } else if is_static || state == NeighbourState::Failed {
            self.neighbours_lost.extend(observe::destination(entry));
        }
    }

    fn note_link(&mut self, link: &LinkMessage, frame: &Frame<'_>) {
        let Some(name) = observe::link_name(link) else {
            return;
        };
        let fate = if !link.header.flags.contains(LinkFlags::Up) {
            self.links_down.insert(link.header.index);
            Fate::Down
        } else if is_unguarded(frame).unwrap_or_default() {
            Fate::Unguarded {
                loud: is_loud(frame).unwrap_or_default(),
            }
        } else {
            let is_port = |a: &LinkAttribute| matches!(a, LinkAttribute::Controller(_));
            Fate::Up {
                is_port: link.attributes.iter().any(is_port),
            }
        };
        self.links.insert(name, fate);
    }

    fn note_filter(&mut self, filter: &TcMessage) {
        // Zero: all of them.
        let priority = filter.header.info >> 16;
        if priority == 0 || priority == u32::from(FILTER_PRIORITY) {
            self.filters_lost.extend(u32::try_from(filter.header.index));
        }
    }

    /// Whether something of ours is not as it should be, as far as the notifications tell.
    pub(super) fn concerns(&self, view: &Desired) -> bool {
        if self.repair
            || self
                .filters_lost
                .difference(&self.links_gone)
                .next()
                .is_some()
        {
            return true;
        }
        let fate = |link: &IfName| self.links.get(link);
        let bridge = view
            .bridges()
            .any(|link| matches!(fate(link), Some(Fate::Down | Fate::Gone)));
        let gateway = || {
            let mut gateways = view
                .networks
                .values()
                .flat_map(|network| network.gateways());
            gateways.any(|gateway| self.addresses_lost.contains(&gateway))
        };
        let parent = || {
            view.parents().any(|parent| {
                let fate = fate(&parent.parent.link);
                matches!(fate, Some(Fate::Down | Fate::Gone))
            })
        };
        bridge
            || parent()
            || gateway()
            || self.concerns_wireguard(view)
            || self.concerns_overlay(view)
            || self.concerns_endpoint(view)
    }

    /// Whether one of these links went down, or away. Its IPv4 routes go with it without a word
    /// (`fib_table_flush`, net/ipv4/fib_trie.c), and another default route may count from now on.
    pub(super) fn stops_any(&self, links: &BTreeSet<u32>) -> bool {
        let stopped = self.links_down.iter().chain(&self.links_gone);
        stopped.into_iter().any(|link| links.contains(link))
    }

    fn concerns_wireguard(&self, view: &Desired) -> bool {
        let fate = self.links.get(&wireguard::link());
        let is_lost = matches!(fate, Some(Fate::Down | Fate::Gone));
        let wanted = (is_lost || !self.addresses_lost.is_empty()).then(|| view.wireguard());
        wanted.flatten().is_some_and(|wanted| {
            let address = wireguard::net(wanted.address);
            is_lost || self.addresses_lost.contains(&address)
        })
    }

    fn concerns_overlay(&self, view: &Desired) -> bool {
        let lost = !self.frames_lost.is_empty() || !self.neighbours_lost.is_empty();
        view.networks.values().any(|network| {
            let overlay = network.driver.overlay();
            let Some(overlay) = overlay.filter(|overlay| overlay.end().is_some()) else {
                return false;
            };
            overlay.segments().enumerate().any(|(at, segment)| {
                match self.links.get(&segment.link) {
                    None | Some(Fate::Up { is_port: true } | Fate::Unguarded { loud: false }) => {}
                    Some(_) => return true,
                }
                let entries = lost.then(|| view.forwarding(network, at)).flatten();
                entries.is_some_and(|entries| {
                    let mut frames = self.frames_lost.iter();
                    let mut neighbours = self.neighbours_lost.iter();
                    frames.any(|mac| entries.nodes.contains_key(mac))
                        || neighbours.any(|address| entries.neighbours.contains_key(address))
                })
            })
        })
    }

    fn concerns_endpoint(&self, view: &Desired) -> bool {
        if self.links.is_empty() {
            return false;
        }
        view.endpoints.values().any(|endpoint| {
            let attachment = &endpoint.attachment;
            let link = attachment.host_ifname.as_ref();
            match link.and_then(|link| self.links.get(link)) {
                None | Some(Fate::Up { is_port: true }) => false,
                Some(Fate::Down | Fate::Gone | Fate::Up { is_port: false }) => true,
                Some(Fate::Unguarded { .. }) => {
                    let network = view.networks.get(&attachment.network_id);
                    let bridge = network.and_then(|network| network.bridge());
                    bridge.is_some_and(|bridge| !bridge.icc)
                }
            }
        })
    }
}

/// Whether the host stops routing between its links: `NETCONFA_FORWARDING` of `struct netconfmsg`,
/// include/uapi/linux/netconf.h.
fn stops_forwarding(frame: &Frame<'_>) -> Option<bool> {
    const HEADER: usize = 4;
    const IFINDEX: u16 = 1;
    const FORWARDING: u16 = 2;
    const ALL: i32 = -1;
    let attrs = frame.payload.get(HEADER..)?;
    let value = |kind| -> Option<i32> {
        Some(i32::from_ne_bytes(attribute(attrs, kind)?.try_into().ok()?))
    };
    Some(value(IFINDEX)? == ALL && value(FORWARDING)? == 0)
}

/// Whether a bridge tells of a port that is not isolated: `IFLA_BRPORT_ISOLATED` of
/// include/uapi/linux/if_link.h.
fn is_unguarded(frame: &Frame<'_>) -> Option<bool> {
    const ISOLATED: u16 = 33;
    Some(attribute(port(frame)?, ISOLATED)? == [0])
}

/// Whether a bridge tells of a port that something is flooded through, that it learns from, or that it
/// does not answer for: other `IFLA_BRPORT_*`.
fn is_loud(frame: &Frame<'_>) -> Option<bool> {
    const LEARNING: u16 = 8;
    const UNICAST_FLOOD: u16 = 9;
    const MULTICAST_FLOOD: u16 = 27;
    const BROADCAST_FLOOD: u16 = 30;
    const NEIGH_SUPPRESS: u16 = 32;
    let port = port(frame)?;
    let is = |kind, value: u8| attribute(port, kind).is_some_and(|found| found == [value]);
    let loud = [LEARNING, UNICAST_FLOOD, MULTICAST_FLOOD, BROADCAST_FLOOD];
    Some(loud.into_iter().any(|kind| is(kind, 1)) || is(NEIGH_SUPPRESS, 0))
}

/// `IFLA_PROTINFO`.
fn port<'a>(frame: &Frame<'a>) -> Option<&'a [u8]> {
    const HEADER: usize = 16;
    const PROTINFO: u16 = 12;
    attribute(frame.payload.get(HEADER..)?, PROTINFO)
}
