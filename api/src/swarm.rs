//! Clusters and their nodes: objects of the Docker Engine API, and requests of our own.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;

use ipnet::{IpNet, Ipv4Net};
use serde::{Deserialize, Serialize};

use crate::id::NodeId;
use crate::storage::Secret;
use crate::task::Amounts;

/// What a node is to its cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    Worker,
    /// It knows everything and may change it.
    Manager,
}

impl Role {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Worker => "worker",
            Self::Manager => "manager",
        }
    }
}

/// Whether a node is to run replicas of services: Docker's words.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Availability {
    #[default]
    Active,
    /// Those it has stay.
    Pause,
    Drain,
}

impl Availability {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Active => "active",
            Self::Pause => "pause",
            Self::Drain => "drain",
        }
    }
}

/// An etcd that exists, or none: managers run one.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", deny_unknown_fields)]
pub struct EtcdAddress {
    /// `https://HOST:PORT` or `http://HOST:PORT`.
    #[serde(default)]
    pub endpoints: Vec<String>,
    /// PEM files of mutual TLS, at the same paths on every node.
    #[serde(default)]
    pub ca: Option<PathBuf>,
    #[serde(default)]
    pub certificate: Option<PathBuf>,
    #[serde(default)]
    pub key: Option<PathBuf>,
    /// Seconds that a node may be silent before the others take it for gone.
    #[serde(default)]
    pub lease: Option<u64>,
}

/// What a cluster is to be like, as long as nobody says otherwise: Docker's, too.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct SwarmSettings {
    /// Where its networks have subnets from that are given none.
    pub default_addr_pool: Vec<IpNet>,
    /// Prefix length of each of these.
    pub subnet_size: u8,
    /// Tasks of a replica that are kept to be looked at, the present one included.
    pub task_history: u64,
}

impl Default for SwarmSettings {
    fn default() -> Self {
        let pool = Ipv4Net::new_assert(Ipv4Addr::new(10, 0, 0, 0), 8);
        Self {
            default_addr_pool: vec![pool.into()],
            subnet_size: 24,
            task_history: 5,
        }
    }
}

/// `hawser swarm init`. Addresses are `IP`, `IP:PORT`, `INTERFACE` or `INTERFACE:PORT`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", deny_unknown_fields)]
pub struct SwarmInit {
    pub advertise_addr: Option<String>,
    pub listen_addr: Option<String>,
    pub data_path_addr: Option<String>,
    pub data_path_port: Option<u16>,
    #[serde(default)]
    pub availability: Availability,
    /// Seconds that a node's certificate is good for.
    pub cert_expiry: Option<u64>,
    pub etcd: EtcdAddress,
    /// Managers must be unlocked after they were restarted.
    #[serde(default)]
    pub auto_lock: bool,
    #[serde(default)]
    pub settings: SwarmSettings,
}

/// `hawser swarm join`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", deny_unknown_fields)]
pub struct SwarmJoin {
    pub token: String,
    /// `HOST:PORT` of a manager; the port may be absent.
    pub manager: String,
    pub advertise_addr: Option<String>,
    pub listen_addr: Option<String>,
    pub data_path_addr: Option<String>,
    #[serde(default)]
    pub availability: Availability,
}

/// `hawser swarm update`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", deny_unknown_fields)]
pub struct SwarmUpdate {
    /// Seconds that certificates are good for which are given from now on.
    #[serde(default)]
    pub cert_expiry: Option<u64>,
    /// Whether managers must be unlocked after they were restarted.
    #[serde(default)]
    pub auto_lock: Option<bool>,
    /// Another unlock key is needed from now on.
    #[serde(default)]
    pub rotate_unlock_key: bool,
    /// [`SwarmSettings::task_history`].
    #[serde(default)]
    pub task_history: Option<u64>,
}

/// `hawser swarm ca --rotate`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", deny_unknown_fields)]
pub struct SwarmRotation {
    /// The next authority, if it is not to be a new one. PEM, and its key with it.
    #[serde(default)]
    pub ca_cert: Option<String>,
    #[serde(default)]
    pub ca_key: Option<Secret>,
    /// Seconds that certificates are good for which are given from now on.
    #[serde(default)]
    pub cert_expiry: Option<u64>,
}

