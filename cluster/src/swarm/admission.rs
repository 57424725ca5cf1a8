//! Whom a manager lets in, and as what.

use api::swarm::EtcdAddress;

use super::gate::{Admission, Application};
use super::home::State;
use super::record::{self, Secrets};
use super::{Cluster, SwarmError, members, now};
use crate::authority::{Authority, Subject};
use crate::control_plane::{ControlPlane, Outcome, Transaction};
use crate::key;
use crate::node::{Node, Role};

/// Lets a node in whose token is valid.
pub(super) fn admit(
    control: &dyn ControlPlane,
    own: &State,
    asked: Application,
) -> Result<Admission, SwarmError> {
    let lost = || SwarmError::Lost;
    let (secrets, _): (Secrets, u64) = record::read(control, key::SECRETS)?.ok_or_else(lost)?;
    let (cluster, _): (Cluster, u64) = record::read(control, key::CLUSTER)?.ok_or_else(lost)?;
    let role = secrets.role(&asked.secret).ok_or(SwarmError::Token)?;
    let authority = Authority::from_pem(&cluster.authority, &secrets.key)?;
    let node = Node {
        id: crate::random_node()?,
        hostname: asked.hostname,
        role,
        availability: asked.availability,
        labels: [].into(),
        created: now(),
        manager_address: (role == Role::Manager).then_some(asked.manager_address),
        data_address: asked.data_address,
        data_port: cluster.data_port,
        engine: asked.engine,
    };
    let subject = Subject {
        node: node.id.clone(),
        role,
        cluster: cluster.id.clone(),
        // It has chosen the address, and a worker may not be taken for a manager at it.
        addresses: match role {
            Role::Manager => vec![asked.manager_address.ip()],
            Role::Worker => Vec::new(),
        },
    };
    let certificate = authority.sign(&asked.request, &subject, cluster.cert_expiry)?;
    let added = Transaction::default()
        .when(key::node(&node.id), 0)
        .put(key::node(&node.id), record::write(&node));
    if control.commit(&added)? == Outcome::Refused {
        return Err(SwarmError::Busy(key::node(&node.id)));
    }
    tracing::info!(node = %node.id, hostname = %node.hostname, ?role, "a node has joined");
    Ok(Admission {
        cluster: cluster.id,
        node: node.id,
        role,
        authority: cluster.authority,
        certificate,
        etcd: etcd(control, own)?,
        own_etcd: own.own_etcd,
        data_port: cluster.data_port,
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
