//! Whether a network could take another endpoint, and where others reach this host.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use api::id::IfName;
use api::net::Network;

use crate::error::NetError;
use crate::model::address;
use crate::model::endpoint::EndpointError;
use crate::model::plan;
use crate::netd::Netd;

impl Netd {
    /// The network, if an endpoint could be attached to it now.
    ///
    /// # Errors
    /// [`NetError`]: there is no such network, no address is left in it, or it has lost a part
    /// that has not been repaired yet, which concerns the endpoints it has.
    pub fn ready(&self, key: &str) -> Result<Network, NetError> {
        let view = self.view();
        let network = view.network(key)?;
        address::check_room(network, view.holders()).map_err(EndpointError::from)?;
        if let Some(missing) = plan::missing(&view, network, &self.kernel.observe()?) {
            return Err(NetError::Degraded {
                network: network.name.to_string(),
                missing: missing.to_string(),
            });
        }
        Ok(network.to_api(view.containers(&network.id)))
    }

    /// Addresses that others can send to, of links that are up and not ours, by link.
    ///
    /// # Errors
    /// [`NetError::Kernel`].
    pub fn host_addresses(&self) -> Result<BTreeMap<IfName, Vec<IpAddr>>, NetError> {
        let view = self.view();
        let own: BTreeSet<&IfName> = view.bridges().collect();
        let links = self.kernel.observe()?.links;
        let of_others = links
            .into_iter()
            .filter(|(name, link)| link.up && !link.loopback && !own.contains(name));
        let addresses = of_others.map(|(name, link)| {
            let addresses = link.addresses.iter();
            let global = addresses.filter(|address| address.global);
            (name, global.map(|address| address.net.addr()).collect())
        });
        Ok(addresses
            .filter(|(_, addresses): &(_, Vec<IpAddr>)| !addresses.is_empty())
            .collect())
    }
}
