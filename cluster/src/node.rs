//! The members of a cluster.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use api::id::NodeId;
use api::swarm::Machine;
pub use api::swarm::{Availability, Role};
use serde::{Deserialize, Serialize};

use crate::control_plane::ControlPlane;
use crate::key::NODES;

/// Where nodes take requests of each other, unless they are told otherwise: IANA knows it as Docker's.
pub const DOOR: u16 = 2377;

/// What is on record of a member: [`crate::key::node`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Node {
    pub id: NodeId,
    pub hostname: String,
    pub role: Role,
    pub availability: Availability,
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
    /// RFC 3339: when it joined.
    pub created: String,
    /// Where other members reach its daemon; managers have it.
    pub manager_address: Option<SocketAddr>,
    /// The same of any member, as it was when it joined; nothing of one that joined by an earlier
    /// version.
    #[serde(default)]
    pub door: Option<SocketAddr>,
    /// Where it takes encapsulated packets.
    pub data_address: IpAddr,
    /// UDP port of the same.
    pub data_port: u16,
    /// Version of its daemon.
    pub engine: String,
    #[serde(default)]
    pub machine: Machine,
}

impl Node {
    /// Where managers reach its daemon.
    pub fn door(&self) -> SocketAddr {
        let known = self.manager_address.or(self.door);
        known.unwrap_or_else(|| SocketAddr::new(self.data_address, DOOR))
    }
}

/// This node's part in a cluster.
#[derive(Debug, Clone)]
pub struct Member {
    pub control: Arc<dyn ControlPlane>,
    pub node: NodeId,
    /// Whether it knows everything and may change it.
    pub manager: bool,
    /// Where this node takes encapsulated packets; nothing on a host that is alone.
    pub data_address: Option<IpAddr>,
    /// UDP port of the same, on all nodes.
    pub data_port: u16,
}

/// For people, where a cluster's managers are: `one of n1 (IP:PORT), n2 (IP:PORT)`.
pub fn managers(control: &dyn ControlPlane) -> String {
    let entries = control.snapshot(NODES).unwrap_or_default().entries;
    let nodes = entries.values();
    let nodes = nodes.filter_map(|entry| serde_json::from_str::<Node>(&entry.value).ok());
    let mut managers: Vec<String> = nodes
        .filter_map(|node| Some(format!("{} ({})", node.hostname, node.manager_address?)))
        .collect();
    managers.sort();
    match managers.as_slice() {
        [] => "a manager".to_owned(),
        [only] => only.clone(),
        _ => format!("one of {}", managers.join(", ")),
    }
}

/// An id for a new node, or for whatever else must not be guessed.
///
/// # Errors
/// The kernel has no random numbers.
pub fn random_node() -> Result<NodeId, getrandom::Error> {
    let mut bytes = [0; 16];
    getrandom::fill(&mut bytes)?;
    Ok(NodeId::from_bytes(bytes))
}

impl Member {
    /// IANA's port of VXLAN (RFC 7348 §5).
    pub const DATA_PORT: u16 = 4789;
}
