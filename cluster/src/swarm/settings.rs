//! What managers change of a cluster while it runs.

use std::time::Duration;

use super::{Cluster, Swarm, SwarmError, etcd, record};
use crate::key;

impl Swarm {
    /// Certificates that are given from now on are good for so long.
    ///
    /// # Errors
    /// As [`Self::tokens`].
    pub fn set_cert_expiry(&self, expiry: Duration) -> Result<(), SwarmError> {
        self.change_cluster(|cluster| cluster.cert_expiry = expiry)
    }

    /// So many tasks of a replica are kept from now on.
    ///
    /// # Errors
    /// As [`Self::tokens`].
    pub fn set_task_history(&self, limit: u64) -> Result<(), SwarmError> {
        self.change_cluster(|cluster| cluster.settings.task_history = limit)
    }

    fn change_cluster(&self, edit: impl Fn(&mut Cluster)) -> Result<(), SwarmError> {
        let active = self.manager()?;
        let find = || {
            let (cluster, modified) = active.cluster()?;
            Ok((key::CLUSTER.to_owned(), cluster, modified))
        };
        record::change(active.control(), "the cluster", find, |cluster| {
            edit(cluster);
            Ok(())
        })
    }

    /// How long a node may be silent.
    ///
    /// # Errors
    /// [`SwarmError::None`], [`SwarmError::Locked`].
    pub fn lease(&self) -> Result<Duration, SwarmError> {
        Ok(etcd::lease(&self.member_of()?.state))
    }
}
