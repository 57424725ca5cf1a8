//! Which etcd a cluster is kept in.

use std::time::Duration;

use api::swarm::EtcdAddress;

use super::SwarmError;
use super::home::{Home, State};
use crate::authority::unit;
use crate::etcd::{EtcdOptions, EtcdTls};
use crate::node::Role;

/// Everything of ours in a store that others may use as well.
const PREFIX: &str = "/hawser/";
/// How long a node may be silent.
const LEASE: Duration = Duration::from_secs(15);

/// How this node speaks with the etcd of its cluster. The one that managers run knows it by its own
/// certificate.
pub(super) fn options(home: &Home, state: &State) -> Result<EtcdOptions, SwarmError> {
    let address = &state.etcd;
    let tls = if state.own_etcd {
        Some(own_tls(home))
    } else {
        tls(address)?
    };
    Ok(EtcdOptions {
        endpoints: address.endpoints.clone(),
        prefix: PREFIX.to_owned(),
        tls,
        lease: lease(state),
    })
}

/// How long a node of the cluster may be silent.
pub(super) fn lease(state: &State) -> Duration {
    state.etcd.lease.map_or(LEASE, Duration::from_secs)
}

pub(super) fn own_tls(home: &Home) -> EtcdTls {
    let files = home.certificate_files();
    EtcdTls {
        ca: files.ca,
        certificate: files.certificate,
        key: files.key,
        // Wherever it is reached: workers have certificates of the same authority.
        name: Some(unit(Role::Manager).to_owned()),
    }
}

fn tls(address: &EtcdAddress) -> Result<Option<EtcdTls>, SwarmError> {
    Ok(match (&address.ca, &address.certificate, &address.key) {
        (None, None, None) => None,
        (Some(ca), Some(certificate), Some(key)) => Some(EtcdTls {
            ca: ca.clone(),
            certificate: certificate.clone(),
            key: key.clone(),
            name: None,
        }),
        _ => return Err(SwarmError::HalfTls),
    })
}
