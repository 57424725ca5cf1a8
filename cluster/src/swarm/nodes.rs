//! The nodes of a cluster, and what managers change of them.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use api::id::NodeId;
use serde::Deserialize;

use super::{Active, Swarm, SwarmError, TOGETHER, members, record, rights};
use crate::control_plane::{ControlPlane, Entry, Outcome, Transaction};
use crate::key;
use crate::node::{Availability, Node, Role};

/// How long a node may wait for answers of the store that was, before it asks again.
const NOTICES: Duration = Duration::from_secs(10);

/// A node as the cluster sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeState {
    pub node: Node,
    /// It is heard of.
    pub alive: bool,
    /// It is not, and may not have learnt yet that the cluster was begun again.
    pub awaited: bool,
    /// It decides for the cluster.
    pub leader: bool,
    /// The one that was asked.
    pub own: bool,
}

/// What is to be otherwise about a node.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Change {
    pub availability: Option<Availability>,
    pub add_labels: BTreeMap<String, String>,
    pub remove_labels: BTreeSet<String>,
}

impl Swarm {
    /// All nodes, ordered by name and id.
    ///
    /// # Errors
    /// [`SwarmError`]: in no cluster, no manager, or the store does not answer.
    pub fn nodes(&self) -> Result<Vec<NodeState>, SwarmError> {
        let active = self.manager()?;
        let leader = leader(active.control())?;
        active.node_states(leader.as_ref())
    }

    /// The managers, as every member knows them.
    ///
    /// # Errors
    /// [`SwarmError`]: in no cluster, or the store does not answer.
    pub fn managers(&self) -> Result<Vec<Node>, SwarmError> {
        let nodes = list(self.member_of()?.control())?.into_iter();
        let managers = nodes.map(|(node, _)| node);
        Ok(managers.filter(|n| n.manager_address.is_some()).collect())
    }

    /// The node that an id, a name, an unambiguous beginning of an id or `self` means.
    ///
    /// # Errors
    /// As [`Self::nodes`]; [`SwarmError::NoNode`], [`SwarmError::Ambiguous`].
    pub fn node(&self, key: &str) -> Result<NodeState, SwarmError> {
        let (found, _) = self.manager()?.find(key)?;
        let nodes = self.nodes()?;
        let state = nodes.into_iter().find(|state| state.node.id == found.id);
        state.ok_or_else(|| SwarmError::NoNode(key.to_owned()))
    }

    /// # Errors
    /// As [`Self::node`].
    pub fn update_node(&self, key: &str, change: &Change) -> Result<(), SwarmError> {
        self.manager()?.change_node(key, |node| {
            node.availability = change.availability.unwrap_or(node.availability);
            node.labels
                .retain(|label, _| !change.remove_labels.contains(label));
            node.labels.extend(change.add_labels.clone());
            Ok(())
        })
    }

    /// Forgets a node, and frees every address that is claimed for it.
    ///
    /// # Errors
    /// As [`Self::node`]; [`SwarmError::Alive`] without `force`.
    pub fn remove_node(&self, key: &str, force: bool) -> Result<(), SwarmError> {
        let active = self.manager()?;
        let control = active.control();
        let (node, modified) = active.find(key)?;
        if node.role == Role::Manager {
            if !force {
                return Err(SwarmError::IsManager(node.hostname));
            }
            active.unseat(&node.id, "it cannot be removed")?;
        }
        let alive = control.snapshot(&key::alive(&node.id))?;
        if !alive.entries.is_empty() && !force {
            return Err(SwarmError::Alive(node.hostname));
        }
        // Before the node: what is left of it when this is interrupted is freed by the next try.
        free_claims(control, &node.id)?;
        active.forget_reports(&node.id)?;
        let gone = Transaction::default()
            .when(key::node(&node.id), modified)
            .delete(key::node(&node.id))
            .delete(key::alive(&node.id));
        if control.commit(&gone)? == Outcome::Refused {
            return Err(SwarmError::Busy(format!("node {key}")));
        }
        if active.state.own_etcd {
            rights::withdraw(&active.control, node.id.as_str())?;
        }
        Ok(())
    }
}

/// Of a claim, who has the address.
#[derive(Deserialize)]
pub(super) struct Claim {
    pub(super) node: NodeId,
}