/// How far nodes are on their way to the authority of [`TlsInfo`].
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct RotationProgress {
    /// SHA-256 of the authority's certificate (DER).
    pub digest: String,
    pub nodes: usize,
    /// Nodes that have certificates of it.
    pub certificates: usize,
    /// Nodes that trust nobody else.
    pub roots: usize,
    /// Names of nodes that the next step waits for.
    pub waits: Vec<String>,
}

/// What managers are unlocked with.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", deny_unknown_fields)]
pub struct SwarmKey {
    /// Empty where nothing is locked.
    pub unlock_key: Secret,
}

/// This node in its cluster.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct Membership {
    #[serde(rename = "NodeID")]
    pub node: NodeId,
    #[serde(rename = "ClusterID")]
    pub cluster: NodeId,
    pub role: Role,
    /// A manager that must be unlocked before it takes part again.
    #[serde(default)]
    pub locked: bool,
    /// Where others reach it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node_addr: Option<IpAddr>,
}

/// A manager, as every member knows it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct Peer {
    #[serde(rename = "NodeID")]
    pub node: NodeId,
    /// `IP:PORT` where others join.
    pub addr: String,
}

/// The cluster, as its managers know it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct Swarm {
    #[serde(rename = "ID")]
    pub id: NodeId,
    pub created_at: String,
    pub join_tokens: JoinTokens,
    #[serde(rename = "TLSInfo")]
    pub tls: TlsInfo,
    /// Another authority is still trusted.
    #[serde(default)]
    pub root_rotation_in_progress: bool,
    #[serde(default)]
    pub rotation: RotationProgress,
    /// Seconds that a node's certificate is good for.
    pub cert_expiry: u64,
    pub data_path_port: u16,
    /// `IP:PORT` of the manager that was asked: what joins goes there.
    pub join_address: String,
    #[serde(default)]
    pub settings: SwarmSettings,
    /// Seconds that a node may be silent before the others take it for gone.
    #[serde(default)]
    pub lease: u64,
    #[serde(default)]
    pub auto_lock: bool,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct JoinTokens {
    pub worker: String,
    pub manager: String,
}

/// Whom the nodes trust.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct TlsInfo {
    /// The authority's certificate, PEM; that of the next one where it is being replaced.
    pub trust_root: String,
    /// Its subject, DER in base64.
    #[serde(default)]
    pub cert_issuer_subject: String,
    /// Its public key, the same.
    #[serde(default)]
    pub cert_issuer_public_key: String,
}

impl JoinTokens {
    pub fn of(&self, role: Role) -> &str {
        match role {
            Role::Worker => &self.worker,
            Role::Manager => &self.manager,
        }
    }
}

/// A node: Docker's object.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct Node {
    #[serde(rename = "ID")]
    pub id: NodeId,
    pub created_at: String,
    pub spec: NodeSpec,
    pub description: NodeDescription,
    pub status: NodeStatus,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub manager_status: Option<ManagerStatus>,
    /// The node that was asked.
    #[serde(rename = "Self")]
    pub own: bool,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct NodeSpec {
    pub labels: BTreeMap<String, String>,
    pub role: Role,
    pub availability: Availability,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct NodeDescription {
    pub hostname: String,
    #[serde(flatten)]
    pub machine: Machine,
    pub engine: NodeEngine,
}

/// What a node's containers run on; as nothing where it has not been told.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct Machine {
    pub platform: Platform,
    pub resources: Amounts,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct Platform {
    /// As `uname -m` says.
    pub architecture: String,
    #[serde(rename = "OS")]
    pub os: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct NodeEngine {
    pub engine_version: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct NodeStatus {
    /// `ready`, `down`, or `unknown` while a cluster that was begun again waits for its nodes.
    pub state: String,
    /// Where it takes the data plane's packets.
    pub addr: IpAddr,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct ManagerStatus {
    #[serde(default)]
    pub leader: bool,
    /// `reachable`, `unreachable` or `unknown`.
    pub reachability: String,
    /// `IP:PORT` where others join.
    pub addr: String,
}

/// `hawser node update`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", deny_unknown_fields)]
pub struct NodeUpdate {
    #[serde(default)]
    pub role: Option<Role>,
    pub availability: Option<Availability>,
    #[serde(default)]
    pub add_labels: BTreeMap<String, String>,
    #[serde(default)]
    pub remove_labels: BTreeSet<String>,
}
