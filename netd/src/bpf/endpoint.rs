//! The programs at the host's end of each endpoint's link.
//!
//! One stub a direction for all endpoints, as clsact filters: the kernel drops those with their links, so that
//! nothing is left of an endpoint but its entries. TCX would cost each attach two RCU grace periods
//! under the lock of all interfaces; see the decision record on endpoint programs.
//!
//! **Invariants.** An entry is written before its filter is attached, and a packet without an entry
//! is dropped: at no time does an endpoint send unchecked. A link without an entry has no filter of
//! this instance; what may be there calls a table that is gone.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddrV4};

use abi::endpoint::{
    ENDPOINT_CHECKED, ENDPOINTS, EndpointValue, Mac, PLACES, Place, REFUSAL_NAMES, REFUSALS,
};
use abi::{Address, Be16};
use api::id::{Id, IfName, MacAddr};
use aya::Ebpf;
use aya::maps::{HashMap, MapData, MapError, PerCpuArray};
use aya::programs::{SchedClassifier, TcAttachType};

use super::Change;
use super::clsact;
use super::error::{BpfError, optional};
use super::frontend::address;
use super::object;
use super::replay::{self, Replay};

/// Of what the endpoint sends, and of what is sent to it.
const STUB: &str = "endpoint_entry";
const EXIT: &str = "endpoint_exit";
/// Without the first one the endpoint would send unchecked: where it is, the other one is.
const STUBS: [(&str, TcAttachType); 2] =
    [(EXIT, TcAttachType::Egress), (STUB, TcAttachType::Ingress)];

/// What the program at the host's end of an endpoint's link knows of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Edge {
    pub mac: MacAddr,
    pub v4: Option<Ipv4Addr>,
    pub v6: Option<Ipv6Addr>,
    /// Packets that carry other addresses are dropped.
    pub checked: bool,
    /// The number of the endpoint's network among this host's.
    pub network: u64,
    /// The link's MTU, where packets of published ports may take the shortcut to it and from it.
    pub direct_mtu: Option<u16>,
    /// Where the endpoint's network answers DNS queries, if it does for names.
    pub resolver: Option<SocketAddrV4>,
}

impl Edge {
    fn value(&self, link: &IfName) -> EndpointValue {
        let mac = Mac::from_octets(self.mac.0);
        let mut name = [0; 16];
        name[..link.as_str().len()].copy_from_slice(link.as_str().as_bytes());
        EndpointValue {
            network: self.network,
            v6: self
                .v6
                .map_or(Address::ANY6, |v6| Address::from_octets(v6.octets())),
            link_local: mac.link_local(),
            v4: self.v4.map_or(0, word),
            resolver: self.resolver.map_or(0, |resolver| word(*resolver.ip())),
            resolver_port: Be16::new(self.resolver.map_or(0, |resolver| resolver.port())),
            mac,
            flags: if self.checked { ENDPOINT_CHECKED } else { 0 },
            direct_mtu: self.direct_mtu.map_or(0, u32::from),
            name,
        }
    }

    /// Where its addresses are.
    fn places(&self, ifindex: u32) -> impl Iterator<Item = (Address, Place)> + use<> {
        let place = Place {
            network: self.network,
            ifindex,
            mac: Mac::from_octets(self.mac.0),
            direct_mtu: self.direct_mtu.unwrap_or(0),
            pad: [0; 2],
        };
        let ips = [self.v4.map(IpAddr::V4), self.v6.map(IpAddr::V6)];
        let addresses = ips.into_iter().flatten().map(address);
        addresses.map(move |address| (address, place))
    }

    fn from_value(value: &EndpointValue) -> Self {
        let v4 = |word: u32| Ipv4Addr::from(word.to_ne_bytes());
        let v6 = Ipv6Addr::from(value.v6.octets());
        Self {
            mac: MacAddr(value.mac.octets()),
            v4: (value.v4 != 0).then(|| v4(value.v4)),
            v6: (!v6.is_unspecified()).then_some(v6),
            checked: value.is_checked(),
            network: value.network,
            direct_mtu: u16::try_from(value.direct_mtu).ok().filter(|mtu| *mtu > 0),
            resolver: (value.resolver != 0)
                .then(|| SocketAddrV4::new(v4(value.resolver), value.resolver_port.get())),
        }
    }
}

