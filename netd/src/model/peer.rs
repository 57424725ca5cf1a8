//! Endpoints of other nodes, as far as this node has to do with them.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use api::id::{Id, MacAddr, NodeId};
use rpds::RedBlackTreeMapSync;
use serde::{Deserialize, Serialize};

use super::driver::Tunnel;
use super::endpoint::Endpoint;
use super::service::Membership;
use super::wireguard::PublicKey;

/// What a node tells the others of an endpoint.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Peer {
    pub(crate) node: NodeId,
    pub(crate) endpoint: Id,
    pub(crate) container: String,
    pub(crate) name: Option<String>,
    pub(crate) aliases: Vec<String>,
    pub(crate) mac: MacAddr,
    pub(crate) addresses: Vec<IpAddr>,
    /// Where its node takes encapsulated packets.
    pub(crate) at: Option<IpAddr>,
    /// What its node is known by, on an encrypted network.
    #[serde(default)]
    pub(crate) key: Option<PublicKey>,
    /// What it is part of, as far as the cluster knows it.
    #[serde(default)]
    pub(crate) parts: Vec<Part>,
}

/// Its part in a service of the cluster.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Part {
    #[serde(flatten)]
    pub(crate) membership: Membership,
    /// What its node calls it as a backend of each published port
    /// ([`crate::bpf::DataPlane::reachable`]), by the entry's number without the service's.
    #[serde(default)]
    pub(crate) numbers: BTreeMap<u32, u32>,
}

/// Who has an address: kept although its node is silent, so that it is nobody else's.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Claim {
    pub(crate) node: NodeId,
    /// What has it there, for people.
    pub(crate) holder: String,
}

/// All endpoints of one network that are on other nodes. A snapshot: cheap to clone.
#[derive(Debug, Clone, Default)]
pub(crate) struct Peers {
    /// By their key in the control plane.
    by_key: RedBlackTreeMapSync<String, Arc<Peer>>,
    /// Addresses that are somebody else's, with who has them, for people.
    taken: RedBlackTreeMapSync<IpAddr, String>,
    /// Those with a part in a service, by service and key.
    by_service: RedBlackTreeMapSync<(Id, String), Arc<Peer>>,
    /// By what the kernel's tables are looked up by, and by where the peer is in memory: several may
    /// have it for a moment.
    by_place: RedBlackTreeMapSync<(Place, usize), Arc<Peer>>,
}

/// What an endpoint is found at.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Place {
    Mac(MacAddr),
    Address(IpAddr),
}

/// What differs between who was where and who is.
#[derive(Debug, Default)]
pub(crate) struct Difference<'a> {
    pub(crate) gone: Vec<(&'a String, &'a Arc<Peer>)>,
    pub(crate) new: Vec<(&'a String, &'a Arc<Peer>)>,
}

impl Peers {
    pub(crate) fn insert(&mut self, key: String, peer: Arc<Peer>) {
        self.remove(&key);
        for address in &peer.addresses {
            self.take(*address, format!("container {}", peer.display_name()));
        }
        for part in &peer.parts {
            let part = (part.membership.service.clone(), key.clone());
            self.by_service.insert_mut(part, Arc::clone(&peer));
        }
        for place in peer.places() {
            let place = (place, Arc::as_ptr(&peer).addr());
            self.by_place.insert_mut(place, Arc::clone(&peer));
        }
        self.by_key.insert_mut(key, peer);
    }

    pub(crate) fn remove(&mut self, key: &str) -> Option<Arc<Peer>> {
        let peer = self.by_key.get(key).cloned()?;
        self.by_key.remove_mut(key);
        for address in &peer.addresses {
            self.taken.remove_mut(address);
        }
        for part in &peer.parts {
            let part = (part.membership.service.clone(), key.to_owned());
            self.by_service.remove_mut(&part);
        }
        for place in peer.places() {
            self.by_place
                .remove_mut(&(place, Arc::as_ptr(&peer).addr()));
        }
        Some(peer)
    }

