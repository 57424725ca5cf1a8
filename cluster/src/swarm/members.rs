//! The managers as members of the etcd that they run.
//!
//! Whoever joins is told everything before it has a vote, so that its absence costs the others nothing;
//! whoever goes has lost its vote before it is gone.

use std::net::SocketAddr;
use std::thread;
use std::time::{Duration, Instant};

use api::id::NodeId;
use etcd_client::{Member, MemberAddOptions};
use serde::{Deserialize, Serialize};

use super::SwarmError;
use crate::control_plane::{ControlError, ControlPlane};
use crate::etcd::Etcd;
use crate::key;

/// How long others may be busy with another one that joins.
const PATIENCE: Duration = Duration::from_secs(30);
/// How long a member must have been connected, and a second more, for etcd to count on it.
const HEALTHY: Duration = Duration::from_secs(6);
const AGAIN: Duration = Duration::from_millis(300);

/// Where a manager's etcd is: [`key::manager`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Place {
    /// For clients.
    pub(super) client: String,
    /// For other members.
    pub(super) peer: String,
    /// For nodes that join, and for workers.
    #[serde(default)]
    pub(super) door: Option<SocketAddr>,
}

/// Every manager's, by its node.
pub(super) fn places(control: &dyn ControlPlane) -> Result<Vec<(NodeId, Place)>, SwarmError> {
    let entries = control.snapshot(key::MANAGERS)?.entries;
    let parse = |(name, entry): (String, crate::Entry)| {
        let place = serde_json::from_str(&entry.value);
        let place = place.map_err(|source| SwarmError::Record {
            key: name.clone(),
            source,
        })?;
        let node = name.strip_prefix(key::MANAGERS).unwrap_or_default();
        Ok(NodeId::parse(node).ok().map(|node| (node, place)))
    };
    entries
        .into_iter()
        .filter_map(|e| parse(e).transpose())
        .collect()
}

fn list(control: &Etcd) -> Result<Vec<Member>, ControlError> {
    let answer =
        control.ask(|client| async move { client.cluster_client().member_list().await })?;
    Ok(answer.members().to_vec())
}

/// The member that `node` is, at `peer` if it has not begun yet.
fn find(members: &[Member], node: &NodeId, peer: &str) -> Option<Member> {
    let is = |member: &&Member| {
        member.name() == node.as_str()
            || (member.name().is_empty() && member.peer_urls().iter().any(|url| url == peer))
    };
    members.iter().find(is).cloned()
}

/// Makes `node` a member without a vote; what it has to begin with.
pub(super) fn add(
    control: &Etcd,
    node: &NodeId,
    peer: &str,
) -> Result<Vec<(String, String)>, SwarmError> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let members = list(control)?;
        if let Some(member) = find(&members, node, peer) {
            if !member.is_learner() {
                return Err(SwarmError::Etcd {
                    what: "it is a member already, and has lost its data: demote this node"
                        .to_owned(),
                });
            }
            // Of a try that was ended: what it had is gone.
            let id = member.id();
            control.ask(|client| async move { client.cluster_client().member_remove(id).await })?;
            continue;
        }
        let added = control.ask(|client| async move {
            let learner = MemberAddOptions::new().with_is_learner();
            client
                .cluster_client()
                .member_add([peer.to_owned()], Some(learner))
                .await
        });
        match added {
            Ok(added) => return Ok(beginning(added.member_list(), node)),
            Err(error) if Instant::now() > deadline => return Err(error.into()),
            // One at a time joins, and none while a member is away that counts.
            Err(_not_yet) => thread::sleep(AGAIN),
        }
    }
}

fn beginning(members: &[Member], node: &NodeId) -> Vec<(String, String)> {
    let named = |member: &Member| match member.name() {
        "" => node.to_string(),
        name => name.to_owned(),
    };
    let with_urls = |member: &Member| {
        let name = named(member);
        let urls = member.peer_urls().iter();
        urls.map(|url| (name.clone(), url.clone()))
            .collect::<Vec<_>>()
    };
    members.iter().flat_map(with_urls).collect()
}

/// Gives `node` a vote, if it knows everything by now.
pub(super) fn promote(control: &Etcd, node: &NodeId, peer: &str) -> Result<(), SwarmError> {
    let members = list(control)?;
    match find(&members, node, peer) {
        Some(member) if member.is_learner() => {
            let id = member.id();
            control
                .ask(|client| async move { client.cluster_client().member_promote(id).await })?;
            Ok(())
        }
        Some(_) => Ok(()),
        None => Err(SwarmError::Etcd {
            what: "it is no member any more".to_owned(),
        }),
    }
}

/// Takes the vote of `node` away; etcd refuses where the rest would have no quorum.
pub(super) fn remove(
    control: &Etcd,
    (node, peer): (&NodeId, &str),
    what: &str,
    hint: &'static str,
) -> Result<(), SwarmError> {
    let members = list(control)?;
    let Some(member) = find(&members, node, peer) else {
        return Ok(());
    };
    let id = member.id();
    let deadline = Instant::now() + HEALTHY;
    loop {
        let removed =
            control.ask(|client| async move { client.cluster_client().member_remove(id).await });
        match removed {
            Ok(_) => return Ok(()),
            Err(error) if would_cost_quorum(&error) => {
                if Instant::now() > deadline {
                    return Err(SwarmError::Quorum(what.to_owned(), hint));
                }
                thread::sleep(AGAIN);
            }
            Err(error) => return Err(error.into()),
        }
    }
}

/// etcd's words for it, said as long as a member has not been connected for some seconds.
fn would_cost_quorum(error: &ControlError) -> bool {
    let text = error.to_string();
    text.contains("unhealthy cluster") || text.contains("not enough started members")
}