/// Tells the networks of one host apart: the first 64 of an id's 256 random bits, or 62 of those of a
/// network of the cluster.
pub(crate) fn network_number(network: &Id) -> u64 {
    let id = network.as_str();
    let (digits, radix) = if id.len() == 64 { (16, 16) } else { (12, 36) };
    u64::from_str_radix(&id[..digits], radix).unwrap_or_default()
}

/// As in a packet.
pub(super) fn word(address: Ipv4Addr) -> u32 {
    u32::from_ne_bytes(address.octets())
}

/// `None` for a name that this version never writes.
fn link_of(value: &EndpointValue) -> Option<IfName> {
    let end = value.name.iter().position(|byte| *byte == 0)?;
    IfName::parse(std::str::from_utf8(&value.name[..end]).ok()?).ok()
}

pub(super) struct Edges {
    map: HashMap<MapData, u32, EndpointValue>,
    places: HashMap<MapData, Address, Place>,
    refusals: PerCpuArray<MapData, u64>,
    /// Links by name: an entry must be found when its link is gone. Read from the map at start.
    indices: BTreeMap<IfName, u32>,
}

impl Edges {
    /// Loads the stubs of `object`, which the other methods then expect again.
    pub(super) fn open(object: &mut Ebpf) -> Result<Self, BpfError> {
        for (name, _side) in STUBS {
            let stub: &mut SchedClassifier = object::program(object, name)?;
            object::loaded(stub.load()).map_err(BpfError::load(name))?;
        }
        let places = object::take(object, PLACES)?;
        let map: HashMap<_, u32, EndpointValue> = object::take(object, ENDPOINTS)?;
        let refusals = object::take(object, REFUSALS)?;
        let mut indices = BTreeMap::new();
        let mut want = BTreeMap::new();
        for entry in map.iter() {
            let (index, value) = entry.map_err(BpfError::map(ENDPOINTS))?;
            indices.extend(link_of(&value).map(|link| (link, index)));
            want.extend(Edge::from_value(&value).places(index));
        }
        let mut edges = Self {
            map,
            places,
            refusals,
            indices,
        };
        edges.repair_places(want).map_err(BpfError::map(PLACES))?;
        Ok(edges)
    }

    /// Makes the places those of the entries: an earlier daemon may have stopped between the two, or
    /// not have known of places.
    fn repair_places(&mut self, want: BTreeMap<Address, Place>) -> Result<(), MapError> {
        let have: BTreeMap<_, _> = self.places.iter().collect::<Result<_, _>>()?;
        for (address, place) in &want {
            if have.get(address) != Some(place) {
                self.places.insert(address, place, 0)?;
            }
        }
        for address in have.keys().filter(|address| !want.contains_key(address)) {
            optional(self.places.remove(address))?;
        }
        Ok(())
    }

    fn add_places(&mut self, edge: &Edge, index: u32) -> Result<(), BpfError> {
        edge.places(index)
            .try_for_each(|(address, place)| self.places.insert(address, place, 0))
            .map_err(BpfError::map(PLACES))
    }

    /// Removes the places of an entry. Another endpoint may have its addresses by now.
    fn remove_places(&mut self, value: &EndpointValue, index: u32) -> Result<(), BpfError> {
        for (address, place) in Edge::from_value(value).places(index) {
            let found = optional(self.places.get(&address, 0)).map_err(BpfError::map(PLACES))?;
            if found == Some(place) {
                optional(self.places.remove(&address)).map_err(BpfError::map(PLACES))?;
            }
        }
        Ok(())
    }

