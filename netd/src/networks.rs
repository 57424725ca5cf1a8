//! Creating and removing networks.

use std::sync::Arc;

use api::id::{Id, NetworkName};
use api::net::{Ipam, IpamConfig};
use api::net::{NetworkCreate, NetworkCreated, NetworkPrune};

use crate::apply;
use crate::error::NetError;
use crate::model::desired::Desired;
use crate::model::driver::{BRIDGE_NAME, Driver};
use crate::model::ipam::Pool;
use crate::model::network::{self, Network, NetworkError, NewNetwork, Stage};
use crate::model::observed::Observed;
use crate::model::plan;
use crate::netd::{Netd, Writer};
use crate::selection::Selection;

/// When neither the network nor the configuration nor a default route says.
const DEFAULT_MTU: u32 = 1500;

impl Netd {
    /// Creates a network and its bridge.
    ///
    /// # Errors
    /// [`NetError`]; nothing is left of the network then.
    pub fn create_network(&self, request: NetworkCreate) -> Result<NetworkCreated, NetError> {
        let _writer = self.writer();
        if Self::is_shared(&request) {
            return self.create_shared(&request);
        }
        let before = self.view();
        let observed = self.kernel.observe()?;
        let network =
            self.new_network(request, &self.config.address_pools, (&before, &observed))?;
        self.check_new(&network, &before, &observed)?;
        let name = network.name.clone();
        let id = network.id.clone();
        let warning = network.warning(&observed).unwrap_or_default();
        self.add_network(&before, network)?;
        self.follow_host();
        tracing::info!(%name, id = id.short(), "network created");
        Ok(NetworkCreated { id, warning })
    }

    /// Refuses what this host cannot have, now and not at the first attach.
    pub(crate) fn check_new(
        &self,
        network: &Network,
        before: &Desired,
        observed: &Observed,
    ) -> Result<(), NetError> {
        check_bridge(network, before, observed)?;
        self.check_support(network)
    }

    /// Refuses a network that the kernel has no interfaces for, now and not at the first attach.
    fn check_support(&self, network: &Network) -> Result<(), NetError> {
        for kind in network.driver.link_kinds() {
            if !self.kernel.supports(kind)? {
                return Err(NetworkError::Driver(kind.missing()).into());
            }
        }
        Ok(())
    }

    /// Removes a network that no container is on.
    ///
    /// # Errors
    /// [`NetError`]: unknown, pre-defined, or in use by the containers it names. When the kernel
    /// refuses, the removal is on record and every reconcile goes on with it.
    pub fn remove_network(&self, key: &str) -> Result<(), NetError> {
        let mut writer = self.writer();
        let before = self.view();
        let network = before.any_network(key)?;
        if network.driver.overlay().is_some() {
            return self.remove_shared(network);
        }
        if network.is_predefined() {
            return Err(NetworkError::Predefined(network.name.clone()).into());
        }
        self.refuse_service(network)?;
        let users = before.endpoints_of(&network.id);
        network.check_unused(users.map(|endpoint| endpoint.display_name()))?;
        self.drop_network(&mut writer, &before, network)?;
        tracing::info!(name = %network.name, id = network.id.short(), "network removed");
        Ok(())
    }

    /// Refuses to remove a network that a service needs.
    pub(crate) fn refuse_service(&self, network: &Network) -> Result<(), NetworkError> {
        match self.view().services.on(&network.id).next() {
            None => Ok(()),
            Some(service) => Err(NetworkError::HasService {
                name: network.name.clone(),
                service: service.spec.name.clone(),
            }),
        }
    }

    /// Removes every network that no container is on and `which` selects, other than the
    /// pre-defined ones; returns the names of those removed.
    ///
    /// # Errors
    /// [`NetError`] of the first network that stays; those before it are removed.
    pub fn prune_networks(&self, which: &NetworkPrune) -> Result<Vec<String>, NetError> {
        let mut writer = self.writer();
        let selection = Selection::parse(which)?;
        let unused: Vec<Arc<Network>> = {
            let view = self.view();
            let networks = view.networks.values();
            networks
                .filter(|n| !n.is_predefined() && n.driver.overlay().is_none())
                .filter(|n| view.endpoints_of(&n.id).next().is_none())
                .filter(|n| view.services.on(&n.id).next().is_none())
                .filter(|n| selection.selects(n))
                .cloned()
                .collect()
        };
        for network in &unused {
            self.drop_network(&mut writer, &self.view(), network)?;
        }
        let mut removed: Vec<String> = unused.iter().map(|n| n.name.to_string()).collect();
        if self.is_manager() {
            removed.extend(self.prune_shared(&selection)?);
        }
        Ok(removed)
    }

    /// The networks that every host has. Those on record stay as they are.
    pub(crate) fn ensure_predefined(&self) -> Result<(), NetError> {
        for (name, driver) in [("host", Driver::Host), ("none", Driver::Null)] {
            let mut desired = Desired::clone(&self.view());
            if desired.network(name).is_ok() {
                continue;
            }
            let name = NetworkName::parse(name).map_err(NetworkError::Name)?;
            let network = Network::without_links(random_id(), name, now(), driver);
            self.store.put_network(&network)?;
            desired
                .networks
                .insert(network.id.clone(), Arc::new(network));
            self.publish_view(desired);
        }
        let before = self.view();
        if before.network(network::DEFAULT).is_ok() {
            return Ok(());
        }
        let observed = self.kernel.observe()?;
        let network = {
            let (request, pools) = (self.default_network(), &self.config.address_pools);
            self.new_network(request, pools, (&before, &observed))?
        };
        self.add_network(&before, network)
    }

