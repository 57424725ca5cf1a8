//! Which etcd a cluster is kept in.

use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::etcd::{EtcdOptions, EtcdTls};

/// Everything of ours in a store that others may use as well.
const PREFIX: &str = "/hawser/";
/// How long a node may be silent.
const LEASE: Duration = Duration::from_secs(15);

/// An etcd that exists.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EtcdAddress {
    /// `https://HOST:PORT` or `http://HOST:PORT`.
    pub endpoints: Vec<String>,
    /// PEM files of this node, for mutual TLS.
    pub ca: Option<PathBuf>,
    pub certificate: Option<PathBuf>,
    pub key: Option<PathBuf>,
    /// Seconds that a node may be silent before the others take it for gone.
    #[serde(default)]
    pub lease: Option<u64>,
}

impl EtcdAddress {
    pub(super) fn options(&self) -> EtcdOptions {
        let tls = match (&self.ca, &self.certificate, &self.key) {
            (Some(ca), Some(certificate), Some(key)) => Some(EtcdTls {
                ca: ca.clone(),
                certificate: certificate.clone(),
                key: key.clone(),
            }),
            _ => None,
        };
        EtcdOptions {
            endpoints: self.endpoints.clone(),
            prefix: PREFIX.to_owned(),
            tls,
            lease: self.lease.map_or(LEASE, Duration::from_secs),
        }
    }
}
