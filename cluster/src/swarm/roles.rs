//! A member that becomes a manager or a worker, and certificates that are about to end.
//!
//! Managers say in a node's record what it is to be. The node asks one of them for a certificate that
//! says so, and does the rest by itself.

use std::net::SocketAddr;
use std::sync::Arc;

use api::id::NodeId;

use super::gate::{Renewal, Visit};
use super::home::Papers;
use super::lock::UnlockKey;
use super::tls::Trust;
use super::{Active, Kept, Swarm, SwarmError, nodes, record, rights};
use crate::authority::{KeyRequest, Life};
use crate::control_plane::{ControlError, Transaction};
use crate::key;
use crate::node::{Node, Role};

/// What a node has got with another certificate.
pub(super) struct Renewed {
    pub(super) papers: Papers,
    pub(super) role: Role,
    pub(super) unlock: Option<UnlockKey>,
}

impl Swarm {
    /// What is to be done again and again: knows which managers there are, is what it is to be, and has
    /// a certificate. Whether this node has become something else.
    ///
    /// # Errors
    /// [`SwarmError`].
    pub fn attend(&self) -> Result<bool, SwarmError> {
        let Ok(active) = self.member_of() else {
            return Ok(false);
        };
        let own = record::read::<Node>(active.control(), &key::node(&active.state.node))?;
        if let Some((own, _)) = own
            && own.role != active.state.role
        {
            self.turn(own.role)?;
            return Ok(true);
        }
        if active.state.own_etcd {
            active.follow_managers(&self.home)?;
        }
        self.follow_lock(&active)?;
        self.renew_in_time(&active)?;
        // Whatever becomes of that, somebody decides.
        let followed = self.follow_authority(&active);
        self.campaign()?;
        followed.map(|()| false)
    }

    /// This node has another role from now on.
    fn turn(&self, role: Role) -> Result<(), SwarmError> {
        let mut slot = self.active();
        let before = slot.clone().ok_or(SwarmError::None)?;
        let Renewed {
            papers,
            role: given,
            unlock,
        } = self.other_papers(&before)?;
        if given != role {
            return Err(SwarmError::Busy(key::node(&before.state.node)));
        }
        let mut state = before.state.clone();
        state.role = role;
        state.etcd.endpoints.clone_from(&before.endpoints());
        tracing::info!(?role, "this node has another role");
        let kept = Kept {
            control: Some(Arc::clone(&before.control)),
            gate: before.gate.clone(),
        };
        self.home.lock.set(unlock);
        self.home.keep_papers(&papers)?;
        let turned = match role {
            Role::Manager => {
                let turned = match self.server(&state) {
                    Some(server) => self.join_store(state, &papers, server, kept)?,
                    None => self.activate(state, &papers, None, kept)?,
                };
                self.home.keep_state(&turned.state)?;
                turned.vote()?;
                turned.take_office()?;
                turned
            }
            Role::Worker => {
                before.depose(&before.state.node).or_else(is_done)?;
                self.home.keep_state(&state)?;
                if let Some(own) = &before.own {
                    own.unkeep();
                    self.stop_store()?;
                }
                self.activate(state, &papers, None, kept)?
            }
        };
        *slot = Some(turned);
        Ok(())
    }

    /// Asks for another certificate before the last part of this one's life.
    fn renew_in_time(&self, active: &Active) -> Result<(), SwarmError> {
        let life = Life::of(&self.home.papers()?.certificate)?;
        if life.is_late(&active.state.node) {
            self.renew(active)?;
        }
        Ok(())
    }

    /// Gets another certificate, unless this node is to be something else: that comes first, and is next
    /// time.
    pub(super) fn renew(&self, active: &Active) -> Result<bool, SwarmError> {
        let renewed = self.other_papers(active)?;
        if renewed.role != active.state.role {
            return Ok(false);
        }
        let _locking = self.locking();
        self.home.keep_papers(&renewed.papers)?;
        active.show(&self.home, &renewed.papers)?;
        tracing::info!("this node has a new certificate");
        Ok(true)
    }

