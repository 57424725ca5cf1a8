//! Start, repair and collection of what is dead.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;

use api::id::Id;
use api::net::LinkBy;
use rpds::RedBlackTreeMapSync;

use crate::apply;
use crate::error::{NetError, OpenError};
use crate::laps::Laps;
use crate::model::desired::Desired;
use crate::model::endpoint::{Endpoint, EndpointKey};
use crate::model::network::{Network, Stage};
use crate::model::peer::{Peer, Peers};
use crate::model::plan;
use crate::model::port::{PortHolder, PortTable};
use crate::model::service::Service;
use crate::netd::{Netd, Writer};

/// What a reconcile did.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Report {
    /// Steps that changed the kernel.
    pub repaired: usize,
    /// Endpoints whose sandbox was gone, as `container/interface`.
    pub collected: Vec<String>,
    /// What could not be done; the next reconcile tries again.
    pub failures: Vec<String>,
}

impl Netd {
    /// Makes the kernel as it should be: removes what is left of sandboxes that are gone, finishes
    /// removals, and repairs what others have changed.
    ///
    /// # Errors
    /// [`NetError::Kernel`] when the kernel cannot even be looked at.
    pub fn reconcile(&self) -> Result<Report, NetError> {
        self.watch_tables();
        self.follow_mode();
        let mut writer = self.writer();
        self.reconcile_locked(&mut writer)
    }

    fn reconcile_locked(&self, writer: &mut Writer) -> Result<Report, NetError> {
        let mut report = Report::default();
        self.collect(writer, &mut report);
        self.dns.complete_mirror();
        let mut observed = self.kernel.observe()?;
        self.follow_mtu(&observed, &mut report);
        let view = self.follow_mesh(&observed);
        observed.lost = self.lost_children(&view)?;
        let steps = plan::repair(&view, &observed);
        let (repaired, failures) = apply::run_all(&*self.kernel, &steps);
        report.repaired += repaired;
        report
            .failures
            .extend(failures.iter().map(ToString::to_string));
        // After the repair: a bridge made anew brings addresses of the host.
        let observed = self.kernel.observe()?;
        report.repaired += self.follow_mesh_anew(&observed);
        self.follow_key(&observed);
        let steps = plan::host(&self.view(), &observed);
        let (changed, failures) = apply::run_all(&*self.kernel, &steps);
        report.repaired += changed;
        report
            .failures
            .extend(failures.iter().map(ToString::to_string));
        if report != Report::default() {
            // What was made anew is called otherwise.
            self.announce_all_members();
            tracing::info!(
                repaired = report.repaired,
                collected = ?report.collected,
                failures = report.failures.len(),
                "reconciled"
            );
        }
        Ok(report)
    }

    /// Endpoints of live sandboxes whose interface is gone, as far as the host cannot see it: it
    /// goes with its parent.
    pub(crate) fn lost_children(&self, view: &Desired) -> Result<BTreeSet<EndpointKey>, NetError> {
        let mut lost = BTreeSet::new();
        for endpoint in view.endpoints.values() {
            let network = view.networks.get(&endpoint.attachment.network_id);
            let is_child = network.is_some_and(|network| network.driver.parent().is_some());
            if !is_child || endpoint.attachment.link == LinkBy::Others {
                continue;
            }
            let path = Path::new(&endpoint.sandbox.path);
            let inside = self.kernel.inspect(path, &endpoint.attachment.ifname)?;
            // It may have another name by now.
            let is_lost = inside.is_some_and(|inside| inside.link.is_none())
                && !self
                    .kernel
                    .has_child(&endpoint.sandbox, &endpoint.attachment.endpoint_id)?;
            if is_lost {
                lost.insert(endpoint.key());
            }
        }
        Ok(lost)
    }

    /// Follows the host's addresses and uplinks.
    pub(crate) fn follow_host(&self) {
        match self.kernel.observe() {
            Ok(observed) => {
                apply::run_all(&*self.kernel, &plan::host(&self.view(), &observed));
            }
            Err(error) => tracing::warn!(%error, "the host's addresses are not followed"),
        }
    }

    /// Adopts the records: the last part of opening.
    pub(crate) fn start(&self, host_cookie: Option<u64>, laps: &mut Laps) -> Result<(), OpenError> {
        let mut writer = self.writer();
        let networks = self.store.networks()?;
        let endpoints = self.store.endpoints()?;
        for ((network, subnet), address) in self.store.cursors()? {
            writer.walks.given(&network, subnet, address);
        }
        self.departures.add(self.store.departures()?);
        let services = self.store.services()?;
        writer.ports = PortTable::of(&endpoints);
        for service in &services {
            let holder = PortHolder::Service(service.id.clone());
            writer.ports.insert(&holder, &service.bindings());
        }
        self.publish_view(Desired {
            networks: by(networks, |network| network.id.clone()),
            endpoints: endpoints.into_iter().collect(),
            services: services.into_iter().collect(),
            peers: by_network(self.store.peers()?),
            cluster: Arc::default(),
            resolvers: [].into(),
            inside: RedBlackTreeMapSync::default(),
            host_cookie,
            front: self.config.front() == Ok(true),
            mesh_end: None,
            key: None,
        });
        laps.end("records");
        self.undo_interrupted(&mut writer);
        laps.end("interrupted");
        self.ensure_predefined()
            .map_err(|error| OpenError::DefaultNetwork(Box::new(error)))?;
        self.serve_names();
        laps.end("names");
        if let Some(data_plane) = &self.data_plane {
            self.dns.mirror_to(Arc::clone(data_plane));
        }
        match self.reconcile_locked(&mut writer) {
            Err(NetError::Kernel(error)) => return Err(error.into()),
            Err(error) => tracing::warn!(%error, "reconcile at start"),
            Ok(_report) => {}
        }
        laps.end("repair");
        Ok(())
    }

