//! Which etcd a cluster is kept in.

use std::time::Duration;

use api::swarm::EtcdAddress;

use super::SwarmError;
use crate::etcd::{EtcdOptions, EtcdTls};

/// Everything of ours in a store that others may use as well.
const PREFIX: &str = "/hawser/";
/// How long a node may be silent.
const LEASE: Duration = Duration::from_secs(15);

pub(super) fn options(address: &EtcdAddress) -> Result<EtcdOptions, SwarmError> {
    if address.endpoints.is_empty() {
        return Err(SwarmError::NoEtcd);
    }
    let tls = match (&address.ca, &address.certificate, &address.key) {
        (None, None, None) => None,
        (Some(ca), Some(certificate), Some(key)) => Some(EtcdTls {
            ca: ca.clone(),
            certificate: certificate.clone(),
            key: key.clone(),
        }),
        _ => return Err(SwarmError::HalfTls),
    };
    Ok(EtcdOptions {
        endpoints: address.endpoints.clone(),
        prefix: PREFIX.to_owned(),
        tls,
        lease: address.lease.map_or(LEASE, Duration::from_secs),
    })
}
