//! Where things are in the control plane.
//!
//! ```text
//! networks/NETWORK                    a network of the cluster
//! guard/networks                      put by whatever creates or removes a network, and compared:
//!                                     names, subnets and network numbers stay unique
//! guard/removal/NETWORK               leased: somebody removes it, and nobody claims an address of it
//! claims/NETWORK/ADDRESS              who has an address; stays when its node is silent. Workers let
//!                                     managers write it
//! endpoints/NODE/NETWORK/ENDPOINT     leased: an endpoint that others can reach
//! services/SERVICE                    a service of the cluster
//! logins/SERVICE/HOST                 a login for a registry, for managers; nodes ask for those of what
//!                                     they are to run
//! guard/services                      put by whatever changes a service, and compared: names and
//!                                     published ports stay unique
//! guard/return                        for some time after the cluster was begun again: nodes are waited
//!                                     for, who have yet to learn of it
//! guard/restart                       leased: the manager that starts its etcd again
//! cluster                             what it is
//! secrets                             for managers alone
//! leader                              leased: the manager that decides
//! managers/NODE                       of the etcd that managers run, where this one's is
//! nodes/NODE                          a member, heard of or not
//! alive/NODE                          leased: it is heard of; whom it trusts
//! orders/NODE/TASK                    what a node is to run, by the one that leads; below `none` what
//!                                     no node suits
//! tasks/NODE/TASK                     what has become of it there
//! ```
//! Values are JSON. What a worker writes is below a prefix of its own, by which etcd knows that it may;
//! it reads everything but the secrets, the logins and who leads.

use std::net::IpAddr;

use api::id::NodeId;

pub const NETWORKS: &str = "networks/";
pub const GUARDS: &str = "guard/";
pub const GUARD: &str = "guard/networks";
pub const CLAIMS: &str = "claims/";
pub const ENDPOINTS: &str = "endpoints/";
pub const SERVICES: &str = "services/";
pub const LOGINS: &str = "logins/";
pub const GUARD_SERVICES: &str = "guard/services";
pub const RETURN: &str = "guard/return";
pub const TURN: &str = "guard/restart";
pub const CLUSTER: &str = "cluster";
pub const SECRETS: &str = "secrets";
pub const LEADER: &str = "leader";
pub const MANAGERS: &str = "managers/";
pub const NODES: &str = "nodes/";
pub const ALIVE: &str = "alive/";
pub const ORDERS: &str = "orders/";
pub const TASKS: &str = "tasks/";

/// No node's id.
const NO_NODE: &str = "none";

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

/// The endpoints of one node.
pub fn endpoints(node: &NodeId) -> String {
    format!("{ENDPOINTS}{node}/")
}

pub fn endpoint(node: &NodeId, network: &str, endpoint: &str) -> String {
    format!("{ENDPOINTS}{node}/{network}/{endpoint}")
}

/// Of an endpoint's key, the network.
pub fn network_of(endpoint: &str) -> Option<&str> {
    endpoint.strip_prefix(ENDPOINTS)?.split('/').nth(1)
}

pub fn service(id: &str) -> String {
    format!("{SERVICES}{id}")
}

/// The logins of one service.
pub fn logins(service: &str) -> String {
    format!("{LOGINS}{service}/")
}

/// `host` is a registry's.
pub fn login(service: &str, host: &str) -> String {
    format!("{LOGINS}{service}/{host}")
}

/// Of the prefix of a service's logins, the service.
pub fn service_of(logins: &str) -> Option<&str> {
    logins.strip_prefix(LOGINS)?.split('/').next()
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

/// What one node is to run.
pub fn orders(node: &NodeId) -> String {
    format!("{ORDERS}{node}/")
}

/// For no node yet, without one.
pub fn order(node: Option<&NodeId>, task: &str) -> String {
    let node = node.map_or(NO_NODE, NodeId::as_str);
    format!("{ORDERS}{node}/{task}")
}

pub fn task(node: &NodeId, task: &str) -> String {
    format!("{TASKS}{node}/{task}")
}

/// Of an order's key or a report's, its node and its task.
pub fn node_and_task(key: &str) -> Option<(Option<NodeId>, &str)> {
    let rest = key.strip_prefix(ORDERS).or(key.strip_prefix(TASKS))?;
    let (node, task) = rest.split_once('/')?;
    match node {
        NO_NODE => Some((None, task)),
        node => Some((Some(NodeId::parse(node).ok()?), task)),
    }
}

/// What one node has to say of what runs there.
pub fn tasks(node: &NodeId) -> String {
    format!("{TASKS}{node}/")
}