    /// What was not committed when the daemon stopped was never acknowledged.
    fn undo_interrupted(&self, writer: &mut Writer) {
        let view = self.view();
        for endpoint in view.endpoints.values() {
            if endpoint.stage == Stage::Pending {
                self.undo_endpoint(writer, endpoint);
            }
        }
        for service in view.services.values() {
            if service.stage != Stage::Committed {
                self.undo_service(writer, service);
            }
        }
        for network in view.networks.values() {
            if network.stage == Stage::Pending {
                self.undo_network(writer, network);
            }
        }
    }

    fn undo_endpoint(&self, writer: &mut Writer, endpoint: &Endpoint) {
        if let Err(error) = self.disconnect(writer, endpoint) {
            tracing::warn!(endpoint = %endpoint.key(), %error, "not removed yet");
        }
    }

    fn undo_service(&self, writer: &mut Writer, service: &Service) {
        if let Err(error) = self.drop_service(writer, service) {
            tracing::warn!(service = %service.spec.name, %error, "not removed yet");
        }
    }

    fn undo_network(&self, writer: &mut Writer, network: &Network) {
        if let Err(error) = self.drop_network(writer, &self.view(), network) {
            tracing::warn!(network = %network.name, %error, "not removed yet");
        }
    }

    /// Listens for every network and in every sandbox, and publishes every name on record.
    fn serve_names(&self) {
        let mut desired = Desired::clone(&self.view());
        for network in self.view().networks.values() {
            let Some(gateway) = network.first_gateway() else {
                continue;
            };
            if let Err(error) = self.listen(&mut desired, &network.id, gateway) {
                tracing::warn!(network = %network.name, %error, "names do not resolve");
            }
        }
        for endpoint in self.view().endpoints.values() {
            if self.kernel.is_alive(&endpoint.sandbox) {
                self.serve_inside(&mut desired, &endpoint.sandbox);
            }
        }
        for endpoint in desired.endpoints.values() {
            if let Some(network) = desired.networks.get(&endpoint.attachment.network_id) {
                self.publish_names(&desired, network, endpoint);
            }
        }
        for service in desired.services.values() {
            self.publish_service(&desired, service);
        }
        for (id, peers) in &desired.peers {
            if let Some(network) = desired.networks.get(id) {
                let peers = peers.iter().map(|(_key, peer)| &**peer);
                self.publish_peers(&desired, network, peers);
            }
        }
        self.publish_view(desired);
    }

    /// Removes endpoints whose namespace is gone, and goes on with removals that failed.
    pub(crate) fn collect(&self, writer: &mut Writer, report: &mut Report) {
        self.departures.retry();
        self.collect_endpoints(writer, report);
        self.shrink_all(writer);
        let view = self.view();
        for service in view.services.values() {
            if service.stage == Stage::Removing
                && let Err(error) = self.drop_service(writer, service)
            {
                report.failures.push(error.to_string());
            }
        }
        for network in view.networks.values() {
            if network.stage == Stage::Removing
                && let Err(error) = self.drop_network(writer, &self.view(), network)
            {
                report.failures.push(error.to_string());
            }
        }
    }

    fn collect_endpoints(&self, writer: &mut Writer, report: &mut Report) {
        let view = self.view();
        for endpoint in view.endpoints.values() {
            let removing = endpoint.stage == Stage::Removing;
            if !removing && self.kernel.is_alive(&endpoint.sandbox) {
                continue;
            }
            match self.disconnect(writer, endpoint) {
                Ok(()) => report.collected.push(endpoint.key().to_string()),
                Err(error) => report.failures.push(error.to_string()),
            }
        }
    }

    /// Frees what endpoints hold whose sandbox is gone; whether there were any.
    pub(crate) fn collect_dead(&self, writer: &mut Writer) -> bool {
        let mut report = Report::default();
        self.collect_endpoints(writer, &mut report);
        if !report.collected.is_empty() {
            tracing::info!(collected = ?report.collected, "cleared away at need");
        }
        !report.collected.is_empty()
    }
}

/// What was heard last, where anything was.
fn by_network(heard: BTreeMap<String, Peer>) -> BTreeMap<Id, Peers> {
    let mut all = BTreeMap::<Id, Peers>::new();
    for (key, peer) in heard {
        let network = cluster::key::network_of(&key).map(str::to_owned);
        if let Some(Ok(network)) = network.map(Id::try_from) {
            all.entry(network).or_default().insert(key, Arc::new(peer));
        }
    }
    all
}

fn by<K: Ord, V>(values: Vec<V>, key: impl Fn(&V) -> K) -> BTreeMap<K, Arc<V>> {
    values
        .into_iter()
        .map(|value| (key(&value), Arc::new(value)))
        .collect()
}
