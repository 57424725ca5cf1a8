//! Following the underlay's MTU.
//!
//! A packet that fits a container's link and not the host's is lost where path MTU discovery is
//! filtered. So links have the MTU of what is below them, also when that changes later, unless an
//! option says otherwise.

use std::collections::BTreeMap;
use std::sync::Arc;

use api::net::LinkBy;
use netlink_packet_route::link::{LinkAttribute, LinkMessage};

use crate::apply;
use crate::model::desired::Desired;
use crate::model::endpoint::Endpoint;
use crate::model::network::{Network, Stage};
use crate::model::observed::Observed;
use crate::model::plan;
use crate::netd::Netd;
use crate::reconcile::Report;
use crate::store::Cursors;

impl Netd {
    /// Gives networks the underlay's MTU, on record, and their endpoints theirs. Bridges follow
    /// their record by the repair.
    pub(crate) fn follow_mtu(&self, observed: &Observed, report: &mut Report) {
        let mut view = Desired::clone(&self.view());
        for network in self.view().networks.values() {
            let due = network.due_mtu(observed, self.config.mtu);
            if let Some(mtu) = due.filter(|_| network.stage == Stage::Committed) {
                self.resize_network(&mut view, network, mtu, report);
            }
        }
        for endpoint in self.view().endpoints.values() {
            let network = view.networks.get(&endpoint.attachment.network_id);
            let mtu = network.and_then(|network| network.driver.mtu());
            if let Some(mtu) = mtu
                && mtu.bytes != endpoint.attachment.mtu
                && endpoint.stage == Stage::Committed
                && endpoint.attachment.link == LinkBy::Hawser
            {
                self.resize_endpoint(&mut view, endpoint, mtu.bytes, report);
            }
        }
        self.publish_view(view);
    }

    fn resize_network(&self, view: &mut Desired, network: &Network, mtu: u32, report: &mut Report) {
        let mut network = network.clone();
        network.driver.follow_mtu(mtu);
        match self.store.put_network(&network) {
            Ok(()) => {
                tracing::info!(network = %network.name, mtu, "the underlay's MTU changed");
                view.networks.insert(network.id.clone(), Arc::new(network));
            }
            Err(error) => report.failures.push(error.to_string()),
        }
    }

    /// Kernel, then record: what is not on record is done again.
    fn resize_endpoint(
        &self,
        view: &mut Desired,
        endpoint: &Endpoint,
        mtu: u32,
        report: &mut Report,
    ) {
        let (changed, failures) = apply::run_all(&*self.kernel, &plan::resize(endpoint, mtu));
        report.repaired += changed;
        if !failures.is_empty() {
            let failures = failures.iter().map(ToString::to_string);
            report.failures.extend(failures);
            return;
        }
        let mut endpoint = endpoint.clone();
        endpoint.attachment.mtu = mtu;
        match self.store.put_endpoint(&endpoint, &Cursors::new()) {
            Ok(()) => {
                view.endpoints.insert(Arc::new(endpoint));
            }
            Err(error) => report.failures.push(error.to_string()),
        }
    }
}

/// The last known MTU of each link, by number.
#[derive(Debug, Default)]
pub(crate) struct Seen(BTreeMap<u32, u32>);

impl Seen {
    pub(crate) fn of(observed: &Observed) -> Self {
        let links = observed.links.values();
        Self(links.map(|link| (link.index, link.mtu)).collect())
    }

    /// Whether a link that is known has another MTU now.
    pub(crate) fn is_changed(&mut self, link: &LinkMessage) -> bool {
        let mtu = link
            .attributes
            .iter()
            .find_map(|attribute| match attribute {
                LinkAttribute::Mtu(mtu) => Some(*mtu),
                _ => None,
            });
        let Some(mtu) = mtu else { return false };
        let before = self.0.insert(link.header.index, mtu);
        before.is_some_and(|before| before != mtu)
    }

    pub(crate) fn forget(&mut self, link: &LinkMessage) {
        self.0.remove(&link.header.index);
    }
}
