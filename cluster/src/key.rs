//! Where things are in the control plane.
//!
//! ```text
//! networks/NETWORK                    a network of the cluster
//! guard/networks                      put by whatever creates or removes a network, and compared:
//!                                     names, subnets and network numbers stay unique
//! guard/removal/NETWORK               leased: somebody removes it, and nobody claims an address of it
//! claims/NETWORK/ADDRESS              who has an address; stays when its node is silent
//! endpoints/NETWORK/NODE/ENDPOINT     leased: an endpoint that others can reach
//! cluster                             what it is
//! secrets                             for managers alone
//! leader                              leased: the manager that decides
//! managers/NODE                       of the etcd that managers run, where this one's is
//! nodes/NODE                          a member, heard of or not
//! alive/NODE                          leased: it is heard of
//! ```
//! Values are JSON.

use std::net::IpAddr;

use api::id::NodeId;

pub const NETWORKS: &str = "networks/";
pub const GUARD: &str = "guard/networks";
pub const CLAIMS: &str = "claims/";
pub const ENDPOINTS: &str = "endpoints/";
pub const CLUSTER: &str = "cluster";
pub const SECRETS: &str = "secrets";
pub const LEADER: &str = "leader";
pub const MANAGERS: &str = "managers/";
pub const NODES: &str = "nodes/";
pub const ALIVE: &str = "alive/";

pub fn network(id: &str) -> String {
    format!("{NETWORKS}{id}")
}

pub fn removal(network: &str) -> String {
    format!("guard/removal/{network}")
}

/// The claims of one network.
pub fn claims(network: &str) -> String {
    format!("{CLAIMS}{network}/")
}

pub fn claim(network: &str, address: IpAddr) -> String {
    format!("{CLAIMS}{network}/{address}")
}

/// The endpoints of one network.
pub fn endpoints(network: &str) -> String {
    format!("{ENDPOINTS}{network}/")
}

pub fn endpoint(network: &str, node: &NodeId, endpoint: &str) -> String {
    format!("{ENDPOINTS}{network}/{node}/{endpoint}")
}

pub fn node(id: &NodeId) -> String {
    format!("{NODES}{id}")
}

pub fn manager(id: &NodeId) -> String {
    format!("{MANAGERS}{id}")
}

pub fn alive(id: &NodeId) -> String {
    format!("{ALIVE}{id}")
}