fn free_claims(control: &dyn ControlPlane, node: &NodeId) -> Result<(), SwarmError> {
    let claims = control.snapshot(key::CLAIMS)?.entries;
    let is_its = |entry: &Entry| {
        let claim: Result<Claim, _> = serde_json::from_str(&entry.value);
        claim.is_ok_and(|claim| claim.node == *node)
    };
    let its: Vec<_> = claims.into_iter().filter(|(_, e)| is_its(e)).collect();
    for some in its.chunks(TOGETHER) {
        let gone = some
            .iter()
            .fold(Transaction::default(), |all, (key, entry)| {
                all.when(key.as_str(), entry.modified).delete(key.as_str())
            });
        if control.commit(&gone)? == Outcome::Refused {
            return Err(SwarmError::Busy(format!("the addresses of node {node}")));
        }
    }
    Ok(())
}

/// Every node, with the revision that put its record.
pub(super) fn list(control: &dyn ControlPlane) -> Result<Vec<(Node, u64)>, SwarmError> {
    let entries = control.snapshot(key::NODES)?.entries;
    let parse = |(key, entry): (String, Entry)| {
        let node = serde_json::from_str(&entry.value);
        let node = node.map_err(|source| SwarmError::Record { key, source })?;
        Ok((node, entry.modified))
    };
    entries.into_iter().map(parse).collect()
}

impl Active {
    /// All nodes, ordered by name and id.
    pub(super) fn node_states(
        &self,
        leader: Option<&NodeId>,
    ) -> Result<Vec<NodeState>, SwarmError> {
        let control = self.control();
        // Before those that are heard of: whoever is late is not taken for gone.
        let waits = !control.snapshot(key::RETURN)?.entries.is_empty();
        let alive = control.snapshot(key::ALIVE)?.entries;
        let is_alive = |node: &Node| alive.contains_key(&key::alive(&node.id));
        let state = |node: Node| NodeState {
            alive: is_alive(&node),
            awaited: waits && !is_alive(&node),
            leader: leader == Some(&node.id),
            own: node.id == self.state.node,
            node,
        };
        let nodes = list(control)?.into_iter();
        let mut nodes: Vec<NodeState> = nodes.map(|(node, _)| state(node)).collect();
        nodes.sort_by(|a, b| (&a.node.hostname, &a.node.id).cmp(&(&b.node.hostname, &b.node.id)));
        Ok(nodes)
    }

    /// Nobody is taken for gone who has not been heard of yet in a store that has just begun.
    pub(super) fn await_nodes(&self) -> Result<(), SwarmError> {
        let time = self.control.lease() + NOTICES;
        Ok(self.control.put_for(key::RETURN, time)?)
    }

    /// The etcd of a manager is no member any more.
    pub(super) fn unseat(&self, node: &NodeId, what: &str) -> Result<(), SwarmError> {
        let places = members::places(self.control())?;
        let Some((_, place)) = places.into_iter().find(|(id, _)| id == node) else {
            return Ok(());
        };
        members::remove(&self.control, (node, &place.peer), what, "")?;
        self.control()
            .commit(&Transaction::default().delete(key::manager(node)))?;
        Ok(())
    }

    /// Makes `edit` of the record of the node that `key` means.
    pub(super) fn change_node(
        &self,
        key: &str,
        edit: impl Fn(&mut Node) -> Result<(), SwarmError>,
    ) -> Result<(), SwarmError> {
        let find = || {
            let (node, modified) = self.find(key)?;
            Ok((key::node(&node.id), node, modified))
        };
        record::change(self.control(), &format!("node {key}"), find, edit)
    }

    /// By id, name, or unambiguous beginning of an id, in this order; `self` is this node.
    pub(super) fn find(&self, key: &str) -> Result<(Node, u64), SwarmError> {
        let own = self.state.node.as_str();
        let wanted = if key == "self" { own } else { key };
        let nodes = list(self.control())?;
        let ways: [&dyn Fn(&Node) -> bool; 3] = [
            &|node| node.id.as_str() == wanted,
            &|node| node.hostname == wanted,
            &|node| !wanted.is_empty() && node.id.as_str().starts_with(wanted),
        ];
        for is in ways {
            let mut found: Vec<_> = nodes.iter().filter(|(node, _)| is(node)).collect();
            match (found.pop(), found.len()) {
                (None, _) => {}
                (Some(found), 0) => return Ok(found.clone()),
                (Some(_), others) => {
                    return Err(SwarmError::Ambiguous {
                        key: wanted.chars().take(64).collect(),
                        matches: others + 1,
                    });
                }
            }
        }
        Err(SwarmError::NoNode(wanted.chars().take(64).collect()))
    }
}

pub(super) fn leader(control: &dyn ControlPlane) -> Result<Option<NodeId>, SwarmError> {
    let leader = control.snapshot(key::LEADER)?.entries.remove(key::LEADER);
    Ok(leader.and_then(|entry| NodeId::parse(&entry.value).ok()))
}
