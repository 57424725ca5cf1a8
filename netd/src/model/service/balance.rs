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

use super::{Member, PROTOCOLS, Place, Pool, Service, ingress};
use crate::bpf::{Balanced, Frontend, FrontendAddress};

const VIRTUAL: u64 = 1 << 31;
const PROTOCOL_SHIFT: u32 = 29;
const V6: u64 = 1 << 28;

impl Service {
    /// Its entries, by the daemon's numbers. `members` are in the order in which they joined.
    pub(crate) fn balanced(&self, members: &[Member<'_>]) -> BTreeMap<u64, Balanced> {
        let mut entries = BTreeMap::new();
        let published = Pool::of(one_a_container(members));
        for port in ingress(&self.ports) {
            for v6 in [false, true] {
                let number = self.number(0, port.protocol, v6, port.published_port);
                entries.insert(number, self.published(&published, port, v6));
            }
        }
        for place in &self.places {
            let here = members.iter().filter(|m| m.endpoint.is_on(&place.network));
            let pool = Pool::of(here.copied());
            for address in &place.addresses {
                entries.extend(self.virtual_address(&pool, place, address.addr()));
            }
        }
        entries
    }

    /// Members without an IPv6 address serve IPv6 clients of this host where no member has one: the
    /// socket hooks map it.
    fn published(&self, pool: &Pool<'_>, port: &ServicePort, v6: bool) -> Balanced {
        let has_v6 = pool
            .members()
            .iter()
            .any(|m| m.endpoint.address(true).is_some());
        let frontend = Frontend {
            address: match v6 {
                true => FrontendAddress::Any6,
                false => FrontendAddress::Any4,
            },
            protocol: port.protocol,
            port: port.published_port,
            count: port.count,
        };
        Balanced {
            one_port: port.one_target,
            ..self.entry([frontend].into(), pool, v6 && has_v6, port.target_port)
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
                // Connections keep the port that they ask for.
                (number, self.entry(vips.collect(), pool, v6, 0))
            })
            .into_iter()
    }

    fn entry(
        &self,
        frontends: BTreeSet<Frontend>,
        pool: &Pool<'_>,
        v6: bool,
        port: u16,
    ) -> Balanced {
        let mut protocols = frontends.iter().map(|frontend| frontend.protocol);
        let connections = protocols.all(|protocol| protocol != Protocol::Udp);
        let backends = pool.members().iter().filter_map(|member| {
            let weight = pool.weight(member, connections)?;
            let address = member.endpoint.address(v6)?;
            Some((SocketAddr::new(address, port), weight))
        });
        Balanced {
            backends: backends.collect(),
            one_port: false,
            affinity: self.spec.affinity == Affinity::Client,
            frontends,
            ..Balanced::default()
        }
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

/// A container on several networks of the service is one member of a published port: by the
/// endpoint that answers leave by, or else the first.
fn one_a_container<'a>(members: &[Member<'a>]) -> Vec<Member<'a>> {
    let mut chosen: BTreeMap<&str, Member<'a>> = BTreeMap::new();
    for member in members {
        let container = member.endpoint.attachment.container_id.as_str();
        match chosen.get(container) {
            Some(other) if other.endpoint.has_default_route() => {}
            Some(_) if !member.endpoint.has_default_route() => {}
            _ => {
                chosen.insert(container, *member);
            }
        }
    }
    chosen.into_values().collect()
}
