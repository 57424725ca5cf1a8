//! Whether a network could take another endpoint.

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
}
