//! Whom a manager lets in, and as what.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use api::id::NodeId;
use api::swarm::EtcdAddress;

use super::gate::{Admission, Application, Gate, Plea, Porter, Renewal, Renewed, Wish};
use super::home::{Papers, State};
use super::lock::{Lock, Stored, UnlockKey};
use super::record::{self, Secrets};
use super::{Cluster, Swarm, SwarmError, clerk, members, now, rights};
use crate::authority::Subject;
use crate::control_plane::{ControlPlane, Entry, Outcome, Transaction};
use crate::etcd::Etcd;
use crate::key;
use crate::node::{Node, Role};

/// A manager, at its door.
pub(super) struct Manager {
    pub(super) control: Arc<Etcd>,
    pub(super) shared: Arc<dyn ControlPlane>,
    pub(super) own: State,
    pub(super) lock: Lock,
}

impl Swarm {
    /// Takes requests, as what this node is; a worker without this has only no output of its tasks for
    /// others.
    pub(super) fn door_of(
        &self,
        state: &State,
        papers: &Papers,
        (control, shared): (&Arc<Etcd>, &Arc<dyn ControlPlane>),
        open: Option<Arc<Gate>>,
    ) -> Result<Option<Arc<Gate>>, SwarmError> {
        let porter: Option<Arc<dyn Porter>> = match state.role {
            Role::Manager => Some(Arc::new(Manager {
                control: Arc::clone(control),
                shared: Arc::clone(shared),
                own: state.clone(),
                lock: self.home.lock.clone(),
            })),
            Role::Worker => None,
        };
        if let Some(gate) = open {
            gate.post(porter);
            gate.show(papers)?;
            return Ok(Some(gate));
        }
        let opened = Gate::open(state.listen, papers, porter, self.speaker(shared));
        match self.runtime.block_on(opened) {
            Err(error) if state.role == Role::Worker => {
                tracing::warn!(%error, "managers cannot read the output of tasks here");
                Ok(None)
            }
            opened => Ok(Some(Arc::new(opened?))),
        }
    }
}

impl Porter for Manager {
    fn admit(&self, asked: Application) -> Result<Admission, SwarmError> {
        let mut admission = admit(self, asked)?;
        admission.unlock = self.unlock_for(admission.role);
        self.grant(&admission.node, admission.role)?;
        Ok(admission)
    }

    fn renew(&self, asked: Renewal) -> Result<Renewed, SwarmError> {
        let mut renewed = renew(self, &asked)?;
        renewed.unlock = self.unlock_for(renewed.role);
        self.grant(&asked.node, renewed.role)?;
        Ok(renewed)
    }

    fn commit(&self, wish: Wish) -> Result<Outcome, SwarmError> {
        clerk::commit(&*self.control, &wish)
    }

    fn logins(&self, plea: Plea) -> Result<BTreeMap<String, Entry>, SwarmError> {
        clerk::logins(&*self.shared, &plea)
    }
}

impl Manager {
    /// What a manager needs after its next restart.
    fn unlock_for(&self, role: Role) -> Option<UnlockKey> {
        self.lock.key().filter(|_| role == Role::Manager)
    }

    fn grant(&self, node: &NodeId, role: Role) -> Result<(), SwarmError> {
        if self.own.own_etcd {
            rights::grant(&self.control, node, role)?;
        }
        Ok(())
    }
}

/// The last is the revision of the cluster's record.
fn records(manager: &Manager) -> Result<(Secrets, Cluster, u64), SwarmError> {
    let (control, lost) = (&*manager.control, || SwarmError::Lost);
    let (stored, _) = record::read::<Stored>(control, key::SECRETS)?.ok_or_else(lost)?;
    let secrets = stored.open(manager.lock.key().as_ref())?;
    let (cluster, known) = record::read(control, key::CLUSTER)?.ok_or_else(lost)?;
    Ok((secrets, cluster, known))
}

/// Who a node is in its certificate. It has chosen the address, and a worker may not be taken for a
/// manager at it.
pub(super) fn subject(cluster: &Cluster, node: &Node, address: IpAddr) -> Subject {
    Subject {
        node: node.id.clone(),
        role: node.role,
        cluster: cluster.id.clone(),
        addresses: match node.role {
            Role::Manager => vec![address],
            Role::Worker => Vec::new(),
        },
    }
}

/// Another certificate for a node that has not been removed, for the role that it is to have.
fn renew(manager: &Manager, asked: &Renewal) -> Result<Renewed, SwarmError> {
    let (secrets, cluster, _) = records(manager)?;
    let control = &*manager.control;
    let node: Option<(Node, u64)> = record::read(control, &key::node(&asked.node))?;
    let (node, _) = node.ok_or_else(|| SwarmError::NoNode(asked.node.to_string()))?;
    let authority = cluster.signer(&secrets)?;
    let subject = subject(&cluster, &node, asked.address);
    let certificate = authority.sign(&asked.request, &subject, cluster.cert_expiry)?;
    tracing::info!(node = %node.id, role = ?node.role, "a node has another certificate");
    Ok(Renewed {
        role: node.role,
        authority: cluster.roots(),
        certificate,
        unlock: None,
    })
}

/// Lets a node in whose token is valid.
fn admit(manager: &Manager, asked: Application) -> Result<Admission, SwarmError> {
    let (secrets, cluster, known) = records(manager)?;
    let (control, own) = (&*manager.control, &manager.own);
    let role = secrets.role(&asked.secret).ok_or(SwarmError::Token)?;
    let authority = cluster.signer(&secrets)?;
    let node = Node {
        id: crate::random_node()?,
        hostname: asked.hostname,
        role,
        availability: asked.availability,
        labels: [].into(),
        created: now(),
        manager_address: (role == Role::Manager).then_some(asked.manager_address),
        door: Some(asked.manager_address),
        data_address: asked.data_address,
        data_port: cluster.data_port,
        engine: asked.engine,
        machine: asked.machine,
    };
    let subject = subject(&cluster, &node, asked.manager_address.ip());
    let certificate = authority.sign(&asked.request, &subject, cluster.cert_expiry)?;
    // Whoever comes is counted by those who rotate the authority, or comes with what that has become.
    let added = Transaction::default()
        .when(key::CLUSTER, known)
        .when(key::node(&node.id), 0)
        .put(key::node(&node.id), record::write(&node));
    if control.commit(&added)? == Outcome::Refused {
        return Err(SwarmError::Busy(key::node(&node.id)));
    }
    tracing::info!(node = %node.id, hostname = %node.hostname, ?role, "a node has joined");
    let roots = cluster.roots();
    Ok(Admission {
        cluster: cluster.id,
        node: node.id,
        role,
        authority: roots,
        certificate,
        etcd: etcd(control, own)?,
        own_etcd: own.own_etcd,
        data_port: cluster.data_port,
        unlock: None,
    })
}

/// Where etcd is by now.
fn etcd(control: &dyn ControlPlane, own: &State) -> Result<EtcdAddress, SwarmError> {
    let mut etcd = own.etcd.clone();
    if own.own_etcd {
        let places = members::places(control)?;
        etcd.endpoints = places.into_iter().map(|(_, place)| place.client).collect();
        etcd.endpoints.sort();
    }
    Ok(etcd)
}
