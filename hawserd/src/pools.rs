//! Where the networks of a cluster have their subnets from.

use api::swarm::SwarmSettings;
use ipnet::IpNet;

use crate::swarm::ClusterError;

/// Prefix length of the smallest subnets that networks may have: Docker's.
const LONGEST: u8 = 29;

/// Whether networks can have subnets from the pools of a new cluster.
pub(crate) fn check(settings: &SwarmSettings) -> Result<(), ClusterError> {
    let (pools, size) = (&settings.default_addr_pool, settings.subnet_size);
    let refused = |why: String| Err(ClusterError::Pool(why));
    for (at, pool) in pools.iter().enumerate() {
        let IpNet::V4(v4) = pool else {
            return refused(format!(
                "{pool} is not of IPv4, of which the others are chosen"
            ));
        };
        if v4.trunc() != *v4 {
            return refused(format!("{pool} has host bits, {} has not", v4.trunc()));
        }
        if size < v4.prefix_len() {
            return refused(format!("subnets of /{size} are larger than {pool}"));
        }
        let overlaps = |other: &&IpNet| other.contains(pool) || pool.contains(*other);
        if let Some(other) = pools[..at].iter().find(overlaps) {
            return refused(format!("{other} and {pool} overlap"));
        }
    }
    match pools.is_empty() || size > LONGEST {
        true => refused(format!(
            "subnets of /{size} have no room for containers: take one of up to /{LONGEST}"
        )),
        false => Ok(()),
    }
}