    /// Writes the entries and attaches the programs, whatever of it is missing.
    pub(super) fn attach(
        &mut self,
        object: &mut Ebpf,
        link: &IfName,
        edge: &Edge,
    ) -> Result<Change, BpfError> {
        let index = clsact::interface_index(link.as_str())
            .map_err(BpfError::attach(STUB, link.as_str()))?;
        if self.indices.get(link).is_some_and(|old| *old != index) {
            // Of a link of this name that is gone.
            self.release(link)?;
        }
        let value = edge.value(link);
        let old = optional(self.map.get(&index, 0)).map_err(BpfError::map(ENDPOINTS))?;
        let failed = |name| BpfError::attach(name, link.as_str());
        if old.is_none() {
            for (name, side) in STUBS {
                clsact::detach(link.as_str(), side).map_err(failed(name))?;
            }
        }
        if old != Some(value) {
            if let Some(old) = &old {
                self.remove_places(old, index)?;
            }
            self.add_places(edge, index)?;
            self.map
                .insert(index, value, 0)
                .map_err(BpfError::map(ENDPOINTS))?;
            self.indices.insert(link.clone(), index);
        }
        clsact::add_qdisc(link.as_str()).map_err(failed(STUB))?;
        let mut attached = false;
        for (name, side) in STUBS {
            let stub: &mut SchedClassifier = object::program(object, name)?;
            attached |= clsact::ensure(stub, link.as_str(), side).map_err(failed(name))?;
        }
        Ok(match (old, attached) {
            (None, _) => Change::Created,
            (Some(old), false) if old == value => Change::Unchanged,
            _ => Change::Changed,
        })
    }

    /// Removes the entry: until its link is deleted the endpoint sends nothing more.
    pub(super) fn release(&mut self, link: &IfName) -> Result<Change, BpfError> {
        let Some(&index) = self.indices.get(link) else {
            return Ok(Change::Unchanged);
        };
        let old = optional(self.map.get(&index, 0)).map_err(BpfError::map(ENDPOINTS))?;
        optional(self.map.remove(&index)).map_err(BpfError::map(ENDPOINTS))?;
        if let Some(old) = &old {
            self.remove_places(old, index)?;
        }
        self.indices.remove(link);
        Ok(Change::Changed)
    }

    /// The entries, by link and its index. Whether the program is attached is tc's to say.
    pub(super) fn all(&self) -> Result<BTreeMap<IfName, (u32, Edge)>, BpfError> {
        let mut edges = BTreeMap::new();
        for entry in self.map.iter() {
            let (index, value) = entry.map_err(BpfError::map(ENDPOINTS))?;
            edges.extend(link_of(&value).map(|link| (link, (index, Edge::from_value(&value)))));
        }
        Ok(edges)
    }

    /// Packets that went no further, by reason.
    pub(super) fn refusals(&self) -> Result<Vec<(&'static str, u64)>, BpfError> {
        (0u32..)
            .zip(REFUSAL_NAMES)
            .map(|(index, name)| {
                let values = self
                    .refusals
                    .get(&index, 0)
                    .map_err(BpfError::map(REFUSALS))?;
                Ok((name, values.iter().sum()))
            })
            .collect()
    }
}

/// Runs a frame that the endpoint sends.
pub(super) fn replay(object: &mut Ebpf, frame: &[u8]) -> Result<Replay, BpfError> {
    replay::run(object, STUB, frame)
}

/// Runs a frame that is sent to the endpoint.
pub(super) fn replay_to(object: &mut Ebpf, frame: &[u8]) -> Result<Replay, BpfError> {
    replay::run(object, EXIT, frame)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_round_trip() {
        let link = IfName::parse("veth0123456789a").unwrap();
        for edge in [
            Edge {
                mac: MacAddr([2, 0x42, 172, 18, 0, 2]),
                v4: Some(Ipv4Addr::new(172, 18, 0, 2)),
                v6: Some("fd00::2".parse().unwrap()),
                checked: true,
                network: u64::MAX,
                direct_mtu: Some(9000),
                resolver: Some("172.18.0.1:10053".parse().unwrap()),
            },
            Edge {
                mac: MacAddr([0; 6]),
                v4: None,
                v6: None,
                checked: false,
                network: 0,
                direct_mtu: None,
                resolver: None,
            },
        ] {
            let value = edge.value(&link);
            assert_eq!(Edge::from_value(&value), edge);
            assert_eq!(link_of(&value), Some(link.clone()));
        }
    }
}