    pub(crate) fn get(&self, key: &str) -> Option<&Arc<Peer>> {
        self.by_key.get(key)
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (&String, &Arc<Peer>)> {
        self.by_key.iter()
    }

    /// What differs from who was where in `before`: anywhere, or at some keys.
    pub(crate) fn since<'a>(
        &'a self,
        before: &'a Self,
        keys: Option<&BTreeSet<String>>,
    ) -> Difference<'a> {
        let beyond = |of: &'a Self, other: &'a Self| -> Vec<_> {
            let differs = |(key, peer): &(&String, &Arc<Peer>)| other.get(key) != Some(*peer);
            match keys {
                None => of.iter().filter(differs).collect(),
                Some(keys) => {
                    let found = keys.iter().filter_map(|key| of.by_key.get_key_value(key));
                    found.filter(differs).collect()
                }
            }
        };
        Difference {
            gone: beyond(before, self),
            new: beyond(self, before),
        }
    }

    /// Those that are found where something differs, ordered by their keys.
    pub(crate) fn near<'a>(&'a self, difference: &Difference<'_>) -> Vec<&'a Peer> {
        let differ = difference.gone.iter().chain(&difference.new);
        let mut places: Vec<Place> = differ.flat_map(|(_key, peer)| peer.places()).collect();
        places.sort_unstable();
        places.dedup();
        let at = |place: Place| {
            let from = self.by_place.range((place, 0)..);
            from.take_while(move |((other, _), _peer)| *other == place)
        };
        let found = places.into_iter().flat_map(at);
        let mut near: Vec<&Peer> = found.map(|(_place, peer)| &**peer).collect();
        near.sort_unstable_by_key(|peer| (&peer.node, &peer.endpoint));
        near.dedup_by_key(|peer| (&peer.node, &peer.endpoint));
        near
    }

    /// Those that have a part in the service.
    pub(crate) fn in_service<'a>(
        &'a self,
        service: &'a Id,
    ) -> impl Iterator<Item = (&'a Peer, &'a Part)> {
        self.by_service
            .range((service.clone(), String::new())..)
            .take_while(move |((of, _key), _peer)| of == service)
            .filter_map(move |(_key, peer)| Some((&**peer, peer.part(service)?)))
    }

    /// Notes that an address is claimed, also where its holder is not heard of.
    pub(crate) fn take(&mut self, address: IpAddr, who: String) {
        self.taken.insert_mut(address, who);
    }

    /// Notes that no address is claimed.
    pub(crate) fn free_all(&mut self) {
        self.taken = RedBlackTreeMapSync::default();
    }

    pub(crate) fn holder(&self, address: IpAddr) -> Option<&str> {
        self.taken.get(&address).map(String::as_str)
    }
}

impl Peer {
    /// Nothing where others make the interface.
    pub(crate) fn of(endpoint: &Endpoint, node: &NodeId, tunnel: Option<Tunnel>) -> Option<Self> {
        let attachment = &endpoint.attachment;
        Some(Self {
            node: node.clone(),
            endpoint: attachment.endpoint_id.clone(),
            container: attachment.container_id.clone(),
            name: attachment.name.clone(),
            aliases: attachment.aliases.clone(),
            mac: attachment.mac?,
            addresses: endpoint.addresses().collect(),
            at: tunnel.map(|tunnel| tunnel.local),
            key: None,
            parts: Vec::new(),
        })
    }

    fn places(&self) -> impl Iterator<Item = Place> {
        let addresses = self.addresses.iter().copied().map(Place::Address);
        addresses.chain([Place::Mac(self.mac)])
    }

    pub(crate) fn part(&self, service: &Id) -> Option<&Part> {
        let mut parts = self.parts.iter();
        parts.find(|part| part.membership.service == *service)
    }

    /// The address of a family.
    pub(crate) fn address(&self, v6: bool) -> Option<IpAddr> {
        let mut addresses = self.addresses.iter();
        addresses.find(|address| address.is_ipv6() == v6).copied()
    }

    pub(crate) fn display_name(&self) -> &str {
        self.name.as_deref().unwrap_or(&self.container)
    }
}

#[cfg(test)]
mod tests;