    fn default_network(&self) -> NetworkCreate {
        let link = self.config.default_bridge.to_string();
        let subnet = self.config.default_bridge_subnet;
        NetworkCreate {
            name: network::DEFAULT.to_owned(),
            driver: "bridge".to_owned(),
            enable_ipv4: None,
            enable_ipv6: None,
            ipam: Ipam {
                config: subnet
                    .map(|subnet| IpamConfig {
                        subnet: Some(subnet),
                        ..IpamConfig::default()
                    })
                    .into_iter()
                    .collect(),
                ..Ipam::default()
            },
            internal: false,
            attachable: false,
            options: [(BRIDGE_NAME.to_owned(), link)].into(),
            labels: [].into(),
        }
    }

    pub(crate) fn new_network(
        &self,
        request: NetworkCreate,
        pools: &[Pool],
        (before, observed): (&Desired, &Observed),
    ) -> Result<Network, NetError> {
        let mtu = self.config.mtu.or(observed.underlay_mtu);
        let name = NetworkName::parse(&request.name).map_err(NetworkError::Name)?;
        if before.all_networks().any(|other| other.name == name) {
            return Err(NetworkError::Exists(name).into());
        }
        let shared = Self::is_shared(&request);
        let overlays = before.cluster.values().map(|shared| &shared.network);
        let overlays = overlays.filter_map(|network| network.driver.overlay());
        let vnis = overlays.flat_map(|overlay| overlay.segments().map(|segment| segment.vni));
        let network = Network::create(
            request,
            NewNetwork {
                id: if shared {
                    Id::of_cluster(random())
                } else {
                    random_id()
                },
                created: now(),
                random: random(),
                mtu: mtu.unwrap_or(DEFAULT_MTU),
                links: &observed.links,
                parents: &before.parents().collect::<Vec<_>>(),
                vnis: &vnis.collect(),
                pools,
                taken: &before.taken(observed, &self.config.default_bridge),
            },
        )?;
        Ok(network)
    }

    /// Resolver, record, kernel, record: the first failure undoes what came before it.
    pub(crate) fn add_network(
        &self,
        before: &Desired,
        mut network: Network,
    ) -> Result<(), NetError> {
        let mut after = before.clone();
        // First, because it leaves nothing behind: it needs no bridge.
        if let Some(gateway) = network.first_gateway() {
            self.listen(&mut after, &network.id, gateway)?;
        }
        let done = self.realise(before, &network);
        match &done {
            Ok(()) => network.stage = Stage::Committed,
            Err((_cause, Left::Nothing)) => {
                self.dns.unlisten(&network.id);
                self.store.delete_network(&network.id)?;
            }
            Err((_cause, Left::Parts)) => network.stage = Stage::Removing,
        }
        if !matches!(done, Err((_, Left::Nothing))) {
            after.networks.insert(network.id.clone(), Arc::new(network));
            self.publish_view(after);
        }
        done.map_err(|(cause, _left)| cause)
    }

    fn realise(&self, before: &Desired, network: &Network) -> Result<(), (NetError, Left)> {
        let nothing_left = |error| (NetError::from(error), Left::Nothing);
        self.store.put_network(network).map_err(nothing_left)?;
        let steps = plan::create_network(before, network);
        apply::run(&*self.kernel, &steps).map_err(|failure| {
            let left = if failure.undone {
                Left::Nothing
            } else {
                Left::Parts
            };
            (failure.cause.into(), left)
        })?;
        let mut committed = network.clone();
        committed.stage = Stage::Committed;
        let committed = self.store.put_network(&committed);
        committed.map_err(|error| (error.into(), Left::Parts))
    }

    /// Removes a network that has no endpoints.
    pub(crate) fn drop_network(
        &self,
        writer: &mut Writer,
        before: &Desired,
        network: &Network,
    ) -> Result<(), NetError> {
        let mut removing = network.clone();
        removing.stage = Stage::Removing;
        self.store.put_network(&removing)?;
        let mut after = before.clone();
        after.networks.remove(&network.id);
        after.resolvers.remove(&network.id);
        let steps = plan::remove_network(&after, network);
        let (_changed, failures) = apply::run_all(&*self.kernel, &steps);
        if let Some(error) = failures.into_iter().next() {
            after
                .networks
                .insert(removing.id.clone(), Arc::new(removing));
            self.publish_view(after);
            return Err(error.into());
        }
        self.dns.unlisten(&network.id);
        self.store.delete_cursors(&network.id)?;
        writer.walks.forget(&network.id);
        self.store.delete_network(&network.id)?;
        self.publish_view(after);
        Ok(())
    }
}

/// A bridge belongs to one network, and is never somebody else's interface.
fn check_bridge(
    network: &Network,
    before: &Desired,
    observed: &Observed,
) -> Result<(), NetworkError> {
    for link in network.bridges() {
        let has_it = |other: &&Arc<Network>| other.bridges().any(|bridge| bridge == link);
        if let Some(other) = before.networks.values().find(has_it) {
            return Err(NetworkError::BridgeTaken {
                link: link.clone(),
                network: other.name.clone(),
            });
        }
        if observed.links.contains_key(link) {
            return Err(NetworkError::LinkExists(link.clone()));
        }
    }
    Ok(())
}

/// What a failure has left in the kernel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Left {
    Nothing,
    /// The record says so, and every reconcile goes on with the removal.
    Parts,
}

pub(crate) fn random_id() -> Id {
    Id::from_bytes(random())
}

pub(crate) fn random<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes).expect("the kernel's random numbers are ready since boot");
    bytes
}

/// RFC 3339 with nanoseconds, as Docker writes it.
pub(crate) fn now() -> String {
    format!("{:.9}", jiff::Timestamp::now())
}
