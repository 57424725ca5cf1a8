//! What the data plane is to know of a service.
//!
//! The daemon's number for an entry says where it belongs, so that an update changes entries and
//! never moves them, and the next daemon finds the same:
//!
//! ```text
//! bit 63 .. 32   number of the service
//! bit 31         1: virtual address; 0: published port
//! bit 30, 29     protocol; bit 28 IPv6
//! bit 15 .. 0    slot of the place, or first published port
//! ```

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};

use api::net::Protocol;
use api::service::{Affinity, ServicePort};

use super::{At, Member, PROTOCOLS, Place, Pool, Service, ingress};
use crate::bpf::{Balanced, Frontend, FrontendAddress, Remote};
use crate::model::endpoint::Endpoint;
use crate::model::mesh::{self, MeshEnd};

const VIRTUAL: u64 = 1 << 31;
const PROTOCOL_SHIFT: u32 = 29;
const V6: u64 = 1 << 28;

impl Service {
    /// Its entries, by the daemon's numbers. `members` are in the order in which they joined, those
    /// of other nodes behind the others. Its own addresses are of the places that are on this node.
    pub(crate) fn balanced(
        &self,
        members: &[Member<'_>],
        mesh: Option<MeshEnd>,
        is_here: impl Fn(&Place) -> bool,
    ) -> BTreeMap<u64, Balanced> {
        let mut entries = BTreeMap::new();
        let published = Pool::of(one_a_container(members));
        for port in ingress(&self.ports) {
            for v6 in [false, true] {
                let number = self.number(0, port.protocol, v6, port.published_port);
                entries.insert(number, self.published(&published, port, v6, mesh));
            }
        }
        for place in self.places.iter().filter(|place| is_here(place)) {
            let here = members.iter().filter(|m| m.is_on(&place.network));
            let pool = Pool::of(here.copied());
            for address in &place.addresses {
                entries.extend(self.virtual_address(&pool, place, address.addr()));
            }
        }
        entries
    }

    /// Members without an IPv6 address serve IPv6 clients of this host where no member has one: the
    /// socket hooks map it.
    fn published(
        &self,
        pool: &Pool<'_>,
        port: &ServicePort,
        v6: bool,
        mesh: Option<MeshEnd>,
    ) -> Balanced {
        let mut members = pool.members().iter();
        let has_v6 = members.any(|m| m.address(true).is_some());
        let reaches = v6 && has_v6;
        let number = self.number(0, port.protocol, v6, port.published_port);
        // A packet that comes by an uplink stays of its family.
        let mesh = mesh.filter(|_| v6 == reaches);
        let frontend = Frontend {
            address: match v6 {
                true => FrontendAddress::Any6,
                false => FrontendAddress::Any4,
            },
            protocol: port.protocol,
            port: port.published_port,
            count: port.count,
        };
        let way = |member: &Member<'_>| match member.at {
            At::Here(_) => Some(None),
            At::Elsewhere { peer, part, .. } => Some(Some(Remote {
                node: mesh::mac_of(&peer.node),
                home: peer.at?,
                number: *part.numbers.get(&of_entry(number))?,
                tunnel: mesh?.index,
                underlay: mesh?.underlay,
            })),
        };
        Balanced {
            one_port: port.one_target,
            reachable: self.shared.is_some(),
            ..self.entry([frontend].into(), pool, (reaches, port.target_port), way)
        }
    }

    /// TCP and SCTP have connections and share a table; UDP has one of its own.
    fn virtual_address(
        &self,
        pool: &Pool<'_>,
        place: &Place,
        address: IpAddr,
    ) -> impl Iterator<Item = (u64, Balanced)> {
        let v6 = address.is_ipv6();
        let (datagrams, connections): (Vec<Protocol>, Vec<Protocol>) = PROTOCOLS
            .into_iter()
            .partition(|protocol| *protocol == Protocol::Udp);
        [connections, datagrams]
            .map(|protocols| {
                let first = protocols.first().copied().unwrap_or(Protocol::Tcp);
                let number = self.number(VIRTUAL, first, v6, place.slot);
                let vips = protocols.iter().map(|p| Frontend::vip(address, *p));
                // Connections keep the port that they ask for. Those of another node are reached by the
                // network.
                let way = |_: &Member<'_>| Some(None);
                (number, self.entry(vips.collect(), pool, (v6, 0), way))
            })
            .into_iter()
    }

    fn entry(
        &self,
        frontends: BTreeSet<Frontend>,
        pool: &Pool<'_>,
        (v6, port): (bool, u16),
        way: impl Fn(&Member<'_>) -> Option<Option<Remote>>,
    ) -> Balanced {
        let mut protocols = frontends.iter().map(|frontend| frontend.protocol);
        let connections = protocols.all(|protocol| protocol != Protocol::Udp);
        let (mut backends, mut remotes) = (BTreeMap::new(), BTreeMap::new());
        for member in pool.members() {
            let (Some(weight), Some(address), Some(remote)) = (
                pool.weight(member, connections),
                member.address(v6),
                way(member),
            ) else {
                continue;
            };
            let backend = SocketAddr::new(address, port);
            backends.insert(backend, weight);
            remotes.extend(remote.map(|remote| (backend, remote)));
        }
        Balanced {
            backends,
            remotes,
            one_port: false,
            affinity: self.spec.affinity == Affinity::Client,
            frontends,
            ..Balanced::default()
        }
    }

    /// The numbers of the entries that other nodes send to, which they call [`of_entry`], each with
    /// whether its packets are IPv6.
    pub(crate) fn reachable_entries(&self) -> impl Iterator<Item = (u64, bool)> {
        let ports = ingress(&self.ports).filter(|_| self.shared.is_some());
        ports.flat_map(|port| {
            let families = [false, true];
            families.map(|v6| (self.number(0, port.protocol, v6, port.published_port), v6))
        })
    }

    fn number(&self, kind: u64, protocol: Protocol, v6: bool, low: u16) -> u64 {
        let protocol = match protocol {
            Protocol::Tcp => 0,
            Protocol::Udp => 1,
            Protocol::Sctp => 2,
        };
        let family = if v6 { V6 } else { 0 };
        u64::from(self.number) << 32 | kind | protocol << PROTOCOL_SHIFT | family | u64::from(low)
    }
}

/// What an entry is called among nodes, each of which has a number of its own for the service.
pub(crate) fn of_entry(number: u64) -> u32 {
    number as u32
}

/// A container on several networks of the service is one member of a published port: by the
/// endpoint that answers leave by, or else the first. Of those elsewhere their nodes have chosen.
fn one_a_container<'a>(members: &[Member<'a>]) -> Vec<Member<'a>> {
    let mut chosen: BTreeMap<&str, Member<'a>> = BTreeMap::new();
    let (here, elsewhere): (Vec<&Member<'a>>, Vec<&Member<'a>>) = members
        .iter()
        .partition(|member| member.endpoint().is_some());
    let answers = |member: &Member<'_>| member.endpoint().is_some_and(Endpoint::has_default_route);
    for member in here {
        match chosen.get(member.container()) {
            Some(other) if answers(other) => {}
            Some(_) if !answers(member) => {}
            _ => {
                chosen.insert(member.container(), *member);
            }
        }
    }
    chosen
        .into_values()
        .chain(elsewhere.into_iter().copied())
        .collect()
}
