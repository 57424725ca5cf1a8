//! Detaching sandboxes from networks.

use std::sync::Arc;

use api::id::IfName;
use api::net::AttachRequest;

use crate::apply;
use crate::departure::Departure;
use crate::error::NetError;
use crate::model::desired::Desired;
use crate::model::endpoint::{Endpoint, EndpointKey};
use crate::model::gateway;
use crate::model::network::Stage;
use crate::model::plan;
use crate::netd::{Netd, Writer};
use crate::store::Cursors;

impl Netd {
    /// Disconnects a sandbox. One that is not connected is fine, and so is one that is gone.
    ///
    /// # Errors
    /// [`NetError`] when the kernel refuses; the removal is on record then, and every reconcile
    /// goes on with it.
    pub fn detach(&self, container: &str, ifname: &IfName) -> Result<(), NetError> {
        let mut writer = self.writer();
        let key = EndpointKey::new(container, ifname.as_str());
        let Some(endpoint) = self.view().endpoints.get(&key).cloned() else {
            return Ok(());
        };
        self.disconnect(&mut writer, &endpoint)?;
        tracing::info!(%container, %ifname, network = %endpoint.attachment.network, "detached");
        Ok(())
    }

    /// Goes on with a detach that the kernel refused before.
    pub(crate) fn finish_removal(
        &self,
        writer: &mut Writer,
        request: &AttachRequest,
    ) -> Result<(), NetError> {
        let key = EndpointKey::new(&request.container_id, request.ifname.as_str());
        match self.view().endpoints.get(&key) {
            Some(endpoint) if endpoint.stage == Stage::Removing => {
                self.disconnect(writer, endpoint)
            }
            _ => Ok(()),
        }
    }

    /// Record, names, kernel, record. What the kernel refuses stays on record as being removed.
    ///
    /// Address, names and ports are free when this returns, and nothing comes through the interface
    /// any more. The interface itself goes in the background, unless its sandbox lives on with
    /// another one: then somebody may look.
    pub(crate) fn disconnect(
        &self,
        writer: &mut Writer,
        endpoint: &Endpoint,
    ) -> Result<(), NetError> {
        let key = endpoint.key();
        let mut removing = endpoint.clone();
        removing.stage = Stage::Removing;
        self.store.put_endpoint(&removing, &Cursors::new())?;
        self.dns.remove(&endpoint.attachment.endpoint_id);
        let before = self.view();
        let mut after = Desired::clone(&before);
        after.endpoints.remove(&key);
        self.release_inside(&mut after, endpoint);
        // Before the link goes down, so that nobody takes that for something to repair.
        self.publish_view(after.clone());
        self.republish_changed(&before, &after, endpoint);
        let steps = plan::detach(&before, &after, endpoint, &writer.ports);
        let (_changed, failures) = apply::run_all(&*self.kernel, &steps);
        if let Some(error) = failures.into_iter().next() {
            after.endpoints.insert(Arc::new(removing));
            self.publish_view(after);
            return Err(error.into());
        }
        let departures = Departure::of(endpoint);
        self.store.delete_endpoint(&key, &departures)?;
        self.departures.add(departures);
        if after
            .endpoints
            .in_sandbox(&endpoint.sandbox)
            .next()
            .is_some()
        {
            let attachment = &endpoint.attachment;
            self.departures
                .wait_for(&endpoint.sandbox, &attachment.ifname);
        }
        writer.free(&after, endpoint);
        self.hand_over(writer, &mut after, endpoint);
        self.publish_view(after.clone());
        self.service_changed();
        if let Some(network) = after.networks.get(&endpoint.attachment.network_id) {
            self.withdraw(network, endpoint);
            self.shrink(writer, &network.id)?;
        }
        Ok(())
    }

    /// The sandbox's other endpoints carry its default routes and publish its ports from now on. A
    /// failure leaves it without: it is logged, the detach is done all the same.
    fn hand_over(&self, writer: &mut Writer, after: &mut Desired, gone: &Endpoint) {
        let heirs = gateway::leave(after, gone);
        if heirs.is_empty() || !self.kernel.is_alive(&gone.sandbox) {
            return;
        }
        for heir in heirs {
            let steps = plan::inherit(&heir, &writer.ports);
            let done = apply::run(&*self.kernel, &steps)
                .map_err(|failure| NetError::from(failure.cause))
                .and_then(|()| Ok(self.store.put_endpoint(&heir, &Cursors::new())?));
            if let Err(error) = done {
                tracing::warn!(endpoint = %heir.key(), %error, "no default route");
                continue;
            }
            writer.replace_ports(after, &heir);
            if let Some(network) = after.networks.get(&heir.attachment.network_id) {
                self.publish_names(after, network, &heir);
            }
            after.endpoints.insert(Arc::new(heir));
        }
    }
}
