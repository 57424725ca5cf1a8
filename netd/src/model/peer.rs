//! Endpoints of other nodes, as far as this node has to do with them.

use std::collections::BTreeMap;
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
}

impl Peers {
    pub(crate) fn insert(&mut self, key: String, peer: Arc<Peer>) {
        for address in &peer.addresses {
            self.take(*address, format!("container {}", peer.display_name()));
        }
        for part in &peer.parts {
            let part = (part.membership.service.clone(), key.clone());
            self.by_service.insert_mut(part, Arc::clone(&peer));
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
        Some(peer)
    }

    pub(crate) fn get(&self, key: &str) -> Option<&Arc<Peer>> {
        self.by_key.get(key)
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (&String, &Arc<Peer>)> {
        self.by_key.iter()
    }

    /// Those that `other` lacks, or has otherwise.
    pub(crate) fn beyond<'a>(
        &'a self,
        other: &'a Self,
    ) -> impl Iterator<Item = (&'a String, &'a Arc<Peer>)> {
        self.iter()
            .filter(move |(key, peer)| other.get(key) != Some(*peer))
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
