//! This node's part in the networks of a cluster.
//!
//! The control plane has every network, who has which address, and every endpoint that others can
//! reach. A network is in this node's kernel from its first endpoint here until its last.
//!
//! - [`network`]: creating, removing, and extending to this node.
//! - [`claim`]: an address is somebody's before anything is made for it, and until nothing is left.
//! - [`service`]: services of the cluster, of which every node has its part.
//! - [`mesh`]: the way to their members on other nodes.
//! - [`wireguard`]: what this node is known by on networks that are encrypted.
//! - [`follow`]: what others do. Only differences go to the kernel.
//!
//! **Invariant:** without an answer of the control plane, what is there stays as it is.

mod claim;
mod follow;
mod mesh;
mod network;
mod service;
mod wireguard;

pub(crate) use claim::Claimed;
pub(crate) use service::Next;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use api::id::{Id, NodeId};
use cluster::{ControlError, Member};

use crate::error::{NetError, OpenError};
use crate::model::desired::Desired;
use crate::model::driver::Tunnel;
use crate::model::endpoint::Endpoint;
use crate::model::network::{Network, Stage};
use crate::model::overlay;
use crate::netd::Netd;

/// A node in a cluster, from one [`Netd::join`] to the next.
#[derive(Debug)]
pub(crate) struct Membership {
    member: Member,
    /// Another one has taken its place.
    over: AtomicBool,
    /// Whoever follows the control plane has no answer: nobody who keeps others waiting asks it.
    silent: AtomicBool,
    /// The revision that a network's endpoints were read at: older news of them are none.
    read: Mutex<BTreeMap<Id, u64>>,
    /// Endpoints that are gone, which the control plane could not be told.
    gone: Mutex<Vec<Arc<Endpoint>>>,
    /// What it was told last of endpoints here, by its keys. One that could not be is absent.
    told: Mutex<BTreeMap<String, String>>,
    /// Some of it could not.
    untold: AtomicBool,
}

impl Membership {
    fn read(&self) -> MutexGuard<'_, BTreeMap<Id, u64>> {
        self.read.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn gone(&self) -> MutexGuard<'_, Vec<Arc<Endpoint>>> {
        self.gone.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn told(&self) -> MutexGuard<'_, BTreeMap<String, String>> {
        self.told.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Refuses at once while the control plane is known not to answer.
    fn hears(&self) -> Result<(), ControlError> {
        if self.silent.load(Ordering::Relaxed) {
            return Err(ControlError::Unreachable("it has been silent".to_owned()));
        }
        Ok(())
    }

    fn tunnel(&self) -> Option<Tunnel> {
        let port = self.member.data_port;
        let local = self.member.data_address?;
        Some(Tunnel { local, port })
    }

    /// Whose tunnels begin where.
    fn end(&self) -> (&NodeId, Option<Tunnel>) {
        (&self.member.node, self.tunnel())
    }
}

impl Netd {
    /// Takes part in a cluster from now on, in place of the one before. Everything that runs goes on,
    /// whether or not the control plane answers.
    ///
    /// # Errors
    /// [`OpenError::Thread`].
    pub fn join(self: &Arc<Self>, member: Member) -> Result<(), OpenError> {
        let membership = self.enter(member);
        follow::start(self, &membership).map_err(OpenError::Thread)
    }

    /// Joins, and follows nobody.
    pub(crate) fn enter(&self, member: Member) -> Arc<Membership> {
        let membership = Arc::new(Membership {
            member,
            over: AtomicBool::new(false),
            silent: AtomicBool::new(false),
            read: Mutex::default(),
            gone: Mutex::default(),
            told: Mutex::default(),
            untold: AtomicBool::new(false),
        });
        if let Some(before) = self.membership.swap(Some(Arc::clone(&membership))) {
            before.over.store(true, Ordering::Relaxed);
        }
        self.move_tunnels(&membership);
        membership
    }

    /// Lets what is there of the cluster's networks begin at another address of this node.
    fn move_tunnels(&self, membership: &Membership) {
        let (node, tunnel) = membership.end();
        let writer = self.writer();
        let mut view = Desired::clone(&self.view());
        let mut ends = Vec::new();
        for network in self.view().networks.values() {
            let mut moved = Network::clone(network);
            if !moved.retunnel(node, tunnel) {
                continue;
            }
            if let Err(error) = self.store.put_network(&moved) {
                tracing::warn!(network = %network.name, %error, "its tunnels stay where they are");
                continue;
            }
            ends.extend(overlay::remove(network));
            view.networks.insert(moved.id.clone(), Arc::new(moved));
        }
        if view.networks == self.view().networks {
            return;
        }
        self.publish_view(view);
        crate::apply::run_all(&*self.kernel, &ends);
        drop(writer);
        if let Err(error) = self.reconcile() {
            tracing::warn!(%error, "tunnels are not moved yet");
        }
    }

    #[cfg(test)]
    pub(crate) fn control(&self) -> Option<Arc<dyn cluster::ControlPlane>> {
        let membership = self.membership.load_full()?;
        Some(Arc::clone(&membership.member.control))
    }

    pub(crate) fn is_manager(&self) -> bool {
        let membership = self.membership.load();
        membership.as_ref().is_some_and(|m| m.member.manager)
    }

    fn membership_for(&self, subject: &str) -> Result<Arc<Membership>, NetError> {
        let membership = self.membership.load_full();
        let membership = membership.ok_or_else(|| NetError::NoControlPlane(subject.to_owned()))?;
        membership.hears().map_err(about(subject))?;
        Ok(membership)
    }

    /// Endpoints here that the others are to know.
    fn shared_endpoints(&self) -> Vec<(Arc<Network>, Arc<Endpoint>)> {
        let view = self.view();
        let committed = |e: &&Arc<Endpoint>| e.stage == Stage::Committed;
        let endpoints = view.endpoints.values().filter(committed);
        let of_overlays = endpoints.filter_map(|endpoint| {
            let network = view.networks.get(&endpoint.attachment.network_id)?;
            network.driver.overlay()?;
            Some((Arc::clone(network), Arc::clone(endpoint)))
        });
        of_overlays.collect()
    }
}

/// The control plane's refusal to answer, as what it means for a network or a service.
fn about(subject: &str) -> impl Fn(ControlError) -> NetError + use<> {
    let subject = subject.to_owned();
    move |source| NetError::Control {
        subject: subject.clone(),
        source,
    }
}

fn subject(network: &Network) -> String {
    format!("network {}", network.name)
}