    /// A certificate of a new key, from the first manager that answers, and for what role it is.
    pub(super) fn other_papers(&self, active: &Active) -> Result<Renewed, SwarmError> {
        let papers = self.home.papers()?;
        let made = KeyRequest::make()?;
        let renewal = Renewal {
            node: active.state.node.clone(),
            request: made.request,
            address: active.state.advertise.ip(),
        };
        let mut last = SwarmError::Lost;
        for door in doors(active)? {
            let asked = self.runtime.block_on(async {
                let visit = Visit::to(door, Trust::Members(&papers)).await?;
                visit.renew(&renewal).await
            });
            match asked {
                Ok(given) => {
                    let papers = Papers {
                        authority: given.authority,
                        certificate: given.certificate,
                        key: made.key,
                    };
                    return Ok(Renewed {
                        papers,
                        role: given.role,
                        unlock: given.unlock,
                    });
                }
                Err(error) => last = error,
            }
        }
        Err(last)
    }

    /// A node is to be a manager, or none.
    ///
    /// # Errors
    /// As [`Self::node`]; [`SwarmError::LastManager`], [`SwarmError::Quorum`].
    pub fn give_role(&self, key: &str, role: Role) -> Result<(), SwarmError> {
        let active = self.manager()?;
        active.change_node(key, |node| {
            if node.role == role {
                return Ok(());
            }
            if role == Role::Worker {
                if active.is_last(&node.id)? {
                    return Err(SwarmError::DemoteLast);
                }
                active.unseat(&node.id, "it cannot be demoted")?;
                node.manager_address = None;
            }
            node.role = role;
            Ok(())
        })?;
        let (node, _) = active.find(key)?;
        let is_own = node.id == active.state.node;
        if role == Role::Worker {
            active.depose(&node.id)?;
        }
        active.grant(&node.id, role)?;
        if role == Role::Worker && !is_own {
            // It may have stood again, and may not step back any more.
            active.depose(&node.id)?;
        }
        Ok(())
    }
}

/// Whoever took the rights away has done what needs them.
fn is_done(error: SwarmError) -> Result<(), SwarmError> {
    match error {
        SwarmError::Control(ControlError::Denied(_)) => Ok(()),
        other => Err(other),
    }
}

/// Where managers take requests.
fn doors(active: &Active) -> Result<Vec<SocketAddr>, SwarmError> {
    let nodes = nodes::list(active.control())?.into_iter();
    let managers = nodes.filter(|(node, _)| node.role == Role::Manager);
    Ok(managers
        .filter_map(|(node, _)| node.manager_address)
        .collect())
}

impl Active {
    /// Others can join by this manager.
    fn take_office(&self) -> Result<(), SwarmError> {
        self.change_node(self.state.node.as_str(), |node| {
            node.manager_address = Some(self.state.advertise);
            Ok(())
        })
    }

    /// Another manager than `node` decides from now on.
    pub(super) fn depose(&self, node: &NodeId) -> Result<(), SwarmError> {
        let mut leader = self.control().snapshot(key::LEADER)?.entries;
        if let Some(entry) = leader.remove(key::LEADER)
            && entry.value == node.as_str()
        {
            let gone = Transaction::default().when(key::LEADER, entry.modified);
            self.control().commit(&gone.delete(key::LEADER))?;
        }
        Ok(())
    }

    /// In the etcd that managers run, a node may do what its role may.
    pub(super) fn grant(&self, node: &NodeId, role: Role) -> Result<(), SwarmError> {
        if self.state.own_etcd {
            rights::grant(&self.control, node, role)?;
        }
        Ok(())
    }

    /// Whether no other node is a manager.
    pub(super) fn is_last(&self, node: &NodeId) -> Result<bool, SwarmError> {
        let nodes = nodes::list(self.control())?;
        let is_other = |(other, _): &(Node, u64)| other.role == Role::Manager && other.id != *node;
        Ok(!nodes.iter().any(is_other))
    }
}
