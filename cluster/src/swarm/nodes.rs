//! The nodes of a cluster, and what managers change of them.

use std::collections::{BTreeMap, BTreeSet};

use api::id::NodeId;
use serde::Deserialize;

use super::{Swarm, SwarmError, TOGETHER, TRIES, record};
use crate::control_plane::{ControlPlane, Entry, Outcome, Transaction};
use crate::key;
use crate::node::{Availability, Node};

/// A node as the cluster sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeState {
    pub node: Node,
    /// It is heard of.
    pub alive: bool,
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
        let control = active.control();
        let alive = control.snapshot(key::ALIVE)?.entries;
        let leader = leader(control)?;
        let state = |node: Node| NodeState {
            alive: alive.contains_key(&key::alive(&node.id)),
            leader: leader.as_ref() == Some(&node.id),
            own: node.id == active.state.node,
            node,
        };
        let mut nodes: Vec<NodeState> = list(control)?.into_iter().map(state).collect();
        nodes.sort_by(|a, b| (&a.node.hostname, &a.node.id).cmp(&(&b.node.hostname, &b.node.id)));
        Ok(nodes)
    }

    /// The node that an id, a name, an unambiguous beginning of an id or `self` means.
    ///
    /// # Errors
    /// As [`Self::nodes`]; [`SwarmError::NoNode`], [`SwarmError::Ambiguous`].
    pub fn node(&self, key: &str) -> Result<NodeState, SwarmError> {
        let active = self.manager()?;
        let own = active.state.node.clone();
        let wanted = if key == "self" { own.as_str() } else { key };
        let (found, _) = find(active.control(), wanted)?;
        let nodes = self.nodes()?;
        let state = nodes.into_iter().find(|state| state.node.id == found.id);
        state.ok_or_else(|| SwarmError::NoNode(key.to_owned()))
    }

    /// # Errors
    /// As [`Self::node`].
    pub fn update_node(&self, key: &str, change: &Change) -> Result<(), SwarmError> {
        let active = self.manager()?;
        let control = active.control();
        for _ in 0..TRIES {
            let (mut node, modified) = find(control, key)?;
            node.availability = change.availability.unwrap_or(node.availability);
            node.labels
                .retain(|label, _| !change.remove_labels.contains(label));
            node.labels.extend(change.add_labels.clone());
            let changed = Transaction::default()
                .when(key::node(&node.id), modified)
                .put(key::node(&node.id), record::write(&node));
            if control.commit(&changed)? != Outcome::Refused {
                return Ok(());
            }
        }
        Err(SwarmError::Busy(format!("node {key}")))
    }

    /// Forgets a node, and frees every address that is claimed for it.
    ///
    /// # Errors
    /// As [`Self::node`]; [`SwarmError::Alive`] without `force`.
    pub fn remove_node(&self, key: &str, force: bool) -> Result<(), SwarmError> {
        let active = self.manager()?;
        let control = active.control();
        let (node, modified) = find(control, key)?;
        let alive = control.snapshot(&key::alive(&node.id))?;
        if !alive.entries.is_empty() && !force {
            return Err(SwarmError::Alive(node.hostname));
        }
        // Before the node: what is left of it when this is interrupted is freed by the next try.
        free_claims(control, &node.id)?;
        let gone = Transaction::default()
            .when(key::node(&node.id), modified)
            .delete(key::node(&node.id))
            .delete(key::alive(&node.id));
        if control.commit(&gone)? == Outcome::Refused {
            return Err(SwarmError::Busy(format!("node {key}")));
        }
        Ok(())
    }
}

/// Of a claim, who has the address.
#[derive(Deserialize)]
struct Claim {
    node: NodeId,
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

pub(super) fn list(control: &dyn ControlPlane) -> Result<Vec<Node>, SwarmError> {
    let entries = control.snapshot(key::NODES)?.entries;
    let parse = |(key, entry): (String, Entry)| {
        let node = serde_json::from_str(&entry.value);
        node.map_err(|source| SwarmError::Record { key, source })
    };
    entries.into_iter().map(parse).collect()
}

/// By id, name, or unambiguous beginning of an id, in this order.
pub(super) fn find(control: &dyn ControlPlane, wanted: &str) -> Result<(Node, u64), SwarmError> {
    let nodes = list(control)?;
    let by = |is: &dyn Fn(&Node) -> bool| -> Vec<NodeId> {
        let found = nodes.iter().filter(|node| is(node));
        found.map(|node| node.id.clone()).collect()
    };
    let ways: [&dyn Fn(&Node) -> bool; 3] = [
        &|node| node.id.as_str() == wanted,
        &|node| node.hostname == wanted,
        &|node| !wanted.is_empty() && node.id.as_str().starts_with(wanted),
    ];
    for is in ways {
        match by(is).as_slice() {
            [] => {}
            [id] => {
                let found = record::read(control, &key::node(id))?;
                return found.ok_or_else(|| SwarmError::NoNode(wanted.to_owned()));
            }
            several => {
                return Err(SwarmError::Ambiguous {
                    key: wanted.to_owned(),
                    matches: several.len(),
                });
            }
        }
    }
    Err(SwarmError::NoNode(wanted.chars().take(64).collect()))
}

fn leader(control: &dyn ControlPlane) -> Result<Option<NodeId>, SwarmError> {
    let leader = control.snapshot(key::LEADER)?.entries.remove(key::LEADER);
    Ok(leader.and_then(|entry| NodeId::parse(&entry.value).ok()))
}
