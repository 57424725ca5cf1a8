//! Endpoints of other nodes, as far as this node has to do with them.

use std::net::IpAddr;
use std::sync::Arc;

use api::id::{Id, MacAddr, NodeId};
use rpds::RedBlackTreeMapSync;
use serde::{Deserialize, Serialize};

use super::driver::Tunnel;
use super::endpoint::Endpoint;

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
}

impl Peers {
    pub(crate) fn insert(&mut self, key: String, peer: Arc<Peer>) {
        for address in &peer.addresses {
            self.take(*address, format!("container {}", peer.display_name()));
        }
        self.by_key.insert_mut(key, peer);
    }

    pub(crate) fn remove(&mut self, key: &str) -> Option<Arc<Peer>> {
        let peer = self.by_key.get(key).cloned()?;
        self.by_key.remove_mut(key);
        for address in &peer.addresses {
            self.taken.remove_mut(address);
        }
        Some(peer)
    }

    pub(crate) fn get(&self, key: &str) -> Option<&Arc<Peer>> {
        self.by_key.get(key)
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (&String, &Arc<Peer>)> {
        self.by_key.iter()
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
        })
    }

    pub(crate) fn display_name(&self) -> &str {
        self.name.as_deref().unwrap_or(&self.container)
    }
}
